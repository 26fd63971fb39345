"""Reading where a request wants to go: exactly one spelling is understood, everything else is BadTarget.

What two parsers could read in two ways is refused here, so that no later floor has to wonder (ATTACKS 1, 2, 4).
This file knows no policy: it says what was asked for, never whether it may be had.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from netaddr import AddrFormatError, IPAddress

MAX_NAME = 253  # octets of a host name without its final dot (RFC 1035 §2.3.4, RFC 1123 §2.1)
MAX_PORT = 65535

# A label is letters, digits and inner hyphens (RFC 1123 §2.1), plus the underscore that real names carry.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_ENDPOINT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]+))?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX].*")
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class BadTarget(ValueError):  # noqa: N818 - the name says what it is; "Error" would add nothing
    """A target, host or port is not in the one form understood. The message is fixed text: it never quotes input."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A host and port, in normal form.

    host: an A-label name in lower case without a final dot, or an address in its canonical spelling.
    port: 1-65535.
    address: the address, if the host is a literal.

    `parse_authority(str(d)) == d` for every Destination d.
    """

    host: str
    port: int
    address: IPAddress | None = None

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and port of ours: to listen on (port 0: any free one), or to ask for names."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"{bracketed(str(self.address))}:{self.port}"


@dataclass(frozen=True, slots=True)
class Resolution:
    """What DNS said of a name: every address that may be dialled, and every name of the CNAME chain.

    Raises ValueError without an address: "no address" is a failure of the lookup, never an answer (R12).
    """

    addresses: tuple[IPAddress, ...]
    chain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("a Resolution has at least one address")


@lru_cache(maxsize=4096)  # pure, and an agent asks for the same few hosts again and again; failures are not kept
def parse_authority(text: str) -> Destination:
    """Read the `host:port` of a CONNECT (RFC 9112 §3.2.3). Raises BadTarget."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise BadTarget("a CONNECT target is host:port")
    return _destination(host, parse_port(port))


def parse_absolute_form(target: str) -> tuple[Destination, str]:
    """Read an `http://` target in absolute-form (RFC 9112 §3.2.2): where to, and the origin-form to send there.

    The origin-form is "" for an empty path and query. Raises BadTarget.
    """
    if not target.startswith("http://"):
        raise BadTarget("a request target is in absolute-form and begins with http://")
    if "#" in target:
        raise BadTarget("a request target has no fragment")
    authority = re.match(r"[^/?]*", target[7:]).group()  # type: ignore[union-attr] # it matches the empty string
    return _read_host_and_port(authority, default=80), target[7 + len(authority) :]


def parse_url(url: str) -> Destination:
    """Read what an operator types: an http, https, ws or wss URL, or host:port. Raises BadTarget."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return parse_authority(url)
    if scheme not in _DEFAULT_PORTS:
        raise BadTarget("a URL here begins with http://, https://, ws:// or wss://")
    return _read_host_and_port(re.split(r"[/?#]", rest, maxsplit=1)[0], default=_DEFAULT_PORTS[scheme])


def parse_endpoint(text: str, default_port: int | None = None) -> Endpoint:
    """Read `address:port`. Raises BadTarget.

    The port may be left out where there is a default; where there is none, port 0 stands for any free one.
    """
    parts = _ENDPOINT.fullmatch(text)
    if parts is None or (parts["port"] is None and default_port is None):
        raise BadTarget("an endpoint is address:port, brackets round an IPv6 address")
    address = parse_host(parts["host"])[1]
    if address is None:
        raise BadTarget("an endpoint is an address; names are not looked up for it")
    if parts["port"] is None or (parts["port"] == "0" and default_port is None):
        return Endpoint(address, default_port or 0)
    return Endpoint(address, parse_port(parts["port"]))


def parse_host(text: str) -> tuple[str, IPAddress | None]:
    """Read a host: its normal form, and its address if it is a literal. Raises BadTarget."""
    if text.startswith("["):
        address = _ipv6(text)
        return str(address), address
    name = text.removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadTarget("a host is letters, digits, hyphens and dots, or an IPv6 address in brackets")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        ipv4 = _ipv4(text)
        return str(ipv4), ipv4
    return name.lower(), None


def parse_address(text: str, version: Literal[4, 6] | None = None) -> IPAddress:
    """Read a bare address of one version, or of either. Raises BadTarget."""
    try:
        return IPAddress(text, version)
    except (AddrFormatError, ValueError):  # netaddr says "it has a mask" and "it has a NUL" by the latter
        raise BadTarget("it is no IP address in its usual spelling") from None


def parse_port(text: str) -> int:
    """Read a port: 1-65535 in plain ASCII digits, no sign, no leading zero. Raises BadTarget."""
    if not _PORT.fullmatch(text) or int(text) > MAX_PORT:
        raise BadTarget("a port is 1-65535 in plain digits")
    return int(text)


def bracketed(host: str) -> str:
    """A host as it stands before a port: brackets round an IPv6 address (RFC 3986 §3.2.2)."""
    return f"[{host}]" if ":" in host else host


def _read_host_and_port(authority: str, *, default: int) -> Destination:
    if "@" in authority:
        raise BadTarget("a target carries no userinfo")
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return _destination(authority, default)
    return _destination(host, parse_port(port))


def _destination(host: str, port: int) -> Destination:
    name, address = parse_host(host)
    return Destination(name, port, address)


def _ipv4(text: str) -> IPAddress:
    """A strict dotted quad: `127.1`, `0x7f.1` and `0177.0.0.1` are different hosts to different readers."""
    try:
        return parse_address(text, 4)
    except BadTarget:
        raise BadTarget("an IPv4 address is four decimal numbers without leading zeros") from None


def _ipv6(text: str) -> IPAddress:
    """An IPv6 literal in brackets (RFC 3986 §3.2.2), without the zone of RFC 6874: that names one of *our* links."""
    try:
        return parse_address(text[1:-1] if text.endswith("]") else "", 6)
    except BadTarget:
        raise BadTarget("brackets stand round an IPv6 address without a zone, and nothing else") from None
