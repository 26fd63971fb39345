"""Counting in constant memory, whatever is counted: for a log of any length, that others may have written to.

Timeline   figures over time, in steps that get longer as the time does
Top        figures by key; the small are forgotten when there are too many
Histogram  how long things took, at most 9 % too long
Slowest    the few that took longest
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    Key = tuple[str, ...]

MOST_STEPS: Final = 240
"""How finely a time is cut at most."""

_STEPS: Final = (1, 2, 10, 30, 60, 120, 600, 1800, 3600, 7200, 21600, 43200, 86400)  # seconds; each divides the next
_BINS_PER_DOUBLING: Final = 8
_SHORTEST: Final = 0.1  # milliseconds; the records have no finer ones
_EARLIEST: Final = 1577836800.0  # 2020-01-01: no proxyd wrote a record before


@dataclass(slots=True)
class Figures:
    """What is counted of one thing. up, down: octets. last, id: when it was seen last, and in which decision."""

    requests: int = 0
    denied: int = 0
    failed: int = 0
    up: int = 0
    down: int = 0
    last: float = 0.0
    id: str = ""

    @property
    def allowed(self) -> int:
        """Neither denied nor failed, or not yet."""
        return max(0, self.requests - self.denied - self.failed)

    @property
    def octets(self) -> int:
        """Both ways."""
        return self.up + self.down

    def seen(self, when: float | None, decision: str) -> None:
        """Note when, if that is later than what is known."""
        if when is not None and when >= self.last:
            self.last, self.id = when, decision

    def take(self, other: Figures) -> None:
        """Add another's figures."""
        self.requests += other.requests
        self.denied += other.denied
        self.failed += other.failed
        self.up += other.up
        self.down += other.down


class Timeline:
    """Figures over time, whatever the order in which they come: at most MOST_STEPS steps of equal length."""

    def __init__(self, latest: float) -> None:
        """latest: what is said to be later (or older than proxyd) has no time that could be drawn."""
        self._latest = latest
        self.step = _STEPS[0]
        self.nowhere = Figures()
        self._steps: dict[int, Figures] = {}
        self._first = self._last = 0

    def holds(self, when: float) -> bool:
        """Whether that can be the time of a record."""
        return _EARLIEST <= when <= self._latest

    def at(self, when: float | None) -> Figures:
        """The figures of that time, to be added to at once."""
        if when is None or not self.holds(when):
            return self.nowhere
        figures = self._steps.get(int(when // self.step))
        return self._new(when) if figures is None else figures

    def drawn(self) -> Iterator[tuple[int, Figures]]:
        """When each step begins, and what was in it; without a gap."""
        if self._steps:
            for number in range(self._first, self._last + 1):
                yield number * self.step, self._steps.get(number, Figures())

    def _new(self, when: float) -> Figures:
        """A step that is not there yet; for its sake all may have to become longer."""
        number = int(when // self.step)
        if not self._steps:
            self._first = self._last = number
        while max(self._last, number) - min(self._first, number) >= MOST_STEPS:
            self._lengthen()
            number = int(when // self.step)
        self._first, self._last = min(self._first, number), max(self._last, number)
        return self._steps.setdefault(number, Figures())

    def _lengthen(self) -> None:
        before = self.step
        self.step = next((each for each in _STEPS if each > before), before * 2)
        shorter, self._steps = self._steps, {}
        for number, figures in shorter.items():
            self._steps.setdefault(number * before // self.step, Figures()).take(figures)
        self._first, self._last = min(self._steps), max(self._steps)


class Top:
    """Figures by key. Beyond twice `most` keys, those that are small in requests and in octets are forgotten.

    What is left is the larger ones; their figures are lower bounds once `forgotten` is not 0, as one that was
    forgotten and comes back begins at 0.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[Key, Figures] = {}
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, *key: str) -> Figures:
        """The figures of that key, to be added to at once."""
        figures = self._rows.get(key)
        if figures is None:
            if len(self._rows) >= 2 * self._most:
                self._forget()
            figures = self._rows[key] = Figures()
        return figures

    def largest(self, most: int) -> list[tuple[Key, Figures]]:
        """Those with the most requests, and of equals the first by name."""
        return heapq.nsmallest(most, self._rows.items(), key=lambda row: (-row[1].requests, row[0]))

    def all(self) -> Iterator[tuple[Key, Figures]]:
        """All that are left."""
        yield from self._rows.items()

    def _forget(self) -> None:
        """Half for those that ask often, half for those that move much: one large upload is not to be lost."""
        kept = dict(heapq.nlargest(self._most // 2, self._rows.items(), key=lambda row: row[1].requests))
        kept |= heapq.nlargest(self._most // 2, self._rows.items(), key=lambda row: row[1].octets)
        self.forgotten += len(self._rows) - len(kept)
        self._rows = kept


class Histogram:
    """How long things took, in milliseconds: bins that grow by 9 % each."""

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0.0
        self._bins: dict[int, int] = {}

    def add(self, ms: float) -> None:
        """Count one."""
        number = math.ceil(math.log2(max(ms, _SHORTEST) / _SHORTEST) * _BINS_PER_DOUBLING)
        self._bins[number] = self._bins.get(number, 0) + 1
        self.count += 1
        self.longest = max(self.longest, ms)

    def within(self, part: float) -> float | None:
        """Within which time that part of them was done (0.95: the 95th percentile), or 9 % more; None of none."""
        seen = 0
        for number in sorted(self._bins):
            seen += self._bins[number]
            if seen >= part * self.count:
                return float(min(self.longest, _SHORTEST * 2 ** (number / _BINS_PER_DOUBLING)))
        return None


@dataclass(frozen=True, slots=True, order=True)
class Slow:
    """Something that took long, and what it was."""

    ms: float
    when: float
    client: str
    destination: str


class Slowest:
    """Those that took longest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[Slow] = []

    def add(self, slow: Slow) -> None:
        """Take one into account."""
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, slow)
        else:
            heapq.heappushpop(self._heap, slow)

    def sorted(self) -> list[Slow]:
        """The slowest first."""
        return sorted(self._heap, reverse=True)
