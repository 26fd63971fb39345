"""A TCP connection as a trio stream that asks the kernel first and waits only if it must.

trio's own SocketStream lets every other task run after each call, which costs as much as the call. Here a task gives
way when there is nothing for it to do, and at the latest after `TURN` calls that had something. What the octets mean
is not known here.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import trio
from trio.abc import HalfCloseableStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TURN: Final = 16
"""Calls in a row that need not wait, before the others have their turn."""

LOOK_SECONDS: Final = 1.0
"""From one look at a peer, of whom nothing more may be received for now, to the next."""

_CLOSED: Final = socket.socket()
_CLOSED.close()
_PIECE: Final = 64 * 1024
_BROKEN: Final = select.POLLERR
_ENDED: Final = _BROKEN | select.POLLHUP | getattr(select, "POLLRDHUP", 0)  # not everywhere


@runtime_checkable
class _OnSocket(Protocol):
    """A stream that a socket carries, in the clear or not."""

    def fileno(self) -> int: ...


class TcpStream(HalfCloseableStream):
    """A connected socket. Raises trio.BrokenResourceError where the peer is gone, ClosedResourceError where we are."""

    __slots__ = ("_calls", "socket")

    def __init__(self, sock: socket.socket) -> None:
        """sock: connected and non-blocking."""
        self.socket = sock
        self._calls = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At most `max_bytes` octets, as soon as there are any; none once the peer has ended its side."""
        await self._take_turns()
        while True:
            try:
                return self.socket.recv(max_bytes or _PIECE)
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_readable)
            except OSError as error:
                raise _broken(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Hand all of it to the kernel."""
        await self._take_turns()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_writable)
            except OSError as error:
                raise _broken(error) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await self._wait(trio.lowlevel.wait_writable)

    def fileno(self) -> int:
        """The socket's number, for select.poll; -1 once it was closed or released."""
        return self.socket.fileno()

    @property
    def quiet(self) -> bool:
        """Whether the peer has neither sent anything that was not received yet, nor ended its side."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def send_eof(self) -> None:
        """End our side; the peer may go on."""
        await trio.lowlevel.checkpoint()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _broken(error) from error

    def close(self) -> None:
        """Let go of the connection; whoever waits for it in another task is told."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    async def aclose(self) -> None:
        """The same, for those who know only that this is a stream."""
        self.close()
        await trio.lowlevel.checkpoint()

    def release(self) -> socket.socket:
        """The socket, for good: this stream is closed from now on, and the connection is not."""
        sock = self.socket
        self.socket = _CLOSED
        return sock

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._calls = 0
        try:
            await wait(self.socket)
        except OSError as error:  # memory ran out, or the account watches as many files as it may (epoll(7))
            raise _broken(error) from error

    async def _take_turns(self) -> None:
        """Give way if it is time to: before the call, for whoever is cancelled then has lost no octet."""
        self._calls += 1
        if self._calls >= TURN:
            self._calls = 0
            await trio.lowlevel.checkpoint()


async def hang_up(stream: HalfCloseableStream) -> None:
    """Close any stream at once, saying nothing more to the peer."""
    if isinstance(stream, TcpStream):
        stream.close()
    else:
        await trio.aclose_forcefully(stream)


def broken_off(stream: HalfCloseableStream) -> bool:
    """Whether the peer has broken off, which otherwise only those are told who receive or send.

    Not an end of its side, nor of both: what it sent before may be on its way still.
    """
    return _tells(stream, _BROKEN)


async def wait_until_ended(stream: HalfCloseableStream) -> None:
    """Return when the peer has ended its side, be it behind octets that stay where they are: nothing is received.

    Raises trio.BrokenResourceError where it broke off.
    """
    while not _tells(stream, _ENDED):  # noqa: ASYNC110 - the kernel wakes nobody for that alone
        await trio.sleep(LOOK_SECONDS)
    if broken_off(stream):
        raise trio.BrokenResourceError("the peer broke off")


def _tells(stream: HalfCloseableStream, events: int) -> bool:
    """Whether the kernel tells one of `events`: none of a stream without a socket, any of one that we closed."""
    if not isinstance(stream, _OnSocket):
        return False
    if stream.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(stream, events)
    return any(told & events for _, told in poll.poll(0))


def _broken(error: OSError) -> Exception:
    """The same failure in trio's words."""
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError("this socket was closed")
    return trio.BrokenResourceError(f"socket connection broken: {error.strerror}")
