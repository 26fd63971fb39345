"""A running worker, on real sockets and with real signals to this very process: it starts, drains, reopens, ends."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import dns.message
import dns.rcode
import pytest
import trio
from netaddr import IPAddress, IPNetwork

from proxyd.audit.sink import FileSink, SinkError
from proxyd.net.listening import bind, bound_to
from proxyd.policy.address import Endpoint
from proxyd.policy.model import Own
from proxyd.serve import worker as worker_module
from proxyd.serve.complaints import Complaints
from proxyd.serve.current import CurrentPolicy
from proxyd.serve.handover import AT_ONCE, Files, Handover
from proxyd.serve.judge import Judge
from proxyd.serve.worker import serve, utc_now
from tests.serve.scene import SCHEMA, VIA, Peer, connect, get, policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from proxyd.audit.record import Record
    from proxyd.policy.model import Policy

PATIENCE: Final = 20.0
"""Real seconds until a test gives up; a drain that is not meant to be waited for takes an hour."""


class Log(FileSink):
    """The audit log, in a file; `started` once the worker is."""

    def __init__(self, path: Path, broken: str | None = None) -> None:
        super().__init__(str(path))
        self.records: list[Record] = []
        self.started = trio.Event()
        self._broken = broken

    def write(self, record: Record) -> None:
        self.records.append(record)
        self.started.set()
        if self._broken is not None:
            raise SinkError(self._broken)
        super().write(record)


class Worker:
    """A worker that runs. ended: once `serve` has returned."""

    def __init__(self, log: Log, where: Endpoint, supervisor: int) -> None:
        self.log = log
        self.where = where
        self.ended = trio.Event()
        self._supervisor = supervisor

    def lose_supervisor(self) -> None:
        """Let go of the other end of its leash, as the kernel does when a supervisor ends."""
        if self._supervisor >= 0:
            os.close(self._supervisor)
            self._supervisor = -1

    async def client(self) -> Peer:
        """A new connection to it."""
        return Peer(await stream_to(self.where))

    async def tunnel(self, to: Endpoint) -> Peer:
        """A tunnel through it."""
        client = await self.client()
        await client.stream.send_all(connect(str(to)))
        assert (await client.until(b"\r\n\r\n")).split()[1] == b"200"
        return client

    def events(self) -> list[str]:
        """What is on record."""
        return [record.event for record in self.log.records]


async def stream_to(where: Endpoint) -> trio.SocketStream:
    """A connection; nothing is looked up."""
    sock = trio.socket.socket()
    try:
        await sock.connect((str(where.address), where.port))
    except OSError:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def refuses(where: Endpoint) -> bool:
    """Whether nobody listens there; one who is about to stop may still have reset us."""
    try:
        await (await stream_to(where)).aclose()
    except ConnectionResetError:
        return False
    except ConnectionRefusedError:
        return True
    return False


def handover(servers: tuple[Endpoint, ...] = (), workers: int = 1) -> Handover:
    """What the worker is handed, but for the policy, which it was given already."""
    return Handover(name="test.toml", day=dt.date(2026, 8, 1), files=Files(), servers=servers, via=VIA, workers=workers)


@asynccontextmanager
async def running(log: Log, policy: Policy, handed: Handover | None = None) -> AsyncIterator[Worker]:
    """A worker; in the end it is told to go, should it not have gone yet."""
    (sock,) = bind(Endpoint(IPAddress("127.0.0.1"), 0))
    leash, supervisor = os.pipe()
    worker = Worker(log, bound_to(sock), supervisor)
    try:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await serve(policy, handed or handover(), [sock], log, Complaints(), leash)
                    worker.ended.set()

                nursery.start_soon(run)
                await log.started.wait()  # from now on, a signal ends the worker and not the tests
                yield worker
                nursery.cancel_scope.cancel()
    finally:
        worker.lose_supervisor()
        os.close(leash)
        log.close()


@asynccontextmanager
async def echo(*, as_http: bool = False) -> AsyncIterator[Endpoint]:
    """An origin on this host that echoes: bytes, or a request as the body of its answer."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]

    async def handle(stream: trio.SocketStream) -> None:
        async for data in stream:
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) if as_http else b""
            await stream.send_all(head + data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield bound_to_trio(listener)
        nursery.cancel_scope.cancel()


def bound_to_trio(listener: trio.SocketListener) -> Endpoint:
    """Where it listens."""
    host, port = listener.socket.getsockname()
    return Endpoint(IPAddress(host), port)


def permitting(origin: Endpoint, drain_seconds: float = 3600.0) -> Policy:
    """A policy under which this origin may be reached, and the drain takes as long as said."""
    permit = f"""
[[permit]]
reason = "a test"
host = "{origin.address}"
ports = [{origin.port}]
networks = ["{origin.address}/32"]
"""
    made = policy(permit)
    limits: Any = replace(made.limits, drain_seconds=drain_seconds)  # type: ignore[arg-type] # fractions, for haste
    return replace(made, limits=limits)


def send(number: signal.Signals) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


async def test_a_worker_says_where_it_listens_and_how_many_it_served(tmp_path: Path) -> None:
    """R7: its own beginning and end are on record, under the policy's name and digest."""
    made = policy()
    async with running(Log(tmp_path / "log"), made) as worker:
        for _ in range(2):
            client = await worker.client()
            await client.stream.send_all(get("http://127.0.0.1/", "Connection: close"))
            assert b"address_denied" in await client.rest()
            await client.leave()
        send(signal.SIGTERM)
        await worker.ended.wait()
    start, *_, stop = worker.log.records
    assert worker.events() == ["start", "decision", "close", "decision", "close", "stop"]
    assert (start.listening, start.policy, start.digest) == ((str(worker.where),), "gateway", made.digest[:16])
    assert (stop.connections, stop.policy) == (2, "gateway")
    assert start.pid == stop.pid == os.getpid()
    lines = (tmp_path / "log").read_bytes().splitlines()
    for line in lines:
        SCHEMA.validate(json.loads(line))
    assert len(lines) == 6


def supervisor_gone(worker: Worker) -> None:
    """The other way of being told to end."""
    worker.lose_supervisor()


def sigterm(_: Worker) -> None:
    """The one way."""
    send(signal.SIGTERM)


@pytest.mark.parametrize("end", [sigterm, supervisor_gone])
async def test_the_end_lets_idle_connections_go_at_once_and_accepts_no_more(
    tmp_path: Path, end: Callable[[Worker], None]
) -> None:
    """ATTACKS 8 (SIGTERM): who waits for nothing is not waited for."""
    async with running(Log(tmp_path / "log"), policy("[limits]\ndrain_seconds = 3600")) as worker:
        clients = [await worker.client() for _ in range(3)]
        await clients[0].stream.send_all(get("http://127.0.0.1/"))
        await clients[0].answer()
        end(worker)
        for client in clients:
            assert await client.rest() == b""
        await worker.ended.wait()
        assert await refuses(worker.where)
        for client in clients:
            await client.leave()
    assert worker.events()[-1] == "stop"


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param((sigterm,), id="sigterm"),
        pytest.param((supervisor_gone,), id="supervisor-gone"),
        pytest.param((sigterm, sigterm), id="twice"),
        pytest.param((sigterm, supervisor_gone), id="sigterm-then-supervisor-gone"),
        pytest.param((supervisor_gone, sigterm), id="supervisor-gone-then-sigterm"),
    ],
)
async def test_the_end_lets_what_runs_finish_and_takes_nobody_in_meanwhile(
    tmp_path: Path, ends: tuple[Callable[[Worker], None], ...]
) -> None:
    """ATTACKS 8 (SIGTERM with open tunnels): listeners are closed while sessions live on.

    A service manager signals every process of a service, and the supervisor signals, too: the second SIGTERM that a
    worker hears is nobody's hurry.
    """
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        client = await worker.tunnel(origin)
        for end in ends:
            end(worker)
            while not await refuses(worker.where):
                pass
        assert not worker.ended.is_set()
        await client.stream.send_all(b"still here")
        assert await client.exactly(10) == b"still here"
        await client.leave()
        await worker.ended.wait()
    (close,) = [record for record in worker.log.records if record.event == "close"]
    assert (close.outcome, close.bytes_up, close.bytes_down) == ("closed", 10, 10)
    assert worker.events() == ["start", "decision", "close", "stop"]


async def test_the_end_waits_for_as_long_as_the_policy_says_and_cuts_off_then(tmp_path: Path) -> None:
    """DESIGN: grace is a deadline; what is cut off has its closing record all the same."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin, 0.1)) as worker:
        client = await worker.tunnel(origin)
        began = trio.current_time()
        send(signal.SIGTERM)
        await worker.ended.wait()
        assert trio.current_time() - began >= 0.1
        assert await client.rest() == b""
        await client.leave()
    assert worker.events() == ["start", "decision", "close", "stop"]
    assert worker.log.records[2].outcome == "aborted"


async def test_who_asks_for_the_end_again_and_again_does_not_put_it_off(tmp_path: Path) -> None:
    """The drain begins once, and ends when it was to end."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin, 0.5)) as worker:
        client = await worker.tunnel(origin)
        while not worker.ended.is_set():
            send(signal.SIGTERM)
            with trio.move_on_after(0.05):
                await worker.ended.wait()
        await client.leave()
    assert worker.events() == ["start", "decision", "close", "stop"]


@pytest.mark.parametrize("first", [signal.SIGTERM, None])
async def test_what_the_supervisor_says_when_it_is_asked_twice_ends_at_once(
    tmp_path: Path, first: signal.Signals | None
) -> None:
    """An operator who asks twice means it; the drain would take an hour. Also one that had not begun to drain."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        client = await worker.tunnel(origin)
        if first is not None:
            send(first)
            while not await refuses(worker.where):
                pass
        assert not worker.ended.is_set()
        send(AT_ONCE)
        await worker.ended.wait()
        assert await refuses(worker.where)
        await client.leave()
    assert worker.events() == ["start", "decision", "close", "stop"]
    assert worker.log.records[2].outcome == "aborted"


@pytest.mark.parametrize("number", [signal.SIGTERM, AT_ONCE])
async def test_a_signal_that_came_before_it_could_be_heard_is_heard(tmp_path: Path, number: signal.Signals) -> None:
    """The supervisor starts it with its signals blocked: one that comes while Python starts is not lost, nor kills."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        signal.raise_signal(number)
        async with running(Log(tmp_path / "log"), policy("[limits]\ndrain_seconds = 3600")) as worker:
            await worker.ended.wait()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    finally:
        signal.sigtimedwait([number], 0)  # were it lost, it would kill the tests now
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert worker.events() == ["start", "stop"]


async def test_sigusr1_reopens_the_audit_log(tmp_path: Path) -> None:
    """logrotate: the next record is in the new file, and the one that was moved away is complete."""
    path, moved = tmp_path / "log", tmp_path / "log.1"
    async with running(Log(path), policy()) as worker:
        path.rename(moved)
        send(signal.SIGUSR1)
        while not path.exists():  # noqa: ASYNC110 - the file is the event
            await trio.sleep(0.001)
        assert not worker.ended.is_set()
        send(signal.SIGTERM)
        await worker.ended.wait()
    assert b'"event":"start"' in moved.read_bytes()
    assert b'"event":"stop"' in path.read_bytes()
    assert b'"event":"stop"' not in moved.read_bytes()


async def test_an_audit_log_that_cannot_be_reopened_is_complained_about_and_the_old_one_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """R12: there is no gap in the trail."""
    folder = tmp_path / "folder"
    folder.mkdir()
    async with running(Log(folder / "log"), policy()) as worker:
        folder.rename(tmp_path / "gone")
        send(signal.SIGUSR1)
        said = ""
        while not said:
            await trio.sleep(0.001)
            said = capfd.readouterr().err
        assert said == "proxyd: audit log: could not be reopened: No such file or directory\n"
        send(signal.SIGTERM)
        await worker.ended.wait()
    assert b'"event":"stop"' in (tmp_path / "gone" / "log").read_bytes()


async def test_a_beginning_and_an_end_that_cannot_be_recorded_are_complained_about(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """R12: nothing is connected to by starting; each request is refused."""
    async with running(Log(tmp_path / "log", "No space left on device"), policy()) as worker:
        client = await worker.client()
        await client.stream.send_all(connect("93.184.216.34:443"))
        assert (await client.answer()).reason == "audit_unwritable"
        await client.leave()
        send(signal.SIGTERM)
        await worker.ended.wait()
    said = capfd.readouterr().err
    for event in ("start", "decision", "stop"):
        assert f"proxyd: audit log: a {event} record could not be written: No space left on device\n" in said


async def test_a_worker_does_not_connect_to_itself(tmp_path: Path) -> None:
    """ATTACKS 2.17: not even where a permit says so; it knows its own ports."""
    log = Log(tmp_path / "log")
    everything = permitting(Endpoint(IPAddress("127.0.0.1"), 1))
    (permit,) = everything.permit
    made = replace(everything, permit=(replace(permit, ports=(range(1, 65536),)),))
    async with running(log, made) as worker:
        client = await worker.client()
        await client.stream.send_all(connect(str(worker.where)))
        assert (await client.answer()).reason == "address_locked"
        await client.leave()


async def test_the_bound_addresses_are_our_own_whatever_the_host_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ATTACKS 2.17: also where the host tells nothing of itself, as beside Linux; and the host's stay ours, too."""
    made: list[CurrentPolicy] = []

    class Noted(CurrentPolicy):
        def __init__(self, *what: Any) -> None:  # noqa: ANN401 - handed through as it is
            super().__init__(*what)
            made.append(self)

    monkeypatch.setattr(worker_module, "CurrentPolicy", Noted)
    for told in (frozenset[IPNetwork](), frozenset({IPNetwork("198.51.100.0/24")})):
        monkeypatch.setattr(worker_module, "own_addresses", lambda told=told: told)
        async with running(Log(tmp_path / "log"), policy()) as worker:
            assert made[-1]().own == Own(frozenset({worker.where.port}), told | {IPNetwork(worker.where.address)})


async def test_a_worker_that_cannot_know_its_own_addresses_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: nothing is served, nothing begun."""

    def unreadable() -> frozenset[IPNetwork]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(worker_module, "own_addresses", unreadable)
    log = Log(tmp_path / "log")
    (sock,) = bind(Endpoint(IPAddress("127.0.0.1"), 0))
    with sock, pytest.raises(PermissionError):
        await serve(policy(), handover(), [sock], log, pytest.fail, -1)
    log.close()
    assert log.records == []


async def test_a_worker_asks_the_servers_it_was_handed(tmp_path: Path) -> None:
    """R3: and takes their no for an answer."""
    with trio.socket.socket(type=socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        host, port = server.getsockname()
        asked: set[str] = set()

        async def answer() -> None:
            while True:
                packet, sender = await server.recvfrom(4096)
                query = dns.message.from_wire(packet)
                asked.add(str(query.question[0].name))
                response = dns.message.make_response(query)
                response.set_rcode(dns.rcode.NXDOMAIN)
                await server.sendto(response.to_wire(), sender)

        made = policy('[[deny]]\nname = "denied"\nreason = "a test"\nhosts = ["denied.example"]')
        async with (
            running(Log(tmp_path / "log"), made, handover((Endpoint(IPAddress(host), port),))) as worker,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(answer)
            client = await worker.client()
            await client.stream.send_all(get("http://denied.example/"))
            assert (await client.answer()).reason == "name_denied"
            await client.stream.send_all(get("http://nowhere.example/"))
            assert (await client.answer()).reason == "dns_error"
            await client.leave()
            nursery.cancel_scope.cancel()
    assert asked == {"nowhere.example."}


@pytest.mark.parametrize(("connections", "workers", "most"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (5, 2, 2), (1, 2, 1)])
async def test_a_worker_takes_in_its_share_of_what_the_policy_says(
    tmp_path: Path, connections: int, workers: int, most: int
) -> None:
    """R10: all workers together no more than that; and each at least one, or it would serve nobody."""
    made = policy(f"[limits]\nconnections = {connections}")
    async with running(Log(tmp_path / "log"), made, handover(workers=workers)) as worker:
        inside = [await worker.client() for _ in range(most)]
        for client in inside:
            await client.stream.send_all(get("http://127.0.0.1/"))
            assert (await client.answer()).reason == "address_denied"
        late = await worker.client()
        assert (await late.answer()).reason == "connection_limit"
        for client in (*inside, late):
            await client.leave()


async def test_a_worker_bears_the_name_it_was_handed_in_via(tmp_path: Path) -> None:
    """ATTACKS 4.13: the same as its siblings, or a loop through another of them would be none."""
    async with echo(as_http=True) as origin, running(Log(tmp_path / "log"), permitting(origin)) as worker:
        client = await worker.client()
        await client.stream.send_all(get(f"http://{origin}/"))
        assert f"Via: 1.1 {VIA}\r\n" in (await client.answer()).body.decode()
        await client.stream.send_all(get(f"http://{origin}/", f"Via: 1.1 {VIA}"))
        assert (await client.answer()).reason == "loop_detected"
        await client.leave()


async def test_what_was_decided_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No work twice: one worker has one judge, whoever connects."""
    judges: list[Judge] = []

    class Noted(Judge):
        def __init__(self) -> None:
            super().__init__()
            judges.append(self)

    monkeypatch.setattr(worker_module, "Judge", Noted)
    async with running(Log(tmp_path / "log"), policy()) as worker:
        for _ in range(3):
            client = await worker.client()
            await client.stream.send_all(get("http://127.0.0.1/"))
            assert (await client.answer()).reason == "address_denied"
            await client.leave()
    (judge,) = judges
    assert len(judge._verdicts) == 1  # noqa: SLF001 - what is remembered shows nowhere else


def test_the_time_of_day_is_in_utc() -> None:
    """R7, DESIGN: permits end at 00:00 UTC, and the records say so."""
    before = dt.datetime.now(dt.UTC)
    now = utc_now()
    assert now.tzinfo is dt.UTC
    assert before <= now <= dt.datetime.now(dt.UTC)
