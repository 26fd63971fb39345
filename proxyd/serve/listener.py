"""Connections accepted: whatever accept() says, the loop goes on (ATTACKS 8).

Nothing here reads a byte of what a client sends.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import trio
from netaddr import IPAddress

from proxyd.net.stream import TURN, TcpStream, hang_up
from proxyd.net.tls import TlsStream
from proxyd.policy.snapshot import Peer
from proxyd.serve.crowd import Crowd
from proxyd.serve.ledger import Place
from proxyd.serve.session import serve_connection, turn_away
from proxyd.serve.visit import Visit

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from proxyd.observe.tally import Tally
    from proxyd.serve.seams import Seams

    Receive = Callable[[TcpStream, Peer], Awaitable[None]]

PAUSE_SECONDS: Final = 0.1  # after an accept() that failed: when files run out, trying at once helps nobody
TURNED_AWAY: Final = 64  # connections beyond the limit that are told so at once; more are just closed
HANDSHAKES: Final = 256  # TLS handshakes at once; for one more, who stalls is just closed
HANDSHAKE_SECONDS: Final = 10.0
TLS: Final = "tls "
"""How the name of a listener begins whose clients speak TLS."""
STRANGERS: Final = 64  # connections at once of those who are no clients and will be refused; more are just closed


class Doorman:
    """Lets clients in up to a limit, and counts them. Strangers take none of their places, but a few of their own."""

    def __init__(
        self, seams: Seams, owner_of: Callable[[socket.socket], int | None], capacity: int, tally: Tally
    ) -> None:
        """owner_of: the local account at the other end of a connection, if that can be known.

        capacity: connections that this process has open files for, each with one to an origin.
        """
        self._tally = tally
        self._capacity = capacity
        self.served = 0
        self._seams = seams
        self._owner_of = owner_of
        self._turning_away = 0
        self._strangers = 0
        self._handshakes = Handshakes(HANDSHAKES, tally)
        self._strangers_handshakes = Handshakes(STRANGERS, tally)
        self.tls: ssl.SSLContext | None = None

    def peer(self, accepted: socket.socket, address: IPAddress | None) -> Peer:
        """Who has just connected, and is counted; their account is asked for at once, and only where it matters."""
        self._tally.accepted()
        matters = self._seams.snapshot().asks_for_accounts
        return Peer(address, self._owner_of(accepted) if matters else None)

    async def receive_tls(self, tcp: TcpStream, peer: Peer) -> None:
        """The same, for a client who speaks TLS to us. Raises nothing. One who does not is only let go."""
        if self.tls is None:
            self._tally.dropped()
            tcp.close()
            return
        stream = TlsStream(tcp, self.tls)
        handshakes = self._strangers_handshakes if self._is_stranger(peer) else self._handshakes
        if await handshakes.make(stream, peer):
            await self.receive(stream, peer)
        else:
            tcp.close()

    async def receive(self, stream: TcpStream | TlsStream, peer: Peer) -> None:
        """Serve one client's connection to its end, or turn it away. Raises nothing."""
        if self._is_stranger(peer):
            await self._hear_stranger(stream, peer)
        elif (place := self._place()) is not None:
            self.served += 1
            await serve_connection(stream, Visit(peer, place), self._seams)
        elif self._turning_away < TURNED_AWAY:
            self._turning_away += 1
            try:
                await turn_away(stream, Visit(peer), self._seams)
            finally:
                self._turning_away -= 1
        else:
            self._tally.dropped()
            await hang_up(stream)

    def _place(self) -> Place | None:
        """A place, even if somebody has to leave it who has asked for nothing."""
        place = self._enter()
        return self._enter() if place is None and self._seams.crowd.make_room() else place

    def _enter(self) -> Place | None:
        return self._seams.ledger.enter(self._seams.snapshot().policy.limits.connections, self._capacity)

    def _is_stranger(self, peer: Peer) -> bool:
        """Whether they cannot be any client, whatever they may know."""
        return next(self._seams.snapshot().candidates(peer), None) is None

    async def _hear_stranger(self, stream: TcpStream | TlsStream, peer: Peer) -> None:
        """Let one ask who will be refused, so that the refusal says so and is on record."""
        if self._strangers >= STRANGERS:
            self._tally.dropped()
            await hang_up(stream)
            return
        self.served += 1
        self._strangers += 1
        try:
            await serve_connection(stream, Visit(peer), self._seams)
        finally:
            self._strangers -= 1


class Handshakes:
    """TLS handshakes, so many at once: each costs a core's millisecond. Who stalls makes room for who comes."""

    def __init__(self, most: int, tally: Tally) -> None:
        self._most = most
        self._tally = tally
        self._under_way = 0
        self._crowd = Crowd()

    async def make(self, stream: TlsStream, peer: Peer) -> bool:
        """Whether the client agreed with us: in time, and before others needed its place. Raises nothing."""
        if self._under_way >= self._most:
            self._crowd.make_room()
        self._under_way += 1
        visit = Visit(peer, Place(self._over))
        try:
            with self._crowd.waiting(visit) as needed, trio.move_on_after(HANDSHAKE_SECONDS):
                await stream.handshake()
                return True
        except trio.BrokenResourceError:
            return False
        finally:
            visit.leave()
        if needed.cancelled_caught:
            self._tally.dropped()
        return False

    def _over(self) -> None:
        self._under_way -= 1


class Listeners:
    """Those that are open, each with the task that accepts on it."""

    def __init__(
        self, doorman: Doorman, accepting: trio.Nursery, sessions: trio.Nursery, complain: Callable[[str], None]
    ) -> None:
        """sessions: the nursery of those who may outlive their listener."""
        self._doorman = doorman
        self._accepting = accepting
        self._sessions = sessions
        self._complain = complain
        self._open: dict[str, trio.CancelScope] = {}

    def change(self, sockets: Mapping[str, socket.socket]) -> None:
        """Listen there, and nowhere else; one that is open already goes on, and its second socket is closed.

        Once the end has begun, nobody listens anywhere again.
        """
        for where in self._open.keys() - sockets.keys():
            self._open.pop(where).cancel()
        for where, sock in sockets.items():
            if where in self._open or self._accepting.cancel_scope.cancel_called:
                sock.close()
            else:
                self._open[where] = trio.CancelScope()
                receive = self._doorman.receive_tls if where.startswith(TLS) else self._doorman.receive
                self._accepting.start_soon(self._accept, sock, receive, self._open[where])

    async def _accept(self, sock: socket.socket, receive: Receive, scope: trio.CancelScope) -> None:
        with scope:
            await accept_forever(sock, self._doorman, receive, self._sessions, self._complain)


async def accept_forever(
    sock: socket.socket,
    doorman: Doorman,
    receive: Receive,
    handlers: trio.Nursery,
    complain: Callable[[str], None],
) -> None:
    """Accept connections and let the doorman receive each, in the nursery of those who may outlive the listener."""
    sock.settimeout(0)
    taken = 0
    with sock:
        while True:
            try:
                accepted, peer = await _next(sock)
            except OSError as error:
                complain(f"a connection could not be accepted: {error.strerror}")
                await trio.sleep(PAUSE_SECONDS)
                continue
            accepted.settimeout(0)
            handlers.start_soon(receive, TcpStream(accepted), doorman.peer(accepted, _address(peer)))
            taken += 1
            if taken % TURN == 0:
                await trio.lowlevel.checkpoint()


async def _next(sock: socket.socket) -> tuple[socket.socket, Any]:
    """The next connection, and where it comes from. Raises OSError."""
    while True:
        try:
            return sock.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
        except ConnectionAbortedError:  # it left before it was let in; many may, and the others have their turn
            await trio.lowlevel.checkpoint()


def _address(peer: str | bytes | tuple[Any, ...]) -> IPAddress | None:
    """Where a client connects from, as accept(2) said it: nowhere, for a Unix socket."""
    return _parsed(peer[0]) if isinstance(peer, tuple) else None


@lru_cache(maxsize=4096)
def _parsed(host: str) -> IPAddress:
    """An address. A listener that the service manager made for both families shows IPv4 peers as mapped ones."""
    address = IPAddress(host.partition("%")[0])
    return address.ipv4() if address.is_ipv4_mapped() else address
