"""The lies that a nameserver can tell, each under a word, and what must come of it (ATTACKS 3.4, 3.5, 3.8).

Over UDP what answers no question of ours is passed over, and then there is silence: 504. Where a server said something
that is of no use, the name cannot be resolved: 502. Where the truth is among lies, the client is served: 200.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

import dns.flags
import dns.message
import dns.opcode

from tests.faults.lying import DECOY, TRUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.lying import Asked

SERVED: Final = (200, "OK")
FAILED: Final = (502, "dns_error")
SILENT: Final = (504, "dns_timeout")

_A, _CNAME, _PRIVATE = 1, 5, 65280


def record(rdtype: int, rdata: bytes, owner: bytes = b"\xc0\x0c") -> bytes:
    """A resource record of the name asked for (RFC 1035 §4.1.3)."""
    return owner + struct.pack("!2HIH", rdtype, 1, 60, len(rdata)) + rdata


def raw(asked: Asked, *records: bytes, count: int | None = None) -> bytes:
    """An answer without a look at what is in it. count: of records, as its header has it."""
    end = asked.wire.index(b"\0", 12) + 5
    header = struct.pack("!4H", 0x8180, 1, len(records) if count is None else count, 0)
    return asked.wire[:2] + header + bytes(2) + asked.wire[12:end] + b"".join(records)


EVIL: Final = record(_A, socket.inet_aton(DECOY))


# What is no answer to the question


def decoy(asked: Asked) -> dns.message.Message:
    """What would be believed, were it true."""
    return asked.addresses(DECOY) if asked.rdtype == "A" else asked.answer(("AAAA", "2606:2800:220:1::bad"))


def wrong_id(asked: Asked) -> bytes:
    message = decoy(asked)
    message.id ^= 1
    return message.to_wire()


def of_another(asked: Asked, name: str, rdtype: str, rdclass: str = "IN") -> bytes:
    query = dns.message.make_query(f"{name}.", rdtype, rdclass, id=int.from_bytes(asked.wire[:2], "big"))
    message = dns.message.make_response(query)
    message.answer = decoy(asked).answer
    return message.to_wire()


def no_answer(asked: Asked) -> bytes:
    message = decoy(asked)
    message.flags &= ~dns.flags.QR
    return message.to_wire()


def other_opcode(asked: Asked) -> bytes:
    message = decoy(asked)
    message.set_opcode(dns.opcode.STATUS)
    return message.to_wire()


def without_question(asked: Asked) -> bytes:
    message = decoy(asked)
    message.question.clear()
    return message.to_wire()


def twice_the_question(asked: Asked) -> bytes:
    wire = raw(asked)
    return wire[:4] + b"\0\2" + wire[6:] + wire[12:] + EVIL


def truncated_with_wrong_id(asked: Asked) -> bytes:
    wire = wrong_id(asked)
    return wire[:2] + bytes([wire[2] | 2]) + wire[3:]


def pointer_loop(asked: Asked) -> bytes:
    at = len(raw(asked))
    return raw(asked, record(_A, socket.inet_aton(DECOY), struct.pack("!H", 0xC000 | at)))


def pointer_forward(asked: Asked) -> bytes:
    return raw(asked, record(_A, socket.inet_aton(DECOY), b"\xff\xff"))


def pointer_chain(asked: Asked) -> bytes:
    """Thousands of pointers, each to the one before, and 90 names that begin at the last of them."""
    start = len(raw(asked)) + 12
    chain = b"\xc0\x0c" + b"".join(struct.pack("!H", 0xC000 | at) for at in range(start, start + 6600, 2))
    last = struct.pack("!H", 0xC000 | (start + 6600))
    return raw(asked, record(_PRIVATE, chain), *[record(_A, socket.inet_aton(DECOY), last)] * 90)


def names_without_end(asked: Asked) -> bytes:
    """90 records of a name with 120 labels: to read it takes a hundred times as long as to send it."""
    start = len(raw(asked)) + 12
    owner = struct.pack("!H", 0xC000 | start)
    long_name = record(_PRIVATE, b"\1a" * 120 + b"\0")
    return raw(asked, long_name, *[record(_A, socket.inet_aton(DECOY), owner)] * 90)


NO_ANSWERS: Final[dict[str, Callable[[Asked], bytes]]] = {
    "wrong-id": wrong_id,
    "wrong-name": lambda asked: of_another(asked, "evil.test", asked.rdtype),
    "name-below": lambda asked: of_another(asked, f"www.{asked.name}", asked.rdtype),
    "wrong-type": lambda asked: of_another(asked, asked.name, "TXT"),
    "other-family": lambda asked: of_another(asked, asked.name, "AAAA" if asked.rdtype == "A" else "A"),
    "wrong-class": lambda asked: of_another(asked, asked.name, asked.rdtype, "CH"),
    "other-opcode": other_opcode,
    "no-answer": no_answer,
    "without-question": without_question,
    "twice-the-question": twice_the_question,
    "truncated-with-wrong-id": truncated_with_wrong_id,
    "nothing": lambda _: b"",
    "garbage": lambda _: b"\xff" * 40,
    "header-only": lambda asked: raw(asked, EVIL)[:12],
    "cut": lambda asked: raw(asked, EVIL)[:-1],
    "short-address": lambda asked: raw(asked, record(_A, b"\x5d\xb8\xd8")),
    "long-address": lambda asked: raw(asked, record(_A, bytes(5))),
    "pointer-loop": pointer_loop,
    "pointer-forward": pointer_forward,
    "pointer-chain": pointer_chain,
    "names-without-end": names_without_end,
    "bad-label": lambda asked: raw(asked, record(_A, socket.inet_aton(DECOY), b"\x80a\0")),
    "long-name": lambda asked: raw(asked, record(_CNAME, (b"\x3f" + b"a" * 63) * 5 + b"\0"), EVIL),
    "records-without-end": lambda asked: raw(asked, EVIL, count=65535),
    "4000-records": lambda asked: raw(asked, *[EVIL] * 4000),
    "alias-chain-of-100": lambda asked: _chain(asked, 100),
}
"""Over UDP they are silence, in the midst of which the truth is still heard; over TCP each is an error."""


def _chain(asked: Asked, length: int) -> bytes:
    """Over so many aliases to the truth."""
    owner, records = b"\xc0\x0c", []
    for number in range(length):
        target = b"\x04c%03d" % number + b"\x04test\0"
        records.append(record(_CNAME, target, owner))
        owner = target
    end = [record(_A, socket.inet_aton(TRUE), owner)] if asked.rdtype == "A" else []
    return raw(asked, *records, *end)


# What answers the question, and is of no use, or not all of it


def aliases(*targets: str, end: str = TRUE) -> Callable[[Asked], dns.message.Message]:
    """A chain from the name asked for over these to an address."""

    def answer(asked: Asked) -> dns.message.Message:
        owners = (asked.name, *targets)
        chain = [("CNAME", f"{target}.", owner) for owner, target in zip(owners, targets, strict=False)]
        return asked.answer(*chain, *([("A", end, owners[-1])] if asked.rdtype == "A" else []))

    return answer


def _loop_of_two(asked: Asked) -> dns.message.Message:
    return asked.answer(("CNAME", "b.test."), ("CNAME", f"{asked.name}.", "b.test"))


def _many(asked: Asked, count: int) -> bytes:
    """So many addresses, the true one first."""
    others = [record(_A, socket.inet_aton(f"93.184.217.{number}")) for number in range(count - 1)]
    return raw(asked, *[record(_A, socket.inet_aton(TRUE)), *others] if asked.rdtype == "A" else [])


def _empty(asked: Asked) -> dns.message.Message:
    return asked.answer()


def failing(rcode: str, *, question: bool = True) -> Callable[[Asked], dns.message.Message]:
    def answer(asked: Asked) -> dns.message.Message:
        message = asked.answer(("A", DECOY), rcode=rcode)
        if not question:
            message.question.clear()
        return message

    return answer


def _with(section: str, *names: str) -> Callable[[Asked], dns.message.Message]:
    """The truth, and in that section the decoy under these names, "" for the one asked for."""

    def answer(asked: Asked) -> dns.message.Message:
        message = asked.addresses(TRUE)
        decoys = asked.answer(*[("A", DECOY, name or asked.name) for name in names])
        getattr(message, section).extend(decoys.answer)
        return message

    return answer


def _in_other_case(asked: Asked) -> bytes:
    end = asked.wire.index(b"\0", 12)
    return raw(asked, *[record(_A, socket.inet_aton(TRUE))] * (asked.rdtype == "A")).replace(
        asked.wire[12:end], asked.wire[12:end].upper()
    )


def _without_ttl(asked: Asked) -> dns.message.Message:
    message = asked.addresses(TRUE)
    for rrset in message.answer:
        rrset.ttl = 0
    return message


def _behind_dname(asked: Asked) -> dns.message.Message:
    parent = asked.name.partition(".")[2]
    return asked.answer(
        ("DNAME", "other.test.", parent),
        ("CNAME", f"{asked.name.partition('.')[0]}.other.test."),
        *([("A", TRUE, f"{asked.name.partition('.')[0]}.other.test")] if asked.rdtype == "A" else []),
    )


ANSWERS: Final[dict[str, tuple[Callable[[Asked], bytes | dns.message.Message], tuple[int, str]]]] = {
    **{rcode.lower(): (failing(rcode), FAILED) for rcode in ("SERVFAIL", "REFUSED", "NOTIMP", "FORMERR", "YXDOMAIN")},
    "bare-servfail": (failing("SERVFAIL", question=False), FAILED),
    "nxdomain-with-address": (failing("NXDOMAIN"), FAILED),
    "empty": (_empty, FAILED),
    "alias-to-itself": (lambda asked: asked.answer(("CNAME", f"{asked.name}.")), FAILED),
    "alias-loop-of-two": (_loop_of_two, FAILED),
    "alias-of-50": (lambda asked: _chain(asked, 50), FAILED),
    "alias-of-9": (lambda asked: _chain(asked, 9), FAILED),
    "alias-of-8": (lambda asked: _chain(asked, 8), SERVED),
    "alias-to-nowhere": (lambda asked: asked.answer(("CNAME", "nowhere.test.")), FAILED),
    "alias-to-no-host": (aliases("a\\032b.test"), FAILED),
    "alias-to-root": (lambda asked: asked.answer(("CNAME", ".")), FAILED),
    "alias-to-metadata": (aliases("metadata.google.internal"), (403, "name_locked")),
    "alias-over-metadata": (aliases("cdn.test", "metadata.google.internal", "end.test"), (403, "name_locked")),
    "alias-to-localhost": (aliases("localhost"), (403, "name_denied")),
    "alias-to-local": (aliases("router.local"), (403, "name_reserved")),
    "dname": (lambda asked: asked.answer(("DNAME", "other.test."), ("A", DECOY, "other.test")), FAILED),
    "dname-and-alias": (_behind_dname, SERVED),
    "only-of-another-name": (lambda asked: asked.answer(("A", DECOY, "evil.test")), FAILED),
    "only-of-the-parent": (lambda asked: asked.answer(("A", DECOY, asked.name.partition(".")[2])), FAILED),
    "also-of-another-name": (_with("answer", "evil.test"), SERVED),
    "more-in-authority": (_with("authority", "", "evil.test"), SERVED),
    "more-in-additional": (_with("additional", "", "evil.test"), SERVED),
    "other-case": (_in_other_case, SERVED),
    "without-ttl": (_without_ttl, SERVED),
    "64-addresses": (lambda asked: _many(asked, 64), SERVED),
    "65-addresses": (lambda asked: _many(asked, 65), FAILED),
    "among-private": (lambda asked: asked.addresses(TRUE, "10.0.0.5"), (403, "address_denied")),
    "loopback": (lambda asked: asked.addresses("127.0.0.1"), (403, "address_denied")),
    "metadata": (lambda asked: asked.addresses("169.254.169.254"), (403, "address_locked")),
}
