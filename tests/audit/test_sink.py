"""Sinks: a line is in the kernel's hands when `write` returns, or SinkError says that it is not (R7, R12).

Real files, pipes and terminals; only the clock, and a disk that fills up in the middle, are ours.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import socket
import stat
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from unittest.mock import Mock

import pytest

from proxyd.audit.record import Record
from proxyd.audit.render import console_line, json_line
from proxyd.audit.sink import CHECK_SECONDS, FileSink, Sink, SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FIRST: Final = Record(time="2026-08-01T12:00:00.000Z", event="decision", id="1" * 16, host="one.example")
SECOND: Final = Record(time="2026-08-01T12:00:01.000Z", event="decision", id="2" * 16, host="two.example")
ONE: Final = json_line(FIRST)
TWO: Final = json_line(SECOND)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the log is; nothing is there yet."""
    folder = tmp_path / "log"
    folder.mkdir()
    return folder / "audit.jsonl"


@pytest.fixture
def sink(log: Path, clock: Clock) -> Iterator[FileSink]:
    """A sink that appends to `log`."""
    sink = FileSink(str(log), clock)
    yield sink
    sink.close()


@pytest.fixture
def opened() -> Iterator[Callable[[int], Sink]]:
    """Makes sinks of descriptors, and closes them in the end."""
    made: list[Sink] = []

    def make(fd: int) -> Sink:
        made.append(Sink(fd))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: its end to read from, and its end to write to."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # a test may have closed it
            os.close(end)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is handed to write(2), call by call."""
    calls: list[bytes] = []
    really = os.write

    def write(fd: int, data: bytes) -> int:
        calls.append(data)
        return really(fd, data)

    monkeypatch.setattr(os, "write", write)
    return calls


@pytest.fixture
def disk_full_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Sets how many octets of each write still fit: None is all of them, 0 is none."""
    really = os.write
    room: int | None = None

    def write(fd: int, data: bytes) -> int:
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(fd, data[:room])

    def leave(octets: int | None) -> None:
        nonlocal room
        room = octets

    monkeypatch.setattr(os, "write", write)
    return leave


def open_files() -> set[int]:
    """The descriptors that are open in this process."""
    found = set()
    for fd in range(256):
        with suppress(OSError):
            os.fstat(fd)
            found.add(fd)
    return found


def fill(fd: int) -> None:
    """Write to a pipe until it takes nothing more."""
    os.set_blocking(fd, False)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(fd, b"x" * size)
    os.set_blocking(fd, True)


# Any descriptor


def test_r7_a_line_can_be_read_by_another_process_as_soon_as_write_returns(
    pipe: tuple[int, int], opened: Callable[[int], Sink]
) -> None:
    opened(pipe[1]).write(FIRST)
    assert os.read(pipe[0], 9999) == ONE


def test_one_line_is_one_write(pipe: tuple[int, int], writes: list[bytes], opened: Callable[[int], Sink]) -> None:
    sink = opened(pipe[1])
    sink.write(FIRST)
    sink.write(SECOND)
    assert writes == [ONE, TWO]


def test_attack_8_a_full_pipe_is_refused_and_never_waited_for(
    pipe: tuple[int, int], opened: Callable[[int], Sink]
) -> None:
    sink = opened(pipe[1])
    fill(pipe[1])
    with pytest.raises(SinkError, match=r"^Resource temporarily unavailable$"):
        sink.write(FIRST)


def test_a_pipe_that_is_read_again_is_written_to_again(pipe: tuple[int, int], opened: Callable[[int], Sink]) -> None:
    sink = opened(pipe[1])
    fill(pipe[1])
    with pytest.raises(SinkError):
        sink.write(FIRST)
    os.set_blocking(pipe[0], False)
    with suppress(BlockingIOError):
        while os.read(pipe[0], 65536):
            pass
    sink.write(SECOND)
    assert os.read(pipe[0], 9999) == TWO, "what was refused is not written later"


def test_attack_8_the_flags_of_an_inherited_stdout_are_left_alone(pipe: tuple[int, int]) -> None:
    """They belong to the open file, which the shell and its other children share."""
    before = fcntl.fcntl(pipe[1], fcntl.F_GETFL)
    sink = Sink(pipe[1])
    sink.write(FIRST)
    fill(pipe[1])
    with pytest.raises(SinkError):
        sink.write(FIRST)
    sink.reopen()
    sink.close()
    assert fcntl.fcntl(pipe[1], fcntl.F_GETFL) == before
    assert not before & os.O_NONBLOCK


def test_r12_a_pipe_whose_reader_left_is_an_error(pipe: tuple[int, int], opened: Callable[[int], Sink]) -> None:
    sink = opened(pipe[1])
    os.close(pipe[0])
    with pytest.raises(SinkError, match=r"^Broken pipe$"):
        sink.write(FIRST)


def test_a_pipe_of_our_own_outlives_the_descriptor_it_was_made_of(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    os.close(pipe[1])
    sink.write(FIRST)
    assert os.read(pipe[0], 9999) == ONE
    sink.close()
    assert os.read(pipe[0], 9999) == b"", "and the reader learns of the end with us"


def test_r12_a_file_that_was_closed_behind_our_back_is_an_error(log: Path) -> None:
    with log.open("wb") as file:
        sink = Sink(file.fileno())
    with pytest.raises(SinkError, match=r"^Bad file descriptor$"):
        sink.write(FIRST)


def test_r12_a_descriptor_that_was_closed_before_we_started_is_an_error_with_every_write(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    sink = Sink(pipe[1])
    for _ in range(2):
        with pytest.raises(SinkError, match=r"^Bad file descriptor$"):
            sink.write(FIRST)


def test_r12_a_descriptor_that_cannot_be_written_to_is_an_error(log: Path) -> None:
    log.touch()
    fd = os.open(log, os.O_RDONLY)
    try:
        with pytest.raises(SinkError, match=r"^Bad file descriptor$"):
            Sink(fd).write(FIRST)
    finally:
        os.close(fd)


def test_attack_8_a_full_disk_is_an_error_in_the_words_of_the_system() -> None:
    sink = FileSink("/dev/full")
    with pytest.raises(SinkError, match=r"^No space left on device$"):
        sink.write(FIRST)
    sink.close()


def test_an_error_does_not_drag_its_cause_along(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    os.close(pipe[0])
    with pytest.raises(SinkError) as caught:
        sink.write(FIRST)
    sink.close()
    assert caught.value.__suppress_context__


def test_a_person_at_a_terminal_reads_the_console_form(opened: Callable[[int], Sink]) -> None:
    ours, terminal = pty.openpty()
    try:
        opened(terminal).write(FIRST)
        assert os.read(ours, 9999).replace(b"\r\n", b"\n") == console_line(FIRST)
    finally:
        os.close(ours)
        os.close(terminal)


def test_a_descriptor_that_was_given_to_us_stays_open_when_the_sink_closes(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    sink.close()
    os.fstat(pipe[1])


def test_a_descriptor_that_was_given_to_us_is_what_reopen_goes_on_with(
    pipe: tuple[int, int], opened: Callable[[int], Sink]
) -> None:
    sink = opened(pipe[1])
    sink.reopen()
    sink.write(FIRST)
    assert os.read(pipe[0], 9999) == ONE


# Torn lines


def test_attack_8_a_line_that_fits_only_in_part_is_an_error(
    log: Path, sink: FileSink, disk_full_after: Callable[[int | None], None]
) -> None:
    disk_full_after(10)
    with pytest.raises(SinkError, match=r"^no room for the whole line$"):
        sink.write(FIRST)
    assert log.read_bytes() == ONE[:10]


def test_a_torn_line_is_ended_before_the_next_record_and_only_then(
    log: Path, sink: FileSink, disk_full_after: Callable[[int | None], None]
) -> None:
    disk_full_after(10)
    with pytest.raises(SinkError):
        sink.write(FIRST)
    disk_full_after(None)
    sink.write(SECOND)
    sink.write(FIRST)
    assert log.read_bytes() == ONE[:10] + b"\n" + TWO + ONE


def test_ending_a_torn_line_is_part_of_the_one_write(
    log: Path, sink: FileSink, disk_full_after: Callable[[int | None], None], writes: list[bytes]
) -> None:
    disk_full_after(10)
    with pytest.raises(SinkError):
        sink.write(FIRST)
    disk_full_after(None)
    sink.write(SECOND)
    assert writes[-1] == b"\n" + TWO
    assert log.read_bytes().endswith(TWO)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_torn_line_stays_torn_until_a_whole_one_was_written(
    log: Path, sink: FileSink, disk_full_after: Callable[[int | None], None], room: int
) -> None:
    disk_full_after(10)
    with pytest.raises(SinkError):
        sink.write(FIRST)
    disk_full_after(room)
    with pytest.raises(SinkError):
        sink.write(FIRST)
    disk_full_after(None)
    sink.write(SECOND)
    assert log.read_bytes() == ONE[:10] + (b"\n" + ONE)[:room] + b"\n" + TWO


def test_a_disk_that_took_nothing_tore_nothing(
    log: Path, sink: FileSink, disk_full_after: Callable[[int | None], None]
) -> None:
    disk_full_after(0)
    with pytest.raises(SinkError, match=r"^No space left on device$"):
        sink.write(FIRST)
    disk_full_after(None)
    sink.write(SECOND)
    assert log.read_bytes() == TWO


def test_a_file_that_is_new_begins_with_a_record(
    log: Path, sink: FileSink, disk_full_after: Callable[[int | None], None]
) -> None:
    disk_full_after(10)
    with pytest.raises(SinkError):
        sink.write(FIRST)
    disk_full_after(None)
    log.rename(log.with_suffix(".1"))
    sink.reopen()
    sink.write(SECOND)
    assert log.read_bytes() == TWO


def test_a_line_that_was_torn_before_we_started_is_ended_too(log: Path) -> None:
    """The disk filled up, the daemon was restarted: its first record must not join what the last run left."""
    log.write_bytes(ONE[:10])
    sink = FileSink(str(log))
    sink.write(SECOND)
    sink.close()
    assert json.loads(log.read_bytes().splitlines()[-1])["id"] == SECOND.id


@pytest.mark.parametrize("rest", [ONE[10:], ONE[10:] + TWO, ONE[10:] + TWO[:7]], ids=["whole", "two", "the next too"])
def test_a_line_that_a_sibling_is_writing_is_not_torn(log: Path, monkeypatch: pytest.MonkeyPatch, rest: bytes) -> None:
    """A reader may see the first part of a write before the rest: an empty line behind it would be no record."""

    def sibling_goes_on(_seconds: float) -> None:
        with log.open("ab") as file:
            file.write(rest)

    log.write_bytes(ONE[:10])
    monkeypatch.setattr(time, "sleep", sibling_goes_on)
    sink = FileSink(str(log))
    sink.write(SECOND)
    sink.close()
    assert log.read_bytes() == ONE[:10] + rest + TWO


def test_attack_8_a_line_that_another_worker_tore_meanwhile_is_ended_too(log: Path, sink: FileSink) -> None:
    """It filled the disk, or was killed in the middle of a write; we have never met an error."""
    sink.write(FIRST)
    with log.open("ab", buffering=0) as sibling:
        sibling.write(ONE[:10])
        sink.write(SECOND)
        sibling.write(ONE)
    sink.write(SECOND)
    assert log.read_bytes() == ONE + ONE[:10] + b"\n" + TWO + ONE + TWO


def test_a_file_that_nobody_else_wrote_to_is_not_looked_at_again(
    log: Path, sink: FileSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink.write(FIRST)
    monkeypatch.setattr(os, "open", Mock(side_effect=AssertionError("it was looked at")))
    sink.write(SECOND)
    assert log.read_bytes() == ONE + TWO


def test_a_line_that_another_worker_tore_is_ended_on_reopening(log: Path, sink: FileSink) -> None:
    log.write_bytes(TWO + ONE[:10])
    sink.reopen()
    sink.write(SECOND)
    assert log.read_bytes() == TWO + ONE[:10] + b"\n" + TWO


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (b"", TWO),
        (ONE, ONE + TWO),
        (ONE[:10], ONE[:10] + b"\n" + TWO),
        (TWO + ONE[:-1], TWO + ONE[:-1] + b"\n" + TWO),
        (ONE + b"\n", ONE + b"\n" + TWO),
    ],
    ids=["empty", "whole", "torn", "torn-at-its-end", "blank"],
)
def test_attack_8_a_stdout_that_is_a_file_is_appended_to_and_a_torn_line_is_not_joined(
    log: Path, found: bytes, left: bytes
) -> None:
    """As `StandardOutput=file:` opens it: at its beginning, with all that the last run wrote still there."""
    log.write_bytes(found)
    with log.open("r+b") as stdout:
        sink = Sink(stdout.fileno())
        sink.write(SECOND)
        sink.close()
    assert log.read_bytes() == left


def test_r12_a_stdout_that_was_removed_is_an_error_until_somebody_restarts_us(log: Path) -> None:
    """Nobody will ever read what is written there, and it has no name by which it could be opened again."""
    with log.open("wb", buffering=0) as stdout:
        sink = Sink(stdout.fileno())
        sink.write(FIRST)
        log.unlink()
        for _ in range(2):
            with pytest.raises(SinkError, match="the file was removed"):
                sink.write(SECOND)
        sink.close()


def test_a_stdout_that_never_had_a_name_is_written_to() -> None:
    """Whoever made it so holds it, and reads it."""
    with tempfile.TemporaryFile() as stdout:
        sink = Sink(stdout.fileno())
        sink.write(FIRST)
        sink.close()
        stdout.seek(0)
        assert stdout.read() == ONE


def test_attack_8_what_others_write_to_the_same_stdout_overwrites_no_record(log: Path) -> None:
    """`> log 2>&1`: a traceback, or what the shell runs next."""
    with log.open("wb", buffering=0) as stdout:
        sink = Sink(stdout.fileno())
        sink.write(FIRST)
        stdout.write(b"Traceback\n")
        sink.write(SECOND)
        sink.close()
        stdout.write(b"ended\n")
    assert log.read_bytes() == ONE + b"Traceback\n" + TWO + b"ended\n"


def test_a_file_that_we_may_write_and_not_read_is_taken_to_end_well(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(ONE)
    sink = FileSink(str(log))
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", Mock(side_effect=refused))
        sink.write(SECOND)
        sink.close()
    assert log.read_bytes() == ONE + TWO


# Files


def test_a_file_is_made_for_its_owner_and_group(log: Path) -> None:
    """The records say who went where."""
    before = os.umask(0)
    try:
        FileSink(str(log)).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


def test_a_file_that_exists_is_appended_to(log: Path, clock: Clock) -> None:
    log.write_bytes(ONE)
    sink = FileSink(str(log), clock)
    sink.write(SECOND)
    sink.close()
    assert log.read_bytes() == ONE + TWO


def test_two_workers_on_one_file_never_overwrite_each_other(log: Path, sink: FileSink, clock: Clock) -> None:
    other = FileSink(str(log), clock)
    for _ in range(3):
        sink.write(FIRST)
        other.write(SECOND)
    other.close()
    assert log.read_bytes() == (ONE + TWO) * 3


def test_a_file_that_was_truncated_in_place_begins_anew(log: Path, sink: FileSink) -> None:
    """As logrotate's copytruncate does."""
    sink.write(FIRST)
    os.truncate(log, 0)
    sink.write(SECOND)
    assert log.read_bytes() == TWO


def test_the_file_is_not_passed_on_to_children(log: Path) -> None:
    before = open_files()
    sink = FileSink(str(log))
    assert [os.get_inheritable(fd) for fd in open_files() - before] == [False]
    sink.close()


def test_r12_a_file_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileSink(str(tmp_path / "nowhere" / "audit.jsonl"))


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    """A FIFO that nobody reads yet."""
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path


def test_r12_attack_8_a_fifo_that_nobody_reads_stops_the_start_and_is_not_waited_for(fifo: str) -> None:
    before = open_files()
    with pytest.raises(OSError, match="No such device or address") as caught:
        FileSink(fifo)
    assert caught.value.errno == errno.ENXIO
    assert open_files() == before


def test_attack_8_a_fifo_takes_records_until_it_is_full_or_its_reader_leaves(fifo: str) -> None:
    before = open_files()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    sink = FileSink(fifo)
    sink.write(FIRST)
    assert os.read(reader, 9999) == ONE
    fill(other := os.open(fifo, os.O_WRONLY))
    os.close(other)
    with pytest.raises(SinkError, match=r"^Resource temporarily unavailable$"):
        sink.write(FIRST)
    os.close(reader)
    with pytest.raises(SinkError, match=r"^Broken pipe$"):
        sink.write(FIRST)
    with pytest.raises(SinkError, match=r"^No such device or address$"):
        sink.reopen()
    sink.close()
    assert open_files() == before


def test_a_sink_closes_its_own_file(log: Path) -> None:
    before = open_files()
    FileSink(str(log)).close()
    assert open_files() == before


# Rotation


def rename(log: Path) -> None:
    log.rename(log.with_suffix(".1"))


def rename_and_create(log: Path) -> None:
    log.rename(log.with_suffix(".1"))
    log.touch()


def unlink(log: Path) -> None:
    log.unlink()


def replace(log: Path) -> None:
    other = log.with_suffix(".new")
    other.touch()
    other.replace(log)


moved = pytest.mark.parametrize("move", [rename, rename_and_create, unlink, replace])


@moved
def test_a_file_that_was_moved_is_noticed_within_a_second(
    log: Path, sink: FileSink, clock: Clock, move: Callable[[Path], None]
) -> None:
    sink.write(FIRST)
    move(log)
    clock.now += CHECK_SECONDS
    sink.write(SECOND)
    assert log.read_bytes() == TWO
    assert CHECK_SECONDS == 1.0


@pytest.mark.parametrize("move", [unlink, replace])
def test_r7_attack_8_a_file_that_was_removed_gets_nothing_more(
    log: Path, sink: FileSink, move: Callable[[Path], None]
) -> None:
    """Nobody could read it there."""
    sink.write(FIRST)
    with log.open("rb") as removed:
        move(log)
        sink.write(SECOND)
        assert removed.read() == ONE
    assert log.read_bytes() == TWO


def test_r12_a_file_that_cannot_be_looked_at_any_more_is_opened_anew(
    log: Path, sink: FileSink, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system a file can go stale."""
    sink.write(FIRST)
    real, failures = os.fstat, iter([OSError(errno.ESTALE, "Stale file handle")])
    opened = Mock(wraps=os.open)

    def fstat(fd: int) -> os.stat_result:
        for failure in failures:
            raise failure
        return real(fd)

    monkeypatch.setattr(os, "fstat", fstat)
    monkeypatch.setattr(os, "open", opened)
    clock.now += CHECK_SECONDS
    sink.write(SECOND)
    assert opened.call_args_list[0].args[0] == str(log)
    assert log.read_bytes() == ONE + TWO


def test_a_file_that_was_renamed_gets_what_is_written_until_then(log: Path, sink: FileSink, clock: Clock) -> None:
    rename(log)
    clock.now += CHECK_SECONDS - 0.001
    sink.write(FIRST)
    assert log.with_suffix(".1").read_bytes() == ONE
    assert not log.exists()


def test_the_file_is_looked_for_once_a_second_and_not_with_every_record(
    log: Path, sink: FileSink, clock: Clock
) -> None:
    clock.now += CHECK_SECONDS
    sink.write(FIRST)
    rename(log)
    clock.now += CHECK_SECONDS - 0.001
    sink.write(SECOND)
    clock.now += 0.001
    sink.write(FIRST)
    assert log.with_suffix(".1").read_bytes() == ONE + TWO
    assert log.read_bytes() == ONE


def test_a_file_that_is_where_it_was_is_not_opened_again(log: Path, sink: FileSink, clock: Clock) -> None:
    fds = open_files()
    for _ in range(3):
        clock.now += CHECK_SECONDS
        sink.write(FIRST)
    assert log.read_bytes() == ONE * 3
    assert open_files() == fds


@moved
def test_reopen_finds_the_file_at_once(log: Path, sink: FileSink, move: Callable[[Path], None]) -> None:
    sink.write(FIRST)
    move(log)
    sink.reopen()
    sink.write(SECOND)
    assert log.read_bytes() == TWO


def test_attack_8_reopen_leaves_no_descriptor_behind(sink: FileSink) -> None:
    before = open_files()
    for _ in range(10):
        sink.reopen()
    assert open_files() == before


@pytest.fixture
def close_fails(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Add a descriptor, and close(2) of it fails, as over NFS with a quota: once, and its number is free again."""
    failing: set[int] = set()
    really = os.close

    def close(fd: int) -> None:
        really(fd)
        if fd in failing:
            failing.remove(fd)
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "close", close)
    return failing


def reopen(sink: FileSink, _: Clock) -> None:
    sink.reopen()


def write_after_a_second(sink: FileSink, clock: Clock) -> None:
    clock.now += CHECK_SECONDS
    sink.write(FIRST)


@pytest.mark.parametrize("notice", [reopen, write_after_a_second])
def test_attack_8_r7_no_record_goes_to_a_socket_that_took_the_number_of_a_file_whose_close_failed(
    log: Path, sink: FileSink, clock: Clock, close_fails: set[int], notice: Callable[[FileSink, Clock], None]
) -> None:
    """The next socket to be opened is a client's: it would read the log."""
    old = sink._outlet.fd  # noqa: SLF001 - the number is what it is about
    close_fails.add(old)
    rename(log)
    notice(sink, clock)
    assert not close_fails
    client, peer = socket.socketpair()
    with client, peer:
        assert old in (client.fileno(), peer.fileno()), "the number was free, or nothing is shown here"
        sink.write(SECOND)
        for end in (client, peer):
            end.settimeout(0)
            with pytest.raises(BlockingIOError):
                end.recv(1)
    assert log.read_bytes().endswith(TWO)


@pytest.mark.parametrize("closing", ["file", "opened-anew"])
def test_attack_8_a_close_that_fails_leaves_nothing_open_and_is_nobodys_error(
    fifo: str, close_fails: set[int], closing: str
) -> None:
    """Of a FIFO there are two descriptors to close."""
    before = open_files()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    sink = FileSink(fifo)
    (anew,) = open_files() - before - {reader, sink._outlet.fd}  # noqa: SLF001 - the numbers are what it is about
    close_fails.add(sink._outlet.fd if closing == "file" else anew)  # noqa: SLF001
    sink.close()
    assert not close_fails
    os.close(reader)
    assert open_files() == before


def test_a_reopen_that_fails_says_so_and_goes_on_with_the_old_file(log: Path, sink: FileSink) -> None:
    away = log.parent.with_name("away")
    log.parent.rename(away)
    with pytest.raises(SinkError, match=r"^No such file or directory$"):
        sink.reopen()
    sink.write(FIRST)
    assert (away / log.name).read_bytes() == ONE


def test_r12_no_record_goes_to_a_file_that_nobody_finds(log: Path, sink: FileSink, clock: Clock) -> None:
    away = log.parent.with_name("away")
    log.parent.rename(away)
    clock.now += CHECK_SECONDS
    for _ in range(2):
        with pytest.raises(SinkError, match=r"^No such file or directory$"):
            sink.write(FIRST)
    assert (away / log.name).read_bytes() == b""


def test_writing_goes_on_once_the_file_can_be_opened_again(log: Path, sink: FileSink, clock: Clock) -> None:
    away = log.parent.with_name("away")
    log.parent.rename(away)
    clock.now += CHECK_SECONDS
    with pytest.raises(SinkError):
        sink.write(FIRST)
    log.parent.mkdir()
    sink.write(SECOND)
    assert log.read_bytes() == TWO
