"""Where in a policy file a row is written: `explain` says it, so that nobody has to count (R8)."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.policy.written import line_of

TEXT = """\
# [[deny]] in a comment is none
schema = 1
[[deny]]
name = "a"
  [[ deny ]]   # the second
name = "b"
[[client]]
name = "x"
[[client.allow]]
[[client]]
[[client.allow]]
[[client . allow]]
[[permit]]
test = [{url = "x"}]
[destinations]
"""


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("deny[0]", 3),
        ("deny[1]", 5),
        ("deny[2]", None),
        ("client[0]", 7),
        ("client[0].allow[0]", 9),
        ("client[1]", 10),
        ("client[1].allow[0]", 11),
        ("client[1].allow[1]", 12),
        ("client[0].allow[1]", None),
        ("permit[0]", 13),
        ("test[0]", None),  # it has no header of its own
        ("destinations", None),
        ("", None),
    ],
)
def test_the_line_of_a_row_is_that_of_its_header(row: str, line: int | None) -> None:
    assert line_of(row, TEXT) == line


def _rows(document: dict[str, Any], path: str = "") -> list[tuple[str, int]]:
    """Every table of every array of tables, and the number it was given."""
    found: list[tuple[str, int]] = []
    for key, value in document.items():
        if isinstance(value, list):
            for index, each in enumerate(value):
                found += [(f"{path}{key}[{index}]", each["n"]), *_rows(each, f"{path}{key}[{index}].")]
    return found


@given(st.lists(st.sampled_from(["deny", "allow", "client", "client.allow", "client.deny"]), max_size=20))
def test_it_counts_as_the_parser_does(headers: list[str]) -> None:
    """Each table holds the number of its own line; one below a client needs a client first."""
    while headers and headers[0].startswith("client."):
        headers = headers[1:]
    kept: list[str] = []
    for each in headers:
        if not each.startswith("client.") or "client" in kept:
            kept.append(each)
    text = "".join(f"[[{each}]]\nn = {2 * index + 1}\n" for index, each in enumerate(kept))
    assert all(line_of(row, text) == number for row, number in _rows(tomllib.loads(text)))
