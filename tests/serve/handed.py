"""What a supervisor hands over, for the tests of those who take it: a policy, two shared memories, listeners."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from netaddr import IPAddress

from proxyd.net.listening import bind
from proxyd.observe.tally import new_tally
from proxyd.policy.address import Endpoint
from proxyd.serve.handover import Files, Handover, PolicyFile
from proxyd.serve.ledger import EVERYBODY, make_room, new_ledger
from tests.serve.scene import NOW, VIA

if TYPE_CHECKING:
    import socket

    from proxyd.policy.dns import Server

LOOPBACK = Endpoint(IPAddress("127.0.0.1"), 0)
WORKERS = 4
"""For as many there is room in the memory of what is counted."""
ACCOUNTS = (EVERYBODY, "agent", "other")


def text(more: str = "", default: str = "allow") -> str:
    """A policy for one agent, and `more`."""
    return f"""\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:0"]
[destinations]
default = "{default}"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
{more}
"""


def handover(policy: str = "", *listeners: str, workers: int = 1, servers: tuple[Server, ...] = ()) -> Handover:
    """What all workers are told. policy: its text, without it that of `text`."""
    return Handover(
        name="p.toml",
        day=NOW.date(),
        files=Files([PolicyFile("p.toml", None, "/p.toml", policy or text())]),
        servers=servers,
        via=VIA,
        workers=workers,
        listeners=listeners,
        ledger=ACCOUNTS,
    )


def ledger(accounts: int = len(ACCOUNTS)) -> int:
    """The memory of the limits, with room for the accounts of `handover`: its file descriptor."""
    fd = new_ledger()
    make_room(fd, accounts)
    return fd


def files(handed: Handover, *listeners: socket.socket) -> list[int]:
    """The files that go with it; all of them are the taker's."""
    return [handed.as_file(), ledger(), new_tally(WORKERS), *(sock.detach() for sock in listeners)]


def listener() -> socket.socket:
    """One, somewhere on loopback."""
    (sock,) = bind(LOOPBACK)
    return sock


def open_files() -> dict[str, str]:
    """What this process has open: number -> what it is."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[link.name] = str(link.readlink())
        except FileNotFoundError:
            continue  # the folder itself, as it was listed
    return found


def inode(fd: int) -> int:
    """Which file it is, whatever its number."""
    return os.fstat(fd).st_ino
