"""`proxyd exec` for the tests: with the scene's policy, as root and as an account without privileges."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.end_to_end.conftest import NAMES, POLICIES
from tests.end_to_end.daemon import PATIENCE, policy_text, ticks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene

PYTHON: Final = next(each for each in ("/usr/bin/python3", sys.executable) if Path(each).exists())
"""An interpreter that every account may read."""


@dataclass
class Cell:
    """Where commands are confined. policy, audit: the files; env: the environment of all that is started."""

    scene: Scene
    policy: Path
    audit: Path
    env: dict[str, str]

    def write(self, extra: str = "", workers: int = 1) -> None:
        """Another policy, with these rows."""
        scene = self.scene
        self.policy.write_text(policy_text(scene.nameserver.port, scene.origin.port, NAMES, extra, workers))

    def command(self, *words: str, options: tuple[str, ...] = ()) -> list[str]:
        """What starts it."""
        audit = () if "--audit" in options else ("--audit", str(self.audit))
        return [sys.executable, "-m", "proxyd", "exec", "--policy", str(self.policy), *audit, *options, "--", *words]

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401 - passed through
        """Run it to its end."""
        options: tuple[str, ...] = more.pop("options", ())
        how: dict[str, Any] = self._how | {"stdin": subprocess.DEVNULL} | more
        command = self.command(*words, options=options)
        return subprocess.run(command, check=False, timeout=4 * PATIENCE, **how)  # noqa: S603 - our own program

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:  # noqa: ANN401 - passed through
        """Start it, with pipes to it and from it."""
        how: dict[str, Any] = self._how | {"stdin": subprocess.PIPE} | more
        return subprocess.Popen(self.command(*words), **how)  # noqa: S603 - our own program

    @property
    def _how(self) -> dict[str, Any]:
        return {"env": self.env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def records(self) -> list[dict[str, Any]]:
        """What is on record."""
        return [json.loads(line) for line in self.audit.read_text().split("\n")[:-1]] if self.audit.exists() else []

    def processes(self) -> list[int]:
        """Whatever serves it still: the daemon and its workers, known by what they were started with."""
        return sorted(each for each in _pids() if self.mark in _environment(each) and _is_proxyd(each))

    @property
    def mark(self) -> str:
        """What is in the environment of every process that belongs here, and of no other."""
        return f"PROXYD_TEST_CELL={self.policy}"

    def wait_for_the_end(self) -> None:
        """Until nothing serves it any more."""
        for _ in ticks():
            if not self.processes():
                return
        raise AssertionError(f"still there: {self.processes()}")


def _pids() -> list[int]:
    return [int(each.name) for each in Path("/proc").glob("[0-9]*")]


def _environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _is_proxyd(pid: int) -> bool:
    try:
        return b"proxyd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture(params=["root", "nobody"])
def account(request: pytest.FixtureRequest) -> str:
    """What is started runs as this account, where that can be chosen; else as the one that runs the tests."""
    if request.param == "nobody":
        request.getfixturevalue("unprivileged")
    return str(request.param)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every account may enter; pytest's own are for nobody else."""
    with tempfile.TemporaryDirectory(prefix="proxyd-exec-") as name:
        place = Path(name)
        place.chmod(0o755)
        shutil.copy(POLICIES / "denylist.toml", place)
        yield place


@pytest.fixture
def cell(scene: Scene, place: Path) -> Cell:
    """A cell with the plainest policy."""
    policy = place / "exec.toml"
    env = os.environ | {"HOME": str(place), "PROXYD_TEST_CELL": str(policy)}
    cell = Cell(scene, policy, place / "exec.jsonl", env)
    cell.write()
    return cell
