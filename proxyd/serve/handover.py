"""What a worker is given to begin with: the very bytes of the policy that the supervisor read, and what it found.

So no worker can run another policy than its siblings, whatever happens to the files meanwhile. In memory that is
handed over as a file: of any size, and never on a disk. Nothing here decides anything.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from proxyd.policy.dns import parse_server
from proxyd.policy.load import load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxyd.policy.dns import Server
    from proxyd.policy.load import ReadFile
    from proxyd.policy.model import Policy

AT_ONCE: Final = signal.SIGUSR2
"""Says to a worker what a second SIGTERM says to the supervisor. SIGTERM itself may reach a worker twice, from the
supervisor and from a service manager that ends all processes of a service, and both times it means to drain."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """One file as it was asked for, where it is, what was in it, and whether that is for nobody else."""

    name: str
    beside: str | None
    path: str
    text: str
    secret: bool = False


@dataclass(slots=True)
class Files:
    """Reads policy files, and remembers them; or reads those that it remembers."""

    kept: list[PolicyFile] = field(default_factory=list)

    def remembering(self, read: ReadFile) -> ReadFile:
        """`read`, with a memory."""

        def remember(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:
            path, data = read(name, beside, secret=secret)
            self.kept.append(PolicyFile(name, beside, path, data.decode("utf-8", "surrogateescape"), secret))
            return path, data

        return remember

    def read(self, name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:  # noqa: ARG002
        """A file from memory; whether it is secret was seen to when it was read. Raises OSError if nobody did."""
        for file in self.kept:
            if (file.name, file.beside) == (name, beside):
                return file.path, file.text.encode("utf-8", "surrogateescape")
        raise OSError(0, "it was not read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Everything that all workers must agree on.

    name, day: the policy's file, and the day as of which it was tested. servers: the resolvers to ask.
    hosts: names that need not be asked for, and their addresses. certificate, private_key: PEM, where clients speak
    TLS to us.
    via: our name in Via. workers: how many share the limits. listeners: where they listen, in the order in which the
    sockets are handed over. accounts: the numbers of the local accounts that the policy names.
    ledger: whose account is where in the memory of the limits.
    peer: the account of whoever connects, where only one can; None where it is to be found out.
    """

    name: str
    day: dt.date
    files: Files
    servers: tuple[Server, ...]
    via: str
    workers: int
    listeners: tuple[str, ...] = ()
    accounts: Mapping[str, int] = field(default_factory=dict)
    ledger: tuple[str, ...] = ()
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    certificate: str = ""
    private_key: str = field(default="", repr=False)
    peer: int | None = None

    def policy(self) -> Policy:
        """The policy, read anew from the bytes that were read first. Raises PolicyError."""
        return load(self.name, self.files.read, self.day)

    def as_file(self) -> int:
        """It, in memory: a file descriptor, to be closed by the caller. Raises OSError."""
        spelt: dict[str, Any] = asdict(self) | {"day": self.day.isoformat(), "servers": list(map(str, self.servers))}
        fd = os.memfd_create("proxyd-handover", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(json.dumps(spelt).encode())
        return fd

    @classmethod
    def from_file(cls, fd: int) -> Handover:
        """Take it over; the file is closed. Raises ValueError if it is cut off."""
        with os.fdopen(fd, "rb") as file:
            file.seek(0)
            spelt = json.loads(file.read())
        files = Files([PolicyFile(**each) for each in spelt.pop("files")["kept"]])
        day = dt.date.fromisoformat(spelt.pop("day"))
        servers = tuple(map(parse_server, spelt.pop("servers")))
        listeners, ledger = (tuple(spelt.pop(name)) for name in ("listeners", "ledger"))
        hosts = {name: tuple(found) for name, found in spelt.pop("hosts").items()}
        return cls(**spelt, listeners=listeners, ledger=ledger, hosts=hosts, files=files, day=day, servers=servers)
