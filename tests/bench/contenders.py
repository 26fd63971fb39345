"""Who is measured: a name, a way to start it, and where it is asked. Nothing here knows what it is asked for."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.bench.works import Load

ROOT: Final = Path(__file__).parents[2]
STRAIGHT: Final = "-"  # load.c's word for no proxy
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 15.0  # a drain is 10
SETTLE_SECONDS: Final = 5.0  # at most

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class CannotRun(Exception):  # noqa: N818 - said to the user, not handled
    """There is no bench here; the text says what is missing."""


@dataclass(frozen=True)
class Contender:
    """Something that can stand between the two ends.

    start: given the load program and an empty directory, runs it, and ends it when left; None if nothing is to run.
    address: where it listens.
    """

    name: str
    start: Callable[[Load, Path], AbstractContextManager[Group]] | None
    address: str


class Group:
    """A contender's processes: those of one process group, of which the first is the leader."""

    def __init__(self, leader: subprocess.Popen[bytes], errors: Path, audit: Path | None = None) -> None:
        """errors: what it says on stderr. audit: its log, where it keeps one."""
        self._leader = leader
        self._errors = errors
        self._audit = audit

    def cpu_seconds(self) -> float:
        """Processor time so far, of children that ended too."""
        return sum(sum(map(int, fields[11:15])) for fields in self._fields()) / _TICKS

    def settle(self) -> None:
        """Return when it rests, so that one work's aftermath is not charged to the next."""
        before, end = -1.0, time.monotonic() + SETTLE_SECONDS
        while (now := self.cpu_seconds()) > before and time.monotonic() < end:
            before = now
            time.sleep(0.05)

    def resident_octets(self) -> int:
        """Memory that is resident now; pages that its processes share count for each."""
        return sum(int(fields[21]) * _PAGE for fields in self._fields())

    def complaints(self) -> list[str]:
        """What is wrong with what it said and wrote, once it ended. The first line of stderr is a greeting."""
        wrong = self._errors.read_text(errors="replace").splitlines()[1:]
        if self._leader.returncode != 0:
            wrong.append(f"exit status {self._leader.returncode}")
        if self._audit is not None:
            log = self._audit.read_bytes()
            decided, closed = (log.count(b'"event":"%s"' % event) for event in (b"decision", b"close"))
            if decided != closed or not decided:
                wrong.append(f"audit: {decided} decisions and {closed} closing records")
        return wrong

    def stop(self) -> None:
        """End it, politely first."""
        self._leader.terminate()
        try:
            self._leader.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # the exit status will say so
        finally:
            self.kill()

    def kill(self) -> None:
        """End what is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self._leader.pid, signal.SIGKILL)
        self._leader.wait()

    def wait_until_listening(self, address: str) -> None:
        """Return when it takes connections. Raises CannotRun with its own words if it does not."""
        host, _, port = address.rpartition(":")
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._leader.poll() is None:
            try:
                socket.create_connection((host, int(port)), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise CannotRun(f"nobody listens at {address}: {self._errors.read_text(errors='replace')}")

    def _fields(self) -> list[list[str]]:
        """proc(5)'s fields of each process, from the third on: the second may hold spaces."""
        fields = [_stat(each) for each in Path("/proc").iterdir() if each.name.isdigit()]
        return [each for each in fields if each[2:3] == [str(self._leader.pid)]]


def _stat(process: Path) -> list[str]:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []  # it ended meanwhile


@contextmanager
def _proxyd(load: Load, directory: Path) -> Iterator[Group]:
    """The real daemon, with the policy to start with."""
    audit, errors = directory / "audit.jsonl", directory / "stderr"
    shutil.copy(ROOT / "policies" / "denylist.toml", directory)
    policy = directory / "policy.toml"
    policy.write_text(_policy((ROOT / "policies" / "default.toml").read_text(), audit))
    with errors.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [str(load.program), "leash", sys.executable, "-m", "proxyd", "--policy", str(policy)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            process_group=0,
        )
    group = Group(process, errors, audit)
    try:
        group.wait_until_listening(PROXYD.address)
        yield group
        group.stop()
    finally:
        group.kill()


def _policy(text: str, audit: Path) -> str:
    """default.toml, its audit in a file, and a resolver that nobody asks: a start needs one, the bench has no names."""
    stdout = '\nto = "stdout"\n'
    if text.count(stdout) != 1 or f'\nhttp = ["{PROXYD.address}"]' not in text:
        raise CannotRun("policies/default.toml is not what the bench takes it for: adapt tests/bench/contenders.py")
    return text.replace(stdout, f'\nto = "{audit}"\n') + '\n[dns]\nservers = ["127.0.0.1"]\n'


PROXYD: Final = Contender("proxyd", _proxyd, "127.0.0.1:3128")
NO_PROXY: Final = Contender("no proxy", None, STRAIGHT)
CONTENDERS: Final = (PROXYD, NO_PROXY)
