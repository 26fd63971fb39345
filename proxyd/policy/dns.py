"""How names are resolved: [dns]. Which servers are asked for which names; nothing here asks anybody."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from netaddr import IPNetwork

from proxyd.policy.address import BadTarget, Endpoint, bracketed, parse_endpoint, parse_host
from proxyd.policy.embedded import RFC6052_LENGTHS
from proxyd.policy.shape import FLAG, HOST, NETWORK, ListOf, Scalar, Table, Wrong, described, key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netaddr import IPAddress

_PORTS: Final = {"udp": 53, "tcp": 53, "tls": 853}
_SERVER: Final = re.compile(r"(?:(udp|tcp|tls)://)?([^#]+?)(?:#(.+))?")
_FAKE: Final = (IPNetwork("198.18.0.0/15"), IPNetwork("fc00::/7"))
"""Where fake-IP clients answer from: Clash, Surge and their like."""


@dataclass(frozen=True, slots=True)
class Server:
    """A resolver: where it is, and how it is spoken to. name: whom its certificate must be for, over TLS.

    udp falls back to TCP for what does not fit (RFC 7766); tls never falls back to anything (RFC 7858).
    """

    endpoint: Endpoint
    protocol: str = "udp"
    name: str = ""

    def __str__(self) -> str:
        plain = self.endpoint.port == _PORTS[self.protocol]
        where = bracketed(str(self.endpoint.address)) if plain else str(self.endpoint)
        return f"{'' if self.protocol == 'udp' else f'{self.protocol}://'}{where}{self.name and f'#{self.name}'}"


def parse_server(text: str) -> Server:
    """A server from its spelling, `[udp://|tcp://|tls://]ADDRESS[:PORT][#NAME]`. Raises BadTarget."""
    found = _SERVER.fullmatch(text)
    if found is None:
        raise BadTarget("it is no address of a server")
    protocol = found[1] or "udp"
    if found[3] and protocol != "tls":
        raise BadTarget("only a server asked over TLS has a name")
    name = parse_host(found[3])[0] if found[3] else ""
    return Server(parse_endpoint(found[2], _PORTS[protocol]), protocol, name)


def _parse_server(value: object) -> Server:
    try:
        server = parse_server(value if isinstance(value, str) else "")
    except BadTarget as bad:
        hint = 'write "9.9.9.9", "tcp://9.9.9.9" or "tls://9.9.9.9#dns.example"'
        raise Wrong(f"it is no server: {bad}; {hint}") from None
    if value not in (str(server), str(server.endpoint)):
        raise Wrong(f'it is not in normal form; write "{server}"')
    return server


def _parse_translator(value: object) -> IPNetwork:
    prefix = NETWORK.parse(value)
    if prefix.version != 6 or prefix.prefixlen not in RFC6052_LENGTHS:  # noqa: PLR2004 - IP versions
        raise Wrong(f'"{value}" is no NAT64 prefix; its length is one of {RFC6052_LENGTHS} (RFC 6052)')
    return prefix


def _parse_fake(value: object) -> IPNetwork:
    network = NETWORK.parse(value)
    if not any(network in each for each in _FAKE):
        raise Wrong(f'"{value}" is no range of fake addresses; write one within {_FAKE[0]} or {_FAKE[1]}')
    return network


def _parse_file(value: object) -> str:
    if not (isinstance(value, str) and value.startswith("/") and value.isprintable()):
        raise Wrong(f'{described(value)} is no absolute path; write "/etc/hosts"')
    return value


_SERVERS: Final = ListOf(
    Scalar(
        _parse_server, {"type": "string", "pattern": r"^((udp|tcp|tls)://)?(\[[0-9a-f:.]+\]|[0-9.]+)(:[0-9]+)?(#.+)?$"}
    )
)
_TRANSLATOR: Final = Scalar(_parse_translator, NETWORK.schema())
_FAKE_RANGE: Final = Scalar(_parse_fake, NETWORK.schema())
_FILE: Final = Scalar(_parse_file, {"type": "string", "pattern": "^/"})


@dataclass(frozen=True, kw_only=True)
class Zone:
    """A part of the name space that has resolvers of its own: its apex and all below."""

    suffix: str = key(HOST, 'the apex, as "corp.example"')
    servers: tuple[Server, ...] = key(_SERVERS, "the resolvers to ask for it, and no others")

    def holds(self, name: str) -> bool:
        """Whether `name` is in it."""
        return name == self.suffix or name.endswith(f".{self.suffix}")


@dataclass(frozen=True, kw_only=True)
class Dns:
    """How names are resolved."""

    servers: tuple[Server, ...] = key(_SERVERS, "resolvers to ask, instead of those in /etc/resolv.conf", default=())
    zone: tuple[Zone, ...] = key(ListOf(Table(Zone)), "resolvers for parts of the name space", default=())
    hosts_file: str = key(_FILE, "a hosts file whose names are not asked for in DNS", default="")
    uniform_errors: bool = key(
        FLAG, "let a name that is refused by its address look like one that does not exist", default=False
    )
    nat64: tuple[IPNetwork, ...] = key(
        ListOf(_TRANSLATOR), "prefixes that are translators here: judged by the IPv4 address inside", default=()
    )
    dangerously_allow_fake_ip: tuple[IPNetwork, ...] = key(
        ListOf(_FAKE_RANGE), "ranges from which a VPN client answers for every name: not judged", default=()
    )


@dataclass(frozen=True, slots=True)
class Routes:
    """Whom to ask for a name. hosts: names that are known without asking."""

    servers: tuple[Server, ...]
    zones: tuple[Zone, ...] = ()
    hosts: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)

    def to(self, name: str) -> tuple[Server, ...]:
        """The servers of the smallest zone that holds `name`, or else those of all names."""
        zones = [zone for zone in self.zones if zone.holds(name)]
        return max(zones, key=lambda zone: len(zone.suffix)).servers if zones else self.servers
