"""What the supervisor has in its charge: a policy, and the sockets on which it is served. A reload makes another one.

Nothing here reads a file or binds a socket; whoever starts proxyd does.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from proxyd.net.listening import bound_to

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from proxyd.audit.sink import Sink
    from proxyd.policy.model import Policy
    from proxyd.serve.handover import Handover


class CannotServe(Exception):  # noqa: N818 - said to the operator
    """What the policy asks for cannot be had; `problems` has a line for each reason.

    status: the exit status, should that be the start.
    """

    def __init__(self, *problems: str, status: int) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.status = status


def described(where: str, sock: socket.socket) -> str:
    """A listener by the address it has by now, if it has one."""
    endpoint = bound_to(sock)
    tls = "tls " if where.startswith("tls ") else ""
    return where if endpoint is None else f"{tls}{endpoint}"


def _unlink(where: str) -> None:
    """Remove the file of a Unix socket that we have made. Raises OSError."""
    place = where.removeprefix("tls ")
    if place.startswith("unix:"):
        Path(place.removeprefix("unix:")).unlink()


@dataclass(frozen=True, slots=True)
class Charge:
    """listeners: where we listen -> a socket for each worker, or one for all; in the handover's order.

    pipe: the audit log, where it is a FIFO: while no worker has it open, its reader must not take that for the end.
    token: what is to be shown to the admin listener; no worker learns it.
    """

    policy: Policy
    handover: Handover
    listeners: Mapping[str, tuple[socket.socket, ...]]
    pipe: Sink | None = None
    token: str = field(default="", repr=False)

    @property
    def described(self) -> tuple[str, ...]:
        """The listeners, as the operator is told of them."""
        return tuple(described(where, sockets[0]) for where, sockets in self.listeners.items())

    def sockets_of(self, place: int) -> list[int]:
        """The file descriptors on which the worker in that place listens."""
        return [sockets[place % len(sockets)].fileno() for sockets in self.listeners.values()]

    def stop_listening(self, kept: Charge | None = None) -> None:
        """Close the listeners that `kept` has not: while one is open anywhere, the kernel lets clients in."""
        for where, sockets in self.listeners.items():
            if sockets[0].fileno() >= 0 and (kept is None or where not in kept.listeners):
                with suppress(OSError):
                    _unlink(where)  # while it is still ours: once it is closed, another proxyd may bind there
                for sock in sockets:
                    sock.close()

    def let_go(self, kept: Charge | None = None) -> None:
        """Close all that `kept` has not."""
        self.stop_listening(kept)
        if self.pipe is not None and (kept is None or kept.pipe is not self.pipe):
            self.pipe.close()
