"""Ends of silence: nobody too early, nobody more than a second late, a hundred thousand as well as one (R10)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from proxyd.net.deadlines import Deadlines


@dataclass(eq=False)
class Idler:
    """Something that stands still."""

    idle_at: float
    slot: int = 0


def watched(*idle_at: float, now: float = 0.0) -> tuple[Deadlines[Idler], list[Idler]]:
    """A wheel, and those on it."""
    deadlines: Deadlines[Idler] = Deadlines(now)
    idlers = [Idler(each) for each in idle_at]
    for idler in idlers:
        deadlines.add(idler)
    return deadlines, idlers


@pytest.mark.parametrize(
    ("idle_at", "now", "due"),
    [
        (10.0, 9.99, False),
        (10.0, 10.0, True),
        (10.0, 11.0, True),
        (10.5, 10.99, False),
        (10.5, 11.0, True),
        (0.0, 0.0, True),
        (-5.0, 0.0, True),
    ],
)
def test_it_is_due_within_a_second_and_never_before(idle_at: float, now: float, *, due: bool) -> None:
    deadlines, [idler] = watched(idle_at)
    assert list(deadlines.idle(now)) == [idler] * due
    assert len(deadlines) == (not due)


def test_each_is_told_once() -> None:
    deadlines, idlers = watched(1.0, 2.0, 3.0)
    assert list(deadlines.idle(2.0)) == idlers[:2]
    assert list(deadlines.idle(2.0)) == []
    assert list(deadlines.idle(99.0)) == idlers[2:]


def test_one_that_moved_is_looked_at_again_when_its_last_movement_says() -> None:
    deadlines, [idler] = watched(10.0)
    idler.idle_at = 25.0
    assert list(deadlines.idle(24.0)) == []
    assert len(deadlines) == 1
    assert list(deadlines.idle(25.0)) == [idler]


def test_one_that_is_to_end_sooner_is_watched_anew() -> None:
    deadlines, [idler] = watched(100.0)
    deadlines.discard(idler)
    idler.idle_at = 10.0
    deadlines.add(idler)
    assert list(deadlines.idle(10.0)) == [idler]
    assert len(deadlines) == 0


def test_one_that_ended_leaves_nothing_behind() -> None:
    deadlines, [first, second] = watched(10.0, 10.0)
    deadlines.discard(first)
    assert len(deadlines) == 1
    deadlines.discard(first)
    assert list(deadlines.idle(99.0)) == [second]
    assert len(deadlines) == 0


def test_one_can_end_while_others_are_told() -> None:
    deadlines, [first, second] = watched(10.0, 10.0)
    told = []
    for idler in deadlines.idle(10.0):
        told.append(idler)
        deadlines.discard(first)
        deadlines.discard(second)
    assert set(told) <= {first, second}
    assert len(deadlines) == 0


def test_a_clock_that_begins_late_has_no_slots_to_catch_up_with() -> None:
    deadlines, [idler] = watched(1e9 + 5, now=1e9)
    assert list(deadlines.idle(1e9 + 4)) == []
    assert list(deadlines.idle(1e9 + 5)) == [idler]


def test_r10_a_hundred_thousand_of_which_half_go_on_moving() -> None:
    """Every second for an hour and a half, on a clock of our own: who moves stays, who stopped is told in time."""
    chance = random.Random(4)  # noqa: S311 - dice, the same in every run
    deadlines, idlers = watched(*(chance.uniform(0, 3600) for _ in range(100_000)))
    movers, looks = set(idlers[::2]), 0
    last = {idler: idler.idle_at for idler in idlers}
    for second in range(5400):
        for idler in deadlines.idle(float(second)):
            looks += 1
            assert last[idler] <= second < last[idler] + 1
            if idler in movers and second < 3600:
                idler.idle_at = last[idler] = second + 1000.0
                deadlines.add(idler)
    assert len(deadlines) == 0
    assert looks < 100_000 * 5, "nobody is looked at more often than he moves"
