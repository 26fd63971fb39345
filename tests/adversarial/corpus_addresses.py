"""Literals of the corpus: every row's edges, every IPv6 form that carries IPv4, every spelling (ATTACKS 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.adversarial.corpus import BLOCKS, Address, Destination, Verdict, public, verdict_on

if TYPE_CHECKING:
    from collections.abc import Iterator

TRANSLATORS: Final = {
    "64:ff9b::/96": (b"\x00\x64\xff\x9b" + bytes(8)),
    "2a0b:32::/32": bytes.fromhex("2a0b 0032"),
    "2a0b:40::/40": bytes.fromhex("2a0b 0040 00"),
    "2a0b:48:1::/48": bytes.fromhex("2a0b 0048 0001"),
    "2a0b:56:1:100::/56": bytes.fromhex("2a0b 0056 0001 01"),
    "2a0b:64:1:2::/64": bytes.fromhex("2a0b 0064 0001 0002"),
    "2a0b:96:1:2::/96": bytes.fromhex("2a0b 0096 0001 0002 0000 0000"),
}
"""NAT64 prefixes that an operator could declare, one of each length, and their octets."""

_PUBLIC_4: Final = Address.read("8.8.8.8")
_ISATAP_PREFIXES: Final = ("2606:4700::", "2a00:1450:4001:81b::", "2001:4860:4860:0:")


def literals(step: int = 1) -> Iterator[Destination]:
    """All destinations that are spelt as an address. step: as of `carrying`."""
    yield from rows()
    yield from embeddings(step)
    yield from spellings()


def edges() -> Iterator[tuple[str, str, Address]]:
    """Each row's first and last address and the ones just outside: which it is, the row, the address."""
    for block, source in BLOCKS:
        for which, address in (
            ("first", block.first),
            ("last", block.last),
            ("just below", block.first.neighbour(-1)),
            ("just above", block.last.neighbour(1)),
        ):
            if address is not None:
                yield which, f"{block.text} ({source})", address


def rows() -> Iterator[Destination]:
    """Every row of the tables, first, last and just outside (R5)."""
    for which, row, address in edges():
        yield literal(f"{which} of a row", row, address)


def embeddings(step: int) -> Iterator[Destination]:
    """IPv6 literals that carry an IPv4 address, and some that almost do."""
    for form, carried, address in carrying(step):
        yield literal(form, f"carries {carried}", address)
    for low in (0x5EFD, 0x5EFF, 0x1_5EFE, 0x0400_5EFE, 0x8000_5EFE):
        address = Address(6, Address.read("2606:4700::").value | low << 32 | Address.read("10.0.0.5").value)
        yield literal("almost ISATAP", "an interface identifier next to it", address)


def carrying(step: int) -> Iterator[tuple[str, Address, Address]]:
    """Every edge of an IPv4 row, and so its public neighbours too, in every form of IPv6 that carries it.

    step: take one of so many; every form and every edge is still among them.
    """
    inner = dict.fromkeys(address for _, _, address in edges() if address.version == 4)
    for number, carried in enumerate(inner):
        for turn, (form, address) in enumerate(carriers(carried)):
            if (number + turn) % step == 0:
                yield form, carried, address


def carriers(carried: Address) -> Iterator[tuple[str, Address]]:
    """Every IPv6 form that carries an IPv4 address, as the RFCs lay it out."""
    four = carried.packed
    flipped = bytes(octet ^ 0xFF for octet in four)
    for form, octets in {
        "IPv4-mapped": bytes(10) + b"\xff\xff" + four,
        "IPv4-compatible": bytes(12) + four,
        "SIIT": bytes(8) + b"\xff\xff\x00\x00" + four,
        "6to4": b"\x20\x02" + four + bytes(9) + b"\x01",
        "6to4 with a host": b"\x20\x02" + four + b"\x26\x06" + bytes(6) + _PUBLIC_4.packed[:2],
        "Teredo server": b"\x20\x01\x00\x00" + four + b"\x80\x00\xff\xff" + b"\xf7\xf7\xf7\xf7",
        "Teredo client": bytes.fromhex("2001 0000 4136e378 8000 63bf") + flipped,
    }.items():
        yield form, Address.of(octets)
    for length in (32, 40, 48, 56, 64, 96):  # of what begins like the well-known prefix
        yield f"NAT64 at /{length}", rfc6052(TRANSLATORS["64:ff9b::/96"][: length // 8], carried)
    for length in (48, 56, 64, 96):
        prefix = bytes.fromhex("0064 ff9b 0001") + bytes(6)
        yield f"local NAT64 at /{length}", rfc6052(prefix[: length // 8], carried)
    decoy = bytes.fromhex("0064 ff9b 0001") + b"\x08\x08\x00\x08\x08\x00"
    yield "local NAT64 at /96 behind a public address", rfc6052(decoy, carried)
    for prefix_text in _ISATAP_PREFIXES:
        for identifier in (b"\x00", b"\x02", b"\x01", b"\x03"):
            prefix = Address.read(prefix_text.rstrip(":") + "::").packed[:8]
            form = f"ISATAP with {identifier.hex()}"
            yield form, Address.of(prefix + identifier + b"\x00\x5e\xfe" + four)


def rfc6052(prefix: bytes, carried: Address) -> Address:
    """An IPv4 address behind a NAT64 prefix: octet 8 of the address stays zero (RFC 6052 §2.2)."""
    octets = prefix + carried.packed
    if len(prefix) < 12:
        octets = octets[:8] + b"\x00" + octets[8:]
    return Address.of(octets.ljust(16, b"\x00"))


def translated() -> Iterator[Destination]:
    """Behind a declared translator, whatever its length, the IPv4 address inside is what is judged."""
    for _, row, carried in edges():
        if carried.version == 4:
            for translator, prefix in TRANSLATORS.items():
                yield _behind(translator, row, rfc6052(prefix, carried), carried)


def _behind(translator: str, row: str, address: Address, carried: Address) -> Destination:
    authority, reaches = f"{address.literal}:80".encode(), frozenset({address})
    return Destination(f"behind {translator}", row, authority, verdict_on(carried), address, reaches=reaches)


def literal(kind: str, why: str, address: Address, spelt: str | None = None) -> Destination:
    """An address, in its usual spelling or in another one that means it."""
    authority = f"{spelt or address.literal}:80".encode()
    return Destination(kind, why, authority, verdict_on(address), address, reaches=frozenset({address}))


_SPELT: Final = tuple(
    map(
        Address.read,
        (
            *("10.0.0.5", "127.0.0.1", "169.254.169.254", "168.63.129.16", "0.0.0.0", "93.184.216.34", "8.8.8.8"),
            *("::1", "::", "::ffff:127.0.0.1", "::ffff:0:a9fe:a9fe", "64:ff9b::a00:5", "fd00:ec2::254"),
            *("2606:2800:220:1:248:1893:25c8:1946", "2606:4700::1111", "2606:4700:0:1::5efe:a00:5"),
        ),
    )
)


def spellings() -> Iterator[Destination]:
    """Addresses of both kinds in every spelling: those that mean one address to everybody, and all the others."""
    for address in _SPELT:
        understood = _groups(address) if address.version == 6 else {}
        for kind, spelt in understood.items():
            yield literal(kind, f"spells {address}", address, spelt)
        for kind, octets in (_odd_6(address) if address.version == 6 else _odd_4(address)).items():
            yield Destination(f"spelling: {kind}", f"of {address}", octets + b":80", Verdict.MALFORMED)


def _groups(address: Address) -> dict[str, str]:
    """Spellings of RFC 4291 §2.2, of which all mean the same."""
    packed = address.packed
    words = [packed[at : at + 2].hex() for at in range(0, 16, 2)]
    short = [f"{int(word, 16):x}" for word in words]
    tail = ".".join(map(str, packed[12:]))
    return {
        "in full": f"[{':'.join(words)}]",
        "without compression": f"[{':'.join(short)}]",
        "upper case": f"[{':'.join(words).upper()}]",
        "compressed upper case": f"[{str(address).upper()}]",
        "dotted tail": f"[{':'.join(short[:6])}:{tail}]",
        **{
            f"compressed at {at}": f"[{':'.join(short[:at])}::{':'.join(short[at + 1 :])}]"
            for at in range(8)
            if short[at] == "0"
        },
    }


def _odd_6(address: Address) -> dict[str, bytes]:
    """Spellings of an IPv6 address that somebody might take for it, or for another one."""
    text = str(address)
    words = [f"{int.from_bytes(address.packed[at : at + 2]):x}" for at in range(0, 16, 2)]
    whole, tail = ":".join(words), ".".join(map(str, address.packed[12:]))
    octal = ".".join(f"0{octet:o}" for octet in address.packed[12:])
    return {
        kind: spelt.encode()
        for kind, spelt in {
            "no brackets": text,
            "no closing bracket": f"[{text}",
            "no opening bracket": f"{text}]",
            "double brackets": f"[[{text}]]",
            "empty brackets before it": f"[]{text}",
            "zone": f"[{text}%lo]",
            "zone, escaped": f"[{text}%25lo]",
            "zone, numeric": f"[{text}%1]",
            "zone, empty": f"[{text}%]",
            "trailing dot": f"[{text}].",
            "trailing dot inside": f"[{text}.]",
            "something behind the brackets": f"[{text}]x",
            "prefix length": f"[{text}/128]",
            "space inside": f"[ {text}]",
            "tab inside": f"[{text}\t]",
            "NUL inside": f"[{text}\0]",
            "escaped colon": f"[{text.replace(':', '%3a', 1)}]",
            "five digits": f"[{whole.replace(words[0], '0' + words[0].zfill(4), 1)}]",
            "nine groups": f"[{whole}:0]",
            "seven groups": f"[{':'.join(words[:7])}]",
            "two compressions": f"[::{words[6]}::{words[7]}]",
            "hexadecimal prefix": f"[0x{whole}]",
            "octal tail": f"[{':'.join(words[:6])}:{octal}]",
            "short tail": f"[{':'.join(words[:6])}:{tail.split('.', 1)[1]}]",
            "IPvFuture": f"[v6.{text}]",
            "IPv6 prefix of mail": f"[IPv6:{text}]",
            "brackets round a dotted quad": f"[{tail}]",
            "ip6-literal": f"[{text.replace(':', '-')}]",
            "userinfo": f"good.example@[{text}]",
        }.items()
    }


def _odd_4(address: Address) -> dict[str, bytes]:
    """What inet_aton(3), a browser or a careless parser takes for this IPv4 address (ATTACKS 2.1)."""
    a, b, c, d = address.packed
    text, value = str(address), address.value
    wide = text.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)})
    circled = text.translate({ord("1") + digit: 0x2460 + digit for digit in range(9)})
    spelt = {
        "decimal": f"{value}",
        "decimal with a dot": f"{value}.",
        "decimal beyond 32 bits": f"{value + (1 << 32)}",
        "hexadecimal": f"{value:#x}",
        "hexadecimal, upper case": f"0X{value:08X}",
        "octal": f"0{value:o}",
        "dotted hexadecimal": f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        "dotted octal": f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        "padded with zeros": f"{a:03}.{b:03}.{c:03}.{d:04}",
        "one octet octal": f"{a}.{b}.{c}.0{d:o}",
        "one octet hexadecimal": f"{a}.{b}.{c}.{d:#x}",
        "two numbers": f"{a}.{value & 0xFFFFFF}",
        "three numbers": f"{a}.{b}.{value & 0xFFFF}",
        "hexadecimal and short": f"{a:#x}.{value & 0xFFFFFF:#x}",
        "octet beyond 255": f"{a + 256}.{b}.{c}.{d}",
        "five numbers": f"{text}.0",
        "trailing dot": f"{text}.",
        "leading dot": f".{text}",
        "double dot": f"{a}.{b}..{c}.{d}",
        "negative": f"-{value}",
        "signed": f"+{text}",
        "brackets": f"[{text}]",
        "userinfo": f"good.example@{text}",
        "userinfo with a port": f"good.example:80@{text}",
        "empty userinfo": f"@{text}",
        "userinfo with a password": f"a:b@{text}",
        "escaped": "".join(f"%{ord(each):02x}" for each in text),
        "escaped dots": text.replace(".", "%2e"),
        "escaped NUL behind it": f"{text}%00",
        "NUL and a name behind it": f"{text}\0.good.example",
        "backslash and a name behind it": f"{text}\\.good.example",
        "backslash and userinfo": f"good.example\\@{text}",
        "fragment and userinfo": f"{text}#@good.example",
        "space before it": f" {text}",
        "tab behind it": f"{text}\t",
        "ideographic dots": text.replace(".", "\u3002"),
        "full-width dots": text.replace(".", "\uff0e"),
        "full-width digits": wide,
        "circled digits": circled if circled != text else wide + "\u2460",
        "zone": f"{text}%lo",
        "prefix length": f"{text}%2f32",
        "two hosts": f"{text},93.184.216.34",
    }
    return {kind: each.encode() for kind, each in spelt.items()}


PUBLIC_EDGES: Final = tuple(dict.fromkeys(address for _, _, address in edges() if public(address)))
"""The public neighbours of the rows."""
