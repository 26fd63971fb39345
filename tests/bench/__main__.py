"""`python -m tests.bench`: its own network, then the origin, then rounds; at last a table, and nothing left running."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from tests import namespace
from tests.bench import report
from tests.bench.contenders import CONTENDERS, CannotRun
from tests.bench.works import WORKS, Load, measure, measure_memory

if TYPE_CHECKING:
    from types import FrameType

    from tests.bench.works import Result

SOURCE: Final = Path(__file__).with_name("load.c")
TIME_WAIT_BUCKETS: Final = 512  # else loopback runs out of ports, and the bench measures the kernel looking for one
MOST_SECONDS, MOST_ROUNDS = 60.0, 20


def main() -> int:
    """Run the bench: 0, or 1 if it cannot run or anything went wrong but time."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        _enter_own_network()
        with tempfile.TemporaryDirectory(prefix="proxyd-bench-") as directory:
            load = Load(_build(Path(directory)))
            return _bench(load, Path(directory), arguments.seconds, arguments.rounds)
    except CannotRun as why:
        _say(f"bench: {why}", sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What the proxy costs.")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each work (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="all works, through each contender (%(default)s)")
    arguments = parser.parse_args()
    if not (0 < arguments.seconds <= MOST_SECONDS and 0 < arguments.rounds <= MOST_ROUNDS):
        parser.error(f"at most {MOST_SECONDS:.0f} seconds and {MOST_ROUNDS} rounds")
    return arguments


def _enter_own_network() -> None:
    """Traffic to public addresses must not leave this machine: no namespace, no bench."""
    why = ""
    try:
        namespace.enter()
    except (OSError, subprocess.CalledProcessError) as error:
        why = f" ({error})"
    if why or not namespace.isolated:
        raise CannotRun(f"no network namespace can be had here{why}; run as root, or allow user namespaces")
    try:
        Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text(str(TIME_WAIT_BUCKETS))
    except OSError as error:
        _say(f"bench: tcp_max_tw_buckets stays: {error}; figures for new connections may collapse", sys.stderr)


def _build(directory: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotRun("cc is missing: install a C compiler (Debian: gcc and libc6-dev)")
    program = directory / "load"
    built = subprocess.run(  # noqa: S603 - our own source
        [compiler, "-O2", "-o", str(program), str(SOURCE)], check=False, capture_output=True, text=True
    )
    if built.returncode != 0:
        raise CannotRun(f"cc cannot build load.c:\n{built.stderr}")
    return program


def _bench(load: Load, directory: Path, seconds: float, rounds: int) -> int:
    about = {**report.machine(), "seconds": seconds, "rounds": rounds}
    results: list[list[Result]] = []
    wrong: list[str] = []
    with load.origin():
        for number in range(1, rounds + 1):
            _say(f"round {number} of {rounds}", sys.stderr)
            own = directory / str(number)
            own.mkdir()
            found, complaints = _round(load, own, seconds)
            results.append(found)
            wrong += [f"round {number}: {each}" for each in (*report.first_errors(found), *complaints)]
            shutil.rmtree(own)
    _say(report.table([each for found in results for each in found], CONTENDERS))
    _say(", ".join(f"{key} {value}" for key, value in about.items()))
    _say(f"raw: {report.write_raw(results, about)}")
    for each in wrong:
        _say(f"WRONG {each}")
    return 1 if wrong else 0


def _round(load: Load, directory: Path, seconds: float) -> tuple[list[Result], list[str]]:
    """Every work through every contender, freshly started, in turns: the results, and what was wrong besides."""
    results = []
    with ExitStack() as stack:
        groups = {
            each.name: stack.enter_context(each.start(load, directory)) for each in CONTENDERS if each.start is not None
        }
        for contender in CONTENDERS:
            if contender.name in groups:
                results += measure_memory(load, contender, groups[contender.name])
        for work in WORKS:
            results += [measure(load, each, groups.get(each.name), work, seconds) for each in CONTENDERS]
    complaints = [f"{name}: {each}" for name, group in groups.items() for each in group.complaints()]
    return results, complaints


def _say(line: str, where: TextIO | None = None) -> None:
    print(line, file=where or sys.stdout, flush=True)


def _end(number: int, _frame: FrameType | None) -> None:
    """A signal unwinds everything, so that nothing is left running."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
