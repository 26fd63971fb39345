"""The command line where stdout or stderr are closed, full, or of few letters: an exit status and a line, no traceback.

R7, R12, ATTACKS 8 and 9.
"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, TextIO

import pytest

from proxyd import __version__
from proxyd.cli import check, main, run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("words", [["--policy", "some.toml"], ["check", "some.toml"], ["--help"], []])
def test_a_closed_stdout_or_stderr_is_74_and_nothing_is_begun(
    stream: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """R7: the next file or socket opened would take its number, and the audit log go to a client."""
    for command in (run, check):
        monkeypatch.setattr(command, "run", lambda _: pytest.fail("nothing may be begun"))
    monkeypatch.setattr(sys, stream, None)
    assert main(words) == 74
    assert f"proxyd: {stream} is closed; let it lead somewhere: " in "".join(capfd.readouterr())


def test_where_both_are_closed_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    assert main(["--help"]) == 74


@pytest.mark.parametrize(("fd", "name"), [(1, b"stdout"), (2, b"stderr")])
def test_a_process_that_was_started_with_a_closed_stream_says_so_on_the_other_one(fd: int, name: bytes) -> None:
    """The same with a shell that closes it."""
    done = subprocess.run(  # noqa: S603 - our own words
        ["/bin/sh", "-c", f'exec "$0" -m proxyd check /nowhere/none.toml {fd}>&-', sys.executable],
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    said = b"proxyd: %s is closed; let it lead somewhere: %d>/dev/null\n" % (name, fd)
    assert (done.returncode, done.stdout + done.stderr) == (74, said)


# A stdout that cannot be written to

POLICY = (
    'schema = 1\nname = "x"\nlisten.http = ["127.0.0.1:3128"]\ndestinations.default = "allow"\n'
    'client = [{name = "a", networks = ["127.0.0.0/8"], users = [4711]}]\n'
)
LOST = "proxyd: stdout: {}; what there was to say is lost\n"


@pytest.fixture
def policy(tmp_path: Path) -> str:
    """Where a good policy is, in a folder whose name is not ASCII."""
    folder = tmp_path / "Földer"
    folder.mkdir()
    path = folder / "policy.toml"
    path.write_text(POLICY)
    return str(path)


def proxyd(words: list[str], policy: str, stdout: int, **environment: str) -> tuple[int, str]:
    """Run it as a process of its own, which flushes once more at its end; its exit status and stderr."""
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "proxyd", *(policy if word == "POLICY" else word for word in words)],
        env={"PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )
    return done.returncode, done.stderr.decode()


def test_a_reader_who_left_is_74_and_one_line(policy: str) -> None:
    """`proxyd explain … | true`; 1 would be a denial."""
    reading, writing = os.pipe()
    os.close(reading)
    explain = ["explain", "1.1.1.1:443", "--policy", "POLICY"]
    assert proxyd(explain, policy, writing) == (74, LOST.format("Broken pipe"))
    os.close(writing)


@pytest.mark.parametrize("words", [["check", "POLICY"], ["--help"], ["check", "--help"], ["--version"]], ids=" ".join)
def test_a_stdout_that_is_full_is_74_and_one_line(words: list[str], policy: str) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        assert proxyd(words, policy, full.fileno()) == (74, LOST.format("No space left on device"))


def test_a_stdout_and_a_stderr_that_are_full_are_74_as_well(policy: str) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(  # noqa: S603 - our own words
            [sys.executable, "-m", "proxyd", "check", policy], stdout=full, stderr=full, check=False
        )
    assert done.returncode == 74


@pytest.mark.parametrize("stderr", ["full", "gone"])
def test_attack_8_a_bad_policy_is_78_whoever_hears_of_it(stderr: str, tmp_path: Path) -> None:
    """And not the 120 with which the interpreter says that it could not flush."""
    reading, gone = os.pipe()
    os.close(reading)
    fd = gone if stderr == "gone" else os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "proxyd", "check", str(tmp_path)], stdout=subprocess.PIPE, stderr=fd, check=False
    )
    for each in {fd, gone}:
        os.close(each)
    assert (done.returncode, done.stdout) == (78, b"")


@pytest.mark.parametrize("words", [["check", "POLICY"], ["--help"], ["log", "--help"], ["--version"]], ids=" ".join)
def test_a_stdout_that_is_full_is_74_without_a_buffer_too(words: list[str], policy: str) -> None:
    """Then it is the first word that fails, which argparse passes over."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        told = proxyd(words, policy, full.fileno(), PYTHONUNBUFFERED="1")
    assert told == (74, LOST.format("No space left on device"))


# A locale that cannot spell what the policy names


@pytest.mark.parametrize("words", [["--policy", "POLICY"], ["audit", "--policy", "POLICY"]], ids=" ".join)
@pytest.mark.parametrize(
    ("change", "name"),
    [(("users = [4711]", 'users = ["J\u00f6"]'), r"J\xf6"), (("", 'audit.to = "/nowhere/\u00e9"\n'), r"/nowhere/\xe9")],
)
def test_r12_what_the_locale_cannot_spell_is_78_and_named(
    words: list[str], change: tuple[str, str], name: str, tmp_path: Path
) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = tmp_path / "policy.toml"
    path.write_text(POLICY.replace(*change, 1), encoding="utf-8")
    status, said = proxyd(words, str(path), subprocess.DEVNULL, **ascii_only)
    assert status == 78
    assert said == (
        f"proxyd: {name}: the locale of this process spells names in ascii, which has no such letters; "
        "run it with PYTHONUTF8=1, or with LC_ALL=C.UTF-8\n"
    )


def test_such_a_name_is_told_by_every_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "run", lambda _: "/some/\u00e9".encode("ascii"))
    assert main(["check", "some.toml"]) == 78
    assert "proxyd: /some/\u00e9: the locale of this process spells names in ascii" in capfd.readouterr().err


def test_what_is_no_text_at_all_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """R7: half of a character may be a secret's."""
    monkeypatch.setattr(check, "run", lambda _: "s3cret\udcff".encode())
    with pytest.raises(UnicodeEncodeError):
        main(["check", "some.toml"])
    assert capfd.readouterr() == ("", "")


@contextmanager
def full_stdout() -> Iterator[TextIO]:
    """The same in this process."""
    with open("/dev/full", "w", encoding="utf-8") as full, redirect_stdout(full):  # noqa: PTH123 - a device
        yield full


def test_a_version_that_cannot_be_said_is_74(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(_: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with full_stdout() as stdout:
        monkeypatch.setattr(stdout, "write", full)
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
    assert ended.value.code == 74
    assert capfd.readouterr().err == LOST.format("No space left on device")


def test_what_could_not_be_said_is_forgotten(policy: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever stays in the buffer has somewhere to go when the interpreter ends."""
    with full_stdout() as stdout:
        assert main(["check", policy]) == 74
        stdout.flush()
        assert os.path.samestat(os.fstat(stdout.fileno()), os.stat(os.devnull))  # noqa: PTH116 - a device
    assert capfd.readouterr().err == LOST.format("No space left on device")


def test_more_than_the_buffer_holds_is_lost_with_the_same_words(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Then it is not the flush at the end that fails."""
    monkeypatch.setattr(check, "run", lambda _: sys.stdout.write("x" * 1_000_000))
    with full_stdout():
        assert main(["check", "some.toml"]) == 74
    assert capfd.readouterr().err == LOST.format("No space left on device")


def test_an_error_of_the_daemon_is_not_said_to_be_stdouts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is a bug, or a host without memory: a traceback says where."""

    def failing(_: argparse.Namespace) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(run, "run", failing)
    with pytest.raises(OSError, match="Too many open files"):
        main(["--policy", "some.toml"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"F\\xf6lder"), ("latin-1", b"F\xf6lder"), ("utf-8", "Földer".encode())]
)
def test_attack_9_a_stdout_that_knows_no_such_letters_gets_escapes(
    encoding: str, shown: bytes, policy: str, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as out:
        status, err = proxyd(["check", "POLICY"], policy, out.fileno(), PYTHONIOENCODING=encoding, PYTHONUTF8="1")
    assert (status, err) == (0, "")
    assert shown + b"/policy.toml: good: " in (tmp_path / "out").read_bytes()


def test_a_stdout_that_is_no_stream_of_bytes_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever calls `main` may have put there."""
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert stdout.getvalue() == f"proxyd {__version__}\n"
