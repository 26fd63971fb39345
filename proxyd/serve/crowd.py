"""When all places are taken: who holds one and has asked for nothing leaves it to who comes (ATTACKS 8).

A connection may be ended between two requests (RFC 9112 §9.5), and one whose head does not come is nobody's yet.
Nothing here knows how many places there are; the ledger does.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netaddr import IPAddress

    from proxyd.serve.visit import Visit

LEAVING: Final = 64  # at once: each keeps its file until it has left, and may take seconds over it if nobody comes


class Crowd:
    """Those of whom nothing is under way, by where they come from."""

    def __init__(self) -> None:
        self._waiting: dict[IPAddress | int | None, dict[trio.CancelScope, Visit]] = {}
        self._leaving: dict[trio.CancelScope, Visit] = {}

    @contextmanager
    def waiting(self, visit: Visit) -> Iterator[trio.CancelScope]:
        """Meanwhile nothing of this connection is under way: the scope is cancelled if its place is needed.

        Whatever it waited for may have come in the same moment: `visit.displaced` says whose the place is.
        """
        origin = visit.peer.address if visit.peer.uid is None else visit.peer.uid
        with trio.CancelScope() as scope:
            if visit.displaced:
                scope.cancel()
            elif visit.place is not None:
                self._waiting.setdefault(origin, {})[scope] = visit
            try:
                yield scope
            finally:
                self._forget(origin, scope)

    def make_room(self) -> bool:
        """Have one leave: of those who have most of them here, who waits longest. False if nobody waits.

        Too many who are still leaving keep nobody out, whatever they do: who began first is hung up on.
        """
        if not self._waiting:
            return False
        if len(self._leaving) >= LEAVING:
            self._leaving.pop(next(iter(self._leaving))).presence.cancel()
        origin = max(self._waiting, key=lambda each: len(self._waiting[each]))
        scope, visit = next(iter(self._waiting[origin].items()))
        self._forget(origin, scope)
        visit.make_room(partial(self._left, scope))
        self._leaving[scope] = visit
        scope.cancel()
        return True

    def _left(self, scope: trio.CancelScope) -> None:
        self._leaving.pop(scope, None)

    def _forget(self, origin: IPAddress | int | None, scope: trio.CancelScope) -> None:
        here = self._waiting.get(origin, {})
        here.pop(scope, None)
        if not here:
            self._waiting.pop(origin, None)
