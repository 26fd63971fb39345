"""Connections accepted: whatever accept() says, the loop goes on (ATTACKS 8).

Nothing here reads a byte of what a client sends.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import trio
from netaddr import IPAddress

from proxyd.net.stream import TURN, TcpStream
from proxyd.serve.session import serve_connection, turn_away

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from proxyd.serve.seams import Seams

PAUSE_SECONDS: Final = 0.1  # after an accept() that failed: when files run out, trying at once helps nobody
TURNED_AWAY: Final = 64  # connections beyond the limit that are told so at once; more are just closed
STRANGERS: Final = 64  # connections at once of those who are no clients and will be refused; more are just closed


class Doorman:
    """Lets clients in up to a limit, and counts them. Strangers take none of their places, but a few of their own."""

    def __init__(self, seams: Seams, limit: int) -> None:
        self.served = 0
        self._seams = seams
        self._limit = limit
        self._inside = 0
        self._turning_away = 0
        self._strangers = 0

    def _tunnels(self) -> int:
        """Connections that are tunnels now, and have no session any more."""
        return 0 if self._seams.tunnels is None else len(self._seams.tunnels)

    async def receive(self, stream: TcpStream, address: IPAddress) -> None:
        """Serve one client's connection to its end, or turn it away. Raises nothing."""
        if self._seams.snapshot().identify(address) is None:
            await self._hear_stranger(stream, address)
        elif self._inside + self._tunnels() < self._limit:
            self.served += 1
            self._inside += 1
            try:
                await serve_connection(stream, address, self._seams)
            finally:
                self._inside -= 1
        elif self._turning_away < TURNED_AWAY:
            self._turning_away += 1
            try:
                await turn_away(stream, address, self._seams)
            finally:
                self._turning_away -= 1
        else:
            stream.close()

    async def _hear_stranger(self, stream: TcpStream, address: IPAddress) -> None:
        """Let one ask who will be refused, so that the refusal says so and is on record."""
        if self._strangers >= STRANGERS:
            stream.close()
            return
        self.served += 1
        self._strangers += 1
        try:
            await serve_connection(stream, address, self._seams)
        finally:
            self._strangers -= 1


async def accept_forever(
    sock: socket.socket, doorman: Doorman, handlers: trio.Nursery, complain: Callable[[str], None]
) -> None:
    """Accept connections and hand each to the doorman, in the nursery of those who may outlive the listener."""
    sock.settimeout(0)
    taken = 0
    with sock:
        while True:
            try:
                accepted, peer = sock.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
                continue
            except ConnectionAbortedError:
                continue  # it left before it was let in
            except OSError as error:
                complain(f"a connection could not be accepted: {error.strerror}")
                await trio.sleep(PAUSE_SECONDS)
                continue
            accepted.settimeout(0)
            handlers.start_soon(doorman.receive, TcpStream(accepted), _address(peer[0]))
            taken += 1
            if taken % TURN == 0:
                await trio.lowlevel.checkpoint()


@lru_cache(maxsize=4096)
def _address(peer: str) -> IPAddress:
    """Where a client connects from, as accept(2) said it."""
    return IPAddress(peer.partition("%")[0])
