"""`proxyd --policy`: everything that stops the start has its exit status and its way out, and leaves nothing behind."""

from __future__ import annotations

import datetime as dt
import errno
import gc
import os
import re
import resource
import signal
import stat
import sys
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TextIO

import pytest
from netaddr import IPAddress

from proxyd import __version__
from proxyd.cli import main, run
from proxyd.net.listening import bind
from proxyd.policy.address import Endpoint
from proxyd.serve.complaints import Complaints
from proxyd.serve.supervisor import SIGNALS

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from netaddr import IPNetwork

    from proxyd.serve.handover import Handover

RESOLVER = Endpoint(IPAddress("9.9.9.9"), 53)


def text(listen: str = '"127.0.0.1:0"', more: str = "") -> str:
    """A policy."""
    return f"""\
schema = 1
name = "gateway"
[listen]
http = [{listen}]
[destinations]
default = "allow"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
{more}
"""


class Start:
    """What the supervisor was started with, and the limits that were set."""

    def __init__(self) -> None:
        self.served: list[tuple[Handover, list[tuple[str, int]]]] = []
        self.sockets: list[tuple[socket.socket, ...]] = []
        self.limits: list[tuple[int, tuple[int, int]]] = []
        self.at_start: Callable[[], object] = lambda: None

    def supervisor(
        self, sockets: list[tuple[socket.socket, ...]], handover: Handover, complain: Callable[[str], None]
    ) -> SimpleNamespace:
        """In the place of the supervisor, whose `run` starts nobody."""
        assert isinstance(complain, Complaints)
        self.sockets = sockets

        def serve() -> None:
            self.served.append((handover, [each[0].getsockname()[:2] for each in sockets]))
            self.at_start()

        return SimpleNamespace(run=serve)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A start of the daemon that serves nobody, and leaves the limits and signals of this process alone."""
    start = Start()
    monkeypatch.setattr(run, "Supervisor", start.supervisor)
    monkeypatch.setattr(run, "raise_file_limit", lambda: 4321)
    monkeypatch.setattr(run, "system_servers", lambda: (RESOLVER,))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: start.limits.append((what, limits)))
    blocked, child = signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGCHLD)
    yield start
    while signal.sigtimedwait(SIGNALS, 0) is not None:
        pass  # what a test sent to itself
    signal.signal(signal.SIGCHLD, child)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Writes the policy, and says where."""

    def write(policy: str) -> str:
        path = tmp_path / "policy.toml"
        path.write_text(policy)
        return str(path)

    return write


# What stops the start


def test_a_bad_policy_is_78_and_nothing_listens(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: every problem, and not a socket."""
    monkeypatch.setattr(run, "bind", lambda *_: pytest.fail("a bad policy must not listen"))
    name = write(text().replace("default", "defualt").replace('name = "agent"', "name = 5"))
    assert main(["--policy", name]) == 78
    assert len(capfd.readouterr().err.splitlines()) == 3
    assert start.served == []


def test_no_resolver_is_78_with_the_way_out(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3, R12: no name could be resolved, and so none served."""
    monkeypatch.setattr(run, "system_servers", tuple)
    assert main(["--policy", write(text())]) == 78
    assert capfd.readouterr().err == (
        'proxyd: no resolver: /etc/resolv.conf names none; write servers = ["9.9.9.9"] under [dns] in the policy\n'
    )
    assert start.served == []


def test_own_addresses_that_cannot_be_read_are_78_and_nothing_listens(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12, ATTACKS 2.17: not to know our own addresses is not to have none."""

    def unreadable() -> frozenset[IPNetwork]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(run, "own_addresses", unreadable)
    monkeypatch.setattr(run, "bind", lambda *_: pytest.fail("it must not listen"))
    assert main(["--policy", write(text())]) == 78
    assert capfd.readouterr().err == (
        "proxyd: /proc/net: Permission denied: proxyd must know this host's addresses to keep clients from itself\n"
    )
    assert (start.served, start.limits) == ([], [])


def test_a_port_in_use_is_69_and_leaves_no_socket_behind(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """DESIGN, "Processes": the listener that could be had is let go of, too."""
    (other,) = bind(Endpoint(IPAddress("127.0.0.1"), 0))
    with other:
        port = other.getsockname()[1]
        assert main(["--policy", write(text(f'"127.0.0.1:0", "127.0.0.1:{port}"'))]) == 69
    assert capfd.readouterr().err == (
        f"proxyd: listen.http[1]: 127.0.0.1:{port}: somebody listens there already; "
        "stop them (another proxyd?) or choose another port\n"
    )
    assert start.served == []
    gc.collect()  # a socket left open would warn here, and a warning is an error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "x"), "not permitted; choose a port above 1023, or grant CAP_NET_BIND_SERVICE"),
        (
            OSError(errno.EADDRNOTAVAIL, "x"),
            "this host has no such address; `ip address` shows which it has",
        ),
        (OSError(errno.EAFNOSUPPORT, "Address family not supported"), "Address family not supported"),
        (OSError("nothing is known"), "cannot listen"),
    ],
)
def test_an_endpoint_that_cannot_be_had_is_69_with_the_way_out(
    error: OSError,
    said: str,
    start: Start,
    write: Callable[[str], str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A privileged port, an address of another host, a family that this one has not."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("socket.socket.bind", refuse)
    assert main(["--policy", write(text('"127.0.0.1:80"'))]) == 69
    assert capfd.readouterr().err == f"proxyd: listen.http[0]: 127.0.0.1:80: {said}\n"
    assert start.served == []
    gc.collect()


def test_an_address_of_another_host_is_69(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """The same with the kernel's own words: no test of ours makes 10.255.255.254 this host's."""
    networks = text('"10.255.255.254:0"').replace("127.0.0.0/8", "10.0.0.0/8")
    assert main(["--policy", write(networks)]) == 69
    assert "this host has no such address" in capfd.readouterr().err
    assert start.served == []


@pytest.mark.parametrize("where", ["missing/audit.jsonl", "."])
def test_an_audit_log_that_cannot_be_opened_is_78_and_leaves_no_socket_behind(
    where: str, start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """R12: no audit, no proxy."""
    path = tmp_path / where
    assert main(["--policy", write(text(more=f'[audit]\nto = "{path}"'))]) == 78
    err = capfd.readouterr().err
    assert err.startswith(f"proxyd: audit.to: {path}: ")
    assert err.endswith("; name a file that this account may append to\n")
    assert start.served == []
    gc.collect()


def test_an_audit_log_with_a_name_that_no_file_can_have_is_78(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """R12: nothing the user typed yields a traceback."""
    assert main(["--policy", write(text(more='[audit]\nto = "/var/log/a\\u0000b"'))]) == 78
    assert "audit.to" in capfd.readouterr().err
    assert start.served == []


# A start


def test_a_good_start_serves_what_the_policy_says_and_tells_so(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """R1, R7: where it listens, under which policy, and where the audit log is."""
    log = tmp_path / "audit.jsonl"
    name = write(text('"127.0.0.1:0", "127.0.0.2:0"', f'[audit]\nto = "{log}"\n[limits]\nconnections = 77'))
    assert main(["--policy", name]) == 0
    ((handover, where),) = start.served
    (_, first), (_, second) = where
    assert [address for address, _ in where] == ["127.0.0.1", "127.0.0.2"]
    assert (handover.name, handover.servers, handover.workers) == (name, (RESOLVER,), 1)
    assert stat.S_IMODE(log.stat().st_mode) & 0o007 == 0
    assert capfd.readouterr().err == (
        f"proxyd: {__version__} listening on 127.0.0.1:{first}, 127.0.0.2:{second}; "
        f"policy gateway ({name}), digest {handover.policy().digest}; audit to {log}; "
        "at most 77 connections; 1 worker of 4321 open files\n"
    )


@pytest.mark.parametrize(("said", "workers"), [("", 1), ("workers = 3\n", 3), ('workers = "auto"\n', 5)])
def test_as_many_workers_serve_as_the_policy_says(
    said: str,
    workers: int,
    start: Start,
    write: Callable[[str], str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or one for each core that this account may use, which may be fewer than there are."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6, 8})
    assert main(["--policy", write(said + text())]) == 0
    assert start.served[0][0].workers == workers
    assert f"; {workers} worker" in capfd.readouterr().err


def test_r12_what_the_workers_get_are_the_bytes_that_were_read_and_tested(
    start: Start, write: Callable[[str], str]
) -> None:
    """DESIGN, "Time and change": whatever happens to the file from now on."""
    name = write(text())
    start.at_start = lambda: write("nonsense")
    assert main(["--policy", name]) == 0
    handover = start.served[0][0]
    assert [(each.name, each.text) for each in handover.files.kept] == [(name, text())]
    assert handover.policy().name == "gateway"
    assert handover.day == dt.datetime.now(dt.UTC).date()


def test_two_daemons_bear_two_names_in_via(start: Start, write: Callable[[str], str]) -> None:
    """ATTACKS 4.13: one behind the other is no loop; and the name tells nobody which host it is."""
    for _ in range(2):
        main(["--policy", write(text())])
    names = [handover.via for handover, _ in start.served]
    assert all(re.fullmatch(r"proxyd-[0-9a-f]{8}", name) for name in names)
    assert names[0] != names[1]


def full() -> TextIO:
    return open("/dev/full", "w", encoding="utf-8")  # noqa: PTH123 - a device


def without_a_reader() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize("stderr", [full, without_a_reader])
def test_attack_8_a_stderr_that_nobody_reads_hinders_no_start(
    stderr: Callable[[], TextIO], start: Start, write: Callable[[str], str]
) -> None:
    """R12: the audit log is what must be written; with a full disk under stderr, proxyd once did not start."""
    with stderr() as stream, redirect_stderr(stream):
        assert main(["--policy", write(text())]) == 0
    assert len(start.served) == 1


def test_the_policys_resolvers_come_before_the_systems(start: Start, write: Callable[[str], str]) -> None:
    """R3: and a host without any is no hindrance then."""
    assert main(["--policy", write(text(more='[dns]\nservers = ["10.0.0.53", "10.0.1.53:5353"]'))]) == 0
    assert [str(server) for server in start.served[0][0].servers] == ["10.0.0.53:53", "10.0.1.53:5353"]


def test_a_core_dump_would_hold_what_passes_through_and_none_is_left(start: Start, write: Callable[[str], str]) -> None:
    """R7, before anybody is served."""
    start.at_start = lambda: start.limits.append((-1, (0, 0)))
    main(["--policy", write(text())])
    assert start.limits == [(resource.RLIMIT_CORE, (0, 0)), (-1, (0, 0))]


@pytest.mark.parametrize("log", ["stdout", "{folder}/log"])
def test_the_supervisor_keeps_no_audit_log_open(
    log: str, start: Start, write: Callable[[str], str], tmp_path: Path
) -> None:
    """It only sees that there can be one; what it kept open, logrotate could not get rid of."""
    seen: list[str] = []

    def look() -> None:
        seen.extend(str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())

    start.at_start = look
    path = log.format(folder=tmp_path)
    assert main(["--policy", write(text(more=f'[audit]\nto = "{path}"'))]) == 0
    assert path not in seen
    assert (tmp_path / "log").exists() == (log != "stdout")


def test_a_fifo_is_kept_open_so_that_its_reader_waits_for_the_workers(
    start: Start, write: Callable[[str], str], tmp_path: Path
) -> None:
    """A reader takes the end of the last writer for the end of all, and without a reader no worker could open it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def read() -> None:
        with pytest.raises(BlockingIOError):  # where nobody had it open to write, it would be at its end
            os.read(reader, 1)
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))

    start.at_start = read
    try:
        assert main(["--policy", write(text(more=f'[audit]\nto = "{fifo}"'))]) == 0
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
    assert len(start.served) == 1


def test_a_port_in_use_makes_no_audit_log(start: Start, write: Callable[[str], str], tmp_path: Path) -> None:
    """Nothing is left behind by a start that was none."""
    (other,) = bind(Endpoint(IPAddress("127.0.0.1"), 0))
    with other:
        listen = f'"127.0.0.1:{other.getsockname()[1]}"'
        assert main(["--policy", write(text(listen, f'[audit]\nto = "{tmp_path}/log"'))]) == 69
    assert not (tmp_path / "log").exists()
    assert start.served == []


def test_an_end_by_a_bug_leaves_no_listener_open(start: Start, write: Callable[[str], str]) -> None:
    """What is opened is closed on every way out."""

    def bug() -> None:
        raise RuntimeError("a bug")

    start.at_start = bug
    with pytest.raises(RuntimeError, match="a bug"):
        main(["--policy", write(text())])
    assert [sock.fileno() for (sock,) in start.sockets] == [-1]


def test_a_closed_stdin_does_not_give_its_number_to_a_listener(
    start: Start, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`proxyd … <&-`: a worker is told what to do on 0, whatever was there before."""
    numbers: list[int] = []
    start.at_start = lambda: numbers.extend(sock.fileno() for (sock,) in start.sockets)
    kept = os.dup(0)
    os.close(0)
    monkeypatch.setattr(sys, "stdin", None)
    try:
        assert main(["--policy", write(text())]) == 0
        assert 0 not in numbers
        assert str(Path("/proc/self/fd/0").readlink()) == os.devnull
    finally:
        os.dup2(kept, 0)
        os.close(kept)


# Signals


def test_signals_that_come_once_somebody_can_know_of_us_are_kept_for_the_supervisor(
    start: Start, write: Callable[[str], str]
) -> None:
    """Whoever waits for the start-up line may send one with the next breath: it is neither lost, nor does it kill."""
    heard: set[int] = set()

    def signalled() -> None:
        for number in SIGNALS:
            signal.raise_signal(number)
        while (said := signal.sigtimedwait(SIGNALS, 0)) is not None:
            heard.add(said.si_signo)

    start.at_start = signalled
    assert main(["--policy", write(text())]) == 0
    assert heard == set(SIGNALS)


def test_a_signal_that_comes_after_the_last_worker_has_ended_changes_no_exit_status(
    start: Start, write: Callable[[str], str]
) -> None:
    """An impatient operator, or a service manager: proxyd ended well, and says so."""
    start.at_start = lambda: signal.raise_signal(signal.SIGTERM)
    assert main(["--policy", write(text())]) == 0
    assert signal.SIGTERM in signal.sigpending()


def test_signals_are_kept_before_anything_listens(
    start: Start, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first moment on in which a client could be in."""
    blocked: list[set[int]] = []

    def note(endpoint: Endpoint, workers: int) -> tuple[socket.socket, ...]:
        blocked.append({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])})
        return bind(endpoint, workers)

    monkeypatch.setattr(run, "bind", note)
    assert main(["--policy", write(text())]) == 0
    assert blocked == [set(map(int, SIGNALS))]
    assert len(start.served) == 1


def test_a_parent_that_ignores_its_childrens_ends_does_not_keep_us_from_hearing_of_ours(
    start: Start, write: Callable[[str], str]
) -> None:
    """SIG_IGN is inherited, and with it the kernel tells of no child that ended: no worker would be replaced."""
    seen: list[object] = []
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    start.at_start = lambda: seen.append(signal.getsignal(signal.SIGCHLD))
    assert main(["--policy", write(text())]) == 0
    assert seen == [signal.SIG_DFL]
