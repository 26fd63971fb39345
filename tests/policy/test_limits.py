"""Rates and numbers: no more than was said in any stretch of time, and no less; the clock is an argument.

R10, ATTACKS 8. Times are in 1/1024 s, so that no sum is rounded and a bound holds exactly.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxyd.policy.client import Rates
from proxyd.policy.limits import Bucket, Over, Use, has_room, spend
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

START = 4096.0  # s; a clock that began long ago, as that of a machine that is up
TICK = 1024

rates = st.integers(1, 50)
bursts = st.integers(0, 60)  # 0 is none said
moments = st.lists(st.integers(0, 3 * TICK), min_size=1, max_size=80).map(
    lambda waits: [START + ticks / TICK for ticks in accumulate(waits)]
)


def asked(limits: Rates, times: Iterable[float], *, tunnel: bool = False) -> tuple[list[bool], Use]:
    """Which of the requests at these times get a token; and what is used then."""
    use = Use()
    got = []
    for now in times:
        after = spend(limits, use, now, tunnel=tunnel)
        got.append(isinstance(after, Use))
        use = after if isinstance(after, Use) else use
    return got, use


# One bucket


def test_r10_without_a_rate_everything_is_let_through_and_nothing_is_kept() -> None:
    for limits in (Rates(), Rates(burst=1), Rates(tunnels=1, requests=1)):
        for tunnel in (False, True):
            assert spend(limits, Use(), START, tunnel=tunnel) == Use()


@pytest.mark.parametrize(("burst", "at_once"), [(0, 5), (1, 1), (3, 3), (12, 12)])
def test_r10_at_first_and_after_a_pause_a_burst_is_let_through_and_without_one_a_seconds_worth(
    burst: int, at_once: int
) -> None:
    limits = Rates(requests_per_second=5, burst=burst)
    for times in ([START] * 20, [START + 3600.0] * 20):
        assert sum(asked(limits, times)[0]) == at_once
    got, _ = asked(limits, [START] * 20 + [START + 3600.0] * 20)
    assert sum(got) == 2 * at_once


def test_r10_in_the_long_run_the_rate_is_let_through_to_the_last_request() -> None:
    got, _ = asked(Rates(requests_per_second=5, burst=1), [START + ticks / TICK for ticks in range(100 * TICK)])
    assert sum(got) == 500


@given(rates, bursts, moments)
@example(1, 0, [START, START])
@example(50, 1, [START, START + 1 / TICK])
def test_r10_in_no_stretch_of_time_more_than_the_burst_and_the_rate_is_let_through(
    rate: int, burst: int, times: list[float]
) -> None:
    got, _ = asked(Rates(requests_per_second=rate, burst=burst), times)
    let_through = [now for now, fine in zip(times, got, strict=True) if fine]
    for first, begin in enumerate(let_through):
        for last, end in enumerate(let_through[first:], first):
            assert last - first + 1 <= (burst or rate) + rate * (end - begin)


@given(rates, bursts, moments)
def test_r10_nobody_is_turned_away_who_kept_within_the_rate(rate: int, burst: int, times: list[float]) -> None:
    """Whoever is, has had the whole burst and the rate since some moment, but for less than one request."""
    got, _ = asked(Rates(requests_per_second=rate, burst=burst), times)
    let_through = [now for now, fine in zip(times, got, strict=True) if fine]
    for now in (now for now, fine in zip(times, got, strict=True) if not fine):
        before = [each for each in let_through if each <= now]
        assert any(
            len(before[first:]) > (burst or rate) + rate * (now - begin) - 1 for first, begin in enumerate(before)
        )


@given(rates, bursts, moments, st.integers(0, 5 * TICK))
@example(3, 1, [START], 0)
@example(1, 0, [START], 4 * TICK)
def test_r10_after_retry_after_there_is_a_token_and_not_a_second_earlier(
    rate: int, burst: int, times: list[float], back: int
) -> None:
    """Of a clock that goes on, a second is always enough; of one that went back, it takes until it is there again."""
    limits = Rates(requests_per_second=rate, burst=burst)
    _, use = asked(limits, [*times, *[times[-1]] * 60])
    now = times[-1] - back / TICK
    over = spend(limits, use, now, tunnel=False)
    assert isinstance(over, Over)
    assert over.reason is Reason.RATE_LIMIT
    assert 1 <= over.retry_after <= 1 + (back + TICK - 1) // TICK
    assert isinstance(spend(limits, use, now + over.retry_after, tunnel=False), Use)
    if over.retry_after > 1:
        assert isinstance(spend(limits, use, now + over.retry_after - 1, tunnel=False), Over)


def test_attack_8_who_is_turned_away_again_and_again_is_turned_away_no_longer_for_it() -> None:
    limits = Rates(requests_per_second=1)
    got, _ = asked(limits, [START, *[START + ticks / TICK for ticks in range(TICK)], START + 1.0])
    assert got == [True, *[False] * TICK, True]


def test_r12_a_clock_that_went_back_fills_nothing() -> None:
    limits = Rates(requests_per_second=10, burst=2)
    got, use = asked(limits, [START, START])
    assert got == [True, True]
    assert isinstance(spend(limits, use, START - 10.0, tunnel=False), Over)


def test_a_smaller_burst_holds_at_once_for_what_was_saved_under_a_larger_one() -> None:
    """A reload keeps what is used."""
    use = Use(of_requests=Bucket(1000.0, START))
    after = spend(Rates(requests_per_second=5), use, START, tunnel=False)
    assert after == Use(of_requests=Bucket(4.0, START))


# Requests and tunnels


def test_r10_a_tunnel_takes_a_token_of_both_and_a_request_of_one() -> None:
    limits = Rates(requests_per_second=5, tunnels_per_second=2)
    assert spend(limits, Use(), START, tunnel=False) == Use(of_requests=Bucket(4.0, START))
    assert spend(limits, Use(), START, tunnel=True) == Use(Bucket(4.0, START), Bucket(1.0, START))


def test_r10_too_many_tunnels_leave_requests_alone_and_too_many_requests_are_too_many_tunnels() -> None:
    limits = Rates(requests_per_second=5, tunnels_per_second=1)
    use = spend(limits, Use(), START, tunnel=True)
    assert isinstance(use, Use)
    assert spend(limits, use, START, tunnel=True) == Over(Reason.RATE_LIMIT, 1)
    assert isinstance(spend(limits, use, START, tunnel=False), Use)
    _, used_up = asked(limits, [START] * 5)
    assert spend(limits, used_up, START, tunnel=True) == Over(Reason.RATE_LIMIT, 1)


def test_a_rate_of_tunnels_alone_says_nothing_of_requests() -> None:
    limits = Rates(tunnels_per_second=1)
    assert all(asked(limits, [START] * 50)[0])
    assert sum(asked(limits, [START] * 50, tunnel=True)[0]) == 1


def test_the_burst_is_one_of_tunnels_too() -> None:
    assert sum(asked(Rates(tunnels_per_second=2, burst=7), [START] * 50, tunnel=True)[0]) == 7


def test_tokens_say_nothing_of_what_is_under_way() -> None:
    use = Use(requests=3, tunnels=4)
    after = spend(Rates(requests_per_second=1, tunnels_per_second=1), use, START, tunnel=True)
    assert isinstance(after, Use)
    assert (after.requests, after.tunnels) == (3, 4)


# Numbers


@pytest.mark.parametrize(
    ("limits", "use", "tunnel", "room"),
    [
        (Rates(), Use(requests=10**6, tunnels=10**6), False, True),
        (Rates(), Use(requests=10**6, tunnels=10**6), True, True),
        (Rates(requests=2), Use(requests=1), False, True),
        (Rates(requests=2), Use(requests=2), False, False),
        (Rates(requests=2), Use(requests=3), False, False),
        (Rates(requests=2), Use(requests=2), True, True),
        (Rates(tunnels=2), Use(tunnels=1), True, True),
        (Rates(tunnels=2), Use(tunnels=2), True, False),
        (Rates(tunnels=2), Use(tunnels=3), True, False),
        (Rates(tunnels=2), Use(tunnels=2), False, True),
        (Rates(requests=1, tunnels=1), Use(requests=1), True, True),
        (Rates(requests=1, tunnels=1), Use(tunnels=1), False, True),
    ],
)
def test_r10_as_many_may_be_under_way_as_is_said_of_each_kind(
    limits: Rates, use: Use, *, tunnel: bool, room: bool
) -> None:
    assert has_room(limits, use, tunnel=tunnel) is room


def test_what_is_over_says_when_to_ask_again_and_else_in_a_second() -> None:
    assert Over(Reason.CONCURRENCY_LIMIT).retry_after == 1
