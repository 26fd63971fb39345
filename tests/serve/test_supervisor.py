"""The supervisor: what signals and askers mean to it, and a reload that all workers take part in, or none.

On the stage: a clock of its own, and workers that do as a test says. Back-off and what is handed over are the crew's;
`tests/end_to_end` has the real processes.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.serve.charge import CannotServe
from proxyd.serve.control import Outcome
from proxyd.serve.crew import CERTAIN_SECONDS, FIRST_PAUSE, STUCK_SECONDS
from proxyd.serve.handover import AT_ONCE
from tests.serve.reign import DENIED, Reign, answers, hup, reign, term
from tests.serve.stage import Stage, Worker, charge, hear, stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.serve.channel import Message

__all__ = ["stage"]


# Signals


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_end_is_a_drain_and_asked_for_again_it_is_at_once(stage: Stage, first: int, second: int) -> None:
    """A second one means it. What a worker hears by then is no second SIGTERM: that it may get from others, too."""
    stage.at(1, hear(first))
    stage.at(2, hear(second), stage.all_end)
    reign(stage, 2).run()
    assert [worker.signals for worker in stage.started] == [[signal.SIGTERM, AT_ONCE]] * 2
    assert stage.complaints == []


def test_from_the_end_on_nobody_is_let_in_by_the_kernel(stage: Stage) -> None:
    """ATTACKS 8 (SIGTERM): a listener that we keep would let clients connect, and wait for nobody."""
    with socket.socket() as sock:
        seen: list[int] = []

        def look() -> int:
            seen.append(sock.fileno())
            return signal.SIGCHLD

        number = sock.fileno()
        stage.at(1, look, term, look, stage.all_end)
        Reign(stage, charge({"127.0.0.1:1": (sock,)})).run()
    assert seen == [number, -1]


def test_the_end_waits_for_the_last_worker_and_replaces_none(stage: Stage) -> None:
    """Whatever they end by."""
    stage.at(1, term)
    stage.at(2, stage.ends(1, -signal.SIGKILL))
    stage.at(3, stage.ends(0))
    stage.at(4, stage.ends(2))
    reign(stage, 3).run()
    assert (stage.now, len(stage.started), stage.complaints) == (4, 3, [])


def test_a_worker_that_was_about_to_be_started_is_not_when_the_end_comes(stage: Stage) -> None:
    """And nobody is left to wait for."""
    stage.at(1, stage.ends(0))
    stage.at(1.05, term)
    reign(stage).run()
    assert (stage.now, stage.starts()) == (1.05, [0])


def test_a_worker_that_died_is_replaced_while_nothing_else_happens(stage: Stage) -> None:
    """The wait is no longer than until somebody is due."""
    stage.at(1, stage.ends(0))
    stage.at(9, term, stage.all_end)
    reign(stage).run()
    assert stage.starts() == [0, 1.1]


def test_attack_8_a_worker_that_is_stuck_is_replaced_while_nothing_else_happens(stage: Stage) -> None:
    """We look without being asked, and twice."""
    stage.at(5, partial(beat, stage))
    stage.at(100, term, stage.all_end)
    reign(stage).run()
    silent = STUCK_SECONDS + CERTAIN_SECONDS
    assert stage.starts() == [0, 5 + silent + FIRST_PAUSE]
    assert stage.complaints[0] == f"a worker shows no sign of life since {silent:.0f} s; it is ended"


def beat(stage: Stage) -> int:
    """The last sign of life of the first worker."""
    with stage.counting(0) as tally:
        tally.beat(stage.now, 1)
    return signal.SIGCHLD


def test_sigusr1_reaches_every_worker(stage: Stage) -> None:
    """logrotate asks the one process that it knows."""
    stage.at(1, hear(signal.SIGUSR1))
    stage.at(2, term, stage.all_end)
    reign(stage, 3).run()
    assert [worker.signals for worker in stage.started] == [[signal.SIGUSR1, signal.SIGTERM]] * 3


@pytest.mark.parametrize("number", [signal.SIGCHLD, AT_ONCE])
def test_a_signal_that_means_nothing_ends_nothing(stage: Stage, number: int) -> None:
    """A child that was stopped, or a worker's signal sent to us."""
    stage.at(1, hear(number))
    stage.at(2, term, stage.all_end)
    reign(stage).run()
    assert (stage.starts(), stage.started[0].signals) == ([0], [signal.SIGTERM])


# A reload


def test_a_reload_is_prepared_by_all_and_then_committed_by_all(stage: Stage) -> None:
    """DESIGN, "Time and change": two phases; who starts later begins with the new policy."""
    run, after = reign(stage, 2), charge(more=DENIED, workers=2)
    run.comes = [after]
    stage.answers["commit"] = lambda: {"revoked": 3}
    stage.at(1, hup)
    stage.at(20, stage.ends(0))
    stage.at(30, term, stage.all_end)
    run.run()
    assert stage.orders() == [["prepare", "commit"]] * 2 + [[]]
    assert [worker.told[1].handover for worker in stage.started[:2]] == [after.handover] * 2
    assert stage.started[2].told[0].handover == after.handover
    assert run.told == [(Outcome(changes=("deny: +corp",), revoked=6), after)]
    assert stage.complaints == ["a worker ended (exit status 1); another is started in 0.1 s, connections wait"]


def test_none_commits_before_all_are_ready(stage: Stage) -> None:
    """R12: two policies at once would be none."""
    order: list[str] = []
    stage.answers |= answers(order.append)
    run = reign(stage, 3)
    run.comes = [charge(workers=3)]
    stage.at(1, hup)
    stage.at(2, term, stage.all_end)
    run.run()
    assert order == ["prepare"] * 3 + ["commit"] * 3
    assert run.outcomes() == [Outcome()]


def cannot(_: Worker) -> Message | None:
    """It says why not."""
    return {"cannot": "a worker cannot use it: no room"}


def is_silent(_: Worker) -> Message | None:
    """It says nothing, and lives."""
    return None


def dies(worker: Worker) -> Message | None:
    """It says nothing, and is no more."""
    worker.end(9)
    return None


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (cannot, "a worker cannot use it: no room"),
        (is_silent, "a worker did not answer in time"),
        (dies, "a worker ended instead of an answer"),
    ],
)
def test_r12_one_worker_that_cannot_keeps_all_with_the_old_policy(
    stage: Stage, does: Callable[[Worker], Message | None], why: str
) -> None:
    """And that is told once, however many say the same; who starts later begins with the old policy, too."""
    before = charge(workers=4)
    run = Reign(stage, before, 4)
    run.comes = [charge(more=DENIED, workers=4)]

    def spoil() -> int:
        for number in (1, 3):
            worker = stage.started[number]
            worker.answers["prepare"] = partial(does, worker)
        return signal.SIGHUP

    stage.at(20, spoil)
    stage.at(21, stage.ends(0))
    stage.at(30, term, stage.all_end)
    run.run()
    assert run.told == [(Outcome(problems=(why,)), before)]
    alive = [] if does is dies else ["abort"]
    assert stage.orders()[:4] == [["prepare", "abort"], ["prepare", *alive]] * 2
    assert all(worker.told[0].handover == before.handover for worker in stage.started)
    assert len(stage.started) == (7 if does is dies else 5)
    assert run.supervisor.charge is before


@pytest.mark.parametrize("does", [is_silent, dies])
def test_r12_one_that_does_not_commit_is_replaced_by_one_with_the_new_policy(
    stage: Stage, does: Callable[[Worker], Message | None]
) -> None:
    """All others have changed by then: to go back would be a second change."""
    after = charge(more=DENIED, workers=2)
    run = reign(stage, 2)
    run.comes = [after]

    def spoil() -> int:
        worker = stage.started[1]
        worker.answers["commit"] = partial(does, worker)
        return signal.SIGHUP

    stage.answers["commit"] = lambda: {"revoked": 1}
    stage.at(20, spoil)
    stage.at(30, term, stage.all_end)
    run.run()
    assert stage.started[1].status == (-signal.SIGKILL if does is is_silent else 9)
    assert stage.starts() == [0, 0, 20.1]
    assert stage.started[2].told[0].handover == after.handover
    assert run.told == [(Outcome(changes=("deny: +corp",), revoked=1), after)]


def test_a_place_that_is_empty_hinders_no_reload(stage: Stage) -> None:
    """A policy that lets workers die is mended by a reload, and that must not wait for the worker that lives."""
    after = charge(more=DENIED, workers=2)
    run = reign(stage, 2)
    run.comes = [after]
    stage.at(1, stage.ends(0))
    stage.at(1.05, hup)
    stage.at(9, term, stage.all_end)
    run.run()
    assert stage.orders() == [[], ["prepare", "commit"], []]
    assert stage.started[2].told[0].handover == after.handover
    assert [bool(outcome.problems) for outcome in run.outcomes()] == [False]


def test_r12_a_policy_that_cannot_be_served_reaches_no_worker(stage: Stage) -> None:
    """Every problem is told."""
    before = charge()
    run = Reign(stage, before)
    run.comes = [CannotServe("one", "another", status=78)]
    stage.at(1, hup)
    stage.at(2, term, stage.all_end)
    run.run()
    assert stage.orders() == [[]]
    assert run.told == [(Outcome(problems=("one", "another")), before)]


def test_r12_a_host_that_has_not_what_a_reload_takes_serves_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file or no memory, for the supervisor's part or for what a worker is handed: once it ended all workers."""
    before, after = charge(workers=2), charge(workers=2)
    run = Reign(stage, before, 2)
    run.comes = [OSError(errno.ENOMEM, "Cannot allocate memory"), after, after]
    real = os.memfd_create

    def spoil() -> int:
        failures = iter([None, OSError(errno.EMFILE, "Too many open files")])

        def create(*what: Any) -> int:  # noqa: ANN401 - handed through as it is
            if (failure := next(failures, None)) is not None:
                raise failure
            return real(*what)

        monkeypatch.setattr(os, "memfd_create", create)
        return signal.SIGHUP

    stage.at(1, hup)
    stage.at(2, spoil)
    stage.at(3, hup)
    stage.at(4, term, stage.all_end)
    run.run()
    assert [outcome.problems for outcome in run.outcomes()] == [
        ("this host has not what it takes: Cannot allocate memory",),
        ("this host has not what it takes: Too many open files",),
        (),
    ]
    assert stage.orders() == [["prepare", "abort", "prepare", "commit"], ["abort", "prepare", "commit"]]
    assert (len(stage.started), run.supervisor.charge) == (2, after)


def test_a_reload_of_the_same_is_a_reload(stage: Stage) -> None:
    """What was cached is asked for anew; and it is told that nothing changed."""
    run = reign(stage)
    run.comes = [charge(), charge()]
    stage.at(1, hup)
    stage.at(1, hup)
    stage.at(2, term, stage.all_end)
    run.run()
    assert stage.orders() == [["prepare", "commit"] * 2]
    assert run.outcomes() == [Outcome(), Outcome()]


def test_who_is_ending_does_not_begin_anew(stage: Stage) -> None:
    """Listeners are closed by then; the policy is not even read."""
    run = reign(stage)
    stage.at(1, term, hup, stage.all_end)
    run.run()
    assert run.outcomes() == [Outcome(problems=("proxyd is ending; start it again",))]
    assert stage.orders() == [[]]
