"""Addresses, cut at every boundary that some policies and the built-in table know, and grouped by what is said of them.

Within a Place `decide` cannot tell one address from another. Where an address may be reached in spite of what it
carries (under a permit, a declared translator or a fake-IP range), each IPv4 address that it can carry is told apart
too. Nothing is judged here.

One corner is not cut: an address that carries two (Teredo, the local-use NAT64 prefix, ISATAP within a carrier), where
the network of a permit fixes a part of one of them. What fills the rest of that one is an address that no row denies,
as far as that part leaves the choice.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from netaddr import IPAddress, IPNetwork, iprange_to_cidrs

from proxyd.policy.embedded import ISATAP_SLOT, embedded_ipv4, is_isatap, slots, translated
from proxyd.policy.ranges import RangeTable
from proxyd.policy.special import LOCALHOST_ADDRESSES, SPECIAL_NETWORKS, locked_address, special_address

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from proxyd.policy.embedded import Slot
    from proxyd.policy.snapshot import Snapshot

    Range = tuple[int, int]
    """The first and the last of some addresses, as numbers …"""

    Where = tuple[Literal[4, 6], int, int]
    """… and of which version they are."""

_LAST: Final[dict[Literal[4, 6], int]] = {4: (1 << 32) - 1, 6: (1 << 128) - 1}
_ALL_IPV4: Final = (0, _LAST[4])
_LOOPBACK: Final = (IPNetwork("127.0.0.0/8"), IPNetwork("::1/128"))
_REPEATED: Final = int.from_bytes(b"\x01" * 16)
_OCTETS: Final = range(4, 224)  # that four of may make a public address, and that are no part of an ISATAP mark

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Span:
    """Addresses side by side; if `carried` is given, those that carry one of these IPv4 addresses."""

    version: Literal[4, 6]
    first: int
    last: int
    carried: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """An atom of addresses: where they lie, and one of them."""

    spans: tuple[Span, ...]
    address: IPAddress

    @property
    def special(self) -> bool:
        """Whether they are special-purpose addresses."""
        return special_address(self.address) is not None


def in_words(spans: Iterable[Span]) -> tuple[str, ...]:
    """As few networks as will do."""
    ranges: list[Where] = []
    carried: dict[Where, list[Range]] = defaultdict(list)
    for span in sorted(spans, key=lambda each: (each.version, each.first)):
        if span.carried and span.carried != (_ALL_IPV4,):
            carried[span.version, span.first, span.last] += span.carried
        else:
            ranges.append((span.version, span.first, span.last))
    behind: dict[Where, list[Range]] = {
        where: [(first, last) for _, first, last in _joined((4, *each) for each in sorted(some))]
        for where, some in carried.items()
    }
    ranges += [where for where, some in behind.items() if some == [_ALL_IPV4]]
    plain = map(str, chain.from_iterable(_cidrs(*each) for each in _joined(sorted(ranges))))
    carrying = (
        f"{network} carrying {ipv4}"
        for where, some in behind.items()
        if some != [_ALL_IPV4]
        for network in _cidrs(*where)
        for each in some
        for ipv4 in _cidrs(4, *each)
    )
    return (*plain, *carrying)


def _joined(ranges: Iterable[Where]) -> list[Where]:
    """What lies side by side or overlaps, as one; they come in order."""
    joined: list[Where] = []
    for version, first, last in ranges:
        if joined and joined[-1][0] == version and first <= joined[-1][2] + 1:
            joined[-1] = (version, joined[-1][1], max(last, joined[-1][2]))
        else:
            joined.append((version, first, last))
    return joined


def _cidrs(version: Literal[4, 6], first: int, last: int) -> list[IPNetwork]:
    return iprange_to_cidrs(IPAddress(first, version), IPAddress(last, version))


class Ground:
    """All addresses, as some snapshots of policies divide them.

    literals: those that stand among the hosts, and what is said of each as a host.
    """

    def __init__(self, snapshots: Iterable[Snapshot], literals: Mapping[IPAddress, Hashable]) -> None:
        self._snapshots = tuple(snapshots)
        self._literals = literals
        policies = [snapshot.policy for snapshot in self._snapshots]
        denies = [rows for each in policies for rows in (each.deny, *(client.deny for client in each.client))]
        self._denied = [[network for row in rows for network in row.networks] for rows in denies]
        self._permitted = [network for each in policies for row in each.every_permit for network in row.networks]
        self._own = [(*snapshot.own.addresses, *_LOOPBACK) for snapshot in self._snapshots]
        parents = [each.parent.address.address for each in policies if each.parent is not None]
        self._parents = [[IPNetwork(address)] for address in parents]
        self._fake = [each.dns.dangerously_allow_fake_ip for each in policies]
        self._translators = tuple(dict.fromkeys(chain.from_iterable(each.dns.nat64 for each in policies)))

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every atom."""
        return tuple(
            Place(tuple(span for span, _ in some), some[0][1]) for some in _grouped(self._samples(), self._said)
        )

    def _samples(self) -> Iterator[tuple[Span, IPAddress]]:
        """Every span, with one of its addresses; where it matters what they carry, once for each kind of that."""
        yield from ((span, IPAddress(span.first, 4)) for span in self._spans(4))
        for span in self._spans(6):
            if span.first == span.last or self._matters.find(IPAddress(span.first, 6)) is None:
                yield span, _not_isatap(span)
            else:
                yield from self._carrying(span)

    def _spans(self, version: Literal[4, 6]) -> Iterator[Span]:
        edges = {0, _LAST[version] + 1}
        for network in self._networks:
            if network.version == version:
                edges |= {network.first, network.last + 1}
        yield from (Span(version, first, stop - 1) for first, stop in pairwise(sorted(edges)))

    @property
    def _networks(self) -> Iterator[IPNetwork]:
        yield from chain(SPECIAL_NETWORKS, self._permitted, self._translators, _LOOPBACK)
        yield from chain(*self._denied, *self._own, *self._parents, *self._fake)
        yield from map(IPNetwork, chain(LOCALHOST_ADDRESSES, self._literals))

    # What is said of an address

    def _said(self, sample: tuple[Span, IPAddress]) -> Hashable:
        """All that `decide` could ask of it."""
        span, address = sample
        judged = [self._said_of_all(address, snapshot.policy.dns.nat64) for snapshot in self._snapshots]
        alone = self._literals.get(address) if span.first == span.last else None
        opened = self._narrowest_permitted.find(address)
        return (*judged, self._said_of_one(address), alone, opened, address in LOCALHOST_ADDRESSES)

    def _said_of_all(self, address: IPAddress, translators: tuple[IPNetwork, ...]) -> Hashable:
        """What is said of it, or of what it translates to, and of what that carries: a permit opens the former only."""
        behind = translated(address, translators)
        return self._said_of_one(behind), frozenset(map(self._said_of_one, embedded_ipv4(behind)))

    def _said_of_one(self, address: IPAddress) -> Hashable:
        """The same of an address, whatever it carries and wherever it was found."""
        holding = tuple(table.find(address) is not None for table in self._tables)
        return (*holding, special_address(address) is None, locked_address(address) is None)

    @cached_property
    def _tables(self) -> tuple[RangeTable[bool], ...]:
        return tuple(_table(each) for each in (*self._denied, *self._own, *self._parents, *self._fake) if each)

    @cached_property
    def _narrowest_permitted(self) -> RangeTable[IPNetwork]:
        """It says which others hold the address, too: those that hold this network."""
        return RangeTable((network, network) for network in self._permitted)

    # What addresses carry

    @cached_property
    def _matters(self) -> RangeTable[bool]:
        """Where it makes a difference what an address carries: elsewhere every carrier is refused."""
        return _table(chain(self._permitted, self._translators, *self._fake))

    @cached_property
    def _opened(self) -> RangeTable[bool]:
        return _table(chain(self._permitted, *self._fake))

    @cached_property
    def _kinds_of_ipv4(self) -> tuple[tuple[Range, ...], ...]:
        """The IPv4 addresses that can be told apart where an IPv6 address carries them."""
        grouped = _grouped(self._spans(4), lambda span: self._said_of_one(IPAddress(span.first, 4)))
        return tuple(tuple((span.first, span.last) for span in some) for some in grouped)

    @cached_property
    def _filling(self) -> int:
        """An octet of which four make an IPv4 address that nothing is said of, if there is one."""
        unsaid = (octet for octet in _OCTETS if self._is_unsaid(octet))
        return next(unsaid, _OCTETS[-1])

    def _is_unsaid(self, octet: int) -> bool:
        addresses = (IPAddress(octet * 0x0101_0100 + end, 4) for end in (0, octet, 255))
        return all(
            special_address(each) is None and not any(table.find(each) for table in self._tables) for each in addresses
        )

    def _carrying(self, span: Span) -> Iterator[tuple[Span, IPAddress]]:
        """One for each kind of IPv4 address, in each place for it; in the others is what nothing is said of."""
        places = slots(span.first, span.last, self._translators)
        if not places:
            yield span, _not_isatap(span)
        for slot in (*places, *self._isatap(span)):
            for block in sorted(_cidrs(6, span.first, span.last), key=lambda block: block.prefixlen):
                room = slot.room(block)
                if room is not None:
                    yield from self._filled(block, room, slot, places)
                if room == _ALL_IPV4:
                    break

    def _isatap(self, span: Span) -> tuple[Slot, ...]:
        """A translator alone reads it as anything else, and without it is refused."""
        return () if self._opened.find(IPAddress(span.first, 6)) is None else (ISATAP_SLOT,)

    def _filled(
        self, block: IPNetwork, room: Range, slot: Slot, others: tuple[Slot, ...]
    ) -> Iterator[tuple[Span, IPAddress]]:
        ground = self._filling * _REPEATED
        for other in others:
            ground = other.put(self._filling * 0x0101_0101, ground)
        for kind in self._kinds_of_ipv4:
            carried = tuple(_overlaps(kind, room))
            if carried:
                address = block.first | slot.put(carried[-1][1], ground) & _hostmask(block)
                yield Span(6, block.first, block.last, carried), IPAddress(address, 6)


def _hostmask(block: IPNetwork) -> int:
    return block.last - block.first


def _not_isatap(span: Span) -> IPAddress:
    """One that is ISATAP's only if all are."""
    first = IPAddress(span.first, 6)
    after = (span.first | _LAST[4]) + 1
    return IPAddress(after, 6) if is_isatap(first) and after <= span.last else first


def _overlaps(ranges: Iterable[Range], room: Range) -> Iterator[Range]:
    for first, last in ranges:
        if first <= room[1] and room[0] <= last:
            yield max(first, room[0]), min(last, room[1])


def _table(networks: Iterable[IPNetwork]) -> RangeTable[bool]:
    return RangeTable((network, True) for network in networks)


def _grouped(items: Iterable[T], said: Callable[[T], Hashable]) -> list[list[T]]:
    """Together, of what the same is said."""
    grouped: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        grouped[said(item)].append(item)
    return list(grouped.values())
