"""The audit log read back: whatever stands there, whole records come out and nothing else breaks it (R7)."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.audit.reader import LONGEST_LINE, MOST_BRACKETS, Reading, growing, parsed, records, with_rotated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def line(**facts: Any) -> bytes:  # noqa: ANN401 - fields of a record
    """A record, as one line."""
    return json.dumps({"event": "close", **facts}).encode() + b"\n"


def read(*paths: Path) -> tuple[list[Any], Reading]:
    """The ids of the records, and what became of the rest."""
    reading = Reading()
    return [each.get("id") for each in records(paths, reading)], reading


def test_whole_records_come_out_in_their_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(line(id=1) + line(id=2, event="decision") + line(id=3))
    found, reading = read(log)
    assert (found, reading.records, reading.unread, reading.octets) == ([1, 2, 3], 3, 0, log.stat().st_size)


@pytest.mark.parametrize(
    "torn",
    [
        b'{"event":"close","id":',
        b"\xff\xfe\x00 no text at all",
        b"[]",
        b'"close"',
        b'{"event":"another"}',
        b'{"event":["close"]}',
        b'{"id":1}',
        b"[" * 100_000,
        b'{"event":"close","id":"' + b"x" * LONGEST_LINE + b'"}',
        b"9" * 5000,
        b'{"event":"close","dns_ms":NaN}',
        b'{"event":"close","problems":[-Infinity]}',
        b'{"event":"close","dns_ms":1e999}',
        '{"event":"close"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"event":"close"}',
    ],
)
def test_what_is_no_record_is_counted_and_passed_over(tmp_path: Path, torn: bytes) -> None:
    """A line that was torn by a full disk, or written by somebody else."""
    log = tmp_path / "log"
    log.write_bytes(line(id=1) + torn + b"\n\n" + line(id=2) + line(id=3)[:-9])
    found, reading = read(log)
    assert found == [1, 2]
    assert reading.unread >= 2
    assert reading.broken == []


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"":', b"}")])
def test_what_is_nested_deeply_is_no_record_wherever_the_stack_ends(opening: bytes, closing: bytes) -> None:
    """Else one reads it who has room on the stack, and another breaks by showing it."""
    for deep, read_ in ((MOST_BRACKETS - 1, True), (MOST_BRACKETS, False), (LONGEST_LINE // 6, False)):
        nested = opening * deep + b"1" + closing * deep
        assert (parsed(b'{"event":"close","x":' + nested + b"}") is not None) is read_
    assert parsed(line(problems=["deny[0].hosts[1]: wrong"] * 200)) is not None


def test_a_number_is_what_json_can_spell_again() -> None:
    assert parsed(b'{"event":"close","dns_ms":1.5}') == {"event": "close", "dns_ms": 1.5}


@pytest.mark.parametrize("octets", [LONGEST_LINE, LONGEST_LINE + 1, LONGEST_LINE + 2, 3 * LONGEST_LINE + 3])
def test_a_line_that_is_too_long_is_one_line_and_its_end_is_no_record(tmp_path: Path, octets: int) -> None:
    """Wherever it is cut: who can write a long line must not make two of it."""
    log = tmp_path / "log"
    log.write_bytes(
        line(id=1) + b" " * octets + line(id="hidden") + line(id=2) + b" " * octets + line(id="hidden")[:-1]
    )
    found, reading = read(log)
    assert (found, reading.records, reading.unread) == ([1, 2], 2, 2)


@given(st.binary(max_size=300))
def test_no_line_breaks_it(data: bytes) -> None:
    entry = parsed(data)
    assert entry is None or isinstance(entry, dict)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_logs_are_read_whatever_they_are_called(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    log = tmp_path / "log.1"
    log.write_bytes(pack(line(id=1) + line(id=2)))
    found, reading = read(log)
    assert (found, reading.octets) == ([1, 2], log.stat().st_size)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("spoil", [lambda data: data[:-8], lambda data: data[:30] + b"\x00\xff" * 9 + data[48:]])
def test_a_damaged_file_is_told_and_the_next_one_is_read(
    tmp_path: Path, pack: Callable[[bytes], bytes], spoil: Callable[[bytes], bytes]
) -> None:
    log, other = tmp_path / "log.1", tmp_path / "log"
    log.write_bytes(spoil(pack(b"".join(line(id=f"{number:x}") for number in range(500)))))
    other.write_bytes(line(id="last"))
    found, reading = read(log, other)
    assert found[-1] == "last"
    assert [each.partition(": ")[0] for each in reading.broken] == [str(log)]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    found, reading = read(tmp_path / "nowhere")
    assert (found, reading.broken) == ([], [f"{tmp_path}/nowhere: No such file or directory"])


def test_stdin_is_read_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        """Cannot be asked how far it was read."""

        def seekable(self) -> bool:
            """Nobody can go back in a pipe."""
            return False

    monkeypatch.setattr(sys, "stdin", type("Text", (), {"buffer": Pipe(line(id=1))}))
    assert read(tmp_path.__class__("-"))[0] == [1]


def test_a_stdin_that_is_closed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    found, reading = read(tmp_path.__class__("-"))
    assert (found, reading.broken) == ([], ["-: stdin is closed"])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_pipe_is_read_as_a_file_is(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """As a shell's <(command): what it is shows in its beginning, to which there is no way back."""
    reading, writing = os.pipe()
    os.write(writing, pack(line(id=1)))
    os.close(writing)
    path = tmp_path / "pipe"
    path.symlink_to(f"/proc/self/fd/{reading}")
    found, told = read(path)
    os.close(reading)
    assert (found, told.broken) == ([1], [])


def test_progress_is_told_in_octets_of_the_files(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(line(id=1))
    two.write_bytes(gzip.compress(line(id=2)))
    seen: list[int] = []
    assert len(list(records([one, two], Reading(), seen.append))) == 2
    assert seen[-1] == one.stat().st_size + two.stat().st_size
    assert seen == sorted(seen)


# Rotation


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ([], ["log"]),
        (["log.1", "log.2.gz", "log.10.xz"], ["log.10.xz", "log.2.gz", "log.1", "log"]),
        (["log-20260101", "log-20260102.gz"], ["log-20260101", "log-20260102.gz", "log"]),
        (["log.old", "log.1.bak", "catalog.1", "log.1.txt", "log1"], ["log"]),
    ],
)
def test_rotated_logs_come_oldest_first(tmp_path: Path, beside: list[str], expected: list[str]) -> None:
    for name in (*beside, "log"):
        (tmp_path / name).touch()
    assert [each.name for each in with_rotated(tmp_path / "log")] == expected


def test_a_name_that_looks_like_a_pattern_is_that_name(tmp_path: Path) -> None:
    for name in ("l[o]g*", "l[o]g*.1", "log.1"):
        (tmp_path / name).touch()
    assert [each.name for each in with_rotated(tmp_path / "l[o]g*")] == ["l[o]g*.1", "l[o]g*"]


def test_of_stdin_there_are_no_older_ones(tmp_path: Path) -> None:
    assert with_rotated(tmp_path.__class__("-")) == [tmp_path.__class__("-")]


# A log that grows


class Script:
    """What happens to a log while somebody waits for it to grow."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self._acts = list(acts)

    def wait(self, _seconds: float) -> None:
        """Let the next thing happen."""
        assert self._acts, "nothing more happens, and it still waits"
        self._acts.pop(0)()


def test_what_is_appended_comes_out_and_what_was_there_does_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(line(id=0))

    def append(data: bytes) -> Callable[[], object]:
        def act() -> None:
            with log.open("ab") as file:
                file.write(data)

        return act

    half = line(id=2)
    script = Script(append(line(id=1) + half[:10]), append(half[10:]), append(b"torn\n" + line(id=3)))
    assert [each["id"] for each in islice(growing(log, script.wait), 3)] == [1, 2, 3]


def test_what_is_appended_in_too_long_a_line_is_no_record_either(tmp_path: Path) -> None:
    """What is kept of it until it ends is its beginning."""
    log = tmp_path / "log"
    log.write_bytes(b"")

    def append(data: bytes) -> Callable[[], object]:
        return lambda: log.write_bytes(log.read_bytes() + data)

    hidden = line(id="hidden")
    script = Script(
        append(b"x" + b" " * LONGEST_LINE + hidden[:-1]),
        append(b"\n" + b" " * LONGEST_LINE),
        append(hidden + line(id=1)),
    )
    assert next(growing(log, script.wait))["id"] == 1


def test_it_follows_a_log_through_its_rotation(tmp_path: Path) -> None:
    """What was written to the old one last is not lost; for a moment there may be no log at all."""
    log = tmp_path / "log"
    log.write_bytes(line(id=0))

    def rotate() -> None:
        moved = log.rename(tmp_path / "log.1")
        with moved.open("ab") as file:
            file.write(line(id=1))

    script = Script(rotate, lambda: None, lambda: log.write_bytes(line(id=2)), lambda: log.write_bytes(line(id=3)[:5]))
    follower = growing(log, script.wait)
    assert [next(follower)["id"], next(follower)["id"]] == [1, 2]


def test_a_log_that_was_emptied_is_read_from_its_beginning(tmp_path: Path) -> None:
    """logrotate's `copytruncate`."""
    log = tmp_path / "log"
    log.write_bytes(line(id=0) * 9)
    script = Script(lambda: log.write_bytes(line(id=1)))
    assert next(growing(log, script.wait))["id"] == 1


def test_without_a_log_to_begin_with_there_is_nothing_to_follow(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(growing(tmp_path / "nowhere"))
