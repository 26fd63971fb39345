"""What is measured: each work, done once through one contender. What the figures mean to a reader is `report`'s."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests import namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.bench.contenders import Contender, Group

ORIGIN_PORT: Final = 8080
HTTP, ECHO, SINK, SOURCE = range(ORIGIN_PORT, ORIGIN_PORT + 4)  # load.c's order
IDLE_TUNNELS: Final = 1000
SPARE_SECONDS: Final = 60  # beyond a work's own time, until the load program is taken for stuck

Said = dict[str, Any]  # the one JSON object that the load program prints


@dataclass(frozen=True)
class Load:
    """load.c, compiled."""

    program: Path

    def run(self, contender: Contender, work: Work, seconds: float) -> Said:
        """Do one work: what the load program says of it."""
        done = subprocess.run(  # noqa: S603 - our own program
            self._command(contender, work, seconds),
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=seconds + SPARE_SECONDS,
        )
        return _said(done.stdout)

    @contextmanager
    def standing(self, contender: Contender) -> Iterator[Said]:
        """Keep idle tunnels open meanwhile; what became of them is in the dict once left."""
        said: Said = {}
        with subprocess.Popen(  # noqa: S603 - our own program
            self._command(contender, IDLE, 0), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            try:
                if process.stdout is None or process.stdout.readline() != b"standing\n":
                    raise RuntimeError("no tunnels stand")
                yield said
                said |= _said(process.communicate(timeout=SPARE_SECONDS)[0])
            finally:
                process.kill()

    @contextmanager
    def origin(self) -> Iterator[None]:
        """The origin, meanwhile."""
        with subprocess.Popen(  # noqa: S603 - our own program
            [str(self.program), "origin", namespace.ORIGIN_4, str(ORIGIN_PORT)], stdout=subprocess.PIPE
        ) as process:
            try:
                if process.stdout is None or process.stdout.readline() != b"ready\n":
                    raise RuntimeError("the origin did not start")
                yield
            finally:
                process.kill()

    def _command(self, contender: Contender, work: Work, seconds: float) -> list[str]:
        words = (work.word, contender.address, namespace.ORIGIN_4, work.port, work.links, work.size, seconds)
        return [str(self.program), *map(str, words)]


def _said(line: bytes) -> Said:
    said: Said = json.loads(line)
    return said


def _per_second(said: Said) -> float:
    return float(said["done"] / said["seconds"])


def _megabytes_per_second(said: Said) -> float:
    return float(said["octets"] / said["seconds"] / 1e6)


def _median_microseconds(said: Said) -> float:
    return float(said["p50_us"])


@dataclass(frozen=True)
class Work:
    """One row of the table. word: load.c's for it. figure: reads it off what the load program said."""

    title: str
    word: str
    port: int
    links: int
    size: int
    figure: Callable[[Said], float] = _per_second


WORKS: Final = (
    Work("new tunnels/s, 32 at a time", "tunnels", ECHO, 32, 0),
    Work("256-byte echoes/s, 64 tunnels", "echoes", ECHO, 64, 256),
    Work("bulk up MB/s, 4 tunnels", "up", SINK, 4, 0, _megabytes_per_second),
    Work("bulk down MB/s, 4 tunnels", "down", SOURCE, 4, 0, _megabytes_per_second),
    Work("GET 1 KB/s, keep-alive, 32 at a time", "gets", HTTP, 32, 1024),
    Work("GET 1 KB/s, one connection each, 32 at a time", "fresh", HTTP, 32, 1024),
    Work("64-byte echo alone, p50 µs", "echoes", ECHO, 1, 64, _median_microseconds),
)
IDLE: Final = Work("idle tunnels", "idle", ECHO, IDLE_TUNNELS, 0)
AT_REST: Final = "resident at rest, MB"
PER_TUNNEL: Final = f"resident bytes per idle tunnel ({IDLE_TUNNELS:,})"

_WARM_UP: Final = Work("warm-up", "tunnels", ECHO, 1, 0)
_WARM_UP_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Result:
    """One figure. cpu_seconds: the contender's, where it has processes. said: the load program's own words."""

    work: str
    contender: str
    figure: float
    cpu_seconds: float | None
    said: Said


def measure(load: Load, contender: Contender, group: Group | None, work: Work, seconds: float) -> Result:
    """Do one work through one contender."""
    before = group.cpu_seconds() if group else 0.0
    said = load.run(contender, work, seconds)
    if group:
        group.settle()
    spent = group.cpu_seconds() - before if group else None
    return Result(work.title, contender.name, work.figure(said), spent, said)


def measure_memory(load: Load, contender: Contender, group: Group) -> list[Result]:
    """What a contender that was just started keeps resident, and what each idle tunnel adds."""
    warm = load.run(contender, _WARM_UP, _WARM_UP_SECONDS)  # caches filled, modules imported
    group.settle()
    at_rest, before = group.resident_octets(), group.cpu_seconds()
    with load.standing(contender) as said:
        group.settle()
        laden = group.resident_octets()
    group.settle()
    spent = group.cpu_seconds() - before
    return [
        Result(AT_REST, contender.name, at_rest / 1e6, None, warm),
        Result(PER_TUNNEL, contender.name, (laden - at_rest) / IDLE_TUNNELS, spent, said),
    ]
