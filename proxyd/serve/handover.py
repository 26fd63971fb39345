"""What a worker is given to begin with: the very bytes of the policy that the supervisor read, and what it found.

So no worker can run another policy than its siblings, whatever happens to the files meanwhile. Over a pipe, as one
JSON object; nothing here decides anything.
"""

from __future__ import annotations

import datetime as dt
import json
import signal
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

from proxyd.policy.address import Endpoint, parse_endpoint
from proxyd.policy.load import load

if TYPE_CHECKING:
    from proxyd.policy.load import ReadFile
    from proxyd.policy.model import Policy

AT_ONCE: Final = signal.SIGUSR2
"""Says to a worker what a second SIGTERM says to the supervisor. SIGTERM itself may reach a worker twice, from the
supervisor and from a service manager that ends all processes of a service, and both times it means to drain."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """One file as it was asked for, where it is, and what was in it."""

    name: str
    beside: str | None
    path: str
    text: str


@dataclass(slots=True)
class Files:
    """Reads policy files, and remembers them; or reads those that it remembers."""

    kept: list[PolicyFile] = field(default_factory=list)

    def remembering(self, read: ReadFile) -> ReadFile:
        """`read`, with a memory."""

        def remember(name: str, beside: str | None) -> tuple[str, bytes]:
            path, data = read(name, beside)
            self.kept.append(PolicyFile(name, beside, path, data.decode("utf-8", "surrogateescape")))
            return path, data

        return remember

    def read(self, name: str, beside: str | None) -> tuple[str, bytes]:
        """A file from memory. Raises OSError for one that nobody read."""
        for file in self.kept:
            if (file.name, file.beside) == (name, beside):
                return file.path, file.text.encode("utf-8", "surrogateescape")
        raise OSError(0, "it was not read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Everything that all workers must agree on.

    name, day: the policy's file, and the day as of which it was tested. servers: the resolvers to ask.
    via: our name in Via. workers: how many share the limits.
    """

    name: str
    day: dt.date
    files: Files
    servers: tuple[Endpoint, ...]
    via: str
    workers: int

    def policy(self) -> Policy:
        """The policy, read anew from the bytes that were read first. Raises PolicyError."""
        return load(self.name, self.files.read, self.day)

    def write(self, pipe: IO[bytes]) -> None:
        """Hand it over. Raises OSError if nobody takes it."""
        spelt: dict[str, Any] = asdict(self) | {"day": self.day.isoformat(), "servers": list(map(str, self.servers))}
        pipe.write(json.dumps(spelt).encode() + b"\n")
        pipe.flush()

    @classmethod
    def read(cls, pipe: IO[bytes]) -> Handover:
        """Take it over. Raises ValueError if it is cut off."""
        spelt = json.loads(pipe.readline())
        files = Files([PolicyFile(**each) for each in spelt.pop("files")["kept"]])
        day = dt.date.fromisoformat(spelt.pop("day"))
        servers = tuple(map(parse_endpoint, spelt.pop("servers")))
        return cls(**spelt, files=files, day=day, servers=servers)
