"""When all places are taken: who holds one and has asked for nothing leaves it to who comes (ATTACKS 8).

A connection may be ended between two requests (RFC 9112 §9.5), and one whose head does not come is nobody's yet.
Nothing here knows how many places there are; the ledger does.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from proxyd.serve.ledger import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netaddr import IPAddress

    from proxyd.serve.visit import Visit

LEAVING: Final = 64  # at once: each keeps its file until it has left


class Crowd:
    """Those of whom nothing is under way, by where they come from."""

    def __init__(self) -> None:
        self._waiting: dict[IPAddress | int | None, dict[trio.CancelScope, Visit]] = {}
        self._leaving = 0

    @contextmanager
    def waiting(self, visit: Visit) -> Iterator[trio.CancelScope]:
        """Meanwhile nothing of this connection is under way: the scope is cancelled if its place is needed."""
        origin = visit.peer.address if visit.peer.uid is None else visit.peer.uid
        with trio.CancelScope() as scope:
            if visit.place is not None:
                self._waiting.setdefault(origin, {})[scope] = visit
            try:
                yield scope
            finally:
                self._forget(origin, scope)

    def make_room(self) -> bool:
        """Have one leave: of those who have most of them here, who waits longest. False if nobody can."""
        if not self._waiting or self._leaving >= LEAVING:
            return False
        origin = max(self._waiting, key=lambda each: len(self._waiting[each]))
        scope, visit = next(iter(self._waiting[origin].items()))
        self._forget(origin, scope)
        visit.leave()
        self._leaving += 1
        visit.place = Place(self._left)
        scope.cancel()
        return True

    def _left(self) -> None:
        self._leaving -= 1

    def _forget(self, origin: IPAddress | int | None, scope: trio.CancelScope) -> None:
        here = self._waiting.get(origin, {})
        here.pop(scope, None)
        if not here:
            self._waiting.pop(origin, None)
