"""A DNS server on loopback that says what a test tells it to, lies and worse."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import dns.flags
import dns.message
import dns.opcode
import trio
from netaddr import IPAddress

from proxyd.policy.address import Endpoint
from proxyd.policy.dns import Server
from tests.net.names import AAAA, NAME, A, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Deliver = Callable[[bytes, trio.socket.SocketType, tuple[str, int]], Awaitable[None]]


@dataclass
class Scripted:
    """A DNS server on loopback. `deliver` answers over UDP; over TCP answers what `over_tcp` makes, if anything."""

    udp: trio.socket.SocketType
    tcp: trio.socket.SocketType
    deliver: Deliver
    over_tcp: Callable[[bytes], bytes | None]

    async def serve_udp(self) -> None:
        """Answer datagrams."""
        while True:
            wire, peer = await self.udp.recvfrom(65535)
            await self.deliver(wire, self.udp, peer)

    async def serve_tcp(self) -> None:
        """Answer one question a connection; where there is no answer, reset it."""
        while True:
            connection, _ = await self.tcp.accept()
            async with trio.SocketStream(connection) as stream:
                wire = bytes(await stream.receive_some(65535))
                answer = self.over_tcp(wire[2:])
                if answer is None:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    await stream.send_all(answer)


@asynccontextmanager
async def serving(
    deliver: Deliver, over_tcp: Callable[[bytes], bytes | None] = lambda _: b"", host: str = "127.0.0.1"
) -> AsyncIterator[Server]:
    """A DNS server that answers so."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family) as tcp, trio.socket.socket(family, socket.SOCK_DGRAM) as udp:
        await tcp.bind((host, 0))
        await udp.bind((host, tcp.getsockname()[1]))
        tcp.listen()
        server = Scripted(udp, tcp, deliver, over_tcp)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_udp)
            nursery.start_soon(server.serve_tcp)
            yield Server(Endpoint(IPAddress(host), tcp.getsockname()[1]))
            nursery.cancel_scope.cancel()


def saying(change: Callable[[dns.message.Message], bytes]) -> Deliver:
    """Delivers what `change` makes of the good answer."""

    async def deliver(wire: bytes, sock: trio.socket.SocketType, peer: tuple[str, int]) -> None:
        await sock.sendto(change(reply(dns.message.from_wire(wire), [A, AAAA])), peer)

    return deliver


def good(answer: dns.message.Message) -> bytes:
    return answer.to_wire()


def truncated(answer: dns.message.Message) -> bytes:
    answer.answer.clear()
    answer.flags |= dns.flags.TC
    return answer.to_wire()


def wrong_id(answer: dns.message.Message) -> bytes:
    answer.id ^= 1
    return answer.to_wire()


def wrong_name(answer: dns.message.Message) -> bytes:
    return reply(dns.message.make_query("evil.example.", "A", id=answer.id), [A]).to_wire()


def wrong_type(answer: dns.message.Message) -> bytes:
    return reply(dns.message.make_query(f"{NAME}.", "TXT", id=answer.id), [A]).to_wire()


def wrong_opcode(answer: dns.message.Message) -> bytes:
    answer.set_opcode(dns.opcode.STATUS)
    return answer.to_wire()


def no_answer(answer: dns.message.Message) -> bytes:
    answer.flags &= ~dns.flags.QR
    return answer.to_wire()


def truncated_with_wrong_id(answer: dns.message.Message) -> bytes:
    answer.id ^= 1
    return truncated(answer)


def garbage(_: dns.message.Message) -> bytes:
    return b"\xff" * 40


def nothing(_: dns.message.Message) -> bytes:
    return b""


def cut(answer: dns.message.Message) -> bytes:
    answer.use_edns(edns=False)
    return answer.to_wire()[:-3]


def cut_behind_its_header(answer: dns.message.Message) -> bytes:
    return answer.to_wire()[:12]


LIES: Final = (
    *(wrong_id, wrong_name, wrong_type, wrong_opcode, no_answer),
    *(truncated_with_wrong_id, garbage, nothing, cut, cut_behind_its_header),
)


def question() -> dns.message.Message:
    """A question as the resolver puts it."""
    return dns.message.make_query(f"{NAME}.", "A", use_edns=0, payload=1232)


def data(message: dns.message.Message) -> list[str]:
    """The data of an answer's records."""
    return [str(record) for rrset in message.answer for record in rrset]


def framed(wire: bytes) -> bytes:
    """A message as TCP carries it (RFC 1035 §4.2.2)."""
    return struct.pack("!H", len(wire)) + wire


def padded(wire: bytes, octets: int) -> bytes:
    """A message that is so long; what follows its sections is no part of any."""
    return wire + bytes(octets - len(wire))


LONG_NAME: Final = b"".join(b"\1" + bytes([ord("a") + at % 26]) for at in range(118)) + b"\0"
TO_ITSELF: Final = b"\xc0\x0c"
"""A pointer to the name of the question, which is the first thing behind the header (RFC 1035 §4.1.4)."""


def record(rdtype: int, rdata: bytes, rdclass: int = 1, owner: bytes = TO_ITSELF) -> bytes:
    """A resource record (RFC 1035 §4.1.3)."""
    return owner + struct.pack("!2HIH", rdtype, rdclass, 60, len(rdata)) + rdata


def answering(query: bytes, *records: bytes, flags: int = 0x8180, others: bytes = bytes(4)) -> bytes:
    """An answer without a look at what is in it. others: how many records the other sections are said to have."""
    end = query.index(b"\0", 12) + 5
    header = query[:2] + struct.pack("!3H", flags, 1, len(records)) + others
    return header + query[12:end] + b"".join(records)


GOOD: Final = record(1, bytes([93, 184, 216, 34]))
EVIL: Final = record(1, bytes([127, 0, 0, 1]))


def truncating() -> Deliver:
    """Delivers nothing but that there is more over TCP."""
    return sending(lambda query: answering(query, flags=0x8380))


def sending(*answers: Callable[[bytes], bytes]) -> Deliver:
    """Delivers these answers to a question, which nobody parses."""

    async def deliver(wire: bytes, sock: trio.socket.SocketType, peer: tuple[str, int]) -> None:
        for answer in answers:
            await sock.sendto(answer(wire), peer)

    return deliver
