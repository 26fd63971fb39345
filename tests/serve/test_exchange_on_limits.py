"""What is too much: refused before anything is looked up, counted whatever the verdict, and given back at every end.

R10, ATTACKS 8. How much is too much is `policy.limits`' and the ledger's to say.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import h11
import pytest
import trio
from netaddr import IPAddress
from trio.testing import memory_stream_pair

from proxyd.audit.sink import SinkError
from proxyd.http.request import Asked
from proxyd.net.dialer import DialError
from proxyd.net.resolver import DnsError
from proxyd.net.wire import Wire
from proxyd.policy.address import parse_authority
from proxyd.policy.limits import Over
from proxyd.policy.snapshot import Peer as Guest
from proxyd.policy.verdict import Reason
from proxyd.serve.exchange import Exchange
from proxyd.serve.kept import Kept
from proxyd.serve.ledger import EVERYBODY, Ledger, Place, make_room, new_ledger
from proxyd.serve.session import serve_connection
from proxyd.serve.visit import Visit
from tests.serve.scene import (
    OK,
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
from tests.serve.test_exchange_on_sockets import HEAD, SOON, SWITCHING, UPGRADE, Tunnelling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from proxyd.net.stream import TcpStream
    from tests.serve.scene import Connection

DENIED = '[[deny]]\nname = "evil"\nreason = "a test"\nhosts = ["evil.example"]'


# Refused


@pytest.mark.parametrize(
    ("over", "status", "error"),
    [
        (Over(Reason.RATE_LIMIT, 7), 429, "connection_limit_reached"),
        (Over(Reason.CONCURRENCY_LIMIT), 429, "connection_limit_reached"),
        (Over(Reason.OVERLOADED, 3), 503, "connection_limit_reached"),
    ],
)
@pytest.mark.parametrize("request_", [get(), get("http://example.com/", *UPGRADE), connect(), get("http://127.0.0.1/")])
@in_virtual_time
async def test_r10_too_much_is_refused_without_a_lookup_and_says_when_to_come_back(
    over: Over, status: int, error: str, request_: bytes
) -> None:
    """With both records, and as an error: it is no denial, and is not counted as an attack."""
    world = World()
    world.house.over = over
    async with connected(world) as client:
        await client.send(request_)
        answer = await client.answer()
        assert (answer.status, answer.reason) == (status, over.reason)
        assert answer.fields["retry-after"] == str(over.retry_after)
        assert f"proxyd; error={error};" in answer.fields["proxy-status"]
        if request_.startswith(b"CONNECT"):
            await client.closed()
        else:
            world.house.over = None
            await exchange(world, client)
            assert (await client.answer()).status == 200
    assert world.count("resolve") == (0 if request_.startswith(b"CONNECT") else 1)
    decision, close = world.trail()[0]
    assert (decision.client, decision.verdict, decision.reason, decision.status) == (
        *("agent", "error", over.reason),
        status,
    )
    assert (close.outcome, close.reason) == ("refused", over.reason)


@contextmanager
def counting(world: World) -> Iterator[None]:
    """Let the limits of the world's policy be counted as in real life, by the clock of the test."""
    fd = new_ledger()
    make_room(fd, 2)
    ledger = Ledger(os.dup(fd), 0, 1, (EVERYBODY, "agent"), trio.current_time)
    world.seams = replace(world.seams, ledger=ledger)
    try:
        yield
    finally:
        ledger.close()
        os.close(fd)


@in_virtual_time
async def test_r10_a_token_is_spent_whatever_the_verdict() -> None:
    """DESIGN: or a refused client could drive the resolver, and the log, without limit."""
    world = World(policy=policy(f"[client.limits]\nrequests_per_second = 1\nburst = 3\n{DENIED}"))
    world.answers["nowhere.example"] = DnsError("no", Reason.DNS_ERROR)
    with counting(world):
        await trio.sleep(60.0)
        async with connected(world) as client:
            for url, status in (
                ("http://evil.example/", 403),
                ("http://127.0.0.1/", 403),
                ("http://nowhere.example/", 502),
                ("http://evil.example/", 429),
                ("http://example.com/", 429),
            ):
                await client.send(get(url))
                assert (await client.answer()).status == status
            await trio.sleep(1.0)
            await exchange(world, client)
            assert (await client.answer()).status == 200


@in_virtual_time
async def test_r10_what_cannot_be_read_is_refused_for_that_and_spends_nothing() -> None:
    """DESIGN: form comes before limits; and nothing was asked that could be counted."""
    world = World(policy=policy("[client.limits]\nrequests_per_second = 1"))
    with counting(world):
        await trio.sleep(60.0)
        for _ in range(3):
            async with connected(world) as client:
                await client.send(get("/origin-form"))
                assert (await client.answer()).status == 400
        async with connected(world) as client:
            await exchange(world, client)
            assert (await client.answer()).status == 200


@in_virtual_time
async def test_r10_so_many_tunnels_at_once_and_another_when_one_is_over() -> None:
    world = World(policy=policy("[client.limits]\ntunnels = 1"))
    with counting(world):
        async with connected(world) as first:
            await first.send(connect())
            origin = await world.origin()
            await first.until(HEAD)
            async with trio.open_nursery() as nursery:
                second = await _another(world, nursery)
                await second.send(get("http://example.com/", *UPGRADE))
                assert (await second.answer()).reason == "concurrency_limit"
                await first.end()
                await origin.end()
                await first.over.wait()
                await second.send(get("http://example.com/", *UPGRADE))
                await (await world.origin()).send(SWITCHING)
                assert (await second.until(HEAD)).startswith(b"HTTP/1.1 101")
                nursery.cancel_scope.cancel()


async def _another(world: World, nursery: trio.Nursery) -> Connection:
    from tests.serve.scene import Connection  # noqa: PLC0415

    return await Connection.serve(world, nursery, "127.0.0.1")


@in_virtual_time
async def test_r12_nobody_is_admitted() -> None:
    """Who asks is known before anything is counted for him; if it were not, that would be a bug and no permission."""
    world = World(buggy=True)
    it = Exchange(Wire(memory_stream_pair()[0], h11.SERVER), visit(None), world.seams, Kept())
    with pytest.raises(TypeError, match="who asks"):
        it._admit(Asked("connect", parse_authority("example.com:443"), ""))  # noqa: SLF001 - nobody else can
    assert world.house.tunnels == 0


# Given back


async def _goes_well(world: World, client: Connection) -> None:
    await exchange(world, client)
    await client.answer()


async def _is_refused_by_name(_: World, client: Connection) -> None:
    await client.send(get("http://evil.example/"))
    await client.answer()


async def _is_refused_by_address(_: World, client: Connection) -> None:
    await client.send(connect("127.0.0.1:443"))
    await client.answer()


async def _does_not_resolve(world: World, client: Connection) -> None:
    world.answers["example.com"] = DnsError("no", Reason.DNS_ERROR)
    await client.send(get())
    await client.answer()


async def _takes_too_long(world: World, client: Connection) -> None:
    world.dns_seconds = 60.0
    await client.send(get())
    await client.answer()


async def _is_not_reached(world: World, client: Connection) -> None:
    world.dial_error = DialError(Reason.CONNECT_REFUSED)
    await client.send(connect())
    await client.answer()


async def _is_not_recorded(world: World, client: Connection) -> None:
    world.sink_error = SinkError("No space left")
    await client.send(get())
    await client.answer()


async def _is_answered_here(_: World, client: Connection) -> None:
    await client.send(get("http://example.com", "Max-Forwards: 0", method="OPTIONS"))
    await client.answer()


async def _is_answered_badly(world: World, client: Connection) -> None:
    await exchange(world, client, response=b"nonsense\r\n\r\n")
    await client.answer()


async def _breaks_off(world: World, client: Connection) -> None:
    await client.send(get())
    await (await world.origin()).leave()
    await client.answer()


async def _loses_its_client(world: World, client: Connection) -> None:
    await client.send(get())
    await world.origin()
    await client.leave()


async def _meets_a_bug(world: World, client: Connection) -> None:
    world.buggy = True
    world.dial_error = ValueError("a bug")
    await client.send(get())
    await client.answer()


async def _tunnels(world: World, client: Connection) -> None:
    await client.send(connect())
    origin = await world.origin()
    await client.until(HEAD)
    await origin.leave()
    await client.send(b"to nobody")


async def _switches(world: World, client: Connection) -> None:
    await client.send(get("http://example.com/", *UPGRADE))
    origin = await world.origin()
    await origin.send(SWITCHING)
    await client.until(HEAD)
    await client.end()
    await origin.end()


ENDS: list[Callable[[World, Connection], Awaitable[None]]] = [
    *(_goes_well, _is_refused_by_name, _is_refused_by_address, _does_not_resolve, _takes_too_long, _is_not_reached),
    *(_is_not_recorded, _is_answered_here, _is_answered_badly, _breaks_off, _loses_its_client, _meets_a_bug),
    *(_tunnels, _switches),
]


@pytest.mark.parametrize("request_", [connect("10.0.0.5:443"), get("http://10.0.0.5/", method="POST") + b"x"])
@in_virtual_time
async def test_r10_who_was_refused_and_does_not_leave_holds_no_place(request_: bytes) -> None:
    """They are heard out for seconds, so that the refusal arrives; others need not wait for that."""
    world = World()
    async with connected(world) as client:
        await client.send(request_)
        await client.until(HEAD)
        await trio.testing.wait_all_tasks_blocked()
        assert (world.house.requests, world.house.tunnels) == (0, 0)


@in_virtual_time
async def test_r10_who_was_answered_before_all_was_asked_and_does_not_leave_holds_no_place() -> None:
    """They are heard out in the same way."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com/", "Content-Length: 100", method="POST") + b"x")
        origin = await world.origin()
        assert world.house.requests == 1
        await origin.send(OK)
        assert (await client.answer()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert world.house.requests == 0


@in_virtual_time
async def test_r10_who_was_answered_here_before_all_was_asked_holds_no_place() -> None:
    world = World()
    async with connected(world) as client:
        fields = ("Max-Forwards: 0", "Content-Length: 100")
        await client.send(get("http://example.com/", *fields, method="OPTIONS") + b"x")
        await client.until(HEAD)
        await trio.testing.wait_all_tasks_blocked()
        assert world.house.requests == 0


@in_virtual_time
async def test_r10_a_place_is_free_again_for_who_asks_at_the_last_octet_of_an_answer() -> None:
    """On another connection, say: nobody is told that there is no room for what is over."""
    for _ in range(20):  # who goes first of those that can is left to chance by trio
        world = World()
        async with connected(world) as client, trio.open_nursery() as nursery:

            async def look(world: World, client: Connection) -> None:
                await client.until(HEAD + b"hi")
                assert world.house.requests == 0

            await client.send(get())
            origin = await world.origin()
            nursery.start_soon(look, world, client)
            await trio.testing.wait_all_tasks_blocked()
            assert world.house.requests == 1
            await origin.send(OK)


@in_virtual_time
async def test_r10_who_came_as_a_stranger_and_is_a_client_by_now_has_no_place_to_ask_from() -> None:
    """Strangers are heard beside the places; a new policy may know them, and they come again."""
    world = World()
    ours, theirs = memory_stream_pair()
    client = Peer(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, Visit(Guest(IPAddress("127.0.0.1"))), world.seams)
        await client.send(get())
        answer = await client.answer()
        assert (answer.status, answer.reason) == (503, "connection_limit")
        await client.leave()
    assert world.only()[1].outcome == "refused"


@pytest.mark.parametrize("happens", ENDS, ids=lambda each: each.__name__.strip("_"))
@in_virtual_time
async def test_r10_a_place_is_taken_once_and_left_in_every_end_of_a_request(
    happens: Callable[[World, Connection], Awaitable[None]],
) -> None:
    """One that is never left is lost to everybody until proxyd ends; one that is left twice lets too many in."""
    world = World(policy=policy(DENIED))
    taken: list[tuple[int, int]] = []
    admit = world.house.admit

    def admitted(*client: object, tunnel: bool) -> Place | Over:
        place = admit(*client, tunnel=tunnel)  # type: ignore[arg-type]
        taken.append((world.house.requests, world.house.tunnels))
        return place

    world.house.admit = admitted  # type: ignore[method-assign, assignment]
    async with connected(world) as client:
        await happens(world, client)
    is_tunnel = happens in (_tunnels, _switches, _is_refused_by_address, _is_not_reached)
    assert taken == [(0, 1) if is_tunnel else (1, 0)]
    assert (world.house.requests, world.house.tunnels) == (0, 0)


@in_virtual_time
async def test_r10_a_place_is_held_for_as_long_as_a_tunnel_is_open_and_left_when_it_is_cut_off() -> None:
    """At the end of the drain, as anywhere else."""
    world = World()
    ours, theirs = memory_stream_pair()
    client = Peer(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, visit(), world.seams)
        await client.send(connect())
        await client.until(HEAD)
        await trio.sleep(60.0)
        assert world.house.tunnels == 1
        nursery.cancel_scope.cancel()
    assert world.house.tunnels == 0
    assert world.only()[1].outcome == "aborted"


# Tunnels that outlive their session


class Placed(Tunnelling):
    """A world whose client has a place of its own in the house."""

    async def session(self, stream: TcpStream) -> None:
        """Serve it to its end."""
        await serve_connection(stream, Visit(Guest(IPAddress("127.0.0.1")), self.house.enter(1, 1)), self.seams)
        self.over.set()


@pytest.mark.parametrize("request_", [connect(), get("http://example.com/", *UPGRADE)])
async def test_r10_the_places_of_a_tunnel_in_the_pool_are_left_at_its_end_and_not_before(request_: bytes) -> None:
    """The request's, and the connection's: the session that had them is over, and the tunnel is not."""
    world = Placed()
    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.pool.run)
            ours, theirs = tcp_streams()
            nursery.start_soon(world.session, ours)
            client = Peer(theirs)
            await client.send(request_)
            origin = await world.origin()
            if not request_.startswith(b"CONNECT"):
                await origin.send(SWITCHING)
            await client.until(HEAD)
            await world.over.wait()
            assert (world.house.connections, world.house.tunnels) == (1, 1)
            await client.leave()
            await origin.leave()
            await world.pool.drained()
            assert (world.house.connections, world.house.tunnels) == (0, 0)
            nursery.cancel_scope.cancel()
    assert world.complaints == []


async def test_attack_8_a_tunnel_that_the_pool_cannot_take_leaves_its_places_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel may refuse to watch more files; each such tunnel would cost two places for ever."""
    world = Placed()

    class NoRoom:
        def register(self, *_: object) -> None:
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> object:
            return getattr(epoll, name)

    epoll = world.pool._epoll  # noqa: SLF001 - the kernel's refusal cannot be had otherwise
    monkeypatch.setattr(world.pool, "_epoll", NoRoom())
    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            ours, theirs = tcp_streams()
            nursery.start_soon(world.session, ours)
            client = Peer(theirs)
            await client.send(connect())
            origin = await world.origin()
            await client.until(HEAD)
            assert await client.rest() == b""
            assert await origin.rest() == b""
            await world.over.wait()
            await client.leave()
            await origin.leave()
    assert (world.house.connections, world.house.tunnels) == (0, 0)
    assert (world.only()[1].outcome, world.complaints) == ("aborted", [])
    epoll.close()


async def test_a_request_that_is_no_tunnel_leaves_its_places_with_its_session() -> None:
    world = Placed()
    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            ours, theirs = tcp_streams()
            nursery.start_soon(world.session, ours)
            client = Peer(theirs)
            await client.send(get("http://example.com/", "Connection: close"))
            origin = await world.origin()
            await origin.until(HEAD)
            assert (world.house.connections, world.house.requests) == (1, 1)
            await origin.send(OK)
            await client.rest()
            await client.leave()
            await origin.leave()
            await world.over.wait()
    assert (world.house.connections, world.house.requests, world.house.tunnels) == (0, 0, 0)
