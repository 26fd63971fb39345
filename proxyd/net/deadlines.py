"""Ends of silence for very many at once, without a timer each: a wheel of one-second slots.

Something that moves costs nothing here: it is looked at only when its slot comes round, and then put where its last
movement puts it. The clock is an argument.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator


class Idles(Protocol):
    """What may stand still for so long, and no longer. Times are seconds of one clock that never goes back."""

    idle_at: float
    """When it will have stood still for too long, if nothing moves any more. Later it may become at any time; for it
    to become earlier, discard and add."""

    slot: int
    """Where it is watched; nobody else's business."""


T = TypeVar("T", bound=Idles)


class Deadlines(Generic[T]):
    """Who is to be looked at, and when."""

    def __init__(self, now: float) -> None:
        self._slots: dict[int, set[T]] = {}
        self._next = math.ceil(now)

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, one: T) -> None:
        """Watch it from now on."""
        one.slot = max(math.ceil(one.idle_at), self._next)
        self._slots.setdefault(one.slot, set()).add(one)

    def discard(self, one: T) -> None:
        """Watch it no longer, if it still is."""
        members = self._slots.get(one.slot, set())
        members.discard(one)
        if not members:
            self._slots.pop(one.slot, None)

    def idle(self, now: float) -> Iterator[T]:
        """Those that have stood still for too long, at most a second late. They are no longer watched."""
        for slot in range(self._next, math.floor(now) + 1):
            self._next = slot + 1
            for one in self._slots.pop(slot, ()):
                if one.idle_at <= now:
                    yield one
                else:
                    self.add(one)
