"""`python -m tests.fuzz`: the targets, some at a time, each guided by coverage; then a table, and what broke."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.fuzz.target import NAMES

MEGABYTES: Final = 2048  # that a target may take: more is a find, too
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_WRITTEN: Final = re.compile(r"Test unit written to (\S+)")
_CHATTER: Final = ("#", "INFO:", "MS:", "stat::", "WARNING: Failed to find function", "Dictionary:")
MOST_LINES: Final = 40  # of what was said of an input that broke something


@dataclass(frozen=True)
class Result:
    """What came of one target. trouble: what was said of the input that broke it, and where that is."""

    name: str
    executions: int
    seconds: float
    reached: dict[str, Any]
    trouble: str | None


def main() -> int:
    """Fuzz: 0, or 1 if something broke."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="proxyd-fuzz-") as temporary:
        folder = Path(arguments.keep or temporary).resolve()
        bound = f"-runs={arguments.runs}" if arguments.runs else f"-max_total_time={arguments.seconds}"
        with ThreadPoolExecutor(arguments.jobs) as pool:
            results = list(pool.map(lambda name: _fuzz(name, folder, bound), arguments.only))
    _report(results)
    return 1 if any(result.trouble for result in results) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what reads strangers' octets.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("--runs", type=int, default=0, help="so many executions of each instead")
    parser.add_argument(
        "--only", metavar="NAME,…", type=lambda text: text.split(","), default=NAMES, help="these targets"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time (%(default)s)")
    parser.add_argument("--keep", metavar="FOLDER", help="keep what was found there, and begin with what is there")
    return parser.parse_args()


def _fuzz(name: str, folder: Path, bound: str) -> Result:
    corpus, broken = folder / name, folder / f"{name}.broken"
    for each in (corpus, broken):
        each.mkdir(parents=True, exist_ok=True)
    arguments = (bound, f"-rss_limit_mb={MEGABYTES}", "-print_final_stats=1", f"-artifact_prefix={broken}/")
    began = time.monotonic()
    fuzzed = _run("tests.fuzz.guided", name, str(corpus), *arguments)
    seconds = time.monotonic() - began
    (folder / f"{name}.log").write_text(fuzzed.stderr)
    executed = _EXECUTED.search(fuzzed.stderr)
    trouble = _trouble(fuzzed, broken)
    reached = _run("tests.fuzz.reached", name, str(corpus))
    if reached.returncode != 0 and trouble is None:
        trouble = f"the corpus cannot be played again:\n{reached.stderr}"
    return Result(name, int(executed[1]) if executed else 0, seconds, json.loads(reached.stdout or "{}"), trouble)


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of our modules, measured by nobody else."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV_CORE")}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)  # noqa: S603 - ours


def _trouble(fuzzed: subprocess.CompletedProcess[str], broken: Path) -> str | None:
    """What was said of the input that broke it, and where that is."""
    if fuzzed.returncode == 0:
        return None
    lines = [*fuzzed.stdout.splitlines(), *fuzzed.stderr.splitlines()]
    said = [line for line in lines if not line.startswith(_CHATTER)]
    written = _WRITTEN.search(fuzzed.stderr)
    return "\n".join([*said[-MOST_LINES:], f"the input is {written[1] if written else f'in {broken}, if anywhere'}"])


def _report(results: list[Result]) -> None:
    """The table that the README shows, and what broke."""
    _say("| target | executions | a second | lines | branches | came to |")
    _say("| --- | --: | --: | --: | --: | --- |")
    for each in results:
        lines, branches = ("{} of {}".format(*each.reached.get(what, (0, "?"))) for what in ("lines", "branches"))
        outcomes = ", ".join(f"{word} {count}" for word, count in sorted(each.reached.get("outcomes", {}).items()))
        speed = each.executions / each.seconds
        _say(f"| {each.name} | {each.executions:,} | {speed:,.0f} | {lines} | {branches} | {outcomes} |")
    for each in results:
        if each.trouble is not None:
            _say(f"BROKEN {each.name}: {each.trouble}")


def _say(text: str) -> None:
    print(text)  # noqa: T201 - what was asked for


if __name__ == "__main__":
    sys.exit(main())
