"""The supervisor's world in the tests: a clock of its own, and workers that do as a test says.

Processes are played, so that nobody waits for one and back-off is measured exactly; channels, sockets and the files in
memory are real.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import socket
import subprocess
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest

from proxyd.observe.tally import Tally, new_tally
from proxyd.policy.load import load
from proxyd.serve import crew as crew_module
from proxyd.serve.channel import Channel, Message
from proxyd.serve.charge import Charge
from proxyd.serve.crew import Crew
from proxyd.serve.handover import Files, Handover
from proxyd.serve.ledger import EVERYBODY, MOST_WORKERS, make_room, new_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LONG: Final = 1000.0
"""Seconds after which nothing of a scenario is left over."""

DAY: Final = dt.date(2026, 8, 1)
POLICY: Final = """\
schema = 1
name = "gateway"
listen.http = ["127.0.0.1:3128"]
destinations.default = "allow"
client = [{name = "agent", networks = ["127.0.0.0/8"]}]
"""

ACCOUNTS: Final = (EVERYBODY, "agent")

Sockets = tuple[socket.socket, ...]


def charge(listeners: Mapping[str, Sockets] | None = None, more: str = "", workers: int = 1) -> Charge:
    """What is to be served. more: a part of the policy."""
    files = Files()

    def read(*_: object, **__: object) -> tuple[str, bytes]:
        return "/p.toml", (POLICY + more).encode()

    policy = load("p.toml", files.remembering(read), DAY)
    handover = Handover(
        name="p.toml",
        day=DAY,
        files=files,
        servers=(),
        via="proxyd-test",
        workers=workers,
        listeners=tuple(listeners or ()),
        ledger=ACCOUNTS,
    )
    return Charge(policy, handover, listeners or {})


@dataclass
class Heard:
    """A message as a worker got it: what it says, and what came with it."""

    message: Message
    handover: Handover | None
    files: list[tuple[int, int]]

    @property
    def do(self) -> str:
        """What is to be done."""
        return str(self.message["do"])


@dataclass
class Worker:
    """A process that does as it is told. answers: what it says to each order, by what is to be done; None is silence.

    blocked: the signals that it began with blocked. told: every message, the first of which is its beginning.
    """

    command: list[str]
    how: dict[str, Any]
    started: float
    channel: Channel
    answers: dict[str, Callable[[], Message | None]]
    blocked: set[int]
    status: int | None = None
    signals: list[int] = field(default_factory=list)
    told: list[Heard] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """A number that no process has (proc(5), pid_max)."""
        return (1 << 22) + id(self) % 1000

    def poll(self) -> int | None:
        """The exit status, once it has ended."""
        return self.status

    def send_signal(self, number: int) -> None:
        """Let it hear a signal."""
        assert self.status is None, "it has ended, and another process may bear its number"
        self.signals.append(number)

    def kill(self) -> None:
        """End it, if it lives."""
        if self.status is None:
            self.end(-signal.SIGKILL)

    def end(self, status: int) -> None:
        """It ends."""
        self.status = status
        self.channel.close()

    def obey(self) -> None:
        """Take the next message, and say what there is to say to it."""
        received = self.channel.receive()
        assert received is not None
        message, files = received
        seen = [os.fstat(number) for number in files]
        handover = Handover.from_file(files[0]) if files else None
        for number in files[1:]:
            os.close(number)
        self.told.append(Heard(message, handover, [(each.st_dev, each.st_ino) for each in seen]))
        answer = self.answers.get(message["do"], lambda: None)()
        if answer is not None and self.status is None:
            self.say({"number": message["number"]} | answer)

    def say(self, message: Message) -> None:
        """Answer."""
        self.channel.send(message)


class _Ours(Channel):
    """The supervisor's end: whoever is told something answers at once, as a process of its own would soon."""

    worker: Worker | None = None

    def send(self, message: Message, files: Sequence[int] = ()) -> None:
        super().send(message, files)
        if self.worker is not None and self.worker.status is None:
            self.worker.obey()


class Stage:
    """A clock, and what happens on it. `at(seconds, …)` scripts it; `started` is what the crew made of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.started: list[Worker] = []
        self.complaints: list[str] = []
        self.failures: dict[int, OSError] = {}
        self.answers: dict[str, Callable[[], Message | None]] = {
            "prepare": lambda: {"ready": True},
            "commit": lambda: {"revoked": 0},
            "abort": dict,
        }
        self.ledger = new_ledger()
        make_room(self.ledger, len(ACCOUNTS))
        self.tally = new_tally(MOST_WORKERS)
        self._ours: list[_Ours] = []
        self._script: list[tuple[float, Callable[[], object]]] = []

    def crew(self, places: int = 1) -> Crew:
        """A crew that nobody is in yet."""
        return Crew(places, self.ledger, self.tally, self.complaints.append)

    def at(self, seconds: float, *acts: Callable[[], object]) -> None:
        """Let something happen that is heard of; several acts follow each other without time between."""
        self._script += [(seconds, act) for act in acts]

    @contextmanager
    def counting(self, place: int) -> Iterator[Tally]:
        """What the worker in that place counts."""
        tally = Tally(os.dup(self.tally), place, ACCOUNTS)
        yield tally
        tally.close()

    def ends(self, number: int, status: int = 1) -> Callable[[], int]:
        """The worker that was started as the `number`th ends."""

        def end() -> int:
            self.started[number].end(status)
            return signal.SIGCHLD

        return end

    def all_end(self) -> int:
        """Whoever runs ends."""
        for worker in self.started:
            if worker.status is None:
                worker.end(0)
        return signal.SIGCHLD

    def popen(self, command: list[str], **how: Any) -> Worker:  # noqa: ANN401 - what Popen takes
        """In the place of subprocess.Popen."""
        failure = self.failures.pop(len(self.started), None)
        if failure is not None:
            raise failure
        theirs = Channel(socket.socket(fileno=os.dup(how["stdin"])))
        blocked = {int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, [])}
        self.started.append(Worker(command, how, self.now, theirs, dict(self.answers), blocked))
        self._ours[-1].worker = self.started[-1]
        return self.started[-1]

    def pair(self) -> tuple[Channel, Channel]:
        """In the place of Channel.pair."""
        ours, theirs = (Channel(sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        self._ours.append(_Ours(ours.socket))
        return self._ours[-1], theirs

    def hear(self, seconds: float) -> list[Any]:
        """In the place of Ears: the next thing that happens, or nothing in time.

        What is due at the very moment that something happens comes first, whatever floating point makes of 0.1.
        """
        if not self._script:
            pytest.fail(f"nothing more happens after {self.now} s, and the supervisor still waits")
        when, act = self._script[0]
        if when > self.now + seconds - 1e-9:
            self.now += seconds
            return []
        self.now = max(self.now, when)
        del self._script[0]
        return [act()]

    def is_over(self) -> bool:
        """Whether everything has happened."""
        return not self._script

    def starts(self) -> list[float]:
        """When workers were started."""
        return [round(worker.started, 6) for worker in self.started]

    def orders(self) -> list[list[str]]:
        """What each worker was told, beyond its beginning."""
        return [[each.do for each in worker.told[1:]] for worker in self.started]

    def close(self) -> None:
        """Nobody is left."""
        for channel in (*self._ours, *(worker.channel for worker in self.started)):
            channel.close()
        os.close(self.ledger)
        os.close(self.tally)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The stage, in the place of the world."""
    stage = Stage()
    monkeypatch.setattr(crew_module, "time", SimpleNamespace(monotonic=lambda: stage.now))
    monkeypatch.setattr(subprocess, "Popen", stage.popen)
    monkeypatch.setattr(Channel, "pair", stage.pair)
    monkeypatch.setattr(crew_module, "ANSWER_SECONDS", 0.0)  # who is silent here is so for ever
    yield stage
    stage.close()


def hear(number: int) -> Callable[[], int]:
    """A signal arrives."""
    return lambda: number


def open_files() -> Counter[str]:
    """What this process has open, to see that nothing is left behind."""
    found: Counter[str] = Counter()
    for each in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names only
        try:
            found[os.readlink(f"/proc/self/fd/{each}")] += 1  # noqa: PTH115 - a link that leads nowhere
        except FileNotFoundError:
            continue  # the folder itself
    return found
