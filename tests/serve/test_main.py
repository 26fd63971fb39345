"""A worker's beginning: what it takes over, what it cannot begin without, and which signals are not for it.

In this very process, with a real pipe and a real socket; only what runs for long is somebody else's.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, Final

import pytest
import trio

from proxyd.audit.sink import FileSink, Sink
from proxyd.cli.files import read_policy_file
from proxyd.policy.load import load
from proxyd.serve import __main__ as main_module
from proxyd.serve.complaints import Complaints
from proxyd.serve.handover import Files, Handover
from proxyd.serve.worker import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.model import Policy

DAY: Final = dt.date(2026, 8, 1)


class Worker:
    """A worker that is about to begin. served: what it would serve with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.served: list[tuple[Any, ...]] = []
        self.folder = folder
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.addresses = [sock.getsockname() for sock in sockets]
        self.numbers = [sock.detach() for sock in sockets]
        reading, writing = os.pipe()
        self.leash, self.supervisor = os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
        monkeypatch.setattr(sys, "argv", ["proxyd/serve/__main__.py", *map(str, self.numbers)])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=self.leash, fileno=self.leash.fileno))
        monkeypatch.setattr(trio, "run", lambda *what: self.served.append(what))

    def hand_over(self, more: str = "") -> tuple[Handover, Policy]:
        """Let it be told everything."""
        path = self.folder / "policy.toml"
        path.write_text(
            'schema = 1\nname = "gateway"\nlisten.http = ["127.0.0.1:0"]\ndestinations.default = "allow"\n'
            f'client = [{{name = "agent", networks = ["127.0.0.0/8"]}}]\n{more}'
        )
        files = Files()
        policy = load(str(path), files.remembering(read_policy_file), DAY)
        handover = Handover(name=str(path), day=DAY, files=files, servers=(), via="proxyd-test", workers=2)
        handover.write(self.supervisor)
        return handover, policy

    def end_of_supervisor(self) -> None:
        """As the kernel tells it."""
        self.supervisor.close()

    def close(self) -> None:
        """Let go of everything that `serve` would have closed."""
        for _, _, _, sockets, sink, *_ in self.served:
            for sock in sockets:
                sock.detach()
            if isinstance(sink, FileSink):
                sink.close()
        for number in self.numbers:
            os.close(number)
        for pipe in (self.leash, self.supervisor):
            pipe.close()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Worker]:
    """One that serves nobody, and leaves this process's signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    worker = Worker(monkeypatch, tmp_path)
    yield worker
    worker.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_it_serves_with_what_it_was_handed(worker: Worker, tmp_path: Path) -> None:
    """The listeners by their numbers, the policy from its very bytes, the audit log opened by itself."""
    log = tmp_path / "audit.jsonl"
    handover, policy = worker.hand_over(f'[audit]\nto = "{log}"\n')
    (tmp_path / "policy.toml").unlink()
    assert main_module.main() == 0
    ((what, its_policy, its_handover, sockets, sink, complain, leash),) = worker.served
    assert what is serve
    assert (its_policy, its_handover) == (policy, handover)
    assert [sock.getsockname() for sock in sockets] == worker.addresses
    assert isinstance(sink, FileSink)
    assert log.exists()
    assert isinstance(complain, Complaints)
    assert leash == worker.leash.fileno()


def test_without_a_file_the_audit_log_is_stdout(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that the supervisor was given."""
    worker.hand_over()
    with Path(os.devnull).open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main_module.main() == 0
        sink = worker.served[0][4]
        assert (type(sink), sink._outlet.fd) == (Sink, stdout.fileno())  # noqa: SLF001 - where it writes to


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_all_of_us_is_not_for_a_worker(worker: Worker, number: signal.Signals) -> None:
    """Ctrl-C is one end, not two; and a terminal that closes ends no tunnel: the supervisor says what they mean."""
    worker.hand_over()
    main_module.main()
    assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize("said", [b"", b'{"name": "policy.toml", "da'])
def test_r12_a_supervisor_that_is_gone_before_it_told_everything_starts_nobody(
    worker: Worker, said: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    worker.supervisor.write(said)
    worker.end_of_supervisor()
    assert main_module.main() == 1
    assert worker.served == []
    assert capfd.readouterr().err.startswith("proxyd: a worker cannot start: ")


def test_r12_an_audit_log_that_cannot_be_opened_any_more_starts_nobody(
    worker: Worker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It could when the supervisor tried; it will be tried again."""
    worker.hand_over(f'[audit]\nto = "{tmp_path}/gone/audit.jsonl"\n')
    assert main_module.main() == 1
    assert worker.served == []
    assert "a worker cannot start: " in capfd.readouterr().err


def test_r12_a_policy_that_is_none_starts_nobody(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    """A supervisor never hands one over; a worker would not serve by it all the same."""
    handover, _ = worker.hand_over()
    pipe: IO[bytes] = worker.leash
    assert Handover.read(pipe) == handover
    Handover(name="p", day=DAY, files=Files(), servers=(), via="x", workers=1).write(worker.supervisor)
    assert main_module.main() == 1
    assert worker.served == []
    assert "proxyd: a worker cannot start: p: cannot be read: it was not read\n" in capfd.readouterr().err


def test_the_whole_of_it_serves_until_the_supervisor_is_gone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The smoke test: `python -m proxyd.serve`, a real pipe whose other end is closed, a real log."""
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["x", *(str(socket.create_server(("127.0.0.1", 0)).detach()) for _ in range(2))])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=worker.leash, fileno=worker.leash.fileno))
    log = tmp_path / "audit.jsonl"
    worker.hand_over(f'[audit]\nto = "{log}"\n')
    worker.end_of_supervisor()
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


def test_attack_9_a_bug_that_ends_a_worker_is_told_without_its_message(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def breaks(*what: object) -> None:
        worker.served.append(what)
        raise ZeroDivisionError("hunter2")

    monkeypatch.setattr(trio, "run", breaks)
    worker.hand_over()
    assert main_module.main() == 1
    said = capfd.readouterr().err
    assert "proxyd: bug: ZeroDivisionError in breaks" in said
    assert "hunter2" not in said
