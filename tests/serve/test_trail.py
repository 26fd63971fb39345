"""The two records of a request: what is in them, when they are written, and what is never in them (R7).

`World.trail` holds each to the published schema and each request to one decision and one closing record.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from netaddr import IPAddress
from trio.testing import MockClock

from proxyd.audit.record import MAX_ADDRESSES
from proxyd.audit.render import json_line
from proxyd.audit.sink import SinkError
from proxyd.http.request import Asked
from proxyd.net.dialer import DialError
from proxyd.net.relay import Flow
from proxyd.net.resolver import DnsError
from proxyd.policy.address import Resolution, parse_authority
from proxyd.policy.snapshot import Peer, Snapshot
from proxyd.policy.verdict import Allow, Deny, Reason, decide
from proxyd.serve.ledger import Place
from proxyd.serve.trail import Trail, milliseconds
from tests.serve.scene import NOW, OK, PUBLIC, SECRET, World, connected, get, in_virtual_time, policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.audit.record import Record
    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy

CLIENT_PEER: Final = Peer(IPAddress("127.0.0.1"))


def trail(world: World) -> Trail:
    """The trail of one request from the agent."""
    return Trail(world.seams, world.seams.snapshot(), world.policy.client[0], CLIENT_PEER)


def allow(policy: Policy, authority: str = "example.com:443", *addresses: IPAddress) -> Allow:
    """What the judge says of a destination it allows."""
    client: Client = policy.client[0]
    verdict = decide(
        parse_authority(authority), client, Snapshot.of(policy, NOW.date()), Resolution(addresses or (PUBLIC,))
    )
    assert isinstance(verdict, Allow)
    return verdict


@in_virtual_time
async def test_a_decision_says_who_asked_for_what_and_by_which_rule() -> None:
    """R7: destination, decision, reason; the policy by name and digest."""
    world = World()
    it = trail(world)
    it.learn(method="CONNECT")
    it.asked(Asked("connect", parse_authority("example.com:443"), ""))
    it.allowed(allow(world.policy))
    (record,) = world.records
    assert record.as_dict() == {
        "schema": 1,
        "time": "2026-08-01T12:00:00.000Z",
        "event": "decision",
        "id": it.id,
        "client": "agent",
        "client_address": "127.0.0.1",
        "user": None,
        "method": "CONNECT",
        "scheme": "connect",
        "host": "example.com",
        "port": 443,
        "addresses": ("93.184.216.34",),
        "verdict": "allow",
        "reason": None,
        "rule": "default",
        "refused": None,
        "would": None,
        "status": None,
        "policy": "gateway",
        "digest": world.policy.digest[:16],
        "dns_ms": None,
        "truncated": False,
    }


@in_virtual_time
async def test_a_closing_record_says_how_it_ended_under_the_same_id() -> None:
    """R7: status, bytes, durations; and the subject once more, so that one line can be read alone."""
    world = World()
    it = trail(world)
    it.asked(Asked("http", parse_authority("example.com:80"), "/"))
    it.allowed(allow(world.policy))
    it.learn(status=200, address="93.184.216.34")
    it.took("dns", 0.0015)
    it.took("connect", 0.0025)
    await trio.sleep(1.0)
    it.answered()
    await trio.sleep(0.25)
    it.close("complete", Flow(3, 5))
    decision, close = world.only()
    assert decision.id == close.id == it.id
    assert (close.host, close.port, close.verdict, close.address) == ("example.com", 80, "allow", "93.184.216.34")
    assert (close.outcome, close.bytes_up, close.bytes_down, close.status) == ("complete", 3, 5, 200)
    assert (close.dns_ms, close.connect_ms) == (1.5, 2.5)
    assert (close.first_byte_ms, close.duration_ms) == (1000.0, 1250.0)
    assert world.timed == [("dns", 0.0015), ("connect", 0.0025), ("first_byte", 1.0)]


@in_virtual_time
async def test_the_duration_begins_with_the_end_of_the_head() -> None:
    world = World()
    it = trail(world)
    await trio.sleep(10.0)
    it.head_received(world.seams.snapshot(), Peer(IPAddress("127.0.0.1")))
    await trio.sleep(0.25)
    it.answered()
    await trio.sleep(0.25)
    it.refused(Reason.HEAD_TIMEOUT, 408, None)
    it.close("refused", Flow())
    close = world.only()[1]
    assert (close.first_byte_ms, close.duration_ms) == (250.0, 500.0)


@in_virtual_time
async def test_two_requests_have_two_ids() -> None:
    """They are what a user cites to the operator."""
    assert len({trail(World()).id for _ in range(100)}) == 100


@in_virtual_time
async def test_report_mode_puts_the_denial_that_was_let_through_on_record() -> None:
    """R10."""
    world = World(policy=policy(default="deny", mode="report"))
    trail(world).allowed(allow(world.policy))
    (record,) = world.records
    assert (record.verdict, record.would, record.reason) == ("allow", "deny", "not_allowlisted")


@pytest.mark.parametrize(
    ("deny", "verdict", "rule", "refused"),
    [
        (Deny(Reason.ADDRESS_DENIED, "loopback", address=IPAddress("::1")), "deny", "loopback", "::1"),
        (Deny(Reason.NAME_DENIED, "evil", "evil.example"), "deny", "evil", "evil.example"),
        (Deny(Reason.PORT_DENIED, "port 25"), "deny", "port 25", None),
        (None, "error", None, None),
    ],
)
@in_virtual_time
async def test_a_refusal_is_a_denial_only_if_the_judge_spoke(
    deny: Deny | None, verdict: str, rule: str | None, refused: str | None
) -> None:
    """DESIGN: DNS failures and unreachable origins are errors, and are not counted as attacks."""
    world = World()
    trail(world).refused(Reason.DNS_ERROR if deny is None else deny.reason, 502, deny)
    (record,) = world.records
    assert (record.verdict, record.rule, record.refused, record.status) == (verdict, rule, refused, 502)


@in_virtual_time
async def test_a_refusal_that_no_answer_of_ours_could_tell_has_no_status() -> None:
    world = World()
    it = trail(world)
    it.refused(Reason.ABORTED, None, None)
    assert world.records[0].status is None
    assert it.decided


@in_virtual_time
async def test_there_is_one_decision_also_where_something_fails_after_it() -> None:
    """R7: the decision stays what it was; the closing record says what came of it."""
    world = World()
    it = trail(world)
    it.allowed(allow(world.policy))
    it.refused(Reason.CONNECT_REFUSED, 502, None)
    it.close("refused", Flow())
    decision, close = world.only()
    assert (decision.verdict, decision.reason, close.verdict, close.reason) == (
        "allow",
        None,
        "error",
        "connect_refused",
    )


@in_virtual_time
async def test_a_literal_is_on_record_as_the_address_that_was_judged() -> None:
    world = World()
    it = trail(world)
    it.asked(Asked("connect", parse_authority("127.0.0.1:80"), ""))
    it.refused(Reason.ADDRESS_DENIED, 403, Deny(Reason.ADDRESS_DENIED, "loopback", address=CLIENT_PEER.address))
    assert world.records[0].addresses == ("127.0.0.1",)


@pytest.mark.parametrize(("count", "truncated"), [(MAX_ADDRESSES, False), (MAX_ADDRESSES + 1, True)])
@in_virtual_time
async def test_of_many_addresses_the_first_are_on_record_and_the_record_says_so(count: int, *, truncated: bool) -> None:
    world = World()
    addresses = tuple(IPAddress(int(PUBLIC) + number) for number in range(count))
    trail(world).allowed(allow(world.policy, "example.com:443", *addresses))
    (record,) = world.records
    assert record.addresses == tuple(str(each) for each in addresses[:MAX_ADDRESSES])
    assert record.truncated is truncated


@in_virtual_time
async def test_nobody_at_no_address_is_on_record_as_such() -> None:
    """R2."""
    world = World()
    Trail(world.seams, world.seams.snapshot(), None, Peer(None)).refused(Reason.CLIENT_UNKNOWN, 403, None)
    assert (world.records[0].client, world.records[0].client_address) == (None, None)


@pytest.mark.parametrize(("uid", "user"), [(1001, "openclaw"), (1002, "1002"), (0, "0"), (None, None)])
@in_virtual_time
async def test_r2_the_account_that_owns_the_client_s_socket_is_on_record_by_its_name_or_number(
    uid: int | None, user: str | None
) -> None:
    """The name is the policy's; of an account that it does not name, the number says enough."""
    world = World()
    snapshot = Snapshot.of(world.policy, NOW.date(), accounts={"openclaw": 1001})
    it = Trail(world.seams, snapshot, world.policy.client[0], Peer(IPAddress("127.0.0.1"), uid))
    it.refused(Reason.NAME_DENIED, 403, None)
    it.close("refused", Flow())
    assert [record.user for record in world.records] == [user, user]


@in_virtual_time
async def test_a_decision_to_allow_that_cannot_be_written_is_the_callers_to_hear_of() -> None:
    """R12: no audit, no connection; and it is not written again as something else."""
    world = World(sink_error=SinkError("No space left"))
    it = trail(world)
    with pytest.raises(SinkError):
        it.allowed(allow(world.policy))
    it.refused(Reason.AUDIT_UNWRITABLE, 503, None)
    assert world.events == ["record decision"]
    assert world.complaints == []


@in_virtual_time
async def test_a_decision_that_could_not_be_written_is_written_late_before_the_closing_record() -> None:
    """R7: no closing record stands without its decision, if the sink recovers in time; and only one decision does."""
    for refuse in (True, False):
        world = World(sink_error=SinkError("No space left"))
        it = trail(world)
        if refuse:
            it.refused(Reason.DNS_ERROR, 502, None)
        else:
            with pytest.raises(SinkError):
                it.allowed(allow(world.policy))
        world.sink_error = None
        it.close("aborted", Flow())
        assert [(record.event, record.id) for record in world.records] == [("decision", it.id), ("close", it.id)]
        assert world.records[0].verdict == ("error" if refuse else "allow")


@in_virtual_time
async def test_a_decision_that_was_written_is_not_written_again() -> None:
    """The neighbour of the one before."""
    for refuse in (True, False):
        world = World()
        it = trail(world)
        if refuse:
            it.refused(Reason.DNS_ERROR, 502, None)
        else:
            it.allowed(allow(world.policy))
        it.close("aborted", Flow())
        assert world.events == ["record decision", "record close"]


@in_virtual_time
async def test_a_late_decision_to_allow_says_allow_whatever_came_of_it() -> None:
    """R11: also where availability was preferred, and the origin then failed; the closing record says that."""
    world = World(sink_error=SinkError("No space left"))
    it = trail(world)
    with pytest.raises(SinkError):
        it.allowed(allow(world.policy))
    it.refused(Reason.ORIGIN_MALFORMED, None, None)
    world.sink_error = None
    it.close("aborted", Flow(3, 5))
    decision, close = world.records
    assert (decision.verdict, close.verdict) == ("allow", "error")


@in_virtual_time
async def test_a_closing_record_is_tried_also_where_its_late_decision_meets_a_bug() -> None:
    """R7: the end is on record if anything can be."""
    world = World(sink_error=SinkError("No space left"))
    it = trail(world)
    it.refused(Reason.DNS_ERROR, 502, None)
    world.record_bug = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        it.close("aborted", Flow())
    assert world.events == ["record decision", "record decision", "record close"]


@in_virtual_time
async def test_a_refusal_or_an_end_that_cannot_be_written_is_told_to_the_operator() -> None:
    """R12: nothing was connected to, or it is over already."""
    world = World(sink_error=SinkError("No space left"))
    it = trail(world)
    it.refused(Reason.DNS_ERROR, 502, None)
    it.close("refused", Flow())
    assert world.complaints == [
        "audit log: a decision record could not be written: No space left",
        "audit log: a decision record could not be written: No space left",
        "audit log: a close record could not be written: No space left",
    ]


@pytest.mark.parametrize(("seconds", "spelt"), [(0.0, 0.0), (0.00004, 0.0), (0.00006, 0.1), (1.23456, 1234.6)])
def test_a_duration_is_spelt_in_milliseconds_with_one_decimal(seconds: float, spelt: float) -> None:
    assert milliseconds(seconds) == spelt


# Secrets

HOSTS: Final = ("example.com", "127.0.0.1", "evil.example", "nowhere.example", "rebind.example", "dead.example")
PLACES: Final[dict[str, Callable[[str, str], bytes]]] = {
    "path": lambda host, secret: get(f"http://{host}/bot{secret}/send"),
    "query": lambda host, secret: get(f"http://{host}/?token={secret}"),
    "fragment": lambda host, secret: get(f"http://{host}/#{secret}"),
    "user": lambda host, secret: get(f"http://{secret}@{host}/"),
    "password": lambda host, secret: get(f"http://me:{secret}@{host}/"),
    "port": lambda host, secret: get(f"http://{host}:{secret}/"),
    "bad name": lambda host, secret: get(f"http://{host}%{secret}/"),
    "scheme": lambda host, secret: get(f"{secret}://{host}/"),
    "user of a tunnel": lambda host, secret: get(f"{secret}@{host}:443", method="CONNECT"),
    "port of a tunnel": lambda host, secret: get(f"{host}:{secret}", method="CONNECT"),
    "path of a tunnel": lambda host, secret: get(f"{host}:443/{secret}", method="CONNECT"),
    "early bytes": lambda host, secret: get(f"{host}:443", method="CONNECT") + secret.encode(),
    "method": lambda host, secret: get(f"http://{host}/", method=secret),
    "version": lambda host, secret: get(f"http://{host}/", version=secret),
    "field name": lambda host, secret: get(f"http://{host}/", f"X-{secret}: 1"),
    "field": lambda host, secret: get(f"http://{host}/", f"X-Api-Key: {secret}"),
    "cookie": lambda host, secret: get(f"http://{host}/", f"Cookie: session={secret}"),
    "authorization": lambda host, secret: get(f"http://{host}/", f"Authorization: Bearer {secret}"),
    "proxy authorization": lambda host, secret: get(f"{host}:443", f"Proxy-Authorization: {secret}", method="CONNECT"),
    "host field": lambda host, secret: get(f"http://{host}/").replace(b"ignored", secret.encode()),
    "via": lambda host, secret: get(f"http://{host}/", f"Via: 1.1 {secret}"),
    "expectation": lambda host, secret: get(f"http://{host}/", f"Expect: {secret}"),
    "connection": lambda host, secret: get(f"http://{host}/", f"Connection: {secret}"),
    "upgrade": lambda host, secret: get(f"http://{host}/", "Connection: upgrade", f"Upgrade: {secret}"),
    "length": lambda host, secret: get(f"http://{host}/", f"Content-Length: {secret}"),
    "coding": lambda host, secret: get(f"http://{host}/", f"Transfer-Encoding: {secret}"),
    "hops": lambda host, secret: get(f"http://{host}/", f"Max-Forwards: {secret}", method="OPTIONS"),
    "body": lambda host, secret: (
        get(f"http://{host}/", f"Content-Length: {len(secret)}", method="PUT") + secret.encode()
    ),
    "chunk": lambda host, secret: (
        get(f"http://{host}/", "Transfer-Encoding: chunked", method="PUT")
        + f"{len(secret):x};{secret}={secret}\r\n{secret}\r\n0\r\nX-{secret}: {secret}\r\n\r\n".encode()
    ),
    "bad chunk": lambda host, secret: (
        get(f"http://{host}/", "Transfer-Encoding: chunked", method="PUT") + f"{secret}\r\n".encode()
    ),
    "nothing but": lambda _, secret: secret.encode() + b"\r\n\r\n",
}
"""Where a client may have a secret, on purpose or not."""
DAMAGES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "none": lambda raw: raw,
    "bare LF": lambda raw: raw.replace(b"\r\n", b"\n"),
    "NUL": lambda raw: raw[:-4] + b"\0" + raw[-4:],
    "fold": lambda raw: raw.replace(b"\r\nHost", b"\r\n Host"),
    "cut off": lambda raw: raw[:-3],
    "twice": lambda raw: raw + raw,
}


async def said(request: bytes, world: World) -> bytes:
    """Everything that a client of `world` hears, whose origins answer anything."""
    async with connected(world) as client:
        await client.send(request)
        await client.end()

        async def origins() -> None:
            while True:
                origin = await world.origin()
                with suppress(trio.BrokenResourceError):
                    await origin.send(OK)
                await origin.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(origins)
            heard = await client.rest()
            nursery.cancel_scope.cancel()
    return heard


def hear(request: bytes, host: str) -> tuple[bytes, list[Record], list[str]]:
    """What is said, recorded and complained about, of a request for one of HOSTS."""

    async def scenario() -> tuple[bytes, World]:
        world = World(
            policy=policy('[[deny]]\nname = "evil"\nreason = "a test"\nhosts = ["evil.example"]'),
            answers={
                "nowhere.example": DnsError("no", Reason.DNS_ERROR),
                "rebind.example": Resolution((PUBLIC, IPAddress("10.0.0.1"))),
            },
            dial_error=DialError(Reason.CONNECT_REFUSED) if host == "dead.example" else None,
        )
        heard = await said(request, world)
        assert world.trail(), "a request without a record"
        return heard, world

    heard, world = trio.run(scenario, clock=MockClock(autojump_threshold=0))
    return heard, world.attempted, world.complaints


def leaks(secret: str, heard: bytes, records: list[Record], complaints: list[str]) -> list[bytes]:
    """What of it has the secret in it, in whatever case."""
    everything = [heard, *(json_line(record) for record in records), *(line.encode() for line in complaints)]
    return [each for each in everything if secret.lower().encode() in each.lower()]


@given(
    place=st.sampled_from(sorted(PLACES)),
    host=st.sampled_from(HOSTS),
    damage=st.sampled_from(sorted(DAMAGES)),
    secret=st.text("ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ-_", min_size=12, max_size=40),
)
@settings(max_examples=400, deadline=None)
def test_no_secret_is_in_any_record_refusal_or_complaint(place: str, host: str, damage: str, secret: str) -> None:
    """R7, ATTACKS 9: wherever it is planted, whatever is wrong with the request, and whatever becomes of it."""
    heard, records, complaints = hear(DAMAGES[damage](PLACES[place](host, secret)), host)
    assert leaks(secret, heard, records, complaints) == []
    assert complaints == []


@pytest.mark.parametrize("place", sorted(PLACES))
def test_no_secret_gets_out_on_the_way_to_any_end_of_a_request(place: str) -> None:
    """R7: the same without chance, each place with each host."""
    for host in HOSTS:
        heard, records, complaints = hear(PLACES[place](host, SECRET), host)
        assert leaks(SECRET, heard, records, complaints) == []


def test_the_places_and_hosts_reach_every_kind_of_end() -> None:
    """A search for secrets that only ever saw 400s would prove nothing."""
    reached = {
        (record.verdict, record.reason)
        for place in ("path", "user", "version", "bad chunk", "coding", "expectation")
        for host in HOSTS
        for record in hear(PLACES[place](host, SECRET), host)[1]
    }
    assert reached >= {
        ("allow", None),
        ("deny", "address_denied"),
        ("deny", "name_denied"),
        ("error", "dns_error"),
        ("error", "connect_refused"),
        ("error", "malformed_target"),
        ("error", "malformed_request"),
        ("error", "coding_unsupported"),
        ("error", "expectation_failed"),
    }


@in_virtual_time
async def test_a_leak_would_be_noticed() -> None:
    """The host is on record, so that a secret in *it* is found: the search works."""
    world = World()
    heard = await said(get("http://secret-in-the-name.example/"), world)
    assert leaks("secret-in-the-name", heard, world.records, [])


# Tunnels that outlive their session


@in_virtual_time
async def test_r7_a_tunnel_that_outlives_its_session_ends_on_record_as_the_pool_says() -> None:
    """Under the same id, with its bytes, its outcome and the whole of its duration."""
    world = World()
    it = trail(world)
    it.asked(Asked("connect", parse_authority("example.com:443"), ""))
    it.allowed(allow(world.policy))
    it.learn(status=200, address="93.184.216.34")
    await trio.sleep(3600.0)
    it.tunnel_ended(Flow(3, 5, "revoked"))
    decision, close = world.only()
    assert decision.id == close.id == it.id
    assert (close.outcome, close.bytes_up, close.bytes_down, close.status) == ("revoked", 3, 5, 200)
    assert (close.host, close.address, close.duration_ms) == ("example.com", "93.184.216.34", 3_600_000.0)


@pytest.mark.parametrize("bug", [None, ValueError("a bug"), SinkError("the disk is full")])
@in_virtual_time
async def test_r10_the_places_of_a_tunnel_are_kept_until_its_end_and_left_then_whatever_the_log_says(
    bug: Exception | None,
) -> None:
    """One that outlived its tunnel would be lost to everybody until proxyd ends."""
    world = World()
    left: list[str] = []
    it = trail(world)
    it.allowed(allow(world.policy))
    it.hold((Place(lambda: left.append("connection")), None, Place(lambda: left.append("tunnel"))))
    world.record_bug = bug
    assert left == []
    it.tunnel_ended(Flow())
    assert left == ["connection", "tunnel"]


@in_virtual_time
async def test_a_bug_at_the_end_of_a_tunnel_is_told_without_its_message_and_ends_no_other_tunnel() -> None:
    """Nobody but the pool is there to catch it, and the pool carries everybody's; the message may quote a request."""
    world = World(record_bug=ValueError(SECRET))
    it = trail(world)
    it.decided = True
    it.tunnel_ended(Flow(3, 5, "closed"))
    assert world.complaints == ["bug: ValueError at the end of a tunnel"]


@in_virtual_time
async def test_the_end_of_a_tunnel_that_cannot_be_written_is_told_to_the_operator() -> None:
    world = World()
    it = trail(world)
    it.allowed(allow(world.policy))
    world.sink_error = SinkError("the disk is full")
    it.tunnel_ended(Flow(0, 0, "closed"))
    assert world.complaints == ["audit log: a close record could not be written: the disk is full"]
