"""`read_request` on any method and target: one destination in normal form, or refused (ATTACKS 1, 2.1, 2.2, 4.5-4.7).

Refused and accepted is exactly what a grammar of its own says, which is written here once more. What is accepted reads
back to itself, as the operator's tools read it too; urllib, llhttp's and aiohttp's readers of URLs find the same host,
port and path, if they read it at all; and no name is one that inet_aton, getaddrinfo or a browser takes for an address.
"""

from __future__ import annotations

import re
import socket
import string
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import h11
import httptools
from hypothesis import strategies as st
from yarl import URL

from proxyd.http.fields import host_field
from proxyd.http.framing import Malformed
from proxyd.http.request import read_request
from proxyd.policy.address import Destination, parse_absolute_form, parse_authority, parse_url
from proxyd.policy.names import normal_pattern
from proxyd.policy.verdict import Reason
from tests.adversarial.corpus_addresses import spellings
from tests.fuzz.strict import says_nothing
from tests.fuzz.target import Target
from tests.http.raw_heads import VIA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.http.request import Asked

_HOST_AND_PORT: Final = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[1-9][0-9]{0,4})){port}"
_AUTHORITY_FORM: Final = re.compile(_HOST_AND_PORT.replace("{port}", ""))
_ABSOLUTE_FORM: Final = re.compile(rf"http://{_HOST_AND_PORT.replace('{port}', '?')}(?P<rest>(?:[/?][!-\"$-~]*)?)")
_NAME: Final = re.compile(r"(?=.{1,253}$)(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}(?<!-)")
_ENDS_IN_A_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[^.]*)")  # DESIGN: what any reader might take for one
_QUAD: Final = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})(?:\.(?!$)|$)){4}")


def _attempt(data: bytes) -> str:
    """A method, a space and a target."""
    method, _, target = data.partition(b" ")
    try:
        request = h11.Request(method=method, target=target, headers=[("Host", "elsewhere.example")])
    except h11.LocalProtocolError:
        return "no request line"
    text = target.decode("ascii")
    expected = _by_the_book(method, text)
    try:
        asked = read_request(request, VIA)
    except Malformed as malformed:
        says_nothing(malformed, "proxyd.http.request", "proxyd.policy.address")
        why = Reason.METHOD_REFUSED if method == b"TRACE" else Reason.MALFORMED_TARGET
        assert malformed.reason is why  # noqa: PT017 - no test
        assert expected is None, f"refused, and it reads as {expected}"
        return "refused"
    destination = asked.destination
    assert (destination.host, destination.port, asked.origin_form) == expected
    _is_in_normal_form(destination)
    _reads_back(asked, text)
    _reads_alike_elsewhere(asked, text)
    kind = "a name" if destination.address is None else f"IPv{destination.address.version}"
    return f"{asked.scheme} to {kind}"


def _by_the_book(method: bytes, text: str) -> tuple[str, int, str] | None:
    """Host, port and origin-form by the grammar of DESIGN ("Form"), None for what is to be refused."""
    form = _AUTHORITY_FORM if method == b"CONNECT" else _ABSOLUTE_FORM
    parts = form.fullmatch(text)
    if parts is None or method == b"TRACE":
        return None
    host, port = _host_by_the_book(parts["host"]), int(parts["port"] or "80")
    if host is None or port > 0xFFFF:
        return None
    if method == b"CONNECT":
        return host, port, ""
    rest = parts["rest"]
    if not rest and method == b"OPTIONS":
        return host, port, "*"
    return host, port, rest if rest[:1] == "/" else f"/{rest}"


def _host_by_the_book(spelt: str) -> str | None:
    if spelt[0] == "[":
        try:
            packed = socket.inet_pton(socket.AF_INET6, spelt[1:-1])
        except OSError:
            return None
        return socket.inet_ntop(socket.AF_INET6, packed)
    name = spelt.lower().removesuffix(".")
    if _ENDS_IN_A_NUMBER.fullmatch(name):
        quad = _QUAD.fullmatch(spelt) is not None and max(map(int, spelt.split("."))) <= 0xFF
        return spelt if quad else None
    return name if _NAME.fullmatch(name) else None


def _is_in_normal_form(destination: Destination) -> None:
    host, address = destination.host, destination.address
    assert normal_pattern(host) == host
    if address is not None:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        assert socket.inet_pton(family, host) == address.packed
        assert socket.inet_ntop(family, address.packed) == host == str(address)
        return
    assert set(host) <= {*string.ascii_lowercase, *string.digits, *"-_."}
    for spelt in (host, f"{host}.", host.upper()):
        assert not _is_numeric(spelt), f"{spelt} is an address to others"


def _is_numeric(host: str) -> bool:
    """Whether the C library reads an address in a host, by either of its ways."""
    for read in (socket.inet_aton, _as_getaddrinfo_does):
        try:
            read(host)
        except OSError:
            continue
        return True
    return False


def _as_getaddrinfo_does(host: str) -> None:
    socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)  # noqa: TID251 - it asks nobody


def _reads_back(asked: Asked, text: str) -> None:
    destination = asked.destination
    assert parse_authority(str(destination)) == destination
    assert parse_url(text) == destination
    if asked.scheme == "connect":
        return
    path = "" if asked.origin_form == "*" else asked.origin_form
    assert text.endswith(path[1:])
    again = h11.Request(method="GET", target=asked.origin_form, headers=[(b"host", host_field(destination))])
    for host in (str(destination), again.headers[0][1].decode()):
        assert parse_absolute_form(f"http://{host}{path}") == (destination, path)


def _reads_alike_elsewhere(asked: Asked, text: str) -> None:
    url = text if asked.scheme == "http" else f"http://{text}"
    for host, port, path in _readings(url):
        assert _is_the_host(host, asked.destination), f"{host!r} to others"
        assert (port or 80) == asked.destination.port
        assert path is None or asked.origin_form in (path or "/", "*", "")


def _readings(url: str) -> Iterator[tuple[str, int | None, str | None]]:
    """Host, port, and path with query, by each reader that takes it."""
    split = urlsplit(url)
    yield split.hostname or "", split.port, None
    try:
        parsed = httptools.parse_url(url.encode())
    except httptools.HttpParserInvalidURLError:
        pass
    else:
        query = b"?" + parsed.query if parsed.query else b""
        yield (
            (parsed.host or b"").decode(),
            parsed.port,
            None if url[-1] == "?" else ((parsed.path or b"/") + query).decode(),
        )
    try:
        taken = URL(url)
    except ValueError:
        pass
    else:
        yield taken.raw_host or "", taken.port, None


def _is_the_host(read: str, destination: Destination) -> bool:
    if destination.address is not None and destination.address.version == 6:
        return socket.inet_pton(socket.AF_INET6, read) == destination.address.packed
    return read.lower().removesuffix(".") == destination.host


_labels = st.one_of(
    st.sampled_from(
        ["example", "com", "localhost", "xn--mnchen-3ya", "_x", "127", "0x7f", "0X1", "00", "a-b", "-", "", "0x"]
    ),
    st.text(string.ascii_letters + string.digits + "-_%", max_size=6),
    st.sampled_from(["l" * 63, "l" * 64]),
)
_numbers = st.one_of(st.integers(0, 300).map(str), st.integers(0, 1 << 33).map(str), st.integers(0, 1 << 33).map(hex))
_hosts = st.one_of(
    st.lists(_labels, max_size=6).map(".".join),
    st.lists(_numbers, min_size=1, max_size=5).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).flatmap(
        lambda six: st.sampled_from([f"[{six}]", f"[{six.exploded}]".upper(), f"{six}", f"[{six}%1]"])
    ),
    st.text(max_size=8),
)
_ports = st.one_of(
    st.just(""),
    st.sampled_from([":", ":0", ":80", ":443", ":65536", ":080", ":+1"]),
    st.integers(0, 70_000).map(":{}".format),
)
_paths = st.one_of(
    st.sampled_from(["", "/", "?", "/a?b", "//", "/#", "?@x", "/\\", "*"]), st.text(string.printable, max_size=6)
)
_befores = st.sampled_from(["GET http://", "GET http://", "OPTIONS http://", "x http://", "TRACE http://", "CONNECT "])
_odd_befores = st.sampled_from(
    ["CONNECT http://", "GET ", "GET https://", "GET HTTP://", "GET http:", "GET http:///", "GET //", "CONNECT x@"]
)
_inputs = st.one_of(
    st.builds("{}{}{}{}".format, st.one_of(_befores, _odd_befores), _hosts, _ports, _paths),
    st.builds("GET http://{}{}".format, _hosts, st.sampled_from(["", "/", ":81", "?a", ":8080/b?c"])),
    st.builds("CONNECT {}:{}".format, _hosts, st.integers(1, 65535)),
)

TARGET: Final = Target(
    attempt=_attempt,
    about=("proxyd.http.request", "proxyd.policy.address"),
    seeds={
        "name": b"GET http://example.com/a?b=c",
        "IPv4": b"GET http://93.184.216.34/",
        "IPv6": b"GET http://[2606:2800:220:1:248:1893:25c8:1946]:8080/",
        "tunnel": b"CONNECT example.com:443",
        "tunnel, IPv4": b"CONNECT 93.184.216.34:443",
        "tunnel, IPv6": b"CONNECT [2606:2800:220:1::1946]:443",
        "mapped": b"CONNECT [::FFFF:127.0.0.1]:443",
        "final dot": b"GET http://EXAMPLE.com.:80",
        "no path": b"OPTIONS http://example.com",
        "query": b"GET http://example.com?b",
        "empty query": b"GET http://example.com?",
        "underscore": b"GET http://_a.example/",
        "longest label": b"GET http://%s/" % (b"l" * 63),
        "longest name": b"CONNECT %s:1" % b".".join([b"l" * 63] * 3 + [b"l" * 61]),
        "digits first": b"GET http://127.0.0.1.nip.io/",
        "nearly a number": b"GET http://1.0xg/",
        "origin-form": b"GET /",
        "no target": b"GET ",
        "TRACE": b"TRACE http://example.com/",
        "userinfo": b"GET http://example.com:80@127.0.0.1/",
        "backslash": b"GET http://example.com\\@127.0.0.1/",
        "hyphen last": b"CONNECT example-.com:443",
        "hyphen first": b"CONNECT -example.com:443",
        "two final dots": b"CONNECT example.com..:443",
        "empty label": b"CONNECT example..com:443",
        "label too long": b"CONNECT %s:443" % (b"l" * 64),
        "name too long": b"CONNECT %s:443" % b".".join([b"l" * 63] * 3 + [b"l" * 62]),
        "no port": b"CONNECT example.com",
        "octets behind NUL": b"CONNECT example.com%00.example:443",
        "port modulo": b"CONNECT example.com:65558",
        "zone": b"CONNECT [fe80::1%251]:443",
    }
    | {
        f"{each.why}, {each.kind}": b"CONNECT " + each.authority
        for each in spellings()
        if each.why.endswith(" 127.0.0.1")
    },
    inputs=_inputs.map(str.encode),
    outcomes=frozenset(
        {"no request line", "refused"}
        | {f"{scheme} to {host}" for scheme in ("http", "connect") for host in ("a name", "IPv4", "IPv6")}
    ),
    longest=600,
    words=(b"http://", b"CONNECT ", b"GET ", b"OPTIONS ", b"[::1]", b":443", b"0x7f", b"127.0.0.1", b"@", b".."),
)
