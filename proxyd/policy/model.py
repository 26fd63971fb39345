"""The policy, frozen: what a file can say, key by key, and the lookups that `decide` makes in it.

Each field made by `key` is a key of the policy file; the loader and the JSON Schema are both read off these
classes. Nothing here judges (that is `verdict`) and nothing here knows about files (that is `load`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date  # noqa: TC003 - dataclasses are read at run time
from functools import cached_property
from typing import TYPE_CHECKING

from proxyd.policy.address import BadTarget, Destination, Endpoint, Resolution, parse_address, parse_url
from proxyd.policy.embedded import RFC6052_LENGTHS
from proxyd.policy.names import NameTable
from proxyd.policy.ranges import RangeTable
from proxyd.policy.shape import (
    DAY,
    FLAG,
    HOST,
    HOST_PATTERN,
    NETWORK,
    PORTS,
    ListOf,
    Scalar,
    Table,
    Wrong,
    described,
    endpoint,
    key,
    number,
    number_or,
    one_of,
    text,
)
from proxyd.policy.special import BAD_PORTS

if TYPE_CHECKING:
    from netaddr import IPAddress, IPNetwork

SCHEMA = 1
"""What `schema` must be in a policy file of this version."""

_LABEL = text(64, r"[a-z0-9][a-z0-9_.-]*", "lower-case letters, digits, dots, hyphens and underscores")
_REASON = text(200)


def holds(spans: tuple[range, ...], port: int) -> bool:
    """Whether one of the spans has this port."""
    return any(port in span for span in spans)


def _parse_target(value: object) -> Destination:
    try:
        return parse_url(str(value))
    except BadTarget as bad:
        raise Wrong(f"{described(value)} is no target: {bad}") from None


def _parse_address(value: object) -> IPAddress:
    try:
        return parse_address(str(value))
    except BadTarget:
        raise Wrong(f'{described(value)} is no address; write it in quotes, as "192.0.2.1"') from None


def _parse_sink(value: object) -> str:
    if value != "stdout" and not (isinstance(value, str) and value.startswith("/") and value.isprintable()):
        raise Wrong(f'{described(value)} is no sink; write "stdout" or the absolute path of a file')
    return value


def _parse_translator(value: object) -> IPNetwork:
    prefix = NETWORK.parse(value)
    if prefix.version != 6 or prefix.prefixlen not in RFC6052_LENGTHS:  # noqa: PLR2004 - IP versions
        raise Wrong(f'"{value}" is no NAT64 prefix; its length is one of {RFC6052_LENGTHS} (RFC 6052)')
    return prefix


_TARGET = Scalar(_parse_target, {"type": "string"})
_ADDRESS = Scalar(_parse_address, {"type": "string"})
_SINK = Scalar(_parse_sink, {"type": "string", "pattern": "^(stdout|/.*)$"})
_TRANSLATOR = Scalar(_parse_translator, NETWORK.schema())


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every rule has: an optional name, and where it is written."""

    name: str = key(_LABEL, "what the log calls this rule", default="")
    where: str = ""

    @property
    def label(self) -> str:
        """The rule as the log, the refusal and `explain` name it."""
        return self.name or self.where


@dataclass(frozen=True, kw_only=True)
class DenyRow(Row):
    """Hosts and networks that are refused. Denies add up; only a permit is an exception.

    The name is required: a refusal tells it to the client, who must not learn the path of a policy file.
    """

    name: str = key(_LABEL, "what the log and the refusal call this rule")
    reason: str = key(_REASON, "say why, for whoever reads the log")
    hosts: tuple[str, ...] = key(ListOf(HOST_PATTERN), "exact hosts, or *.suffix for any depth below", default=())
    networks: tuple[IPNetwork, ...] = key(ListOf(NETWORK), "networks in CIDR form", default=())


@dataclass(frozen=True, kw_only=True)
class AllowRow(Row):
    """Hosts that may be reached where the default is deny. Their addresses are judged all the same (R6)."""

    reason: str = key(_REASON, "say why, for whoever reviews the policy")
    hosts: tuple[str, ...] = key(ListOf(HOST_PATTERN), "exact hosts, or *.suffix for any depth below")
    ports: tuple[range, ...] = key(ListOf(PORTS), 'the ports, as 443 or "8000-8099"')


@dataclass(frozen=True, kw_only=True)
class PermitRow(Row):
    """The only way to a special-purpose address: one host, its ports, and the networks it may resolve into (R9)."""

    reason: str = key(_REASON, "say why, for whoever reviews the policy")
    host: str = key(HOST, "one exact host, as the client spells it")
    ports: tuple[range, ...] = key(ListOf(PORTS), 'the ports, as 11434 or "8000-8099"')
    networks: tuple[IPNetwork, ...] = key(ListOf(NETWORK), "the networks its addresses may lie in")
    expires: date | None = key(DAY, "the last day (UTC) on which it holds", default=None)

    def names(self, destination: Destination) -> bool:
        """Whether this permit is for exactly that host and port."""
        return self.host == destination.host and holds(self.ports, destination.port)

    def opens(self, address: IPAddress) -> bool:
        """Whether one of its networks holds this very address."""
        return any(address in network for network in self.networks)


@dataclass(frozen=True, kw_only=True)
class Expectation(Row):
    """A verdict that must not change: run on every load."""

    url: Destination = key(_TARGET, "an http, https, ws or wss URL, or host:port")
    expect: str = key(one_of("allow", "deny"), "the verdict")
    client: str = key(_LABEL, "which client asks; every one, if left out", default="")
    reason: str = key(_LABEL, "the reason word of the refusal", default="")
    addresses: tuple[IPAddress, ...] = key(ListOf(_ADDRESS), "what DNS would answer", default=())
    cnames: tuple[str, ...] = key(ListOf(HOST), "the CNAME chain before the addresses", default=())

    def answer(self) -> Resolution | None:
        """The DNS answer this test supposes, if it does."""
        return Resolution(self.addresses, self.cnames) if self.addresses else None


@dataclass(frozen=True, kw_only=True)
class Client:
    """Who may use the proxy: every condition given must hold."""

    name: str = key(_LABEL, "what the log calls this client")
    networks: tuple[IPNetwork, ...] = key(ListOf(NETWORK), "the networks it connects from")


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where proxyd listens."""

    http: tuple[Endpoint, ...] = key(ListOf(endpoint()), 'write http = ["127.0.0.1:3128"]')
    dangerously_public_listener: bool = key(FLAG, "allow a listener beyond private networks", default=False)


@dataclass(frozen=True, kw_only=True)
class Destinations:
    """What holds for a destination that no row names."""

    default: str = key(one_of("allow", "deny"), 'write default = "deny", or "allow" for the public internet')
    mode: str = key(
        one_of("enforce", "report"), "report: log a miss of the allowlist, let it through", default="enforce"
    )
    ports: tuple[range, ...] = key(
        ListOf(PORTS), "the only ports; without it, all but the Fetch Standard's bad ports", default=()
    )

    def port_is_open(self, port: int) -> bool:
        """Whether this port may be reached without a permit."""
        return holds(self.ports, port) if self.ports else port not in BAD_PORTS


@dataclass(frozen=True, kw_only=True)
class Dns:
    """How names are resolved."""

    servers: tuple[Endpoint, ...] = key(
        ListOf(endpoint(53)), "resolvers to ask, instead of those in /etc/resolv.conf", default=()
    )
    nat64: tuple[IPNetwork, ...] = key(
        ListOf(_TRANSLATOR), "prefixes that are translators here: judged by the IPv4 address inside", default=()
    )


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Where the audit records go, and what happens when they cannot."""

    to: str = key(_SINK, '"stdout", or the absolute path of a file', default="stdout")
    dangerously_prefer_availability: bool = key(FLAG, "serve even if records cannot be written", default=False)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that an operator may have to move."""

    connections: int = key(number(1, 1_000_000), "client connections at once", default=4096)
    idle_seconds: int = key(number(1, 604_800), "how long a tunnel or body may stand still", default=3600)
    drain_seconds: int = key(number(0, 3600), "how long SIGTERM waits for what runs", default=10)


@dataclass(frozen=True)
class Own:
    """proxyd's own listeners: reached by nobody through proxyd, on any address of this host (ATTACKS 2.17).

    addresses: as networks, because a host can be given a whole one; most hold a single address.
    """

    ports: frozenset[int] = frozenset()
    addresses: frozenset[IPNetwork] = frozenset()

    def holds(self, address: IPAddress, port: int) -> bool:
        """Whether a connection to this address and port would come back to us."""
        return port in self.ports and (address.is_loopback() or any(address in network for network in self.addresses))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What an included file may hold: rows only, so that it can add and never reconfigure."""

    include: tuple[str, ...] = key(ListOf(text(200)), "files whose rows are added, relative to this one", default=())
    deny: tuple[DenyRow, ...] = key(ListOf(Table(DenyRow)), "refused hosts and networks", default=())
    allow: tuple[AllowRow, ...] = key(ListOf(Table(AllowRow)), "the allowlist", default=())
    permit: tuple[PermitRow, ...] = key(ListOf(Table(PermitRow)), "exceptions", default=())
    test: tuple[Expectation, ...] = key(ListOf(Table(Expectation)), "verdicts that must not change", default=())


@dataclass(frozen=True, kw_only=True)
class Policy(Rows):
    """A whole policy, as written. `at(today)` makes of it what can be judged by.

    digest: SHA-256 in hex over all bytes of all its files; set by the loader.
    """

    schema: int = key(number(SCHEMA, SCHEMA), f"write schema = {SCHEMA}")
    name: str = key(_LABEL, 'what the log calls this policy, as name = "gateway"')
    listen: Listen = key(Table(Listen), 'write [listen] with http = ["127.0.0.1:3128"]')
    destinations: Destinations = key(Table(Destinations), 'write [destinations] with default = "deny"')
    client: tuple[Client, ...] = key(ListOf(Table(Client)), "write a [[client]] with name and networks (R2)")
    dns: Dns = key(Table(Dns), "how names are resolved", default=Dns())
    audit: Audit = key(Table(Audit), "the audit log", default=Audit())
    limits: Limits = key(Table(Limits), "bounds", default=Limits())
    workers: int | str = key(
        number_or("auto", 1, 64), 'processes that serve: a number, or "auto" for one a core', default=1
    )
    digest: str = ""

    @property
    def ports(self) -> frozenset[int]:
        """The ports that the policy says proxyd listens on, without those that the system will choose."""
        return frozenset(endpoint.port for endpoint in self.listen.http if endpoint.port)

    def at(self, today: date, own: Own = Own()) -> Snapshot:
        """The policy as it stands on `today` (UTC), on a host with these endpoints of ours.

        A permit is valid through the day on which it expires.
        """
        live = tuple(permit for permit in self.permit if permit.expires is None or permit.expires >= today)
        return Snapshot(replace(self, permit=live), own)


@dataclass(frozen=True)
class Snapshot:
    """A policy on one day and one host, compiled for lookup. `decide` takes nothing less: an expired permit is gone."""

    policy: Policy
    own: Own

    def identify(self, address: IPAddress) -> Client | None:
        """The first client whose conditions all hold for a connection from `address`."""
        return next((client for client, networks in self._clients if networks.find(address)), None)

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
        for row in self.policy.permit:
            rows.setdefault(row.host, []).append(row)
        return rows

    @cached_property
    def _clients(self) -> tuple[tuple[Client, RangeTable[bool]], ...]:
        return tuple(
            (client, RangeTable((network, True) for network in client.networks)) for client in self.policy.client
        )

    @cached_property
    def _denied_names(self) -> NameTable[DenyRow]:
        return NameTable((host, row) for row in self.policy.deny for host in row.hosts)

    @cached_property
    def _denied_networks(self) -> RangeTable[DenyRow]:
        return RangeTable((network, row) for row in self.policy.deny for network in row.networks)

    @cached_property
    def _allowed_names(self) -> NameTable[AllowRow]:
        return NameTable((host, row) for row in self.policy.allow for host in row.hosts)
