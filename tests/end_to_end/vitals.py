"""How the workers of a running daemon are: their memory, open files and tasks, as the kernel and the tally say."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxyd.net.pipes import SPARE
from proxyd.observe.tally import Totals, read_totals
from tests.end_to_end.daemon import files_of

if TYPE_CHECKING:
    from tests.end_to_end.daemon import Daemon

MB = 1 << 20


@dataclass(frozen=True)
class Vitals:
    """Of all workers together. files: open, spare pipes left out. tasks: trio's. memory: resident octets. peak: since
    `forget_peak`.
    """

    files: int
    tasks: int
    memory: int
    peak: int


def vitals(daemon: Daemon) -> Vitals:
    """How they are now; tasks are counted once a second."""
    workers = daemon.workers()
    return Vitals(
        files=sum(map(_files, workers)),
        tasks=totals(daemon).tasks,
        memory=sum(_memory(pid, "VmRSS") for pid in workers),
        peak=sum(_memory(pid, "VmHWM") for pid in workers),
    )


def forget_peak(daemon: Daemon) -> None:
    """Let the peak be what is resident now (proc(5), clear_refs)."""
    for pid in daemon.workers():
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def totals(daemon: Daemon, clients: tuple[str, ...] = ("tester",)) -> Totals:
    """What the workers have counted, read from the memory that they share with their supervisor."""
    numbers = [number for number, name in files_of(daemon.pid).items() if "proxyd-tally" in name]
    fd = os.open(f"/proc/{daemon.pid}/fd/{numbers[0]}", os.O_RDONLY)
    try:
        return read_totals(fd, len(daemon.workers()), ("", *clients))
    finally:
        os.close(fd)


def _files(pid: int) -> int:
    """Those that are held for somebody: how many spare pipes there are depends on how fast bytes once came."""
    names = files_of(pid).values()
    pipes = sum(name.startswith("pipe:") for name in names)
    return len(names) - pipes + max(0, pipes - 2 * SPARE)


def _memory(pid: int, which: str) -> int:
    found = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 0 if found is None else int(found[1]) << 10
