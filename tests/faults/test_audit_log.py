"""Faults of the audit log: no audit, no connection, and no record is lost (R7, R12; ATTACKS 8).

While no record can be written, every request that would be allowed is refused (503 audit_unwritable) and nothing is
dialled; denials stay denials, tunnels that stand go on, and service resumes by itself as soon as it can be written.
What only moves the log is noticed by nobody. Whatever happens, each connection that the origin saw is on record.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.end_to_end.asking import get
from tests.end_to_end.daemon import Daemon, ticks
from tests.end_to_end.test_workers import until
from tests.end_to_end.vitals import totals
from tests.faults.collector import Collector
from tests.faults.errands import Errands
from tests.faults.log_faults import UNWRITABLE, renamed, without_its_folder
from tests.faults.ordeal import ordeal, places, walls
from tests.faults.small_disk import SmallDisk
from tests.faults.written import Written, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.end_to_end.conftest import Scene
    from tests.faults.log_faults import Fault

    Start = Callable[[Scene, Path, int], Daemon]

LOG: Final = "audit.jsonl"
ELSEWHERE: Final = "127.0.0.98"
"""Where the load comes from."""


_counted: Final[Counter[str]] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _say_figures(figures: dict[str, str]) -> Iterator[None]:
    yield
    said = ", ".join(f"{number:,} {what}" for what, number in _counted.items())
    figures["faults of the audit log"] = f"{said}, 0 lost, 0 joined"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk for the log."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with SmallDisk(folder) as disk:
        yield disk


def to_file(scene: Scene, log: Path, workers: int, extra: str = "") -> Daemon:
    """A daemon that writes its log there."""
    return scene.start(f'[audit]\nto = "{log}"\n{extra}', workers=workers)


def to_stdout(scene: Scene, log: Path, workers: int) -> Daemon:
    """A daemon whose stdout goes there."""
    popen = subprocess.Popen

    def start(command: list[str], **more: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - passed through
        with log.open("ab") as stdout:
            return popen(command, **more | {"stdout": stdout})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess, "Popen", start)
        return scene.start(workers=workers)


@contextmanager
def errands(scene: Scene, proxy: Daemon) -> Iterator[Errands]:
    """Requests to be made of it; nothing ever gets to where it may not, or somewhere else. All workers are there."""
    until(lambda: serving(proxy), "not all workers begin")
    with walls() as wall, proxy.connect() as tunnel:
        before = scene.origin.connections
        yield (asked := Errands(scene, proxy, f"http://127.0.0.1:{wall.port}/", tunnel))
        assert wall.arrivals == 0, "something got through"
        assert asked.arrivals - before == asked.served
    assert "bug" not in proxy.complaints()


def serving(proxy: Daemon) -> bool:
    """Whether all its workers let clients in: the start of each is on record before."""
    return len(proxy.workers()) == places(proxy) and all(totals(proxy).pulses)


def on_record(asked: Errands, *paths: Path) -> Written:
    """What stands in these files, once whoever copies them has all: each request that was served, and no other."""
    for _ in ticks():
        written = Written.to(*paths)
        if written.decisions["allow"] >= asked.served:
            break
    assert written.decisions["allow"] == asked.served
    _counted.update({"looks at a log": 1, "records read": len(written.records), "torn lines": len(written.torn)})
    return written


# No audit, no connection


@pytest.mark.parametrize("fault", UNWRITABLE.values(), ids=UNWRITABLE)
def test_r12_attack_8_while_no_record_can_be_written_nothing_is_dialled_and_then_service_resumes(
    scene: Scene, disk: SmallDisk, fault: Fault
) -> None:
    """Each request is refused as audit_unwritable, and the origin sees none; once it can be written, all are served."""
    log = disk.folder / "log" / LOG
    log.parent.mkdir()
    proxy = to_file(scene, log, 2)
    with errands(scene, proxy) as asked, log.open("rb") as first:
        asked.are_done()
        asked.have_ended()  # a late record would make the log anew while it is done away with
        with fault(disk, log):
            asked.until_refused()
            asked.are_refused()
        asked.are_done()
        removed = Path(f"/proc/self/fd/{first.fileno()}")
        before = removed if fault is without_its_folder else renamed(log)
        written = on_record(asked, *([before] if before.exists() else []), log)
    assert len(written.torn) <= 1
    assert "audit log: a decision record could not be written" in proxy.complaints()


@pytest.mark.parametrize(("start", "workers"), [(to_file, 1), (to_file, 2), (to_stdout, 2)])
def test_r7_attack_8_a_line_that_a_full_disk_tore_is_joined_by_no_other(
    scene: Scene, disk: SmallDisk, start: Start, workers: int, *, long: bool
) -> None:
    """Whoever tore it, and whoever writes next: every record before and after it can be read."""
    log = disk.folder / LOG
    with errands(scene, start(scene, log, workers)) as asked:
        for _ in range(60 if long else 5):
            disk.fill()
            asked.until_refused()
            disk.free()
            asked.are_done()
        written = on_record(asked, log)
    assert written.torn, "the disk was full only between two lines, and nothing is shown here"
    assert shown(log) >= len(written.records)


def test_r12_who_prefers_availability_in_so_many_words_is_served_without_a_record(
    scene: Scene, disk: SmallDisk
) -> None:
    """A full disk refuses nobody; what is decided once there is room is on record again."""
    log = disk.folder / LOG
    with errands(scene, to_file(scene, log, 2, "dangerously_prefer_availability = true\n")) as asked:
        disk.fill()
        for _ in range(2):
            asked.are_done()
        without = asked.served
        disk.free()
        asked.are_done()
        assert asked.served - without <= Written.to(log).decisions["allow"] < asked.served


# A pipe, a socket


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_r12_attack_8_while_nobody_reads_the_log_nothing_is_dialled_and_then_service_resumes(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A reader that stops is waited for by nobody: requests are refused until it reads again. It misses nothing."""
    with Collector(kind, tmp_path / LOG) as collector:
        collector.start_with(monkeypatch)
        with errands(scene, scene.start(workers=2)) as asked:
            asked.are_done()
            with collector.stopped():
                asked.until_refused()
                asked.are_refused()
            asked.are_done()
            assert not on_record(asked, tmp_path / LOG).torn


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_r12_attack_8_once_the_reader_of_the_log_is_gone_nothing_is_dialled(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """All are refused; of a pipe until another reader takes it up, of a socket, which nobody can take up, for ever."""
    with Collector(kind, tmp_path / LOG) as collector:
        collector.start_with(monkeypatch)
        proxy = scene.start(workers=2)
        with errands(scene, proxy) as asked:
            asked.are_done()
            asked.have_ended()
            collector.catch_up()
            collector.leave()
            asked.until_refused()
            asked.are_refused()
            if kind == "pipe":
                collector.come_back(proxy.pid)
                asked.are_done()
            assert not on_record(asked, tmp_path / LOG).torn


# The log is changed by others


def test_r7_attack_8_a_log_that_is_truncated_begins_anew(scene: Scene, disk: SmallDisk) -> None:
    """As `copytruncate` does: the next record is the first, and behind no hole, also where the last one was torn."""
    log, copy = disk.folder / LOG, disk.folder / "copy"
    with errands(scene, to_stdout(scene, log, 2)) as asked:
        for _ in range(3):
            disk.fill()
            asked.until_refused()
            disk.free()
            asked.have_ended()
            with copy.open("ab") as kept:
                kept.write(log.read_bytes() + b"\n")
            os.truncate(log, 0)
            asked.are_done()
            on_record(asked, copy, log)
            assert log.read_bytes().startswith(b'{"schema"')


def test_r7_attack_8_what_another_writer_leaves_unfinished_is_joined_by_no_record(scene: Scene, tmp_path: Path) -> None:
    """A second daemon writes to it too, and somebody who ends no line: each record stands on a line of its own."""
    log = tmp_path / LOG
    with (
        errands(scene, to_file(scene, log, 2)) as asked,
        log.open("ab", buffering=0) as other,
    ):
        for times in range(1, 6):
            asked.have_ended()
            other.write(b'{"schema":1,"time":"2027-01-01T00')
            asked.are_done()
            assert len(on_record(asked, log).torn) == times
    with errands(scene, to_file(scene, log, 1)) as both:
        both.are_done()
        both.served += asked.served
        on_record(both, log)
        both.served -= asked.served


@pytest.mark.parametrize(
    ("move", "signalled", "times"),
    [("rename", True, 20), ("rename", False, 3), ("remove", False, 20)],
    ids=["renamed with SIGUSR1", "renamed without", "removed"],
)
def test_r7_attack_8_a_log_that_is_moved_under_load_loses_no_record(  # noqa: PLR0913 - the table's columns
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: str, times: int, *, signalled: bool, long: bool
) -> None:
    """Renamed (logrotate), with SIGUSR1 or without, or removed: nobody notices, and each record is in one of the files.

    To a file that was removed nothing more is written, but what a worker was just writing.
    """
    log = tmp_path / LOG
    proxy = to_file(scene, log, 2)
    files = Files(log)
    monkeypatch.setattr(Daemon, "lines", lambda _: list(Written.so_far(files.all()).records))
    with ordeal(scene, proxy) as bystander:
        before = scene.origin.connections
        with load(scene, proxy) as served:
            for _ in range(times * (5 if long else 1)):
                files.move(remove=move == "remove")
                if signalled:
                    proxy.signal(signal.SIGUSR1)
                files.wait_for_another()
            bystander.go_on()
        arrived = scene.origin.connections - before
    decided = [each for each in proxy.decided() if each["verdict"] == "allow"]
    assert files.written_after_removal <= 2 * len(files.all()), "more than each worker was just writing"
    assert sum(each["client_address"] == ELSEWHERE for each in decided) == sum(served) > 0
    assert arrived <= len(decided)
    _counted.update({"moves under load": len(files.all()) - 1, "records read": len(decided)})
    files.close()


class Files:
    """A log, and all that it was before it was moved, also where that has no name any more."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._moved: list[int] = []
        self._removed: list[int] = []

    def all(self) -> list[Path]:
        """All of them, the oldest first."""
        return [*(Path(f"/proc/self/fd/{fd}") for fd in self._moved), *([self._log] if self._log.exists() else [])]

    def move(self, *, remove: bool) -> None:
        """Let another name be the log's, or none."""
        self._moved.append(os.open(self._log, os.O_RDONLY))
        if remove:
            self._log.unlink()
            self._removed.append(os.fstat(self._moved[-1]).st_size)
        else:
            self._log.rename(renamed(self._log, len(self._moved)))

    @property
    def written_after_removal(self) -> int:
        """The lines that nobody would ever read."""
        logs = zip(self._moved, self._removed, strict=False)
        return sum(os.pread(fd, 1 << 24, length).count(b"\n") for fd, length in logs)

    def wait_for_another(self) -> None:
        """Wait until the log is there again."""
        for _ in ticks():
            if self._log.exists():
                return
        raise AssertionError("nobody made another log")

    def close(self) -> None:
        """Let go of what was moved."""
        for fd in self._moved:
            os.close(fd)


@contextmanager
def load(scene: Scene, proxy: Daemon) -> Iterator[list[bool]]:
    """Requests as fast as they come, meanwhile; all are served."""
    served: list[bool] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            with proxy.connect(ELSEWHERE) as client:
                served.append(get(client, f"{scene.url}/").status == 200)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for each in threads:
        each.start()
    try:
        yield served
    finally:
        enough.set()
        for each in threads:
            each.join()
    assert all(served)
