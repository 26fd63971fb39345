"""One client's connection, as a session is given it: who is there, and the place they have until it is over.

A connection that becomes a tunnel outlives its session; then its place is handed on, and left at the tunnel's end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from proxyd.serve.ledger import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.policy.client import Credential
    from proxyd.policy.snapshot import Peer


@dataclass(slots=True)
class Visit:
    """Who is there. place: None for those who have none, as they are to be refused.

    proven: the credentials that they have shown to know, on this connection.
    displaced: whether somebody else has the place by now, so that nothing more is done here than to say so.
    presence: what they are served in; cancelled, they are hung up on at once, whatever is left to say or to hear.
    """

    peer: Peer
    place: Place | None = None
    proven: frozenset[Credential] = frozenset()
    displaced: bool = False
    presence: trio.CancelScope = field(default_factory=trio.CancelScope, repr=False, compare=False)

    def hand_on(self) -> Place | None:
        """The place, which this visit has no longer."""
        place, self.place = self.place, None
        return place

    def make_room(self, gone: Callable[[], None]) -> None:
        """Leave the place to somebody else at once. gone: called when the connection is over, too."""
        self.leave()
        self.place = Place(gone)
        self.displaced = True

    def leave(self) -> None:
        """It is over, unless it was handed on."""
        if (place := self.hand_on()) is not None:
            place.leave()
