"""`proxyd exec`: every step to the command and every way not to get there, with the system played (R12, ATTACKS 6.5).

Real commands, really confined, are in `tests/end_to_end/test_exec.py`.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import execute, main
from proxyd.cli.execute import environment
from proxyd.net.confinement import CannotConfine
from tests.cli.policies import text, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["write"]

READY = b"\0"


class Host:
    """The system. steps: what was done, in order; says: what the proxy answers; fails: steps that fail, and how."""

    def __init__(self) -> None:
        self.steps: list[tuple[object, ...]] = []
        self.says = READY
        self.fails: dict[str, Exception] = {}
        self.got: list[bytes] = []
        self.listening: list[tuple[str, int]] = []
        self._daemon: socket.socket | None = None

    def start_beside(self, policy: str, log: int) -> socket.socket:
        """In the place of a daemon."""
        self.step("daemon", policy, Path(f"/proc/self/fd/{log}").readlink())
        os.close(log)
        ours, self._daemon = socket.socketpair()
        self._daemon.sendall(self.says)
        self._daemon.shutdown(socket.SHUT_WR)
        return ours

    def step(self, name: str, *what: object) -> None:
        """Note it, or fail."""
        self.steps.append((name, *what))
        if name == "stay":
            self.heard()
        if name in self.fails:
            raise self.fails[name]

    def heard(self) -> None:
        """What the daemon was sent."""
        assert self._daemon is not None
        said, numbers, _, _ = socket.recv_fds(self._daemon, 10, 10)
        self.got.append(said)
        for number in numbers:
            with socket.socket(fileno=number) as sock:
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                self.listening.append(sock.getsockname())

    def done(self) -> list[object]:
        """The names of the steps."""
        return [name for name, *_ in self.steps]

    def close(self) -> None:
        """Nothing is left of it."""
        if self._daemon is not None:
            self._daemon.close()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    """In the place of the system; the state of this account is a folder of the test's."""
    host = Host()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(execute, "start_beside", host.start_beside)
    monkeypatch.setattr(execute, "leave_the_network", lambda: host.step("leave"))
    monkeypatch.setattr(execute, "stay_confined", lambda: host.step("stay"))
    monkeypatch.setattr(execute, "leads_out", lambda _: False)
    monkeypatch.setattr(execute, "close_all_but", lambda *kept: host.step("close", kept))
    monkeypatch.setattr(execute, "PORT", 0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "execvpe", lambda *what: host.step("become", *what[:2]))
    before = [(number, signal.getsignal(number)) for number in (signal.SIGPIPE, signal.SIGXFSZ)]
    yield host
    for number, handler in before:
        signal.signal(number, handler)
    host.close()


def run(policy: str, *more: str) -> int:
    """`proxyd exec` of a command that there is."""
    return main(["exec", "--policy", policy, *more, "--", "sh", "-c", "--", "x"])


def test_the_steps_to_the_command(
    host: Host, write: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """First the proxy, which must stay outside; the filter last, when there is nothing more to be asked for."""
    policy = write(text())
    with pytest.raises(TypeError):  # the command would never return
        run(policy)
    log = tmp_path / "state" / "proxyd" / "audit.jsonl"
    assert host.steps == [
        ("daemon", policy, log),
        ("leave",),
        ("stay",),
        ("close", (0, 1, 2)),
        ("become", "sh", ["sh", "-c", "--", "x"]),
    ]
    assert host.got == [READY]
    assert [address for address, _ in host.listening] == ["127.0.0.1"]
    assert signal.getsignal(signal.SIGPIPE) == signal.getsignal(signal.SIGXFSZ) == signal.SIG_DFL
    assert capfd.readouterr() == ("", f"proxyd: exec: audit to {log}\n")


def test_root_is_warned(
    host: Host, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    host.fails["leave"] = CannotConfine(1, "so")
    run(write(text()))
    assert "warning: what root writes, this host runs, unconfined" in capfd.readouterr().err


@pytest.mark.parametrize("step", ["leave", "stay"])
def test_r12_a_system_that_does_not_confine_is_69_and_told_how_to(
    host: Host, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], step: str
) -> None:
    host.fails[step] = CannotConfine(1, "Not today")
    assert run(write(text())) == 69
    said = capfd.readouterr().err
    assert "does not let an account confine itself: Not today. Allow user namespaces: sysctl" in said
    assert "become" not in host.done()


@pytest.mark.parametrize(("says", "status"), [(bytes([78]), 78), (bytes([69]), 69), (b"", 69)])
def test_r12_a_proxy_that_does_not_serve_starts_nothing(
    host: Host, write: Callable[[str], str], says: bytes, status: int
) -> None:
    host.says = says
    assert run(write(text())) == status
    assert "become" not in host.done()


def test_r12_a_proxy_that_is_gone_starts_nothing(
    host: Host, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(execute, "leave_the_network", host.close)
    assert run(write(text())) == 69
    assert "exec: the proxy cannot be given its place: Broken pipe" in capfd.readouterr().err
    assert host.done() == ["daemon"]


def test_r12_no_process_for_the_proxy_is_69(
    host: Host, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    host.fails["daemon"] = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    assert run(write(text())) == 69
    assert "exec: no process can be had for the proxy: Resource temporarily unavailable" in capfd.readouterr().err
    assert host.done() == ["daemon"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), 126),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), 127),
        (OSError(errno.ENOEXEC, "Exec format error"), 126),
    ],
)
def test_a_command_that_cannot_be_executed(
    host: Host, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], error: OSError, status: int
) -> None:
    host.fails["become"] = error
    assert run(write(text())) == status
    assert f"proxyd: exec: sh: {error.strerror}\n" in capfd.readouterr().err


def test_a_command_that_there_is_not_starts_nothing(
    host: Host, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, mode: None if (name, mode) == ("sh", os.F_OK) else name)
    assert run(write(text())) == 127
    assert capfd.readouterr().err == "proxyd: exec: sh: there is no such command\n"
    assert host.steps == []


def test_r12_a_bad_policy_is_78(host: Host, write: Callable[[str], str]) -> None:
    assert run(write("schema = 2")) == 78
    assert host.steps == []


@pytest.mark.parametrize(("number", "name"), [(0, "stdin"), (1, "stdout"), (2, "stderr")])
def test_6_5_a_stream_by_which_it_could_reach_others_is_69(
    host: Host,
    write: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int,
    name: str,
) -> None:
    monkeypatch.setattr(execute, "leads_out", lambda each: each == number)
    assert run(write(text())) == 69
    assert f"exec: {name} is a socket by which the command could reach others" in capfd.readouterr().err
    assert host.steps == []


def test_where_there_is_no_stdin_no_other_file_takes_its_place(
    host: Host, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    played = {"open": lambda name, _: opened.append(name)}
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(execute, "os", SimpleNamespace(**vars(os) | played))
    assert run(write("schema = 2")) == 78
    assert opened == ["/dev/null"]
    assert host.steps == []


# The audit log


def test_it_is_where_the_user_says(host: Host, write: Callable[[str], str], tmp_path: Path) -> None:
    log = tmp_path / "of mine" / "log"
    host.fails["leave"] = CannotConfine(1, "so")
    run(write(text()), "--audit", str(log))
    assert host.steps[0][2] == log


def test_where_the_policy_names_one_there_is_no_other(
    host: Host, write: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    host.fails["leave"] = CannotConfine(1, "so")
    run(write(text(more=f'[audit]\nto = "{tmp_path}/own"\n')))
    assert host.steps[0][2] == Path("/dev/null")
    assert "audit to" not in capfd.readouterr().err


def test_r12_one_that_cannot_be_written_is_78(
    host: Host, write: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(write(text()), "--audit", str(tmp_path)) == 78
    assert f"exec: {tmp_path}: Is a directory; name another log with --audit\n" in capfd.readouterr().err
    assert host.steps == []


@pytest.mark.parametrize("named", ["", "relative"])
def test_without_a_name_of_its_own_state_is_in_the_home(
    host: Host, write: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", named)
    monkeypatch.setenv("HOME", str(tmp_path))
    host.fails["leave"] = CannotConfine(1, "so")
    run(write(text()))
    assert host.steps[0][2] == tmp_path / ".local" / "state" / "proxyd" / "audit.jsonl"


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_r12_without_a_home_nothing_is_written_anywhere_else(
    host: Host,
    write: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    home: str | None,
) -> None:
    """Not in the current folder, and not in the root."""
    policy = write(text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(os, "getuid", lambda: 123456)
    assert run(policy) == 78
    said = "exec: $HOME: this account has no home by an absolute path; name another log with --audit"
    assert capfd.readouterr().err == f"proxyd: {said}\n"
    assert host.steps == []
    assert [each.name for each in tmp_path.iterdir()] == ["policy.toml"]


def test_who_has_no_home_can_be_helped_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an account without an entry in a container: only `exec` looks for a home, and it says what is missing."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 123456)
    with pytest.raises(SystemExit) as left:
        main(["exec", "--help"])
    assert left.value.code == 0
    assert "$XDG_STATE_HOME" in capsys.readouterr().out


# The environment


def test_both_spellings_name_the_proxy_and_no_host_is_exempt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*os.environ,):
        monkeypatch.delenv(name)
    given = {"KEPT": "1", "Http_Proxy": "http://x", "NO_PROXY": "*", "no_proxy": "*", "FTP_PROXY": "y"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    proxy = {f"{name}_proxy": "http://127.0.0.1:3128" for name in ("http", "https", "ws", "wss", "all")}
    loud = {name.upper(): url for name, url in proxy.items()}
    assert environment() == {"KEPT": "1", "FTP_PROXY": "y", "NODE_USE_ENV_PROXY": "1"} | proxy | loud
