"""`proxyd password`: a hash on stdout and nothing else; the password is on no command line, and in no traceback."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import string
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import main
from proxyd.cli.password import MOST
from proxyd.policy.password import parse_hash

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "correct horse söme"  # noqa: S105 - a test's
PATIENCE = 30.0  # seconds until a test gives up; none is decided by time


def piped(octets: bytes, encoding: str = "utf-8") -> io.TextIOWrapper:
    """A stdin that is no terminal."""
    return io.TextIOWrapper(io.BytesIO(octets), encoding=encoding)


# A pipe


@pytest.mark.parametrize("end", ["\n", "", "\r\n", "\nmore lines\n"])
def test_a_line_from_a_pipe_is_a_password(
    end: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its hash alone is said."""
    monkeypatch.setattr(sys, "stdin", piped((SECRET + end).encode()))
    assert main(["password"]) == 0
    out, err = capfd.readouterr()
    assert (err, out.count("\n")) == ("", 1)
    assert parse_hash(out).fits(SECRET)


def test_two_who_chose_the_same_password_are_not_seen_to_have(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each hash has a salt of its own."""
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", piped(SECRET.encode()))
        assert main(["password"]) == 0
    first, second = map(parse_hash, capfd.readouterr().out.split())
    assert first.salt != second.salt
    assert first.digest != second.digest


@pytest.mark.parametrize(
    ("octets", "encoding"),
    [
        (b"", "utf-8"),
        (b"\n", "utf-8"),
        (b"a\tb\n", "utf-8"),
        (b"a\x00b\n", "utf-8"),
        (b"\x1b[2J\n", "utf-8"),
        ("a\u202eb\n".encode(), "utf-8"),
        (b"\xff\xfe\n", "utf-8"),
        (b"x" * (MOST + 1) + b"\n", "utf-8"),
        (b"x" * 1_000_000, "utf-8"),
    ],
)
def test_what_is_no_password_is_2_and_not_repeated(
    octets: bytes, encoding: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor cut off to what would be one."""
    monkeypatch.setattr(sys, "stdin", piped(octets, encoding))
    assert main(["password"]) == 2
    said = f"proxyd: that is no password; write 1 to {MOST} printable characters on one line\n"
    assert capfd.readouterr() == ("", said)


def test_the_longest_password_is_one(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", piped(b"x" * MOST + b"\n"))
    assert main(["password"]) == 0
    assert parse_hash(capfd.readouterr().out).fits("x" * MOST)


def test_no_stdin_is_no_password(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """`proxyd password <&-`"""
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["password"]) == 2
    assert "that is no password" in capfd.readouterr().err


def test_a_stdin_that_cannot_be_read_is_no_password() -> None:
    """`proxyd password 0>file`: once it was stdout that was said to be at fault."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "proxyd", "password"], stdin=writing, capture_output=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"proxyd: that is no password; ")


@pytest.mark.parametrize("generated", [False, True])
def test_a_program_is_told_the_hash_alone(
    generated: bool,  # noqa: FBT001 - a table's column
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """R7: the password itself is on stderr, and in no document that somebody keeps."""
    monkeypatch.setattr(sys, "stdin", piped(SECRET.encode()))
    assert main(["password", "--json", *(["--generate"] if generated else [])]) == 0
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert told.keys() == {"hash"}
    assert parse_hash(told["hash"]).fits(err.strip().rpartition(": ")[2] if generated else SECRET)


def test_a_program_is_told_what_is_no_password(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", piped(b"\n"))
    assert main(["password", "--json"]) == 2
    out, err = capfd.readouterr()
    (problem,) = json.loads(out)["problems"]
    assert err == f"proxyd: {problem}\n"
    assert "that is no password" in problem


# Made up


def test_one_that_is_generated_is_said_on_stderr_and_its_hash_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`proxyd password --generate > agent.hash`: the file gets the hash alone. Nothing is asked."""
    monkeypatch.setattr(sys, "stdin", None)
    words = []
    for _ in range(2):
        assert main(["password", "--generate"]) == 0
        out, err = capfd.readouterr()
        said, _, word = err.strip().rpartition(": ")
        assert said == "proxyd: the password, which is kept nowhere"
        assert parse_hash(out).fits(word)
        words.append(word)
    assert words[0] != words[1]
    assert all(len(word) == 32 for word in words), "192 bits"
    assert set("".join(words)) <= {*string.ascii_letters, *string.digits, "-", "_"}, "fit for a URL"


# A terminal


def at_a_terminal(*typed: bytes) -> tuple[int, bytes, bytes]:
    """The exit status, what was said on stdout, and what the terminal showed; it types an answer to each question."""
    ours, theirs = pty.openpty()
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "proxyd", "password"],
        stdin=theirs,
        stdout=writing,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(writing)
    shown = b""
    for answer in typed:
        questions = shown.count(b": ")
        while shown.count(b": ") == questions:
            assert select.select([ours], [], [], PATIENCE)[0], shown
            shown += os.read(ours, 4096)
        while termios.tcgetattr(ours)[3] & termios.ECHO:
            assert child.poll() is None
        os.write(ours, answer)
    with os.fdopen(reading, "rb") as stdout:
        out = stdout.read()
    status = child.wait(PATIENCE)
    os.close(theirs)
    shown += _rest(ours)
    os.close(ours)
    return status, out, shown


def _rest(terminal: int) -> bytes:
    """What it showed last; at its end a terminal is an error (EIO)."""
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:
        pass
    return shown


def test_at_a_terminal_it_is_asked_for_twice_and_never_shown() -> None:
    status, out, shown = at_a_terminal(SECRET.encode() + b"\n", SECRET.encode() + b"\n")
    assert status == 0
    assert parse_hash(out.decode()).fits(SECRET)
    assert shown.replace(b"\r\n", b"") == b"Password: Again: "


def test_two_that_are_not_the_same_are_2() -> None:
    """Nobody would ever know what was typed."""
    status, out, shown = at_a_terminal(b"one\n", b"other\n")
    assert (status, out) == (2, b"")
    assert b"proxyd: the two are not the same; try again" in shown
    assert b"other" not in shown.replace(b"another", b"")


def test_the_end_of_input_at_a_terminal_is_2() -> None:
    """Ctrl-D."""
    status, out, shown = at_a_terminal(b"\x04")
    assert (status, out) == (2, b"")
    assert b"that is no password" in shown
    assert b"Traceback" not in shown


def asked(first: str, second: str) -> Callable[[str], str]:
    """In the place of getpass."""
    answers = {"Password: ": first, "Again: ": second}
    return lambda prompt: answers[prompt]


@pytest.mark.parametrize(
    ("first", "second", "status"), [("a", "a", 0), ("a", "b", 2), ("", "", 2), ("a\tb", "a\tb", 2), ("", "b", 2)]
)
def test_what_is_typed_is_held_to_the_same_rules(
    first: str,
    second: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stdin = piped(b"")
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr("getpass.getpass", asked(first, second))
    assert main(["password"]) == status
    out, err = capfd.readouterr()
    assert bool(out) is (status == 0)
    assert err.count("\n") == (0 if status == 0 else 1)


@pytest.mark.parametrize("error", [EOFError(), OSError(5, "Input/output error")])
def test_a_terminal_that_goes_away_is_2(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is no fault of stdout's."""

    def gone(_: str) -> str:
        raise error

    stdin = piped(b"")
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr("getpass.getpass", gone)
    assert main(["password"]) == 2
    assert capfd.readouterr().err.startswith("proxyd: that is no password; ")


def test_it_is_never_an_argument(capfd: pytest.CaptureFixture[str]) -> None:
    """R7: every account of the host can read those."""
    with pytest.raises(SystemExit) as ended:
        main(["password", SECRET])
    assert ended.value.code == 2
    assert "unrecognized arguments" in capfd.readouterr().err
