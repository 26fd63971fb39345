"""The command line: which command it is, what it says of itself, and its exit statuses; never a traceback."""

from __future__ import annotations

import errno
import io
import os
import runpy
import subprocess
import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, TextIO

import pytest

from proxyd import __version__
from proxyd.cli import check, main, run
from tests.completion import commands

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

COMMANDS = [each.name for each in commands() if each.name]


@pytest.mark.parametrize("asked", [["--help"], ["-h"]])
def test_help_says_what_there_is_and_is_0(asked: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 0
    out, err = capfd.readouterr()
    assert err == ""
    for word in ("--policy FILE", "--version", *COMMANDS, "examples:", "exit status:", "69", "74", "78"):
        assert word in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("check", ["FILE"]),
        ("explain", ["URL", "--policy FILE", "--address IP", "--cname NAME", "--client NAME"]),
        ("reload", ["--policy FILE"]),
        ("password", ["--generate", "from the terminal, or a line from stdin"]),
    ],
)
def test_every_command_has_its_help(command: str, words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capfd.readouterr().out
    assert all(word in out for word in words)


def test_version_is_the_packages(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capfd.readouterr().out == f"proxyd {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say which policy to run: proxyd --policy policies/default.toml"),
        (["--policy"], "expected one argument"),
        (["--polic=x"], "unrecognized arguments"),
        (["serve"], "invalid choice"),
        (["explain", "1.1.1.1:443"], "--policy"),
        (["explain", "--policy", "x"], "URL"),
        (["check", "--pol", "x"], "unrecognized arguments"),
        (["reload"], "--policy"),
        (["password", "--gen"], "unrecognized arguments"),
        (["--policy", "a", "check", "b"], "--policy before a command runs the proxy; put what check takes behind it"),
        (["--policy", "a", "explain", "1.1.1.1:443", "--policy", "b"], "put what explain takes behind it"),
    ],
)
def test_bad_usage_is_2_and_says_what_is_wrong(words: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is guessed: an abbreviated option is no option."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("usage: proxyd")
    assert said in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["chekc"], "; did you mean check?\n"),
        (["diff", "a", "b", "--fail-on", "open"], "; did you mean opens?\n"),
        (["check", "x", "--jsn"], "unrecognized arguments: --jsn; did you mean --json?\n"),
        (["log", "x", "y", "--sinc=2h"], "unrecognized arguments: y --sinc=2h; did you mean --since?\n"),
        (["--polic=x"], "; did you mean --policy?\n"),
        (["serve"], ""),
        (["check", "x", "--zzz"], ""),
        (["log", "x", "y"], ""),
    ],
)
def test_what_was_meant_is_said_where_something_looks_like_it(
    words: list[str], hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the parser whose word it would be, with its usage."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    err = capfd.readouterr().err
    command = f" {words[0]}" if words[0] in ("check", "diff", "log") else ""
    assert f"proxyd{command}: error: " in err
    assert err.endswith(hint)
    assert ("did you mean" in err) is bool(hint)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_and_what_its_exit_statuses_mean(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capfd.readouterr().out
    assert "\nexample" in out
    assert f"\n  {'proxyd' if command != 'diff' else 'git show'}" in out
    assert "\nexit status: " in out
    assert "--json" in out or command == "exec"  # which becomes another program


@pytest.mark.parametrize("words", [["ru\x1b[2Jn"], ["check", "x", "--\x1b[2J"], ["--\u202e\x1b[2J"]])
def test_control_characters_of_the_command_line_do_not_reach_the_terminal(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """ATTACKS 9: what was typed, or pasted, is repeated escaped; the commands' own parsers do so too."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    err = capfd.readouterr().err
    assert "x1b[2J" in err
    assert err.isascii()
    assert err.replace("\n", "").isprintable()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("words", [["--policy", "some.toml"], ["check", "some.toml"], ["--help"], []])
def test_a_closed_stdout_or_stderr_is_78_and_nothing_is_begun(
    stream: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7: the next file or socket opened would take its number, and the audit log go to a client."""
    for command in (run, check):
        monkeypatch.setattr(command, "run", lambda _: pytest.fail("nothing may be begun"))
    monkeypatch.setattr(sys, stream, None)
    assert main(words) == 78


@pytest.mark.parametrize("fd", [1, 2])
def test_a_process_that_was_started_with_a_closed_stream_ends_with_78(fd: int) -> None:
    """The same with a shell that closes it."""
    done = subprocess.run(  # noqa: S603 - our own words
        ["/bin/sh", "-c", f'exec "$0" -m proxyd check /nowhere/none.toml {fd}>&-', sys.executable],
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (78, b"", b"")


@pytest.mark.parametrize("status", [0, 1, 2, 69, 78])
def test_the_status_is_the_commands(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def chosen(arguments: argparse.Namespace) -> int:
        seen.append(arguments.run_policy)
        return status

    monkeypatch.setattr(run, "run", chosen)
    assert main(["--policy", "some.toml"]) == status
    assert seen == ["some.toml"]


def test_an_interrupt_is_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C before the daemon listens for signals."""

    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "run", interrupted)
    assert main(["check", "some.toml"]) == 130
    assert capfd.readouterr() == ("", "")


# A stdout that cannot be written to

LOST = "proxyd: stdout: {}; what there was to say is lost\n"


@pytest.fixture
def policy(tmp_path: Path) -> str:
    """Where a good policy is, in a folder whose name is not ASCII."""
    folder = tmp_path / "Földer"
    folder.mkdir()
    path = folder / "policy.toml"
    path.write_text(
        'schema = 1\nname = "x"\nlisten.http = ["127.0.0.1:3128"]\ndestinations.default = "allow"\n'
        'client = [{name = "a", networks = ["127.0.0.0/8"], users = [4711]}]\n'
    )
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


@contextmanager
def full_stdout() -> Iterator[TextIO]:
    """The same in this process."""
    with open("/dev/full", "w", encoding="utf-8") as full, redirect_stdout(full):  # noqa: PTH123 - a device
        yield full


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


def test_main_reads_the_command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["proxyd", "check", "/nowhere/none.toml"])
    assert main() == 78
    assert capfd.readouterr().err == "proxyd: /nowhere/none.toml: cannot be read: No such file or directory\n"


def test_python_m_proxyd_is_proxyd(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Its exit status too."""
    monkeypatch.setattr(sys, "argv", ["__main__.py", "check", "/nowhere/none.toml"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("proxyd", run_name="__main__")
    assert ended.value.code == 78
    assert capfd.readouterr().err.startswith("proxyd: /nowhere/none.toml: ")


def test_importing_the_main_module_runs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("proxyd.__main__", run_name="imported")
    assert capfd.readouterr() == ("", "")
