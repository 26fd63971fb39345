"""What a soak stands on: the daemon, what loads it, and who watches it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import names
from tests.bench.contenders import ROOT, Contender
from tests.bench.ground import build, enter_own_network
from tests.bench.works import Load, Said, Work
from tests.end_to_end.daemon import Daemon, policy_text
from tests.end_to_end.vitals import Vitals, vitals
from tests.faults.ordeal import at_rest

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERVAL: Final = 0.5  # seconds between two samples
PLACES: Final = 10_000  # clients in each worker
DAWDLING: Final = 5.0  # seconds between two octets of a loris


@dataclass(frozen=True)
class Sample:
    """How the daemon was. at: seconds since the soak began. part: of the soak."""

    at: float
    part: str
    vitals: Vitals


@dataclass
class Stand:
    """The daemon and its load. `samples` grows by itself, noted under `part`; `wrong` must stay empty.

    requests: how many were on record in the end.
    """

    daemon: Daemon
    load: Load
    part: str = "rest"
    samples: list[Sample] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    requests: int = 0
    _began: float = field(default_factory=time.monotonic)

    @property
    def proxied(self) -> Contender:
        """The daemon, for the load program."""
        return Contender("proxyd", f"127.0.0.1:{self.daemon.port}", sys.executable)

    @property
    def now(self) -> float:
        """Seconds since the soak began."""
        return time.monotonic() - self._began

    def run(self, work: Work, seconds: float) -> Said:
        """Do one work; what goes wrong in it is noted."""
        said = self.load.run(self.proxied, work, seconds)
        self.note(work.word, said)
        return said

    def note(self, what: str, said: Said) -> None:
        """Note what went wrong."""
        if said["errors"]:
            self.wrong.append(f"{self.part}: {what}: {said['errors']} went wrong, first: {said['first_error']}")

    def sample(self) -> Vitals:
        """Take one sample."""
        now = vitals(self.daemon)
        self.samples.append(Sample(self.now, self.part, now))
        return now

    def rest(self) -> Vitals:
        """Wait until the daemon does nothing: how it is then."""
        self.sample()
        return at_rest(self.daemon)

    @contextmanager
    def lorises(self, count: int) -> Iterator[None]:
        """So many slow ones, meanwhile."""
        command = [sys.executable, "-m", "tests.soak.lorises", str(self.daemon.port), str(count), str(DAWDLING)]
        with subprocess.Popen(  # noqa: S603 - our own program
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            try:
                if process.stdout is None or process.stdout.readline() != b"standing\n":
                    raise RuntimeError("the lorises did not come")
                yield
                process.communicate()
            finally:
                process.kill()


@contextmanager
def stand() -> Iterator[Stand]:
    """A daemon in a network of its own, watched; it ends, and its books are closed, when left. Raises CannotRun."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxyd-soak-")))
        directory.chmod(0o755)
        enter_own_network(directory)
        load = Load(build(directory))
        stack.enter_context(load.origin())
        stack.enter_context(names.served())
        made = Stand(_daemon(directory), load)
        stack.callback(made.daemon.stop)
        with _watched(made):
            yield made
        _close_the_books(made)


def _daemon(directory: Path) -> Daemon:
    """With a worker for each core, and room in each for all that come."""
    policy, audit, errors = (directory / name for name in ("policy.toml", "audit.jsonl", "errors"))
    shutil.copy(ROOT / "policies" / "denylist.toml", directory)
    policy.write_text(policy_text(53, 0, extra=f"[limits]\nconnections = {PLACES}\n", workers=os.cpu_count() or 1))
    for file in (audit, errors):
        file.touch()
    daemon = Daemon(policy, audit, errors)
    daemon.wait_for_start(os.cpu_count() or 1)
    return daemon


@contextmanager
def _watched(made: Stand) -> Iterator[None]:
    over = threading.Event()

    def watch() -> None:
        while not over.wait(INTERVAL):
            made.sample()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _close_the_books(made: Stand) -> None:
    """End the daemon, and note what it left undone or complained of."""
    status = made.daemon.stop()
    decided = closed = 0
    with made.daemon.audit.open("rb") as log:
        for line in log:
            decided += b'"event":"decision"' in line
            closed += b'"event":"close"' in line
    if status != 0 or decided != closed or not decided:
        made.wrong.append(f"exit status {status}, {decided} decisions, {closed} closing records")
    made.wrong += [line for line in made.daemon.complaints().splitlines() if "bug" in line or "started" in line]
    made.requests = closed
