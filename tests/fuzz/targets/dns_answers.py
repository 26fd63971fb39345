"""`Resolver`: whatever a server says, DnsError, or a Resolution that one message holds (R3, ATTACKS 3.4, 3.5, 3.8).

Every address stands in an A or AAAA record of one message that has our id and our question, owned by the name asked for
or by one that its CNAMEs lead to; each name on that way is told. Another reader of the wire format says so. What one
family hears takes nothing from the other one; a stream says the same in whatever pieces it comes; nobody is asked for
ever. The daemon's own way: sockets of trio's, but for the sockets.
"""

from __future__ import annotations

import socket
import struct
from collections import defaultdict
from typing import Any, Final, Self

import dns.message
import trio
import trio.testing
from hypothesis import strategies as st
from netaddr import IPAddress

from proxyd.net.nameserver import LONGEST_CHAIN, MOST_ADDRESSES, MOST_OCTETS, MOST_RECORDS
from proxyd.net.resolver import ROUNDS, DnsError, Resolver
from proxyd.policy.address import Endpoint, Resolution
from proxyd.policy.dns import Routes, Server
from tests.fuzz.target import Target
from tests.net.answering import GOOD, LIES, TO_ITSELF, answering, framed, record
from tests.net.names import CHAIN_8, NAME, reply
from tests.net.test_nameserver import BOMBS, COSTLY

OWNER: Final = tuple(label.encode() for label in NAME.split("."))
FAMILIES: Final = {False: (1, 4, "93.184.216.34"), True: (28, 6, "2606:2800:220:1::1")}
"""Type, version, and an honest address."""

MOST_SOCKETS: Final = 2 * 2 * ROUNDS
"""That one lookup may open: two families, UDP and TCP."""

UNFORESEEN: Final = "the lookup failed in a way that nobody foresaw"
_FIXED: Final = 3  # octets of an input before what is said

Labels = tuple[bytes, ...]


class _Said:
    """An input: how it is asked and by whom, and what is said to that. The first octet says how, the next two where to
    cut the rest in two: datagrams, or one and a stream, or only a stream. Afterwards the
    server is gone, or keeps silent. An id is relative to the one that is right.
    """

    def __init__(self, data: bytes) -> None:
        how, rest = data[0] if data else 0, data[_FIXED:]
        at = int.from_bytes(data[1:_FIXED], "big")
        self.way = ("udp", "truncated", "tcp", "tcp")[how & 3]
        self.over_six, self.other_has_one = bool(how & 4), bool(how & 8)
        self.piece = how >> 4
        first, second = (b"", rest) if self.way == "tcp" else (rest[:at], rest[at:])
        self.datagrams = [first, second] if self.way == "udp" else [first]
        self.silent = self.way == "udp" and self.piece > 0
        self.stream = second if self.way != "udp" else b""

    @property
    def server(self) -> Server:
        return Server(Endpoint(IPAddress("192.0.2.53"), 53), "tcp" if self.way == "tcp" else "udp")

    def messages(self) -> list[bytes]:
        """All that may count, with ids that are relative."""
        return [*self.datagrams, self.stream[2 : 2 + int.from_bytes(self.stream[:2], "big")]]


class _Network(trio.abc.SocketFactory):
    """Where the server is. piece: how much of a stream is received at once; 0 is all."""

    def __init__(self, said: _Said, piece: int) -> None:
        self.said, self.piece, self.sockets = said, piece, 0

    def socket(self, family: int = 0, type: int = 0, proto: int = 0) -> _Socket:  # noqa: A002, ARG002 - trio's names
        self.sockets += 1
        assert self.sockets <= MOST_SOCKETS, "it asks for ever"
        return _Socket(self, type)


class _Socket(trio.socket.SocketType):
    """One to the server, which answers what the input has, or honestly if it is asked for the other family."""

    def __init__(self, network: _Network, kind: int) -> None:
        super().__init__()
        self._network, self._kind = network, kind
        self._datagrams: list[bytes] = []
        self._stream = b""

    type = property(lambda self: self._kind)
    did_shutdown_SHUT_WR = False  # noqa: N815 - trio asks for it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to be closed."""

    def setsockopt(self, *_: Any) -> None:  # noqa: ANN401 - any of socket's
        """Nothing would be different."""

    async def connect(self, address: Any) -> None:  # noqa: ANN401 - as trio has it
        assert address[0] == "192.0.2.53"
        await trio.lowlevel.checkpoint()

    async def send(self, data: Any, flags: int = 0) -> int:  # noqa: ANN401, ARG002 - as trio has it
        wire = bytes(data)
        said, query = self._network.said, wire[2:] if self._kind == socket.SOCK_STREAM else wire
        wanted, _, address = FAMILIES[said.over_six]
        if int.from_bytes(_question(query)[-4:-2], "big") == wanted:
            self._datagrams = [_with_id(each, query) for each in said.datagrams]
            self._stream = said.stream[:2] + _with_id(said.stream[2:], query)
        else:
            rdtype, _, address = FAMILIES[not said.over_six]
            honest = answering(query, *[record(rdtype, IPAddress(address).packed)] * said.other_has_one)
            self._datagrams, self._stream = [honest], framed(honest)
        await trio.lowlevel.checkpoint()
        return len(wire)

    async def recv(self, most: int, flags: int = 0) -> bytes:  # noqa: ARG002 - as trio has it
        await trio.lowlevel.checkpoint()
        if self._kind == socket.SOCK_STREAM:
            size = min(most, self._network.piece or most)
            piece, self._stream = self._stream[:size], self._stream[size:]
            return piece
        if not self._datagrams and self._network.said.silent:
            await trio.sleep_forever()
        if not self._datagrams:
            raise ConnectionRefusedError
        return self._datagrams.pop(0)[:most]


def _question(query: bytes) -> bytes:
    return query[12 : query.index(b"\0", 12) + 5]


def _with_id(message: bytes, query: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(message[:2], query[:2], strict=False)) + message[2:]


def _attempt(data: bytes) -> str:
    said = _Said(data)
    found = _looked_up(said, piece=0)
    if said.stream and said.piece:
        assert _looked_up(said, said.piece) == found, "in pieces, it says something else"
    if isinstance(found, str):
        assert NAME not in found
        assert found != UNFORESEEN
        assert not said.other_has_one, "one family took away what the other one had"
        return "the server failed" if found.startswith("the server answered ") else found
    return _held(found, said)


def _looked_up(said: _Said, piece: int) -> Resolution | str:
    """What is found, or why nothing is."""

    async def main() -> Resolution | str:
        trio.socket.set_custom_socket_factory(_Network(said, piece))
        async with trio.open_nursery() as nursery:
            try:
                return await Resolver(nursery, Routes((said.server,))).resolve(NAME, "agent")
            except DnsError as error:
                return str(error)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def _held(found: Resolution, said: _Said) -> str:
    """All that is found stands in one message, on the way that is told."""
    rdtype, version, _ = FAMILIES[said.over_six]
    ours = {each.packed for each in found.addresses if each.version == version}
    others = [str(each) for each in found.addresses if each.version != version]
    assert others == [FAMILIES[not said.over_six][2]] * said.other_has_one
    assert len(ours) <= MOST_ADDRESSES
    assert len(found.chain) <= LONGEST_CHAIN
    told = {tuple(name.encode() for name in each.split(".")) for each in found.chain}
    if not ours:
        return "only what the other family has"
    assert any(_holds(each, rdtype, ours, told) for each in said.messages()), "made up"
    return "addresses behind aliases" if told else "addresses"


def _holds(message: bytes, rdtype: int, ours: set[bytes], told: set[Labels]) -> bool:
    """Whether a message leads from the question over these very names to these addresses."""
    try:
        aliases, owned = _answer(message, rdtype)
    except (ValueError, LookupError, struct.error):
        return False
    reached, next_ones = {OWNER}, [OWNER]
    while next_ones:
        next_ones = [to for name in next_ones for to in aliases[name] if to in told and to not in reached]
        reached.update(next_ones)
    return reached == {OWNER} | told and ours <= {address for name in reached for address in owned[name]}


def _answer(wire: bytes, wanted: int) -> tuple[dict[Labels, set[Labels]], dict[Labels, set[bytes]]]:
    """The aliases and addresses of an answer to our question, by owner. Raises one of three if it is none.

    Not by dnspython: another reader, of RFC 1035 §4.1 and no more.
    """
    number, flags, questions, records = struct.unpack_from("!4H", wire)
    response, opcode, truncated, rcode = flags >> 15, flags >> 11 & 15, flags >> 9 & 1, flags & 15
    name, at = _name(wire, 12)
    asked = struct.unpack_from("!2H", wire, at)
    if (number, response, opcode, truncated, rcode, questions, name, asked) != (0, 1, 0, 0, 0, 1, OWNER, (wanted, 1)):
        raise ValueError
    at += 4
    aliases, owned = defaultdict[Labels, set[Labels]](set), defaultdict[Labels, set[bytes]](set)
    for _ in range(records):
        owner, at = _name(wire, at)
        rdtype, rdclass, _, length = struct.unpack_from("!2HIH", wire, at)
        at += 10
        if (rdtype, rdclass) == (5, 1):
            aliases[owner].add(_name(wire, at)[0])
        elif (rdtype, rdclass) == (wanted, 1):
            owned[owner].add(wire[at : at + length])
        at += length
    return aliases, owned


def _name(wire: bytes, at: int) -> tuple[Labels, int]:
    """The labels of a name in lower case, and where it ends."""
    labels: list[bytes] = []
    behind = 0
    for _ in range(256):
        length = wire[at]
        at += 1
        if not length:
            return tuple(labels), behind or at
        if length >= 0xC0:
            behind = behind or at + 1
            at = (length & 0x3F) << 8 | wire[at]
        elif length < 0x40:
            labels.append(wire[at : at + length].lower())
            at += length
        else:
            raise ValueError
    raise ValueError


# What may be said

_QUERIES: Final = {
    six: dns.message.make_query(f"{NAME}.", rdtype, id=0) for six, rdtype in ((False, "A"), (True, "AAAA"))
}
_WIRES: Final = {six: query.to_wire() for six, query in _QUERIES.items()}
_WIRE: Final = _WIRES[False]
_ALIAS: Final = record(5, b"\5alias" + TO_ITSELF)
_FINE: Final = answering(_WIRE, GOOD)
_SIX: Final = record(28, IPAddress(FAMILIES[True][2]).packed)
_CHAIN: Final = [*CHAIN_8, ("c" * 8 + ".example.com", 60, "A", "93.184.216.34")]
_LONGER: Final = [
    *CHAIN_8,
    ("c" * 8 + ".example.com", 60, "CNAME", "ninth.example."),
    ("ninth.example", 1, "A", "1.2.3.4"),
]


def _udp(first: bytes, second: bytes = b"", how: int = 0) -> bytes:
    return bytes([how]) + struct.pack("!H", len(first)) + first + second


def _tcp(message: bytes, how: int = 2) -> bytes:
    return bytes([how, 0, 0]) + framed(message)


def _said(*records: Any, rcode: str = "NOERROR") -> bytes:  # noqa: ANN401 - (owner, TTL, type, data)
    return reply(_QUERIES[False], records, rcode).to_wire()


_SEEDS: Final = {
    "an address": _udp(_FINE),
    "IPv6": _udp(answering(_WIRES[True], _SIX), how=4),
    "over TCP": _tcp(_FINE, 0x32),
    "truncated": _udp(answering(_WIRE, flags=0x8380), framed(_FINE), how=0x51),
    "truncated over TCP, too": _udp(answering(_WIRE, flags=0x8380), framed(answering(_WIRE, GOOD, flags=0x8380)), 1),
    "both families": _udp(_FINE, how=8),
    "a failure beside an address": _udp(_said(rcode="SERVFAIL"), how=8),
    "no such name": _udp(_said(rcode="NXDOMAIN")),
    "NXDOMAIN with an address": _udp(answering(_WIRE, GOOD, flags=0x8183)),
    "a failure": _udp(_said(rcode="SERVFAIL")),
    "a failure without a question": _udp(b"\0\0\x81\x82" + bytes(8)),
    "nothing": _udp(b""),
    "silence": _udp(b"", how=0x10),
    "silence behind a lie": _udp(b"\0\1" + _FINE[2:], how=0x18),
    "no address": _udp(_said()),
    "another name": _udp(_said(("other.example", 60, "A", "1.2.3.4"))),
    "another question": _udp(answering(dns.message.make_query("evil.example.", "A", id=0).to_wire(), GOOD)),
    "another's address beside": _udp(_said(("other.example", 60, "A", "1.2.3.4"), (NAME, 60, "A", "1.2.3.5"))),
    "an address of another class": _udp(answering(_WIRE, record(1, bytes(4), rdclass=3))),
    "a long chain": _udp(_said(*_CHAIN)),
    "a chain out of order": _udp(_said(*reversed(_CHAIN))),
    "too long a chain": _udp(_said(*_LONGER)),
    "a chain to itself": _udp(answering(_WIRE, record(5, TO_ITSELF), GOOD)),
    "two aliases": _udp(
        answering(_WIRE, _ALIAS, record(5, b"\5other" + TO_ITSELF), record(1, b"1234", 1, b"\5other" + TO_ITSELF))
    ),
    "an alias and an address": _udp(answering(_WIRE, _ALIAS, GOOD)),
    "an alias with a dot in a label": _udp(answering(_WIRE, record(5, b"\3a.b\0"), record(1, b"1234", 1, b"\3a.b\0"))),
    "an alias that is no text": _udp(
        answering(_WIRE, record(5, b"\2\xff\x1b\0"), record(1, b"1234", 1, b"\2\xff\x1b\0"))
    ),
    "an alias of the root": _udp(answering(_WIRE, record(5, b"\0"), record(1, b"1234", 1, b"\0"))),
    "DNAME": _udp(answering(_WIRE, record(39, b"\3new\0", owner=b"\7example\3com\0"), GOOD)),
    "addresses as many as may be": _udp(_said(*((NAME, 60, "A", f"1.2.3.{each}") for each in range(MOST_ADDRESSES)))),
    "addresses too many": _udp(_said(*((NAME, 60, "A", f"1.2.3.{each}") for each in range(MOST_ADDRESSES + 1)))),
    "as many records as may be": _udp(answering(_WIRE, *[GOOD] * MOST_RECORDS)),
    "an address that is too short": _udp(answering(_WIRE, record(1, b"123"))),
    "a name that leads to itself": _udp(answering(_WIRE, GOOD)[:29] + b"\xc0\x1d" + _FINE[33:]),
    "the wrong id": _udp(b"\0\1" + _FINE[2:], _FINE),
    "a stream too long": _tcp(_FINE + bytes(MOST_OCTETS - len(_FINE) + 1)),
    "a stream as long as may be": _tcp(_FINE + bytes(MOST_OCTETS - len(_FINE)), 0xF2),
    "a stream cut off": _tcp(_FINE)[:-1],
    "a stream of another id": _tcp(b"\1\0" + _FINE[2:]),
    "a TTL that is below 0": _udp(answering(_WIRE, GOOD[:6] + b"\xff" * 4 + GOOD[10:])),
    **{f"a lie: {lie.__name__}": _udp(lie(reply(_QUERIES[False], [(NAME, 60, "A", "1.2.3.4")]))) for lie in LIES},
    **{f"a bomb: {name}": _udp(bomb(_WIRE)[:MOST_OCTETS], _FINE) for name, bomb in BOMBS.items()},
    **{f"costly: {name}": _udp(answering(_WIRE, each, GOOD)) for name, each in COSTLY.items()},
}

_labels = st.one_of(st.sampled_from([b"alias", b"a.b", b"_x", b"A", b"-", b"\xff"]), st.binary(min_size=1, max_size=9))
_names = st.one_of(
    st.just(TO_ITSELF),
    st.builds(lambda label, end: bytes([len(label)]) + label + end, _labels, st.sampled_from([b"\0", TO_ITSELF])),
    st.sampled_from([b"\5alias" + TO_ITSELF, b"\0", b"\xc0\x21", b"\xff\xff"]),
)
_records = st.one_of(
    st.builds(lambda owner, octets: record(1, octets, owner=owner), _names, st.binary(min_size=4, max_size=4)),
    st.builds(lambda owner, target: record(5, target, owner=owner), _names, _names),
    st.builds(record, st.integers(0, 300), st.binary(max_size=20), st.sampled_from([1, 1, 3, 255]), _names),
    st.sampled_from(list(COSTLY.values())),
)
_flags = st.one_of(st.sampled_from([0x8180, 0x8180, 0x8380, 0x8183, 0x8182, 0x0100]), st.integers(0, 0xFFFF))
_messages = st.builds(
    lambda six, records, flags: answering(_WIRES[six], *records, flags=flags),
    st.booleans(),
    st.lists(_records, max_size=12),
    _flags,
)

TARGET: Final = Target(
    attempt=_attempt,
    about=("proxyd.net.nameserver", "proxyd.net.resolver"),
    seeds=_SEEDS,
    inputs=st.one_of(
        st.builds(_udp, _messages, st.one_of(st.just(b""), _messages, _messages.map(framed)), st.integers(0, 255)),
        st.builds(_tcp, _messages, st.integers(0, 15).map(lambda high: high << 4 | 2)),
    ),
    outcomes=frozenset(
        {
            *("addresses", "addresses behind aliases", "only what the other family has", "the server failed"),
            *("the name does not exist", "the name has no address", "no server answered in time"),
            *("the CNAME chain is too long", "the answer has too many addresses"),
            *("a name of the CNAME chain is no host name",),
            *("a server could not be asked", "the answer of a server could not be read"),
        }
    ),
    longest=_FIXED + 2 + MOST_OCTETS + 64,
    words=(b"\xc0\x0c", b"\x00\x01\x00\x01", b"\x00\x05\x00\x01", b"\x00\x1c\x00\x01", b"\x81\x80", b"\x83\x80"),
)
