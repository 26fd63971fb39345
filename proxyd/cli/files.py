"""Policy files read from disk for the loader, and what is said when they are bad. No rule of a policy is here."""

from __future__ import annotations

import datetime as dt
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxyd.policy.load import PolicyError, load
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from proxyd.policy.load import ReadFile
    from proxyd.policy.model import Policy

EX_USAGE: Final = 2  # as argparse says it
EX_NOINPUT: Final = 66  # sysexits.h: something that cannot be read
EX_UNAVAILABLE: Final = 69  # sysexits.h: a service cannot be offered
EX_IOERR: Final = 74  # sysexits.h: an error while doing I/O
EX_CONFIG: Final = 78  # sysexits.h: something in the configuration

_TOO_OPEN: Final = stat.S_IWGRP | stat.S_IRWXO
MAX_FILE: Final = 1024 * 1024  # octets of one policy file; nobody reviews more


def today() -> dt.date:
    """The day, in UTC: permits end by it."""
    return dt.datetime.now(dt.UTC).date()


def read_policy_file(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:
    """What `proxyd.policy.load.load` reads through. Raises OSError."""
    path = os.path.realpath(Path(beside).parent / name if beside else name)
    with open(path, "rb", opener=_without_waiting) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is no regular file")
        if secret and mode & _TOO_OPEN:
            raise OSError(0, f"others may read or write it; chmod 0640 (it is {stat.S_IMODE(mode):#06o})")
        data = file.read(MAX_FILE + 1)
    if data is None:
        raise OSError(0, "it has nothing to be read now")
    if len(data) > MAX_FILE:
        raise OSError(0, f"larger than {MAX_FILE} bytes")
    return path, data


def _without_waiting(path: str, flags: int) -> int:
    """A FIFO that nobody writes to is an error, and no reason to wait."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def load_or_complain(name: str, read: ReadFile = read_policy_file) -> Policy | None:
    """The policy in file `name`, or None once its problems are on stderr."""
    try:
        return load(name, read, today())
    except PolicyError as error:
        for problem in error.problems:
            complain(problem)
        return None


def not_spelt(error: UnicodeEncodeError) -> str:
    """What is said of a file or an account of the policy whose name this process cannot hand to the system."""
    return (
        f"{error.object}: the locale of this process spells names in {error.encoding}, which has no such letters; "
        "run it with PYTHONUTF8=1, or with LC_ALL=C.UTF-8"
    )


def complain(line: str) -> None:
    """One line on stderr; a file's control characters do not reach the terminal.

    A reader that is slow is waited for, as it must see every problem. A stderr that is full or gone is no reason not to
    serve; through its buffer, which keeps what it could not write, it would change the exit status.
    """
    with suppress(OSError):
        os.write(
            sys.stderr.fileno(), f"proxyd: {printable(line)}\n".encode(sys.stderr.encoding, errors="backslashreplace")
        )
