"""The rows of a policy: what is refused, allowed, permitted and tested, and the files that may hold them.

Each field made by `key` is a key of the policy file. Nothing here judges (that is `verdict`); no row knows who asks.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import date  # noqa: TC003 - dataclasses are read at run time
from typing import TYPE_CHECKING, Final

from proxyd.policy.address import BadTarget, Destination, Resolution, parse_address, parse_url
from proxyd.policy.shape import (
    DAY,
    HOST,
    HOST_PATTERN,
    NETWORK,
    PORTS,
    ListOf,
    Scalar,
    Table,
    Wrong,
    described,
    key,
    one_of,
    text,
)

if TYPE_CHECKING:
    from netaddr import IPAddress, IPNetwork

LABEL: Final = text(64, r"[a-z0-9][a-z0-9_.-]*", "lower-case letters, digits, dots, hyphens and underscores")
_REASON: Final = text(200)


def holds(spans: tuple[range, ...], port: int) -> bool:
    """Whether one of the spans has this port."""
    return any(port in span for span in spans)


def _parse_target(value: object) -> Destination:
    if not isinstance(value, str):
        raise Wrong(f'{described(value)} is no target: write it in quotes, as "https://example.com/"')
    try:
        return parse_url(value)
    except BadTarget as bad:
        raise Wrong(f"{described(value)} is no target: {bad}") from None


def _parse_address(value: object) -> IPAddress:
    if isinstance(value, str):
        with suppress(BadTarget):
            return parse_address(value)
    raise Wrong(f'{described(value)} is no address; write it in quotes, as "192.0.2.1"')


_TARGET: Final = Scalar(_parse_target, {"type": "string"})
ADDRESS: Final = Scalar(_parse_address, {"type": "string"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every rule has: an optional name, and where it is written."""

    name: str = key(LABEL, "what the log calls this rule", default="")
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

    name: str = key(LABEL, "what the log and the refusal call this rule")
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
    client: str = key(LABEL, "which client asks; every one, if left out", default="")
    reason: str = key(LABEL, "the reason word of the refusal", default="")
    addresses: tuple[IPAddress, ...] = key(ListOf(ADDRESS), "what DNS would answer", default=())
    cnames: tuple[str, ...] = key(ListOf(HOST), "the CNAME chain before the addresses", default=())

    def answer(self) -> Resolution | None:
        """The DNS answer this test supposes, if it does."""
        return Resolution(self.addresses, self.cnames) if self.addresses else None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What an included file may hold: rows only, so that it can add and never reconfigure."""

    include: tuple[str, ...] = key(ListOf(text(200)), "files whose rows are added, relative to this one", default=())
    deny: tuple[DenyRow, ...] = key(ListOf(Table(DenyRow)), "refused hosts and networks", default=())
    allow: tuple[AllowRow, ...] = key(ListOf(Table(AllowRow)), "the allowlist", default=())
    permit: tuple[PermitRow, ...] = key(ListOf(Table(PermitRow)), "exceptions", default=())
    test: tuple[Expectation, ...] = key(ListOf(Table(Expectation)), "verdicts that must not change", default=())
