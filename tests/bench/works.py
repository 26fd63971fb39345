"""What is measured: each work, done once through one contender. What the figures mean to a reader is `report`'s."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.bench.names import NAME
from tests.namespace import ORIGIN_4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.bench.contenders import Contender, Group

ORIGIN_PORT: Final = 8080
TLS_PORT: Final = 443  # of another origin's sink
HTTP, ECHO, SINK, SOURCE = range(ORIGIN_PORT, ORIGIN_PORT + 4)  # origin.c's order
MOST_IDLE_TUNNELS, IDLE_TUNNELS_A_SECOND = 8000, 4000  # so that a short run opens fewer
MOST_BODY, BODY_A_SECOND = 1_000_000_000, 500_000_000
BODY_SECONDS: Final = 30.0  # at most
SPARE_SECONDS: Final = 60  # beyond a work's own time, until the load program is taken for stuck

Said = dict[str, Any]  # the one JSON object that the load program prints


@dataclass(frozen=True)
class Load:
    """load.c and origin.c, compiled."""

    program: Path

    @property
    def leash(self) -> tuple[str, ...]:
        """Before a command: it gets all the files that it can have, and ends with us."""
        return (str(self.program), "leash")

    def run(self, contender: Contender, work: Work, seconds: float) -> Said:
        """Do one work: what the load program says of it."""
        done = subprocess.run(  # noqa: S603 - our own program
            self._command(contender, work, seconds),
            check=True,
            env=self._environment(contender, work),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=seconds + SPARE_SECONDS,
        )
        return _said(done.stdout)

    @contextmanager
    def standing(self, contender: Contender, work: Work) -> Iterator[Said]:
        """Keep idle tunnels open meanwhile; what became of them is in the dict once left."""
        said: Said = {}
        with subprocess.Popen(  # noqa: S603 - our own program
            self._command(contender, work, 0), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            try:
                if process.stdout is None or not process.stdout.readline().startswith(b"standing"):
                    raise RuntimeError("the load program failed")
                yield said
                said |= _said(process.communicate(timeout=SPARE_SECONDS)[0])
            finally:
                process.kill()

    @contextmanager
    def origin(self, port: int = ORIGIN_PORT) -> Iterator[None]:
        """The origin, meanwhile."""
        with subprocess.Popen(  # noqa: S603 - our own program
            [str(self.program), "origin", ORIGIN_4, str(port)], stdout=subprocess.PIPE
        ) as process:
            try:
                if process.stdout is None or process.stdout.readline() != b"ready\n":
                    raise RuntimeError("the origin did not start")
                yield
            finally:
                process.kill()

    def _command(self, contender: Contender, work: Work, seconds: float) -> list[str]:
        host = work.host if contender.program else ORIGIN_4
        port = TLS_PORT if contender.tls and work.port == ECHO else work.port
        words = (work.word, contender.address, host, port, work.links, work.size, seconds)
        return [str(self.program), *map(str, words)]

    def _environment(self, contender: Contender, work: Work) -> dict[str, str]:
        """What the load program is to say beyond its work."""
        said = dict(os.environ)
        if contender.field:
            said["LOAD_FIELD"] = contender.field
        if contender.tls:
            opening = self.program.with_name("client-hello")
            opening.write_bytes(_client_hello(work.host))
            said["LOAD_OPENING"] = str(opening)
        return said


def _client_hello(host: str) -> bytes:
    """What a TLS client says first to `host`; to an address, without a name."""
    context = ssl.create_default_context()
    context.check_hostname = host != ORIGIN_4
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=None if host == ORIGIN_4 else host)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


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
    host: str = ORIGIN_4


WORKS: Final = (
    Work("new tunnels/s to an address, 32 at once", "tunnels", ECHO, 32, 0),
    Work("new tunnels/s to a cached name, 32 at once", "tunnels", ECHO, 32, 0, host=NAME),
    Work("256-byte echoes/s, 64 tunnels", "echoes", ECHO, 64, 256),
    Work("bulk up, MB/s, 4 tunnels", "up", SINK, 4, 0, _megabytes_per_second),
    Work("bulk down, MB/s, 4 tunnels", "down", SOURCE, 4, 0, _megabytes_per_second),
    Work("GET 1 KB/s, keep-alive, 32 at once", "gets", HTTP, 32, 1024),
    Work("GET 1 KB/s, a connection each, 32 at once", "fresh", HTTP, 32, 1024),
    Work("one 64-byte echo, p50 µs", "echoes", ECHO, 1, 64, _median_microseconds),
)

WORKS_OF_CHECKS: Final = tuple(work for work in WORKS if work.word in ("tunnels", "gets", "fresh"))
"""What a request costs, and not what is moved afterwards."""

_WARM_UP: Final = Work("warm-up", "tunnels", ECHO, 8, 0)
_WARM_UP_SECONDS: Final = 0.3


@dataclass(frozen=True)
class Result:
    """One figure, or None if nothing that was tried succeeded to the end. said: the load program's own words.

    cpu_seconds: the contender's, where it has processes.
    """

    work: str
    contender: str
    figure: float | None
    cpu_seconds: float | None
    said: Said


def measure(load: Load, contender: Contender, group: Group | None, work: Work, seconds: float) -> Result:
    """Do one work through one contender."""
    before = group.cpu_seconds() if group else 0.0
    said = load.run(contender, work, seconds)
    if group:
        group.settle()
    spent = group.cpu_seconds() - before if group else None
    figure = work.figure(said) if said["errors"] < work.links else None
    return Result(work.title, contender.name, figure, spent, said)


def warm_up(load: Load, contender: Contender, group: Group) -> Said:
    """Let a contender that was just started fill its caches and import its modules."""
    said = load.run(contender, _WARM_UP, _WARM_UP_SECONDS)
    group.settle()
    return said


def measure_idle(load: Load, contender: Contender, group: Group, seconds: float) -> list[Result]:
    """What a contender that was just started keeps resident, and what each idle tunnel adds."""
    count = min(MOST_IDLE_TUNNELS, int(IDLE_TUNNELS_A_SECOND * seconds))
    warm = warm_up(load, contender, group)
    at_rest, before = group.resident_octets(), group.cpu_seconds()
    with load.standing(contender, Work("", "idle", ECHO, count, 0)) as said:
        group.settle()
        laden = group.resident_octets()
    group.settle()
    each = (laden - at_rest) / said["standing"] / 1e3 if said["standing"] else None
    return [
        Result("resident at rest, MB", contender.name, at_rest / 1e6, None, warm),
        Result(f"resident for an idle tunnel, KB, {count:,} open", contender.name, each, _since(group, before), said),
    ]


def measure_bodies(load: Load, contender: Contender, group: Group, seconds: float) -> list[Result]:
    """By how much a contender that was just started grows while a large body passes, down and up."""
    size = min(MOST_BODY, int(BODY_A_SECOND * seconds))
    warm_up(load, contender, group)
    results = []
    for title, word in (("GET", "fetch"), ("POST", "store")):
        group.settle()
        group.forget_peak()
        resident, before = group.resident_octets(), group.cpu_seconds()
        said = load.run(contender, Work("", word, HTTP, 1, size), BODY_SECONDS)
        grown = (group.peak_octets() - resident) / 1e6 if said["done"] else None
        group.settle()
        row = f"{title} of {size / 1e6:,.0f} MB: growth, MB"
        results.append(Result(row, contender.name, grown, _since(group, before), said))
    return results


def _since(group: Group, before: float) -> float:
    return group.cpu_seconds() - before
