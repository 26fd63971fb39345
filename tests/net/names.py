"""A world of names and servers, in virtual time: what the tests of the resolver share. Nobody is really asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio
from netaddr import IPAddress

from proxyd.net.nameserver import TRY_SECONDS
from proxyd.net.resolver import DnsError, Resolver
from proxyd.policy.address import Endpoint, Resolution
from proxyd.policy.dns import Routes, Server

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxyd.policy.verdict import Reason

    Record = tuple[str, int, str, str]  # owner, TTL, type, data

NAME: Final = "www.example.com"
FOUR: Final = "93.184.216.34"
SIX: Final = "2606:2800:220:1:248:1893:25c8:1946"
A: Final = (NAME, 60, "A", FOUR)
AAAA: Final = (NAME, 60, "AAAA", SIX)
CLIENT: Final = "agent"
FIRST: Final = Server(Endpoint(IPAddress("192.0.2.53"), 53))
SECOND: Final = Server(Endpoint(IPAddress("192.0.2.54"), 53))
CHAIN_8: Final = [
    (f"{'c' * at or 'www'}.example.com", 60, "CNAME", f"{'c' * (at + 1)}.example.com.") for at in range(8)
]


def reply(query: dns.message.Message, records: Iterable[Record] = (), rcode: str = "NOERROR") -> dns.message.Message:
    """An answer with these records, those of the other family left out, as it comes off the wire."""
    answer = dns.message.make_response(query)
    answer.set_rcode(dns.rcode.from_text(rcode))
    asked = dns.rdatatype.to_text(query.question[0].rdtype)
    for owner, ttl, rdtype, rdata in records:
        if rdtype not in {"A", "AAAA"} - {asked}:
            answer.answer.append(dns.rrset.from_text(f"{owner}.", ttl, "IN", rdtype, rdata))
    return dns.message.from_wire(answer.to_wire(max_size=65535))


def addresses(count: int) -> list[Record]:
    """That many IPv4 addresses of NAME."""
    return [(NAME, 60, "A", f"93.184.{at // 250}.{at % 250 + 1}") for at in range(count)]


@dataclass
class World:
    """Answers with `records` after `seconds`, unless a family or a server is told to do otherwise.

    Otherwise: an rcode, an error to raise, or None for silence.
    """

    records: Iterable[Record] = (A, AAAA)
    seconds: float = 0
    families: dict[str, str | type[Exception] | None] = field(default_factory=dict)
    servers: dict[Server, str | type[Exception] | None] = field(default_factory=dict)
    asked: list[tuple[float, str, str, Server]] = field(default_factory=list)

    async def ask(self, query: dns.message.Message, server: Server) -> dns.message.Message:
        """Stands in for a real question."""
        [question] = query.question
        family = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((trio.current_time(), question.name.to_text(), family, server))
        await trio.sleep(self.seconds)
        said = self.servers.get(server, "") or self.families.get(family, "")
        if self.servers.get(server, "") is None or said is None:
            await trio.sleep(TRY_SECONDS - self.seconds)
            raise dns.exception.Timeout
        if isinstance(said, type):
            raise said
        return reply(query, (), said) if said else reply(query, self.records)

    @property
    def families_asked(self) -> list[str]:
        """Which types were asked for, in order."""
        return [family for _, _, family, _ in self.asked]


def resolver(nursery: trio.Nursery, world: World, *servers: Server) -> Resolver:
    """A resolver that asks in this world."""
    return Resolver(nursery, Routes(servers or (FIRST,)), world.ask)


async def outcome(nursery: trio.Nursery, world: World, *servers: Server, name: str = NAME) -> Resolution | Reason:
    """What becomes of one lookup."""
    try:
        return await resolver(nursery, world, *servers).resolve(name, CLIENT)
    except DnsError as error:
        failure = error
    assert name not in str(failure), "the text is for logs that keep no names"
    return failure.reason


def found(*texts: str, chain: tuple[str, ...] = ()) -> Resolution:
    """A resolution, from its spelling."""
    return Resolution(tuple(IPAddress(text) for text in texts), chain)


def numbers(resolution: Resolution | Reason) -> set[str]:
    """The addresses of a resolution, in no order."""
    assert isinstance(resolution, Resolution)
    return {str(address) for address in resolution.addresses}
