"""The audit log as it was left: every line of it a record, or part of one that was refused for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxyd.audit.reader import Reading, parsed, records
from tests.end_to_end.daemon import ticks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True)
class Written:
    """What stands in some files. torn: lines that are no records."""

    records: tuple[dict[str, Any], ...]
    torn: tuple[bytes, ...]

    @classmethod
    def to(cls, *paths: Path) -> Written:
        """What was written to them, as soon as nobody writes: proxyd's own reader finds the same. No line is two."""
        for _ in ticks():
            written = cls.so_far(paths)
            reading = Reading()
            if tuple(records(paths, reading)) == written.records and reading.unread == len(written.torn):
                assert not reading.broken, reading.broken
                return written
        raise AssertionError("the reader finds something else, or the log does not come to rest")

    @classmethod
    def so_far(cls, paths: Iterable[Path]) -> Written:
        """What stands there now; a last line that is not at its end may be on its way."""
        lines = [line for path in paths for line in path.read_bytes().split(b"\n") if line]
        found = [(line, parsed(line)) for line in lines]
        torn = tuple(line for line, entry in found if entry is None)
        joined = [line for line in torn if line.count(b'{"schema":') > 1]
        assert not joined, f"a line was joined to a torn one: {joined}"
        return cls(tuple(entry for _, entry in found if entry is not None), torn)

    @property
    def decisions(self) -> Counter[str]:
        """How many there are, by verdict. None stands there twice."""
        decisions = [each for each in self.records if each["event"] == "decision"]
        ids = Counter(each["id"] for each in decisions)
        assert set(ids.values()) <= {1}, f"on record twice: {ids.most_common(3)}"
        return Counter(each["verdict"] for each in decisions)


def shown(path: Path) -> int:
    """How many records `proxyd log` shows of it, and of what it was rotated to."""
    command = [sys.executable, "-m", "proxyd", "log", "--json", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - our own
    return len([json.loads(line) for line in said.stdout.splitlines()])
