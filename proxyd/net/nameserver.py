"""One question to one name server: over UDP, TCP or TLS, and what of its answer is read.

Only an answer from that server's address and port, with our id and our question, counts; one that costs more to read
than an honest one is not read. What answers mean is the resolver's.
"""

from __future__ import annotations

import ssl
import struct
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.flags
import dns.message
import dns.rdataclass
import dns.rdatatype
import dns.wire
import trio

if TYPE_CHECKING:
    from proxyd.policy.dns import Server

TRY_SECONDS: Final = 1.0  # for one question to one server
LONGEST_CHAIN: Final = 8  # CNAMEs; real chains have two or three
MOST_ADDRESSES: Final = 64  # of one family
MOST_OCTETS: Final = 8192  # of one answer; the longest honest one has 64 addresses and a chain
MOST_RECORDS: Final = MOST_ADDRESSES + 4 * LONGEST_CHAIN  # of its answer section, signatures included
MOST_STEPS: Final = 2048  # labels and pointers of all names that are read; 64 of 30 labels have as many
MOST_GUESSES: Final = 8  # datagrams that are no answer to our question; an honest server sends none
RDTYPES: Final = (dns.rdatatype.A, dns.rdatatype.AAAA)

_LONGEST_DATAGRAM: Final = 65535
_HEADER_OCTETS: Final = 12  # RFC 1035 §4.1.1: id, flags, and how many records each of the four sections has
_COUNT_OF_ANSWERS: Final = slice(6, 8)
_POINTER: Final = 0xC0
_UNKNOWN: Final = struct.pack("!2H", 65280, dns.rdataclass.IN)  # a type for private use (RFC 6895 §3.1)


async def ask(query: dns.message.Message, server: Server) -> dns.message.Message:
    """Put one question to one server, as it is spoken to; over UDP a truncated answer is asked for again over TCP.

    Raises dns.exception.DNSException, OSError, EOFError, or trio.BrokenResourceError.
    """
    with trio.move_on_after(TRY_SECONDS):
        endpoint = server.endpoint
        family = trio.socket.AF_INET6 if endpoint.address.version == 6 else trio.socket.AF_INET  # noqa: PLR2004
        where = (str(endpoint.address), endpoint.port)
        if server.protocol == "udp" and (answer := await _ask_by_udp(query, family, where)) is not None:
            return answer
        return await _ask_by_tcp(query, family, where, server)
    raise dns.exception.Timeout


async def _ask_by_udp(query: dns.message.Message, family: int, where: tuple[str, int]) -> dns.message.Message | None:
    """The first datagram that answers the question; None if that is truncated. Others are passed over (ATTACKS 3.8).

    None, too, after many others: somebody guesses, which over TCP nobody can (RFC 5452 §9.3).
    """
    with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as sock:
        await sock.connect(where)  # the kernel lets in nobody else's, and tells of a server that is not there
        await sock.send(query.to_wire())
        for _ in range(MOST_GUESSES):
            data = await sock.recv(_LONGEST_DATAGRAM)
            with suppress(dns.exception.DNSException, ValueError):
                answer = _parsed(data)
                if query.is_response(answer):
                    return None if answer.flags & dns.flags.TC else answer
    return None


async def _ask_by_tcp(
    query: dns.message.Message, family: int, where: tuple[str, int], server: Server
) -> dns.message.Message:
    """The answer behind its length (RFC 1035 §4.2.2), in TLS if the server is asked so (RFC 7858)."""
    with trio.socket.socket(family, trio.socket.SOCK_STREAM) as sock:
        await sock.connect(where)
        stream: trio.abc.Stream = trio.SocketStream(sock)
        if server.protocol == "tls":
            stream = trio.SSLStream(stream, _trusting(), server_hostname=server.name or where[0])
        await stream.send_all(query.to_wire(prepend_length=True))
        length = int.from_bytes(await _exactly(stream, 2), "big")
        if length > MOST_OCTETS:
            raise dns.exception.FormError
        answer = _parsed(await _exactly(stream, length))
    if not query.is_response(answer) or answer.flags & dns.flags.TC:  # or it would look as if there were no address
        raise dns.exception.FormError
    return answer


@cache
def _trusting() -> ssl.SSLContext:
    """Whom this host trusts; a certificate that does not hold is a server that could not be asked (RFC 8310 §5)."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def _exactly(stream: trio.abc.Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        if not piece:
            raise EOFError("the server ended the connection")
        data += piece
    return data


def _parsed(data: bytes) -> dns.message.Message:
    """What of a message is read here: its question, and the addresses and aliases of its answer.

    To read a message takes time for each name, and for some records the square of its labels: more than an honest
    answer has is not read. Raises dns.exception.DNSException.
    """
    parser = dns.wire.Parser(data)
    _, flags, questions, answers, *_ = parser.get_struct("!6H")
    if len(data) > MOST_OCTETS or questions > 1 or answers > MOST_RECORDS:
        raise dns.exception.FormError
    wire = bytearray(data)
    wire[_COUNT_OF_ANSWERS.stop : _HEADER_OCTETS] = bytes(4)
    if flags & dns.flags.TC:
        wire[_COUNT_OF_ANSWERS] = bytes(2)
    else:
        _hide_what_is_not_read(wire, parser, questions, answers)
    return dns.message.from_wire(bytes(wire), ignore_trailing=True)


def _hide_what_is_not_read(wire: bytearray, parser: dns.wire.Parser, questions: int, answers: int) -> None:
    """Let each record of the answer that is no address, and each alias too many, be of a type that nobody knows.

    Raises FormError where the names that are left would take too many steps to read.
    """
    for _ in range(questions):
        _pass_name(parser)
        parser.get_struct("!2H")
    aliases = steps = 0
    for _ in range(answers):
        steps += _steps(wire, parser.current)
        _pass_name(parser)
        at = parser.current
        rdtype, rdclass, _, length = parser.get_struct("!HHIH")
        aliases += rdtype == dns.rdatatype.CNAME
        alias = rdtype == dns.rdatatype.CNAME and aliases <= LONGEST_CHAIN + 1
        steps += _steps(wire, parser.current) if alias else 0
        parser.get_bytes(length)
        if steps > MOST_STEPS:
            raise dns.exception.FormError
        read = alias or rdtype in RDTYPES
        if not read or rdclass != dns.rdataclass.IN:
            wire[at : at + 4] = _UNKNOWN


def _pass_name(parser: dns.wire.Parser) -> None:
    """Go behind a name, also behind one that ends in a pointer (RFC 1035 §4.1.4)."""
    while 0 < (length := parser.get_uint8()) < _POINTER:
        parser.get_bytes(length)
    if length:
        parser.get_uint8()


def _steps(wire: bytearray, at: int) -> int:
    """The labels and pointers of a name, as far as it is in the message; of one that runs in circles, too many."""
    steps = 0
    while steps <= MOST_STEPS and (length := int.from_bytes(wire[at : at + 1])):
        steps += 1
        at = int.from_bytes(wire[at : at + 2]) & 0x3FFF if length >= _POINTER else at + 1 + length
    return steps
