"""Names, ports and addresses, cut at every boundary that some policies and the built-in tables know.

Within an atom `decide` cannot tell one from another: to ask about one of them is to ask about all. Not cut are
addresses that carry another one: those under a declared translator, and ISATAP.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Final, Literal

from netaddr import IPAddress, IPNetwork, iprange_to_cidrs

from proxyd.policy.address import MAX_PORT, bracketed, parse_host
from proxyd.policy.special import BAD_PORTS, LOCALHOST_ADDRESSES, SPECIAL_NAMES, SPECIAL_NETWORKS, special_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxyd.policy.rows import AllowRow, DenyRow, PermitRow
    from proxyd.policy.snapshot import Snapshot

OTHER: Final = "every other name"
"""All names that no policy and no built-in table mentions …"""

OTHER_LABEL: Final = "every other name without a dot"
"""… and those of a single label."""

_BEYOND: Final = {4: 1 << 32, 6: 1 << 128}


class Atoms:
    """Those of some snapshots of policies."""

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._denies: list[DenyRow] = []
        self._allows: list[AllowRow] = []
        self._permits: list[PermitRow] = []
        self._snapshots = tuple(snapshots)
        for policy in (snapshot.policy for snapshot in self._snapshots):
            self._denies += policy.every_deny
            self._allows += policy.every_allow
            self._permits += policy.every_permit

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """What each atom of names is called, and one name of it."""
        known = sorted({pattern.removeprefix("*.") for pattern in self._patterns if _literal(pattern) is None})
        exact = [(name, name) for name in known]
        below = [(f"*.{name}", f"{_fresh_below(name, known)}.{name}") for name in known]
        label = _fresh_below("", known)
        return (*exact, *below, (OTHER, f"{label}.{label}"), (OTHER_LABEL, label))

    @cached_property
    def ports(self) -> tuple[range, ...]:
        """Each atom of ports."""
        spans = [range(port, port + 1) for port in BAD_PORTS]
        spans += chain.from_iterable(row.ports for row in self._allows)
        spans += chain.from_iterable(row.ports for row in self._permits)
        for snapshot in self._snapshots:
            spans += snapshot.policy.destinations.ports
            spans += chain.from_iterable(client.destinations.ports or () for client in snapshot.policy.client)
            spans += [range(port, port + 1) for port in snapshot.own.ports]
        edges = {1, MAX_PORT + 1, *(edge for span in spans for edge in (span.start, span.stop))}
        return tuple(range(start, stop) for start, stop in pairwise(sorted(edges)))

    @cached_property
    def addresses(self) -> tuple[tuple[IPAddress, IPAddress], ...]:
        """The first and the last of each atom of addresses."""
        return (*self._spans(4), *self._spans(6))

    @cached_property
    def permitted(self) -> frozenset[tuple[str, int]]:
        """Names, and atoms of ports, of which a permit speaks. A permitted address is no name."""
        return frozenset(
            (row.host, port)
            for row in self._permits
            if _literal(row.host) is None
            for port, span in enumerate(self.ports)
            if any(span.start in each for each in row.ports)
        )

    def ports_in_words(self, ports: Iterable[int]) -> tuple[str, ...]:
        """As few spans of ports as will do."""
        spans: list[range] = []
        for span in (self.ports[port] for port in sorted(ports)):
            if spans and spans[-1].stop == span.start:
                spans[-1] = range(spans[-1].start, span.stop)
            else:
                spans.append(span)
        return tuple(str(span.start) if len(span) == 1 else f"{span.start}-{span.stop - 1}" for span in spans)

    def networks_in_words(self, addresses: Iterable[int]) -> tuple[str, ...]:
        """As few networks as will do."""
        spans: list[tuple[IPAddress, IPAddress]] = []
        for first, last in (self.addresses[address] for address in sorted(addresses)):
            if spans and spans[-1][1].version == first.version and int(spans[-1][1]) + 1 == int(first):
                spans[-1] = (spans[-1][0], last)
            else:
                spans.append((first, last))
        return tuple(str(network) for span in spans for network in iprange_to_cidrs(*span))

    def are_special(self, addresses: Iterable[int]) -> bool:
        """Whether special-purpose addresses are among them."""
        return any(special_address(self.addresses[address][0]) is not None for address in addresses)

    def _spans(self, version: Literal[4, 6]) -> Iterator[tuple[IPAddress, IPAddress]]:
        edges = {0, _BEYOND[version]}
        for network in self._networks:
            if network.version == version:
                edges |= {network.first, network.last + 1}
        for first, stop in pairwise(sorted(edges)):
            yield IPAddress(first, version), IPAddress(stop - 1, version)

    @cached_property
    def _networks(self) -> tuple[IPNetwork, ...]:
        """Every network, and every address that stands among the hosts."""
        known = [*SPECIAL_NETWORKS, *map(IPNetwork, LOCALHOST_ADDRESSES)]
        known += chain.from_iterable(row.networks for row in self._denies)
        known += chain.from_iterable(row.networks for row in self._permits)
        for snapshot in self._snapshots:
            known += (*snapshot.policy.dns.nat64, *snapshot.policy.dns.dangerously_allow_fake_ip)
            known += snapshot.own.addresses
            if snapshot.policy.parent is not None:
                known.append(IPNetwork(snapshot.policy.parent.address.address))
        known += (IPNetwork(address) for address in map(_literal, self._patterns) if address is not None)
        return tuple(known)

    @cached_property
    def _patterns(self) -> frozenset[str]:
        """Every host, and every pattern of hosts."""
        denied, allowed = (row.hosts for row in self._denies), (row.hosts for row in self._allows)
        return frozenset((*SPECIAL_NAMES, *chain(*denied, *allowed), *(row.host for row in self._permits)))


def _literal(pattern: str) -> IPAddress | None:
    """The address, if it is one and no name."""
    return None if pattern.startswith("*.") else parse_host(bracketed(pattern))[1]


def _fresh_below(name: str, known: Iterable[str]) -> str:
    """A label that makes a name which nobody knows: below `name`, or at the top."""
    suffix = f".{name}" if name else ""
    taken = {each.removesuffix(suffix).rpartition(".")[2] for each in known if each.endswith(suffix)}
    return next(label for number in range(len(taken) + 1) if (label := f"x{number}") not in taken)
