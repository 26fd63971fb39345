"""`proxyd --policy`: everything that stops the start has its exit status and its way out, and leaves nothing behind."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import signal
import stat
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
import trio
from netaddr import IPAddress

from proxyd import __version__
from proxyd.audit.sink import FileSink, Sink
from proxyd.cli import main, run
from proxyd.policy.address import Endpoint
from proxyd.serve import daemon
from proxyd.serve.listener import bind

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from netaddr import IPNetwork

    from proxyd.policy.model import Policy

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
    """What `serve` was started with, and the limits that were set."""

    def __init__(self) -> None:
        self.served: list[tuple[Policy, list[tuple[str, int]], tuple[Endpoint, ...], Sink]] = []
        self.sockets: list[socket.socket] = []
        self.limits: list[tuple[int, tuple[int, int]]] = []
        self.at_start: Callable[[], object] = lambda: None

    async def serve(
        self, policy: Policy, sockets: list[socket.socket], servers: tuple[Endpoint, ...], sink: Sink
    ) -> None:
        await trio.lowlevel.checkpoint()
        self.served.append((policy, [sock.getsockname()[:2] for sock in sockets], servers, sink))
        self.sockets = sockets
        self.at_start()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """A start of the daemon that serves nobody, and leaves the limits of this process alone."""
    start = Start()
    monkeypatch.setattr(run, "serve", start.serve)
    monkeypatch.setattr(run, "raise_file_limit", lambda: 4321)
    monkeypatch.setattr(run, "system_servers", lambda: (RESOLVER,))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: start.limits.append((what, limits)))
    return start


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
    monkeypatch.setattr(run, "bind", lambda _: pytest.fail("a bad policy must not listen"))
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
    monkeypatch.setattr(run, "bind", lambda _: pytest.fail("it must not listen"))
    assert main(["--policy", write(text())]) == 78
    assert capfd.readouterr().err == (
        "proxyd: /proc/net: Permission denied: proxyd must know this host's addresses to keep clients from itself\n"
    )
    assert (start.served, start.limits) == ([], [])


def test_a_port_in_use_is_69_and_leaves_no_socket_behind(
    start: Start, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """DESIGN, "Processes": the listener that could be had is let go of, too."""
    with bind(Endpoint(IPAddress("127.0.0.1"), 0)) as other:
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
    ((policy, where, servers, sink),) = start.served
    (_, first), (_, second) = where
    assert [address for address, _ in where] == ["127.0.0.1", "127.0.0.2"]
    assert servers == (RESOLVER,)
    assert isinstance(sink, FileSink)
    assert stat.S_IMODE(log.stat().st_mode) & 0o007 == 0
    assert capfd.readouterr().err == (
        f"proxyd: {__version__} listening on 127.0.0.1:{first}, 127.0.0.2:{second}; "
        f"policy gateway ({name}), digest {policy.digest}; audit to {log}; "
        "at most 77 connections, 4321 open files\n"
    )


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
    assert [str(server) for server in start.served[0][2]] == ["10.0.0.53:53", "10.0.1.53:5353"]


def test_without_a_file_the_audit_log_is_stdout(
    start: Start, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given to us and stays open."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stdout, os.fdopen(reading):
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["--policy", write(text())]) == 0
        assert not isinstance(start.served[0][3], FileSink)
        os.fstat(writing)


def test_a_core_dump_would_hold_what_passes_through_and_none_is_left(start: Start, write: Callable[[str], str]) -> None:
    """R7, before anybody is served."""
    start.at_start = lambda: start.limits.append((-1, (0, 0)))
    main(["--policy", write(text())])
    assert start.limits == [(resource.RLIMIT_CORE, (0, 0)), (-1, (0, 0))]


def test_an_end_by_a_bug_leaves_neither_socket_nor_file_open(
    start: Start, write: Callable[[str], str], tmp_path: Path
) -> None:
    """What is opened is closed on every way out."""

    def bug() -> None:
        raise RuntimeError("a bug")

    start.at_start = bug
    with pytest.raises(RuntimeError, match="a bug"):
        main(["--policy", write(text(more=f'[audit]\nto = "{tmp_path}/log"'))])
    assert [sock.fileno() for sock in start.sockets] == [-1]
    ((_, _, _, sink),) = start.served
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(sink._outlet.fd)  # noqa: SLF001 - whether it is closed


def test_the_whole_of_it_runs_until_it_is_told_to_end(
    start: Start, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The smoke test: the real daemon, a real signal, a real log."""
    assert start.limits == []
    log = tmp_path / "log"

    async def serve(*what: Any) -> None:  # noqa: ANN401 - handed through as it is
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.serve, *what)
            while not log.stat().st_size:  # noqa: ASYNC110 - the file is the event
                await trio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run, "serve", serve)
    assert main(["--policy", write(text(more=f'[audit]\nto = "{log}"'))]) == 0
    records = [json.loads(line) for line in Path(log).read_bytes().splitlines()]
    assert [record["event"] for record in records] == ["start", "stop"]
    assert records[0]["listening"][0].startswith("127.0.0.1:")


def test_signals_that_come_before_the_daemon_hears_end_nothing(start: Start, write: Callable[[str], str]) -> None:
    """Whoever waits for the start-up line may send SIGHUP or SIGUSR1 with the next breath."""
    early = (signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in early]

    def signalled() -> None:
        for number in early:
            signal.raise_signal(number)

    start.at_start = signalled
    assert main(["--policy", write(text())]) == 0
    assert [signal.getsignal(number) for number in early] == before
