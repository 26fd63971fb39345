"""`python -m tests.bench`: its own network, then the origin, then rounds; at last a table, and nothing left running."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tests.bench import names, report
from tests.bench.checks import CHECKS
from tests.bench.contenders import CannotRun
from tests.bench.ground import build, enter_own_network
from tests.bench.peers import OURS, PEERS, SMOKESCREEN
from tests.bench.works import TLS_PORT, WORKS, WORKS_OF_CHECKS, Load, measure, measure_bodies, measure_idle, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from tests.bench.contenders import Contender, Group
    from tests.bench.works import Result, Work

MOST_SECONDS, MOST_ROUNDS = 60.0, 20


def main() -> int:
    """Run the bench: 0, or 1 if it cannot run or anything of ours went wrong but time."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        contenders = list(CHECKS) if arguments.checks else _contenders(arguments.only, arguments.smokescreen)
        about = {
            **report.machine(),
            **{each.name: each.version() for each in contenders},
            "seconds": arguments.seconds,
            "rounds": arguments.rounds,
        }
        with tempfile.TemporaryDirectory(prefix="proxyd-bench-") as text:
            directory = Path(text)
            directory.chmod(0o755)
            enter_own_network(directory)
            load = Load(build(directory))
            with load.origin(), load.origin(TLS_PORT - 2), names.served():
                rounds, wrong = _rounds(load, contenders, directory, arguments)
    except CannotRun as why:
        _say(f"bench: {why}", sys.stderr)
        return 1
    _report(rounds, contenders, about, markdown=arguments.markdown)
    for each in wrong:
        _say(f"WRONG {each}")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What the proxy costs.")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each work (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="all works, through each contender (%(default)s)")
    parser.add_argument("--only", metavar="NAME,…", type=lambda text: text.split(","), help="these contenders")
    parser.add_argument("--checks", action="store_true", help="what each check costs: ours alone, with one at a time")
    parser.add_argument("--smokescreen", metavar="FILE", help="its program, which no package has")
    parser.add_argument("--markdown", action="store_true", help="print what the README shows")
    arguments = parser.parse_args()
    if not (0 < arguments.seconds <= MOST_SECONDS and 0 < arguments.rounds <= MOST_ROUNDS):
        parser.error(f"at most {MOST_SECONDS:.0f} seconds and {MOST_ROUNDS} rounds")
    return arguments


def _contenders(only: list[str] | None, smokescreen: str | None) -> list[Contender]:
    """Who is measured: ours, and the peers that are installed, or those that are named."""
    known = [*OURS, *PEERS]
    if smokescreen is not None:
        known = [replace(each, program=smokescreen) if each is SMOKESCREEN else each for each in known]
    if only is None:
        return [each for each in known if each in OURS or each.found()]
    if unknown := set(only) - {each.name for each in known}:
        raise CannotRun(f"no contender is called {', '.join(unknown)}; there are {', '.join(e.name for e in known)}")
    return [each for each in known if each.name in only]


def _rounds(
    load: Load, contenders: list[Contender], directory: Path, arguments: argparse.Namespace
) -> tuple[list[list[Result]], list[str]]:
    """All rounds: the results of each, and what was wrong of ours."""
    rounds: list[list[Result]] = []
    wrong: list[str] = []
    for number in range(1, arguments.rounds + 1):
        _say(f"round {number} of {arguments.rounds}", sys.stderr)
        own = directory / str(number)
        own.mkdir()
        works = WORKS_OF_CHECKS if arguments.checks else WORKS
        results, complaints = _round(load, contenders, own, arguments.seconds, works)
        rounds.append(results)
        wrong += [f"round {number}: {each}" for each in (*report.errors(results, OURS), *complaints)]
        shutil.rmtree(own)
    return rounds, wrong


def _round(
    load: Load, contenders: list[Contender], directory: Path, seconds: float, works: tuple[Work, ...]
) -> tuple[list[Result], list[str]]:
    """Every work through every contender in turns; then the memory of each, alone and freshly started, in turns."""
    started: list[tuple[Contender, Group]] = []

    @contextmanager
    def running(contender: Contender, purpose: str) -> Iterator[Group]:
        with contender.start(load.leash, directory / f"{contender.name}-{purpose}") as group:
            started.append((contender, group))
            yield group

    proxies = [each for each in contenders if each.program]
    with ExitStack() as stack:
        groups = {each.name: stack.enter_context(running(each, "works")) for each in proxies}
        for each in proxies:
            warm_up(load, each, groups[each.name])
        results = [measure(load, each, groups.get(each.name), work, seconds) for work in works for each in contenders]
    memory = (("idle", measure_idle), ("bodies", measure_bodies)) if works is WORKS else ()
    for purpose, measure_memory in memory:
        for each in proxies:
            with running(each, purpose) as group:
                results += measure_memory(load, each, group, seconds)
    return results, [f"{each.name}: {complaint}" for each, group in started for complaint in group.complaints()]


def _report(
    rounds: list[list[Result]], contenders: list[Contender], about: dict[str, object], *, markdown: bool
) -> None:
    results = [each for found in rounds for each in found]
    found = report.Report(results, contenders)
    _say(found.markdown() if markdown else found.tables())
    _say("\n" + "; ".join(f"{key}: {value}" for key, value in about.items() if value))
    _say(f"raw: {report.write_raw(rounds, about)}")
    for each in report.errors(results, (each for each in contenders if each not in OURS)):
        _say(f"! {each}")


def _say(line: str, where: TextIO | None = None) -> None:
    print(line, file=where or sys.stdout, flush=True)


def _end(number: int, _frame: FrameType | None) -> None:
    """A signal unwinds everything, so that nothing is left running."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
