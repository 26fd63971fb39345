"""Signs of life of the workers: who serves, who is stuck, how many died. On the stage's clock; nobody waits."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxyd.observe import tally
from proxyd.observe.tally import read_totals
from proxyd.serve.crew import BEGIN_SECONDS, CERTAIN_SECONDS, FIRST_PAUSE, STUCK_SECONDS
from tests.serve.stage import ACCOUNTS, Stage, charge, stage

if TYPE_CHECKING:
    from proxyd.serve.crew import Crew

__all__ = ["stage"]


def beats(stage: Stage, *places: int) -> None:
    """Those workers show that they let clients in."""
    for place in places:
        with stage.counting(place) as tally:
            tally.beat(stage.now, 1)


@pytest.fixture
def crew(stage: Stage) -> Crew:
    """Three, who have just been started."""
    stage.now = 1000.0
    crew = stage.crew(3)
    crew.fill(charge(workers=3))
    return crew


def test_who_has_shown_nothing_yet_neither_serves_nor_is_stuck(crew: Crew) -> None:
    assert (crew.serving, crew.stuck) == (0, 0)


@pytest.mark.parametrize(
    ("seconds", "serving", "stuck"), [(0, 3, 0), (1, 3, 0), (STUCK_SECONDS - 0.001, 3, 0), (STUCK_SECONDS, 1, 2)]
)
def test_attack_8_who_shows_no_more_sign_of_life_is_stuck(
    stage: Stage, crew: Crew, seconds: float, serving: int, stuck: int
) -> None:
    """There should be one each second; a worker that was slow for some is not one to be restarted."""
    beats(stage, 0, 1, 2)
    stage.now += seconds
    beats(stage, 1)
    assert (crew.serving, crew.stuck) == (serving, stuck)
    assert STUCK_SECONDS == 20.0


# Who is stuck is replaced


def test_attack_8_who_is_stuck_and_remains_so_is_ended_and_replaced(stage: Stage, crew: Crew) -> None:
    """Recovery without a restart: others keep what runs with them."""
    beats(stage, 0, 1, 2)
    stage.now += STUCK_SECONDS
    beats(stage, 0, 2)
    crew.kill_the_stuck()
    stage.now += CERTAIN_SECONDS - 0.001
    beats(stage, 0, 2)
    crew.kill_the_stuck()
    assert [worker.status for worker in stage.started] == [None, None, None]
    stage.now += 0.001
    crew.kill_the_stuck()
    assert [worker.status for worker in stage.started] == [None, -signal.SIGKILL, None]
    assert stage.complaints == ["a worker shows no sign of life since 30 s; it is ended"]
    crew.kill_the_stuck()
    crew.reap()
    assert (crew.stuck, crew.serving, len(stage.complaints)) == (0, 2, 2)
    stage.now += FIRST_PAUSE
    crew.fill(charge(workers=3))
    assert len(stage.started) == 4


def test_after_a_stop_of_the_whole_machine_nobody_is_ended(stage: Stage, crew: Crew) -> None:
    """A container that is paused: all of us were silent, and go on."""
    beats(stage, 0, 1, 2)
    crew.kill_the_stuck()
    stage.now += 3600
    crew.kill_the_stuck()
    stage.now += 1
    beats(stage, 0, 1, 2)
    stage.now += CERTAIN_SECONDS
    crew.kill_the_stuck()
    stage.now += 3600
    crew.kill_the_stuck()
    assert [worker.status for worker in stage.started] == [None, None, None]


def test_who_has_shown_nothing_yet_has_minutes_to_begin(stage: Stage, crew: Crew) -> None:
    """A policy can be long. Who never begins is replaced, too."""
    beats(stage, 1)
    stage.now += BEGIN_SECONDS - 0.001
    for _ in range(2):
        beats(stage, 1)
        crew.kill_the_stuck()
        assert [worker.status for worker in stage.started] == [None, None, None]
        stage.now += 0.001
    stage.now += CERTAIN_SECONDS
    beats(stage, 1)
    crew.kill_the_stuck()
    assert [worker.status for worker in stage.started] == [-signal.SIGKILL, None, -signal.SIGKILL]


def test_who_drains_alone_is_not_ended(stage: Stage, crew: Crew) -> None:
    """Somebody told that one worker to end: it has its time, as the policy says, and its tunnels their records."""
    beats(stage, 0, 1, 2)
    with stage.counting(1) as tally:
        tally.rest()
    for _ in range(5):
        stage.now += BEGIN_SECONDS
        beats(stage, 0, 2)
        crew.kill_the_stuck()
    assert [worker.status for worker in stage.started] == [None, None, None]
    assert (crew.serving, crew.stuck) == (2, 0)


def test_who_waits_for_a_disk_is_not_ended(stage: Stage, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be, before the disk goes on; and then it goes on, too."""
    stats = {worker.pid: "12 (a ) D) S 1 1" for worker in stage.started} | {stage.started[0].pid: "12 (python) D 1 1"}
    monkeypatch.setattr(Path, "read_text", lambda path: stats[int(path.parts[2])])
    beats(stage, 0, 1, 2)
    for _ in range(3):
        stage.now += STUCK_SECONDS
        crew.kill_the_stuck()
    assert [worker.status for worker in stage.started] == [None, -signal.SIGKILL, -signal.SIGKILL]


@pytest.mark.parametrize("within", [0.0, 30.0])
def test_who_does_not_end_in_time_is_ended(stage: Stage, crew: Crew, within: float) -> None:
    """One that was stuck while it drained would keep a supervisor for ever; the others have had their time."""
    beats(stage, 0, 1, 2)
    crew.end(within)
    stage.started[1].end(0)
    stage.now += within + CERTAIN_SECONDS - 0.001
    crew.kill_the_stuck()
    assert [worker.status for worker in stage.started] == [None, 0, None]
    stage.now += 0.001
    crew.kill_the_stuck()
    assert [worker.status for worker in stage.started] == [-signal.SIGKILL, 0, -signal.SIGKILL]
    crew.reap()
    crew.kill_the_stuck()
    assert not crew
    assert stage.complaints == []


def test_whom_the_kernel_has_not_ended_yet_is_ended_again_and_not_at_once(
    stage: Stage, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waits for a disk can take its time to die."""
    kills: list[float] = []
    monkeypatch.setattr(stage.started[0], "kill", lambda: kills.append(stage.now))
    beats(stage, 0)
    stage.now += STUCK_SECONDS
    for _ in range(3):
        crew.kill_the_stuck()
        stage.now += CERTAIN_SECONDS
    assert kills == [1000 + STUCK_SECONDS + CERTAIN_SECONDS, 1000 + STUCK_SECONDS + 2 * CERTAIN_SECONDS]


def test_who_rests_is_not_stuck(stage: Stage, crew: Crew) -> None:
    """It drains, for as long as the policy says."""
    beats(stage, 0, 1, 2)
    with stage.counting(1) as tally:
        tally.rest()
    stage.now += 3600
    assert (crew.serving, crew.stuck) == (0, 2)


def test_who_died_serves_no_more_and_neither_does_who_comes_next_before_it_shows(stage: Stage, crew: Crew) -> None:
    """By whatever it ended, and stuck or not; all that was open with it ends, and what it has counted stays."""
    beats(stage, 0, 1, 2)
    with stage.counting(1) as tally:
        tally.accepted()
    stage.now += STUCK_SECONDS
    beats(stage, 0)
    stage.ends(1, -signal.SIGKILL)()
    crew.reap()
    assert (crew.serving, crew.stuck, crew.deaths) == (1, 1, 1)
    stage.now += 1
    crew.fill(charge(workers=3))
    assert (crew.serving, crew.stuck) == (1, 1)
    beats(stage, 1)
    assert (crew.serving, crew.stuck) == (2, 1)
    assert read_totals(crew.tally, 3, ACCOUNTS).connections == 1


def test_a_death_is_one_that_nobody_asked_for(stage: Stage, crew: Crew) -> None:
    stage.ends(0)()
    crew.reap()
    crew.reap()
    crew.ending = True
    stage.all_end()
    crew.reap()
    assert (crew.deaths, bool(crew)) == (1, False)


def test_processes_are_told_by_their_places(stage: Stage, crew: Crew) -> None:
    """Who died is none: its number may be another process's by now."""
    assert crew.processes == {f"worker-{place}": worker.pid for place, worker in enumerate(stage.started)}
    stage.ends(1)()
    crew.reap()
    assert list(crew.processes) == ["worker-0", "worker-2"]


def test_a_death_in_the_turn_of_a_reload_ends_what_was_open_with_new_clients_too(
    stage: Stage, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reaped before anybody is started with the new policy."""
    struck: list[int] = []
    monkeypatch.setattr(tally, "strike_out", lambda fd, place, accounts: struck.append(accounts))
    after = charge(workers=3)
    accounts = ("", *(f"client-{number}" for number in range(9)))
    crew.hand_over(replace(after, handover=replace(after.handover, ledger=accounts)), "prepare")
    stage.ends(1)()
    crew.reap()
    assert struck == [10]
