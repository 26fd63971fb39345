"""A client, the proxy and its origins in memory, in virtual time: what the tests of this floor share.

A `World` is what a session is given from outside, and remembers what the session did with it, in order.
`connected` plays one connection and then holds its records to what must hold after *every* scenario: one decision
and one closing record for each request, in that order, valid by the published schema, and free of secrets (R7); and
what is counted is what they say.
"""

from __future__ import annotations

import datetime as dt
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Self, cast

import pytest
import trio
from jsonschema import Draft202012Validator
from netaddr import IPAddress
from trio.testing import MockClock, memory_stream_pair

from proxyd.audit.render import json_line
from proxyd.net.dialer import Dialled
from proxyd.net.stream import TcpStream
from proxyd.policy.address import Resolution
from proxyd.policy.load import load
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.snapshot import Peer as Guest
from proxyd.policy.verdict import decide
from proxyd.serve.keyring import Keyring
from proxyd.serve.ledger import Place
from proxyd.serve.seams import Seams
from proxyd.serve.session import serve_connection
from proxyd.serve.trail import milliseconds
from proxyd.serve.visit import Visit
from tests.serve.counting import hold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from trio.abc import HalfCloseableStream, Instrument
    from trio.testing import MemoryReceiveStream, MemorySendStream

    from proxyd.audit.record import Record
    from proxyd.audit.sink import SinkError
    from proxyd.policy.client import Client
    from proxyd.policy.limits import Over
    from proxyd.policy.model import Limits, Policy
    from proxyd.policy.verdict import Allow
    from proxyd.serve.ledger import Ledger

NOW: Final = dt.datetime(2026, 8, 1, 12, 0, tzinfo=dt.UTC)
SCHEMA: Final = Draft202012Validator(json.loads((files("proxyd.audit") / "record.schema.json").read_text("utf-8")))
PUBLIC: Final = IPAddress("93.184.216.34")
PUBLIC_6: Final = IPAddress("2606:2800:220:1:248:1893:25c8:1946")
SECRET: Final = "hunter2-Tr0ub4dor"  # noqa: S105 - planted, so that it can be missed
VIA: Final = "proxyd-test"
PATIENCE: Final = 10_000.0
"""Virtual seconds after which a session that should have ended is stuck."""


def _run_in_virtual_time(
    main: Callable[[], Awaitable[object]], clock: object = None, instruments: Sequence[Instrument] = ()
) -> object:
    assert clock is None, "these tests have a clock already"
    return trio.run(main, clock=MockClock(autojump_threshold=0), instruments=instruments)


in_virtual_time: Final = pytest.mark.trio(run=_run_in_virtual_time)
"""Marks a test that begins at 0.0 on a clock which jumps to the next deadline as soon as everybody waits.

Each test bears it by itself: the runner of trio_mode outranks a `pytestmark`.
"""


def policy(more: str = "", *, default: str = "allow", mode: str = "enforce") -> Policy:
    """The policy that an operator would write: the public internet for one agent, and `more`."""
    text = f"""\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "{default}"
mode = "{mode}"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
{more}
"""
    return load("test.toml", lambda _name, _beside, secret=False: ("/test.toml", text.encode()), NOW.date())


PERMIT_LOCAL: Final = """
[[permit]]
name = "local-ui"
reason = "a test"
host = "ui.example"
ports = [8080]
networks = ["10.0.0.0/8"]
"""


class Peer:
    """One end of a connection, in the hands of a test."""

    def __init__(self, stream: HalfCloseableStream) -> None:
        self.stream = stream
        self._received = bytearray()

    async def send(self, *pieces: bytes) -> None:
        """Send each piece by itself, and let everybody take it in."""
        for piece in pieces:
            await self.stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()

    async def send_and(self, octets: bytes, act: Callable[[], object]) -> None:
        """Send this over a stream in memory; `act` comes when it has arrived, and before anybody takes it in."""
        stream = cast("trio.StapledStream[MemorySendStream, MemoryReceiveStream]", self.stream).send_stream
        pump = stream.close_hook
        assert pump is not None

        async def arrive() -> None:
            pump()
            act()
            await trio.testing.wait_all_tasks_blocked()

        stream.send_all_hook = arrive
        await stream.send_all(octets)

    async def until(self, end: bytes) -> bytes:
        """What comes, up to and including `end`."""
        while end not in self._received:
            await self._more()
        return self.take(self._received.index(end) + len(end))

    async def exactly(self, count: int) -> bytes:
        """The next `count` octets."""
        while len(self._received) < count:
            await self._more()
        return self.take(count)

    async def rest(self) -> bytes:
        """What comes until the other side ends the connection."""
        with trio.fail_after(PATIENCE):
            async for data in self.stream:
                self._received += data
        return self.take(len(self._received))

    async def _more(self) -> None:
        with trio.fail_after(PATIENCE):
            data = await self.stream.receive_some()
        assert data, f"the connection ended after {bytes(self._received)!r}"
        self._received += data

    async def closed(self) -> None:
        """Hold that the other side ends the connection now, and says nothing before."""
        began = trio.current_time()
        assert await self.rest() == b""
        assert trio.current_time() == began, "it was let go of, but late"

    async def silent(self, seconds: float = 1.0) -> None:
        """Hold that nothing comes for a while, not even an end."""
        assert not self._received, bytes(self._received)
        with trio.move_on_after(seconds):
            pytest.fail(f"not silent: {await self.stream.receive_some()!r}")

    def take(self, count: int) -> bytes:
        """The first `count` octets of what has come."""
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    async def answer(self, *, body: bool = True) -> Answer:
        """A response whose body has a Content-Length. body: whether one follows the head at all."""
        line, *lines = (await self.until(b"\r\n\r\n")).decode("ascii").strip().split("\r\n")
        fields = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
        data = await self.exactly(int(fields["content-length"])) if body else b""
        return Answer(line, fields, data)

    async def end(self) -> None:
        """End our side and go on listening."""
        await self.stream.send_eof()

    async def leave(self) -> None:
        """Be gone."""
        await trio.aclose_forcefully(self.stream)


@dataclass(frozen=True)
class Answer:
    """A response."""

    line: str
    fields: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        """Its status code."""
        return int(self.line.split()[1])

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document of a refusal."""
        assert self.fields["content-type"] == "application/problem+json"
        return cast("dict[str, Any]", json.loads(self.body))

    @property
    def reason(self) -> str:
        """The reason word of a refusal, which every part of it must agree on."""
        word = str(self.problem["reason"])
        assert self.line.endswith(f": {word}"), self.line
        assert self.fields["proxy-status"].endswith(f'; details="{word}"')
        assert self.problem["status"] == self.status
        return word


class House:
    """In the place of the ledger: counts who is inside. over: what is said to a request, if not that there is room."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0
        self.tunnels = 0
        self.over: Over | None = None

    def enter(self, most: int, most_here: int) -> Place | None:
        """A place for a connection, if fewer than `most` have one."""
        if self.connections >= min(most, most_here):
            return None
        self.connections += 1
        return Place(self._leave_connection)

    def admit(self, client: Client, limits: Limits, *, tunnel: bool) -> Place | Over:  # noqa: ARG002 - as the ledger has it
        """A place for a request."""
        if self.over is not None:
            return self.over
        self.tunnels += tunnel
        self.requests += not tunnel

        def leave() -> None:
            self.tunnels -= tunnel
            self.requests -= not tunnel

        return Place(leave)

    def _leave_connection(self) -> None:
        self.connections -= 1


def visit(address: str | None = "127.0.0.1") -> Visit:
    """Somebody's connection from there, whose place nobody counts."""
    return Visit(Guest(None if address is None else IPAddress(address)), Place(lambda: None))


@dataclass
class World:
    """What a session is given from outside, and what it did with it.

    judge: `decide`, or what stands in for it. answers: what DNS says of a name; an exception is raised.
    dial_error, sink_error, record_bug: raised instead.
    buggy: whether a bug is what the test is about; anywhere else, none may be complained about.
    events: everything that was done, in order. attempted: every record that was to be written; records: those
    that were. dialled: each Allow that was dialled. timed: what took how many seconds.
    """

    policy: Policy = field(default_factory=policy)
    judge: Callable[..., Any] = decide
    answers: dict[str, Resolution | Exception] = field(default_factory=dict)
    dns_seconds: float = 0.0
    dial_seconds: float = 0.0
    dial_error: Exception | None = None
    sink_error: SinkError | None = None
    record_bug: Exception | None = None
    buggy: bool = False
    own: Own = field(default_factory=Own)
    events: list[str] = field(default_factory=list)
    attempted: list[Record] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    dialled: list[Allow] = field(default_factory=list)
    timed: list[tuple[str, float]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    snapshots: int = 0
    house: House = field(default_factory=House)

    def __post_init__(self) -> None:
        self._origins: list[Peer] = []
        self._arrivals, self._waiting = trio.open_memory_channel[Peer](100)
        self._snapshot = Snapshot.of(self.policy, NOW.date(), self.own)
        self.origin_streams: Callable[[], tuple[HalfCloseableStream, HalfCloseableStream]] = memory_stream_pair
        self.seams = Seams(
            snapshot=self._current,
            judge=self.judge,
            resolve=self._resolve,
            dial=self._dial,
            record=self._record,
            took=lambda what, seconds: self.timed.append((what, seconds)),
            now=lambda: NOW,
            ledger=cast("Ledger", self.house),
            keyring=Keyring(),
            via=VIA,
            complain=self.complaints.append,
        )

    def _current(self) -> Snapshot:
        self.snapshots += 1
        return self._snapshot

    def amend(self, changed: Policy) -> None:
        """Let `changed` be the policy from the next request on."""
        self._snapshot = Snapshot.of(changed, NOW.date(), self.own)

    async def _resolve(self, name: str, _client: str) -> Resolution:
        self.events.append(f"resolve {name}")
        await trio.sleep(self.dns_seconds)
        answer = self.answers.get(name, Resolution((PUBLIC,)))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _dial(self, allow: Allow) -> Dialled:
        self.events.append(f"dial {allow.destination}")
        self.dialled.append(allow)
        await trio.sleep(self.dial_seconds)
        if self.dial_error is not None:
            raise self.dial_error
        ours, theirs = self.origin_streams()
        origin = Peer(theirs)
        self._origins.append(origin)
        self._arrivals.send_nowait(origin)
        return Dialled(cast("TcpStream", ours), allow.addresses[0])

    def _record(self, record: Record) -> None:
        self.events.append(f"record {record.event}")
        self.attempted.append(record)
        if self.record_bug is not None:
            raise self.record_bug
        if self.sink_error is not None:
            raise self.sink_error
        self.records.append(record)

    async def origin(self) -> Peer:
        """The far end of the next connection that was dialled."""
        with trio.fail_after(PATIENCE):
            return await self._waiting.receive()

    async def leave(self) -> None:
        """Let every origin be gone."""
        for origin in self._origins:
            await origin.leave()

    def trail(self) -> list[tuple[Record, Record]]:
        """The decision and the closing record of each request, having held them to what must always hold.

        A decision that could not be written is tried again, late, before the closing record.
        """
        pairs: dict[str | None, list[Record]] = {}
        for record in self.attempted:
            pairs.setdefault(record.id, []).append(record)
            line = json_line(record)
            SCHEMA.validate(json.loads(line))
            assert SECRET.encode() not in line
        for pair in pairs.values():
            unwritten = not any(pair[0] is written for written in self.records) or pair[0] is pair[1]
            assert sum(pair[0] is written for written in self.records) <= 1
            *decisions, last = (each.event for each in pair)
            assert (set(decisions), last) == ({"decision"}, "close")
            assert len(decisions) > 1 if unwritten else len(decisions) == 1
        for what in ("dns", "connect", "first_byte"):
            said = [getattr(pair[-1], f"{what}_ms") for pair in pairs.values()]
            counted = [milliseconds(seconds) for each, seconds in self.timed if each == what]
            assert sorted(each for each in said if each is not None) == sorted(counted), what
        if self.record_bug is None:
            hold(self.attempted, self.records, ["", *(client.name for client in self.policy.client)])
        assert not any(SECRET in line for line in self.complaints)
        return [(pair[0], pair[-1]) for pair in pairs.values()]

    def only(self) -> tuple[Record, Record]:
        """The two records of the only request there was."""
        ((decision, close),) = self.trail()
        return decision, close

    @property
    def opened(self) -> int:
        """How many connections to origins there were."""
        return len(self._origins)

    def count(self, what: str) -> int:
        """How often something was done."""
        return sum(event.startswith(what) for event in self.events)


class Connection(Peer):
    """The client's end of a connection that the proxy serves. ended: when the proxy let go of it, virtual time."""

    def __init__(self, stream: HalfCloseableStream) -> None:
        super().__init__(stream)
        self.over = trio.Event()
        self.ended = -1.0

    @classmethod
    async def serve(cls, world: World, nursery: trio.Nursery, address: str | None) -> Self:
        """Let `world` serve a new connection."""
        ours, theirs = memory_stream_pair()
        connection = cls(ours)

        async def session() -> None:
            await serve_connection(theirs, visit(address), world.seams)
            connection.ended = trio.current_time()
            connection.over.set()

        nursery.start_soon(session)
        await trio.testing.wait_all_tasks_blocked()
        return connection


@asynccontextmanager
async def connected(world: World, address: str | None = "127.0.0.1") -> AsyncIterator[Connection]:
    """A connection from `address`; when the test is done with it, all leave, and the records are held to account."""
    async with trio.open_nursery() as nursery:
        connection = await Connection.serve(world, nursery, address)
        yield connection
        await connection.leave()
        await world.leave()
        with trio.fail_after(PATIENCE):
            await connection.over.wait()
    world.trail()
    assert world.buggy or not any(line.startswith("bug: ") for line in world.complaints), world.complaints


def tcp_streams() -> tuple[TcpStream, trio.SocketStream]:
    """The two ends of a real connection: ours, and the peer's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)  # noqa: FBT003 - the only way to say it
    return TcpStream(ours), trio.SocketStream(trio.socket.from_stdlib_socket(theirs))


def get(url: str = "http://example.com/", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request head."""
    return "\r\n".join((f"{method} {url} HTTP/{version}", "Host: ignored", *fields, "", "")).encode("latin-1")


def connect(authority: str = "example.com:443", *fields: str, version: str = "1.1") -> bytes:
    """A CONNECT."""
    return get(authority, *fields, method="CONNECT", version=version)


OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
"""An origin's answer."""


async def exchange(world: World, client: Peer, request: bytes | None = None, response: bytes = OK) -> bytes:
    """One whole exchange with an origin that sends `response`: the request as the origin got it, up to its head."""
    await client.send(get() if request is None else request)
    origin = await world.origin()
    head = await origin.until(b"\r\n\r\n")
    await origin.send(response)
    return head
