"""The parts of a soak: each loads the stand in its way, and adds its rows to the report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING, Final

from tests.bench.names import NAME
from tests.bench.works import ECHO, HTTP, Said, Work
from tests.end_to_end.vitals import MB
from tests.namespace import ORIGIN_4
from tests.soak.slope import LEAST_POINTS, Slope, slope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.end_to_end.vitals import Vitals
    from tests.soak.stand import Stand

TURN_SECONDS: Final = 10.0  # of one kind of work, at most
TURNS: Final = 24  # at least
BESIDE: Final = 8  # links of other work, beside tunnels that stand or lorises
BUSY: Final = 64  # tunnels with traffic, beside those that only stand
WARM_SECONDS: Final = 0.5
LEAST_GROWTH: Final = 1.0  # MB over a run: less is a heap that finds its size, which a run of seconds takes for a slope
WARM: Final = 2  # cycles until caches are full and the heap has its size
TIMES: Final = "\N{MULTIPLICATION SIGN}"
KINDS: Final = {"gets": HTTP, "fresh": HTTP, "tunnels": ECHO, "echoes": ECHO}
TITLES: Final = {
    "gets": "GET on kept connections",
    "fresh": "GET, a connection each",
    "tunnels": "new tunnels, by name",
    "echoes": "echoes in tunnels",
}


@dataclass
class Report:
    """What the parts found. rows: of the table. turns: of full rate: when each ended, and what it said."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    turns: list[tuple[float, str, Said]] = field(default_factory=list)
    raw: dict[str, object] = field(default_factory=dict)


def work(kind: str, links: int) -> Work:
    """One of KINDS, on so many links."""
    size = 1024 if KINDS[kind] == HTTP else 256
    return Work("", kind, KINDS[kind], links, size, host=NAME if kind == "tunnels" else ORIGIN_4)


def warm_up(made: Stand) -> Vitals:
    """Let each worker open what it opens once, and fill its caches: how it is at rest."""
    for kind in KINDS:
        made.run(work(kind, BESIDE), WARM_SECONDS)
    return made.rest()


def held(made: Stand, told: Report, tunnels: int, turn: float) -> None:
    """Tunnels that stand, traffic on some, and all other work beside them."""
    made.part = "held"
    before = made.rest()
    works = [work("echoes", BUSY), *(work(kind, BESIDE) for kind in ("gets", "fresh", "tunnels"))]
    alone = [made.run(each, turn) for each in works]
    with made.load.standing(made.proxied, Work("", "idle", ECHO, tunnels, 0)) as said:
        laden = made.rest()
        beside = [made.run(each, turn) for each in works]
    made.note("tunnels that stand", said)
    each, files = (laden.memory - before.memory) / tunnels / 1e3, (laden.files - before.files) / tunnels
    what = f"{said['errors']} lost; {each:.1f} KB and {files:g} files each"
    told.rows.append((f"{tunnels:,} tunnels that stand", what))
    for done, one, other in zip(works, alone, beside, strict=True):
        told.rows.append((f"{TITLES[done.word]}, {done.links} at once, beside them and without", compared(other, one)))
    told.raw["held"] = {"alone": alone, "beside": beside, "standing": said}


def full_rate(made: Stand, told: Report, clients: int, seconds: float, turn: float) -> None:
    """All kinds of work in turns, each by so many clients."""
    made.part = "rate"
    end = time.monotonic() + seconds
    cycles = [made.now]
    while time.monotonic() < end:
        for kind in KINDS:
            said = made.run(work(kind, clients), turn)
            told.turns.append((made.now, kind, said))
        cycles.append(made.now)
    for kind in KINDS:
        of_kind = [said for _, each, said in told.turns if each == kind]
        told.rows.append((f"{TITLES[kind]}, {clients} clients", _percentiles(of_kind)))
    _judge_memory(made, told, cycles)


def _judge_memory(made: Stand, told: Report, cycles: list[float]) -> None:
    """The slope of what is resident, a point for each cycle of all kinds of work."""
    taken = [
        ((begin + end) / 2, [each.vitals.memory for each in made.samples if begin <= each.at < end])
        for begin, end in pairwise(cycles)
    ]
    means = [(middle, fmean(memory) / MB) for middle, memory in taken if memory]  # where the watcher was held up: none
    told.raw["memory"] = means
    if len(means) - WARM < LEAST_POINTS:
        told.rows.append(("slope of memory", "too short a run to say"))
        return
    found = slope(means[WARM:])
    told.rows.append(
        ("slope of memory", f"{_per_hour(found)}; {means[WARM][1]:.1f} MB, and {means[-1][1]:.1f} in the end")
    )
    grown = found.rise * (means[-1][0] - means[WARM][0])
    if not found.is_noise and grown > LEAST_GROWTH:
        made.wrong.append(f"memory grows by {_per_hour(found)}")


def lorises(made: Stand, told: Report, count: int, rounds: int, turn: float) -> None:
    """What the slow ones cost others: the same work without and with them, in turns."""
    made.part = "lorises"
    without: dict[str, list[Said]] = {kind: [] for kind in KINDS}
    beside: dict[str, list[Said]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, said in without.items():
            said.append(made.run(work(kind, BESIDE), turn))
        with made.lorises(count):
            for kind, said in beside.items():
                said.append(made.run(work(kind, BESIDE), turn))
        made.rest()
    for kind in KINDS:
        row = f"{TITLES[kind]}, beside {count:,} lorises and without"
        told.rows.append((row, compared(*(_typical(said[kind]) for said in (beside, without)))))
    told.raw["lorises"] = {"without": without, "beside": beside}


def let_go(made: Stand, told: Report, at_rest: Vitals) -> None:
    """All is over: nothing is held for anybody."""
    now = made.rest()
    told.rows.append(("files and tasks, before and after", f"{_held_by(at_rest)}, {_held_by(now)}"))
    if now.files > at_rest.files or now.tasks > at_rest.tasks:
        made.wrong.append(f"held on: {_held_by(now)} where {_held_by(at_rest)} were before")


def _typical(said: Sequence[Said]) -> Said:
    """The median of each figure."""
    return {key: median(each[key] for each in said) for key in ("done", "seconds", "p50_us", "p99_us", "p999_us")}


def compared(one: Said, other: Said) -> str:
    """How much more of each figure there is in one than in the other."""
    if not (other["done"] and other["p50_us"]):
        return "too little was done to compare"
    rate, p50, p99 = (_rate(one) / _rate(other), *(one[key] / other[key] for key in ("p50_us", "p99_us")))
    return f"rate {TIMES}{rate:.2f}, p50 {TIMES}{p50:.2f}, p99 {TIMES}{p99:.2f}"


def _percentiles(said: Sequence[Said]) -> str:
    typical = _typical(said)
    p50, p99, p999 = (typical[key] / 1e3 for key in ("p50_us", "p99_us", "p999_us"))
    worst = max(each["p999_us"] for each in said) / 1e3
    done = sum(each["done"] for each in said)
    rate = f"{done:,} at {_rate(typical):,.0f} a second"
    return f"{rate}; p50 {p50:.3g}, p99 {p99:.3g}, p99.9 {p999:.3g} (worst turn {worst:.3g}) ms"


def _rate(said: Said) -> float:
    return float(said["done"] / said["seconds"])


def _per_hour(found: Slope) -> str:
    return f"{found.rise * 3600:+.1f} ± {found.noise * 3600:.1f} MB an hour"


def _held_by(now: Vitals) -> str:
    return f"{now.files} files and {now.tasks} tasks"
