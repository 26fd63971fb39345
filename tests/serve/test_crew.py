"""The workers: started in their places, started again when they die, handed things and heard.

On a clock of its own, with workers that die when a test says so: back-off is measured exactly and waited for by
nobody. `test_crew_on_processes.py` starts a real process, and `tests/end_to_end/test_workers.py` real workers.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import proxyd
from proxyd.serve import crew as crew_module
from proxyd.serve.crew import ANSWER_SECONDS, CERTAIN_SECONDS, FIRST_PAUSE, GOOD_SECONDS, LONGEST_PAUSE
from proxyd.serve.ears import SIGNALS
from proxyd.serve.handover import AT_ONCE
from proxyd.serve.ledger import MOST_WORKERS
from tests.serve.stage import LONG, Stage, charge, open_files, stage

if TYPE_CHECKING:
    from types import ModuleType

    from proxyd.serve.channel import Channel, Message
    from proxyd.serve.crew import Crew

__all__ = ["stage"]


def keep(stage: Stage, crew: Crew, until: float = LONG) -> None:
    """Let a crew be kept up, as the supervisor does, until that time."""
    stage.at(until, lambda: setattr(crew, "ending", True))
    while not crew.ending:
        crew.fill(charge())
        stage.hear(crew.until_due())
        crew.reap()


def fails_once(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, error: OSError) -> None:
    """Let a function of a module do as ever, but for the first time."""
    real, failures = getattr(module, name), iter([error])

    def call(*what: Any) -> object:  # noqa: ANN401 - handed through as it is
        for failure in failures:
            raise failure
        return real(*what)

    monkeypatch.setattr(module, name, call)


# Beginnings


def test_each_worker_is_handed_the_policy_the_ledger_and_its_own_sockets(stage: Stage) -> None:
    """DESIGN, "Processes": the very bytes of the policy, over the channel; nothing of it in argv (R7)."""
    with ExitStack() as stack:
        several = tuple(stack.enter_context(socket.socket()) for _ in range(3))
        shared = (stack.enter_context(socket.socket()),)
        given = charge({"127.0.0.1:1": several, "127.0.0.1:2": shared}, workers=3)
        stage.crew(3).fill(given)
        inodes = [
            os.fstat(fd).st_ino for fd in (stage.ledger, stage.tally, *(sock.fileno() for sock in (*several, *shared)))
        ]
    ledger, tally, *own, both = inodes
    assert stage.starts() == [0, 0, 0]
    for place, worker in enumerate(stage.started):
        (told,) = worker.told
        assert worker.command == [sys.executable, "-P", "-m", "proxyd.serve"]
        assert told.message == {"do": "serve", "place": place}
        assert told.handover == given.handover
        assert [inode for _, inode in told.files[1:]] == [ledger, tally, own[place], both]


def test_no_two_workers_read_the_handover_at_the_same_place_of_one_file(stage: Stage) -> None:
    """Files that are handed over are shared with their position: two that read at once would each get half."""
    stage.crew(2).fill(charge(workers=2))
    one, other = (worker.told[0].files[0] for worker in stage.started)
    assert one != other


def test_nothing_stays_open_here_of_what_was_handed_over(stage: Stage) -> None:
    """R12: restarts and reloads for a year must not run out of files."""
    crew = stage.crew(2)
    before = open_files()
    crew.fill(charge())
    crew.hand_over(charge(), "prepare")
    crew.tell("abort")
    stage.all_end()
    crew.reap()
    assert open_files() == before


@pytest.mark.parametrize("before", [None, "", "/elsewhere"])
def test_a_worker_finds_this_very_package_and_otherwise_our_environment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """Wherever proxyd was started from: another one that is installed must not be what it execs."""
    monkeypatch.setenv("SOMETHING", "else")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONPATH", before)
    stage.crew().fill(charge())
    own = str(Path(proxyd.__file__).parents[1])
    environment = stage.started[0].how["env"]
    assert environment["PYTHONPATH"] == (f"{own}:{before}" if before else own)
    assert environment["SOMETHING"] == "else"


def test_a_worker_begins_with_our_signals_blocked_and_we_hear_them_on(stage: Stage) -> None:
    """logrotate's SIGUSR1, or a terminal's Ctrl-C, would end it before it can say what they mean to it."""
    stage.crew().fill(charge())
    assert stage.started[0].blocked >= set(map(int, SIGNALS))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)


# Deaths


def test_a_worker_that_keeps_dying_is_started_less_and_less_often(stage: Stage) -> None:
    """Back-off: 0.1 s, doubled up to 5 s; and the operator is told each time what it ended by."""
    pauses = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    for number in range(len(pauses)):
        stage.at(round(sum(pauses[:number]), 6), stage.ends(number, 1))
    keep(stage, stage.crew())
    assert stage.starts() == [round(sum(pauses[:number]), 6) for number in range(len(pauses) + 1)]
    assert stage.complaints == [
        f"a worker ended (exit status 1); another is started in {pause:g} s, connections wait" for pause in pauses
    ]
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE, LONGEST_PAUSE)


@pytest.mark.parametrize(("served", "pause"), [(9.999, 0.8), (10.0, 0.1), (3600.0, 0.1)])
def test_a_worker_that_had_served_well_is_replaced_soon(stage: Stage, served: float, pause: float) -> None:
    """Three that died at once are forgotten after one that served for ten seconds."""
    for number, when in enumerate((0, 0.1, 0.3)):
        stage.at(when, stage.ends(number))
    stage.at(0.7 + served, stage.ends(3, -signal.SIGKILL))
    keep(stage, stage.crew(), until=2 * 3600)
    assert stage.starts() == [0, 0.1, 0.3, 0.7, round(0.7 + served + pause, 6)]
    assert stage.complaints[-1].startswith(f"a worker ended (signal 9); another is started in {pause:g} s")
    assert GOOD_SECONDS == 10.0


def test_one_that_keeps_dying_costs_its_siblings_nothing(stage: Stage) -> None:
    """Each place has its own back-off, and its own pause; who comes next stands in the same place."""
    stage.at(0, stage.ends(0))
    stage.at(0.1, stage.ends(2))
    stage.at(20, stage.ends(1))
    keep(stage, stage.crew(2))
    assert stage.starts() == [0, 0, 0.1, 0.3, 20.1]
    assert [worker.told[0].message["place"] for worker in stage.started] == [0, 1, 0, 0, 1]


def test_several_deaths_told_by_one_signal_are_all_seen(stage: Stage) -> None:
    """SIGCHLD is no queue: one may stand for any number, and no zombie stays."""
    stage.at(1, stage.all_end)
    keep(stage, stage.crew(3))
    assert stage.starts() == [0, 0, 0, 1.1, 1.1, 1.1]


def test_a_worker_that_cannot_be_started_is_tried_again_and_the_others_serve_on(stage: Stage) -> None:
    """A host that is out of processes for a moment must not end the workers that there are, nor lose a file by it."""
    stage.failures[1] = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    crew = stage.crew(2)
    files = open_files()
    crew.fill(charge())
    crew.fill(charge())
    assert sum((open_files() - files).values()) == 2, "of the one that was started: its channel, and our end of it"
    keep(stage, crew)
    assert stage.starts() == [0, 0.1]
    assert stage.complaints == [
        "a worker could not be started: Resource temporarily unavailable; another is started in 0.1 s, connections wait"
    ]


def test_r12_a_host_without_memory_for_the_handover_ends_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor once died of it, and all workers with it; and no worker is started that could be told nothing."""
    fails_once(monkeypatch, os, "memfd_create", OSError(errno.EMFILE, "Too many open files"))
    keep(stage, stage.crew())
    assert stage.starts() == [0.1]
    assert stage.complaints == [
        "a worker could not be started: Too many open files; another is started in 0.1 s, connections wait"
    ]


def test_r12_a_worker_that_cannot_be_told_what_to_serve_is_ended_and_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where too many files are in flight: it would wait for ever, and take the next order for its first."""
    fails_once(monkeypatch, socket, "send_fds", OSError(errno.ETOOMANYREFS, "Too many references: cannot splice"))
    stage.at(0, lambda: signal.SIGCHLD)
    keep(stage, stage.crew())
    assert stage.started[0].status == -signal.SIGKILL
    assert stage.starts() == [0, 0.1]
    assert stage.complaints == [
        "a worker could not be told what to serve: Too many references: cannot splice; it is ended",
        "a worker ended (signal 9); another is started in 0.1 s, connections wait",
    ]


def test_r12_an_order_that_cannot_be_sent_to_one_is_sent_to_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one does not answer, and is known by that."""
    stage.answers["commit"] = lambda: {"revoked": 0}
    crew = stage.crew(2)
    crew.fill(charge(workers=2))
    fails_once(monkeypatch, socket, "send_fds", OSError(errno.ENOBUFS, "No buffer space available"))
    monkeypatch.setattr(crew_module, "ANSWER_SECONDS", 0.05)
    said = crew.tell("commit")
    assert [("silent" in each, each["place"]) for each in said] == [(True, 0), (False, 1)]


def test_a_worker_that_dies_before_it_takes_the_handover_is_one_that_died(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end of the channel is gone: that must end nobody but the worker."""
    started = stage.popen

    def die(*what: Any, **how: Any) -> object:  # noqa: ANN401 - handed through as it is
        worker = started(*what, **how)
        if len(stage.started) == 1:
            worker.end(1)
        return worker

    monkeypatch.setattr(subprocess, "Popen", die)
    stage.at(0, lambda: signal.SIGCHLD)
    keep(stage, stage.crew())
    assert stage.starts() == [0, 0.1]
    assert [len(worker.told) for worker in stage.started] == [0, 1]


def test_what_a_dead_worker_had_under_way_is_struck_out_and_the_others_stays(stage: Stage) -> None:
    """R10: requests that died with it would count for ever against the limits."""
    counts, sizes = struct.Struct("=3I"), os.fstat(stage.ledger).st_size
    first = sizes - MOST_WORKERS * counts.size
    for place in range(2):
        os.pwrite(stage.ledger, counts.pack(5, 6, 7), first + place * counts.size)
    crew = stage.crew(2)
    crew.fill(charge())
    stage.ends(1)()
    crew.reap()
    seen = [counts.unpack(os.pread(stage.ledger, counts.size, first + place * counts.size)) for place in range(2)]
    assert seen == [(5, 6, 7), (0, 0, 0)]


def test_the_channel_of_a_worker_that_lives_stays_open_and_that_of_a_dead_one_does_not(stage: Stage) -> None:
    """As long as a worker lives, or it would believe us gone; then no longer, for restarts cost no files."""
    crew = stage.crew(2)
    crew.fill(charge())
    stage.ends(0)()
    crew.reap()
    stage.started[1].channel.socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        stage.started[1].channel.receive()
    assert bool(crew) is True
    stage.ends(1)()
    crew.reap()
    assert bool(crew) is False


# The end


def test_from_the_beginning_of_the_end_on_nobody_is_started_nor_complained_about(stage: Stage) -> None:
    """Whatever they end by; and there is nothing more to wait for than their ends."""
    crew = stage.crew(2)
    crew.fill(charge())
    stage.ends(0)()
    crew.reap()
    assert crew.until_due() == pytest.approx(0.1)
    assert len(stage.complaints) == 1
    crew.ending = True
    stage.now = 1
    stage.ends(1, -signal.SIGKILL)()
    crew.fill(charge())
    crew.reap()
    assert (crew.until_due(), len(stage.started), len(stage.complaints)) == (CERTAIN_SECONDS, 2, 1)


def test_who_is_due_already_is_not_waited_for(stage: Stage) -> None:
    """A negative time would be an error, or for ever."""
    crew = stage.crew(2)
    assert crew.until_due() == 0
    crew.fill(charge())
    assert crew.until_due() == CERTAIN_SECONDS
    stage.all_end()
    crew.reap()
    stage.now = 7
    assert crew.until_due() == 0


def test_one_that_has_ended_already_hears_nothing_more(stage: Stage) -> None:
    """Its number may be another process's by now: the pause of a restart is no time to signal it."""
    crew = stage.crew(3)
    crew.fill(charge())
    stage.ends(1)()
    crew.reap()
    for number in (signal.SIGUSR1, AT_ONCE):
        crew.signal(number)
    assert [worker.signals for worker in stage.started] == [[signal.SIGUSR1, AT_ONCE], [], [signal.SIGUSR1, AT_ONCE]]


# What they are told, and what they answer


def test_another_charge_reaches_every_worker_and_each_answer_says_whose_it_is(stage: Stage) -> None:
    """DESIGN, "Time and change": those bytes, to all of them, and the sockets of each one's place."""
    crew = stage.crew(2)
    crew.fill(charge())
    with socket.socket() as one, socket.socket() as other:
        after = charge({"127.0.0.1:1": (one, other)}, more="workers = 2\n")
        said = crew.hand_over(after, "prepare")
        inodes = [os.fstat(sock.fileno()).st_ino for sock in (one, other)]
    assert said == [{"place": place, "number": 1, "ready": True} for place in range(2)]
    for place, worker in enumerate(stage.started):
        told = worker.told[1]
        assert told.message == {"do": "prepare", "number": 1, "place": place}
        assert told.handover == after.handover
        assert told.files[3][1] == inodes[place]


def test_an_order_is_numbered_and_carries_no_file(stage: Stage) -> None:
    """So an answer can be told from one to an earlier order."""
    crew = stage.crew()
    crew.fill(charge())
    stage.started[0].answers["commit"] = lambda: {"revoked": 3}
    assert crew.tell("commit") == [{"place": 0, "number": 1, "revoked": 3}]
    assert crew.tell("abort") == [{"place": 0, "number": 2}]
    assert [(each.message, each.files) for each in stage.started[0].told[1:]] == [
        ({"do": "commit", "number": 1}, []),
        ({"do": "abort", "number": 2}, []),
    ]


def test_an_answer_that_comes_late_is_not_taken_for_one_to_something_else(stage: Stage) -> None:
    """A worker that was too slow for one reload must not be heard as ready for the next."""
    crew = stage.crew()
    crew.fill(charge())
    worker = stage.started[0]
    worker.answers["prepare"] = lambda: None
    assert crew.hand_over(charge(), "prepare") == [{"place": 0, "silent": True}]
    worker.say({"number": 1, "ready": True})
    worker.answers["prepare"] = lambda: {"cannot": "no"}
    assert crew.hand_over(charge(), "prepare") == [{"place": 0, "number": 2, "cannot": "no"}]
    worker.say({"ready": True})
    assert crew.tell("abort") == [{"place": 0, "number": 3}]


@pytest.mark.parametrize("octets", [b"{", b"\xff", b'{"number": 1, "cannot": "' + b"x" * 70_000 + b'"}'])
def test_nonsense_is_no_answer_and_ends_nobody(stage: Stage, octets: bytes) -> None:
    """Also one that is longer than a message may be, and so cut off."""
    crew = stage.crew()
    crew.fill(charge())
    stage.started[0].answers["commit"] = lambda: None
    stage.started[0].channel.socket.send(octets)
    assert crew.tell("commit") == [{"place": 0, "silent": True}]


def test_one_that_dies_instead_of_an_answer_is_silent_and_who_is_not_there_says_nothing(stage: Stage) -> None:
    """Whether it died before it was told, or of it; and an empty place is no reason against a reload."""
    crew = stage.crew(4)
    crew.fill(charge())
    stage.ends(0)()
    crew.reap()
    stage.ends(1)()  # and nobody knows yet
    stage.started[2].answers["prepare"] = lambda: stage.started[2].end(1)
    said = crew.hand_over(charge(), "prepare")
    assert said == [
        {"place": 1, "silent": True, "cannot": "a worker ended instead of an answer"},
        {"place": 2, "silent": True, "cannot": "a worker ended instead of an answer"},
        {"place": 3, "number": 1, "ready": True},
    ]


def test_all_together_have_the_time_for_an_answer_and_not_each(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four that were stopped must not keep the supervisor for ten minutes."""
    monkeypatch.setattr(crew_module, "ANSWER_SECONDS", ANSWER_SECONDS)
    patience: list[float | None] = []

    def silence(channel: Channel) -> None:
        patience.append(channel.socket.gettimeout())
        stage.now += 6
        raise TimeoutError

    crew = stage.crew(3)
    crew.fill(charge())
    monkeypatch.setattr(type(crew._posts[0].channel), "receive", silence)  # noqa: SLF001 - our end's own class
    for worker in stage.started:
        monkeypatch.setattr(worker, "obey", lambda: None)
    assert crew.tell("commit") == [{"place": place, "silent": True} for place in range(3)]
    assert patience == [10.0, 4.0, 0.01]


def test_the_silent_are_killed_and_their_places_filled_again(stage: Stage) -> None:
    """Who does not change with the others must not serve what the others refuse (R12)."""
    crew = stage.crew(4)
    crew.fill(charge())
    stage.ends(3)()
    crew.reap()
    answers: list[Message] = [{"place": 0, "revoked": 0}, {"place": 1, "silent": True}]
    crew.kill_the_silent(answers)
    crew.reap()
    assert [worker.status for worker in stage.started] == [None, -signal.SIGKILL, -signal.SIGKILL, 1]
    stage.now = 1
    crew.fill(charge())
    assert [worker.told[0].message["place"] for worker in stage.started[4:]] == [1, 2, 3]
