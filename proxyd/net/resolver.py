"""Names -> addresses, asked of DNS and of nothing else: no hosts file, no search list, absolute names only (R3).

A failure is DnsError and never "no addresses, go on" (R12). Which answers may be dialled is judged elsewhere;
every name of a CNAME chain is handed over with them so that it can be.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.wire
import trio
from netaddr import IPAddress

from proxyd.policy.address import BadTarget, Resolution, parse_host
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxyd.policy.address import Endpoint

    Ask = Callable[[dns.message.Message, Endpoint], Awaitable[dns.message.Message]]

TOTAL_SECONDS: Final = 3.0  # for one lookup, waiting for its turn included; the client gives up at 5 s
TRY_SECONDS: Final = 1.0  # for one question to one server
GRACE_SECONDS: Final = 1.0  # for the second family, once the first has answered
ROUNDS: Final = 3  # times that every server is asked
IN_FLIGHT: Final = 64  # lookups at once
CACHED_NAMES: Final = 4096
LONGEST_TTL: Final = 300.0
NEGATIVE_TTL: Final = 5.0
LONGEST_CHAIN: Final = 8  # CNAMEs; real chains have two or three
MOST_ADDRESSES: Final = 64  # of one family
_PAYLOAD: Final = 1232  # octets of a UDP answer that no path fragments (DNS Flag Day 2020)
MOST_OCTETS: Final = 8192  # of one answer; the longest honest one has 64 addresses and a chain
MOST_RECORDS: Final = MOST_ADDRESSES + 4 * LONGEST_CHAIN  # of its answer section, signatures included

_LONGEST_DATAGRAM: Final = 65535
_HEADER_OCTETS: Final = 12  # RFC 1035 §4.1.1: id, flags, and how many records each of the four sections has
_COUNT_OF_ANSWERS: Final = slice(6, 8)
_POINTER: Final = 0xC0
_UNKNOWN: Final = struct.pack("!2H", 65280, dns.rdataclass.IN)  # a type for private use (RFC 6895 §3.1)

_RDTYPES: Final = (dns.rdatatype.A, dns.rdatatype.AAAA)


class DnsError(Exception):
    """The name could not be resolved; `reason` says whether for want of time. The text never has the name."""

    def __init__(self, why: str, reason: Reason = Reason.DNS_ERROR) -> None:
        super().__init__(why)
        self.reason = reason


class _NoSuchName(DnsError):  # noqa: N818 - as DnsError, with one thing more to say
    """A server said that the name does not exist: that is an answer, and no reason to ask another one."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one family had to say: perhaps no address, but an answer."""

    addresses: tuple[IPAddress, ...]
    chain: tuple[str, ...]
    ttl: float


@dataclass(slots=True)
class _Lookup:
    """A lookup under way, which any number of requests may wait for."""

    done: trio.Event = field(default_factory=trio.Event)
    outcome: Resolution | DnsError = field(default_factory=lambda: DnsError("the resolver is shutting down"))


async def ask(query: dns.message.Message, server: Endpoint) -> dns.message.Message:
    """Put one question to one server, over UDP and, if the answer is truncated, over TCP.

    Only an answer from that server's address and port, with our id and our question, counts.
    Raises dns.exception.DNSException, OSError, or EOFError.
    """
    with trio.move_on_after(TRY_SECONDS):
        family = trio.socket.AF_INET6 if server.address.version == 6 else trio.socket.AF_INET  # noqa: PLR2004
        where = (str(server.address), server.port)
        return await _ask_by_udp(query, family, where) or await _ask_by_tcp(query, family, where)
    raise dns.exception.Timeout


async def _ask_by_udp(query: dns.message.Message, family: int, where: tuple[str, int]) -> dns.message.Message | None:
    """The first datagram that answers the question; None if that is truncated. Others are passed over (ATTACKS 3.8)."""
    with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as sock:
        await sock.connect(where)  # the kernel lets in nobody else's, and tells of a server that is not there
        await sock.send(query.to_wire())
        while True:
            data = await sock.recv(_LONGEST_DATAGRAM)
            with suppress(dns.exception.DNSException, ValueError):
                answer = _parsed(data)
                if query.is_response(answer):
                    return None if answer.flags & dns.flags.TC else answer


async def _ask_by_tcp(query: dns.message.Message, family: int, where: tuple[str, int]) -> dns.message.Message:
    """The answer behind its length (RFC 1035 §4.2.2). Raises OSError, EOFError or dns.exception.DNSException."""
    with trio.socket.socket(family, trio.socket.SOCK_STREAM) as sock:
        await sock.connect(where)
        stream = trio.SocketStream(sock)
        await stream.send_all(query.to_wire(prepend_length=True))
        length = int.from_bytes(await _exactly(stream, 2), "big")
        if length > MOST_OCTETS:
            raise dns.exception.FormError
        answer = _parsed(await _exactly(stream, length))
    if not query.is_response(answer):
        raise dns.exception.FormError
    return answer


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
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
    """Let each record of the answer that is no address, and each alias too many, be of a type that nobody knows."""
    for _ in range(questions):
        _pass_name(parser)
        parser.get_struct("!2H")
    aliases = 0
    for _ in range(answers):
        _pass_name(parser)
        at = parser.current
        rdtype, rdclass, _, length = parser.get_struct("!HHIH")
        parser.get_bytes(length)
        aliases += rdtype == dns.rdatatype.CNAME
        read = rdtype in _RDTYPES or (rdtype == dns.rdatatype.CNAME and aliases <= LONGEST_CHAIN + 1)
        if not read or rdclass != dns.rdataclass.IN:
            wire[at : at + 4] = _UNKNOWN


def _pass_name(parser: dns.wire.Parser) -> None:
    """Go behind a name, also behind one that ends in a pointer (RFC 1035 §4.1.4)."""
    while 0 < (length := parser.get_uint8()) < _POINTER:
        parser.get_bytes(length)
    if length:
        parser.get_uint8()


class Resolver:
    """Looks names up, each at most once at a time, and remembers answers within bounds.

    Lookups run in `nursery`: a request that is cancelled while it waits takes no other one's answer with it.
    """

    def __init__(self, nursery: trio.Nursery, servers: tuple[Endpoint, ...], ask: Ask = ask) -> None:
        self._nursery = nursery
        self._servers = servers
        self._ask = ask
        self._under_way: dict[str, _Lookup] = {}
        self._cache: OrderedDict[str, tuple[float, Resolution | DnsError]] = OrderedDict()
        self._turns = trio.CapacityLimiter(IN_FLIGHT)

    async def resolve(self, name: str) -> Resolution:
        """Every address of `name`, a host name in normal form. Raises DnsError."""
        outcome = self._remembered(name)
        if outcome is None:
            lookup = self._under_way.get(name) or self._start(name)
            await lookup.done.wait()
            outcome = lookup.outcome
        if isinstance(outcome, Resolution):
            return outcome
        raise DnsError(str(outcome), outcome.reason)  # a new one: an exception gathers the frames it passes through

    def _remembered(self, name: str) -> Resolution | DnsError | None:
        expires, outcome = self._cache.get(name, (0.0, None))
        if outcome is None or trio.current_time() >= expires:
            return None
        self._cache.move_to_end(name)
        return outcome

    def _start(self, name: str) -> _Lookup:
        lookup = self._under_way[name] = _Lookup()
        self._nursery.start_soon(self._run, name, lookup)
        return lookup

    async def _run(self, name: str, lookup: _Lookup) -> None:
        ttl = NEGATIVE_TTL
        try:
            lookup.outcome, ttl = await self._look_up(name)
        except DnsError as error:
            lookup.outcome = DnsError(str(error), error.reason)  # a new one, without the frames it passed through
        except Exception:  # noqa: BLE001 - it would end the daemon: whatever an answer brings about, the lookup failed
            lookup.outcome = DnsError("the lookup failed in a way that nobody foresaw")
        finally:
            del self._under_way[name]
            lookup.done.set()
        self._remember(name, lookup.outcome, ttl)

    def _remember(self, name: str, outcome: Resolution | DnsError, ttl: float) -> None:
        self._cache[name] = (trio.current_time() + ttl, outcome)
        self._cache.move_to_end(name)
        if len(self._cache) > CACHED_NAMES:
            self._cache.popitem(last=False)

    async def _look_up(self, name: str) -> tuple[Resolution, float]:
        """A and AAAA side by side. A family whose lookup fails contributes nothing; no address at all is an error."""
        answers: list[_Answer] = []
        failures: list[DnsError] = []
        with trio.move_on_after(TOTAL_SECONDS) as total:
            async with self._turns, trio.open_nursery() as families:
                for rdtype in _RDTYPES:
                    families.start_soon(self._look_up_family, name, rdtype, answers, failures, families.cancel_scope)
        addresses = tuple(address for answer in answers for address in answer.addresses)
        if addresses:
            chain = tuple(dict.fromkeys(alias for answer in answers for alias in answer.chain))
            ttl = min(answer.ttl for answer in answers if answer.addresses)
            return Resolution(addresses, chain), min(ttl, LONGEST_TTL)
        if total.cancelled_caught or any(failure.reason is Reason.DNS_TIMEOUT for failure in failures):
            raise DnsError("no server answered in time", Reason.DNS_TIMEOUT)
        raise failures[0] if failures else DnsError("the name has no address")

    async def _look_up_family(
        self,
        name: str,
        rdtype: dns.rdatatype.RdataType,
        answers: list[_Answer],
        failures: list[DnsError],
        both: trio.CancelScope,
    ) -> None:
        try:
            answers.append(await self._ask_servers(name, rdtype))
        except DnsError as error:
            failures.append(error)
        if any(answer.addresses for answer in answers):
            both.deadline = min(both.deadline, trio.current_time() + GRACE_SECONDS)

    async def _ask_servers(self, name: str, rdtype: dns.rdatatype.RdataType) -> _Answer:
        """Ask the servers in turn. Silence is asked again; an answer that is no use is final once all gave one."""
        failure = DnsError("no server answered in time", Reason.DNS_TIMEOUT)
        for _ in range(ROUNDS):
            silent = False
            for server in self._servers:
                query = dns.message.make_query(dns.name.from_text(name + "."), rdtype, use_edns=0, payload=_PAYLOAD)
                try:
                    return _read_answer(await self._ask(query, server))
                except _NoSuchName:
                    raise
                except DnsError as error:
                    failure = error
                except dns.exception.Timeout:
                    silent = True
                except (dns.exception.DNSException, OSError, EOFError, trio.BrokenResourceError):
                    failure = DnsError("a server could not be asked, or its answer could not be read")
            if not silent:
                break
        raise failure


def _read_answer(message: dns.message.Message) -> _Answer:
    """The addresses at the end of the chain that begins with the question; nothing else in the message counts."""
    if message.rcode() == dns.rcode.NXDOMAIN:
        raise _NoSuchName("the name does not exist")
    if message.rcode() != dns.rcode.NOERROR:
        raise DnsError(f"the server answered {dns.rcode.to_text(message.rcode())}")
    if not isinstance(message, dns.message.QueryMessage):
        raise DnsError("the answer is no answer to a query")
    chaining = message.resolve_chaining()
    if len(chaining.cnames) > LONGEST_CHAIN:
        raise DnsError("the CNAME chain is too long")
    records = tuple(chaining.answer or ())
    if len(records) > MOST_ADDRESSES:
        raise DnsError("the answer has too many addresses")
    chain = tuple(_host(str(cname[0].target)) for cname in chaining.cnames)
    return _Answer(tuple(IPAddress(record.address) for record in records), chain, float(chaining.minimum_ttl))


def _host(target: str) -> str:
    try:
        return parse_host(target)[0]
    except BadTarget:
        raise DnsError("a name of the CNAME chain is no host name") from None
