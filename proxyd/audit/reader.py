"""The audit log read back: gigabytes in constant memory, rotated and compressed files too, torn lines passed over.

What is read comes from a file that others may have written to: nothing in it is trusted to be what the schema says.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import math
import os
import re
import sys
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

from proxyd.audit.record import FIELDS_OF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    Entry = dict[str, Any]

LONGEST_LINE: Final = 64 * 1024
"""Octets of a line that is looked at; ours have 4,096."""

MOST_BRACKETS: Final = 500
"""In a line. Ours have fewer; what is nested deeper may be read here, and not by who shows it, as the stack has it."""

POLL_SECONDS: Final = 0.25  # between two looks at a log that grows

_FIRST_DATE: Final = 2000_01_01  # as logrotate's `dateext` spells it
_PIECE: Final = 1 << 20
_MAGIC: Final[dict[bytes, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_ROTATED: Final = re.compile(r"[.-]([0-9]+)(?:\.(?:gz|bz2|xz))?")
_BROKEN: Final = (OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(slots=True)
class Reading:
    """What was read so far. unread: lines that are no records, torn ones above all. octets: of the files as they are.

    broken: files that could not be read to their end, and why.
    """

    records: int = 0
    unread: int = 0
    octets: int = 0
    broken: list[str] = field(default_factory=list)


def with_rotated(path: Path) -> list[Path]:
    """The files that logrotate made of it, oldest first, and itself: audit.jsonl.2.gz, audit.jsonl.1, audit.jsonl."""
    if path.name == "-":
        return [path]
    siblings = path.parent.glob(f"{_escaped(path.name)}[.-]*")
    found = ((_ROTATED.fullmatch(each.name.removeprefix(path.name)), each) for each in siblings)
    older = [(int(number[1]), each) for number, each in found if number is not None]
    by_date = any(number >= _FIRST_DATE for number, _ in older)  # the larger, the younger; else the other way round
    return [*(each for _, each in sorted(older, reverse=not by_date)), path]


def records(
    paths: Iterable[Path], reading: Reading, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Entry]:
    """Every record of these files, in their order; "-" is stdin. progress: is told how many octets were read.

    What is wrong with a file or a line is noted in `reading`, and the rest is read.
    """
    for path in paths:
        try:
            with _opened(path) as (raw, text):
                yield from _records(raw, text, reading, progress)
        except _BROKEN as error:
            reading.broken.append(f"{path}: {getattr(error, 'strerror', None) or 'it breaks off, or is damaged'}")


def growing(path: Path, wait: Callable[[float], None] = time.sleep) -> Iterator[Entry]:
    """Every record that is appended from now on, without end.

    A log that was renamed is read to its end, and then the one that has taken its place. wait: how to let some seconds
    pass. Raises OSError if there is no log to begin with.
    """
    file = path.open("rb")
    try:
        file.seek(0, os.SEEK_END)
        rest = b""
        while True:
            piece = file.read(_PIECE)
            *lines, rest = (rest + piece).split(b"\n")
            yield from (entry for line in lines if (entry := parsed(line)) is not None)
            rest = rest[: LONGEST_LINE + 1]  # enough to see that it is too long, however it ends
            if not piece and _is_another(path, file):
                file.close()
                file, rest = path.open("rb"), b""
            elif not piece:
                wait(POLL_SECONDS)
    finally:
        file.close()


def _is_another(path: Path, file: IO[bytes]) -> bool:
    """Whether the name is another file's by now, or this one was emptied."""
    try:
        named = path.stat()
    except OSError:
        return False  # it was moved away, and the next one is yet to come
    ours = os.fstat(file.fileno())
    return (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino) or named.st_size < file.tell()


def parsed(line: bytes) -> Entry | None:
    """The record in one line; None if there is none, whatever there is."""
    if len(line) > LONGEST_LINE or line.count(b"[") + line.count(b"{") > MOST_BRACKETS:
        return None
    try:
        entry = _JSON.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    event = entry.get("event") if isinstance(entry, dict) else None
    return entry if isinstance(event, str) and event in FIELDS_OF else None


def _number(text: str) -> float:
    """A number that JSON can spell again. Raises ValueError for NaN, and what is too large for one."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("it is no number")
    return number


_JSON: Final = json.JSONDecoder(parse_float=_number, parse_constant=_number)


def _records(raw: IO[bytes], text: IO[bytes], reading: Reading, progress: Callable[[int], None]) -> Iterator[Entry]:
    before = reading.octets
    while line := text.readline(LONGEST_LINE + 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):  # its end is no line of its own
            rest = text.readline(LONGEST_LINE + 1)
        entry = parsed(line)
        if raw.seekable():
            reading.octets = before + raw.tell()
            progress(reading.octets)
        if entry is not None:
            reading.records += 1
            yield entry
        elif line.strip() or len(line) > LONGEST_LINE:
            reading.unread += 1


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file as it is on disk, and its lines. Raises OSError."""
    if path.name == "-":
        if sys.stdin is None:
            raise OSError(errno.EBADF, "stdin is closed")
        yield sys.stdin.buffer, sys.stdin.buffer
        return
    with path.open("rb") as raw:
        head = raw.peek()  # a pipe has no way back
        unpack = next((opener for magic, opener in _MAGIC.items() if head.startswith(magic)), None)
        yield raw, raw if unpack is None else unpack(raw)


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
