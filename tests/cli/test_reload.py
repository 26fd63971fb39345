"""`proxyd reload`: what came of it and its exit status; whoever is asked is played, over a real control socket."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import main
from proxyd.serve import control
from proxyd.serve.control import RELOAD, Outcome, answer, asked_for, listen
from tests.cli.policies import text, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["write"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the control socket is."""
    return str(tmp_path / "control")


@pytest.fixture
def policy(path: str, write: Callable[[str], str]) -> str:
    """The policy's file, which says so."""
    return write(text(f'http = ["127.0.0.1:3128"]\ncontrol = "{path}"'))


@contextmanager
def answered(path: str, outcome: Outcome | bytes) -> Iterator[None]:
    """A proxyd that answers once."""

    def serve() -> None:
        visitor, _ = sock.accept()
        with visitor:
            assert asked_for(visitor) == RELOAD
            if isinstance(outcome, Outcome):
                answer(visitor, outcome)
            else:
                visitor.sendall(outcome)

    with pytest.MonkeyPatch.context() as patch, listen(path) as sock:
        patch.setattr(control, "ASK_SECONDS", 60.0)  # a slow machine decides nothing
        server = threading.Thread(target=serve)
        server.start()
        yield
        server.join()


def test_a_reload_is_0_and_says_what_changed(policy: str, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    """R10: each change on its line, on stdout."""
    with answered(path, Outcome(changes=("deny: +corp", "limits.tunnels: 10 -> 20"), revoked=3)):
        assert main(["reload", "--policy", policy]) == 0
    assert capfd.readouterr() == (
        "deny: +corp\nlimits.tunnels: 10 -> 20\nreloaded: policy gateway; 3 connections cut\n",
        "",
    )


def test_a_program_is_told_what_came_of_it(policy: str, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    """R10, R12: why nothing was reloaded, too, with the same exit status."""
    with answered(path, Outcome(changes=("deny: +corp",), revoked=3)):
        assert main(["reload", "--policy", policy, "--json"]) == 0
    done = {"policy": "gateway", "changes": ["deny: +corp"], "revoked": 3, "problems": []}
    out, err = capfd.readouterr()
    assert (json.loads(out), err) == (done, "")
    with answered(path, Outcome(problems=("another",))):
        assert main(["reload", "--policy", policy, "--json"]) == 78
    out, err = capfd.readouterr()
    assert (json.loads(out), err) == ({"problems": ["not reloaded: another"]}, "proxyd: not reloaded: another\n")
    assert main(["reload", "--policy", policy, "--json"]) == 69
    (problem,) = json.loads(capfd.readouterr().out)["problems"]
    assert problem.endswith("is proxyd running with this policy?")


@pytest.mark.parametrize("text", [text(), "x = 1"])
def test_a_program_is_told_why_nobody_was_asked(
    text: str, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["reload", "--policy", write(text), "--json"]) == 78
    out, err = capfd.readouterr()
    assert [f"proxyd: {problem}" for problem in json.loads(out)["problems"]] == err.splitlines()


def test_nothing_changed_is_said(policy: str, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    with answered(path, Outcome()):
        assert main(["reload", "--policy", policy]) == 0
    assert capfd.readouterr().out == "nothing changed\nreloaded: policy gateway; 0 connections cut\n"


def test_r12_a_reload_that_was_refused_is_78_with_every_problem(
    policy: str, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """And nothing on stdout that a script could take for success."""
    with answered(path, Outcome(problems=("workers: a reload cannot change how many there are", "another"))):
        assert main(["reload", "--policy", policy]) == 78
    assert capfd.readouterr() == (
        "",
        "proxyd: not reloaded: workers: a reload cannot change how many there are\nproxyd: not reloaded: another\n",
    )


def test_r12_a_bad_policy_is_78_and_nobody_is_asked(
    policy: str, path: str, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """It would be refused there as well; here it costs nobody anything."""
    with listen(path) as sock:
        write(text().replace("default", "defualt"))
        assert main(["reload", "--policy", policy]) == 78
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.accept()
    out, err = capfd.readouterr()
    assert out == ""
    assert all(line.startswith(f"proxyd: {policy}: ") for line in err.splitlines())


def test_a_policy_without_a_control_socket_is_78_with_both_ways_out(
    write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    name = write(text())
    assert main(["reload", "--policy", name]) == 78
    assert capfd.readouterr().err == (
        f'proxyd: {name}: listen.control: nobody can be asked; write control = "/run/proxyd/control" and '
        "restart proxyd, or send it SIGHUP\n"
    )


def test_nobody_there_is_69(policy: str, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    """No file, or one that was left behind."""
    assert main(["reload", "--policy", policy]) == 69
    listen(path).close()
    assert main(["reload", "--policy", policy]) == 69
    lines = [f"proxyd: {path}: {why}; is proxyd running with this policy?" for why in (
        "No such file or directory",
        "Connection refused",
    )]  # fmt: skip
    assert capfd.readouterr().err.splitlines() == lines


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "no answer: it wants to be asked within a second, by root or by its own account"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no answer"),
        (b"{}", "no answer"),
        (b"[]", "no answer"),
        (json.dumps(asdict(Outcome())).encode()[:-1], "no answer"),
        (b'{"problems": [], "changes": [], "revoked": "\\u001b[2J"}', "no answer"),
    ],
)
def test_r12_what_is_no_outcome_is_69_and_no_traceback(
    said: bytes, why: str, policy: str, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Something else listens there, or proxyd died over it: nothing says "reloaded"."""
    with answered(path, said):
        assert main(["reload", "--policy", policy]) == 69
    assert capfd.readouterr() == ("", f"proxyd: {path}: {why}; is proxyd running with this policy?\n")


def test_one_that_does_not_answer_in_time_is_69(
    policy: str, path: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute: it has workers to wait for, and perhaps others' reloads before this one."""
    assert control.REPLY_SECONDS == 60.0
    monkeypatch.setattr(control, "REPLY_SECONDS", 0.001)
    with listen(path):
        assert main(["reload", "--policy", policy]) == 69
    assert capfd.readouterr().err == f"proxyd: {path}: no answer; is proxyd running with this policy?\n"


def test_attack_9_nothing_that_is_told_moves_a_cursor(
    policy: str, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Root may ask every account's proxyd, and what that says is its account's."""
    with answered(path, Outcome(changes=("\x1b[2J\u202e\n",))):
        assert main(["reload", "--policy", policy]) == 0
    with answered(path, Outcome(problems=("\x1b[2J\u202e\n",))):
        assert main(["reload", "--policy", policy]) == 78
    out, err = capfd.readouterr()
    assert out == "\\x1b[2J\\u202e\\n\nreloaded: policy gateway; 0 connections cut\n"
    assert err == "proxyd: not reloaded: \\x1b[2J\\u202e\\n\n"


def test_a_datagram_socket_at_its_path_is_69(policy: str, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever stands there, nothing yields a traceback."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        assert main(["reload", "--policy", policy]) == 69
    assert capfd.readouterr().err.startswith(f"proxyd: {path}: Protocol wrong type for socket; ")
