"""The running proxy, on real sockets and with real signals to this very process: it starts, drains, reopens, ends."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import dns.message
import dns.rcode
import pytest
import trio
from netaddr import IPAddress, IPNetwork

from proxyd.audit.sink import FileSink, SinkError
from proxyd.policy.address import Endpoint
from proxyd.policy.model import Own
from proxyd.serve import daemon as daemon_module
from proxyd.serve.current import CurrentPolicy
from proxyd.serve.daemon import serve, utc_now
from proxyd.serve.listener import bind, bound_to
from tests.serve.scene import SCHEMA, Peer, connect, get, policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxyd.audit.record import Record
    from proxyd.policy.model import Policy

SOON: Final = 0.5
"""Real seconds that are far less than any deadline here that is not meant."""


class Log(FileSink):
    """The audit log, in a file; `started` once the daemon is."""

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


class Daemon:
    """A daemon that runs. ended: once `serve` has returned."""

    def __init__(self, log: Log, where: Endpoint) -> None:
        self.log = log
        self.where = where
        self.ended = trio.Event()

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


@asynccontextmanager
async def running(log: Log, policy: Policy, servers: tuple[Endpoint, ...] = ()) -> AsyncIterator[Daemon]:
    """A daemon; in the end it is told to go, should it not have gone yet."""
    sock = bind(Endpoint(IPAddress("127.0.0.1"), 0))
    daemon = Daemon(log, bound_to(sock))
    try:
        with trio.fail_after(5.0):
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await serve(policy, [sock], servers, log)
                    daemon.ended.set()

                nursery.start_soon(run)
                await log.started.wait()  # from now on, a signal ends the daemon and not the tests
                yield daemon
                nursery.cancel_scope.cancel()
    finally:
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


async def test_a_daemon_says_where_it_listens_and_how_many_it_served(tmp_path: Path) -> None:
    """R7: its own beginning and end are on record, under the policy's name and digest."""
    made = policy()
    async with running(Log(tmp_path / "log"), made) as daemon:
        for _ in range(2):
            client = await daemon.client()
            await client.stream.send_all(get("http://127.0.0.1/", "Connection: close"))
            assert b"address_denied" in await client.rest()
            await client.leave()
        send(signal.SIGTERM)
        await daemon.ended.wait()
    start, *_, stop = daemon.log.records
    assert daemon.events() == ["start", "decision", "close", "decision", "close", "stop"]
    assert (start.listening, start.policy, start.digest) == ((str(daemon.where),), "gateway", made.digest[:16])
    assert (stop.connections, stop.policy) == (2, "gateway")
    lines = (tmp_path / "log").read_bytes().splitlines()
    for line in lines:
        SCHEMA.validate(json.loads(line))
    assert len(lines) == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_end_lets_idle_connections_go_at_once_and_accepts_no_more(
    tmp_path: Path, number: signal.Signals
) -> None:
    """ATTACKS 8 (SIGTERM): who waits for nothing is not waited for."""
    async with running(Log(tmp_path / "log"), policy()) as daemon:
        clients = [await daemon.client() for _ in range(3)]
        await clients[0].stream.send_all(get("http://127.0.0.1/"))
        await clients[0].answer()
        began = trio.current_time()
        send(number)
        for client in clients:
            assert await client.rest() == b""
        await daemon.ended.wait()
        assert trio.current_time() - began < SOON
        assert await refuses(daemon.where)
        for client in clients:
            await client.leave()
    assert daemon.events()[-1] == "stop"


async def test_the_end_lets_what_runs_finish_and_takes_nobody_in_meanwhile(tmp_path: Path) -> None:
    """ATTACKS 8 (SIGTERM with open tunnels): listeners are closed while sessions live on."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as daemon:
        client = await daemon.tunnel(origin)
        send(signal.SIGTERM)
        while not await refuses(daemon.where):
            pass
        assert not daemon.ended.is_set()
        await client.stream.send_all(b"still here")
        assert await client.exactly(10) == b"still here"
        await client.leave()
        await daemon.ended.wait()
    (close,) = [record for record in daemon.log.records if record.event == "close"]
    assert (close.outcome, close.bytes_up, close.bytes_down) == ("closed", 10, 10)
    assert daemon.events() == ["start", "decision", "close", "stop"]


async def test_the_end_waits_for_as_long_as_the_policy_says_and_cuts_off_then(tmp_path: Path) -> None:
    """DESIGN: grace is a deadline; what is cut off has its closing record all the same."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin, 0.1)) as daemon:
        client = await daemon.tunnel(origin)
        began = trio.current_time()
        send(signal.SIGTERM)
        await daemon.ended.wait()
        assert 0.1 <= trio.current_time() - began < 0.1 + SOON
        assert await client.rest() == b""
        await client.leave()
    assert daemon.events() == ["start", "decision", "close", "stop"]
    assert daemon.log.records[2].outcome == "aborted"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    """An operator who asks twice means it; the drain would take an hour."""
    async with echo() as origin, running(Log(tmp_path / "log"), permitting(origin)) as daemon:
        client = await daemon.tunnel(origin)
        began = trio.current_time()
        send(signal.SIGTERM)
        await trio.sleep(0.02)
        assert not daemon.ended.is_set()
        send(second)
        await daemon.ended.wait()
        assert trio.current_time() - began < SOON
        await client.leave()
    assert daemon.events() == ["start", "decision", "close", "stop"]


async def test_sigusr1_reopens_the_audit_log(tmp_path: Path) -> None:
    """logrotate: the next record is in the new file, and the one that was moved away is complete."""
    path, moved = tmp_path / "log", tmp_path / "log.1"
    async with running(Log(path), policy()) as daemon:
        path.rename(moved)
        began = time.monotonic()
        send(signal.SIGUSR1)
        while not path.exists():  # noqa: ASYNC110 - the file is the event
            await trio.sleep(0.001)
        assert time.monotonic() - began < SOON
        assert not daemon.ended.is_set()
        send(signal.SIGTERM)
        await daemon.ended.wait()
    assert b'"event":"start"' in moved.read_bytes()
    assert b'"event":"stop"' in path.read_bytes()
    assert b'"event":"stop"' not in moved.read_bytes()


async def test_an_audit_log_that_cannot_be_reopened_is_complained_about_and_the_old_one_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """R12: there is no gap in the trail."""
    folder = tmp_path / "folder"
    folder.mkdir()
    async with running(Log(folder / "log"), policy()) as daemon:
        folder.rename(tmp_path / "gone")
        send(signal.SIGUSR1)
        said = ""
        while not said:
            await trio.sleep(0.001)
            said = capfd.readouterr().err
        assert said == "proxyd: audit log: could not be reopened: No such file or directory\n"
        send(signal.SIGTERM)
        await daemon.ended.wait()
    assert b'"event":"stop"' in (tmp_path / "gone" / "log").read_bytes()


async def test_sighup_is_complained_about_and_otherwise_ignored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A terminal that closes, or an operator who hopes for a reload, ends nothing; the policy stays what it was."""
    async with running(Log(tmp_path / "log"), policy()) as daemon:
        client = await daemon.client()
        send(signal.SIGHUP)
        said = ""
        while not said:
            await trio.sleep(0.001)
            said = capfd.readouterr().err
        assert said == "proxyd: SIGHUP: this version does not reload its policy; restart it to run another one\n"
        await client.stream.send_all(get("http://127.0.0.1/"))
        assert (await client.answer()).reason == "address_denied"
        assert not daemon.ended.is_set()
        await client.leave()
        send(signal.SIGTERM)
        await daemon.ended.wait()
    assert daemon.events() == ["start", "decision", "close", "stop"]


async def test_a_beginning_and_an_end_that_cannot_be_recorded_are_complained_about(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """R12: nothing is connected to by starting; each request is refused."""
    async with running(Log(tmp_path / "log", "No space left on device"), policy()) as daemon:
        client = await daemon.client()
        await client.stream.send_all(connect("93.184.216.34:443"))
        assert (await client.answer()).reason == "audit_unwritable"
        await client.leave()
        send(signal.SIGTERM)
        await daemon.ended.wait()
    said = capfd.readouterr().err
    for event in ("start", "decision", "stop"):
        assert f"proxyd: audit log: a {event} record could not be written: No space left on device\n" in said


async def test_a_daemon_does_not_connect_to_itself(tmp_path: Path) -> None:
    """ATTACKS 2.17: not even where a permit says so; it knows its own ports."""
    log = Log(tmp_path / "log")
    everything = permitting(Endpoint(IPAddress("127.0.0.1"), 1))
    (permit,) = everything.permit
    made = replace(everything, permit=(replace(permit, ports=(range(1, 65536),)),))
    async with running(log, made) as daemon:
        client = await daemon.client()
        await client.stream.send_all(connect(str(daemon.where)))
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

    monkeypatch.setattr(daemon_module, "CurrentPolicy", Noted)
    for told in (frozenset[IPNetwork](), frozenset({IPNetwork("198.51.100.0/24")})):
        monkeypatch.setattr(daemon_module, "own_addresses", lambda told=told: told)
        async with running(Log(tmp_path / "log"), policy()) as daemon:
            assert made[-1]().own == Own(frozenset({daemon.where.port}), told | {IPNetwork(daemon.where.address)})


async def test_a_daemon_that_cannot_know_its_own_addresses_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: nothing is served, nothing begun."""

    def unreadable() -> frozenset[IPNetwork]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(daemon_module, "own_addresses", unreadable)
    log = Log(tmp_path / "log")
    with bind(Endpoint(IPAddress("127.0.0.1"), 0)) as sock, pytest.raises(PermissionError):
        await serve(policy(), [sock], (), log)
    log.close()
    assert log.records == []


async def test_a_daemon_asks_the_servers_it_was_given(tmp_path: Path) -> None:
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
            running(Log(tmp_path / "log"), made, (Endpoint(IPAddress(host), port),)) as daemon,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(answer)
            client = await daemon.client()
            await client.stream.send_all(get("http://denied.example/"))
            assert (await client.answer()).reason == "name_denied"
            await client.stream.send_all(get("http://nowhere.example/"))
            assert (await client.answer()).reason == "dns_error"
            await client.leave()
            nursery.cancel_scope.cancel()
    assert asked == {"nowhere.example."}


async def test_a_daemon_takes_in_as_many_as_its_policy_says(tmp_path: Path) -> None:
    """R10."""
    made = policy("[limits]\nconnections = 1")
    async with running(Log(tmp_path / "log"), made) as daemon:
        inside = await daemon.client()
        await inside.stream.send_all(get("http://127.0.0.1/"))
        await inside.answer()
        late = await daemon.client()
        assert (await late.answer()).reason == "connection_limit"
        await inside.leave()
        await late.leave()


async def test_two_daemons_bear_two_names_in_via(tmp_path: Path) -> None:
    """ATTACKS 4.13: one behind the other is no loop; and the name tells nobody which host it is."""
    names: list[str] = []
    async with echo(as_http=True) as origin:
        for number in range(2):
            async with running(Log(tmp_path / f"log{number}"), permitting(origin)) as daemon:
                client = await daemon.client()
                await client.stream.send_all(get(f"http://{origin}/", "Connection: close"))
                answer = await client.answer()
                names.append(answer.body.decode().partition("Via: 1.1 ")[2].partition("\r\n")[0])
                await client.leave()
    assert all(re.fullmatch(r"proxyd-[0-9a-f]{8}", name) for name in names)
    assert names[0] != names[1]


def test_the_time_of_day_is_in_utc() -> None:
    """R7, DESIGN: permits end at 00:00 UTC, and the records say so."""
    before = dt.datetime.now(dt.UTC)
    now = utc_now()
    assert now.tzinfo is dt.UTC
    assert before <= now <= dt.datetime.now(dt.UTC)
