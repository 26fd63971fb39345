"""Connections accepted: no failing accept() ends the loop, and a full house says so (ATTACKS 8)."""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self, cast

import pytest
import trio
from netaddr import IPAddress
from trio.abc import HalfCloseableStream
from trio.testing import memory_stream_pair

from proxyd.net.listening import bind
from proxyd.net.stream import TURN
from proxyd.policy.address import Endpoint
from proxyd.serve.listener import PAUSE_SECONDS, STRANGERS, TURNED_AWAY, Doorman, accept_forever
from tests.serve.scene import Peer, World, exchange, get, in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio import StapledStream
    from trio.testing import MemoryReceiveStream, MemorySendStream

    from proxyd.net.stream import TcpStream
    from proxyd.net.tunnels import Tunnels

LOOPBACK = Endpoint(IPAddress("127.0.0.1"), 0)
STRANGER = "10.9.9.9"  # no [[client]] has this address


# Accepting


class Listening:
    """A listening socket that does what it is told: fails, hands over a connection from a peer, or has none now."""

    def __init__(self, *accepts: Exception | tuple[socket.socket, str]) -> None:
        self._accepts = iter(accepts)
        self.blocking = True
        self.closed = False

    def settimeout(self, timeout: float) -> None:
        self.blocking = timeout != 0

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        assert not self.blocking
        for told in self._accepts:
            if isinstance(told, Exception):
                raise told
            return told[0], (told[1], 1)
        raise BlockingIOError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Guests:
    """A doorman who only notes who came, and when."""

    def __init__(self) -> None:
        self.came: list[tuple[str, float]] = []

    async def receive(self, stream: TcpStream, address: IPAddress) -> None:
        assert not stream.socket.getblocking()
        self.came.append((str(address), trio.current_time()))
        stream.close()


@contextmanager
def arrivals(count: int = 1, peer: str = "127.0.0.1") -> Iterator[list[tuple[socket.socket, str]]]:
    """So many accepted connections, as accept(2) hands them over: from `peer`, as it says."""
    pairs = [socket.socketpair() for _ in range(count)]
    yield [(ours, peer) for ours, _ in pairs]
    for ours, theirs in pairs:
        assert ours.fileno() == -1, "the doorman got it"
        theirs.close()


async def accept_all(
    monkeypatch: pytest.MonkeyPatch, listening: Listening, seconds: float, guests: Guests | None = None
) -> tuple[Guests, list[str]]:
    """Accept from `listening` for so many virtual seconds."""

    async def wait(sock: object) -> None:
        assert sock is listening, "nothing else is waited for"
        await trio.sleep_forever()

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait)
    guests, complaints = guests or Guests(), list[str]()
    async with trio.open_nursery() as handlers:
        with trio.move_on_after(seconds):
            await accept_forever(cast("socket.socket", listening), cast("Doorman", guests), handlers, complaints.append)
    assert listening.closed
    return guests, complaints


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
@in_virtual_time
async def test_an_accept_that_fails_does_not_end_the_loop(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """ATTACKS 8 (OpenShell#2369): it pauses for exactly 0.1 s each time, so that it does not spin."""
    failures = [OSError(number, "it failed") for _ in range(3)]
    with arrivals() as accepted:
        guests, complaints = await accept_all(monkeypatch, Listening(*failures, *accepted), 5.0)
    assert guests.came == [("127.0.0.1", 3 * PAUSE_SECONDS)]
    assert PAUSE_SECONDS == 0.1
    assert complaints == ["a connection could not be accepted: it failed"] * 3


@in_virtual_time
async def test_clients_that_leave_before_they_are_accepted_cost_the_others_no_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ATTACKS 8: one who connects and resets, again and again, would else keep the door shut; nor is it news."""
    aborted = [OSError(errno.ECONNABORTED, "Software caused connection abort") for _ in range(50)]
    with arrivals() as accepted:
        guests, complaints = await accept_all(monkeypatch, Listening(*aborted, *accepted), 5.0)
    assert guests.came == [("127.0.0.1", 0.0)]
    assert complaints == []


@in_virtual_time
async def test_connections_are_accepted_without_a_pause_while_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with arrivals(5) as accepted:
        guests, complaints = await accept_all(monkeypatch, Listening(*accepted), 5.0)
    assert guests.came == [("127.0.0.1", 0.0)] * 5
    assert complaints == []


@in_virtual_time
async def test_attack_8_a_flood_of_connections_leaves_the_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that never waits would serve nobody while they come; two turns later, each is served."""
    waiting: list[int] = []

    class Counted(Listening):
        accepted = 0

        def accept(self) -> tuple[socket.socket, tuple[str, int]]:
            told = super().accept()
            self.accepted += 1
            waiting.append(self.accepted - len(guests.came))
            return told

    guests = Guests()
    with arrivals(3 * TURN) as accepted:
        await accept_all(monkeypatch, Counted(*accepted), 5.0, guests)
    assert len(guests.came) == 3 * TURN
    assert max(waiting) < 2 * TURN


@pytest.mark.parametrize(("peer", "known"), [("fe80::1%eth0", "fe80::1"), ("::1", "::1"), ("10.1.2.3", "10.1.2.3")])
@in_virtual_time
async def test_a_client_is_known_by_the_address_it_connects_from(
    peer: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2: without the zone, which names one of our links."""
    with arrivals(2, peer) as accepted:
        guests, _ = await accept_all(monkeypatch, Listening(*accepted), 5.0)
    assert guests.came == [(known, 0.0)] * 2


async def test_a_real_connection_is_served_and_kept_alive_by_the_kernel() -> None:
    """The smoke test: a half-dead peer is found by TCP (DESIGN: a tunnel may be silent for an hour)."""
    options: list[tuple[int, int]] = []

    class Asking(Guests):
        async def receive(self, stream: TcpStream, address: IPAddress) -> None:
            ask = stream.socket.getsockopt
            options.append((ask(socket.SOL_SOCKET, socket.SO_KEEPALIVE), ask(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            await super().receive(stream, address)

    (listener,) = bind(LOOPBACK)
    where = listener.getsockname()
    guests = Asking()
    with trio.fail_after(20.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, cast("Doorman", guests), nursery, pytest.fail)
            for _ in range(2):
                with trio.socket.socket() as client:
                    await client.connect(where)
                    assert await client.recv(1) == b""
            nursery.cancel_scope.cancel()
    assert options == [(1, 1), (1, 1)], "inherited from the listener"
    assert [who for who, _ in guests.came] == ["127.0.0.1"] * 2
    assert listener.fileno() == -1


# Letting in


class Accepted(HalfCloseableStream):
    """A stream in memory that can be closed at once, as an accepted connection can."""

    def __init__(self, stream: StapledStream[MemorySendStream, MemoryReceiveStream]) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


class House:
    """A doorman at work."""

    def __init__(self, world: World, nursery: trio.Nursery, limit: int) -> None:
        self.doorman = Doorman(world.seams, limit)
        self._nursery = nursery

    async def knock(self, peer: str = "127.0.0.1") -> Peer:
        """A new client."""
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self.doorman.receive, cast("TcpStream", Accepted(theirs)), IPAddress(peer))
        await trio.testing.wait_all_tasks_blocked()
        return Peer(ours)


@in_virtual_time
async def test_a_client_that_says_nothing_is_let_go_without_a_record() -> None:
    """ATTACKS 8: a flood of resets would else flood the log; a client has its place as long as it is there."""
    world = World()
    async with trio.open_nursery() as nursery:
        house = House(world, nursery, 1)
        for _ in range(3):
            await (await house.knock()).leave()
            await trio.testing.wait_all_tasks_blocked()
        inside = await house.knock()
        await exchange(world, inside)
        assert (await inside.answer()).status == 200
        await inside.leave()
    assert house.doorman.served == 4
    assert len(world.trail()) == 1


class Pool:
    """As many tunnels as a test says."""

    def __init__(self) -> None:
        self.tunnels = 0

    def __len__(self) -> int:
        return self.tunnels


@in_virtual_time
async def test_attack_8_tunnels_of_the_pool_count_against_the_limit() -> None:
    """Their sessions are over, their sockets are not; a tunnel that ends makes room."""
    world, pool = World(), Pool()
    world.seams = replace(world.seams, tunnels=cast("Tunnels", pool))
    async with trio.open_nursery() as nursery:
        house = House(world, nursery, 2)
        for tunnels, inside, reason in ((2, 0, "connection_limit"), (1, 0, None), (1, 1, "connection_limit")):
            pool.tunnels = tunnels
            clients = [await house.knock() for _ in range(inside)]
            client = await house.knock()
            if reason is None:
                await exchange(world, client)
                assert (await client.answer()).status == 200
            else:
                assert (await client.answer()).reason == reason
            for each in (client, *clients):
                await each.leave()
            await trio.testing.wait_all_tasks_blocked()
    assert house.doorman.served == 2


@in_virtual_time
async def test_strangers_are_heard_however_many_tunnels_there_are() -> None:
    """R2: who they are is none of the tunnels' business, and they take none of their places."""
    world, pool = World(), Pool()
    pool.tunnels = 1000
    world.seams = replace(world.seams, tunnels=cast("Tunnels", pool))
    async with trio.open_nursery() as nursery:
        stranger = await House(world, nursery, 2).knock(STRANGER)
        await stranger.send(get())
        assert (await stranger.answer()).reason == "client_unknown"
        await stranger.leave()


@in_virtual_time
async def test_as_many_clients_as_the_limit_says_are_served_and_one_more_is_told() -> None:
    """R7, R12, ATTACKS 8 (unbounded tunnels)."""
    world = World()
    async with trio.open_nursery() as nursery:
        house = House(world, nursery, 2)
        inside = [await house.knock(), await house.knock()]
        late = await house.knock()
        answer = await late.answer()
        assert (answer.status, answer.reason, answer.fields["connection"]) == (503, "connection_limit", "close")
        await late.closed()
        for client in inside:
            await exchange(world, client)
            assert (await client.answer()).status == 200
            await client.leave()
    assert house.doorman.served == 2
    refused, *served = world.trail()
    assert (refused[0].reason, refused[0].status, refused[1].outcome) == ("connection_limit", 503, "refused")
    assert [decision.verdict for decision, _ in served] == ["allow", "allow"]


@in_virtual_time
async def test_who_leaves_makes_room() -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        house = House(world, nursery, 1)
        for _ in range(3):
            client = await house.knock()
            await exchange(world, client)
            assert (await client.answer()).status == 200
            await client.leave()
            await trio.testing.wait_all_tasks_blocked()
        assert house.doorman.served == 3


@in_virtual_time
async def test_only_so_many_are_told_at_once_and_more_are_just_closed() -> None:
    """ATTACKS 8: who turns away a flood with care is drowned by it. A second later, there is time again."""
    world = World()
    async with trio.open_nursery() as nursery:
        house = House(world, nursery, 1)
        inside = await house.knock()
        told = [await house.knock() for _ in range(TURNED_AWAY)]
        closed = await house.knock()
        await closed.closed()
        assert [record.event for record in world.records] == ["decision"] * TURNED_AWAY
        for client in told:
            assert (await client.answer()).status == 503
        await trio.sleep(1.5)
        assert (await (await house.knock()).answer()).status == 503
        await inside.leave()
    assert len(world.trail()) == TURNED_AWAY + 1
    assert house.doorman.served == 1


@in_virtual_time
async def test_strangers_take_no_place_of_a_client() -> None:
    """R2, ATTACKS 8: they need not even ask, and could keep every client out."""
    world = World()
    async with trio.open_nursery() as nursery:
        house = House(world, nursery, 1)
        strangers = [await house.knock(STRANGER) for _ in range(STRANGERS)]
        client = await house.knock()
        await exchange(world, client)
        assert (await client.answer()).status == 200
        for each in (client, *strangers):
            await each.leave()
    assert house.doorman.served == 1 + STRANGERS
    assert [decision.verdict for decision, _ in world.trail()] == ["allow"]


@in_virtual_time
async def test_clients_take_no_place_of_a_stranger_who_is_refused_as_one() -> None:
    """R2: also by a full house, which is none of his business."""
    world = World()
    async with trio.open_nursery() as nursery:
        house = House(world, nursery, 1)
        inside = await house.knock()
        stranger = await house.knock(STRANGER)
        await stranger.send(get())
        answer = await stranger.answer()
        assert (answer.status, answer.reason) == (403, "client_unknown")
        assert (await (await house.knock()).answer()).status == 503
        for each in (inside, stranger):
            await each.leave()
    assert world.trail()[0][0].client_address == STRANGER


@in_virtual_time
async def test_only_so_many_strangers_are_heard_at_once_and_more_are_just_closed() -> None:
    """ATTACKS 8: nor is it on record that they came; who leaves makes room."""
    world = World()
    async with trio.open_nursery() as nursery:
        house = House(world, nursery, 1)
        strangers = [await house.knock(STRANGER) for _ in range(STRANGERS)]
        await (await house.knock(STRANGER)).closed()
        assert (STRANGERS, house.doorman.served, world.records) == (64, 64, [])
        await strangers.pop().leave()
        await trio.testing.wait_all_tasks_blocked()
        strangers.append(await house.knock(STRANGER))
        await (await house.knock(STRANGER)).closed()
        await strangers[-1].send(get())
        assert (await strangers[-1].answer()).reason == "client_unknown"
        for each in strangers:
            await each.leave()
    assert house.doorman.served == STRANGERS + 1


@in_virtual_time
async def test_the_place_of_a_strangers_session_that_is_cancelled_is_free_again() -> None:
    """ATTACKS 8: a count that only grows would turn into silence for the next one who is misconfigured."""
    doorman = Doorman(World().seams, 1)
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            house = House(World(), nursery, 1)
            house.doorman = doorman
            strangers = [await house.knock(STRANGER) for _ in range(STRANGERS)]
            await strangers[-1].silent()
            nursery.cancel_scope.cancel()


@in_virtual_time
async def test_the_place_of_a_session_that_is_cancelled_is_free_again() -> None:
    """A count that only grows would close the house for good; the same holds for those who are turned away."""
    world = World()
    doorman = Doorman(world.seams, 1)
    for _ in range(TURNED_AWAY + 2):
        async with trio.open_nursery() as nursery:
            house = House(world, nursery, 1)
            house.doorman = doorman
            await house.knock()
            refused = await house.knock()
            assert (await refused.answer()).status == 503
            nursery.cancel_scope.cancel()
