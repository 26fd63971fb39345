"""Rates and numbers: token buckets and counts, as pure functions. The clock is an argument.

Where the counts are kept, and by how many processes, is not known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from proxyd.policy.client import Rates


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many tokens there were, and when (seconds of a clock that never goes back)."""

    tokens: float = 0.0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Use:
    """What a client, or all of them, have used of their limits."""

    of_requests: Bucket = Bucket()
    of_tunnels: Bucket = Bucket()
    requests: int = 0
    tunnels: int = 0


@dataclass(frozen=True, slots=True)
class Over:
    """A limit is reached. retry_after: whole seconds after which asking again may help."""

    reason: Reason
    retry_after: int = 1


def spend(limits: Rates, use: Use, now: float, *, tunnel: bool) -> Use | Over:
    """Take a token for one request, whatever will become of it; or say how long there will be none."""
    of_requests = _spent(use.of_requests, limits.requests_per_second, limits.burst, now)
    if not isinstance(of_requests, Bucket):
        return Over(Reason.RATE_LIMIT, of_requests)
    if not tunnel:
        return replace(use, of_requests=of_requests)
    of_tunnels = _spent(use.of_tunnels, limits.tunnels_per_second, limits.burst, now)
    if not isinstance(of_tunnels, Bucket):
        return Over(Reason.RATE_LIMIT, of_tunnels)
    return replace(use, of_requests=of_requests, of_tunnels=of_tunnels)


def has_room(limits: Rates, use: Use, *, tunnel: bool) -> bool:
    """Whether one more may be under way."""
    most, now = (limits.tunnels, use.tunnels) if tunnel else (limits.requests, use.requests)
    return not most or now < most


def _spent(bucket: Bucket, rate: int, burst: int, now: float) -> Bucket | int:
    """The bucket with a token less; or the whole seconds until it has one. rate: a second; 0 is no limit."""
    if not rate:
        return bucket
    tokens = min(float(burst or rate), bucket.tokens + (now - bucket.at) * rate)
    if tokens < 1:
        return max(1, math.ceil((1 - tokens) / rate))
    return Bucket(tokens - 1, now)
