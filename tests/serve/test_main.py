"""A worker's beginning: what it takes over, what it cannot begin without, and which signals are not for it.

In this very process, with a real channel and real sockets; only what runs for long is somebody else's.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxyd.audit.sink import FileSink, Sink
from proxyd.serve import __main__ as main_module
from proxyd.serve.channel import Channel
from proxyd.serve.complaints import Complaints
from proxyd.serve.worker import serve
from tests.serve.handed import files, handover, inode, listener, open_files, text

if TYPE_CHECKING:
    from collections.abc import Iterator


class Worker:
    """A worker that is about to begin. served: what it would serve with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served: list[tuple[Any, ...]] = []
        self.supervisor, ours = Channel.pair()
        self.number = ours.socket.detach()
        self.begin_in(monkeypatch)
        monkeypatch.setattr(trio, "run", lambda *what: self.served.append(what))

    def begin_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process be the worker's. Its end of the channel is closed with it, which a process does itself."""

        def begin(channel: Channel, sock: socket.socket) -> None:
            channel.socket = sock
            self.channels.append(channel)

        self.channels: list[Channel] = []
        monkeypatch.setattr(sys, "argv", ["proxyd/serve/__main__.py"])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=lambda: self.number))
        monkeypatch.setattr(Channel, "__init__", begin)

    def hand_over(self, policy: str = "", *sockets: socket.socket) -> list[int]:
        """Tell it everything: the files that went with it, which stay open here."""
        handed = handover(policy, *(f"127.0.0.1:{number}" for number, _ in enumerate(sockets)))
        came = files(handed, *sockets)
        self.supervisor.send({"do": "serve", "place": 1}, came)
        return came

    def close(self) -> None:
        """Let go of everything that `serve` would have closed."""
        for _, given, *_ in self.served:
            given.let_go()
        for channel in (*self.channels, self.supervisor):
            channel.close()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """One that serves nobody, and leaves this process's signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    worker = Worker(monkeypatch)
    yield worker
    worker.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def logging_to(path: Path) -> str:
    """A policy with its audit log there."""
    return text(f'[audit]\nto = "{path}"\n')


def test_it_serves_with_what_it_was_handed(worker: Worker, tmp_path: Path) -> None:
    """The policy from its very bytes, the listeners, its place, the memory; the audit log opened by itself."""
    log = tmp_path / "audit.jsonl"
    sockets = [listener(), listener()]
    addresses = [sock.getsockname() for sock in sockets]
    came = worker.hand_over(logging_to(log), *sockets)
    assert main_module.main() == 0
    ((what, given, sink, channel, complain),) = worker.served
    assert what is serve
    assert (given.handover.name, given.policy.name, given.place) == ("p.toml", "gateway", 1)
    assert [sock.getsockname() for sock in given.listeners.values()] == addresses
    assert inode(given.ledger) == inode(came[1])
    assert isinstance(sink, FileSink)
    assert log.exists()
    assert isinstance(complain, Complaints)
    assert channel.socket.fileno() == worker.number
    for number in came:
        os.close(number)


def test_without_a_file_the_audit_log_is_stdout(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that the supervisor was given."""
    came = worker.hand_over()
    with Path(os.devnull).open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main_module.main() == 0
        _, _, sink, _, _ = worker.served[0]
        assert (type(sink), sink._outlet.fd) == (Sink, stdout.fileno())  # noqa: SLF001 - where it writes to
    for number in came:
        os.close(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_all_of_us_is_not_for_a_worker(worker: Worker, number: signal.Signals) -> None:
    """Ctrl-C is one end, not two; and a terminal that closes ends no tunnel: the supervisor says what they mean."""
    worker.supervisor.close()
    main_module.main()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_r12_a_supervisor_that_is_gone_before_it_told_anything_starts_nobody(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody is left to be told of it."""
    worker.supervisor.close()
    assert main_module.main() == 1
    assert worker.served == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("policy", "spoilt", "why"),
    [
        pytest.param("", b"", "not all files arrived", id="files"),
        pytest.param("schema = 1", None, "name", id="policy"),
        pytest.param(text('[audit]\nto = "/nowhere/audit.jsonl"\n'), None, "No such file", id="log"),
        pytest.param("", b"{", "line 1 column 2", id="message"),
    ],
)
def test_r12_what_cannot_be_served_starts_nobody(
    worker: Worker, capfd: pytest.CaptureFixture[str], policy: str, spoilt: bytes | None, why: str
) -> None:
    """A supervisor hands over what it tried itself; what fails here is said, and it will be tried again."""
    before = len(open_files())
    if spoilt is None:
        for number in worker.hand_over(policy):
            os.close(number)
    elif spoilt:
        worker.supervisor.socket.send(spoilt)
    else:
        worker.supervisor.send({"do": "serve", "place": 1})
    assert main_module.main() == 1
    assert worker.served == []
    said = capfd.readouterr().err
    assert said.startswith("proxyd: a worker cannot start: ")
    assert why in said
    assert len(open_files()) <= before


@pytest.mark.parametrize("do", ["prepare", "commit", "abort", ""])
def test_r12_a_worker_that_was_not_told_to_serve_serves_nothing(
    worker: Worker, capfd: pytest.CaptureFixture[str], do: str
) -> None:
    """Its first message was lost: what comes next may be a policy that not all can take into use."""
    handed = handover("")
    came = files(handed)
    worker.supervisor.send({"do": do, "place": 1}, came)
    assert main_module.main() == 1
    assert worker.served == []
    assert capfd.readouterr().err == "proxyd: a worker cannot start: what it was told first is lost\n"
    for number in came:
        os.close(number)


def test_r12_without_a_channel_nobody_starts(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    """Somebody started it by hand: its stdin is a terminal, or nothing."""
    socket.socket(fileno=worker.number).close()
    with Path(os.devnull).open() as nothing:
        sys.stdin = SimpleNamespace(fileno=nothing.fileno)  # monkeypatch puts it back
        assert main_module.main() == 1
    assert "a worker cannot start: " in capfd.readouterr().err


def test_the_whole_of_it_serves_until_the_supervisor_is_gone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The smoke test: `python -m proxyd.serve`, a real channel whose other end is closed, a real log."""
    monkeypatch.undo()
    worker.begin_in(monkeypatch)
    log = tmp_path / "audit.jsonl"
    for each in worker.hand_over(logging_to(log), listener(), listener()):
        os.close(each)
    worker.supervisor.close()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    sys.modules.pop("proxyd.serve.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("proxyd.serve", run_name="__main__")
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert ended.value.code == 0
    records = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert [(record["event"], record["pid"]) for record in records] == [("start", os.getpid()), ("stop", os.getpid())]


def test_importing_it_begins_nothing(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("proxyd.serve.__main__", run_name="imported")
    assert worker.served == []
    assert capfd.readouterr() == ("", "")
    socket.socket(fileno=worker.number).close()


def test_attack_9_a_bug_that_ends_a_worker_is_told_without_its_message(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def breaks(*what: Any) -> None:  # noqa: ANN401 - as `trio.run` takes it
        worker.served.append(what)
        raise ZeroDivisionError("hunter2")

    monkeypatch.setattr(trio, "run", breaks)
    for number in worker.hand_over():
        os.close(number)
    assert main_module.main() == 1
    said = capfd.readouterr().err
    assert "proxyd: bug: ZeroDivisionError in breaks" in said
    assert "hunter2" not in said
