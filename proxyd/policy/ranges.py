"""Networks compiled for lookup: which row's network holds this address most narrowly?

netaddr says what a network is; a linear search of it costs microseconds a row, so the answer is precomputed
as disjoint integer ranges and found by bisection.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from netaddr import IPAddress, IPNetwork

T = TypeVar("T")


class RangeTable(Generic[T]):
    """Address -> the value of the narrowest network that holds it; of equal networks, the first given."""

    def __init__(self, rows: Iterable[tuple[IPNetwork, T]]) -> None:
        spans: dict[int, dict[tuple[int, int], T]] = {4: {}, 6: {}}
        for network, value in rows:
            spans[network.version].setdefault((network.first, network.last), value)
        self._compiled = {version: _compile(found) for version, found in spans.items()}

    def find(self, address: IPAddress) -> T | None:
        """The value for `address`, or None where no network holds it."""
        starts, values = self._compiled[address.version]
        return values[bisect_right(starts, int(address))]


def _compile(spans: dict[tuple[int, int], T]) -> tuple[list[int], list[T | None]]:
    """Ascending range starts, and for each the value from there on; the first value is for what lies before."""
    starts: list[int] = []
    values: list[T | None] = [None]
    for start, value in _changes(spans):
        if starts and starts[-1] == start:
            values[-1] = value
        else:
            starts.append(start)
            values.append(value)
    return starts, values


def _changes(spans: dict[tuple[int, int], T]) -> Iterator[tuple[int, T | None]]:
    """Where the narrowest value changes. Networks nest or are disjoint, so a stack of the open ones is enough."""
    opened: list[tuple[int, T]] = []
    for (first, last), value in sorted(spans.items(), key=lambda span: (span[0][0], -span[0][1])):
        yield from _closings(opened, before=first)
        opened.append((last, value))
        yield first, value
    yield from _closings(opened, before=None)


def _closings(opened: list[tuple[int, T]], before: int | None) -> Iterator[tuple[int, T | None]]:
    """End the open networks that end before `before` (all of them for None); what encloses each goes on."""
    while opened and (before is None or opened[-1][0] < before):
        last, _ = opened.pop()
        yield last + 1, opened[-1][1] if opened else None
