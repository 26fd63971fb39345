"""Where in a policy file a row is written: the line, which the TOML parser does not tell."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

_HEADER: Final = re.compile(r"\s*\[\[\s*([\w.\-\s]+?)\s*\]\]\s*(#.*)?")
_DOT: Final = re.compile(r"\s*\.\s*")


def line_of(row: str, text: str) -> int | None:
    """The line (from 1) of the header of a row, as `client[1].allow[0]`; None where it is written without a header.

    text: of the file. What looks like a header inside a string of several lines is taken for one.
    """
    seen: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        found = _HEADER.fullmatch(line)
        if found is not None and _counted(_DOT.split(found[1]), seen) == row:
            return number
    return None


def _counted(names: list[str], seen: Counter[str]) -> str:
    """The row that a header begins: each table around it is the latest of its name (TOML 1.0, "Array of Tables")."""
    path = ""
    for name in names[:-1]:
        path += f"{name}[{seen[path + name] - 1}]."
    key = path + names[-1]
    seen[key] += 1
    return f"{key}[{seen[key] - 1}]"
