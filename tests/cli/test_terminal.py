"""What is shown: in colour to a person, plain otherwise, and escaped to everybody; and what a program is told."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from proxyd.cli.terminal import Ink, columns, is_person, is_pipe, refuse, say, say_json
from tests.cli.looking_on import look_on


def test_a_terminal_gets_colours_and_what_is_behind_them_none(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)
    say("all", Ink.GOOD)
    say("head", Ink.BAD, " and the rest")
    say("plain")
    assert capfd.readouterr().out == "\x1b[32mall\x1b[0m\n\x1b[31mhead\x1b[0m and the rest\nplain\n"


@pytest.mark.parametrize(
    ("name", "value", "coloured"),
    [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False), ("TERM", "linux", True)],
)
def test_who_wants_no_colours_gets_none(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    coloured: bool,  # noqa: FBT001 - a table's column
) -> None:
    """As no-color.org has it: a variable that is empty does not count."""
    look_on(monkeypatch)
    monkeypatch.setenv(name, value)
    say("text", Ink.WARNING)
    assert ("\x1b" in capfd.readouterr().out) is coloured


def test_a_file_or_a_pipe_gets_none(capfd: pytest.CaptureFixture[str]) -> None:
    say("text", Ink.STRONG, " more")
    assert capfd.readouterr().out == "text more\n"


def test_attack_9_nothing_that_is_said_moves_the_cursor(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)
    say("a\x1b[2Jb\n", Ink.QUIET, "\u202e\x07")
    assert capfd.readouterr().out == "\x1b[2ma\\x1b[2Jb\\n\x1b[0m\\u202e\\x07\n"


def test_attack_9_nor_what_a_program_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """Not even where JSON would let it: DEL, C1, and what turns the direction."""
    document = {"host": "\x00\x1b[2J\x7f\x9b\u202e"}
    say_json(document)
    say_json(document, indent=None)
    out = capfd.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert out.isascii()
    *pretty, line = out.splitlines()
    assert json.loads("".join(pretty)) == json.loads(line) == document


@pytest.mark.parametrize("as_json", [False, True])
def test_r12_why_nothing_came_of_it_is_on_stderr_and_for_a_program_on_stdout(
    as_json: bool,  # noqa: FBT001 - a table's column
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert refuse(iter(["a", "b"]), 78, as_json=as_json) == 78
    out, err = capfd.readouterr()
    assert err == "proxyd: a\nproxyd: b\n"
    assert (json.loads(out) if as_json else out) == ({"problems": ["a", "b"]} if as_json else "")


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ([], []),
        ([("a", "bbb", "c"), ("aaaa", "b", "ccccc")], ["a     bbb  c", "aaaa  b    ccccc"]),
        ([("a", ""), ("aa", "b")], ["a", "aa  b"]),
        ([("\x1b", "x"), ("a", "y")], ["\\x1b  x", "a     y"]),
    ],
)
def test_columns_stand_under_each_other(rows: list[tuple[str, ...]], lines: list[str]) -> None:
    assert columns(iter(rows)) == lines


def test_a_pipe_is_told_from_a_file_and_from_what_is_neither() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as pipe:
        assert is_pipe(pipe)
    with open(os.devnull, "w", encoding="utf-8") as file:  # noqa: PTH123 - a device
        assert not is_pipe(file)
        assert not is_person(file)
    assert not is_pipe(io.StringIO())
    assert not is_person(sys.stdout)
