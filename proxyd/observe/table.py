"""Tables of the report: the text of every cell is escaped, and a number stands beside its spelling, to be sorted by."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from proxyd.observe.plot import bar
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Number:
    """A number and how it is spelt. bar: the class of a bar to draw beside it, if one is to be drawn."""

    value: float
    text: str
    bar: str = ""


def shown(text: str) -> str:
    """Text from the log as it may stand in the page, also within the quotes of an attribute (ATTACKS 9)."""
    return escape(printable(text))


def table(name: str, heads: Sequence[str], rows: Sequence[Sequence[str | Number]], by: int | None = None) -> str:
    """A table in a box of its own, which scrolls where it has no room. by: the column it comes sorted by, if any."""
    sort = [' aria-sort="descending"' if number == by else "" for number in range(len(heads))]
    longest = [_longest(column) for column in zip(*rows, strict=True)]
    lines = ("".join(map(_cell, row, longest)) for row in rows)
    return (
        f'<div class="box" role="region" tabindex="0" aria-label="{shown(name)}"><table class="sorts">'
        f"<thead><tr>{''.join(map(_head, heads, sort))}</tr></thead>"
        f"<tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table></div>\n"
    )


def _head(text: str, attribute: str) -> str:
    return f'<th scope="col"{attribute}>{shown(text)}</th>'


def _cell(cell: str | Number, longest: float) -> str:
    if isinstance(cell, str):
        return f"<td>{shown(cell)}</td>"
    drawn = bar(cell.value / longest if longest else 0, cell.bar) if cell.bar else ""
    return f'<td class="number" data-value="{cell.value}">{shown(cell.text)}{drawn}</td>'


def _longest(column: Sequence[str | Number]) -> float:
    return max((cell.value for cell in column if isinstance(cell, Number)), default=0)
