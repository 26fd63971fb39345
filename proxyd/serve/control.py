"""The control socket: `proxyd reload` asks there for a reload, and `proxyd audit` what runs; both are told.

Only root and the account that runs proxyd are heard; the kernel says who asks (unix(7), SO_PEERCRED). The socket's file
keeps others out already.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Final

from proxyd.net.identity import uid_by_credentials
from proxyd.net.listening import bind_unix

RELOAD: Final = b"reload\n"
STATUS: Final = b"status\n"
_LONGEST_WORD: Final = 16
ASK_SECONDS: Final = 1.0  # for who connected to say what they want
REPLY_SECONDS: Final = 60.0  # for the outcome: two rounds of all workers, and the reading of the policy
_LONGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a reload: problems, and nothing has changed; or none, and what has.

    revoked: connections that the new policy refuses, and that were cut.
    """

    problems: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    revoked: int = 0


def listen(path: str) -> socket.socket:
    """A control socket at `path`, for our account alone. Raises OSError, also where somebody answers there already."""
    return bind_unix(path, 0o600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What runs. digest: of the policy in force, whole. file: where that was read. uid: the account that runs it.

    workers, serving: how many there should be, and how many let clients in.
    """

    version: str
    pid: int
    uid: int
    policy: str
    file: str
    digest: str
    workers: int
    serving: int


def asked_for(asker: socket.socket) -> bytes:
    """What they want, RELOAD or STATUS; nothing, if they may not."""
    with suppress(OSError):
        asker.settimeout(ASK_SECONDS)
        return asker.recv(_LONGEST_WORD) if uid_by_credentials(asker) in (0, os.geteuid()) else b""
    return b""


def answer(asker: socket.socket, said: Outcome | Status) -> None:
    """Tell them; who has left need not know."""
    with suppress(OSError):
        asker.sendall(json.dumps(asdict(said)).encode())


def ask(path: str) -> Outcome:
    """Ask whoever listens at `path` for a reload. Raises OSError, also where no answer comes, and ValueError for one
    that is none.
    """
    try:
        told = json.loads(_asked(path, RELOAD))
        problems, changes = (tuple(map(str, told[name])) for name in ("problems", "changes"))
        return Outcome(problems=problems, changes=changes, revoked=int(told["revoked"]))
    except (KeyError, TypeError, OverflowError, RecursionError):
        raise ValueError("that is somebody else") from None


def ask_status(path: str) -> Status:
    """Ask whoever listens at `path` what runs. Raises as `ask` does."""
    try:
        told = json.loads(_asked(path, STATUS))
        return Status(**{each.name: _KINDS[str(each.type)](told[each.name]) for each in fields(Status)})
    except (KeyError, TypeError, OverflowError, RecursionError):
        raise ValueError("that is somebody else") from None


_KINDS: Final = {"str": str, "int": int}


def _asked(path: str, word: bytes) -> bytes:
    """What is answered to a word. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(REPLY_SECONDS)
        sock.connect(path)
        if uid_by_credentials(sock) not in (0, os.geteuid()) and os.geteuid() != 0:
            raise PermissionError(0, "somebody else's")
        said = b""
        with suppress(BrokenPipeError, ConnectionResetError):  # who is not heard is not read either
            sock.sendall(word)
            while len(said) < _LONGEST and (more := sock.recv(_LONGEST)):
                said += more
    if not said:
        raise OSError(0, "no answer: it wants to be asked within a second, by root or by its own account")
    return said
