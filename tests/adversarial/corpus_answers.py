"""Hostile DNS answers of the corpus: protected addresses in every mix, aliases, lies and failures (ATTACKS 3).

The names asked for are harmless, and each is new: an answer that proxyd remembers is nobody else's.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from itertools import count, pairwise
from typing import TYPE_CHECKING, Final

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.adversarial.corpus import Address, Destination, Verdict, public
from tests.adversarial.corpus_addresses import carrying, edges
from tests.adversarial.corpus_names import PUBLIC, REACHABLE
from tests.end_to_end.daemon import PATIENCE
from tests.end_to_end.nameserver import Nameserver, Says

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Twist = Callable[[bytes], bytes | None]
    Change = Callable[[dns.message.Message], None]

_PUBLIC_6: Final = Address.read("2606:2800:220:1:248:1893:25c8:1946")
_HEADER: Final = 12  # octets before a message's question (RFC 1035 §4.1.1)
_PRIVATE: Final = Says(a=("10.0.0.5",))
_REFUSED_ALIASES: Final = (
    *("localhost", "metadata.google.internal", "METADATA.goog", "db.internal", "printer.local", "nas.home.arpa"),
    *("x.localhost", "hidden.onion", "denied.example", "a.b.corp.example", "api.metadata.cloud.ibm.com", "metadata"),
)


class _Questions(list[tuple[str, str]]):
    """A list that knows at once what is in it: there are tens of thousands of them."""

    def __init__(self) -> None:
        super().__init__()
        self._known: set[object] = set()

    def append(self, question: tuple[str, str]) -> None:
        self._known.add(question)
        super().append(question)

    def __contains__(self, question: object) -> bool:
        return question in self._known


class Liar(Nameserver):
    """A nameserver whose answers about some names are twisted before they are sent."""

    def __init__(self) -> None:
        self.twists: dict[str, Twist] = {}
        super().__init__(asked=_Questions())

    def answer(self, data: bytes, *, tcp: bool) -> bytes | None:
        """The reply, twisted or not; None for silence."""
        reply = super().answer(data, tcp=tcp)
        name = dns.name.from_wire(data, _HEADER)[0].to_text(omit_final_dot=True)
        return self.twists[name](reply) if reply is not None and name in self.twists else reply


def answers(tag: str, step: int = 1) -> Iterator[Destination]:
    """Every name and what it resolves to. tag: as of `corpus_names`; step: as of `corpus_addresses.carrying`."""
    names = (f"answer{number}.{tag}.example" for number in count())
    yield from _failures(names)
    yield from _lies(names)
    yield from _addresses(names, step)
    yield from _mixtures(names)
    yield from _aliases(names)


def _addresses(names: Iterator[str], step: int) -> Iterator[Destination]:
    """Each edge of each row, and every form that carries an edge of an IPv4 row, as the only answer."""
    for which, row, address in edges():
        yield _found(f"answer: {which} of a row", row, next(names), [address])
    for form, carried, address in carrying(step):
        yield _found(f"answer: {form}", f"carries {carried}", next(names), [address])


def _mixtures(names: Iterator[str]) -> Iterator[Destination]:
    """One bad answer among good ones, in any place and family (ATTACKS 3.2, 3.3)."""
    for which, row, address in edges():
        if which in ("first", "last"):
            same, other = (PUBLIC, _PUBLIC_6) if address.version == 4 else (_PUBLIC_6, PUBLIC)
            yield _found("mixture: bad one first", row, next(names), [address, same])
            yield _found("mixture: bad one last", row, next(names), [same, address])
            yield _found("mixture: bad one in one family", row, next(names), [other, address])
            yield _found("mixture: bad one among many", row, next(names), [same, *_crowd(same, 30), address])
    yield _found("mixture: all good", "both families", next(names), [PUBLIC, *_crowd(PUBLIC, 3), _PUBLIC_6])
    yield _found(
        "mixture: bad one behind 63", "one family", next(names), [*_crowd(PUBLIC, 63), Address.read("127.0.0.1")]
    )


def _crowd(start: Address, size: int) -> list[Address]:
    return [Address(start.version, start.value + step) for step in range(size)]


def _found(kind: str, why: str, name: str, addresses: Iterable[Address]) -> Destination:
    """A name with these addresses: one bad one refuses them all."""
    known = frozenset(addresses)
    texts = [[str(each) for each in addresses if each.version == version] for version in (4, 6)]
    verdict = Verdict.ALLOWED if all(map(public, known)) else Verdict.DENIED
    return _answer(kind, why, name, verdict, says=Says(a=tuple(texts[0]), aaaa=tuple(texts[1])), reaches=known)


def _answer(  # noqa: PLR0913 - what a Destination has
    kind: str,
    why: str,
    name: str,
    verdict: Verdict,
    *,
    says: Says = REACHABLE,
    zone: dict[str, Says] | None = None,
    reaches: frozenset[Address] = frozenset({PUBLIC}),
    twist: Twist | None = None,
) -> Destination:
    return Destination(
        kind, why, f"{name}:80".encode(), verdict, name, 80, reaches, {name: says, **(zone or {})}, twist
    )


def _aliases(names: Iterator[str]) -> Iterator[Destination]:
    """CNAMEs: every name on the way is judged, and the addresses at its end (ATTACKS 3.4)."""
    for alias in _REFUSED_ALIASES:
        yield _chain("alias of a refused name", next(names), (alias,), Verdict.DENIED)
        yield _chain("alias of an alias of a refused name", next(names), ("{}.middle.example", alias), Verdict.DENIED)
        detour = _retold(partial(_alias, target=f"{alias}."), only="AAAA")
        yield _answer("alias of a refused name in one family", alias, next(names), Verdict.DENIED, twist=detour)
    for suffix in ("local", "internal", "localhost", "metadata.google.internal", "corp.example"):
        steps = (f"{{}}.{suffix}", "{}.end.example")
        yield _chain("alias by way of a refused name", next(names), steps, Verdict.DENIED)
    for which, row, address in edges():
        if which in ("first", "just above"):
            name = next(names)
            end = _found(f"alias of {which} of a row", row, f"end.{name}", [address])
            zone = {name: Says(cname=f"end.{name}"), **end.zone}
            yield replace(end, authority=f"{name}:80".encode(), host=name, zone=zone)
    for links, good, bad in ((2, Verdict.ALLOWED, Verdict.DENIED), (8, Verdict.ALLOWED, Verdict.DENIED)):
        yield _chain(f"chain of {links}", next(names), _links(links), good)
        yield _chain(f"chain of {links} to a protected address", next(names), _links(links), bad, _PRIVATE)
    for links in (9, 15, 17, 40):
        yield _chain("chain that is too long", next(names), _links(links), Verdict.FAILED)
        yield _chain(
            "chain that is too long, to a protected address", next(names), _links(links), Verdict.FAILED, _PRIVATE
        )


def _links(count: int) -> tuple[str, ...]:
    return tuple(f"link{number}.{{}}" for number in range(count))


def _chain(kind: str, name: str, steps: tuple[str, ...], verdict: Verdict, end: Says = REACHABLE) -> Destination:
    """A name that is an alias of the first step, that of the next, and so on. {} in a step is the name."""
    links = [name, *(step.format(name) for step in steps)]
    zone = {link: Says(cname=following) for link, following in pairwise(links[1:])}
    return _answer(
        kind, " to ".join(steps[-2:]), name, verdict, says=Says(cname=links[1]), zone={**zone, links[-1]: end}
    )


def _failures(names: Iterator[str]) -> Iterator[Destination]:
    """A lookup that fails is an error, never a way; a family that fails contributes nothing (ATTACKS 3.3, 3.5)."""
    for kind, says in {
        "silence": Says(silent=True),
        "garbage": Says(garbage=b"\x00\x01 no message"),
        "nothing": Says(garbage=b""),
        "SERVFAIL": Says(rcode="SERVFAIL"),
        "REFUSED": Says(rcode="REFUSED"),
        "NOTIMP": Says(rcode="NOTIMP"),
        "NXDOMAIN": Says(rcode="NXDOMAIN"),
        "no address": Says(),
        "SERVFAIL with an address": Says(rcode="SERVFAIL", a=REACHABLE.a),
        "NXDOMAIN with an address": Says(rcode="NXDOMAIN", a=REACHABLE.a),
        "65 addresses": Says(a=tuple(map(str, _crowd(PUBLIC, 65)))),
        "alias without an address": Says(cname="dangling.example"),
    }.items():
        yield _answer("failure", kind, next(names), Verdict.FAILED, says=says)
    rebinding = Says(a=REACHABLE.a, ttl=0, then=Says(a=("127.0.0.1",), ttl=0))
    yield _answer("rebinding: good one first", "asked once", next(names), Verdict.ALLOWED, says=rebinding)
    rebinding = Says(a=("127.0.0.1",), ttl=0, then=Says(a=REACHABLE.a, ttl=0))
    yield _answer("rebinding: bad one first", "asked once", next(names), Verdict.DENIED, says=rebinding)
    both = Says(a=REACHABLE.a, aaaa=("fd00:ec2::254",))
    yield _answer("late AAAA", "protected", next(names), Verdict.DENIED, says=both, twist=_after_a())
    for kind, twist in {
        "no AAAA in time": lambda wire: None if _is_about(wire, "AAAA") else wire,
        "AAAA fails": _retold(lambda reply: reply.set_rcode(dns.rcode.SERVFAIL), only="AAAA"),
    }.items():
        yield _answer(f"half an answer: {kind}", "good A", next(names), Verdict.ALLOWED, twist=twist)
        half = Says(a=("10.0.0.5",), aaaa=(str(_PUBLIC_6),))
        yield _answer(f"half an answer: {kind}", "bad A", next(names), Verdict.DENIED, says=half, twist=twist)
    yield _answer("truncated", "good over TCP", next(names), Verdict.ALLOWED, says=Says(a=REACHABLE.a, truncated=True))
    yield _answer("truncated", "bad over TCP", next(names), Verdict.DENIED, says=Says(a=("10.0.0.5",), truncated=True))


def _lies(names: Iterator[str]) -> Iterator[Destination]:
    """Answers that do not answer the question asked: what they say is not believed (ATTACKS 3.8)."""
    for kind, twist in {
        "another id": lambda wire: bytes([wire[0] ^ 0xFF]) + wire[1:],
        "a question and no answer": lambda wire: wire[:2] + bytes([wire[2] & 0x7F]) + wire[3:],
        "another question": _retold(_ask_something_else),
        "another opcode": _retold(lambda reply: reply.set_opcode(dns.opcode.NOTIFY)),
        "records of another name": _retold(_rename),
        "records of another type": _retold(lambda reply: _only(reply, _qname(reply), "TXT", '"93.184.216.35"')),
        "addresses in the authority section": _retold(_move_to_authority),
        "addresses in the additional section": _retold(_move_to_additional),
        "alias of no host name": _retold(lambda reply: _alias(reply, "*.wild.example.")),
        "alias of an escaped name": _retold(lambda reply: _alias(reply, "a\\032b\\000.example.")),
        "alias of the root": _retold(lambda reply: _alias(reply, ".")),
        "alias of itself": _retold(lambda reply: _alias(reply, _qname(reply), addresses=False)),
        "aliases in a circle": _retold(_circle),
        "cut short": _cut_short,
    }.items():
        yield _answer("lie", kind, next(names), Verdict.FAILED, twist=twist)
    poison = _retold(_poison)
    yield _answer("lie", "protected addresses beside the answer", next(names), Verdict.ALLOWED, twist=poison)


def _after_a() -> Twist:
    """The answer about AAAA comes when that about A has been given."""
    given = threading.Event()

    def twist(wire: bytes) -> bytes:
        if _is_about(wire, "AAAA"):
            given.wait(PATIENCE)
        else:
            given.set()
        return wire

    return twist


def _is_about(wire: bytes, rdtype: str) -> bool:
    return dns.rdatatype.to_text(dns.message.from_wire(wire).question[0].rdtype) == rdtype


def _retold(change: Change, only: str = "") -> Twist:
    """An answer with something changed. only: where it is about this type."""

    def twist(wire: bytes) -> bytes:
        if only and not _is_about(wire, only):
            return wire
        reply = dns.message.from_wire(wire)
        change(reply)
        return reply.to_wire()

    return twist


def _qname(reply: dns.message.Message) -> str:
    return reply.question[0].name.to_text()


def _add(reply: dns.message.Message, owner: str, rdtype: str, data: str) -> None:
    reply.answer.append(dns.rrset.from_text(owner, 60, "IN", rdtype, data))


def _only(reply: dns.message.Message, owner: str, rdtype: str, data: str) -> None:
    reply.answer.clear()
    _add(reply, owner, rdtype, data)


def _alias(reply: dns.message.Message, target: str, *, addresses: bool = True) -> None:
    """A CNAME in place of the answer, and behind it an address that looks good."""
    rdtype = dns.rdatatype.to_text(reply.question[0].rdtype)
    _only(reply, _qname(reply), "CNAME", target)
    if addresses:
        _add(reply, target, rdtype, str(PUBLIC if rdtype == "A" else _PUBLIC_6))


def _circle(reply: dns.message.Message) -> None:
    _alias(reply, f"turn.{_qname(reply)}", addresses=False)
    _add(reply, f"turn.{_qname(reply)}", "CNAME", _qname(reply))


def _ask_something_else(reply: dns.message.Message) -> None:
    other = dns.name.from_text(f"other.{_qname(reply)}")
    reply.question[0].name = other
    _rename(reply)


def _rename(reply: dns.message.Message) -> None:
    for rrset in reply.answer:
        rrset.name = dns.name.from_text(f"other.{rrset.name.to_text()}")


def _move_to_authority(reply: dns.message.Message) -> None:
    reply.authority.extend(reply.answer)
    reply.answer.clear()


def _move_to_additional(reply: dns.message.Message) -> None:
    reply.additional.extend(reply.answer)
    reply.answer.clear()


def _cut_short(wire: bytes) -> bytes:
    """In the middle of the last address; of an answer that has none, in the middle of the question."""
    reply = dns.message.from_wire(wire)
    reply.use_edns(edns=False)
    return reply.to_wire()[:-3]


def _poison(reply: dns.message.Message) -> None:
    """Beside a good answer: protected addresses, for other names and in other sections."""
    _add(reply, f"other.{_qname(reply)}", "A", "10.0.0.5")
    reply.additional.append(dns.rrset.from_text(_qname(reply), 60, "IN", "A", "10.0.0.5"))
    reply.authority.append(dns.rrset.from_text(_qname(reply), 60, "IN", "A", "10.0.0.5"))
