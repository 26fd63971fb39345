"""A worker's audit log: the sink in use is the one that is written to, what is written is counted, and no sink is left
open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from proxyd.audit.record import Record, timestamp
from proxyd.audit.sink import FileSink, SinkError
from proxyd.serve.log import Log
from tests.serve.counting import Counting
from tests.serve.handed import open_files
from tests.serve.scene import NOW

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxyd.audit.sink import Sink
    from proxyd.observe.tally import Tally


def record(number: int) -> Record:
    """One of several."""
    return Record(time=timestamp(NOW), event="start", pid=number, policy="gateway", digest="0" * 16)


def pids(path: Path) -> list[bytes]:
    """Which records are there, by their numbers."""
    return [line.partition(b'"pid":')[2].partition(b",")[0] for line in path.read_bytes().splitlines()]


def logging(sink: Sink, counting: Counting | None = None, complain: Callable[[str], None] = pytest.fail) -> Log:
    """A log that is counted; where nobody looks, somewhere."""
    return Log(sink, cast("Tally", counting or Counting()), complain)


def test_records_go_to_the_sink_in_use_and_none_is_lost_by_a_change(tmp_path: Path) -> None:
    """R7: between two records the sink changes; each is in one place, whole, and the old file is closed."""
    before = open_files()
    one, other = tmp_path / "one", tmp_path / "other"
    log = logging(FileSink(str(one)))
    log.write(record(1))
    sink = FileSink(str(other))
    log.change(sink)
    log.write(record(2))
    assert (pids(one), pids(other)) == ([b"1"], [b"2"])
    sink.close()
    assert open_files() == before


def test_r12_what_cannot_be_written_is_the_callers_to_hear_of() -> None:
    """No audit, no connection: it is not this one's to overlook."""
    counting = Counting()
    log = logging(FileSink("/dev/full"), counting)
    with pytest.raises(SinkError, match="No space left on device"):
        log.write(record(1))
    assert counting.noted == ["unwritten start"], "how long it took to fail is nobody's figure"
    log.change(FileSink("/dev/null"))
    log.write(record(2))
    assert counting.noted[1:] == ["took audit", "count start"]
    log._sink.close()  # noqa: SLF001 - nobody else has it


def test_a_file_that_was_moved_away_is_opened_again(tmp_path: Path) -> None:
    """SIGUSR1: at once, and what was moved is complete."""
    path, moved = tmp_path / "log", tmp_path / "log.1"
    sink = FileSink(str(path))
    log = logging(sink)
    log.write(record(1))
    path.rename(moved)
    log.reopen()
    log.write(record(2))
    assert (pids(moved), pids(path)) == ([b"1"], [b"2"])
    sink.close()


def test_r12_a_file_that_cannot_be_opened_again_is_complained_about_and_the_old_one_used(tmp_path: Path) -> None:
    """There is no gap in the trail."""
    folder, gone = tmp_path / "folder", tmp_path / "gone"
    folder.mkdir()
    said: list[str] = []
    sink = FileSink(str(folder / "log"), clock=lambda: 0.0)
    log = logging(sink, complain=said.append)
    folder.rename(gone)
    log.reopen()
    log.write(record(1))
    assert said == ["audit log: could not be reopened: No such file or directory"]
    assert pids(gone / "log") == [b"1"]
    sink.close()


def test_r7_a_record_is_counted_once_it_is_written_and_the_writing_is_timed() -> None:
    """DESIGN: what is counted and what is on record cannot disagree: nothing is counted that is not there."""
    counting = Counting()

    class Watched:
        def write(self, record: Record) -> None:
            counting.noted.append(f"written {record.event}")

    log = logging(cast("Sink", Watched()), counting)
    log.write(record(1))
    assert counting.noted == ["written start", "took audit", "count start"]


def test_a_bug_of_a_sink_is_neither_a_record_nor_a_failure_to_write() -> None:
    """It is the session's to catch; the figures do not say what nobody knows."""
    counting = Counting()

    class Buggy:
        def write(self, record: Record) -> None:
            raise ValueError(record.event)

    with pytest.raises(ValueError, match="start"):
        logging(cast("Sink", Buggy()), counting).write(record(1))
    assert counting.noted == []
