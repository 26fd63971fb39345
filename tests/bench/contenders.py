"""What a contender is: a name, a command, and where it is asked; and its processes while it runs.

Nothing here knows what it is asked for; who contends, and how each is set up, is `peers`'.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parents[2]
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 15.0  # a drain is 10
REST_SECONDS, SETTLE_SECONDS = 0.2, 5.0  # at least, and at most

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_AS_NOBODY: Final = ("unshare", "--user", "--map-user=1", "--map-group=1")


class CannotRun(Exception):  # noqa: N818 - said to the user, not handled
    """There is no bench here; the text says what is missing."""


@dataclass(frozen=True)
class Contender:
    """Something that can stand between the two ends.

    program: what is run, by name or path; "" for nothing at all.
    prepare: given the program's path and an empty directory, writes what it needs there: its command.
    asked_for_version: arguments by which it says what it is.
    refuses_root: it is run as an ordinary account of a user namespace.
    audit: its log of decisions and closings, below the directory.
    field: a header field that it wants in each request. tls: tunnels are to port 443, and begin with a ClientHello.
    """

    name: str
    address: str
    program: str = ""
    prepare: Callable[[str, Path], list[str]] = lambda program, _: [program]
    asked_for_version: tuple[str, ...] = ("--version",)
    refuses_root: bool = False
    audit: str = ""
    field: str = ""
    tls: bool = False

    def found(self) -> str | None:
        """Where its program is, if it is installed."""
        return shutil.which(self.program, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))

    def version(self) -> str:
        """What it says it is."""
        if not self.program:
            return ""
        said = subprocess.run(  # noqa: S603 - installed by whoever runs the bench
            [self._path(), *self.asked_for_version], check=False, capture_output=True, text=True, cwd=ROOT
        )
        return (said.stdout or said.stderr).partition("\n")[0].strip()

    @contextmanager
    def start(self, leash: tuple[str, ...], directory: Path) -> Iterator[Group]:
        """Run it in `directory`, which is made, and end it when left. leash: what goes before a command."""
        directory.mkdir()
        said = directory / "said"
        command = [*leash, *self.prepare(self._path(), directory)]
        with said.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - installed by whoever runs the bench
                [*_AS_NOBODY, *command] if self.refuses_root else command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        group = Group(process, said, directory / self.audit if self.audit else None)
        try:
            group.wait_until_listening(self.address)
            yield group
            group.stop()
        finally:
            group.kill()

    def _path(self) -> str:
        found = self.found()
        if found is None:
            raise CannotRun(f"{self.name}: {self.program} is not installed")
        return found


class Group:
    """A contender's processes: those of one process group, of which the first is the leader."""

    def __init__(self, leader: subprocess.Popen[bytes], said: Path, audit: Path | None) -> None:
        """said: its output. audit: its log, where we know how to read it."""
        self._leader = leader
        self._said = said
        self._audit = audit

    def cpu_seconds(self) -> float:
        """Processor time so far, of children that ended too."""
        return sum(sum(map(int, fields[11:15])) for fields in self._processes().values()) / _TICKS

    def settle(self) -> None:
        """Return when it has rested for a while, so that one work's aftermath is not charged to the next."""
        now = time.monotonic()
        spent, rests_since, end = self.cpu_seconds(), now, now + SETTLE_SECONDS
        while now < min(rests_since + REST_SECONDS, end):
            time.sleep(0.05)
            before, spent, now = spent, self.cpu_seconds(), time.monotonic()
            if spent > before:
                rests_since = now

    def resident_octets(self) -> int:
        """Memory that is resident now; pages that its processes share count for each."""
        return sum(int(fields[21]) * _PAGE for fields in self._processes().values())

    def forget_peak(self) -> None:
        """Let `peak_octets` start from what is resident now."""
        for process in self._processes():
            with suppress(ProcessLookupError):
                (process / "clear_refs").write_text("5")  # proc(5): reset the peak resident set size

    def peak_octets(self) -> int:
        """The most memory that was resident since `forget_peak`, each process at its own peak."""
        return sum(
            int(line.split()[1]) * 1024
            for process in self._processes()
            for line in _text(process / "status").splitlines()
            if line.startswith("VmHWM:")
        )

    def complaints(self) -> list[str]:
        """What is wrong with what it said and wrote, once it ended, where we can judge it."""
        if self._audit is None:
            return []
        greeting, *others = self._said.read_text(errors="replace").splitlines()
        wrong = [line for line in others if not line.startswith("proxyd: warning: ")]
        if self._leader.returncode != 0:
            wrong.append(f"exit status {self._leader.returncode}, after: {greeting}")
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
        raise CannotRun(f"nobody listens at {address}: {self._said.read_text(errors='replace')}")

    def _processes(self) -> dict[Path, list[str]]:
        """proc(5)'s fields of each process, from the third on: the second may hold spaces."""
        fields = {each: _text(each / "stat").rpartition(")")[2].split() for each in Path("/proc").glob("[0-9]*")}
        return {each: found for each, found in fields.items() if found[2:3] == [str(self._leader.pid)]}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # the process ended meanwhile
