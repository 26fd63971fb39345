"""Counting in constant memory: nothing is lost that is large, and nothing grows with what is counted (ATTACKS 8)."""

from __future__ import annotations

import random

import pytest

from proxyd.audit.sketch import MOST_STEPS, Figures, Histogram, Slow, Slowest, Timeline, Top

NOON = 1_800_000_000.0  # a day of 2027, on a boundary of ten minutes
LATEST = NOON + 10 * 365 * 86400


def drawn(timeline: Timeline) -> list[int]:
    """The requests of each step."""
    return [figures.requests for _, figures in timeline.drawn()]


@pytest.mark.parametrize(
    ("seconds", "step"),
    [
        (0, 1),
        (239, 1),
        (240, 2),
        (3600, 30),
        (86400 - 1, 600),
        (7 * 86400 - 1, 3600),
        (200 * 86400, 86400),
        (300 * 86400, 2 * 86400),
        (3000 * 86400, 16 * 86400),
    ],
)
def test_steps_get_longer_as_the_time_does(seconds: int, step: int) -> None:
    timeline = Timeline(LATEST)
    timeline.at(NOON).requests += 1
    timeline.at(NOON + seconds).requests += 2
    assert timeline.step == step
    assert sum(drawn(timeline)) == 3
    assert len(drawn(timeline)) <= MOST_STEPS


def test_whatever_the_order_the_figures_are_the_same() -> None:
    times = [NOON + 97 * number for number in range(2000)]
    backwards, shuffled = times[::-1], random.Random(1).sample(times, len(times))  # noqa: S311 - no secret
    pictures = []
    for order in (times, backwards, shuffled):
        timeline = Timeline(LATEST)
        for when in order:
            for name in ("requests", "denied", "failed", "up", "down"):
                figures = timeline.at(when)
                setattr(figures, name, getattr(figures, name) + 1)
        pictures.append(list(timeline.drawn()))
    assert pictures[0] == pictures[1] == pictures[2]
    assert sum(figures.requests for _, figures in pictures[0]) == 2000
    assert [begin for begin, _ in pictures[0]] == list(range(pictures[0][0][0], int(times[-1]) + 1, 1800))


def test_a_step_begins_where_a_clock_would_begin_it() -> None:
    timeline = Timeline(LATEST)
    for when in (NOON + 3 * 3600 + 7, NOON + 4 * 3600):
        timeline.at(when)
    assert [begin % timeline.step for begin, _ in timeline.drawn()] == [0] * len(drawn(timeline))
    assert next(timeline.drawn())[0] <= NOON + 3 * 3600 + 7


@pytest.mark.parametrize("when", [None, 0.0, -1.0, LATEST + 1, 1e308, float("inf"), float("nan")])
def test_what_has_no_usable_time_is_counted_and_not_drawn(when: float | None) -> None:
    """One record of a broken clock must not press the rest into one step."""
    timeline = Timeline(LATEST)
    timeline.at(when).requests += 1
    assert drawn(timeline) == []
    assert timeline.nowhere.requests == 1


def test_attack_8_many_keys_take_no_more_room_than_a_few_and_the_large_ones_stay() -> None:
    top = Top(100)
    for number in range(20_000):
        top.of(f"made-up-{number}").requests += 1
        if number % 10 == 0:
            top.of("asks often").requests += 1
        if number == 17:
            top.of("moved much once").up += 10**9
    assert len(top) <= 200
    assert top.forgotten > 19_000
    assert top.largest(1)[0][0] == ("asks often",)
    assert top.of("asks often").requests == 2000
    assert top.of("moved much once").up == 10**9


def test_few_keys_are_all_kept_the_largest_first_and_equals_by_name() -> None:
    top = Top(2)
    for key in ("b", "a", "c", "c"):
        top.of(key, "x").requests += 1
    assert [key for key, _ in top.largest(9)] == [("c", "x"), ("a", "x"), ("b", "x")]
    assert [key for key, _ in top.largest(2)] == [("c", "x"), ("a", "x")]
    assert dict(top.all())["a", "x"].requests == 1
    assert top.forgotten == 0


def test_figures_say_what_is_left_and_what_came_last() -> None:
    figures = Figures(requests=5, denied=2, failed=1, up=3, down=4)
    assert (figures.allowed, figures.octets) == (2, 7)
    assert Figures(requests=1, denied=2).allowed == 0, "a log that begins with a closing"
    for when, decision in ((5.0, "a"), (3.0, "b"), (None, "c")):
        figures.seen(when, decision)
    assert (figures.last, figures.id) == (5.0, "a")


@pytest.mark.parametrize("part", [0.5, 0.95, 0.99, 1.0])
def test_percentiles_are_right_within_nine_percent(part: float) -> None:
    chance = random.Random(3)  # noqa: S311 - no secret
    values = [chance.lognormvariate(3, 2) + 0.1 for _ in range(5000)]
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[round(part * len(values)) - 1]
    found = histogram.within(part)
    assert found is not None
    assert exact <= found <= exact * 1.0906
    assert histogram.count == 5000


def test_percentiles_of_nothing_and_of_no_time() -> None:
    histogram = Histogram()
    assert histogram.within(0.5) is None
    histogram.add(0)
    assert (histogram.within(0.5), histogram.longest) == (0.0, 0)


def test_the_slowest_are_kept_slowest_first() -> None:
    slowest = Slowest(3)
    for ms in (5, 1, 9, 7, 3, 9):
        slowest.add(Slow(ms, 0.0, "c", "d"))
    assert [slow.ms for slow in slowest.sorted()] == [9, 9, 7]
