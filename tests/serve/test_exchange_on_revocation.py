"""A policy that changes while a request is under way: what the new one would refuse ends, and the rest goes on.

ATTACKS 7.7; DESIGN, "Time and change". Who calls `revoke`, and when, is not known here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import h11
import pytest
import trio
from netaddr import IPAddress
from trio.testing import memory_stream_pair

from proxyd.audit.record import DIGEST_DIGITS
from proxyd.http.client_hello import ALERT_UNRECOGNIZED_NAME
from proxyd.net.wire import Wire
from proxyd.policy.address import Resolution
from proxyd.serve.exchange import Exchange
from proxyd.serve.kept import Kept
from proxyd.serve.revocation import revoke
from proxyd.serve.session import serve_connection
from tests.http.hellos import GOOD, NAME
from tests.serve.scene import OK, PUBLIC, Peer, World, connect, connected, exchange, get, in_virtual_time, policy, visit
from tests.serve.test_exchange_on_credentials import ALICE, BOB, GUESTS, HERE, Ring, basic, client
from tests.serve.test_exchange_on_sockets import HEAD, SOON, SWITCHING, UPGRADE, Real, Tunnelling, first, tunnelling

if TYPE_CHECKING:
    from proxyd.policy.model import Policy
    from tests.serve.scene import Connection

DENIED: Final = '[[deny]]\nname = "late"\nreason = "a test"\nhosts = ["example.com"]'
ADDRESS_DENIED: Final = f'[[deny]]\nname = "late"\nreason = "a test"\nnetworks = ["{PUBLIC}/32"]'
OTHER: Final = '[[deny]]\nname = "other"\nreason = "a test"\nhosts = ["other.example"]'
_OTHERS: Final = policy('[[client]]\nname = "x"\nnetworks = ["10.9.9.9/32"]')
GONE: Final = replace(_OTHERS, client=_OTHERS.client[1:])
"""A policy in which whoever asks here is no client."""
CHANGES: Final = pytest.mark.parametrize(
    "changed",
    [policy(DENIED), policy(ADDRESS_DENIED), policy(default="deny"), GONE],
    ids=["the name is denied", "its address is", "it is allowed no longer", "the client is gone"],
)
FORMS: Final = pytest.mark.parametrize(
    "request_", [get(), get(method="POST"), get("http://example.com/", *UPGRADE), connect()]
)


def is_revoked(world: World, status: int | None) -> None:
    """Hold the records of the only request to it: it was allowed, and then refused."""
    decision, close = world.only()
    assert (decision.verdict, decision.reason) == ("allow", None)
    assert (close.verdict, close.reason, close.rule, close.status) == ("deny", "revoked", "policy", status)


# While it is dialled


@CHANGES
@FORMS
@in_virtual_time
async def test_attack_7_7_what_is_refused_by_the_time_it_is_connected_is_refused(
    changed: Policy, request_: bytes
) -> None:
    """Before the 200 of a CONNECT; and the connection that was made for it ends unused."""
    world = World(dial_seconds=1.0)
    async with connected(world) as client:
        await client.send(request_)
        await trio.sleep(0.5)
        world.amend(changed)
        answer = await client.answer()
        assert (answer.status, answer.reason, answer.problem["rule"]) == (403, "revoked", "policy")
        origin = await world.origin()
        assert await origin.rest() == b""
    is_revoked(world, 403)
    assert (world.house.requests, world.house.tunnels) == (0, 0)


@FORMS
@in_virtual_time
async def test_what_the_new_policy_allows_as_well_goes_on(request_: bytes) -> None:
    """R10: an operator edits one row, and nobody else hears of it."""
    world = World(dial_seconds=1.0)
    async with connected(world) as client:
        await client.send(request_)
        await trio.sleep(0.5)
        world.amend(policy(OTHER))
        origin = await world.origin()
        await origin.send(OK if b"CONNECT" not in request_ else b"hi")
        assert (await client.until(b"hi")).split()[1] == b"200"
        assert revoke(world.seams) == 0
    assert world.only()[1].verdict == "allow"


@in_virtual_time
async def test_what_a_change_overtakes_in_its_lookup_is_judged_by_its_own_policy_and_by_the_new_one() -> None:
    """Both must allow it."""
    world = World(dns_seconds=1.0, answers={"example.com": Resolution((PUBLIC, IPAddress("93.184.216.99")))})
    async with connected(world) as client:
        await client.send(get())
        await trio.sleep(0.5)
        world.amend(policy('[[deny]]\nname = "late"\nreason = "a test"\nnetworks = ["93.184.216.99/32"]'))
        assert (await client.answer()).reason == "revoked"


async def test_attack_7_7_a_head_that_was_long_in_coming_gets_no_connection_that_was_kept() -> None:
    """Its first byte came under one policy, and its last under another, which is not asked for again by then."""
    world = Real()
    with trio.fail_after(SOON):
        async with connected(world) as client:
            kept = await first(world, client)
            await client.send(get()[:-1])
            world.amend(policy(DENIED))
            assert revoke(world.seams) == 0
            await client.send(b"\n")
            answer = await client.answer()
            assert (answer.status, answer.reason) == (403, "name_denied")
            await client.leave()
            assert await kept.rest() == b"", "it heard nothing of it"
    assert world.opened == 1


@FORMS
@in_virtual_time
async def test_attack_7_7_a_head_that_was_long_in_coming_is_judged_by_the_policy_of_its_end(request_: bytes) -> None:
    """Before any lookup, by the new one alone; and its records say which that was."""
    world = World()
    async with connected(world) as client:
        await client.send(request_[:-1])
        await trio.sleep(0.5)
        world.amend(policy(DENIED))
        await client.send(request_[-1:])
        answer = await client.answer()
        assert (answer.status, answer.reason) == (403, "name_denied")
    decision, close = world.only()
    assert {decision.digest, close.digest} == {policy(DENIED).digest[:DIGEST_DIGITS]}
    assert not any("resolve" in event or "dial" in event for event in world.events)


# While it is answered


@CHANGES
@pytest.mark.parametrize("uploading", [False, True])
@in_virtual_time
async def test_attack_7_7_an_answer_that_has_not_begun_is_a_403_instead(changed: Policy, *, uploading: bool) -> None:
    """At once, and the origin's connection ends; the client's too, as it might send more of what was refused."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com/", "Content-Length: 9", method="PUT") if uploading else get())
        origin = await world.origin()
        await origin.until(HEAD)
        world.amend(changed)
        assert revoke(world.seams) == 1
        answer = await client.answer()
        assert (answer.status, answer.reason, answer.fields["connection"]) == (403, "revoked", "close")
        assert trio.current_time() == 0.0
        assert await origin.rest() == b""
        await client.closed()
    is_revoked(world, 403)


@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked", "X: until the end"])
@in_virtual_time
async def test_attack_7_7_an_answer_that_has_begun_is_cut_and_never_ends_cleanly(framing: str) -> None:
    """Whatever its framing: a client must not take the half for the whole."""
    world = World()
    async with connected(world) as client:
        body = b"4\r\nhalf\r\n" if "chunked" in framing else b"half"
        await exchange(world, client, response=f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + body)
        head = await client.until(HEAD)
        await client.until(b"half")
        world.amend(policy(DENIED))
        assert revoke(world.seams) == 1
        assert await client.rest() in (b"", b"\r\n")
    assert (b"chunked" in head) == ("Length" not in framing)
    is_revoked(world, 200)
    assert world.only()[1].outcome == "revoked"


@pytest.mark.parametrize(
    "framing", ["Content-Length: 9\r\n\r\nthe whole", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("what", ["is revoked", "stands still"])
@in_virtual_time
async def test_attack_5_nothing_follows_an_answer_that_is_cut_in_its_last_piece(framing: str, what: str) -> None:
    """All of it is framed by then, and its client is slow to take it: what it asked behind that is not answered."""
    world = World()
    ours, theirs = memory_stream_pair()
    client = Peer(ours)

    async def serve() -> None:
        await serve_connection(theirs, visit(), world.seams)
        await trio.aclose_forcefully(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await client.send(get() + get("http://other.example/"))
        theirs.send_stream.send_all_hook = trio.sleep_forever
        await (await world.origin()).send(f"HTTP/1.1 200 OK\r\n{framing}".encode())
        await trio.testing.wait_all_tasks_blocked()
        if what == "is revoked":
            world.amend(policy(DENIED))
            assert revoke(world.seams) == 1
        assert (await client.rest()).count(b"HTTP/1.1") == 1
        await world.leave()
    assert world.only()[1].outcome == ("revoked" if what == "is revoked" else "client_gone")


@in_virtual_time
async def test_an_exchange_is_cut_once_and_counted_once() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get())
        await (await world.origin()).until(HEAD)
        world.amend(policy(DENIED))
        assert revoke(world.seams) == 1
        assert (await client.answer()).reason == "revoked"
        await client.leave()
        await client.over.wait()
        assert revoke(world.seams) == 0
    assert world.seams.live == set()


@in_virtual_time
async def test_an_exchange_that_goes_on_ends_as_any_other() -> None:
    """The neighbour of those above; and afterwards there is nothing left of it to be cut."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.until(HEAD)
        assert len(world.seams.live) == 1
        world.amend(policy(OTHER))
        assert revoke(world.seams) == 0
        await origin.send(OK)
        assert (await client.answer()).status == 200
        assert world.seams.live == set()
    assert world.only()[1].outcome == "complete"


@in_virtual_time
async def test_who_is_not_served_yet_cannot_be_cut() -> None:
    """`revoke` of an exchange that has nothing under way does nothing."""
    world = World()
    ours, _ = memory_stream_pair()
    Exchange(Wire(ours, h11.SERVER), visit(), world.seams, Kept()).revoke()
    assert world.attempted == []


# Tunnels


async def tunnel(world: World, client: Connection, request: bytes) -> Peer:
    """The origin of a tunnel that stands."""
    await client.send(request)
    origin = await world.origin()
    if not request.startswith(b"CONNECT"):
        await origin.until(HEAD)
        await origin.send(SWITCHING)
    await client.until(HEAD)
    return origin


TUNNELS: Final = pytest.mark.parametrize("request_", [connect(), get("http://example.com/", *UPGRADE)])


@CHANGES
@TUNNELS
@in_virtual_time
async def test_attack_7_7_a_tunnel_that_its_session_carries_is_cut(changed: Policy, request_: bytes) -> None:
    """As it does for a client who speaks TLS to us: the pool is for sockets."""
    world = World()
    async with connected(world) as client:
        origin = await tunnel(world, client, request_)
        await client.send(b"up")
        assert await origin.exactly(2) == b"up"
        world.amend(changed)
        assert revoke(world.seams) == 1
        assert await client.rest() == b""
        assert await origin.rest() == b""
        assert trio.current_time() == 0.0
    _, close = world.only()
    assert (close.outcome, close.bytes_up, close.verdict) == ("revoked", 2, "allow")
    assert (world.house.tunnels, world.seams.live) == (0, set())


@TUNNELS
@in_virtual_time
async def test_a_tunnel_that_its_session_carries_goes_on_where_it_is_still_allowed(request_: bytes) -> None:
    world = World()
    async with connected(world) as client:
        origin = await tunnel(world, client, request_)
        world.amend(policy(OTHER))
        assert revoke(world.seams) == 0
        await origin.send(b"down")
        assert await client.exactly(4) == b"down"


@pytest.mark.parametrize("changed", [policy(DENIED), policy(OTHER)], ids=["denied", "another is denied"])
@TUNNELS
async def test_attack_7_7_a_tunnel_in_the_pool_is_cut_or_goes_on(changed: Policy, request_: bytes) -> None:
    """By the case that its trail remembers, long after its session is over."""
    world = Tunnelling()
    async with tunnelling(world, request_) as (client, origin):
        if not request_.startswith(b"CONNECT"):
            await client.exactly(20)
        world.amend(changed)
        denied = changed.deny[0].name == "late"
        assert revoke(world.seams) == denied
        if denied:
            assert await client.rest() == b""
            assert await origin.rest() == b""
        else:
            await client.send(b"up")
            assert await origin.exactly(2) == b"up"
            await client.leave()
    assert (world.only()[1].outcome == "revoked") is denied


@in_virtual_time
async def test_attack_7_7_a_tunnel_that_is_refused_before_it_stands_carries_nothing() -> None:
    """Its 200 was sent, and its client was to say a name: a reload in between must not miss it."""
    row = f'[[allow]]\nreason = "a test"\nhosts = ["{NAME}"]\nports = [443]'
    world = World(policy=policy(row, default="deny"))
    async with connected(world) as client:
        await client.send(connect(f"{NAME}:443"))
        origin = await world.origin()
        await client.until(HEAD)
        world.amend(policy(default="deny"))
        assert revoke(world.seams) == 0, "there is nothing of it to be cut"
        await client.send(GOOD["TLS 1.3"][0])
        heard = await client.rest()
        assert await origin.rest() == b""
    assert ALERT_UNRECOGNIZED_NAME not in heard
    assert (world.only()[1].outcome, world.only()[1].bytes_up) == ("revoked", 0)


# Whose it is


def clients(*more: str) -> str:
    """Alice, Bob and whoever comes from where the guests are."""
    return client("first", ALICE) + client("second", BOB) + client("guest", None, *more, networks="10.1.9.0/24")


@pytest.mark.parametrize(
    ("changed", "cut"),
    [
        (client("second", BOB), True),
        (client("first", ("alice", "another one")) + client("second", BOB), True),
        (client("renamed", ALICE), False),
        (client("first", ALICE, '[[client.deny]]\nname = "x"\nreason = "x"\nhosts = ["example.com"]'), True),
        (client("first", ALICE), False),
        (client("second", BOB) + client("first", ALICE), False),
        (client("first", ALICE, networks="10.2.0.0/16"), True),
    ],
    ids=["gone", "another password", "renamed", "denied", "alone", "behind", "elsewhere"],
)
@in_virtual_time
async def test_r2_attack_7_7_it_is_judged_for_whomever_its_credential_makes_the_client_now(
    changed: str, *, cut: bool
) -> None:
    """Of a password that was changed, what it had opened ends (ATTACKS 7.4)."""
    world = World(policy=policy(clients()))
    world.seams = replace(world.seams, keyring=Ring())
    async with connected(world, HERE) as client:
        await client.send(connect("example.com:443", basic(*ALICE)))
        await world.origin()
        await client.until(HEAD)
        world.amend(policy(changed))
        assert revoke(world.seams) == cut
    assert world.only()[0].client == "first"


@in_virtual_time
async def test_attack_7_2_what_an_earlier_request_has_shown_does_not_keep_a_later_one_alive() -> None:
    """The guest's request is the guest's, also on a connection on which Alice was there before."""
    world = World(policy=policy(clients()))
    world.seams = replace(world.seams, keyring=Ring())
    async with connected(world, GUESTS) as client:
        await exchange(world, client, get("http://example.com/", basic(*ALICE)))
        await client.answer()
        await client.send(connect())
        await world.origin()
        await client.until(HEAD)
        world.amend(policy(clients('[[client.deny]]\nname = "x"\nreason = "x"\nhosts = ["example.com"]')))
        assert revoke(world.seams) == 1
    assert [decision.client for decision, _ in world.trail()] == ["first", "guest"]
