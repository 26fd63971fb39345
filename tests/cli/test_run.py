"""`proxyd --policy`: the start, and what is said of it; real but for the workers, of whom there are none.

What a policy asks for, and what stops the start, is in `test_prepare.py`.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pytest
from netaddr import IPAddress

from proxyd import __version__
from proxyd.cli import main, run
from proxyd.cli import prepare as prepare_module
from proxyd.net.listening import bind
from proxyd.policy.address import Endpoint
from proxyd.serve.ears import SIGNALS
from proxyd.serve.ledger import new_ledger
from proxyd.serve.supervisor import Supervisor
from tests.cli.policies import text, write
from tests.cli.start import Start, hup, start, term
from tests.serve.stage import open_files

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["start", "write"]


# What stops the start


def test_r12_a_bad_policy_is_78_and_serves_nobody(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Every problem."""
    name = write(text().replace("default", "defualt").replace('name = "agent"', "name = 5"))
    assert main(["--policy", name]) == 78
    assert len(capfd.readouterr().err.splitlines()) == 3
    assert start.served == []


def test_memory_that_cannot_be_had_to_count_in_is_69_and_leaves_nothing_open(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ulimit -f` counts it, though it is no file on a disk."""

    def none(_: int) -> int:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(run, "new_tally", none)
    files = open_files()
    assert main(["--policy", write(text())]) == 69
    assert open_files() == files
    assert capfd.readouterr().err.startswith("proxyd: there is no memory to count in: File too large; raise the limits")
    assert start.served == []


def test_a_port_in_use_is_69_and_leaves_nothing_open(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    (other,) = bind(Endpoint(IPAddress("127.0.0.1"), 0))
    files = open_files()
    with other:
        port = other.getsockname()[1]
        assert main(["--policy", write(text(f'http = ["127.0.0.1:0", "127.0.0.1:{port}"]'))]) == 69
        assert open_files() == files
    assert capfd.readouterr().err.startswith(f"proxyd: listen.http[1]: 127.0.0.1:{port}: somebody listens there ")
    assert start.served == []


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("missing/control", "No such file or directory; name a path in a folder of this account's own"),
        ("policy.toml", "somebody listens there already, or something else is there; stop them (another proxyd?)"),
    ],
)
def test_a_control_socket_that_cannot_be_had_is_69_and_leaves_nothing_open(
    where: str,
    why: str,
    start: Start,
    write: Callable[[str], str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A file that is something else is not touched."""
    files = open_files()
    name = write(text(f'http = ["127.0.0.1:0"]\ncontrol = "{tmp_path}/{where}"'))
    assert main(["--policy", name]) == 69
    assert capfd.readouterr().err.startswith(f"proxyd: listen.control: {tmp_path}/{where}: {why}")
    assert (start.served, open_files()) == ([], files)
    assert Path(name).is_file()


# A start


def test_a_good_start_tells_what_is_served_and_leaves_nothing_open(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """R1, R7: where it listens, under which policy, and where the audit log is."""
    log = tmp_path / "audit.jsonl"
    own = "users = [4711]\n[limits]\nconnections = 77"
    name = write(text('http = ["127.0.0.1:0", "127.0.0.2:0"]', f'{own}\n[audit]\nto = "{log}"', "workers = 3"))
    seen: list[tuple[str, ...]] = []
    start.script = [(lambda: seen.append(start.served[0].described), term)]
    files = open_files()
    assert main(["--policy", name]) == 0
    charge = start.served[0]
    (where,) = seen
    assert [each.rpartition(":")[0] for each in where] == ["127.0.0.1", "127.0.0.2"]
    said = capfd.readouterr().err
    assert said.startswith(
        f"proxyd: {__version__} listening on {', '.join(where)}; policy gateway ({name}), "
        f"digest {charge.policy.digest}; audit to {log}; at most 77 connections; 3 workers of 4321 open files"
    )
    assert said.count("\n") == 1
    assert start.places == [3]
    assert open_files() == files


def test_one_worker_is_one_and_what_an_author_may_not_have_meant_is_told(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """R2: on loopback, networks alone are every account of the host."""
    assert main(["--policy", write(text())]) == 0
    line, *warnings = capfd.readouterr().err.splitlines()
    assert "; 1 worker of 4321 open files" in line
    assert warnings != []
    assert all(warning.startswith("proxyd: warning: ") for warning in warnings)
    assert "client agent is every account on this host" in warnings[-1]
    assert start.places == [1]


def full() -> TextIO:
    return open("/dev/full", "w", encoding="utf-8")  # noqa: PTH123 - a device


def without_a_reader() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize("stderr", [full, without_a_reader])
def test_attack_8_a_stderr_that_nobody_reads_hinders_no_start_and_no_reload(
    stderr: Callable[[], TextIO], start: Start, write: Callable[[str], str]
) -> None:
    """R12: the audit log is what must be written; with a full disk under stderr, proxyd once did not start."""
    start.script = [(hup,)]
    with stderr() as stream, redirect_stderr(stream):
        assert main(["--policy", write(text())]) == 0
    assert len(start.served) == 2


@pytest.mark.parametrize(("most", "limit"), [(resource.RLIM_INFINITY, 1), (4096, 1), (1, 1), (0, 0)])
def test_r7_a_core_dump_would_hold_what_passes_through_and_none_is_left(
    start: Start, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, most: int, limit: int
) -> None:
    """Before anybody is served: by core(5), one octet at most means none, to a file and to a program."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, most))
    start.script = [(lambda: start.limits.append((-1, (0, 0))), term)]
    assert main(["--policy", write(text())]) == 0
    assert start.limits == [(resource.RLIMIT_CORE, (limit, limit)), (-1, (0, 0))]


def test_an_end_by_a_bug_leaves_nothing_open_and_no_file_of_the_control_socket(
    start: Start, write: Callable[[str], str], tmp_path: Path
) -> None:
    """What is opened is closed on every way out."""

    def bug() -> None:
        raise RuntimeError("a bug")

    files = open_files()
    start.script = [(bug,)]
    with pytest.raises(RuntimeError, match="a bug"):
        main(["--policy", write(text(f'http = ["127.0.0.1:0"]\ncontrol = "{tmp_path}/control"'))])
    assert open_files() == files
    assert not (tmp_path / "control").exists()


def test_a_closed_stdin_does_not_give_its_number_to_a_listener(
    start: Start, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`proxyd … <&-`: a worker is told what to do on 0, whatever was there before."""
    seen: list[str] = []
    start.script = [(lambda: seen.append(os.readlink("/proc/self/fd/0")), term)]  # noqa: PTH115 - a number's
    kept = os.dup(0)
    os.close(0)
    monkeypatch.setattr(sys, "stdin", None)
    try:
        assert main(["--policy", write(text())]) == 0
        assert seen == [os.devnull]
    finally:
        os.dup2(kept, 0)
        os.close(kept)


# Signals


def test_signals_are_blocked_before_anything_listens(
    start: Start, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first moment on in which a client could be in, none is lost and none kills."""
    blocked: list[set[int]] = []

    def note(endpoint: Endpoint, workers: int) -> tuple[socket.socket, ...]:
        blocked.append({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])})
        term()
        return bind(endpoint, workers)

    monkeypatch.setattr(prepare_module, "bind", note)
    start.script = [()]
    assert main(["--policy", write(text())]) == 0
    assert blocked == [set(map(int, SIGNALS))]
    assert len(start.served) == 1, "the SIGTERM that came meanwhile was heard"


def test_a_signal_that_comes_after_the_end_changes_no_exit_status(
    start: Start, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An impatient operator, or a service manager: proxyd ended well, and says so."""
    close = Supervisor.close

    def late(supervisor: Supervisor) -> None:
        close(supervisor)
        term()

    monkeypatch.setattr(Supervisor, "close", late)
    assert main(["--policy", write(text())]) == 0
    assert signal.SIGTERM in signal.sigpending()
    assert len(start.served) == 1


def test_a_parent_that_ignores_its_childrens_ends_does_not_keep_us_from_hearing_of_ours(
    start: Start, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIG_IGN is inherited, and with it the kernel tells of no child that ended: no worker would be replaced."""
    seen: list[object] = []

    def note() -> int:
        seen.append(signal.getsignal(signal.SIGCHLD))
        return new_ledger()

    monkeypatch.setattr(run, "new_ledger", note)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    assert main(["--policy", write(text())]) == 0
    assert seen == [signal.SIG_DFL]
    assert len(start.served) == 1
