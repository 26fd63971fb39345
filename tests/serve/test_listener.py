"""Connections accepted: no failing accept() ends the loop (ATTACKS 8), and listeners come and go with the policy."""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Self, cast

import pytest
import trio
from netaddr import IPAddress

from proxyd.net.listening import bind
from proxyd.net.stream import TURN
from proxyd.policy.address import Endpoint
from proxyd.policy.snapshot import Peer as Guest
from proxyd.serve.listener import PAUSE_SECONDS, Listeners, accept_forever
from tests.serve.handed import listener as bound
from tests.serve.scene import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from proxyd.net.stream import TcpStream
    from proxyd.serve.listener import Doorman

LOOPBACK = Endpoint(IPAddress("127.0.0.1"), 0)


class Listening:
    """A listening socket that does what it is told: fails, hands over a connection from a peer, or has none now."""

    def __init__(self, *accepts: Exception | tuple[socket.socket, tuple[str, int] | str]) -> None:
        self._accepts = iter(accepts)
        self.blocking = True
        self.closed = False

    def settimeout(self, timeout: float) -> None:
        self.blocking = timeout != 0

    def accept(self) -> tuple[socket.socket, tuple[str, int] | str]:
        assert not self.blocking
        for told in self._accepts:
            if isinstance(told, Exception):
                raise told
            return told
        raise BlockingIOError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Guests:
    """A doorman who only notes who came, and when, and by which door."""

    def __init__(self) -> None:
        self.came: list[tuple[str, float]] = []
        self.over_tls = 0

    def peer(self, accepted: socket.socket, address: IPAddress | None) -> Guest:
        assert accepted.fileno() >= 0, "its account can be asked for"
        return Guest(address)

    async def receive(self, stream: TcpStream, peer: Guest) -> None:
        assert not stream.socket.getblocking()
        self.came.append((str(peer.address), trio.current_time()))
        stream.close()

    async def receive_tls(self, stream: TcpStream, peer: Guest) -> None:
        self.over_tls += 1
        await self.receive(stream, peer)


@contextmanager
def arrivals(
    count: int = 1, peer: tuple[str, int] | str = ("127.0.0.1", 1)
) -> Iterator[list[tuple[socket.socket, tuple[str, int] | str]]]:
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
            doorman = cast("Doorman", guests)
            sock = cast("socket.socket", listening)
            await accept_forever(sock, doorman, guests.receive, handlers, complaints.append)
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
async def test_attack_8_others_have_their_turn_however_many_leave_before_they_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each that is aborted leaves the others a turn."""
    turns = tries = 0

    class Aborted(Listening):
        def accept(self) -> tuple[socket.socket, tuple[str, int] | str]:
            nonlocal tries
            tries += 1
            assert tries < 100, "it spins"
            raise ConnectionAbortedError

    async def other() -> None:
        nonlocal turns
        while turns < 5:
            turns += 1
            await trio.lowlevel.checkpoint()
        accepting.cancel()

    async with trio.open_nursery() as others:
        with trio.CancelScope() as accepting:
            others.start_soon(other)
            await accept_all(monkeypatch, Aborted(), 5.0)
    assert turns == 5


@in_virtual_time
async def test_a_listener_that_cannot_be_watched_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACKS 8: a reload opened it where the account watches as many files as it may (epoll(7))."""
    waits = iter((OSError(errno.ENOSPC, "No space left on device"), None))

    async def wait(_sock: object) -> None:
        if (failure := next(waits, None)) is not None:
            raise failure
        await trio.sleep_forever()

    guests, complaints = Guests(), list[str]()
    with arrivals() as accepted:
        listening = Listening(BlockingIOError(), *accepted)
        monkeypatch.setattr(trio.lowlevel, "wait_readable", wait)
        async with trio.open_nursery() as handlers:
            with trio.move_on_after(5):
                sock, doorman = cast("socket.socket", listening), cast("Doorman", guests)
                await accept_forever(sock, doorman, guests.receive, handlers, complaints.append)
    assert guests.came == [("127.0.0.1", PAUSE_SECONDS)]
    assert complaints == ["a connection could not be accepted: No space left on device"]


@in_virtual_time
async def test_connections_are_accepted_without_a_pause_while_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with arrivals(5) as accepted:
        guests, complaints = await accept_all(monkeypatch, Listening(*accepted), 5.0)
    assert guests.came == [("127.0.0.1", 0.0)] * 5
    assert complaints == []


@in_virtual_time
async def test_attack_8_a_flood_of_connections_leaves_the_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that never waits would serve nobody while they come; by the end of the next turn, each is served."""
    waiting: list[int] = []

    class Counted(Listening):
        accepted = 0

        def accept(self) -> tuple[socket.socket, tuple[str, int] | str]:
            told = super().accept()
            self.accepted += 1
            waiting.append(self.accepted - len(guests.came))
            return told

    guests = Guests()
    with arrivals(3 * TURN) as accepted:
        await accept_all(monkeypatch, Counted(*accepted), 5.0, guests)
    assert len(guests.came) == 3 * TURN
    assert max(waiting) <= 2 * TURN


@pytest.mark.parametrize(
    ("peer", "known"),
    [
        (("fe80::1%eth0", 1), "fe80::1"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("::1", 1), "::1"),
        (("10.1.2.3", 1), "10.1.2.3"),
        ("", "None"),
        ("/run/client.sock", "None"),
    ],
)
@in_virtual_time
async def test_a_client_is_known_by_the_address_it_connects_from(
    peer: tuple[str, int] | str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2: without the zone, which names one of our links. A Unix socket has no address, whatever it is called."""
    with arrivals(2, peer) as accepted:
        guests, _ = await accept_all(monkeypatch, Listening(*accepted), 5.0)
    assert guests.came == [(known, 0.0)] * 2


async def test_a_real_connection_is_served_and_kept_alive_by_the_kernel() -> None:
    """The smoke test: a half-dead peer is found by TCP (DESIGN: a tunnel may be silent for an hour)."""
    options: list[tuple[int, int]] = []

    class Asking(Guests):
        async def receive(self, stream: TcpStream, peer: Guest) -> None:
            ask = stream.socket.getsockopt
            options.append((ask(socket.SOL_SOCKET, socket.SO_KEEPALIVE), ask(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            await super().receive(stream, peer)

    (listener,) = bind(LOOPBACK)
    where = listener.getsockname()
    guests = Asking()
    with trio.fail_after(20.0):
        async with trio.open_nursery() as nursery:
            doorman = cast("Doorman", guests)
            nursery.start_soon(accept_forever, listener, doorman, guests.receive, nursery, pytest.fail)
            for _ in range(2):
                with trio.socket.socket() as client:
                    await client.connect(where)
                    assert await client.recv(1) == b""
            nursery.cancel_scope.cancel()
    assert options == [(1, 1), (1, 1)], "inherited from the listener"
    assert [who for who, _ in guests.came] == ["127.0.0.1"] * 2
    assert listener.fileno() == -1


# Listeners


class Doors:
    """The listeners of a worker. inside: who was let in."""

    def __init__(self, accepting: trio.Nursery, sessions: trio.Nursery) -> None:
        self.guests = Guests()
        self.listeners = Listeners(cast("Doorman", self.guests), accepting, sessions, pytest.fail)

    async def enters(self, sock: socket.socket) -> bool:
        """Whether somebody who knocks there is let in."""
        before = len(self.guests.came)
        with trio.socket.socket() as client:
            try:
                await client.connect(sock.getsockname())
            except (ConnectionRefusedError, ConnectionResetError):
                return False
            assert await client.recv(1) == b""
        return len(self.guests.came) == before + 1


@asynccontextmanager
async def doors() -> AsyncIterator[tuple[Doors, trio.Nursery]]:
    """Those of a worker; and the nursery that the end of it cancels."""
    with trio.fail_after(20.0):
        async with trio.open_nursery() as sessions, trio.open_nursery() as accepting:
            yield Doors(accepting, sessions), accepting
            accepting.cancel_scope.cancel()


def also(sock: socket.socket) -> socket.socket:
    """The same listening socket once more, as it comes with every charge."""
    return sock.dup()


async def test_listeners_are_kept_come_and_go() -> None:
    """R10: as the new policy has it; of who is kept nobody is turned away, not even for a moment."""
    async with doors() as (worker, _):
        kept, old, new = bound(), bound(), bound()
        with also(kept) as kept_again, also(new) as of_the_supervisor:
            worker.listeners.change({"kept": kept, "old": old})
            where = old.dup()
            assert [await worker.enters(each) for each in (kept, old)] == [True, True]
            where.close()
            gone = _closed_port(old)
            second = also(kept)
            worker.listeners.change({"kept": second, "new": new})
            assert second.fileno() == -1, "the one that is open goes on"
            await trio.testing.wait_all_tasks_blocked()
            assert (kept.fileno() >= 0, old.fileno()) == (True, -1)
            assert [await worker.enters(each) for each in (kept_again, of_the_supervisor)] == [True, True]
            assert not await worker.enters(cast("socket.socket", gone))
            assert worker.guests.over_tls == 0


class _Address:
    """Where a socket listened that is closed by now."""

    def __init__(self, where: tuple[str, int]) -> None:
        self._where = where

    def getsockname(self) -> tuple[str, int]:
        """As the socket said."""
        return self._where


def _closed_port(sock: socket.socket) -> _Address:
    return _Address(sock.getsockname())


async def test_a_listener_that_went_may_come_again() -> None:
    """Two reloads: the second takes the first back."""
    async with doors() as (worker, _):
        one, again = bound(), bound()
        worker.listeners.change({"a": one})
        worker.listeners.change({})
        worker.listeners.change({"a": again})
        await trio.testing.wait_all_tasks_blocked()
        assert one.fileno() == -1
        assert await worker.enters(again)


async def test_clients_who_speak_tls_have_a_door_of_their_own() -> None:
    """It is the listener's name that says so, and nothing that a client sends."""
    async with doors() as (worker, _):
        plain, tls = bound(), bound()
        worker.listeners.change({"127.0.0.1:1": plain, "tls 127.0.0.1:1": tls})
        for sock, over_tls in ((plain, 0), (tls, 1)):
            assert await worker.enters(sock)
            assert worker.guests.over_tls == over_tls


async def test_once_the_end_has_begun_nobody_listens_anywhere_again() -> None:
    """ATTACKS 8: a reload that reaches a worker which drains must neither end it nor let clients in, to wait."""
    async with doors() as (worker, accepting):
        old, new = bound(), bound()
        worker.listeners.change({"old": old})
        accepting.cancel_scope.cancel()
        second = also(old)
        worker.listeners.change({"old": second, "new": new})
        assert (second.fileno(), new.fileno()) == (-1, -1)
