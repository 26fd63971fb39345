"""`python -m tests.soak`: the parts, one after the other; what must hold at the end; a table, and a picture."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import report
from tests.bench.contenders import CannotRun
from tests.end_to_end.vitals import MB
from tests.soak.parts import KINDS, TITLES, TURN_SECONDS, TURNS, Report, full_rate, held, let_go, lorises, warm_up
from tests.soak.picture import Row, picture
from tests.soak.stand import Sample, Stand, stand

if TYPE_CHECKING:
    from collections.abc import Sequence


RESULTS: Final = Path(__file__).with_name("results")


def main() -> int:
    """Run the soak: 0, or 1 if it cannot run or something went wrong."""
    arguments = _arguments()
    told, seconds = Report(), 60 * arguments.minutes
    turn = min(TURN_SECONDS, seconds / TURNS)
    try:
        with stand() as made:
            at_rest = warm_up(made)
            held(made, told, arguments.tunnels, turn)
            full_rate(made, told, arguments.clients, seconds, turn)
            lorises(made, told, arguments.lorises, arguments.rounds, turn)
            made.part = "rest"
            let_go(made, told, at_rest)
    except CannotRun as why:
        print(f"soak: {why}", file=sys.stderr)  # noqa: T201 - said to the user
        return 1
    told.rows.append(("requests on record, each decided and ended", f"{made.requests:,}"))
    _report(made, told, arguments.picture)
    return 1 if made.wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="What time and crowds do to proxyd.")
    parser.add_argument("--minutes", type=float, default=10.0, help="at full rate (%(default)s)")
    parser.add_argument("--clients", type=int, default=50, help="at full rate (%(default)s)")
    parser.add_argument("--tunnels", type=int, default=8000, help="that stand (%(default)s)")
    parser.add_argument("--lorises", type=int, default=2000, help="that dawdle (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="with and without lorises (%(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write an SVG of all samples there")
    return parser.parse_args()


def _report(made: Stand, told: Report, into: Path | None) -> None:
    """Print the table and what is wrong; keep everything, and draw it."""
    lines = ["| soak | |", "| --- | --- |", *(f"| {what} | {found} |" for what, found in told.rows)]
    lines += [f"WRONG {each}" for each in made.wrong]
    print("\n".join(lines))  # noqa: T201 - what was asked for
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / f"{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime())}.json"
    raw = {**report.machine(), "rows": told.rows, "turns": told.turns, **told.raw, "wrong": made.wrong}
    kept.write_text(json.dumps({**raw, "samples": [asdict(each) for each in made.samples]}))
    print(f"raw: {kept}")  # noqa: T201 - the same
    if into is not None:
        into.write_text(picture(_rows(made.samples, told), _parts(made.samples)))


def _rows(samples: Sequence[Sample], told: Report) -> list[Row]:
    return [
        Row("Memory of all workers", "MB", {"": [(each.at, each.vitals.memory / MB) for each in samples]}),
        Row("Open files", "all workers", {"": [(each.at, each.vitals.files) for each in samples]}),
        Row("Tasks", "all workers", {"": [(each.at, each.vitals.tasks) for each in samples]}),
        *(
            Row(
                f"{TITLES[kind]}, at full rate",
                "ms",
                {
                    name: [(at, said[key] / 1e3) for at, each, said in told.turns if each == kind]
                    for name, key in (("p50", "p50_us"), ("p99", "p99_us"))
                },
            )
            for kind in KINDS
        ),
    ]


def _parts(samples: Sequence[Sample]) -> list[tuple[float, str]]:
    begins = [samples[0], *(each for before, each in pairwise(samples) if each.part != before.part)]
    return [(each.at, each.part) for each in begins]


if __name__ == "__main__":
    sys.exit(main())
