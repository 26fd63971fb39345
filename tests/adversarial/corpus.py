"""The corpus: destinations, each with the verdict that it must have, told without a look at proxyd's own tables.

What nobody may reach is transcribed here a second time, from the page that proxyd answers to and from the
registries, and is read with a few lines of arithmetic. Where proxyd's table and this one disagree, a test fails.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.nameserver import Says


class Address(NamedTuple):
    """An IP address, as its number. version: 4 or 6."""

    version: int
    value: int

    @classmethod
    def read(cls, text: str) -> Address:
        """An address in any spelling that inet_pton(3) takes. Raises OSError."""
        packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
        return cls.of(packed)

    @classmethod
    def of(cls, packed: bytes) -> Address:
        """An address from its 4 or 16 octets."""
        return cls(4 if len(packed) == 4 else 6, int.from_bytes(packed))

    @property
    def packed(self) -> bytes:
        """Its octets."""
        return self.value.to_bytes(4 if self.version == 4 else 16)

    @property
    def literal(self) -> str:
        """As it stands before a port."""
        return str(self) if self.version == 4 else f"[{self}]"

    def neighbour(self, step: int) -> Address | None:
        """The one so many addresses on, if there is one."""
        value = self.value + step
        return Address(self.version, value) if 0 <= value < 1 << (32 if self.version == 4 else 128) else None

    def __str__(self) -> str:
        return socket.inet_ntop(socket.AF_INET if self.version == 4 else socket.AF_INET6, self.packed)


class Block(NamedTuple):
    """A row: every address from first to last. text: as the row is written."""

    first: Address
    last: Address
    text: str

    @classmethod
    def read(cls, text: str) -> Block:
        """A network in CIDR notation, or a single address."""
        prefix, _, length = text.partition("/")
        first = Address.read(prefix)
        bits = 32 if first.version == 4 else 128
        return cls(first, Address(first.version, first.value | ((1 << (bits - int(length or bits))) - 1)), text)

    def holds(self, address: Address) -> bool:
        """Whether the address is one of these."""
        return self.first.version == address.version and self.first <= address <= self.last


# source -> its rows
PROTECTED: Final = {
    "MISSION, the documented denylist": (
        *("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *("169.254.0.0/16", "fe80::/10", "169.254.169.254", "100.64.0.0/10", "198.18.0.0/15", "2001:2::/48"),
        *("192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "224.0.0.0/4"),
        *("ff00::/8", "240.0.0.0/4", "fc00::/7", "fec0::/10", "100::/64", "2001:20::/28", "64:ff9b::/96"),
        *("64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "::ffff:0:0/96"),
    ),
    "IANA IPv4 Special-Purpose Address Registry": (
        *("0.0.0.0/8", "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32"),
        *("192.0.0.170/32", "192.0.0.171/32", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
        *("192.88.99.0/24", "192.88.99.2/32", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "255.255.255.255/32"),
    ),
    "IANA IPv6 Special-Purpose Address Registry": (
        *("::1/128", "::/128", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64"),
        *("2001::/23", "2001::/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:2::/48"),
        *("2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32"),
        *("2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10"),
    ),
    "RFC 4291 §2.4 and IANA IPv6 Global Unicast: all but 2000::/3": ("::/3", "4000::/2", "8000::/1"),
    "RFC 2765 §2.1, IPv4-translated (SIIT)": ("::ffff:0:0:0/96",),
    "RFC 3701, 6bone": ("3ffe::/16",),
    "AWS: EC2, ECS and EKS metadata": ("169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"),
    "Google metadata, over IPv6 and on GKE": ("fd20:ce::254", "169.254.169.252"),
    "Azure platform services, a public address": ("168.63.129.16",),
    "Alibaba metadata": ("100.100.100.200", "fd00:100::100:200"),
    "Oracle metadata": ("192.0.0.192", "fd00:c1::a9fe:a9fe"),
    "OpenStack metadata over IPv6": ("fe80::a9fe:a9fe",),
    "Tencent metadata": ("169.254.0.23", "100.88.222.5"),
    "Equinix metadata, a public address": ("192.80.8.124",),
    "Volcengine metadata": ("100.96.0.96",),
    "UCloud metadata": ("100.80.80.80",),
    "Scaleway metadata": ("169.254.42.42", "fd00:42::42"),
    "Akamai metadata": ("fd00:a9fe:a9fe::1",),
    "[[deny]] of the test's policy": ("45.45.44.0/22", "2a0c:45::/32"),
}

BLOCKS: Final = {
    block.text: (block, source) for source, rows in PROTECTED.items() for block in map(Block.read, rows)
}.values()
"""Every row once, with the source that names it last."""


def public(address: Address) -> bool:
    """Whether anybody may go there."""
    return not is_isatap(address) and not any(block.holds(address) for block, _ in BLOCKS)


def is_isatap(address: Address) -> bool:
    """RFC 5214 §6.1: the interface identifier is 00-00-5E-FE and an IPv4 address, whatever its u and g bits say."""
    first, *rest = address.packed[8:12] or b"\xff"
    return address.version == 6 and first & ~0x03 == 0 and bytes(rest) == b"\x00\x5e\xfe"


class Verdict(Enum):
    """What must become of a request: the statuses that say so."""

    ALLOWED = (200, 101)
    DENIED = (403,)
    MALFORMED = (400,)
    FAILED = (502, 504)

    @property
    def recorded(self) -> str:
        """The word for it in the decision record."""
        return {Verdict.ALLOWED: "allow", Verdict.DENIED: "deny"}.get(self, "error")


def verdict_on(address: Address) -> Verdict:
    """The verdict on a literal, or on a name that has this address alone."""
    return Verdict.ALLOWED if public(address) else Verdict.DENIED


@dataclass(frozen=True)
class Destination:
    """What is asked for, and what must become of it.

    kind: the trick, the same for all destinations that try it. why: the row or spelling.
    authority: octet for octet.
    host: the host and port in normal form, as the records shall have them; None where it cannot be read.
    reaches: where an allowed request may arrive.
    zone: what DNS says of names. twist: what becomes of an answer about `host` before it is sent.
    in_connect: the verdict on it as the target of a CONNECT, where that is another.
    """

    kind: str
    why: str
    authority: bytes
    verdict: Verdict
    host: Address | str | None = None
    port: int = 80
    reaches: frozenset[Address] = frozenset()
    zone: dict[str, Says] = field(default_factory=dict)
    twist: Callable[[bytes], bytes | None] | None = None
    in_connect: Verdict | None = None

    def judged(self, *, connect: bool) -> Verdict:
        """The verdict by this way in."""
        return self.in_connect or self.verdict if connect else self.verdict

    def __str__(self) -> str:
        return f"{self.kind}, {self.why}: {self.authority!r}"
