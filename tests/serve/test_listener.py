"""Sockets bound, connections accepted: no failing accept() ends the loop, and a full house says so (ATTACKS 8)."""

from __future__ import annotations

import errno
import gc
import socket
from typing import TYPE_CHECKING, Self, cast

import pytest
import trio
from netaddr import IPAddress
from trio.abc import HalfCloseableStream
from trio.testing import memory_stream_pair

from proxyd.policy.address import Endpoint
from proxyd.serve.listener import (
    BACKLOG,
    PAUSE_SECONDS,
    STRANGERS,
    TURNED_AWAY,
    Doorman,
    accept_forever,
    bind,
    bound_to,
)
from tests.serve.scene import Peer, World, exchange, get, in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = Endpoint(IPAddress("127.0.0.1"), 0)
STRANGER = "10.9.9.9"  # no [[client]] has this address


# Binding


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_a_listener_is_at_its_endpoint_and_nowhere_else(address: str) -> None:
    """R1."""
    with bind(Endpoint(IPAddress(address), 0)) as listener:
        where = bound_to(listener)
        assert str(where.address) == address
        assert where.port > 0
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as client:
            client.connect((address, where.port))
        with socket.socket(socket.AF_INET) as stranger, pytest.raises(ConnectionRefusedError):
            stranger.connect(("127.0.0.9", where.port))


def test_an_ipv6_listener_takes_no_ipv4() -> None:
    """R1: `[::]:3128` would otherwise be a wildcard of both families; a peer is never a mapped address."""
    with bind(Endpoint(IPAddress("::"), 0)) as listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        with socket.socket(socket.AF_INET) as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", bound_to(listener).port))


def test_a_port_that_somebody_listens_on_is_an_error_and_leaves_no_socket_behind() -> None:
    """DESIGN, "Processes": also a second proxyd."""
    with bind(LOOPBACK) as listener:
        with pytest.raises(OSError, match="in use") as error:
            bind(bound_to(listener))
        assert error.value.errno == errno.EADDRINUSE
        del error
        gc.collect()  # a socket left open would warn here, and a warning is an error


def test_a_port_whose_last_connections_linger_can_be_bound_again() -> None:
    """A restart must not wait for TIME_WAIT."""
    with bind(LOOPBACK) as listener:
        where = bound_to(listener)
        client = socket.create_connection((str(where.address), where.port))
        accepted, _ = listener.accept()
        accepted.close()  # first to close: the server's side is the one that lingers
        client.close()
    with bind(where) as again:
        assert bound_to(again) == where


def test_a_listener_has_room_for_a_burst() -> None:
    """claude-code#18583: connections that come at once are not turned away by the kernel."""
    with bind(LOOPBACK) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(200)]
        for client in clients:
            client.close()
    assert BACKLOG >= 200


# Accepting


class Listening:
    """A listening socket that does what it is told, and then nothing for ever."""

    def __init__(self, *accepts: OSError | trio.socket.SocketType) -> None:
        self._accepts: Iterator[OSError | trio.socket.SocketType] = iter(accepts)
        self.closed = False

    async def accept(self) -> tuple[trio.socket.SocketType, object]:
        await trio.lowlevel.checkpoint()
        for told in self._accepts:
            if isinstance(told, OSError):
                raise told
            return told, ("127.0.0.1", 1)
        await trio.sleep_forever()
        raise AssertionError  # it sleeps for ever

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Guests:
    """A doorman who only notes who came, and when."""

    def __init__(self) -> None:
        self.came: list[tuple[str, float]] = []

    async def receive(self, stream: trio.SocketStream) -> None:
        self.came.append((stream.socket.getpeername()[0], trio.current_time()))
        await stream.aclose()


def tcp_pair() -> tuple[trio.socket.SocketType, socket.socket]:
    """Two ends of a connection: the accepted one, and the client's."""
    with bind(LOOPBACK) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    return trio.socket.from_stdlib_socket(accepted), client


async def accept_all(monkeypatch: pytest.MonkeyPatch, listening: Listening, seconds: float) -> tuple[Guests, list[str]]:
    """Accept from `listening` for so many virtual seconds."""
    guests, complaints = Guests(), list[str]()
    monkeypatch.setattr(trio.socket, "from_stdlib_socket", lambda sock: sock)
    async with trio.open_nursery() as handlers:
        with trio.move_on_after(seconds):
            await accept_forever(cast("socket.socket", listening), cast("Doorman", guests), handlers, complaints.append)
    monkeypatch.undo()
    assert listening.closed
    return guests, complaints


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
@in_virtual_time
async def test_an_accept_that_fails_does_not_end_the_loop(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """ATTACKS 8 (OpenShell#2369): it pauses for exactly 0.1 s each time, so that it does not spin."""
    accepted, client = tcp_pair()
    with client:
        failures = [OSError(number, "it failed") for _ in range(3)]
        guests, complaints = await accept_all(monkeypatch, Listening(*failures, accepted), 5.0)
    assert guests.came == [("127.0.0.1", 3 * PAUSE_SECONDS)]
    assert PAUSE_SECONDS == 0.1
    assert complaints == ["a connection could not be accepted: it failed"] * 3


@in_virtual_time
async def test_clients_that_leave_before_they_are_accepted_cost_the_others_no_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ATTACKS 8: one who connects and resets, again and again, would else keep the door shut; nor is it news."""
    accepted, client = tcp_pair()
    with client:
        aborted = [OSError(errno.ECONNABORTED, "Software caused connection abort") for _ in range(50)]
        guests, complaints = await accept_all(monkeypatch, Listening(*aborted, accepted), 5.0)
    assert guests.came == [("127.0.0.1", 0.0)]
    assert complaints == []


@in_virtual_time
async def test_connections_are_accepted_without_a_pause_while_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [tcp_pair() for _ in range(5)]
    guests, complaints = await accept_all(monkeypatch, Listening(*(accepted for accepted, _ in pairs)), 5.0)
    for _, client in pairs:
        client.close()
    assert guests.came == [("127.0.0.1", 0.0)] * 5
    assert complaints == []


@in_virtual_time
async def test_a_client_that_left_before_it_was_let_in_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACKS 8: an option that cannot be set on its socket is no reason to stop, to complain, or to keep it."""
    gone, other = trio.socket.socketpair()  # takes no option of TCP
    accepted, client = tcp_pair()
    with client, other:
        guests, complaints = await accept_all(monkeypatch, Listening(gone, accepted), 5.0)
    assert gone.fileno() == -1
    assert len(guests.came) == 1
    assert complaints == []


async def test_a_real_connection_is_served_and_kept_alive_by_the_kernel() -> None:
    """The smoke test: a half-dead peer is found by TCP (DESIGN: a tunnel may be silent for an hour)."""
    options: list[int] = []

    class Asking(Guests):
        async def receive(self, stream: trio.SocketStream) -> None:
            options.append(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            await super().receive(stream)

    listener = bind(LOOPBACK)
    where = listener.getsockname()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_forever, listener, cast("Doorman", Asking()), nursery, pytest.fail)
        for _ in range(2):
            with trio.socket.socket() as client:
                await client.connect(where)
                assert await client.recv(1) == b""
        nursery.cancel_scope.cancel()
    assert options == [1, 1]
    assert listener.fileno() == -1


# Letting in


class Accepted(HalfCloseableStream):
    """A stream in memory that has a peer's address, or none because the peer has left."""

    def __init__(self, stream: HalfCloseableStream, peer: str | None) -> None:
        self._stream = stream
        self._peer = peer

    @property
    def socket(self) -> Accepted:
        return self

    def getpeername(self) -> tuple[str, int]:
        if self._peer is None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return self._peer, 1

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


class House:
    """A doorman at work."""

    def __init__(self, world: World, nursery: trio.Nursery, limit: int) -> None:
        self.doorman = Doorman(world.seams, limit)
        self._nursery = nursery

    async def knock(self, peer: str | None = "127.0.0.1") -> Peer:
        """A new client."""
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self.doorman.receive, cast("trio.SocketStream", Accepted(theirs, peer)))
        await trio.testing.wait_all_tasks_blocked()
        return Peer(ours)


@pytest.mark.parametrize(("peer", "recorded"), [("127.0.0.1", "127.0.0.1"), ("fe80::1%eth0", "fe80::1")])
@in_virtual_time
async def test_a_client_is_known_by_the_address_it_connects_from(peer: str, recorded: str) -> None:
    """R2: without the zone, which names one of our links."""
    world = World()
    async with trio.open_nursery() as nursery:
        client = await House(world, nursery, 1).knock(peer)
        await client.send(get("http://127.0.0.1/"))
        assert (await client.answer()).reason == ("address_denied" if peer == "127.0.0.1" else "client_unknown")
        await client.leave()
    assert world.only()[0].client_address == recorded


@in_virtual_time
async def test_a_client_that_has_left_already_is_let_go_without_a_record() -> None:
    """ATTACKS 8: a flood of resets would else flood the log; nor does it take anybody's place, also in a full house."""
    world = World()
    async with trio.open_nursery() as nursery:
        house = House(world, nursery, 1)
        await (await house.knock(None)).closed()
        inside = await house.knock()
        await (await house.knock(None)).closed()
        await exchange(world, inside)
        assert (await inside.answer()).status == 200
        await inside.leave()
    assert house.doorman.served == 1
    assert len(world.trail()) == 1


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
