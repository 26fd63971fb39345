"""A policy as it stands on one day and one host, compiled for lookup: who a client is, and which rules are his.

`decide` takes nothing less than a Snapshot, so that an expired permit cannot be judged by: it is gone. Nothing here
judges, and nothing reads the day, the host or its accounts: they are given.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from netaddr import IPNetwork

from proxyd.policy.names import NameTable
from proxyd.policy.ranges import RangeTable
from proxyd.policy.rows import holds

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping
    from datetime import date

    from netaddr import IPAddress

    from proxyd.policy.address import Destination, Endpoint
    from proxyd.policy.client import Client, Credential, Destinations
    from proxyd.policy.dns import Dns
    from proxyd.policy.model import Policy
    from proxyd.policy.rows import AllowRow, DenyRow, PermitRow


@dataclass(frozen=True)
class Own:
    """proxyd's own listeners: reached by nobody through proxyd, on any address of this host (ATTACKS 2.17).

    addresses: as networks, because a host can be given a whole one; most hold a single address.
    """

    ports: frozenset[int] = frozenset()
    addresses: frozenset[IPNetwork] = frozenset()

    @classmethod
    def of(cls, policy: Policy) -> Own:
        """What the policy itself says of where proxyd will be reached; the daemon knows more."""
        return cls(policy.ports, frozenset(IPNetwork(endpoint.address) for endpoint in policy.listen.endpoints))

    def holds(self, address: IPAddress, port: int) -> bool:
        """Whether a connection to this address and port would come back to us."""
        return port in self.ports and self.has(address)

    def has(self, address: IPAddress) -> bool:
        """Whether the address is this host's."""
        return address.is_loopback() or any(address in network for network in self.addresses)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as the kernel says it.

    address: None for a Unix socket, which has none. uid: of the local account that owns the connecting socket; None
    where that is not known.
    """

    address: IPAddress | None
    uid: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """A policy on one day and one host. accounts: the numbers of the local accounts that it names."""

    policy: Policy
    own: Own
    accounts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, policy: Policy, today: date, own: Own = Own(), accounts: Mapping[str, int] | None = None) -> Snapshot:
        """`policy` as it stands on `today` (UTC): a permit is valid through the day on which it expires."""
        client = tuple(replace(each, permit=_live(each.permit, today)) for each in policy.client)
        return cls(replace(policy, permit=_live(policy.permit, today), client=client), own, accounts or {})

    def identify(self, peer: Peer, proven: Container[Credential] = ()) -> Client | None:
        """The first client whose conditions all hold. proven: the credentials that the peer has shown to know."""
        return next(
            (each for each in self.candidates(peer) if each.credential is None or each.credential in proven), None
        )

    def candidates(self, peer: Peer) -> Iterator[Client]:
        """Every client that the peer may be, as far as the kernel can say; a credential may be wanting.

        Somebody of this host whose account cannot be told, as one who has left, may be any account: nobody comes into
        question behind a client that asks for one.
        """
        for client, networks in self._clients:
            if not (client.networks or client.users or client.credential):
                continue  # who has no conditions is nobody, and not anybody
            at_home = networks is None or (peer.address is not None and networks.find(peer.address) is not None)
            if not at_home:
                continue
            if client.users and self._is_faceless(peer):
                return
            if not client.users or self._owns(client, peer.uid):
                yield client

    def account(self, peer: Peer) -> str | None:
        """What the account of a peer is called: by the policy, or by its number."""
        if peer.uid is None:
            return None
        return self._account_names.get(peer.uid, str(peer.uid))

    @cached_property
    def asks_for_accounts(self) -> bool:
        """Whether it matters which account a client is."""
        return any(client.users for client in self.policy.client)

    def rules(self, client: Client) -> Rules:
        """What holds for the destinations of one client: by what is said of it here, wherever `client` comes from.

        Raises KeyError for one that this policy has not: nobody has no rules.
        """
        found = self._rules.get(client.name)
        if found is None:
            found = self._rules[client.name] = self._compiled(self._by_name[client.name])
        return found

    def _is_faceless(self, peer: Peer) -> bool:
        """Whether it has an account on this host, and nobody knows which."""
        return peer.uid is None and (peer.address is None or self.own.has(peer.address))

    def _owns(self, client: Client, uid: int | None) -> bool:
        """Whether the account is one of the client's; an account that this host does not have is nobody's."""
        return uid is not None and any(
            uid == (user if isinstance(user, int) else self.accounts.get(user)) for user in client.users
        )

    def _compiled(self, client: Client) -> Rules:
        policy = self.policy
        return Rules(
            destinations=client.destinations.over(policy.destinations),
            deny=policy.deny + client.deny,
            allow=client.allow or policy.allow,
            permit=policy.permit + client.permit,
            dns=policy.dns,
            own=self.own,
            parent=None if policy.parent is None else policy.parent.address,
        )

    @cached_property
    def _account_names(self) -> dict[int, str]:
        return {number: name for name, number in self.accounts.items()}

    @cached_property
    def _by_name(self) -> dict[str, Client]:
        return {client.name: client for client in self.policy.client}

    @cached_property
    def _rules(self) -> dict[str, Rules]:
        return {}

    @cached_property
    def _clients(self) -> tuple[tuple[Client, RangeTable[bool] | None], ...]:
        return tuple((client, _table(client.networks)) for client in self.policy.client)


@dataclass(frozen=True)
class Rules:
    """What holds for the destinations of one client, for now."""

    destinations: Destinations
    deny: tuple[DenyRow, ...]
    allow: tuple[AllowRow, ...]
    permit: tuple[PermitRow, ...]
    dns: Dns
    own: Own
    parent: Endpoint | None = None

    def denied_name(self, host: str) -> DenyRow | None:
        """The [[deny]] row with the most specific pattern for `host`."""
        return self._denied_names.first(host)

    def denied_address(self, address: IPAddress) -> DenyRow | None:
        """The [[deny]] row with the narrowest network that holds `address`."""
        return self._denied_networks.find(address)

    def allowed(self, destination: Destination) -> AllowRow | None:
        """The first [[allow]] row for this host and port, the most specific pattern first."""
        rows = self._allowed_names.matches(destination.host)
        return next((row for row in rows if holds(row.ports, destination.port)), None)

    def permits(self, destination: Destination) -> tuple[PermitRow, ...]:
        """Every live [[permit]] for exactly this host and port."""
        return tuple(row for row in self._permits.get(destination.host, ()) if row.names(destination))

    @cached_property
    def _permits(self) -> dict[str, list[PermitRow]]:
        rows: dict[str, list[PermitRow]] = {}
        for row in self.permit:
            rows.setdefault(row.host, []).append(row)
        return rows

    @cached_property
    def _denied_names(self) -> NameTable[DenyRow]:
        return NameTable((host, row) for row in self.deny for host in row.hosts)

    @cached_property
    def _denied_networks(self) -> RangeTable[DenyRow]:
        return RangeTable((network, row) for row in self.deny for network in row.networks)

    @cached_property
    def _allowed_names(self) -> NameTable[AllowRow]:
        return NameTable((host, row) for row in self.allow for host in row.hosts)


def _live(permits: tuple[PermitRow, ...], today: date) -> tuple[PermitRow, ...]:
    return tuple(permit for permit in permits if permit.expires is None or permit.expires >= today)


def _table(networks: tuple[IPNetwork, ...]) -> RangeTable[bool] | None:
    return RangeTable((network, True) for network in networks) if networks else None
