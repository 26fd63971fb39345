"""No audit, no connection, whenever proxyd is killed (R7, R12; ATTACKS 8).

SIGKILL at random moments under load, of a worker, of the supervisor and of all: for each connection that an origin saw
there is a decision on record that allowed it. Each request has a destination of its own, so that it can be told.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import proxyd
from proxyd.audit.reader import Reading, records
from tests.end_to_end.daemon import state_of, ticks
from tests.faults.census import Census
from tests.faults.rush import Rush
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

pytestmark = pytest.mark.usefixtures("everywhere")

SEED: Final = 8
LONGEST: Final = 0.15  # seconds from service to a kill
"""At a random moment within these."""

TO_BUFFER: Final = """
from proxyd.audit.sink import Sink

def write(self, record, held=[], written=Sink.write):
    held.append(record)
    if len(held) == 50:
        for each in held:
            written(self, each)
        held.clear()

Sink.write = write
"""
"""What makes a daemon that keeps records for a while, and connects meanwhile."""


@dataclass
class Killer:
    """Starts daemons, all on one log, and kills them, in turn a worker, the supervisor, a worker, and all at once."""

    start: Callable[[], Daemon]
    rush: Rush
    chance: random.Random
    kills: int = 0
    _daemons: list[Daemon] = field(default_factory=list)

    def kill(self, times: int) -> None:
        """So often, each time at a random moment after service began, or had resumed."""
        while self.kills < times:
            proxy = self.start()
            self._daemons.append(proxy)
            self.rush.port = proxy.port
            for way in (self._kill_workers, self._kill_supervisor if len(self._daemons) % 2 else self._kill_all):
                self.rush.go_on()
                time.sleep(self.chance.uniform(0, LONGEST))
                way(proxy)

    def end(self) -> None:
        """Nobody of them is left."""
        for each in self._daemons:
            _kill_group(each)

    def _kill_workers(self, proxy: Daemon) -> None:
        """One after the other; others take their places."""
        before = proxy.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
            self.kills += 1
            time.sleep(self.chance.uniform(0, LONGEST))
        for _ in ticks():
            now = proxy.workers()
            if len(now) == len(before) and not {*now} & {*before}:
                return
        raise AssertionError(f"nobody takes their places: {proxy.complaints()}")

    def _kill_supervisor(self, proxy: Daemon) -> None:
        """The workers end by themselves."""
        workers = proxy.workers()
        os.kill(proxy.pid, signal.SIGKILL)
        self.kills += 1
        for _ in ticks():
            if all(state_of(pid) == "Z" for pid in workers):
                return
        raise AssertionError("the workers outlive their supervisor")

    def _kill_all(self, proxy: Daemon) -> None:
        _kill_group(proxy)
        self.kills += 1


def _kill_group(proxy: Daemon) -> None:
    try:
        os.killpg(proxy.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@dataclass(frozen=True)
class Toll:
    """How many were killed, how many connections the origin saw meanwhile, and at which addresses."""

    kills: int
    arrivals: int
    seen: frozenset[str]


@dataclass(frozen=True)
class Account:
    """What came of it. lost: addresses at which somebody arrived, and of which no record says that it was allowed."""

    lost: frozenset[str]
    torn: int
    joined: int

    def __str__(self) -> str:
        return f"{len(self.lost)} without a record; {self.torn:,} torn lines, {self.joined} joined"


def account(toll: Toll, log: Path) -> Account:
    """Compare what the origin saw with what is on record."""
    reading = Reading()
    recorded: set[str] = set()
    for each in records([log], reading):
        if each["event"] == "decision" and each["verdict"] == "allow":
            recorded.update(each["addresses"])
    with log.open("rb") as lines:
        joined = sum(line.count(b'{"schema":') > 1 for line in lines)
    assert not reading.broken
    return Account(toll.seen - recorded, reading.unread, joined)


@contextmanager
def collected(log: Path) -> Iterator[int]:
    """A pipe, and a process that writes all that comes of it to the log; at last all of it is there."""
    ours, theirs = os.pipe()
    with log.open("ab") as file:
        collector = subprocess.Popen([tool("cat")], stdin=ours, stdout=file)  # noqa: S603 - cat(1)
    os.close(ours)
    try:
        yield theirs
    finally:
        os.close(theirs)
        collector.wait()


@pytest.fixture
def origin(everywhere: None) -> Iterator[Census]:  # noqa: ARG001 - it is made in that network
    """In the place of the scene's own: one at every address."""
    census = Census()
    yield census
    census.close()


def killed(scene: Scene, census: Census, start: Callable[[], Daemon], times: int) -> Toll:
    """Kill daemons so often under load. None is left."""
    with Rush(scene.nameserver, census.port) as rush:
        killer = Killer(start, rush, random.Random(SEED))  # noqa: S311 - no secret
        try:
            killer.kill(times)
        finally:
            killer.end()
    census.settle()
    return Toll(killer.kills, census.arrivals, frozenset(census.seen))


@pytest.mark.parametrize("where", [("file", 1), ("file", 2), ("pipe", 1), ("pipe", 2)], ids=str)
def test_r7_r12_attack_8_for_each_connection_that_an_origin_saw_there_is_a_record_whoever_is_killed(
    scene: Scene,
    origin: Census,
    tmp_path: Path,
    figures: dict[str, str],
    where: tuple[str, int],
    *,
    long: bool,
) -> None:
    """No connection without its record, also where a worker, the supervisor or all are killed at that moment."""
    log = tmp_path / "audit.jsonl"
    kind, workers = where
    with collected(log) as pipe, _stdout_to(pipe if kind == "pipe" else subprocess.DEVNULL):
        to = f'[audit]\nto = "{log}"\n' if kind == "file" else ""

        def start() -> Daemon:
            scene.nameserver.asked.clear()
            return scene.start(to, workers=workers)

        toll = killed(scene, origin, start, 50 if long else 3)
    came = account(toll, log)
    tried = f"{toll.kills} kills, {toll.arrivals:,} connections seen"
    figures[f"no audit, no connection (log: {kind}, workers: {workers}, seed {SEED})"] = f"{tried}, {came}"
    assert not came.lost
    assert came.joined == 0
    assert toll.arrivals >= toll.kills


def test_a_daemon_that_connects_before_it_records_is_found_out(scene: Scene, origin: Census, tmp_path: Path) -> None:
    """The test above can fail: one that keeps its records for a while is killed in the same way, and some are lost."""
    log = tmp_path / "audit.jsonl"
    (tmp_path / "sitecustomize.py").write_text(TO_BUFFER)
    paths = os.pathsep.join((str(tmp_path), str(Path(proxyd.__file__).parents[1])))

    def start() -> Daemon:
        return scene.start(f'[audit]\nto = "{log}"\n', env=os.environ | {"PYTHONPATH": paths})

    assert account(killed(scene, origin, start, 2), log).lost


@contextmanager
def _stdout_to(fd: int) -> Iterator[None]:
    """What is started meanwhile writes to it."""
    popen = subprocess.Popen

    def start(command: list[str], **more: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - passed through
        return popen(command, **more | {"stdout": fd})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess, "Popen", start)
        yield
