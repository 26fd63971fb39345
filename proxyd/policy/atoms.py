"""Names, ports and addresses, cut at every boundary that some policies and the built-in tables know, and put together
again where nothing tells them apart.

Within an atom `decide` cannot tell one from another: to ask about one of them is to ask about all.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count, pairwise
from typing import TYPE_CHECKING, Final

from proxyd.policy.address import MAX_PORT, bracketed, parse_host
from proxyd.policy.names import NameTable
from proxyd.policy.places import Ground, in_words
from proxyd.policy.ranges import RangeTable
from proxyd.policy.rows import holds
from proxyd.policy.special import BAD_PORTS, SPECIAL_NAMES, is_localhost, metadata_name, reserved_name

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from netaddr import IPAddress, IPNetwork

    from proxyd.policy.model import Policy
    from proxyd.policy.places import Place
    from proxyd.policy.rows import AllowRow, DenyRow
    from proxyd.policy.snapshot import Snapshot

OTHER: Final = "every other name"
"""All names that no policy and no built-in table mentions …"""

OTHER_LABEL: Final = "every other name without a dot"
"""… and those of a single label."""

_BAD_SPANS: Final = tuple(range(port, port + 1) for port in sorted(BAD_PORTS))


@dataclass(frozen=True, slots=True)
class Names:
    """An atom of names: what they are called, and one of them."""

    labels: tuple[str, ...]
    name: str


@dataclass(frozen=True, slots=True)
class Ports:
    """An atom of ports. own: whether it makes a difference to addresses; a parent or proxyd itself has one of them."""

    spans: tuple[range, ...]
    own: tuple[bool, ...]

    @property
    def port(self) -> int:
        """One of them."""
        return self.spans[0].start


class Atoms:
    """Those of some snapshots of policies."""

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._snapshots = tuple(snapshots)
        self._policies = [snapshot.policy for snapshot in self._snapshots]
        self._within: dict[tuple[IPNetwork, ...], frozenset[int]] = {}
        self._permits = [row for policy in self._policies for row in policy.every_permit]

    @cached_property
    def names(self) -> tuple[Names, ...]:
        """Each atom of names."""
        known = sorted({pattern.removeprefix("*.") for pattern in self._patterns if _literal(pattern) is None})
        fresh = _Fresh(known)
        label = fresh.below("")
        every = [(name, name) for name in known]
        every += [(f"*.{name}", f"{fresh.below(name)}.{name}") for name in known]
        every += [(OTHER, f"{label}.{label}"), (OTHER_LABEL, label)]
        alike: dict[Hashable, list[tuple[str, str]]] = defaultdict(list)
        for each in every:
            alike[self._said_of_name(each[1])].append(each)
        return tuple(Names(tuple(label for label, _ in some), some[0][1]) for some in alike.values())

    @cached_property
    def ports(self) -> tuple[Ports, ...]:
        """Each atom of ports."""
        edges = {1, MAX_PORT + 1}
        for span in chain(_BAD_SPANS, self._own_ports, *self._lists_of_ports):
            edges |= {span.start, span.stop}
        alike: dict[tuple[bool, ...], list[range]] = defaultdict(list)
        for start, stop in pairwise(sorted(edges)):
            alike[tuple(self._said_of_port(start))].append(range(start, stop))
        own = len(self._own_ports)
        return tuple(Ports(tuple(spans), said[:own]) for said, spans in alike.items())

    @cached_property
    def addresses(self) -> tuple[Place, ...]:
        """Each atom of addresses."""
        permitted = {row.host for row in self._permits}
        found = {host: _literal(host) for host in self._patterns}
        literals = {
            address: (self._said_of_name(host), host if host in permitted else None)
            for host, address in found.items()
            if address is not None
        }
        return Ground(self._snapshots, literals).places

    @cached_property
    def permitted(self) -> tuple[tuple[str, int], ...]:
        """Names, and atoms of ports, of which a permit speaks. A permitted address is no name."""
        found = {
            (row.host, number)
            for row in self._permits
            if _literal(row.host) is None
            for number, ports in enumerate(self.ports)
            if holds(row.ports, ports.port)
        }
        return tuple(sorted(found))

    def within(self, networks: tuple[IPNetwork, ...]) -> frozenset[int]:
        """The atoms of addresses that lie in any of these networks of a permit; asked once."""
        if networks not in self._within:
            table = RangeTable((network, True) for network in networks)
            places = enumerate(self.addresses)
            self._within[networks] = frozenset(number for number, each in places if table.find(each.address))
        return self._within[networks]

    def names_in_words(self, names: Iterable[int]) -> tuple[str, ...]:
        """All that they are called."""
        return tuple(sorted(label for name in names for label in self.names[name].labels))

    def ports_in_words(self, ports: Iterable[int]) -> tuple[str, ...]:
        """As few spans of ports as will do."""
        spans: list[range] = []
        every = (span for port in ports for span in self.ports[port].spans)
        for span in sorted(every, key=lambda span: span.start):
            if spans and spans[-1].stop == span.start:
                spans[-1] = range(spans[-1].start, span.stop)
            else:
                spans.append(span)
        return tuple(str(span.start) if len(span) == 1 else f"{span.start}-{span.stop - 1}" for span in spans)

    def networks_in_words(self, addresses: Iterable[int]) -> tuple[str, ...]:
        """As few networks as will do."""
        return in_words(span for address in addresses for span in self.addresses[address].spans)

    def are_special(self, addresses: Iterable[int]) -> bool:
        """Whether special-purpose addresses are among them."""
        return any(self.addresses[address].special for address in addresses)

    def _said_of_name(self, name: str) -> Hashable:
        """All that `decide` could ask of a name, but for permits: who denies it, and who lists it on which ports."""
        rows = frozenset(self._denied.matches(name)), frozenset(self._listed.matches(name))
        return (*rows, metadata_name(name) is None, reserved_name(name) is None, is_localhost(name))

    def _said_of_port(self, port: int) -> Iterator[bool]:
        """All that `decide` could ask of a port; first of all whether it is proxyd's own."""
        yield from (port in each for each in self._own_ports)
        yield port in BAD_PORTS
        yield from (holds(spans, port) for spans in self._lists_of_ports)

    @cached_property
    def _own_ports(self) -> tuple[range, ...]:
        """Those at which addresses are refused that are not refused at others."""
        own = set(chain.from_iterable(snapshot.own.ports for snapshot in self._snapshots))
        own |= {policy.parent.address.port for policy in self._policies if policy.parent is not None}
        return tuple(range(port, port + 1) for port in sorted(own))

    @cached_property
    def _lists_of_ports(self) -> tuple[tuple[range, ...], ...]:
        lists = [row.ports for policy in self._policies for row in policy.every_allow]
        lists += [row.ports for row in self._permits]
        for policy in self._policies:
            lists.append(policy.destinations.ports)
            lists += [client.destinations.ports or () for client in policy.client]
        return tuple(dict.fromkeys(lists))

    @cached_property
    def _denied(self) -> NameTable[int]:
        rows = enumerate(rows for policy in self._policies for rows in _denies(policy))
        return NameTable((host, whose) for whose, some in rows for row in some for host in row.hosts)

    @cached_property
    def _listed(self) -> NameTable[tuple[int, tuple[range, ...]]]:
        rows = enumerate(rows for policy in self._policies for rows in _allows(policy))
        return NameTable((host, (whose, row.ports)) for whose, some in rows for row in some for host in row.hosts)

    @cached_property
    def _patterns(self) -> frozenset[str]:
        """Every host, and every pattern of hosts."""
        found = {*SPECIAL_NAMES, *(row.host for row in self._permits)}
        for policy in self._policies:
            found.update(*(row.hosts for row in policy.every_deny), *(row.hosts for row in policy.every_allow))
        return frozenset(found)


def _denies(policy: Policy) -> Iterator[tuple[DenyRow, ...]]:
    """The rows of each owner: the policy's, and each client's."""
    yield policy.deny
    yield from (client.deny for client in policy.client)


def _allows(policy: Policy) -> Iterator[tuple[AllowRow, ...]]:
    yield policy.allow
    yield from (client.allow for client in policy.client)


def _literal(pattern: str) -> IPAddress | None:
    """The address, if it is one and no name."""
    return None if pattern.startswith("*.") else parse_host(bracketed(pattern))[1]


class _Fresh:
    """Labels that make a name which nobody knows."""

    def __init__(self, known: Iterable[str]) -> None:
        self._taken: dict[str, set[str]] = defaultdict(set)
        for name in known:
            below = name
            while below:
                label, _, below = below.partition(".")
                self._taken[below].add(label)

    def below(self, name: str) -> str:
        """One below `name`, or at the top."""
        taken = self._taken.get(name, set())
        return next(label for number in count() if (label := f"x{number}") not in taken)
