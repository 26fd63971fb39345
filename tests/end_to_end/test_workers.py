"""Several workers under one supervisor, as an operator and a kernel treat them: killed, signalled, starved (R12).

DESIGN, "Processes"; ATTACKS 8. Nothing here depends on which worker happens to accept: a test connects until each of
them has accepted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.daemon import files_of, read_until, state_of, ticks

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

LONG_DRAIN = "[limits]\ndrain_seconds = 3600\n"
REFUSED = b"GET http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\n\r\n"
SECRET = "hunter2-in-a-policy"  # noqa: S105 - planted, to be looked for


def until(holds: Callable[[], object], what: str) -> None:
    """Wait for something; give up after a long while."""
    for _ in ticks():
        if holds():
            return
    raise AssertionError(what)


def gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have asked for its exit status."""
    return state_of(pid) == "Z"


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: state_of(pid) == "T", "it does not stop")
        yield
    finally:
        with suppress(ProcessLookupError):  # it was killed meanwhile
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def pair(scene: Scene) -> Daemon:
    """Two workers that serve, and would drain for an hour."""
    proxy = scene.start(LONG_DRAIN, workers=2)
    proxy.wait_for_start(2)
    return proxy


def at_each(proxy: Daemon, stack: ExitStack, count: int = 1) -> list[socket.socket]:
    """Clients with a connection that was refused something already: `count` at each of the workers, in their order."""
    inside: dict[int, list[socket.socket]] = {worker: [] for worker in proxy.workers()}
    while any(len(clients) < count for clients in inside.values()):
        client = stack.enter_context(proxy.connect())
        inside[accepted_by(inside, client)].append(client)
    chosen = [client for clients in inside.values() for client in clients[:count]]
    for client in chosen:
        client.sendall(REFUSED)
        refusal(client)
    return chosen


def accepted_by(workers: Iterable[int], client: socket.socket) -> int:
    """Which of the workers has the other end of a client's connection (proc(5), net/tcp)."""
    for _ in ticks():
        for worker in workers:
            if set(files_of(worker).values()) & sockets_opposite(client):
                return worker
    raise AssertionError("nobody accepts")


def sockets_opposite(client: socket.socket) -> set[str]:
    """The other end of a connection, as an open file; none before it was accepted."""
    ours = f":{client.getsockname()[1]:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{fields[9]}]" for fields in lines if fields[2].endswith(ours) and fields[9] != "0"}


def refusal(client: socket.socket) -> None:
    """Take the answer to one REFUSED, to its last octet."""
    head = read_until(client, b"\r\n\r\n")
    assert b"403 Forbidden: address_denied" in head
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while length:
        length -= len(client.recv(length))


def tunnels(scene: Scene, proxy: Daemon, stack: ExitStack) -> list[socket.socket]:
    """A tunnel through each of two workers."""
    clients = at_each(proxy, stack)
    for client in clients:
        client.sendall(f"CONNECT {scene.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in read_until(client, b"\r\n\r\n")
    return clients


def use(client: socket.socket) -> None:
    """Send something through a tunnel, which ends it."""
    client.sendall(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_until(client, b"octets").endswith(b"and 0 octets")


def refuses(proxy: Daemon) -> bool:
    """Whether nobody listens any more."""
    try:
        proxy.connect().close()
    except ConnectionResetError:
        return False
    except ConnectionRefusedError:
        return True
    return False


# Deaths


def test_a_killed_worker_is_replaced_and_connections_made_meanwhile_are_served(pair: Daemon) -> None:
    """The supervisor keeps the listeners: with every worker dead, and itself stopped, a client connects and waits."""
    before = pair.workers()
    with ExitStack() as stack:
        with stopped(pair.pid):
            for worker in before:
                os.kill(worker, signal.SIGKILL)
            until(lambda: all(gone(worker) for worker in before), "they live")
            clients = [stack.enter_context(pair.connect()) for _ in range(20)]
            for client in clients:
                client.sendall(REFUSED)
        for client in clients:
            refusal(client)
    pair.wait_for_start(4)
    assert len(pair.workers()) == 2
    assert not set(before) & set(pair.workers())
    assert "a worker ended (signal 9); another is started in 0.1 s, connections wait\n" in pair.complaints()
    assert pair.stop() == 0


def test_a_worker_that_dies_takes_no_siblings_connections_with_it(scene: Scene, pair: Daemon) -> None:
    with ExitStack() as stack:
        first, second = tunnels(scene, pair, stack)
        one, other = pair.workers()
        os.kill(one, signal.SIGKILL)
        assert first.recv(1) == b""
        use(second)
        assert other in pair.workers()


def test_r12_workers_that_cannot_start_are_tried_again_until_they_can(scene: Scene, tmp_path: Path) -> None:
    """No audit, no worker; and the supervisor, whose listeners hold those who wait, does not end for that."""
    folder = tmp_path / "logs"
    folder.mkdir()
    proxy = scene.start(f'[audit]\nto = "{folder}/audit.jsonl"\n')
    log = folder / "audit.jsonl"
    until(lambda: log.exists() and '"start"' in log.read_text() and proxy.workers(), "no worker")
    folder.rename(tmp_path / "gone")
    os.kill(proxy.workers()[0], signal.SIGKILL)
    until(lambda: "a worker cannot start: " in proxy.complaints(), "it starts")
    with proxy.connect() as client:
        client.sendall(REFUSED)
        (tmp_path / "gone").rename(folder)
        refusal(client)
    assert "a worker ended (exit status 1); another is started in 0.2 s, connections wait\n" in proxy.complaints()


def test_no_zombie_is_left_of_workers_that_died(pair: Daemon) -> None:
    dead: set[int] = set()
    for number in range(3):
        for worker in pair.workers():
            os.kill(worker, signal.SIGKILL)
            dead.add(worker)
        pair.wait_for_start(4 + 2 * number)
    assert not [pid for pid in dead if Path(f"/proc/{pid}").exists()]


def test_a_supervisor_whose_parent_ignored_sigchld_still_replaces_workers(scene: Scene) -> None:
    """SIG_IGN is inherited over exec(2); the kernel would tell of no death, and reap the dead itself."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        proxy = scene.start()
    finally:
        signal.signal(signal.SIGCHLD, before)
    proxy.wait_for_start()
    os.kill(proxy.workers()[0], signal.SIGKILL)
    proxy.wait_for_start(2)


# Ends


def ends_when_used(proxy: Daemon, clients: list[socket.socket]) -> None:
    """Hold that nobody is let in and every tunnel lives; then let them end, and all of proxyd with them."""
    until(lambda: refuses(proxy), "somebody still listens")
    for client in clients:
        use(client)
        assert client.recv(1) == b""


def own(proxy: Daemon, number: signal.Signals) -> None:
    """Signal the one process that an operator knows."""
    proxy.signal(number)


def everybody(proxy: Daemon, number: signal.Signals) -> None:
    """Signal all at once, as a terminal does on Ctrl-C, and systemd when it stops a unit."""
    os.killpg(proxy.pid, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("send", [own, everybody])
def test_the_end_drains_every_worker(
    scene: Scene, pair: Daemon, send: Callable[[Daemon, signal.Signals], None], number: signal.Signals
) -> None:
    """One end, also for those who hear of it twice: what runs has its hour. And nobody is let in meanwhile."""
    with ExitStack() as stack:
        clients = tunnels(scene, pair, stack)
        send(pair, number)
        ends_when_used(pair, clients)
    assert pair.wait() == 0
    assert sorted(record["event"] for record in pair.lines())[-4:] == ["start", "start", "stop", "stop"]
    assert {record["outcome"] for record in pair.closings()} == {"refused", "closed"}
    assert "ended" not in pair.complaints()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("send", [own, everybody])
def test_a_second_signal_ends_every_worker_at_once(
    scene: Scene, pair: Daemon, send: Callable[[Daemon, signal.Signals], None], number: signal.Signals
) -> None:
    """And what is cut off has its closing record."""
    with ExitStack() as stack:
        tunnels(scene, pair, stack)
        send(pair, number)
        until(lambda: refuses(pair), "somebody still listens")
        send(pair, number)
        assert pair.wait() == 0
    assert [record["outcome"] for record in pair.closings()].count("aborted") == 2
    assert [record["event"] for record in pair.lines()].count("stop") == 2


def test_workers_whose_supervisor_was_killed_drain_and_end(scene: Scene, pair: Daemon) -> None:
    """They neither cut off what runs, nor go on for ever without anybody to end them; and the port is free at once."""
    workers = pair.workers()
    with ExitStack() as stack:
        clients = tunnels(scene, pair, stack)
        pair.signal(signal.SIGKILL)
        assert pair.wait() == -signal.SIGKILL
        ends_when_used(pair, clients)
    until(lambda: all(gone(worker) for worker in workers), "a worker without a supervisor")
    assert [record["event"] for record in pair.lines()].count("stop") == 2


def test_a_worker_that_somebody_ends_drains_and_is_replaced(scene: Scene, pair: Daemon) -> None:
    """To end one of them is not to end proxyd."""
    with ExitStack() as stack:
        first, second = tunnels(scene, pair, stack)
        one, _ = pair.workers()
        os.kill(one, signal.SIGTERM)
        use(first)
        first.close()
        pair.wait_for_start(3)
        use(second)
        assert "a worker ended (exit status 0); another is started in " in pair.complaints()


def test_a_terminal_that_closes_ends_nobody(pair: Daemon) -> None:
    """SIGHUP goes to all of them, and the workers once died of it: it is the supervisor's, who reloads."""
    workers = pair.workers()
    with ExitStack() as stack:
        clients = at_each(pair, stack)
        everybody(pair, signal.SIGHUP)
        until(pair.reloads, "it is not heard")
        for client in clients:
            client.sendall(REFUSED)
            refusal(client)
    assert pair.workers() == workers


# The audit log


def _has_changed(worker: int, log: Path, moved: Path) -> bool:
    files = files_of(worker).values()
    return str(log) in files and str(moved) not in files


def test_sigusr1_reaches_every_worker(scene: Scene, tmp_path: Path) -> None:
    """Each opens the new file, and none holds on to the old one, whether it has something to write or not."""
    log, moved = tmp_path / "audit.log", tmp_path / "audit.log.1"
    proxy = scene.start(f'[audit]\nto = "{log}"\n', workers=2)
    until(lambda: log.exists() and log.read_text().count('"start"') == 2, "no workers")
    log.rename(moved)
    proxy.signal(signal.SIGUSR1)
    for worker in proxy.workers():
        until(partial(_has_changed, worker, log, moved), "it was not opened again")
    assert str(moved) not in files_of(proxy.pid).values()


@pytest.mark.parametrize("to", ["stdout", "{folder}/audit.log"])
def test_the_lines_of_several_workers_never_interleave(scene: Scene, tmp_path: Path, to: str) -> None:
    """2,000 requests over both of them, four connections each at the same time: 4,000 whole lines, and two each."""
    log = tmp_path / "audit.log"
    proxy = scene.start(f'[audit]\nto = "{to.format(folder=tmp_path)}"\n', workers=2)
    if to == "stdout":
        log = proxy.audit
    until(lambda: log.exists() and log.read_text().count('"start"') == 2, "no workers")
    failed: list[BaseException] = []

    def ask(client: socket.socket) -> None:
        try:
            for _ in range(249):
                client.sendall(REFUSED)
                refusal(client)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    with ExitStack() as stack:
        threads = [threading.Thread(target=ask, args=(client,)) for client in at_each(proxy, stack, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert proxy.stop() == 0
    records = [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1] if line]
    events = [record["event"] for record in records]
    assert {event: events.count(event) for event in events} == {"start": 2, "decision": 2000, "close": 2000, "stop": 2}
    for event in ("decision", "close"):
        assert len({record["id"] for record in records if record["event"] == event}) == 2000
    assert all(record["connections"] >= 4 for record in records if record["event"] == "stop")


# What a worker has, and what not


def test_r7_no_policy_text_and_no_secret_is_in_an_argument_or_the_environment(scene: Scene) -> None:
    """Every account of the host may read the arguments of every process."""
    row = f'[[deny]]\nname = "{SECRET}"\nhosts = ["{SECRET}.example"]\nreason = "{SECRET}"\n'
    proxy = scene.start(row, workers=2, env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)})
    proxy.wait_for_start(2)
    for worker in proxy.workers():
        said = Path(f"/proc/{worker}/cmdline").read_bytes().split(b"\0")[:-1]
        assert said == [sys.executable.encode(), b"-P", b"-m", b"proxyd.serve"]
        assert SECRET.encode() not in Path(f"/proc/{worker}/environ").read_bytes()
    assert SECRET.encode() not in Path(f"/proc/{proxy.pid}/cmdline").read_bytes()


def test_a_worker_has_nothing_but_what_it_needs(pair: Daemon) -> None:
    """Above all not the channel of a sibling: its end would never be told to whoever waits for it."""
    supervisor = set(files_of(pair.pid).values())
    shared = {}
    for worker in pair.workers():
        files = files_of(worker)
        assert files[0].startswith("socket:")  # its channel
        assert files[0] not in supervisor  # who has the other end
        assert (files[1], files[2]) == (str(pair.audit), str(pair.errors))
        assert not any("proxyd-handover" in file or file == str(pair.policy) for file in files.values())
        shared[worker] = {file for file in files.values() if file.startswith("socket:")} & supervisor
    assert [len(listeners) for listeners in shared.values()] == [1, 1]
    assert len(set.union(*shared.values())) == 2


def test_a_worker_hears_the_signals_that_are_for_it_and_ignores_the_others(pair: Daemon) -> None:
    """It is started with the supervisor's blocked, and must not stay so."""
    for worker in pair.workers():
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines())
        masks = {name: int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")}
        numbers = {name: {n for n in range(1, 32) if mask >> (n - 1) & 1} for name, mask in masks.items()}
        assert numbers["SigBlk"] == set()
        assert {signal.SIGINT, signal.SIGHUP} <= numbers["SigIgn"]
        assert {signal.SIGTERM, signal.SIGUSR1} <= numbers["SigCgt"]


def test_a_second_proxyd_at_the_same_port_is_69_also_while_no_worker_lives(pair: Daemon, tmp_path: Path) -> None:
    """The port is the supervisor's: two proxyds never share one, whose policies might differ."""
    policy = tmp_path / "second.toml"
    policy.write_text(pair.policy.read_text().replace("127.0.0.1:0", f"127.0.0.1:{pair.port}"))
    with stopped(pair.pid):
        for worker in pair.workers():
            os.kill(worker, signal.SIGKILL)
        until(lambda: not pair.workers(), "they live")
        command = [sys.executable, "-m", "proxyd", "--policy", str(policy)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - our own
    assert (answer.returncode, answer.stderr.count("\n")) == (69, 1)
    assert "somebody listens there already" in answer.stderr
