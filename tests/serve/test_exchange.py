"""One request: no lookup before the name is judged, no dial before the record, no 200 before the connection.

Every scenario ends in `connected`, which holds it to exactly one decision and one closing record a request.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import h11
import pytest
import trio
from netaddr import IPAddress, IPNetwork
from trio.testing import memory_stream_pair

from proxyd.audit.sink import SinkError
from proxyd.net.dialer import DialError
from proxyd.net.resolver import DnsError
from proxyd.net.wire import Wire
from proxyd.policy.address import Resolution
from proxyd.policy.snapshot import Own
from proxyd.policy.verdict import NEED_ADDRESSES, Reason, decide
from proxyd.serve.exchange import ANSWER_SECONDS, HEAD_SECONDS, LINGER_SECONDS, LINGER_SILENCE, SAY_SECONDS, Exchange
from proxyd.serve.kept import Kept
from proxyd.serve.session import serve_connection
from tests.serve.scene import (
    OK,
    PERMIT_LOCAL,
    PUBLIC,
    PUBLIC_6,
    SECRET,
    VIA,
    Answer,
    Peer,
    World,
    connect,
    connected,
    exchange,
    get,
    in_virtual_time,
    policy,
    tcp_streams,
    visit,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.abc import HalfCloseableStream

HEAD: Final = b"\r\n\r\n"
SOON: Final = 20.0
"""Real seconds after which something on real sockets is stuck."""
DENIED = '[[deny]]\nname = "evil"\nreason = "a test"\nhosts = ["evil.example", "*.evil.example"]'
FORMS = pytest.mark.parametrize("form", ["http", "connect", "websocket"])
"""R4: the same judgement for plain requests, tunnels and WebSockets (ATTACKS 4.11)."""


def asking(form: str, host: str = "example.com") -> bytes:
    """A request for `host`, on a port that needs no mention."""
    if form == "connect":
        return connect(f"{host}:443")
    fields = ("Connection: Upgrade", "Upgrade: websocket") if form == "websocket" else ()
    return get(f"http://{host}/", *fields)


async def refused(world: World, request: bytes, address: str | None = "127.0.0.1") -> Answer:
    """The answer to a request that must be refused without a connection to anywhere."""
    async with connected(world, address) as client:
        await client.send(request)
        answer = await client.answer(body=not request.startswith(b"HEAD "))
    assert world.opened == 0
    return answer


async def turned_away(stream: HalfCloseableStream, world: World) -> None:
    """One client too many."""
    exchange = Exchange(Wire(stream, h11.SERVER), visit(), world.seams, Kept())
    await exchange.turn_away(Reason.CONNECTION_LIMIT)


# Before any lookup


@FORMS
@pytest.mark.parametrize("host", ["evil.example", "deep.evil.example", "EVIL.example.", "evil.example."])
@in_virtual_time
async def test_a_denied_name_is_never_resolved_and_never_dialled(form: str, host: str) -> None:
    """R4, ATTACKS 1.1, 1.2, 3.6: a denied name that is looked up has left through DNS."""
    world = World(policy=policy(DENIED))
    answer = await refused(world, asking(form, host))
    assert (answer.status, answer.reason, answer.problem["rule"]) == (403, "name_denied", "evil")
    assert (world.count("resolve"), world.count("dial")) == (0, 0)
    decision, close = world.only()
    assert (decision.verdict, decision.reason, decision.rule, decision.status) == ("deny", "name_denied", "evil", 403)
    assert (decision.addresses, decision.dns_ms, close.outcome) == (None, None, "refused")
    assert decision.id == answer.problem["decision"]


@FORMS
@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("metadata.google.internal", "name_locked"),
        ("printer.local", "name_reserved"),
        ("127.0.0.1", "address_denied"),
        ("[::1]", "address_denied"),
        ("[::ffff:127.0.0.1]", "address_denied"),
        ("169.254.169.254", "address_locked"),
        ("localhost", "name_reserved"),
    ],
)
@in_virtual_time
async def test_what_is_refused_as_it_is_spelt_is_never_resolved_and_never_dialled(
    form: str, host: str, reason: str
) -> None:
    """R5, ATTACKS 2.3, 2.16, 3.6."""
    world = World()
    assert (await refused(world, asking(form, host))).reason == reason
    assert (world.count("resolve"), world.count("dial")) == (0, 0)


@FORMS
@in_virtual_time
async def test_a_name_beside_the_allowlist_is_never_resolved(form: str) -> None:
    """R10, ATTACKS 3.6, 7.5: and without a row, nothing is on the list."""
    world = World(policy=policy(default="deny"))
    assert (await refused(world, asking(form))).reason == "not_allowlisted"
    assert world.count("resolve") == 0


@FORMS
@pytest.mark.parametrize("address", ["10.9.9.9", "::1", None])
@in_virtual_time
async def test_who_is_no_client_of_the_policy_is_refused_without_a_lookup(form: str, address: str | None) -> None:
    """R2: also who has no address at all, because the client left before it was looked at."""
    world = World()
    answer = await refused(world, asking(form), address)
    assert (answer.status, answer.reason) == (403, "client_unknown")
    assert world.count("resolve") == 0
    decision, _ = world.only()
    assert (decision.client, decision.client_address) == (None, address)
    assert (decision.verdict, decision.host) == ("deny", "example.com")


@pytest.mark.parametrize(
    ("request_", "host"),
    [
        (get("http://example.com/"), "example.com"),
        (get("http://127.0.0.1/"), "127.0.0.1"),
        (connect("example.com:443"), "example.com"),
        (connect("example.com:25"), "example.com"),
        (get("http://metadata.google.internal/"), "metadata.google.internal"),
        (get("http://example.com", "Max-Forwards: 0", method="OPTIONS"), "example.com"),
        (get("http://example.com/", "Content-Length: 3", method="POST") + b"abc", "example.com"),
        (get("/origin-form"), None),
        (get("https://example.com/"), None),
        (get("http://user:pass@example.com/"), None),
        (get("http://2130706433/"), None),
        (connect("example.com"), None),
        (connect("example.com:443", "Content-Length: 0"), None),
        (get(method="TRACE"), None),
        (get("http://example.com/", "Expect: a miracle"), None),
        (get("http://example.com/", f"Via: 1.1 {VIA}"), None),
        (get("http://example.com/", "Connection: " + "," * 300), None),
    ],
)
@in_virtual_time
async def test_r2_a_stranger_is_refused_as_one_whatever_the_target_looks_like(
    request_: bytes, host: str | None
) -> None:
    """R2: nor may one who is no client learn from us what is well spelt; the connection is over with the refusal."""
    world = World()
    async with connected(world, "10.9.9.9") as client:
        await client.send(request_ + get("http://smuggled.example/"))
        answer = await client.answer()
        assert (answer.status, answer.reason, answer.fields["connection"]) == (403, "client_unknown", "close")
        await client.closed()
    assert (world.count("resolve"), world.opened) == (0, 0)
    decision, close = world.only()
    assert (decision.verdict, decision.rule, decision.client, decision.host) == ("deny", "client", None, host)
    assert (decision.status, close.outcome) == (403, "refused")


@in_virtual_time
async def test_a_bad_port_is_refused_without_a_lookup() -> None:
    """ATTACKS 4.9."""
    world = World()
    assert (await refused(world, connect("example.com:25"))).reason == "port_denied"
    assert world.count("resolve") == 0


@in_virtual_time
async def test_the_target_says_where_to_and_the_host_field_says_nothing() -> None:
    """ATTACKS 4.1: the origin gets a Host made from the target."""
    world = World()
    async with connected(world) as client:
        head = await exchange(world, client, b"GET http://example.com:8080/a?b HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert head.startswith(b"GET /a?b HTTP/1.1\r\nHost: example.com:8080\r\n")
    assert b"evil" not in head
    assert world.events[0] == "resolve example.com"


# After the lookup


@FORMS
@pytest.mark.parametrize(
    "addresses",
    [
        ("93.184.216.34", "10.0.0.1"),
        ("10.0.0.1", "93.184.216.34"),
        ("93.184.216.34", "::1"),
        ("2606:2800:220:1:248:1893:25c8:1946", "127.0.0.1"),
        ("93.184.216.34", "2002:7f00:1::"),
    ],
)
@in_virtual_time
async def test_one_bad_answer_refuses_all_of_them(form: str, addresses: tuple[str, ...]) -> None:
    """R3, R6, ATTACKS 3.2, 3.3."""
    world = World(answers={"example.com": Resolution(tuple(IPAddress(each) for each in addresses))})
    answer = await refused(world, asking(form))
    assert (answer.status, answer.reason) == (403, "address_denied")
    decision, _ = world.only()
    assert decision.addresses == addresses
    assert decision.refused in addresses
    assert decision.refused not in ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946")


@in_virtual_time
async def test_the_client_never_learns_what_a_refused_name_resolves_to() -> None:
    """ATTACKS 9: the log does, the answer does not."""
    world = World(answers={"example.com": Resolution((IPAddress("10.20.30.40"),), ("inner.corp.example",))})
    async with connected(world) as client:
        await client.send(get("http://example.com/", "Connection: close"))
        answer = await client.rest()
    assert b"10.20.30.40" not in answer
    assert b"inner.corp" not in answer
    assert world.only()[0].refused == "10.20.30.40"


@FORMS
@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (("metadata.google.internal",), "name_locked"),
        (("cdn.example", "db.internal"), "name_reserved"),
        (("x.evil.example", "cdn.example"), "name_denied"),
    ],
)
@in_virtual_time
async def test_every_name_of_a_cname_chain_is_judged(form: str, chain: tuple[str, ...], reason: str) -> None:
    """R6, ATTACKS 3.4: whatever the address is."""
    world = World(policy=policy(DENIED), answers={"example.com": Resolution((PUBLIC,), chain)})
    assert (await refused(world, asking(form))).reason == reason
    assert world.only()[0].refused in chain


@in_virtual_time
async def test_a_name_on_the_allowlist_is_still_judged_by_its_addresses() -> None:
    """R6, ATTACKS 3.11."""
    row = '[[allow]]\nreason = "a test"\nhosts = ["example.com"]\nports = [80]'
    world = World(policy=policy(row, default="deny"), answers={"example.com": Resolution((IPAddress("10.0.0.5"),))})
    assert (await refused(world, get())).reason == "address_denied"


@in_virtual_time
async def test_proxyd_does_not_connect_to_itself() -> None:
    """ATTACKS 2.17: not even where a permit names its listener."""
    row = '[[permit]]\nreason = "a test"\nhost = "me.example"\nports = [3128]\nnetworks = ["10.0.0.0/8"]'
    me = IPAddress("10.0.0.9")
    world = World(
        policy=policy(row),
        own=Own(frozenset({3128}), frozenset({IPNetwork(me)})),
        answers={"me.example": Resolution((me,))},
    )
    assert (await refused(world, get("http://me.example:3128/"))).reason == "address_locked"


@FORMS
@in_virtual_time
async def test_the_dialer_gets_the_very_allow_that_the_judge_made(form: str) -> None:
    """R3, ATTACKS 3.1: with the judged addresses; the name is resolved once and never again."""
    verdicts: list[object] = []

    def judge(*question: Any) -> object:  # noqa: ANN401 - handed through as it is
        verdicts.append(decide(*question))
        return verdicts[-1]

    world = World(judge=judge, answers={"example.com": Resolution((PUBLIC_6, PUBLIC))})
    async with connected(world) as client:
        await client.send(asking(form))
        await world.origin()
    first, second = verdicts
    assert first is NEED_ADDRESSES
    (allow,) = world.dialled
    assert allow is second
    assert allow.addresses == (PUBLIC_6, PUBLIC)
    assert world.count("resolve") == 1


@in_virtual_time
async def test_a_judge_who_asks_for_ever_connects_nobody() -> None:
    """R12: it never does; if it did, that would be no permission."""
    world = World(judge=lambda *_: NEED_ADDRESSES, buggy=True)
    async with connected(world) as client:
        await client.send(get())
        assert (await client.answer()).reason == "internal_error"
        await client.closed()
    assert world.complaints[0].startswith("bug: TypeError in _judge:")
    assert (world.count("dial"), world.only()[0].verdict) == (0, "error")


@in_virtual_time
async def test_a_literal_needs_no_lookup_and_is_on_record_as_an_address() -> None:
    world = World()
    async with connected(world) as client:
        await exchange(world, client, get("http://93.184.216.34/"))
    assert world.events[:2] == ["record decision", "dial 93.184.216.34:80"]
    assert world.only()[0].addresses == ("93.184.216.34",)


# The record before the dial


@FORMS
@in_virtual_time
async def test_the_decision_is_on_record_before_dial_is_called(form: str) -> None:
    """R7, R12: no audit, no connection."""
    world = World()
    async with connected(world) as client:
        await client.send(asking(form))
        await world.origin()
        assert world.events[:2] == ["resolve example.com", "record decision"]
        assert world.events[2].startswith("dial example.com:")
        ((decision, *more),) = [world.records]
        assert not more
        assert (decision.event, decision.verdict, decision.addresses) == ("decision", "allow", (str(PUBLIC),))


@FORMS
@in_virtual_time
async def test_without_a_record_nothing_is_dialled_and_the_client_is_told(form: str) -> None:
    """R12: fail closed."""
    world = World(sink_error=SinkError("No space left on device"))
    answer = await refused(world, asking(form))
    assert (answer.status, answer.reason) == (503, "audit_unwritable")
    assert world.count("dial") == 0
    assert world.complaints[0] == "audit log: a decision record could not be written: No space left on device"


@FORMS
@in_virtual_time
async def test_where_the_policy_prefers_availability_it_is_dialled_without_a_record(form: str) -> None:
    """R12: only in so many words."""
    world = World(
        policy=policy("[audit]\ndangerously_prefer_availability = true"), sink_error=SinkError("No space left")
    )
    async with connected(world) as client:
        await client.send(asking(form))
        await world.origin()
    assert world.opened == 1
    assert "audit log: a decision record could not be written: No space left" in world.complaints


@in_virtual_time
async def test_a_refusal_is_given_also_where_it_cannot_be_recorded() -> None:
    """R12: nothing is connected to."""
    world = World(sink_error=SinkError("No space left"))
    assert (await refused(world, get("http://127.0.0.1/"))).reason == "address_denied"


@in_virtual_time
async def test_a_decision_that_could_not_be_written_in_time_is_on_record_late_if_the_log_recovers() -> None:
    """R7: no closing record without a decision; nothing was dialled, and the late decision says so."""
    world = World(sink_error=SinkError("No space left"))
    async with connected(world) as client:
        await client.send(get("http://example.com/", "Content-Length: 9", method="POST"))
        assert (await client.answer()).reason == "audit_unwritable"
        world.sink_error = None  # while the client is heard out
        await client.over.wait()
    assert world.opened == 0
    decision, close = world.records
    assert (decision.event, decision.verdict, decision.reason) == ("decision", "error", "audit_unwritable")
    assert (close.event, close.id, close.outcome) == ("close", decision.id, "refused")


@in_virtual_time
async def test_a_tunnel_that_availability_opened_has_its_decision_late_before_its_end() -> None:
    """R7, R12: the disk had room again while it ran."""
    prefers = policy("[audit]\ndangerously_prefer_availability = true")
    world = World(policy=prefers, sink_error=SinkError("No space left"))
    async with connected(world) as client:
        await client.send(connect())
        origin = await world.origin()
        await client.until(b"\r\n\r\n")
        world.sink_error = None
        await client.end()
        await origin.end()
        await client.over.wait()
    decision, close = world.records
    assert (decision.event, decision.verdict, decision.rule) == ("decision", "allow", "default")
    assert (close.event, close.id, close.outcome) == ("close", decision.id, "closed")


# DNS and dialling that fail: errors, not denials


@FORMS
@pytest.mark.parametrize(
    ("reason", "status", "error"), [(Reason.DNS_ERROR, 502, "dns_error"), (Reason.DNS_TIMEOUT, 504, "dns_timeout")]
)
@in_virtual_time
async def test_a_failed_lookup_is_an_error_and_no_denial(form: str, reason: Reason, status: int, error: str) -> None:
    """R12, ATTACKS 3.5: and nobody connects by another way."""
    world = World(answers={"example.com": DnsError("no", reason)}, dns_seconds=0.25)
    answer = await refused(world, asking(form))
    assert (answer.status, answer.reason) == (status, reason)
    assert f"proxyd; error={error};" in answer.fields["proxy-status"]
    decision, _ = world.only()
    assert (decision.verdict, decision.reason, decision.dns_ms) == ("error", reason, 250.0)


@FORMS
@pytest.mark.parametrize(
    ("reason", "status", "error"),
    [
        (Reason.CONNECT_REFUSED, 502, "connection_refused"),
        (Reason.CONNECT_UNREACHABLE, 502, "destination_ip_unroutable"),
        (Reason.CONNECT_TIMEOUT, 504, "connection_timeout"),
        (Reason.OUT_OF_RESOURCES, 503, "proxy_internal_error"),
        (Reason.ORIGIN_CLOSED, 502, "connection_terminated"),
    ],
)
@in_virtual_time
async def test_a_failed_dial_is_an_error_and_no_denial(form: str, reason: Reason, status: int, error: str) -> None:
    """R11: the decision stays "allow"; the closing record says what came of it."""
    world = World(dial_error=DialError(reason))
    answer = await refused(world, asking(form))
    assert (answer.status, answer.reason) == (status, reason)
    assert f"proxyd; error={error};" in answer.fields["proxy-status"]
    decision, close = world.only()
    assert (decision.verdict, decision.status) == ("allow", None)
    assert (close.verdict, close.reason, close.status, close.outcome) == ("error", reason, status, "refused")


@pytest.mark.parametrize("form", ["http", "websocket"])
@in_virtual_time
async def test_a_connection_survives_a_destination_that_could_not_be_reached(form: str) -> None:
    """R11."""
    world = World(dial_error=DialError(Reason.CONNECT_REFUSED))
    async with connected(world) as client:
        await client.send(asking(form))
        assert (await client.answer()).status == 502
        world.dial_error = None
        await exchange(world, client)
        assert (await client.answer()).status == 200


# Time


@FORMS
@in_virtual_time
async def test_a_lookup_that_takes_too_long_is_answered_after_exactly_4500_ms(form: str) -> None:
    """CLIENT.md: the client gives up at 5 s and must have an answer by then."""
    world = World(dns_seconds=60.0)
    async with connected(world) as client:
        await client.send(asking(form))
        answer = await client.answer()
        assert trio.current_time() == ANSWER_SECONDS == 4.5
    assert (answer.status, answer.reason) == (504, "dns_timeout")
    decision, close = world.only()
    assert (decision.verdict, decision.dns_ms, close.duration_ms) == ("error", 4500.0, 4500.0)
    assert world.count("dial") == 0


@FORMS
@in_virtual_time
async def test_a_lookup_and_a_dial_together_take_exactly_4500_ms_at_most(form: str) -> None:
    """CLIENT.md: what the lookup took is not there for the dial."""
    world = World(dns_seconds=2.0, dial_seconds=60.0)
    async with connected(world) as client:
        await client.send(asking(form))
        answer = await client.answer()
        assert trio.current_time() == 4.5
    assert (answer.status, answer.reason) == (504, "connect_timeout")
    decision, close = world.only()
    assert (decision.verdict, close.verdict, close.reason) == ("allow", "error", "connect_timeout")
    assert (close.dns_ms, close.connect_ms) == (2000.0, None)


@in_virtual_time
async def test_what_is_done_in_just_under_4500_ms_is_in_time() -> None:
    """The neighbour of the two above; and the durations are on record."""
    world = World(dns_seconds=2.0, dial_seconds=2.25)
    async with connected(world) as client:
        await client.send(connect())
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 200 Connection Established\r\n\r\n"
        assert trio.current_time() == 4.25
    _, close = world.only()
    assert (close.dns_ms, close.connect_ms, close.address) == (2000.0, 2250.0, str(PUBLIC))


@in_virtual_time
async def test_the_4500_ms_begin_when_the_head_is_complete() -> None:
    """Before, it was the client's time; and each request has its own."""
    world = World(dns_seconds=60.0)
    async with connected(world) as client:
        for began in (10.0, 20.0):
            await trio.sleep_until(began - 5.0)
            await client.send(get()[:-1])
            await trio.sleep_until(began)
            await client.send(b"\n")
            assert (await client.answer()).status == 504
            assert trio.current_time() == began + 4.5
    assert [close.duration_ms for _, close in world.trail()] == [4500.0, 4500.0]


@in_virtual_time
async def test_a_head_that_takes_too_long_is_refused_after_exactly_15_s_and_the_connection_closed() -> None:
    """ATTACKS 8 (Slowloris): counted from its first byte, however often another one comes."""
    world = World()
    async with connected(world) as client:
        await trio.sleep(30.0)
        await client.send(b"GET http://example.com/ HTTP/1.1\r\n")
        await trio.sleep(14.0)
        await client.send(b"X: y\r\n")
        answer = await client.answer()
        assert trio.current_time() == 30.0 + HEAD_SECONDS == 45.0
        await client.closed()
    assert (answer.status, answer.reason, answer.fields["connection"]) == (408, "head_timeout", "close")
    decision, _ = world.only()
    assert (decision.verdict, decision.host, decision.method) == ("error", None, None)


@pytest.mark.parametrize("empty", [b"\r\n\r\n", b"\r\n\r\nGET http://example.com/ HTTP/1.1\r\n"])
@in_virtual_time
async def test_attack_8_a_head_that_begins_with_empty_lines_has_no_more_time_than_others(empty: bytes) -> None:
    """Two of them in one piece were once taken for the end of a head, and waited for without end."""
    world = World()
    async with connected(world) as client:
        await client.send(empty)
        assert (await client.answer()).reason == "head_timeout"
        assert trio.current_time() == HEAD_SECONDS
        await client.closed()


@in_virtual_time
async def test_a_head_that_is_complete_after_just_under_15_s_is_served() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get()[:-1])
        await trio.sleep(14.875)
        await exchange(world, client, b"\n")
        assert (await client.answer()).status == 200


# CONNECT


@in_virtual_time
async def test_the_200_of_a_connect_comes_only_after_the_dial() -> None:
    """ATTACKS 4.14: a client that is told too early sends its secrets to nobody."""
    world = World(dial_seconds=3.0)
    async with connected(world) as client:
        await client.send(connect())
        await client.silent(2.9)
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 200 Connection Established\r\n\r\n"
        assert trio.current_time() == 3.0


@in_virtual_time
async def test_bytes_that_came_with_a_connect_reach_the_origin_only_after_the_200() -> None:
    """ATTACKS 4.10: and come first, whole and in order."""
    world = World(dial_seconds=1.0)
    async with connected(world) as client:
        await client.send(connect() + b"early ", b"bird ")
        await client.silent(0.5)
        assert world.opened == 0
        origin = await world.origin()
        await client.until(b"\r\n\r\n")
        await client.send(b"late")
        assert await origin.exactly(15) == b"early bird late"
        await origin.send(b"answer")
        assert await client.exactly(6) == b"answer"


@in_virtual_time
async def test_a_tunnel_that_ends_is_on_record_with_its_bytes() -> None:
    """R7: payload counted both ways, early bytes included."""
    world = World()
    async with connected(world) as client:
        await client.send(connect() + b"abc")
        origin = await world.origin()
        await client.until(b"\r\n\r\n")
        await origin.send(b"12345")
        await client.end()
        assert await origin.rest() == b"abc"
        await origin.end()
        assert await client.rest() == b"12345"
    decision, close = world.only()
    assert (decision.scheme, decision.method, decision.host, decision.port) == (
        "connect",
        "CONNECT",
        "example.com",
        443,
    )
    assert (close.outcome, close.bytes_up, close.bytes_down, close.status) == ("closed", 3, 5, 200)


@in_virtual_time
async def test_a_tunnel_is_let_go_after_exactly_the_policys_idle_seconds() -> None:
    """ATTACKS 8 (half-open tunnels)."""
    world = World(policy=policy("[limits]\nidle_seconds = 7"))
    async with connected(world) as client:
        await client.send(connect())
        origin = await world.origin()
        await client.until(b"\r\n\r\n")
        await trio.sleep(5.0)
        await origin.send(b"still here")
        await client.exactly(10)
        assert await client.rest() == b""
        assert trio.current_time() == 5.0 + 7.0
        await origin.closed()
    assert world.only()[1].outcome == "idle"


@in_virtual_time
async def test_a_tunnel_whose_origin_breaks_off_is_on_record_as_reset() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(connect())
        origin = await world.origin()
        await client.until(b"\r\n\r\n")
        await origin.leave()
        await client.send(b"to nobody")
        await client.closed()
    assert world.only()[1].outcome == "reset"


@in_virtual_time
async def test_a_client_that_leaves_before_its_200_takes_the_origin_connection_with_it() -> None:
    """ATTACKS 8."""
    world = World(dial_seconds=1.0)
    async with connected(world) as client:
        await client.send(connect())
        await client.leave()
        origin = await world.origin()
        await origin.closed()
    assert world.only()[1].outcome == "client_gone"


@pytest.mark.parametrize("host", [(), ("Host: whatever",)])
@in_virtual_time
async def test_a_connect_of_http_1_0_needs_no_host(host: tuple[str, ...]) -> None:
    """CLIENT.md: children of the client speak it."""
    world = World()
    async with connected(world) as client:
        await client.send("\r\n".join(("CONNECT example.com:443 HTTP/1.0", *host, "", "")).encode())
        origin = await world.origin()
        assert (await client.until(b"\r\n\r\n")).split()[1] == b"200"
        await client.send(b"hello")
        assert await origin.exactly(5) == b"hello"


@in_virtual_time
async def test_a_connect_is_tunnelled_although_it_says_close() -> None:
    """CLIENT.md: undici does."""
    world = World()
    async with connected(world) as client:
        await client.send(connect("example.com:443", "Connection: close", "Proxy-Connection: keep-alive"))
        origin = await world.origin()
        assert (await client.until(b"\r\n\r\n")).split()[1] == b"200"
        await origin.send(b"hello")
        assert await client.exactly(5) == b"hello"


@pytest.mark.parametrize(
    ("authority", "reason"),
    [
        ("127.0.0.1:443", "address_denied"),
        ("localhost:443", "name_reserved"),
        ("example.com:25", "port_denied"),
        ("nowhere.example:443", "dns_error"),
        ("rebind.example:443", "address_denied"),
        ("example.com:443", "connect_refused"),
    ],
)
@in_virtual_time
async def test_attack_4_10_a_refused_connect_always_closes_the_connection(authority: str, reason: str) -> None:
    """What a hasty client sent into the tunnel must not be read as its next request, whenever it arrives."""
    smuggled = get("http://smuggled.example/")
    for segments in ([connect(authority)], [connect(authority) + smuggled], [connect(authority), smuggled]):
        world = World(
            answers={
                "nowhere.example": DnsError("no", Reason.DNS_ERROR),
                "rebind.example": Resolution((PUBLIC, IPAddress("10.0.0.1"))),
            },
            dial_error=DialError(Reason.CONNECT_REFUSED),
        )
        async with connected(world) as client:
            await client.send(*segments)
            answer = await client.answer()
            assert (answer.reason, answer.fields["connection"]) == (reason, "close")
            await client.closed()
        world.only()
        assert world.count("resolve smuggled") == 0


@in_virtual_time
async def test_attack_4_10_nor_does_a_connect_that_took_too_long_keep_the_connection() -> None:
    """What was sent meanwhile was meant for the tunnel."""
    world = World(dns_seconds=60.0)
    async with connected(world) as client:
        await client.send(connect())
        await trio.sleep(1.0)
        await client.send(get("http://smuggled.example/"))
        answer = await client.answer()
        assert (answer.reason, answer.fields["connection"]) == ("dns_timeout", "close")
        await client.closed()
    world.only()


@in_virtual_time
async def test_a_refused_connect_of_http_1_0_closes_the_connection() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(connect("127.0.0.1:443", version="1.0"))
        assert (await client.answer()).fields["connection"] == "close"
        await client.closed()


# What cannot be read


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (b"GET http://example.com/ HTTP/1.1\nHost: x\n\n", 400, "malformed_request"),
        (b"GET http://example.com/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "malformed_request"),
        (b"GET http://example.com/ HTTP/1.1\r\n\r\n", 400, "malformed_request"),
        (get("http://example.com/", "Content-Length: 5", "Transfer-Encoding: chunked"), 400, "malformed_request"),
        (get("http://example.com/", "Transfer-Encoding: gzip, chunked"), 501, "coding_unsupported"),
        (get("/origin-form"), 400, "malformed_target"),
        (get("https://example.com/"), 400, "malformed_target"),
        (get("ftp://example.com/"), 400, "malformed_target"),
        (get("http://user:pass@example.com/"), 400, "malformed_target"),
        (get("http://2130706433/"), 400, "malformed_target"),
        (get("http://[::1%25lo]/"), 400, "malformed_target"),
        (connect("example.com:65558"), 400, "malformed_target"),
        (connect("example.com"), 400, "malformed_target"),
        (connect("example.com:443", "Content-Length: 0"), 400, "malformed_request"),
        (get(method="TRACE"), 405, "method_refused"),
        (get("http://example.com/", "Expect: a miracle"), 417, "expectation_failed"),
        (get("http://example.com/", "X: " + "y" * 40_000), 431, "head_too_large"),
        (get("http://example.com/", "Connection: " + "," * 256), 431, "head_too_large"),
        (get("http://example.com/", "Upgrade: " + "," * 256), 431, "head_too_large"),
        (get("http://example.com/", "Expect: " + "," * 256), 431, "head_too_large"),
        (connect("example.com:443", "Via: " + "," * 256), 431, "head_too_large"),
        (get("http://example.com/", "Content_Length: 5"), 400, "malformed_request"),
        (connect("example.com:443", "Transfer.Encoding: chunked"), 400, "malformed_request"),
        (get("http://example.com/", "Transfer-Encoding: chunked", version="1.0"), 400, "malformed_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed_request"),
    ],
)
@in_virtual_time
async def test_after_a_request_that_cannot_be_read_the_connection_closes(
    request_: bytes, status: int, reason: str
) -> None:
    """ATTACKS 1, 2, 4.5-4.7, 5: nothing behind it is read as a request, and nothing of it is looked up."""
    world = World()
    async with connected(world) as client:
        await client.send(request_ + get("http://smuggled.example/"))
        answer = await client.answer()
        assert (answer.status, answer.reason, answer.fields["connection"]) == (status, reason, "close")
        await client.closed()
    assert (world.count("resolve"), world.opened) == (0, 0)
    decision, close = world.only()
    assert (decision.verdict, decision.host, decision.status, close.outcome) == ("error", None, status, "refused")


@in_virtual_time
async def test_a_client_that_ends_its_side_within_a_head_is_told_so() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(b"GET http://exa")
        await client.end()
        assert (await client.answer()).reason == "malformed_request"
        await client.closed()


@in_virtual_time
async def test_a_client_that_is_gone_before_its_refusal_is_on_record_all_the_same() -> None:
    """R7: what was refused, and that nobody was there to hear it."""
    world = World(dns_seconds=1.0, answers={"example.com": Resolution((IPAddress("10.0.0.1"),))})
    async with connected(world) as client:
        await client.send(get())
        await client.leave()
        await client.over.wait()
        assert client.ended == 1.0
    decision, close = world.only()
    assert (decision.verdict, decision.reason, close.outcome) == ("deny", "address_denied", "client_gone")


@in_virtual_time
async def test_a_client_that_breaks_off_within_its_head_is_on_record_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """R7: with a decision that is no denial."""

    def breaking() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()
        reads = iter((None, trio.BrokenResourceError()))

        async def reset() -> None:
            await trio.lowlevel.checkpoint()
            if (broken := next(reads)) is not None:
                raise broken

        theirs.receive_stream.receive_some_hook = reset
        return ours, theirs

    monkeypatch.setattr("tests.serve.scene.memory_stream_pair", breaking)
    world = World()
    async with connected(world) as client:
        await client.send(b"GET http")
        await client.closed()
    decision, close = world.only()
    assert (decision.verdict, decision.reason, decision.status, close.outcome) == (
        "error",
        "aborted",
        None,
        "client_gone",
    )


@pytest.mark.parametrize("request_", [get("http://127.0.0.1/", method="HEAD"), get("ftp://x/", method="HEAD")])
@in_virtual_time
async def test_the_refusal_of_a_head_has_no_body(request_: bytes) -> None:
    """RFC 9110 §9.3.2: its Content-Length is that of the body a GET would have had; nothing follows it."""
    world = World()
    async with connected(world) as client:
        await client.send(request_)
        answer = await client.answer(body=False)
        assert answer.status in (400, 403)
        assert int(answer.fields["content-length"]) > 0
        if "connection" in answer.fields:
            await client.closed()
        else:
            await client.silent()


@in_virtual_time
async def test_a_refused_head_leaves_the_connection_usable() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get("http://127.0.0.1/", method="HEAD"))
        await client.answer(body=False)
        await exchange(world, client)
        assert (await client.answer()).body == b"hi"


@in_virtual_time
async def test_a_refused_request_with_a_complete_body_leaves_the_connection_usable_only_if_it_has_none() -> None:
    """The body behind a refused head is not read as a request: the connection closes."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://127.0.0.1/", "Content-Length: 100", method="POST") + get())
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (403, "close")
        await client.closed()
    world.only()


# The end of a connection after a refusal


@in_virtual_time
async def test_after_a_refusal_that_ends_the_connection_the_client_is_heard_out_until_a_second_of_silence() -> None:
    """openclaw#123527, ATTACKS 8: no reset overtakes the answer."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://127.0.0.1/", "Content-Length: 1000", method="POST"))
        await client.answer()
        await client.closed()
        assert trio.current_time() == 0.0
        await trio.sleep(0.75)
        await client.send(b"still writing")
        await client.over.wait()
        assert client.ended == 0.75 + LINGER_SILENCE == 1.75


@in_virtual_time
async def test_a_client_that_is_done_is_let_go_at_once() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get("http://127.0.0.1/", "Content-Length: 1000", method="POST"))
        await client.end()
        await client.over.wait()
        assert client.ended == 0.0


@in_virtual_time
async def test_a_client_that_uploads_on_after_its_refusal_is_heard_out_to_its_end() -> None:
    """ATTACKS 8: a bound of octets let go of it amid a long upload, and the reset took the refusal with it."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://127.0.0.1/", "Content-Length: 10000000", method="POST"))
        for _ in range(10):
            await client.send(b"x" * 1_000_000)
            assert not client.over.is_set()
        assert (await client.answer()).status == 403
        await client.end()
        await client.over.wait()
        assert client.ended == 0.0


@in_virtual_time
async def test_a_client_that_never_stops_sending_after_its_refusal_is_let_go_after_five_seconds() -> None:
    """ATTACKS 8: its place is for others."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://127.0.0.1/", "Content-Length: 1000000", method="POST"))
        await client.answer()

        async def upload() -> None:
            for _ in range(20):
                await client.send(b"x")
                await trio.sleep(0.75)

        with pytest.raises(trio.BrokenResourceError):
            await upload()
        assert client.ended == LINGER_SECONDS == 5.0


# Clients that do not read


def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients take nothing of what is sent to them."""

    def pair() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()
        theirs.send_stream.send_all_hook = trio.sleep_forever
        return ours, theirs

    monkeypatch.setattr("tests.serve.scene.memory_stream_pair", pair)


@pytest.mark.parametrize("behind", [b"", get("http://other.example/")])
@in_virtual_time
async def test_a_client_that_does_not_read_its_refusal_is_let_go_after_exactly_10_s_and_never_served_again(
    behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ATTACKS 8 (a peer that never reads): for h11 the answer is complete by then, for us it is not."""
    deaf(monkeypatch)
    world = World()
    async with connected(world) as client:
        await trio.sleep(3.0)
        await client.send(get("http://127.0.0.1/") + behind)
        await client.over.wait()
        assert client.ended == 3.0 + SAY_SECONDS == 13.0
    decision, close = world.only()
    assert (decision.reason, decision.status, close.outcome) == ("address_denied", 403, "client_gone")
    assert world.opened == 0


@in_virtual_time
async def test_a_client_that_does_not_read_its_200_holds_no_connection_to_the_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ATTACKS 8: nor does a byte of it reach the origin."""
    deaf(monkeypatch)
    world = World()
    async with connected(world) as client:
        await client.send(connect() + b"early")
        origin = await world.origin()
        assert await origin.rest() == b""
        await client.over.wait()
        assert client.ended == SAY_SECONDS == 10.0
    decision, close = world.only()
    assert (decision.verdict, close.outcome, close.bytes_up) == ("allow", "client_gone", 0)


@in_virtual_time
async def test_a_client_that_does_not_read_an_answer_of_the_last_hop_is_let_go_after_exactly_10_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deaf(monkeypatch)
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com", "Max-Forwards: 0", method="OPTIONS") + get())
        await client.over.wait()
        assert client.ended == 10.0
    assert world.only()[1].outcome == "client_gone"
    assert world.opened == 0


@in_virtual_time
async def test_a_client_that_does_not_read_of_a_bug_is_let_go_after_exactly_10_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The operator is told all the same."""
    deaf(monkeypatch)
    world = World(buggy=True, dial_error=ValueError("a bug"))
    async with connected(world) as client:
        await client.send(get())
        await client.over.wait()
        assert client.ended == 10.0
    assert world.only()[1].reason == "internal_error"
    assert len(world.complaints) == 1


@in_virtual_time
async def test_somebody_turned_away_who_does_not_read_is_let_go_after_exactly_10_s() -> None:
    """ATTACKS 8: else the few places for being turned away would be taken for ever."""
    world = World()
    _, theirs = memory_stream_pair()
    theirs.send_stream.send_all_hook = trio.sleep_forever
    await turned_away(theirs, world)
    assert trio.current_time() == 10.0
    assert world.only()[1].outcome == "client_gone"


@in_virtual_time
async def test_a_client_that_reads_its_refusal_in_just_under_10_s_is_served_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The neighbour of those above."""

    def slow() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()
        pump = theirs.send_stream.send_all_hook
        assert pump is not None
        delays = iter((9.875,))

        async def later() -> None:
            await trio.sleep(next(delays, 0.0))
            await pump()

        theirs.send_stream.send_all_hook = later
        return ours, theirs

    monkeypatch.setattr("tests.serve.scene.memory_stream_pair", slow)
    world = World()
    async with connected(world) as client:
        await client.send(get("http://127.0.0.1/"))
        assert (await client.answer()).reason == "address_denied"
        monkeypatch.undo()
        await exchange(world, client)
        assert (await client.answer()).status == 200


# A response that breaks off


@asynccontextmanager
async def half_a_response(world: World, response: bytes) -> AsyncIterator[tuple[Peer, Peer, trio.CancelScope]]:
    """A client of HTTP/1.0 on a real connection, its origin, which has sent that much, and what ends the session."""
    accepted, client = tcp_streams()
    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            session = trio.CancelScope()

            async def serve() -> None:
                with session:
                    await serve_connection(accepted, visit(), world.seams)

            nursery.start_soon(serve)
            async with client:
                await client.send_all(get(version="1.0"))
                origin = await world.origin()
                await origin.until(HEAD)
                await origin.stream.send_all(response)
                peer = Peer(client)
                await peer.until(b"half")
                yield peer, origin, session


CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"


async def test_a_response_that_breaks_off_ends_in_a_reset() -> None:
    """ATTACKS 5: a client of HTTP/1.0 would take a plain end for the end of the body."""
    world = World()
    async with half_a_response(world, CHUNKED) as (client, origin, _):
        await origin.end()
        with pytest.raises(trio.BrokenResourceError) as broken:
            await client.rest()
    assert isinstance(broken.value.__cause__, ConnectionResetError)
    assert world.only()[1].reason == "origin_malformed"


async def test_a_response_that_is_cut_off_at_the_end_of_the_drain_ends_in_a_reset() -> None:
    """ATTACKS 5, 8 (SIGTERM): to the client it is the same."""
    world = World()
    async with half_a_response(world, CHUNKED) as (client, _, session):
        session.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await client.rest()
    assert world.only()[1].outcome == "aborted"


async def test_a_response_that_is_whole_ends_in_no_reset() -> None:
    """The neighbour of those above."""
    world = World()
    async with half_a_response(world, CHUNKED) as (client, origin, _):
        await origin.stream.send_all(b"0\r\n\r\n")
        assert await client.rest() == b""
    assert world.only()[1].outcome == "complete"


# Report mode, permits, loops, Max-Forwards


@in_virtual_time
async def test_report_mode_lets_a_miss_of_the_allowlist_through_and_says_so() -> None:
    """R10: `would`, and the reason it would have had."""
    world = World(policy=policy(default="deny", mode="report"))
    async with connected(world) as client:
        await exchange(world, client)
        assert (await client.answer()).status == 200
    for record in world.only():
        assert (record.verdict, record.would, record.reason) == ("allow", "deny", "not_allowlisted")


@in_virtual_time
async def test_report_mode_opens_nothing_else() -> None:
    """R5."""
    world = World(policy=policy(default="deny", mode="report"))
    assert (await refused(world, get("http://127.0.0.1/"))).reason == "address_denied"


@in_virtual_time
async def test_a_permitted_destination_is_reached_and_its_row_on_record() -> None:
    """R9."""
    world = World(policy=policy(PERMIT_LOCAL), answers={"ui.example": Resolution((IPAddress("10.1.2.3"),))})
    async with connected(world) as client:
        await exchange(world, client, get("http://ui.example:8080/"))
        assert (await client.answer()).status == 200
    decision, close = world.only()
    assert (decision.verdict, decision.rule, close.address) == ("allow", "local-ui", "10.1.2.3")


@pytest.mark.parametrize(
    ("permitted", "passes"),
    [(True, False), (False, True)],
)
@in_virtual_time
async def test_identity_headers_are_dropped_for_permitted_destinations_only(*, permitted: bool, passes: bool) -> None:
    """MISSION (trusted-proxy auth): what a reverse proxy would vouch with is not forged through us."""
    world = World(policy=policy(PERMIT_LOCAL), answers={"ui.example": Resolution((IPAddress("10.1.2.3"),))})
    url = "http://ui.example:8080/" if permitted else "http://example.com/"
    async with connected(world) as client:
        head = await exchange(
            world, client, get(url, "X-Forwarded-User: root", "Forwarded: for=1.2.3.4", "X-Real-IP: 1.2.3.4", "X: y")
        )
    for name in (b"X-Forwarded-User: root", b"Forwarded: for=1.2.3.4", b"X-Real-IP: 1.2.3.4"):
        assert (name in head) is passes
    assert b"X: y" in head


@in_virtual_time
async def test_identity_trailers_are_dropped_for_a_permitted_destination_too() -> None:
    """ATTACKS 4.12, 5 (trailers)."""
    world = World(policy=policy(PERMIT_LOCAL), answers={"ui.example": Resolution((IPAddress("10.1.2.3"),))})
    async with connected(world) as client:
        await client.send(get("http://ui.example:8080/", "Transfer-Encoding: chunked", method="PUT"))
        await client.send(b"0\r\nX-Forwarded-User: root\r\nX-Sum: 1\r\n\r\n")
        origin = await world.origin()
        await origin.until(b"\r\n\r\n")
        assert await origin.until(b"\r\n\r\n") == b"0\r\nX-Sum: 1\r\n\r\n"


@in_virtual_time
async def test_a_request_that_has_been_here_before_is_refused() -> None:
    """ATTACKS 4.13 (Via loop)."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com/", f"Via: 1.1 elsewhere, 1.1 {VIA}"))
        answer = await client.answer()
        assert (answer.status, answer.reason) == (502, "loop_detected")
        assert "error=proxy_loop_detected" in answer.fields["proxy-status"]
    assert world.count("resolve") == 0


@in_virtual_time
async def test_max_forwards_0_is_answered_here_and_dials_nobody() -> None:
    """RFC 9110 §7.6.2, ATTACKS 4.13."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com", "Max-Forwards: 0", method="OPTIONS"))
        answer = await client.answer()
        assert (answer.status, answer.body, "connection" in answer.fields) == (200, b"", False)
        await exchange(world, client)
        assert (await client.answer()).status == 200
    (decision, close), _ = world.trail()
    assert (decision.verdict, close.outcome, close.status, close.address) == ("allow", "answered_here", 200, None)
    assert world.opened == 1


@in_virtual_time
async def test_max_forwards_0_opens_nothing() -> None:
    """R12: it is judged like everything else."""
    world = World()
    request = get("http://127.0.0.1", "Max-Forwards: 0", method="OPTIONS")
    assert (await refused(world, request)).reason == "address_denied"


@in_virtual_time
async def test_max_forwards_1_is_0_for_the_origin() -> None:
    world = World()
    async with connected(world) as client:
        head = await exchange(world, client, get("http://example.com", "Max-Forwards: 1", method="OPTIONS"))
    assert head.startswith(b"OPTIONS * HTTP/1.1\r\n")
    assert b"Max-Forwards: 0\r\n" in head


@in_virtual_time
async def test_an_answer_of_ours_to_an_unfinished_request_is_not_overtaken_by_a_reset() -> None:
    """ATTACKS 8: the body is heard out before the connection closes, after any early answer."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com", "Max-Forwards: 0", "Content-Length: 9", method="OPTIONS"))
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        await client.closed()
        await client.send(b"some body")
        await client.over.wait()
        assert client.ended == 1.0


# A method may hold a secret


@in_virtual_time
async def test_a_method_that_nobody_registered_is_served_and_logged_as_other() -> None:
    """R7, ATTACKS 9."""
    world = World()
    async with connected(world) as client:
        head = await exchange(world, client, get(method=SECRET))
        assert head.startswith(f"{SECRET} / HTTP/1.1".encode())
        assert (await client.answer()).status == 200
    assert world.only()[0].method == "other"


@in_virtual_time
async def test_a_whole_exchange_is_on_record() -> None:
    """R7: destination, decision, status, and how it ended."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com/", "Content-Length: 3", method="POST") + b"abc")
        origin = await world.origin()
        await origin.until(b"abc")
        await origin.send(OK)
        await client.answer()
    decision, close = world.only()
    assert (decision.method, decision.scheme, decision.host, decision.port) == ("POST", "http", "example.com", 80)
    assert (decision.rule, decision.status, decision.policy) == ("default", None, "gateway")
    assert (close.outcome, close.status, close.bytes_up, close.bytes_down) == ("complete", 200, 3, 2)
    assert close.digest == world.policy.digest[:16]


# How it ends where a response has begun, or nobody waits for one


@in_virtual_time
async def test_a_websocket_ends_as_a_tunnel_with_its_bytes_on_record() -> None:
    """R4: what either side sent behind its head is part of it."""
    world = World()
    async with connected(world) as client:
        await client.send(asking("websocket") + b"up")
        origin = await world.origin()
        await origin.until(b"\r\n\r\n")
        await origin.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\ndown")
        assert await origin.exactly(2) == b"up"
        await client.until(b"\r\n\r\n")
        assert await client.exactly(4) == b"down"
        await client.end()
        await origin.end()
        await client.over.wait()
    _, close = world.only()
    assert (close.outcome, close.status, close.bytes_up, close.bytes_down) == ("closed", 101, 2, 4)


@in_virtual_time
async def test_after_an_early_response_the_client_is_heard_out_and_the_connection_closed() -> None:
    """CLIENT.md, ATTACKS 8: the rest of the body is no next request, and no reset overtakes the answer."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com/", "Content-Length: 9", method="POST") + b"some")
        origin = await world.origin()
        await origin.until(b"some")
        await origin.send(OK)
        assert (await client.answer()).status == 200
        await client.closed()
        await client.send(b" body")
        await client.over.wait()
        assert client.ended == 1.0
    assert world.only()[1].outcome == "complete"


@in_virtual_time
async def test_a_response_that_breaks_off_is_followed_by_no_refusal() -> None:
    """A client must not read our words as part of the origin's."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await origin.leave()
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await client.rest() == b"half"
    decision, close = world.only()
    assert (decision.verdict, close.verdict, close.reason) == ("allow", "error", "origin_malformed")
    assert (close.outcome, close.status, close.bytes_down) == ("aborted", 200, 4)


@in_virtual_time
async def test_a_client_that_is_gone_during_its_upload_takes_the_origin_connection_with_it() -> None:
    """ATTACKS 8: the origin sees the body break off, and not a clean end of it."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com/", "Transfer-Encoding: chunked", method="POST") + b"4\r\nsome\r\n")
        origin = await world.origin()
        await client.leave()
        assert (await origin.rest()).endswith(b"\r\n\r\n4\r\nsome\r\n")
        await client.over.wait()
        assert client.ended == 0.0
    _, close = world.only()
    assert (close.outcome, close.bytes_up) == ("client_gone", 4)


@in_virtual_time
async def test_a_client_that_is_gone_before_its_answer_takes_the_origin_connection_with_it() -> None:
    """ATTACKS 8: and its records say so; the verdict stays what it was."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await client.leave()
        assert (await origin.rest()).endswith(b"\r\n\r\n")
    _, close = world.only()
    assert (close.outcome, close.verdict, close.reason, close.status) == ("client_gone", "allow", None, None)


@in_virtual_time
async def test_turning_away_tells_those_who_are_there_and_records_those_who_are_not() -> None:
    """R7, ATTACKS 8."""
    for there, outcome in ((True, "refused"), (False, "client_gone")):
        world = World()
        ours, theirs = memory_stream_pair()
        if not there:
            await ours.aclose()
        await turned_away(theirs, world)
        decision, close = world.only()
        assert (decision.reason, close.outcome) == ("connection_limit", outcome)


@in_virtual_time
async def test_a_client_that_answers_instead_of_asking_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """h11 reads no response from a client; if it did, nothing would be connected to (R12)."""

    async def response(_: Wire) -> h11.Response:
        await trio.lowlevel.checkpoint()
        return h11.Response(status_code=200, headers=[])

    monkeypatch.setattr(Wire, "receive_head", response)
    world = World()
    async with connected(world) as client:
        await client.send(b"x")
        assert (await client.answer()).fields["connection"] == "close"
    assert world.opened == 0
