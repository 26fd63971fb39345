"""The connection to an origin that one client's connection keeps between two requests, and shares with nobody.

Each request is judged anew, and gets the connection only if it leads to an address of its own Allow (ATTACKS 3.12,
4.10). A request that could not be repeated never gets it: the origin may be closing it this very moment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxyd.net.stream import TcpStream, hang_up

if TYPE_CHECKING:
    from proxyd.net.dialer import Dialled
    from proxyd.net.wire import Wire
    from proxyd.policy.model import Parent
    from proxyd.policy.verdict import Allow


@dataclass(frozen=True, slots=True)
class Origin:
    """A connection to an origin, the HTTP spoken on it, and the permission it serves.

    parent: the proxy through which it leaves, if there is one.
    """

    allow: Allow
    dialled: Dialled
    wire: Wire
    parent: Parent | None = None
    used: bool = False

    @property
    def keepable(self) -> bool:
        """Whether it can be told, later, that the origin is still there."""
        return isinstance(self.dialled.stream, TcpStream)

    def serves(self, allow: Allow) -> bool:
        """Whether another permission leads to the same place, and whoever is there says nothing unasked."""
        return (
            self.allow.destination == allow.destination
            and self.allow.permitted == allow.permitted
            and self.allow.egress == allow.egress
            and self.dialled.address in allow.addresses
            and self.dialled.stream.quiet
        )


class Kept:
    """At most one connection, between two requests."""

    def __init__(self) -> None:
        self._origin: Origin | None = None

    async def take(self, allow: Allow, parent: Parent | None = None) -> Origin | None:
        """The connection, if it serves this permission and leaves through that parent; it is closed if not."""
        origin, self._origin = self._origin, None
        if origin is None or (origin.parent == parent and origin.serves(allow)):
            return origin
        await hang_up(origin.dialled.stream)
        return None

    async def keep(self, origin: Origin) -> None:
        """Keep it for the next request; close it if the last one is not over, or left something behind."""
        if origin.wire.reusable:
            origin.wire.next_exchange()
            if not origin.wire.has_more:
                self._origin = replace(origin, used=True)
                return
        await hang_up(origin.dialled.stream)

    async def close(self) -> None:
        """Let go of it."""
        origin, self._origin = self._origin, None
        if origin is not None:
            await hang_up(origin.dialled.stream)
