"""The IPv4 addresses that an IPv6 address carries: a packet to one can end at the other.

Each form is a fact from an RFC; whether such an address may be reached is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netaddr import IPAddress, IPNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RFC6052_LENGTHS = (32, 40, 48, 56, 64, 96)
"""The prefix lengths at which a NAT64 translator may put an IPv4 address (RFC 6052 §2.2)."""

_MASK_32 = 0xFFFF_FFFF
_MASK_56 = (1 << 56) - 1
_ISATAP_MASK = 0xFCFF_FFFF  # the universal and the group bit may be set (RFC 4291 appendix A)
_ISATAP = 0x0000_5EFE


def rfc6052(value: int, length: int) -> int:
    """The IPv4 address behind a prefix of `length` bits, bits 64-71 left out (RFC 6052 §2.2)."""
    if length == 96:  # noqa: PLR2004 - the one length that has no octet to skip
        return value & _MASK_32
    without_u = (value >> 64) << 56 | value & _MASK_56
    return without_u >> (120 - 32 - length) & _MASK_32


def _at(*shifts: int) -> Callable[[int], tuple[int, ...]]:
    return lambda value: tuple(value >> shift & _MASK_32 for shift in shifts)


def _rfc6052_at(*lengths: int) -> Callable[[int], tuple[int, ...]]:
    """At each position that the length might be; most are a guess, and zero among others is only their filling."""

    def extract(value: int) -> tuple[int, ...]:
        carried = tuple(rfc6052(value, length) for length in lengths)
        return tuple(filter(None, carried)) or carried

    return extract


def _teredo(value: int) -> tuple[int, ...]:
    """The server, and the client's address with its bits flipped (RFC 4380 §4)."""
    return value >> 64 & _MASK_32, ~value & _MASK_32


_CARRIERS: tuple[tuple[IPNetwork, Callable[[int], tuple[int, ...]]], ...] = (
    (IPNetwork("::/96"), _at(0)),  # IPv4-compatible, RFC 4291 §2.5.5.1
    (IPNetwork("::ffff:0:0/96"), _at(0)),  # IPv4-mapped, RFC 4291 §2.5.5.2
    (IPNetwork("::ffff:0:0:0/96"), _at(0)),  # IPv4-translated (SIIT), RFC 2765 §2.1
    (IPNetwork("64:ff9b::/96"), _at(0)),  # NAT64 well-known prefix, RFC 6052 §2.1
    (IPNetwork("64:ff9b:1::/48"), _rfc6052_at(48, 56, 64, 96)),  # NAT64 local use, RFC 8215 §3
    (IPNetwork("2002::/16"), _at(80)),  # 6to4, RFC 3056 §2
    (IPNetwork("2001::/32"), _teredo),  # Teredo, RFC 4380 §4
)
_RANGES = tuple((network.first, network.last, extract) for network, extract in _CARRIERS)


def is_isatap(address: IPAddress) -> bool:
    """Whether the interface identifier is ISATAP's, under any prefix (RFC 5214 §6.1)."""
    return address.version == 6 and int(address) >> 32 & _ISATAP_MASK == _ISATAP  # noqa: PLR2004 - IP versions


def embedded_ipv4(address: IPAddress) -> Iterator[IPAddress]:
    """Every IPv4 address that `address` carries by its form alone; none for an IPv4 address, `::` and `::1`."""
    value = int(address)
    if address.version == 4 or value <= 1:  # noqa: PLR2004 - IP versions
        return
    for first, last, extract in _RANGES:
        if first <= value <= last:
            yield from (IPAddress(carried, 4) for carried in extract(value))
    if is_isatap(address):
        yield IPAddress(value & _MASK_32, 4)


def translated(address: IPAddress, translators: tuple[IPNetwork, ...]) -> IPAddress:
    """What a declared NAT64 translator would reach for `address`; the address itself if no prefix holds it.

    translators: prefixes whose lengths are in RFC6052_LENGTHS.
    """
    for prefix in translators:
        if address in prefix:
            return IPAddress(rfc6052(int(address), prefix.prefixlen), 4)
    return address


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the addresses of a network have room for an IPv4 address: the inverse of what is read above.

    pieces: each as (its lowest bit in the address, its lowest bit in the IPv4 address, how many bits). flipped: whether
    its bits are. marked: what else must stand in the address, as (mask, bits).
    """

    network: IPNetwork
    pieces: tuple[tuple[int, int, int], ...] = ((0, 0, 32),)
    flipped: bool = False
    marked: tuple[int, int] = (0, 0)

    def put(self, ipv4: int, into: int) -> int:
        """The address with `ipv4` in this place."""
        bits = ipv4 ^ _MASK_32 if self.flipped else ipv4
        for low, ipv4_low, width in self.pieces:
            mask = (1 << width) - 1
            into = into & ~(mask << low) | (bits >> ipv4_low & mask) << low
        return into & ~self.marked[0] | self.marked[1]

    def room(self, block: IPNetwork) -> tuple[int, int] | None:
        """The first and the last IPv4 address that the addresses of `block` can have here; None if they have no
        such place.

        The bits of an IPv4 address stand in their order, so that those which the block leaves open are its last.
        """
        first, last = (self._get(value) for value in (block.first, block.last))
        fixed = ~(block.last - block.first)
        fits = block.first & fixed & self.marked[0] == self.marked[1] & fixed
        return (min(first, last), max(first, last)) if fits else None

    def _get(self, value: int) -> int:
        pieces = (((value >> low) & (1 << width) - 1) << ipv4_low for low, ipv4_low, width in self.pieces)
        return sum(pieces) ^ (_MASK_32 if self.flipped else 0)


def _rfc6052_slot(network: IPNetwork, length: int) -> Slot:
    """The place behind a prefix of `length` bits, bits 64-71 left out (RFC 6052 §2.2)."""
    if length == 96:  # noqa: PLR2004 - as above
        return Slot(network)
    above = max(64 - length, 0)  # how many of its bits stand before the octet that is skipped
    low = 24 + above
    pieces = ((64, 32 - above, above), (low, 0, 32 - above))
    return Slot(network, tuple(piece for piece in pieces if piece[2]))


ISATAP_SLOT: Final = Slot(IPNetwork("::/0"), marked=(_MASK_32 << 32, _ISATAP << 32))
"""ISATAP, under any prefix."""

_SLOTS: Final = (
    *(Slot(IPNetwork(prefix)) for prefix in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")),
    *(_rfc6052_slot(IPNetwork("64:ff9b:1::/48"), length) for length in (48, 56, 64, 96)),
    Slot(IPNetwork("2002::/16"), ((80, 0, 32),)),
    Slot(IPNetwork("2001::/32"), ((64, 0, 32),)),
    Slot(IPNetwork("2001::/32"), flipped=True),
)


def slots(first: int, last: int, translators: Iterable[IPNetwork]) -> tuple[Slot, ...]:
    """The places of the carriers and of the declared translators that hold these addresses; ISATAP's is not among them.

    first, last: of IPv6 addresses, all inside or all outside of each of them.
    """
    known = (*_SLOTS, *(_rfc6052_slot(prefix, prefix.prefixlen) for prefix in translators))
    return tuple(slot for slot in known if slot.network.first <= first and last <= slot.network.last)
