"""All samples of a soak as one SVG: a row each for memory, files, tasks and latency, and time from left to right."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH: Final = 960
ROW: Final = 150
LEFT, RIGHT, ABOVE, BELOW = 80, 20, 34, 26
_COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626")
_TICKS: Final = 4
_MOST_POINTS: Final = 600  # of a line: more than there are pixels nobody sees


@dataclass(frozen=True)
class Row:
    """One row of the picture. lines: by name. unit: of the vertical axis."""

    title: str
    unit: str
    lines: dict[str, Sequence[tuple[float, float]]]


def picture(rows: Sequence[Row], parts: Sequence[tuple[float, str]]) -> str:
    """parts: when each part of the soak began, and its name."""
    end = max(at for row in rows for line in row.lines.values() for at, _ in line)
    height = ABOVE + (ROW + BELOW) * len(rows) + BELOW
    drawn = [_row(row, ABOVE + number * (ROW + BELOW), end) for number, row in enumerate(rows)]
    drawn += [_part(at / end, name, height) for at, name in parts]
    drawn += [_text(_x(tick / 8), height - 8, f"{end * tick / 8 / 60:.1f} min", "middle") for tick in range(9)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
        ' font-size="11">'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


def _row(row: Row, top: float, end: float) -> str:
    most = _round_above(max((value for line in row.lines.values() for _, value in line), default=0))
    drawn = [_text(LEFT, top - 6, f"{row.title}, {row.unit}", "start", bold=True)]
    for tick in range(_TICKS + 1):
        y = top + ROW * (1 - tick / _TICKS)
        drawn.append(f'<path d="M{LEFT} {y:g}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        drawn.append(_text(LEFT - 6, y + 4, f"{most * tick / _TICKS:,.6g}", "end"))
    for number, (name, line) in enumerate(row.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        thinned = line[:: max(1, len(line) // _MOST_POINTS)]
        path = "L".join(f"{_x(at / end):.1f} {top + ROW * (1 - value / most):.1f}" for at, value in thinned)
        drawn.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        if len(row.lines) > 1:
            drawn.append(_text(WIDTH - RIGHT - 110 * (len(row.lines) - number - 1), top - 6, name, "end", colour))
    return "".join(drawn)


def _part(at: float, name: str, height: float) -> str:
    x = _x(at)
    line = f'<path d="M{x:.1f} 16V{height - BELOW}" stroke="#9ca3af" stroke-dasharray="3 3"/>'
    return line + _text(x + 3, 14, name, "start", "#6b7280")


def _round_above(value: float) -> float:
    """The next number whose quarters are easily read."""
    decade: float = 10 ** floor(log10(value)) if value > 0 else 1
    return next(step * decade for step in (1, 2, 4, 6, 8, 10) if step * decade >= value)


def _x(part: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * part


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#111827", *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'
