"""What a report knows: the destinations that were reached, kept in the page, so that the next one can say what is new.

A page is read back from a file that anybody may have put there: it is one of ours, or it is left alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST: Final = 20_000
"""Destinations that are remembered; an agent that makes names up must not fill the page."""

BEGIN: Final = '<!doctype html>\n<html lang="en" data-made-by="proxyd report">\n'
"""How each of our pages begins."""

_BLOCK: Final = re.compile(r'<script type="application/json" id="known">(.*?)</script>', re.DOTALL)
_UNSAFE: Final = {ord(each): f"\\u{ord(each):04x}" for each in "<>&"}


@dataclass(frozen=True, slots=True)
class Known:
    """Destinations ("host:port") that were reached. complete: whether there was room for all of them."""

    destinations: frozenset[str] = frozenset()
    complete: bool = True

    def new(self, reached: Iterable[str]) -> list[str]:
        """Those that were not reached before."""
        return sorted({each for each in reached if each not in self.destinations})

    def and_also(self, reached: Iterable[str]) -> Known:
        """What is known after these; where there is no room for all, these come first."""
        now = sorted(set(reached))
        older = sorted(self.destinations.difference(now))
        kept = [*now, *older][:MOST]
        return Known(frozenset(kept), self.complete and len(kept) == len(now) + len(older))


def embedded(known: Known) -> str:
    """The block of the page that keeps it; nothing in it can end the block."""
    document = {"complete": known.complete, "destinations": sorted(known.destinations)}
    text = json.dumps(document, separators=(",", ":")).translate(_UNSAFE)
    return f'<script type="application/json" id="known">{text}</script>'


def known_by(page: str) -> Known | None:
    """What that page knows; None if it is no page of ours."""
    block = _BLOCK.search(page)
    if not page.startswith(BEGIN) or block is None:
        return None
    try:
        document: Any = json.loads(block[1])
        destinations = frozenset(document["destinations"])
        complete = document["complete"] is True
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not all(isinstance(each, str) for each in destinations):
        return None
    return Known(destinations, complete)
