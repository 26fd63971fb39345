"""Where audit lines go. A line is in the kernel's hands when `write` returns, or SinkError says that it is not.

One write(2) a line and no buffer of ours: the record survives our SIGKILL (not the machine's power loss: there is
no fsync). Nothing here decides what happens when the sink fails; the session does, and it refuses (R12).
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxyd.audit.outlet import Outlet
from proxyd.audit.render import console_line, json_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.audit.record import Record

CHECK_SECONDS: Final = 1.0
"""How long a file that was renamed may stay unnoticed; one that was removed never does."""

_LOOK_AGAIN_SECONDS: Final = 0.001
_OPEN_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_MODE: Final = 0o640  # the records say who went where: not for everybody


class SinkError(Exception):
    """A record could not be written. The text says why, in the system's words."""


class Sink:
    """Writes records, one line each, to a file descriptor that is already open: stdout, a pipe, a terminal."""

    def __init__(self, fd: int) -> None:
        self._take(fd)
        self._render: Callable[[Record], bytes] = console_line if os.isatty(fd) else json_line

    def write(self, record: Record) -> None:
        """Write one record. Raises SinkError."""
        line = self._render(record)
        try:
            self._write(line)
        except OSError as error:
            raise SinkError(error.strerror) from None

    def reopen(self) -> None:
        """What is already open stays open; a file does better."""

    def close(self) -> None:
        """The descriptor was given to us and stays open."""
        self._outlet.close()

    def _take(self, fd: int) -> None:
        """Write to it from now on."""
        self._outlet = Outlet(fd)
        self._torn = False
        self._length = 0  # of a file, as we left it: if it is another one now, somebody else wrote to it
        self._is_file = _is_file(fd)
        self._is_named = self._is_file and os.fstat(fd).st_nlink > 0  # one without was made so, for whoever holds it

    def _write(self, line: bytes) -> None:
        """One write(2). A disk that filled up in the middle leaves a torn line, which the next one must not join,
        whoever writes it.
        """
        length = self._length_now() if self._is_file else self._length
        if length != self._length:
            self._torn = _ends_torn(self._outlet.fd)
        if self._torn:
            line = b"\n" + line
        written = self._outlet.write(line)
        self._length = length + written
        self._torn = written < len(line)
        if self._torn:
            raise OSError(0, "no room for the whole line")

    def _length_now(self) -> int:
        """How long the file is. What is written to one that bears no name any more, nobody will ever read."""
        now = os.fstat(self._outlet.fd)
        if self._is_named and not now.st_nlink:
            self.reopen()
            now = os.fstat(self._outlet.fd)
            if not now.st_nlink:
                raise OSError(0, "the file was removed; restart, or write a path to [audit] to")
        return now.st_size


class FileSink(Sink):
    """Appends records to a file, and finds it again when logrotate has moved it (also on `reopen`)."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Open or make the file. Raises OSError, also for a FIFO that nobody reads."""
        self._path = path
        self._clock = clock
        super().__init__(os.open(path, _OPEN_FLAGS, _MODE))
        self._checked = clock()

    def write(self, record: Record) -> None:
        """Write one record, to the file that bears the name now. Raises SinkError."""
        now = self._clock()
        if now - self._checked >= CHECK_SECONDS:
            self._reopen_if_moved()
            self._checked = now
        super().write(record)

    def reopen(self) -> None:
        """Open the file by its name again (SIGUSR1). Raises SinkError, and goes on with the old one, if it cannot."""
        try:
            fd = os.open(self._path, _OPEN_FLAGS, _MODE)
        except OSError as error:
            raise SinkError(error.strerror) from None
        before = self._outlet
        self._take(fd)
        _close(before)

    def close(self) -> None:
        """Close the file."""
        _close(self._outlet)

    def _reopen_if_moved(self) -> None:
        try:
            ours, named = os.fstat(self._outlet.fd), Path(self._path).stat()
        except OSError:
            self.reopen()
            return
        if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            self.reopen()


def _close(outlet: Outlet) -> None:
    """Close an outlet and its file. The number is free again even where close(2) fails, so it is never used again."""
    with suppress(OSError):
        outlet.close()
    with suppress(OSError):
        os.close(outlet.fd)


def _is_file(fd: int) -> bool:
    """Whether others may append to it too, and what they wrote can be seen."""
    with suppress(OSError):  # of a closed descriptor each write will say so
        return stat.S_ISREG(os.fstat(fd).st_mode)
    return False


def _ends_torn(fd: int) -> bool:
    """Whether a file ends in the middle of a line: a disk was full, or the process killed that wrote it.

    A line that a sibling writes at this moment can be seen before it is whole. It is whole, or there is more of it, the
    next time somebody looks.
    """
    try:
        reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # not ours to read; at worst one line is joined to another
    try:
        torn = _torn_length(reading)
        if not torn:
            return False
        time.sleep(_LOOK_AGAIN_SECONDS)
        return _torn_length(reading) == torn
    finally:
        os.close(reading)


def _torn_length(fd: int) -> int:
    """How long the file is, if it ends in the middle of a line; else 0."""
    length = os.fstat(fd).st_size
    return length if length and os.pread(fd, 1, length - 1) not in (b"\n", b"") else 0
