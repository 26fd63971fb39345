"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from proxyd.observe.units import count, moment, part, size, span


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.2 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (34_000_000, "34 MB"),
        (10**12, "1 TB"),
        (10**24, "1,000,000 EB"),
    ],
)
def test_octets(octets: int, said: str) -> None:
    assert size(octets) == said


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (0, "0 ms"),
        (0.4, "0.4 ms"),
        (12.3, "12 ms"),
        (1000, "1 s"),
        (3400, "3.4 s"),
        (60_000, "1 min"),
        (3_600_000, "1 h"),
        (47 * 3_600_000, "47 h"),
        (72 * 3_600_000, "3 d"),
        (2.0**53, "104,249,991 d"),
    ],
)
def test_durations(ms: float, said: str) -> None:
    assert span(ms) == said


@pytest.mark.parametrize(
    ("number", "whole", "said"), [(0, 0, "0 %"), (0, 9, "0 %"), (1, 3, "33 %"), (1, 32, "3.1 %"), (1, 10**6, "< 0.1 %")]
)
def test_parts(number: int, whole: int, said: str) -> None:
    """One denial in a million is not nothing."""
    assert part(number, whole) == said


def test_counts_and_times() -> None:
    assert count(1234567) == "1,234,567"
    assert moment(1795284799.9) == "2026-11-21 18:13:19"
