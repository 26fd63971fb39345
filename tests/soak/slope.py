"""Whether a series rises: its slope, and how much of that could be noise."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_POINTS: Final = 4
_T_95: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""Student's t for 95 %, two-sided, by degrees of freedom from 1 on; beyond the last it is about 2."""


@dataclass(frozen=True)
class Slope:
    """By least squares, in units of y for one of x. noise: half the 95 % interval around it."""

    rise: float
    noise: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval reaches zero, or below it."""
        return self.rise <= self.noise


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """The slope of points (x, y). Raises ValueError for fewer than say anything."""
    if len(points) < LEAST_POINTS:
        raise ValueError(f"{len(points)} points have no slope to speak of")
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    freedom = len(points) - 2
    left = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in points)
    t = _T_95[freedom - 1] if freedom <= len(_T_95) else 2.0
    return Slope(rise, t * sqrt(left / freedom / spread))
