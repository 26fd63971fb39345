"""What is shown to a person: colour on a terminal, columns that stand under each other. Plain text when piped.

And what a program is told with --json: one document on stdout, and no line beside it. Whatever is shown may come from a
log or a file: its control characters are escaped here, once for every command.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from enum import Enum
from typing import IO, TYPE_CHECKING, Any, Final

from proxyd.cli.files import complain
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PLAIN: Final = "\x1b[0m"
_GAP: Final = "  "


class Ink(Enum):
    """What a line is about, as its colour says it; the words must say it, too."""

    GOOD = "\x1b[32m"
    BAD = "\x1b[31m"
    WARNING = "\x1b[33m"
    QUIET = "\x1b[2m"
    STRONG = "\x1b[1m"


def is_person(stream: IO[str]) -> bool:
    """Whether somebody looks on, at a terminal that knows its escapes."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_pipe(stream: IO[str]) -> bool:
    """Whether another program reads on: a pager, perhaps, that has the terminal for itself."""
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False  # a stream that is no file


def say(text: str, ink: Ink | None = None, rest: str = "") -> None:
    """A line on stdout, its control characters escaped; `text` in colour where one is wanted (no-color.org)."""
    head, tail = printable(text), printable(rest)
    coloured = ink is not None and is_person(sys.stdout) and not os.environ.get("NO_COLOR")
    sys.stdout.write(f"{ink.value}{head}{_PLAIN}{tail}\n" if ink is not None and coloured else f"{head}{tail}\n")


def say_json(document: Any, indent: int | None = 2) -> None:  # noqa: ANN401 - whatever JSON can spell
    """One JSON document on stdout, for programs; without an indent, on one line."""
    sys.stdout.write(f"{json.dumps(document, indent=indent)}\n")


def refuse(problems: Iterable[str], status: int, *, as_json: bool) -> int:
    """Say on stderr why nothing came of it, and to a program on stdout as well; the status is handed on."""
    told = list(problems)
    for problem in told:
        complain(problem)
    if as_json:
        say_json({"problems": told})
    return status


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Each row as a line, its cells under those of the others; the last cell is as long as it is."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [_GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
