"""TCP connections in memory: proxyd's end is a TcpStream on a kernel of ours, the other end is in a script's hands.

What `TcpStream` does with a socket is done here too; only waiting is trio's in another way.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final, cast

import trio

from proxyd.net.stream import TcpStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOM: Final = 2048
"""Octets that are on their way to somebody who does not read."""


class Line:
    """One connection. As the socket that proxyd holds it has recv, send and the like; the peer has the rest.

    said: what the peer has sent, as far as somebody was there to receive it. heard: what it has read, or will when it
    reads again. finished: proxyd ended its side. closed: it let go. abortive: so that a reset tells the peer. left: the
    peer has reset it.
    """

    def __init__(self) -> None:
        self.said, self.heard = bytearray(), bytearray()
        self.finished = self.closed = self.abortive = self.left = False
        self._marks: list[tuple[int, int]] = []
        self._arrived = bytearray()
        self._over = False
        self._deaf = False
        self._unread = 0
        self._readers, self._writers = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()

    # The peer's

    def say(self, octets: bytes) -> None:
        """Send: it arrives until either side is gone."""
        if not (self._over or self.left or self.closed):
            self.said += octets
            self._arrived += octets
            self._readers.unpark_all()

    def end(self) -> None:
        """End the peer's side."""
        self._over = True
        self._readers.unpark_all()

    def reset(self) -> None:
        """Break it off."""
        self.left = True
        self._readers.unpark_all()
        self._writers.unpark_all()

    def turn_a_deaf_ear(self) -> None:
        """Read no more; or, if that is so already, read again."""
        self._deaf = not self._deaf
        self._unread = 0
        self._writers.unpark_all()

    def said_before(self, at: int) -> int:
        """How much the peer had said when it was sent the octet at this place of `heard`."""
        return max(said for begin, said in self._marks if begin <= at)

    @property
    def listens(self) -> bool:
        """Whether the peer takes what is said."""
        return not (self._deaf or self.left)

    # The socket's

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As recv(2), non-blocking."""
        self._check()
        if not self._arrived and self.left:
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        if not self._arrived and not self._over:
            raise BlockingIOError
        data = bytes(self._arrived[:size])
        if not flags & socket.MSG_PEEK:
            del self._arrived[:size]
        return data

    def send(self, data: memoryview) -> int:
        """As send(2), non-blocking."""
        self._check()
        if self.left or self.finished:
            raise BrokenPipeError(errno.EPIPE, "gone")
        count = min(len(data), ROOM - self._unread) if self._deaf else len(data)
        if not count:
            raise BlockingIOError
        self._marks.append((len(self.heard), len(self.said)))
        self.heard += data[:count]
        self._unread += count if self._deaf else 0
        return count

    def shutdown(self, how: int) -> None:
        """As shutdown(2), of the sending side."""
        assert how == socket.SHUT_WR
        self._check()
        if self.left:
            raise OSError(errno.ENOTCONN, "not connected")
        self.finished = True

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Linger not at all."""
        assert (level, option, value) == (socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.abortive = True

    def fileno(self) -> int:
        """Whether it is open, in a number."""
        return -1 if self.closed else 0

    def close(self) -> None:
        """Let go."""
        self.closed = True
        self._readers.unpark_all()
        self._writers.unpark_all()

    async def ready(self, *, to_read: bool) -> None:
        """Wait until something changed. One task may wait for each, as with epoll."""
        lot = self._readers if to_read else self._writers
        if lot:
            raise trio.BusyResourceError("another task waits for this already")
        await lot.park()
        if self.closed:
            raise trio.ClosedResourceError("another task closed it")

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "closed")


class MemoryStream(TcpStream):
    """proxyd's end of a line."""

    def __init__(self, line: Line) -> None:
        super().__init__(cast("socket.socket", line))
        self._line = line

    def close(self) -> None:
        """Let go of the connection; whoever waits for it in another task is told."""
        if not self._line.closed:
            self._line.close()

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._calls = 0
        await self._line.ready(to_read=wait is trio.lowlevel.wait_readable)
