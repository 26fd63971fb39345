"""A file descriptor to write lines to without ever waiting: for the reader of a pipe, or for a stopped terminal.

The descriptor may be inherited, and O_NONBLOCK belongs to what is open behind it, which others share: so it is
opened anew where the system can (pipes, terminals), told for each write (sockets), or asked first. Files never wait,
and are appended to by all who share them: opened anew, one would write where another has written already.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
from contextlib import suppress
from typing import Final

_ANEW: Final = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Outlet:
    """Writes to `fd`, which stays its owner's. Into a pipe, lines of up to PIPE_BUF octets go whole or not."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._anew: int | None = None
        self._socket: socket.socket | None = None
        self._ask_first = False
        with suppress(OSError):  # of a closed descriptor each write will say so; of others we ask first
            self._prepare(os.fstat(fd).st_mode)

    def write(self, line: bytes) -> int:
        """How many octets one write(2) took. Raises OSError; BlockingIOError where it would have to wait."""
        if self._socket is not None:
            return self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._ask_first and not _takes_a_line(self.fd):
            raise BlockingIOError(0, "nobody reads it")
        return os.write(self.fd if self._anew is None else self._anew, line)

    def close(self) -> None:
        """Close what was opened here; `fd` itself is left to its owner."""
        anew, self._anew = self._anew, None
        if anew is not None:
            os.close(anew)
        if self._socket is not None:
            self._socket.close()

    def _prepare(self, mode: int) -> None:
        if stat.S_ISREG(mode):
            fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) | os.O_APPEND)
            return
        self._ask_first = True  # until it is known how else not to wait
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(self.fd))
        else:
            self._anew = os.open(f"/proc/self/fd/{self.fd}", _ANEW)
        self._ask_first = False


def _takes_a_line(fd: int) -> bool:
    """Whether a write would not wait; also true for a reader that left, which the write then says."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))
