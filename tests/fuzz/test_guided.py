"""The fuzzer itself, run as the README says: each target for a short while, and a planted bug, which it finds."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.target import NAMES
from tests.fuzz.targets.planted import BUG
from tests.tools import give_up

RUNS: Final = 2000
ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def atheris() -> None:
    """What guides is there; it is made for some processors and versions of Python only."""
    if find_spec("atheris") is None:
        give_up("install atheris to run this, where there is one")


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)  # noqa: S603 - ours


def executions(said: str) -> dict[str, int]:
    """How often each target was tried, as the table has it."""
    return {
        name: int(count.replace(",", "")) for name, count in re.findall(r"^\| (\w+) \| ([\d,]+) \|", said, re.MULTILINE)
    }


@pytest.mark.parametrize("name", NAMES)
def test_no_input_breaks_an_invariant(name: str, figures: dict[str, str]) -> None:
    run = fuzz("--only", name, "--runs", str(RUNS), "--jobs", "1")
    assert run.returncode == 0, run.stdout + run.stderr
    assert executions(run.stdout)[name] >= RUNS
    figures[f"guided, {name}"] = run.stdout.splitlines()[2]


def test_a_planted_bug_is_found_and_its_input_is_kept(tmp_path: Path) -> None:
    run = fuzz("--only", "planted", "--runs", "2000000", "--keep", str(tmp_path))
    assert run.returncode == 1
    assert "BROKEN planted" in run.stdout
    assert "AssertionError: planted" in run.stdout
    (kept,) = (tmp_path / "planted.broken").glob("crash-*")  # beside it, what took long on a slow machine
    assert kept.read_bytes().startswith(BUG)
    assert str(kept) in run.stdout
