"""A worker that runs in this very process, on real sockets and with real signals: what its tests share."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import trio
from netaddr import IPAddress

from proxyd.audit.sink import FileSink, SinkError
from proxyd.net.listening import bind
from proxyd.observe.tally import new_tally, read_totals
from proxyd.policy.address import Endpoint
from proxyd.serve.channel import Channel
from proxyd.serve.complaints import Complaints
from proxyd.serve.given import Given
from proxyd.serve.worker import serve
from tests.serve.handed import ACCOUNTS, LOOPBACK, WORKERS, files, handover, ledger
from tests.serve.scene import Peer, connect, policy

if TYPE_CHECKING:
    import signal
    import socket
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxyd.audit.record import Record
    from proxyd.observe.tally import Totals
    from proxyd.policy.model import Policy
    from proxyd.serve.channel import Message
    from proxyd.serve.handover import Handover

PATIENCE: Final = 60.0
"""Real seconds until a test gives up; a drain that is not meant to be waited for takes an hour."""

WHERE: Final = "127.0.0.1:0"
"""What the listener of every worker is called."""


class Log(FileSink):
    """The audit log, in a file; `started` once the worker is."""

    def __init__(self, path: Path, broken: str | None = None) -> None:
        super().__init__(str(path), clock=lambda: 0.0)  # it looks for its file only when it is told to
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
    """A worker that runs. ended: once `serve` has returned. supervisor: the other end of its channel.

    memory, tally: that of the limits, and that of what is counted.
    """

    def __init__(self, log: Log, where: Endpoint, supervisor: Channel, memory: int, tally: int) -> None:
        self.log = log
        self.where = where
        self.memory = memory
        self.tally = tally
        self.ended = trio.Event()
        self._supervisor = supervisor
        self._number = 0

    def lose_supervisor(self) -> None:
        """Let go of the other end of its channel, as the kernel does when a supervisor ends."""
        self._supervisor.close()

    async def order(self, do: str, policy: str = "", *listeners: socket.socket) -> Message:
        """What it answers to an order of its supervisor. policy: given with it, and these listeners beside its own."""
        self._number += 1
        names = (WHERE, *(str(number) for number, _ in enumerate(listeners)))
        came = []
        if policy:
            (again,) = bind(LOOPBACK)  # the worker has its own already, and closes this one
            came = files(handover(policy, *names), again, *listeners)
            for number, shared in enumerate((self.memory, self.tally), 1):
                os.close(came[number])
                came[number] = os.dup(shared)
        self._supervisor.send({"do": do, "number": self._number, "place": 0}, came)
        for number in came:
            os.close(number)
        await trio.lowlevel.wait_readable(self._supervisor.socket)
        received = self._supervisor.receive()
        assert received is not None
        assert received[0].pop("number") == self._number
        return received[0]

    async def reload(self, policy: str, *listeners: socket.socket) -> int:
        """Let it change to another policy: how many connections that cut."""
        assert await self.order("prepare", policy, *listeners) == {"ready": True}
        said = await self.order("commit")
        return int(said["revoked"])

    async def client(self) -> Peer:
        """A new connection to it."""
        return Peer(await stream_to(self.where))

    async def tunnel(self, to: Endpoint) -> Peer:
        """A tunnel through it."""
        client = await self.client()
        await client.stream.send_all(connect(str(to)))
        assert (await client.until(b"\r\n\r\n")).split()[1] == b"200"
        return client

    def counted(self) -> Totals:
        """What it has counted so far."""
        return read_totals(self.tally, 1, ACCOUNTS)

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


def given(made: Policy, sock: socket.socket, memory: int, tally: int, handed: Handover | None = None) -> Given:
    """What a worker serves by; all of it is the worker's."""
    handed = handover("", WHERE) if handed is None else handed
    return Given(handed, made, 0, memory, tally, {WHERE: sock}, None, None)


@asynccontextmanager
async def running(log: Log, made: Policy, handed: Handover | None = None) -> AsyncIterator[Worker]:
    """A worker; in the end it is told to go, should it not have gone yet."""
    (sock,) = bind(LOOPBACK)
    port = sock.getsockname()[1]
    ours, theirs = Channel.pair()
    memory, tally = ledger(), new_tally(WORKERS)
    worker = Worker(log, Endpoint(IPAddress("127.0.0.1"), port), theirs, memory, tally)
    try:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await serve(given(made, sock, os.dup(memory), os.dup(tally), handed), log, ours, Complaints())
                    worker.ended.set()

                nursery.start_soon(run)
                await log.started.wait()  # from now on, a signal ends the worker and not the tests
                yield worker
                nursery.cancel_scope.cancel()
    finally:
        worker.lose_supervisor()
        ours.close()
        os.close(memory)
        os.close(tally)
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


def permit(origin: Endpoint) -> str:
    """A row that opens this origin."""
    return f"""
[[permit]]
reason = "a test"
host = "{origin.address}"
ports = [{origin.port}]
networks = ["{origin.address}/32"]
"""


def permitting(origin: Endpoint, drain_seconds: float = 3600.0) -> Policy:
    """A policy under which this origin may be reached, and the drain takes as long as said."""
    made = policy(permit(origin))
    limits: Any = replace(made.limits, drain_seconds=drain_seconds)  # type: ignore[arg-type] # fractions, for haste
    return replace(made, limits=limits)


def send(number: signal.Signals) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)
