"""Kernel pipes on loan: bytes that splice(2) moves rest in one, and never come up to us.

A pipe is lent while bytes are in flight and taken back only when bytes in equal bytes out: one octet left behind
would be read by the next tunnel. What the bytes are, and whose, is not known here.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import closing, suppress
from typing import Final

CAPACITY: Final = 64 * 1024
"""Octets that a pipe holds: the kernel's own default, sixteen pages."""

MOST: Final = 128
"""Pipes lent at once by one pool. An account without privileges has 16,384 pages for all of its pipes, of all of
its processes (pipe(7), pipe-user-pages-soft); those who find none here copy their bytes instead."""

SPARE: Final = 16
"""Pipes kept open for the next borrower."""

_FLAGS: Final = 0x01 | 0x02  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK (splice(2)); the os module names them from 3.12 on
_NOT_NOW: Final = frozenset({errno.EAGAIN, errno.EINVAL, errno.ENOMEM})  # of the call and not of the connection


class Pipe:
    """A pipe of the kernel's, and how many octets are in it now."""

    __slots__ = ("_in", "_out", "held")

    def __init__(self) -> None:
        """Raises OSError when files, or the account's pipe buffers, have run out."""
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0

    def fill(self, source: int) -> int:
        """Move what has come from a socket, into an empty pipe: how much. Raises OSError.

        0 may mean that nothing has come, that the stream ended, that urgent data is next, or that this host cannot
        splice now: recv(2) can tell.
        """
        try:
            self.held = os.splice(source, self._in, CAPACITY, flags=_FLAGS)
        except OSError as error:
            if error.errno not in _NOT_NOW:
                raise
        return self.held

    def drain(self, sink: int) -> int:
        """Move what the pipe holds to a socket: how much it took. Raises BlockingIOError if none, or OSError."""
        moved = os.splice(self._out, sink, self.held, flags=_FLAGS)
        self.held -= moved
        return moved

    def close(self) -> None:
        """Let go of both ends, and of what is in it."""
        os.close(self._in)
        os.close(self._out)


class Pipes:
    """The free list. Each worker has one."""

    def __init__(self) -> None:
        self._spare: list[Pipe] = []
        self._most = MOST if _can_splice() else 0
        self.lent = 0

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None if there is none to be had: then bytes are copied."""
        if self.lent >= self._most:
            return None
        pipe = self._spare.pop() if self._spare else None
        if pipe is None:
            with suppress(OSError):
                pipe = Pipe()
        if pipe is not None:
            self.lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """End a loan. A pipe that still holds something is nobody's any more."""
        self.lent -= 1
        if pipe.held or len(self._spare) >= SPARE:
            pipe.close()
        else:
            self._spare.append(pipe)

    def close(self) -> None:
        """Close the spare ones."""
        while self._spare:
            self._spare.pop().close()


def _can_splice() -> bool:
    """Whether splice(2) is there, and granted by whatever confines this process."""
    ours, theirs = socket.socketpair()
    with ours, theirs, suppress(AttributeError, OSError), closing(Pipe()) as pipe:
        theirs.send(b"x")
        return pipe.fill(ours.fileno()) == 1
    return False
