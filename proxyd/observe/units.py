"""Numbers as a person reads them: thousands apart, octets and durations in the unit that fits, times in UTC."""

from __future__ import annotations

import datetime as dt
from typing import Final

_SIZES: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_SPANS: Final = (
    (1e3, 1, "ms"),
    (60e3, 1e3, "s"),
    (3600e3, 60e3, "min"),
    (48 * 3600e3, 3600e3, "h"),
    (float("inf"), 86400e3, "d"),
)


def count(number: int) -> str:
    """1,234,567."""
    return f"{number:,}"


def size(octets: int) -> str:
    """Octets in decimal units: 0 B, 999 B, 1.2 kB, 34 MB."""
    number, unit = float(octets), 0
    while number >= 999.5 and unit < len(_SIZES) - 1:  # noqa: PLR2004 - what would be spelt 1000
        number, unit = number / 1000, unit + 1
    return f"{_short(number) if unit else octets} {_SIZES[unit]}"


def span(ms: float) -> str:
    """A duration: 0.4 ms, 12 ms, 3.4 s, 5.6 min, 7.8 h, 9.1 d."""
    unit, name = next((unit, name) for below, unit, name in _SPANS if ms < below)
    return f"{_short(ms / unit)} {name}"


def moment(seconds: float) -> str:
    """2026-11-21 18:13:19, in UTC."""
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M:%S}"


def part(number: float, whole: float) -> str:
    """A percentage: 12 %, 0.3 %; less than 0.1 % is no nothing."""
    percent = 100 * number / whole if whole else 0.0
    return "< 0.1 %" if 0 < percent < 0.1 else f"{_short(percent)} %"  # noqa: PLR2004 - as it says


def _short(number: float) -> str:
    """Two digits at least, and no third behind the point."""
    return f"{number:,.0f}" if number >= 9.95 or number == int(number) else f"{number:.1f}"  # noqa: PLR2004 - spelt 10
