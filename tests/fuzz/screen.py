"""What a command shows, caught for the fuzzers: on stdout as a person or a program sees it, and on stderr.

Whatever a stranger wrote somewhere, no octet of it may move a cursor or end a line of ours (ATTACKS 9).
"""

from __future__ import annotations

import io
import json
import os
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Never

from proxyd.cli.terminal import Ink

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS = (*(ink.value for ink in Ink), "\x1b[0m")


@dataclass(slots=True)
class Screen:
    """out, err: what was shown, once it is over."""

    out: str = ""
    err: str = ""

    @property
    def lines(self) -> list[str]:
        """What stands on stdout, without our colours; no line of either stream has anything but text."""
        out = self.out
        for ink in _OURS:
            out = out.replace(ink, "")
        lines, told = out.split("\n"), self.err.split("\n")
        assert [line for line in (*lines, *told) if not line.isprintable()] == []
        assert (lines.pop(), told.pop()) == ("", ""), "a line that is not ended"
        return lines

    def documents(self) -> list[object]:
        """What stands on stdout, a JSON document a line; any other reader of JSON would take them, too."""
        return [json.loads(line, parse_constant=_no_json) for line in self.lines]


class _Terminal(io.StringIO):
    """Somebody looks on."""

    def isatty(self) -> bool:
        return True


@contextmanager
def screen(*, person: bool) -> Iterator[Screen]:
    """Catch what is shown. person: on a terminal, and not in a pipe."""
    shown, out = Screen(), _Terminal() if person else io.StringIO()
    with (
        os.fdopen(os.memfd_create("stderr"), "w+", encoding="utf-8") as err,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        yield shown
        shown.out, shown.err = out.getvalue(), os.pread(err.fileno(), 1 << 24, 0).decode()


def _no_json(word: str) -> Never:
    raise AssertionError(f"{word} is no JSON")
