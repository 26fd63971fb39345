"""The supervisor: it starts workers, starts them again, passes signals on, and ends when the last of them has.

On a clock of its own, with workers that die when a test says so: back-off is measured exactly and waited for by
nobody. `tests/end_to_end/test_workers.py` has the real processes.
"""

from __future__ import annotations

import datetime as dt
import io
import math
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest

import proxyd
from proxyd.serve import supervisor as supervisor_module
from proxyd.serve.handover import AT_ONCE, Files, Handover, PolicyFile
from proxyd.serve.supervisor import FIRST_PAUSE, GOOD_SECONDS, LONGEST_PAUSE, SIGNALS, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable

LONG: Final = 1000.0
"""Seconds after which nothing of a scenario is left over."""


def handover(workers: int = 1, text: str = "a policy") -> Handover:
    """What the workers are given."""
    return Handover(
        name="p.toml",
        day=dt.date(2026, 8, 1),
        files=Files([PolicyFile("p.toml", None, "/p.toml", text)]),
        servers=(),
        via="proxyd-test",
        workers=workers,
    )


class Pipe(io.BytesIO):
    """A worker's stdin: what was written stays readable when it is closed. broken: nobody reads it."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.said = b""

    def flush(self) -> None:
        """Hand it to the kernel."""
        if self.broken:
            raise BrokenPipeError
        self.said = self.getvalue()

    def close(self) -> None:
        """Once more, as every buffered pipe does."""
        super().close()
        if self.broken:
            raise BrokenPipeError


@dataclass
class Worker:
    """A process that does as it is told."""

    command: list[str]
    how: dict[str, Any]
    started: float
    stdin: Pipe | None = field(default_factory=Pipe)
    status: int | None = None
    heard: list[int] = field(default_factory=list)

    def poll(self) -> int | None:
        """The exit status, once it has ended."""
        return self.status

    def send_signal(self, number: int) -> None:
        """Let it hear a signal."""
        assert self.status is None, "it has ended, and another process may bear its number"
        self.heard.append(number)


class Stage:
    """A clock, and what happens on it. `at(seconds, …)` scripts it; `started` is what the supervisor made of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.started: list[Worker] = []
        self.complaints: list[str] = []
        self.failures: dict[int, OSError] = {}
        self.pipes: Callable[[], Pipe | None] = Pipe
        self._script: list[tuple[float, Callable[[], int]]] = []

    def at(self, seconds: float, *acts: Callable[[], int]) -> None:
        """Let something happen; several acts follow each other without time between."""
        self._script += [(seconds, act) for act in acts]

    def ends(self, number: int, status: int = 1) -> Callable[[], int]:
        """The worker that was started as the `number`th ends."""

        def end() -> int:
            self.started[number].status = status
            return signal.SIGCHLD

        return end

    def all_end(self) -> int:
        """Whoever runs ends."""
        for worker in self.started:
            worker.status = 0 if worker.status is None else worker.status
        return signal.SIGCHLD

    def popen(self, command: list[str], **how: Any) -> Worker:  # noqa: ANN401 - what Popen takes
        """In the place of subprocess.Popen."""
        failure = self.failures.pop(len(self.started), None)
        if failure is not None:
            raise failure
        self.started.append(Worker(command, how, self.now, self.pipes()))
        return self.started[-1]

    def wait(self, signals: object, seconds: float = math.inf) -> SimpleNamespace | None:
        """In the place of sigwaitinfo and sigtimedwait: the next thing that happens, or nothing in time.

        What is due at the very moment that something happens comes first, whatever floating point makes of 0.1.
        """
        assert signals == SIGNALS
        if not self._script:
            pytest.fail(f"nothing more happens after {self.now} s, and the supervisor still waits")
        when, act = self._script[0]
        if when > self.now + seconds - 1e-9:
            self.now += seconds
            return None
        self.now = max(self.now, when)
        del self._script[0]
        return SimpleNamespace(si_signo=act())

    def supervise(self, workers: int = 1, sockets: tuple[tuple[socket.socket, ...], ...] = ()) -> None:
        """Let the supervisor run until it returns, which is when everything has happened."""
        Supervisor(sockets, handover(workers), self.complaints.append).run()
        assert self._script == []

    def starts(self) -> list[float]:
        """When workers were started."""
        return [round(worker.started, 6) for worker in self.started]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage, in the place of the world."""
    stage = Stage()
    monkeypatch.setattr(supervisor_module, "time", SimpleNamespace(monotonic=lambda: stage.now))
    monkeypatch.setattr(subprocess, "Popen", stage.popen)
    monkeypatch.setattr(signal, "sigwaitinfo", stage.wait)
    monkeypatch.setattr(signal, "sigtimedwait", stage.wait)
    return stage


def hear(number: int) -> Callable[[], int]:
    """A signal arrives."""
    return lambda: number


term: Final = hear(signal.SIGTERM)


# Beginnings


def test_as_many_workers_as_the_policy_says_are_given_the_listeners_and_the_handover(stage: Stage) -> None:
    """DESIGN, "Processes": the very bytes of the policy, over a pipe; nothing of it in argv (R7)."""
    with ExitStack() as stack:
        first, second = ([stack.enter_context(socket.socket()) for _ in range(3)] for _ in range(2))
        numbers = [[one.fileno(), other.fileno()] for one, other in zip(first, second, strict=True)]
        stage.at(1, term, stage.all_end)
        stage.supervise(3, (tuple(first), tuple(second)))
    assert stage.starts() == [0, 0, 0]
    told = io.BytesIO()
    handover(3).write(told)
    for worker, own in zip(stage.started, numbers, strict=True):
        assert worker.command == [sys.executable, "-P", "-m", "proxyd.serve", *map(str, own)]
        assert worker.how["pass_fds"] == own
        assert worker.how["stdin"] == subprocess.PIPE
        assert worker.stdin is not None
        assert worker.stdin.said == told.getvalue()


@pytest.mark.parametrize("before", [None, "", "/elsewhere"])
def test_a_worker_finds_this_very_package_and_otherwise_our_environment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """Wherever proxyd was started from: another one that is installed must not be what it execs."""
    monkeypatch.setenv("SOMETHING", "else")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONPATH", before)
    stage.at(1, term, stage.all_end)
    stage.supervise()
    own = str(Path(proxyd.__file__).parents[1])
    environment = stage.started[0].how["env"]
    assert environment["PYTHONPATH"] == (f"{own}:{before}" if before else own)
    assert environment["SOMETHING"] == "else"


def test_a_worker_without_a_pipe_would_be_a_bug(stage: Stage) -> None:
    """Nobody could tell it what to do, nor would it learn of our end."""
    stage.pipes = lambda: None
    with pytest.raises(RuntimeError, match="without a pipe"):
        stage.supervise()


# Deaths


def test_a_worker_that_keeps_dying_is_started_less_and_less_often(stage: Stage) -> None:
    """Back-off: 0.1 s, doubled up to 5 s; and the operator is told each time what it ended by."""
    pauses = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    for number in range(len(pauses)):
        stage.at(round(sum(pauses[:number]), 6), stage.ends(number, 1))
    stage.at(LONG, term, stage.all_end)
    stage.supervise()
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
    stage.at(2 * 3600, term, stage.all_end)
    stage.supervise()
    assert stage.starts() == [0, 0.1, 0.3, 0.7, round(0.7 + served + pause, 6)]
    assert stage.complaints[-1].startswith(f"a worker ended (signal 9); another is started in {pause:g} s")
    assert GOOD_SECONDS == 10.0


def test_one_that_keeps_dying_costs_its_siblings_nothing(stage: Stage) -> None:
    """Each place has its own back-off, and its own pause."""
    stage.at(0, stage.ends(0))
    stage.at(0.1, stage.ends(2))
    stage.at(20, stage.ends(1))
    stage.at(LONG, term, stage.all_end)
    stage.supervise(2)
    assert stage.starts() == [0, 0, 0.1, 0.3, 20.1]
    assert [worker.heard for worker in stage.started[-2:]] == [[signal.SIGTERM]] * 2


def test_several_deaths_told_by_one_signal_are_all_seen(stage: Stage) -> None:
    """SIGCHLD is no queue: one may stand for any number, and no zombie stays."""
    stage.at(1, stage.all_end)
    stage.at(LONG, term, stage.all_end)
    stage.supervise(3)
    assert stage.starts() == [0, 0, 0, 1.1, 1.1, 1.1]


def test_a_worker_that_cannot_be_started_is_tried_again_and_the_others_serve_on(stage: Stage) -> None:
    """A host that is out of processes for a moment must not end the workers that there are."""
    stage.failures[1] = BlockingIOError(11, "Resource temporarily unavailable")
    stage.at(LONG, term, stage.all_end)
    stage.supervise(2)
    assert stage.starts() == [0, 0.1]
    assert stage.complaints == [
        "a worker could not be started: Resource temporarily unavailable; another is started in 0.1 s, connections wait"
    ]


def test_a_worker_that_dies_before_it_takes_the_handover_is_one_that_died(stage: Stage) -> None:
    """What could not be written is tried once more by the pipe's `close`, and that must end nobody but the worker."""
    pipes = [Pipe(broken=True), Pipe()]
    coming = iter(pipes)
    stage.pipes = lambda: next(coming)
    stage.at(0, stage.ends(0))
    stage.at(LONG, term, stage.all_end)
    stage.supervise()
    assert stage.starts() == [0, 0.1]
    assert pipes[1].said != b""


def test_the_pipe_of_a_worker_that_ended_is_closed(stage: Stage) -> None:
    """Restarts cost no files; and as long as a worker lives, its pipe stays open, or it would believe us gone."""
    seen: list[bool] = []

    def look() -> int:
        seen.extend(worker.stdin.closed for worker in stage.started if worker.stdin is not None)
        return signal.SIGCHLD

    stage.at(1, stage.ends(0))
    stage.at(2, look, term, look, stage.all_end)
    stage.supervise()
    assert seen == [True, False] * 2
    assert all(worker.stdin is not None and worker.stdin.closed for worker in stage.started)


# Signals


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_end_is_a_drain_and_asked_for_again_it_is_at_once(stage: Stage, first: int, second: int) -> None:
    """A second one means it. What a worker hears by then is no second SIGTERM: that it may get from others, too."""
    stage.at(1, hear(first))
    stage.at(2, hear(second), stage.all_end)
    stage.supervise(2)
    assert [worker.heard for worker in stage.started] == [[signal.SIGTERM, AT_ONCE]] * 2
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
        stage.supervise(1, ((sock,),))
    assert seen == [number, -1]


def test_the_end_waits_for_the_last_worker_and_replaces_none(stage: Stage) -> None:
    """Whatever they end by."""
    stage.at(1, term)
    stage.at(2, stage.ends(1, -signal.SIGKILL))
    stage.at(3, stage.ends(0))
    stage.at(4, stage.ends(2))
    stage.supervise(3)
    assert (stage.now, len(stage.started), stage.complaints) == (4, 3, [])


def test_a_worker_that_was_about_to_be_started_is_not_when_the_end_comes(stage: Stage) -> None:
    """And nobody is left to wait for."""
    stage.at(1, stage.ends(0))
    stage.at(1.05, term)
    stage.supervise()
    assert (stage.now, stage.starts()) == (1.05, [0])


def test_one_that_has_ended_already_hears_nothing_more(stage: Stage) -> None:
    """Its number may be another process's by now: the pause of a restart is no time to signal it."""
    stage.at(1, stage.ends(0))
    stage.at(1.01, hear(signal.SIGUSR1), term, stage.ends(1))
    stage.supervise(2)
    assert [worker.heard for worker in stage.started] == [[], [signal.SIGUSR1, signal.SIGTERM]]


def test_sigusr1_reaches_every_worker(stage: Stage) -> None:
    """logrotate asks the one process that it knows."""
    stage.at(1, hear(signal.SIGUSR1))
    stage.at(2, term, stage.all_end)
    stage.supervise(3)
    assert [worker.heard for worker in stage.started] == [[signal.SIGUSR1, signal.SIGTERM]] * 3


def test_sighup_is_complained_about_and_otherwise_ignored(stage: Stage) -> None:
    """A terminal that closes, or an operator who hopes for a reload, ends nothing."""
    stage.at(1, hear(signal.SIGHUP))
    stage.at(2, term, stage.all_end)
    stage.supervise()
    assert stage.complaints == ["SIGHUP: this version does not reload its policy; restart it to run another one"]
    assert stage.started[0].heard == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGCHLD, AT_ONCE])
def test_a_signal_that_means_nothing_ends_nothing(stage: Stage, number: int) -> None:
    """A child that was stopped, or a worker's signal sent to us."""
    stage.at(1, hear(number))
    stage.at(2, term, stage.all_end)
    stage.supervise()
    assert (stage.starts(), stage.started[0].heard) == ([0], [signal.SIGTERM])


def test_the_signals_that_are_waited_for_are_all_that_are_sent() -> None:
    """Each that would end us by default is heard instead; SIGKILL cannot be, and SIGQUIT is for those who mean it."""
    assert set(SIGNALS) == {
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD),
    }


# The real thing

PROGRAM: Final = """\
#!{python} -IS
import fcntl, os, sys

def is_open(fd):
    try:
        return fcntl.fcntl(fd, fcntl.F_GETFD) >= 0
    except OSError:
        return False

with open("{seen}.new", "w") as seen:
    told = sys.stdin.readline()
    print(sys.argv[1:], [fd for fd in range(256) if fd != seen.fileno() and is_open(fd)], sep="\\n", file=seen)
    print(told, end="", file=seen)
os.rename("{seen}.new", "{seen}")
sys.stdin.read()
"""


def test_a_real_process_gets_the_listener_the_handover_and_no_other_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program of the test's own in the place of Python: what it was given, and what not; more than a pipe holds."""
    seen, program = tmp_path / "seen", tmp_path / "worker"
    program.write_text(PROGRAM.format(python=sys.executable, seen=seen))
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    script = iter([signal.SIGTERM, signal.SIGCHLD])
    workers: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*what: Any, **how: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - handed through as it is
        workers.append(popen(*what, **how))
        return workers[-1]

    def wait(_: object) -> SimpleNamespace:
        number = next(script)
        while number == signal.SIGTERM and not seen.exists():
            assert workers[0].poll() is None
        if number == signal.SIGCHLD:
            os.waitid(os.P_PID, workers[0].pid, os.WEXITED | os.WNOWAIT)
        return SimpleNamespace(si_signo=number)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(signal, "sigwaitinfo", wait)
    text = "a long policy\n" * 20000
    with socket.socket() as sock, Path(os.devnull).open() as other:
        os.set_inheritable(other.fileno(), True)  # noqa: FBT003 - the only way to say it
        number = sock.fileno()
        Supervisor(((sock,),), handover(text=text), pytest.fail).run()
    arguments, files, told = seen.read_text().split("\n", 2)
    assert arguments == repr(["-P", "-m", "proxyd.serve", str(number)])
    assert files == repr([0, 1, 2, number])
    assert Handover.read(io.BytesIO(told.encode())).files.kept[0].text == text
    assert workers[0].returncode == -signal.SIGTERM
