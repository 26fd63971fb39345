"""The drawings of the report, as SVG text: no colours here but classes, no texts but titles, and nothing that runs.

Drawings are stretched to the room there is, so whatever is to be read stands beside them. What a drawing says, the page
says in a table, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LANE: Final = 100
"""Height of a lane, in the drawing's units; a step of time is 10 wide."""

_STEP: Final = 10
_ROOM: Final = 12  # above each lane
_LEAST: Final = 3.0  # of the height: one denial beside a million is seen, too


@dataclass(frozen=True, slots=True)
class Lane:
    """One row of bars, on a scale of its own. kind: the class that gives it its colour."""

    kind: str
    values: Sequence[float]


def over_time(name: str, lanes: Sequence[Lane], titles: Sequence[str], marks: Iterable[int] = ()) -> str:
    """Lanes above each other with one axis of time. titles: what to say of each step. marks: steps to be marked."""
    width, height = _STEP * len(titles), LANE * len(lanes)
    drawn = [_lane(lane, number) for number, lane in enumerate(lanes)]
    drawn += [f'<path class="mark" d="M{(step + 0.5) * _STEP:g} 0V{height}"/>' for step in sorted(set(marks))]
    drawn += [
        f'<rect class="step" x="{number * _STEP}" y="0" width="{_STEP}" height="{height}">'
        f"<title>{escape(title)}</title></rect>"
        for number, title in enumerate(titles)
    ]
    return (
        f'<svg class="lanes" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(name)}">{"".join(drawn)}</svg>'
    )


def bar(part: float, kind: str) -> str:
    """A horizontal bar, for a number that stands beside it. part: of the longest one, from 0 to 1."""
    width = max(_LEAST, 100 * part) if part else 0
    return (
        '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{escape(kind)}" width="{width:.4g}" height="1"/></svg>'
    )


def _lane(lane: Lane, number: int) -> str:
    """Its bars as one shape, so that no seams are seen between them."""
    ground, most = LANE * (number + 1), max(lane.values, default=0)
    outline = "".join(f"V{ground - _height(value, most):.4g}h{_STEP}" for value in lane.values)
    return (
        f'<path class="ground" d="M0 {ground}H{_STEP * len(lane.values)}"/>'
        f'<path class="{escape(lane.kind)}" d="M0 {ground}{outline}V{ground}Z"/>'
    )


def _height(value: float, most: float) -> float:
    return max(_LEAST, (LANE - _ROOM) * value / most) if value else 0.0
