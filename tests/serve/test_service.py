"""What the service manager is told, and when; the clock is the test's, and crews are as the test says (R12)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from proxyd.serve.service import LOOK_SECONDS, Service
from tests.serve.stage import charge

if TYPE_CHECKING:
    from proxyd.serve.crew import Crew

CHARGE = charge()
STATUS = f"STATUS=policy gateway, digest {CHARGE.policy.digest[:16]}, on "


@dataclass
class Played:
    """A manager; what it was told."""

    listens: bool = True
    patience: float = 60.0
    told: list[tuple[str, ...]] = field(default_factory=list)

    def tell(self, *lines: str) -> None:
        """Note it."""
        self.told.append(lines)


@dataclass
class Crowd:
    """A crew: how many places it has, how many serve, how many are stuck."""

    places: int = 2
    serving: int = 2
    stuck: int = 0
    ending: bool = False


class Desk:
    """A service, and all that it looks at."""

    def __init__(self, **how: object) -> None:
        self.now = 1000.0
        self.manager = Played(**how)  # type: ignore[arg-type] # passed through
        self.crew = Crowd()
        self.service = Service(self.manager, lambda: self.now)

    def look(self) -> list[tuple[str, ...]]:
        """What is said at this look."""
        self.manager.told.clear()
        self.service.look(cast("Crew", self.crew), CHARGE)
        return list(self.manager.told)


def test_ready_is_said_once_and_only_when_every_worker_serves() -> None:
    desk = Desk(patience=0.0)
    for desk.crew.serving in (0, 1):
        assert desk.look() == []
        assert desk.service.until_due() == LOOK_SECONDS
    desk.crew.serving = 2
    assert desk.look() == [("READY=1", STATUS)]
    assert desk.look() == []
    assert desk.service.until_due() == math.inf


def test_the_status_is_said_again_when_another_policy_is_in_force() -> None:
    desk = Desk(patience=0.0)
    desk.look()
    other = charge(more='[[deny]]\nname = "corp"\nhosts = ["corp.example"]\nreason = "ours"\n')
    desk.manager.told.clear()
    desk.service.look(cast("Crew", desk.crew), other)
    [(ready, status)] = desk.manager.told
    assert ready == "READY=1"
    assert other.policy.digest[:16] in status
    assert status != STATUS


def test_signs_of_life_come_three_times_within_what_it_waits_for_one() -> None:
    desk = Desk()
    assert desk.look() == [("READY=1", STATUS), ("WATCHDOG=1",)]
    assert desk.service.until_due() == 20
    desk.now += 19
    assert desk.look() == []
    assert desk.service.until_due() == 1
    desk.now += 1
    assert desk.look() == [("WATCHDOG=1",)]
    desk.now += 100
    assert desk.service.until_due() == LOOK_SECONDS


def test_r12_while_a_worker_is_stuck_there_are_none_and_then_there_are_again() -> None:
    """A supervisor that lives says nothing of a worker that does not; and it does not spin meanwhile."""
    desk = Desk()
    desk.look()
    desk.crew.serving, desk.crew.stuck = 1, 1
    desk.now += 50
    assert desk.look() == []
    assert desk.service.until_due() == LOOK_SECONDS
    desk.crew.serving, desk.crew.stuck = 2, 0
    assert desk.look() == [("WATCHDOG=1",)]


def test_a_worker_that_is_being_replaced_is_not_stuck() -> None:
    desk = Desk()
    desk.look()
    desk.crew.serving = 1
    desk.now += 20
    assert desk.look() == [("WATCHDOG=1",)]


def test_from_the_beginning_of_the_end_on_only_that_is_said() -> None:
    desk = Desk()
    desk.service.ends()
    assert desk.manager.told == [("STOPPING=1", "STATUS=draining")]
    desk.crew.ending = True
    desk.now += 100
    assert desk.look() == []
    assert desk.service.until_due() == LOOK_SECONDS


@pytest.mark.parametrize("serving", [0, 2])
def test_where_nobody_listens_there_is_nothing_to_do(serving: int) -> None:
    desk = Desk(listens=False)
    desk.crew.serving = serving
    assert desk.look() == []
    assert desk.service.until_due() == math.inf
