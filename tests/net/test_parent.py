"""Through a parent proxy: it is told the judged address and nothing else, and its answer decides (ATTACKS 6, R12)."""

from __future__ import annotations

import base64
import datetime as dt
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import pytest
import trio
from netaddr import IPAddress
from trio.testing import wait_all_tasks_blocked

from proxyd.net.dialer import MOST_ATTEMPTS, DialError, Dialled
from proxyd.net.parent import ParentDialer
from proxyd.policy.address import Destination, Endpoint, Resolution
from proxyd.policy.client import Egress
from proxyd.policy.load import load
from proxyd.policy.model import Parent
from proxyd.policy.snapshot import Peer, Snapshot
from proxyd.policy.verdict import Allow, Reason, decide
from tests.net.joined import PATIENCE, open_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Answers = Callable[[trio.SocketStream], Awaitable[None]]

POLICY: Final = b"""\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "allow"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
"""
SNAPSHOT: Final = Snapshot.of(
    load("main.toml", lambda name, _beside, secret=False: (name, POLICY), dt.date(2026, 8, 1)), dt.date(2026, 8, 1)
)
FOUR: Final = IPAddress("93.184.216.34")
OTHER_FOUR: Final = IPAddress("93.184.216.35")
SIX: Final = IPAddress("2606:2800:220:1:248:1893:25c8:1946")
MANY: Final = [IPAddress(f"93.184.216.{last}") for last in range(1, 20)]
CREDENTIAL: Final = "agent:s3cret"
OK: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


def allow(*addresses: IPAddress, egress: Egress | None = None) -> Allow:
    """The judge's permission to connect to these addresses."""
    client = SNAPSHOT.identify(Peer(IPAddress("127.0.0.1")))
    assert client is not None
    if egress is not None:
        client = replace(client, egress=egress)
    verdict = decide(Destination("origin.example", 443), client, SNAPSHOT, Resolution(addresses))
    assert isinstance(verdict, Allow)
    return verdict


def saying(answer: bytes) -> Answers:
    """Answers so, and goes on."""

    async def answers(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        await trio.sleep_forever()

    return answers


def saying_and_closing(answer: bytes) -> Answers:
    """Answers so, and ends."""

    async def answers(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)

    return answers


def refusing(status: int) -> bytes:
    """A refusal, with a body."""
    return b"HTTP/1.1 %d No\r\nContent-Length: 5\r\n\r\nno no" % status


async def reset(stream: trio.SocketStream) -> None:
    """Break off."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass
class Scripted:
    """A parent: what it was asked, and by whom it was left; `dialer` goes through it."""

    endpoint: Endpoint
    asked: list[bytes] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    left: int = 0

    def dialer(self, credential: str = "") -> ParentDialer:
        """Dials through this parent."""
        return ParentDialer(Parent(address=self.endpoint, credential=credential), self.complaints.append)

    @property
    def targets(self) -> list[bytes]:
        """What it was asked to connect to."""
        return [head.split()[1] for head in self.asked]


@asynccontextmanager
async def parent(*answers: Answers, host: str = "127.0.0.1") -> AsyncIterator[Scripted]:
    """A parent whose first answer is the first of these, and so on; the last one for ever. No descriptor is left."""
    before = open_files()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.fail_after(PATIENCE), trio.socket.socket(family) as listener:
        await listener.bind((host, 0))
        listener.listen()
        scripted = Scripted(Endpoint(IPAddress(host), listener.getsockname()[1]))

        async def serve(stream: trio.SocketStream, answer: Answers) -> None:
            async with stream:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += await stream.receive_some(1)
                scripted.asked.append(head)
                await answer(stream)

        async def accept() -> None:
            for at in range(1000):
                connection, _ = await listener.accept()
                nursery.start_soon(serve, trio.SocketStream(connection), answers[min(at, len(answers) - 1)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            yield scripted
            nursery.cancel_scope.cancel()
    assert open_files() == before, "whatever came of it, what was dialled is closed"


async def refused(dialer: ParentDialer, permission: Allow) -> Reason:
    """Why nothing could be dialled."""
    with pytest.raises(DialError) as caught:
        await dialer.dial(permission)
    return caught.value.reason


# What it is asked


@pytest.mark.parametrize(("address", "target"), [(FOUR, f"{FOUR}:443"), (SIX, f"[{SIX}]:443")], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("credential", ["", CREDENTIAL, "agent:", "ä:§"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_attack_6_2_the_parent_is_asked_for_the_judged_address_and_nothing_else(
    address: IPAddress, target: str, credential: str, host: str
) -> None:
    """It could resolve a name to something else; so it is never told one."""
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
    if credential:
        head += f"Proxy-Authorization: Basic {base64.b64encode(credential.encode()).decode()}\r\n"
    async with parent(saying(OK), host=host) as scripted:
        dialled = await scripted.dialer(credential).dial(allow(address))
        dialled.stream.close()
        assert scripted.asked == [head.encode() + b"\r\n"]
    assert (dialled.address, dialled.early, scripted.complaints) == (address, b"", [])


async def test_the_tunnel_leads_to_the_other_side() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        await stream.send_all(OK)
        await stream.send_all(b"you said " + bytes(await stream.receive_some()))

    async with parent(echo) as scripted:
        dialled = await scripted.dialer().dial(allow(FOUR))
        await dialled.stream.send_all(b"ping")
        heard = dialled.early
        while heard != b"you said ping":
            heard += await dialled.stream.receive_some()
        dialled.stream.close()


@pytest.mark.parametrize(
    "head",
    [
        OK,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 204 \r\n\r\n",
        b"HTTP/1.1 299 Odd\r\nVia: 1.1 parent\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK,
    ],
)
async def test_what_came_through_the_tunnel_already_is_handed_over(head: bytes) -> None:
    """An origin may speak first (RFC 9110 §9.3.6: a 2xx to CONNECT has no body, whatever it says)."""
    async with parent(saying(head + b"220 hello\r\n")) as scripted:
        dialled = await scripted.dialer().dial(allow(FOUR))
        early = dialled.early
        while len(early) < 11:
            early += await dialled.stream.receive_some()
        dialled.stream.close()
    assert early == b"220 hello\r\n"


# What it refuses


@pytest.mark.parametrize("status", [300, 302, 400, 401, 403, 404, 407, 429, 500, 501, 505, 599])
async def test_attack_6_1_what_the_parent_refuses_is_refused_and_not_tried_otherwise(status: int) -> None:
    """For another address it would say the same; and a 407 is for the operator, not for the client."""
    async with parent(saying(refusing(status))) as scripted:
        assert await refused(scripted.dialer(CREDENTIAL), allow(FOUR, OTHER_FOUR, SIX)) is Reason.PARENT_REFUSED
        assert len(scripted.asked) == 1
    assert scripted.complaints == [f"parent {scripted.endpoint}: answers {status} to CONNECT"]


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_an_address_that_the_parent_cannot_reach_is_followed_by_the_next(status: int) -> None:
    async with parent(saying(refusing(status)), saying(refusing(status)), saying(OK)) as scripted:
        dialled = await scripted.dialer().dial(allow(FOUR, OTHER_FOUR, SIX))
        dialled.stream.close()
        assert scripted.targets == [b"[%b]:443" % str(SIX).encode(), b"93.184.216.34:443", b"93.184.216.35:443"]
    assert dialled.address == OTHER_FOUR


async def test_attack_8_of_many_addresses_that_it_cannot_reach_only_the_first_eight_are_asked_for() -> None:
    async with parent(saying(refusing(502))) as scripted:
        assert await refused(scripted.dialer(), allow(*MANY)) is Reason.PARENT_REFUSED
        assert len(scripted.asked) == MOST_ATTEMPTS == 8


@pytest.mark.parametrize(
    "answer",
    [
        saying_and_closing(b""),
        reset,
        saying_and_closing(OK[:-2]),
        saying(b"220 mail.example ESMTP\r\n\r\n"),
        saying(b"\0\xff" * 20_000),
        saying(b"x" * 200_000),
        saying(b"HTTP/1.1 200 OK\nVia: x\n\n"),
        saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
        saying(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n"),
        saying_and_closing(b"HTTP/1.1 100 Continue\r\n\r\n" * 3),
    ],
    ids=["close", "reset", "half", "SMTP", "garbage", "much", "LF", "101", "two lengths", "request", "only 1xx"],
)
async def test_r12_a_parent_whose_answer_is_none_refuses(answer: Answers) -> None:
    async with parent(answer) as scripted:
        assert await refused(scripted.dialer(CREDENTIAL), allow(FOUR, SIX)) is Reason.PARENT_REFUSED
        assert len(scripted.asked) == 1
    assert scripted.complaints == [f"parent {scripted.endpoint}: its answer to CONNECT is none"]


@pytest.mark.parametrize("answer", [refusing(407), refusing(502), b"garbage\r\n\r\n"])
async def test_r7_no_complaint_has_the_credential_or_the_destination(answer: bytes) -> None:
    async with parent(saying_and_closing(answer)) as scripted:
        dialer = scripted.dialer(CREDENTIAL)
        with pytest.raises(DialError) as caught:
            await dialer.dial(allow(FOUR))
    for text in (*scripted.complaints, str(caught.value), repr(caught.value), repr(dialer)):
        assert not any(each in text for each in ("s3cret", base64.b64encode(CREDENTIAL.encode()).decode(), str(FOUR)))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_r12_a_parent_that_is_not_there_is_an_error_and_nobody_is_dialled_without_it() -> None:
    """The origin listens, and is not connected to."""
    with socket.socket() as bound, socket.socket() as origin:
        bound.bind(("127.0.0.1", 0))
        origin.bind(("127.0.0.1", 0))
        origin.listen()
        origin.settimeout(0)
        scripted = Scripted(Endpoint(IPAddress("127.0.0.1"), bound.getsockname()[1]))
        permission = allow_own(origin.getsockname()[1])
        assert await refused(scripted.dialer(), permission) is Reason.PARENT_UNREACHABLE
        with pytest.raises(BlockingIOError):
            origin.accept()
    assert scripted.complaints == [f"parent {scripted.endpoint}: Connection refused"]


def allow_own(port: int) -> Allow:
    """Permission for an origin on this host."""
    policy = (
        POLICY
        + b"""\
[[permit]]
host = "origin.example"
ports = ["1-65535"]
networks = ["127.0.0.0/8"]
reason = "an origin of these tests"
"""
    )
    day = dt.date(2026, 8, 1)
    snapshot = Snapshot.of(load("main.toml", lambda name, _beside, secret=False: (name, policy), day), day)
    client = snapshot.identify(Peer(IPAddress("127.0.0.1")))
    verdict = decide(Destination("origin.example", port), client, snapshot, Resolution((IPAddress("127.0.0.1"),)))
    assert isinstance(verdict, Allow)
    return verdict


# How it is reached


async def test_the_parent_is_reached_by_the_clients_egress() -> None:
    peers: list[str] = []

    async def tell(stream: trio.SocketStream) -> None:
        peers.append(stream.socket.getpeername()[0])
        await stream.send_all(OK)

    async with parent(tell) as scripted:
        egress = Egress(addresses=(IPAddress("127.0.0.9"),))
        (await scripted.dialer().dial(allow(FOUR, egress=egress))).stream.close()
    assert peers == ["127.0.0.9"]


async def test_r12_where_the_egress_cannot_be_had_the_parent_is_not_asked() -> None:
    async with parent(saying(OK)) as scripted:
        egress = Egress(addresses=(IPAddress("::1"),))
        assert await refused(scripted.dialer(), allow(FOUR, egress=egress)) is Reason.EGRESS_UNAVAILABLE
        assert scripted.asked == []
    assert scripted.complaints == []


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_attack_8_a_parent_that_is_silent_is_waited_for_until_the_caller_gives_up(before: bytes) -> None:
    dialled: list[Dialled] = []
    async with parent(saying(before)) as scripted:

        async def dial() -> None:
            dialled.append(await scripted.dialer().dial(allow(FOUR, SIX)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            await wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        assert len(scripted.asked) == 1
    assert (dialled, scripted.complaints) == ([], [])
