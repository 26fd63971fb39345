"""The command line: which command it is, what it says of itself, and its exit statuses; never a traceback."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxyd import __version__
from proxyd.cli import check, main, run

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_says_what_there_is_and_is_0(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("--policy FILE", "--version", "check", "explain", "examples:", "exit status:", "69", "78"):
        assert word in out


@pytest.mark.parametrize(
    ("command", "words"),
    [("check", ["FILE"]), ("explain", ["URL", "--policy FILE", "--address IP", "--cname NAME", "--client NAME"])],
)
def test_every_command_has_its_help(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in words)


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"proxyd {__version__}\n"


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
        (["--policy", "a", "check", "b"], "--policy before a command runs the proxy; put what check takes behind it"),
        (["--policy", "a", "explain", "1.1.1.1:443", "--policy", "b"], "put what explain takes behind it"),
    ],
)
def test_bad_usage_is_2_and_says_what_is_wrong(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is guessed: an abbreviated option is no option."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: proxyd")
    assert said in err


@pytest.mark.parametrize("words", [["ru\x1b[2Jn"], ["check", "x", "--\x1b[2J"], ["--\u202e\x1b[2J"]])
def test_control_characters_of_the_command_line_do_not_reach_the_terminal(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """ATTACKS 9: what was typed, or pasted, is repeated escaped; the commands' own parsers do so too."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    err = capsys.readouterr().err
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
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C before the daemon listens for signals."""

    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "run", interrupted)
    assert main(["check", "some.toml"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_who_left_is_1(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """`proxyd check … | head`."""

    def nobody_reads(_: argparse.Namespace) -> int:
        raise BrokenPipeError

    forgotten: list[int] = []
    monkeypatch.setattr(check, "run", nobody_reads)
    monkeypatch.setattr(os, "dup2", lambda _, fd: forgotten.append(fd))
    assert main(["check", "some.toml"]) == 1
    assert forgotten == [sys.stdout.fileno()]
    assert capfd.readouterr().err == ""


def test_a_reader_who_left_before_the_last_words_is_no_traceback(tmp_path: Path) -> None:
    """The output is flushed at the end, when the interpreter would complain about a broken pipe by itself."""
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'schema = 1\nname = "x"\nlisten.http = ["127.0.0.1:3128"]\ndestinations.default = "allow"\n'
        'client = [{name = "a", networks = ["127.0.0.0/8"]}]\n'
    )
    with subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-m", "proxyd", "check", str(policy)],
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_main_reads_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["proxyd", "check", "/nowhere/none.toml"])
    assert main() == 78
    assert capsys.readouterr().err == "proxyd: /nowhere/none.toml: cannot be read: No such file or directory\n"


def test_python_m_proxyd_is_proxyd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its exit status too."""
    monkeypatch.setattr(sys, "argv", ["__main__.py", "check", "/nowhere/none.toml"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("proxyd", run_name="__main__")
    assert ended.value.code == 78
    assert capsys.readouterr().err.startswith("proxyd: /nowhere/none.toml: ")


def test_importing_the_main_module_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("proxyd.__main__", run_name="imported")
    assert capsys.readouterr() == ("", "")
