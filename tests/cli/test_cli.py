"""The command line: which command it is, what it says of itself, and its exit statuses; never a traceback."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxyd import __version__, cli
from proxyd.cli import check, main, run
from tests.completion import commands

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize(("before", "status"), [("signal.default_int_handler", -signal.SIGINT), ("signal.SIG_IGN", 0)])
def test_an_interrupt_while_modules_are_loaded_is_no_traceback(before: str, status: int) -> None:
    """It ends the process, as it does in any other program; where whoever started us ignores it, so do we."""
    script = f"""
import os, signal, sys
signal.signal(signal.SIGINT, {before})
class Early:
    def find_spec(self, name, path, target=None):
        if name == "proxyd.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Early())
sys.argv[1:] = ["--version"]
from proxyd.__main__ import start
start()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)  # noqa: S603 - our own words
    assert (done.returncode, done.stderr) == (status, b"")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler])
def test_what_an_interrupt_means_is_afterwards_what_it_was(
    monkeypatch: pytest.MonkeyPatch, handler: signal.Handlers | Callable[..., object]
) -> None:
    seen: list[object] = []

    def note() -> int:
        seen.append(signal.getsignal(signal.SIGINT))
        return 7

    monkeypatch.setattr(cli, "main", note)
    before = signal.signal(signal.SIGINT, handler)
    try:
        assert runpy.run_module("proxyd.__main__", run_name="imported")["start"]() == 7
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [handler]


def test_an_interrupt_while_the_command_line_is_read_is_130(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> argparse.ArgumentParser:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "new_parser", interrupted)
    assert main(["--version"]) == 130
    assert capfd.readouterr() == ("", "")


def test_the_command_is_what_the_main_module_starts() -> None:
    """As `pip install` makes it: an interrupt is seen to by either way in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"proxyd": "proxyd.__main__:start"}


def test_importing_the_main_module_runs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("proxyd.__main__", run_name="imported")
    assert capfd.readouterr() == ("", "")
