"""Names of the corpus: those that are refused and never looked up, those next to them, and ports (ATTACKS 1, 3.6, 4.5).

`tag` is a label that makes the names of one run of the corpus unlike those of another, so that none is remembered.
"""

from __future__ import annotations

import string
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests import namespace
from tests.adversarial.corpus import Address, Destination, Verdict
from tests.end_to_end.nameserver import Says

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLIC: Final = Address.read(namespace.OTHER_4)
REACHABLE: Final = Says(a=(str(PUBLIC),))
"""What DNS says of a name that may be had. It says so of the refused ones as well: to look them up would pay."""

# source -> names refused before any lookup; "*." is any depth below, and not the name itself
DENIED_NAMES: Final = {
    "MISSION, the documented denylist": ("localhost", "localhost.localdomain", "metadata.google.internal"),
    "RFC 6761 §6.3, localhost": ("localhost", "*.localhost"),
    "RFC 6761 §6.4, invalid": ("invalid", "*.invalid"),
    "RFC 6762 §3, multicast DNS": ("local", "*.local"),
    "RFC 8375 §3, home networks": ("home.arpa", "*.home.arpa"),
    "RFC 7686 §2, Tor": ("onion", "*.onion"),
    "RFC 9476 §2, not DNS": ("alt", "*.alt"),
    "RFC 8880 §7, NAT64 discovery": ("ipv4only.arpa", "*.ipv4only.arpa"),
    "ICANN resolution 2024.07.29.06, private use": ("internal", "*.internal"),
    "Debian's /etc/hosts": ("ip6-localhost", "ip6-loopback"),
    "Red Hat's /etc/hosts": ("localdomain", "*.localdomain", "localhost4", "localhost6"),
    "Google metadata": ("metadata", "metadata.goog", "*.metadata.goog", "*.metadata.google.internal"),
    "AWS metadata": ("instance-data", "instance-data.ec2.internal"),
    "IBM metadata": ("api.metadata.cloud.ibm.com",),
    "Equinix metadata": ("metadata.platformequinix.com", "metadata.packet.net"),
    "CloudStack metadata": ("data-server",),
    "Rancher metadata": ("rancher-metadata",),
    "Tencent metadata": ("metadata.tencentyun.com",),
    "[[deny]] of the test's policy": ("denied.example", "*.corp.example", "xn--bcher-kva.example"),
}

_PATTERNS: Final = {pattern: source for source, patterns in DENIED_NAMES.items() for pattern in patterns}


def refused(name: str) -> bool:
    """Whether the name is refused for itself. It is in lower case and without a final dot."""
    labels = name.split(".")
    return name in _PATTERNS or any(f"*.{'.'.join(labels[at:])}" in _PATTERNS for at in range(1, len(labels)))


def names(tag: str) -> Iterator[Destination]:
    """Every name, and every way to spell one."""
    yield from _refused_names(tag)
    yield from _neighbours(tag)
    yield from _spellings(tag)
    yield from _unreadable(tag)
    yield from _octets(tag)
    yield from _ports(tag)
    yield from _targets(tag)


def _refused_names(tag: str) -> Iterator[Destination]:
    for pattern, source in _PATTERNS.items():
        bare = pattern.removeprefix("*.")
        below = {"just below": f"{tag}.{bare}", "far below": f"a.b.{tag}.c.{bare}", "underscore": f"_{tag}.{bare}"}
        plain = below if pattern != bare else {"itself": bare}
        for kind, name in plain.items():
            for spelling, spelt in _ways_to_spell(name).items():
                yield named(f"refused name, {kind}, {spelling}", f"{pattern} ({source})", spelt)


def _neighbours(tag: str) -> Iterator[Destination]:
    """Label boundaries (ATTACKS 1.10): what only looks like a refused name is looked up and reached."""
    for pattern, source in _PATTERNS.items():
        bare = pattern.removeprefix("*.")
        for kind, name in {
            "behind other letters": f"{tag}{bare}",
            "behind a hyphen": f"{tag}-{bare}",
            "before another domain": f"{bare}.{tag}.example",
            "before other letters": f"{bare}x{tag}",
            "below": f"{tag}.{bare}",
            "the suffix itself": bare,
        }.items():
            if not refused(name):
                yield named(f"neighbour of a refused name, {kind}", f"{pattern} ({source})", name)


def _spellings(tag: str) -> Iterator[Destination]:
    """Public names that are well spelt, if oddly."""
    long = ".".join([f"{tag}-".ljust(63, "l"), *["m" * 63] * 2, "n" * 61])
    for kind, name in {
        "plain": f"plain.{tag}.example",
        "one label": f"single{tag}",
        "underscore": f"_service._tcp.{tag}.example",
        "63 octets in a label": f"{'l' * 63}.{tag}.example",
        "253 octets": long,
        "A-label": f"xn--bcher-kva.{tag}.example",
        "digits first": f"0x7f.0.0.1.{tag}.example",
        "an address before it": f"10.0.0.5.{tag}.example",
        "digits and letters last": f"{tag}.1e3",
    }.items():
        for spelling, spelt in _ways_to_spell(name).items():
            yield named(f"public name, {kind}, {spelling}", "well spelt", spelt)


def _ways_to_spell(name: str) -> dict[str, str]:
    """One name to everybody (RFC 4343; the final dot, ATTACKS 1.1 and 1.2)."""
    mixed = "".join(each.upper() if at % 2 else each for at, each in enumerate(name))
    return {
        "as it is": name,
        "final dot": f"{name}.",
        "upper case": name.upper(),
        "mixed case": mixed,
        "both": f"{name.upper()}.",
    }


def _unreadable(tag: str) -> Iterator[Destination]:
    """Spellings that two parsers read in two ways (ATTACKS 1.1 to 1.9), of refused names and of a public one."""
    for name in ("localhost", "metadata.google.internal", "denied.example", f"public.{tag}.example"):
        label, dot, rest = name.partition(".")
        for kind, spelt in {
            "two final dots": f"{name}..",
            "leading dot": f".{name}",
            "empty label": f"{label}..{rest or 'example'}",
            "hyphen first": f"-{name}",
            "hyphen last": f"{label}-{dot}{rest}",
            "hyphen at the very end": f"{name}-",
            "64 octets in a label": f"{'l' * 64}.{name}",
            "254 octets": f"{'.'.join(['l' * 63] * 4)[: 253 - len(name)]}.{name}",
            "brackets": f"[{name}]",
            "double brackets": f"[[{name}]]",
            "escaped first letter": f"%{ord(name[0]):02x}{name[1:]}",
            "escaped throughout": "".join(f"%{ord(each):02x}" for each in name),
            "escaped dot": f"a%2e{name}",
            "escaped NUL": f"{name}%00.good.example",
            "wildcard": f"*.{name}",
            "number last": f"{name}.1",
            "hexadecimal last": f"{name}.0x7f",
            "userinfo": f"good.example@{name}",
            "userinfo with a port": f"good.example:80@{name}",
            "userinfo behind a backslash": f"good.example\\@{name}",
            "a list": f"{name},good.example",
            "full-width letters": "".join(chr(ord(each) + 0xFEE0) if each.isalpha() else each for each in name),
            "circled letters": "".join(chr(ord(each) + 0x246F) if each.islower() else each for each in name),
            "ideographic dot": f"a\u3002{name}",
            "full-width dot": f"a\uff0e{name}",
            "soft hyphen": f"{name[0]}\u00ad{name[1:]}",
            "zero-width joiner": f"{name[0]}\u200d{name[1:]}",
            "right-to-left override": f"\u202e{name}",
            "long s": f"{name}\u017f",
            "Kelvin sign": f"{name}\u212a",
            "U-label": f"b\u00fccher.{name}",
        }.items():
            yield _malformed(f"name: {kind}", name, f"{spelt}:80".encode())


def _octets(tag: str) -> Iterator[Destination]:
    """Each octet that no name has, where one parser may end the name and another go on (ATTACKS 1.4 and 1.5)."""
    harmless = f"{string.ascii_letters}{string.digits}-._".encode()
    public = f"octet.{tag}.example".encode()
    for octet in bytes(range(256)):
        if octet in harmless or octet in b":/?":  # these three stand at a place of their own in a target
            continue
        for kind, before, behind in (
            ("before a protected address", public, b"10.0.0.5"),
            ("behind a protected address", b"10.0.0.5", b".good.example"),
            ("behind a refused name", b"localhost", b""),
        ):
            yield _malformed(f"octet {kind}", f"{octet:02x}", before + bytes([octet]) + behind + b":80")


def _ports(tag: str) -> Iterator[Destination]:
    """Ports that are none (ATTACKS 4.5), ports of other services (4.9), and none at all."""
    hosts = ("10.0.0.5", "[::1]", "localhost", str(PUBLIC), f"port.{tag}.example")
    odd = (
        *("0", "00", "65536", "65558", "65616", "131152", "4294967376", "18446744073709551696", "-1", "-65456", "+443"),
        *("00443", "080", "0x1bb", "0b1", "1e2", "443x", "x", "443:443", "443:80", ":443", "80,443", "443@10.0.0.5:80"),
        *("http", "443%00", "%34%34%33", "44 3", " 443", "443 ", "443\t", "443\0", "4\x0b43", "443#", "443\\", "443;"),
        *("\uff14\uff14\uff13", "\u0664\u0664\u0663", "\u00b2\u00b2", "4_43", "443.", "443.0", "[443]", ""),
    )
    for host in hosts:
        for port in odd:
            yield _malformed("port that is none", f"of {host}", f"{host}:{port}".encode())
    for number in (1, 22, 25, 53, 110, 143, 465, 587, 2049, 6000, 6667, 10080):
        authority, why = f"{PUBLIC}:{number}".encode(), "https://fetch.spec.whatwg.org/#port-blocking"
        yield Destination("port of another service", why, authority, Verdict.DENIED, PUBLIC, number)
    for number in (80, 443):
        authority, reaches = f"{PUBLIC}:{number}".encode(), frozenset({PUBLIC})
        yield Destination("port of the web", str(number), authority, Verdict.ALLOWED, PUBLIC, number, reaches)


def _targets(tag: str) -> Iterator[Destination]:
    """Targets whose authority ends early: what follows it is path and query, and means nothing (ATTACKS 4.6)."""
    name = f"ends-{tag}.example"
    zone, reaches, protected = {name: REACHABLE}, frozenset({PUBLIC}), Address.read("10.0.0.5")
    for kind, tail in {
        "no port": "",
        "slash": "/@10.0.0.5",
        "query": "?@10.0.0.5",
        "slash behind the port": ":80/@10.0.0.5:80",
        "query behind the port": ":80?10.0.0.5",
    }.items():
        public = Destination(
            f"the authority ends: {kind}",
            *("public", f"{name}{tail}".encode(), Verdict.ALLOWED, name, 80, reaches, zone),
            in_connect=Verdict.MALFORMED,
        )
        yield public
        authority = f"10.0.0.5{tail}".replace("@10.0.0.5", f"@{name}").encode()
        yield replace(public, why="protected", authority=authority, verdict=Verdict.DENIED, host=protected)


def named(kind: str, why: str, spelt: str) -> Destination:
    """A name that is refused for itself, or else may be had."""
    name = spelt.lower().removesuffix(".")
    verdict = Verdict.DENIED if refused(name) else Verdict.ALLOWED
    authority, reaches = f"{spelt}:80".encode(), frozenset({PUBLIC})
    return Destination(kind, why, authority, verdict, name, reaches=reaches, zone={name: REACHABLE})


def _malformed(kind: str, why: str, authority: bytes) -> Destination:
    return Destination(kind, why, authority, Verdict.MALFORMED)
