"""One client's connection, as a session is given it: who is there, and the place they have until it is over.

A connection that becomes a tunnel outlives its session; then its place is handed on, and left at the tunnel's end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxyd.policy.client import Credential
    from proxyd.policy.snapshot import Peer
    from proxyd.serve.ledger import Place


@dataclass(slots=True)
class Visit:
    """Who is there. place: None for those who have none, as they are to be refused.

    proven: the credentials that they have shown to know, on this connection.
    """

    peer: Peer
    place: Place | None = None
    proven: frozenset[Credential] = frozenset()

    def hand_on(self) -> Place | None:
        """The place, which this visit has no longer."""
        place, self.place = self.place, None
        return place

    def leave(self) -> None:
        """It is over, unless it was handed on."""
        if (place := self.hand_on()) is not None:
            place.leave()
