r"""Requests that two parsers could read in two ways: a table of them, and endless random ones from a seed.

Each case is a connection's octets: one message with something odd, and ordinary ones behind it. Every path is unique,
and bodies hold requests of their own, so that a message that ends in the wrong place shows itself as a request to
/smuggled. Strings here are octets, as Latin-1.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.end_to_end.test_framing_of_requests import BAD

if TYPE_CHECKING:
    from collections.abc import Iterator

SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

LENGTHS: tuple[str, ...] = (
    *(
        "5",
        "\t5",
        "5 ",
        "5\t",
        "05",
        "000000000000000005",
        "0000000000000000005",
        "+5",
        "-5",
        "5,5",
        "5, 5",
        ",5",
        "5;",
    ),
    *("0x5", "5 5", "", "5.0", "5e0", "5_0", '"5"', "'5'", "five", "0", "00", "\xd9\xa5", "\xb2", "5\xa0", "\xa05"),
    *("5\x00", "\x005", "5\x0b", "\x0c5", "5\x85", "99999999999999999999", "18446744073709551621", "4294967301", "6"),
)
CODINGS: tuple[str, ...] = (
    *("chunked", "Chunked", "CHUNKED", "\tchunked", "chunked ", "chunked\t", "chunked,", ",chunked", "chunked;q=1"),
    *("chunked, chunked", "identity", "identity, chunked", "chunked, identity", "gzip, chunked", "chunked gzip", ""),
    *("\x0bchunked", "chunked\x0b", "chunked\x00", "\x0cchunked", "xchunked", "chunke", "chunkedx", '"chunked"'),
    *("chunked\xa0", "\xa0chunked", "chun\xc5\xbfed", "ch unked", "chunked\\", "chunked;a=b", "(chunked)", "deflate"),
)
NAMES: tuple[str, ...] = (
    "{0}",
    "{1}",
    "{2} ",
    "{0}\t",
    " {0}",
    "\t{0}",
    "{0}\x00",
    "{0}\x0b",
    "\x0b{0}",
    "\x00{0}",
    "{0}:",
    "X-{0}",
)
NAMES += ("X: y\n{0}", "X: y\r{0}", "X: y\r\n\t{0}", "X: y\r\r\n{0}", "X\x00: y\r\n{0}", ":\r\n{0}", "X\r\n{0}")
NAMES += ("{0}\xa0", "({0})", "{0};", "\xef\xbb\xbf{0}", "X: y\x85{0}", "X: y\x0b{0}", "X: \x1c{0}", "\r{0}")
SIZES: tuple[str, ...] = (
    *("5", "05", "000000000000005", "0000000000000005", "00000000000000000000005", "0x5", "5h", "+5", "-5", " 5", "5 "),
    *("5\t", "\t5", "5;", "5;a", "5;a=b", '5;a="b"', '5;a="\\""', "5 ;a", "5; a = b", "5;\t", "5;\xff", "5;a=b;c=d"),
    *("5;\x00", "5;\n", "5;a\rb", "5\x0b", "5\x00", "5,", '"5"', "5\xa0", "", "g", "5;" + "a" * 900, "5;" + "a" * 5000),
    *("fffffffffffffff5", "ffffffffffffffff5", "100000005", "10000000000000005", "7fffffffffffffff", "80000000"),
    *("5;a\n", "5\n", "5\r", "5;\x0b", "5;\x7f", "5;a\r\n b", "5\r\n", "5;0\r\n\r\n"),
)
ENDS: tuple[str, ...] = (
    "\r\n",
    "\n",
    "\r",
    "",
    "\n\n",
    "\r\n\r\n",
    " \r\n",
    "XX\r\n",
    "XX",
    "\n\r",
    "\x00\x00",
    "\r\r\n",
    "\r\n ",
)
LAST: tuple[str, ...] = (
    "0",
    "00",
    "0;a=b",
    "0 ",
    "-0",
    "+0",
    "0x0",
    "0" * 15,
    "0" * 16,
    "0;" + "a" * 2000,
    "O",
    "0\n",
    "0;\n",
    "0\r",
)
TRAILERS: tuple[str, ...] = (
    *(
        "",
        "X: a\r\n",
        "X: a\r\nY: b\r\n",
        "X:a\r\n",
        "X: a\n",
        "X: a\r",
        " X: a\r\n",
        "\tX: a\r\n",
        "X : a\r\n",
        "X\r\n",
    ),
    *("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: evil\r\n", "Connection: close\r\n", ":\r\n"),
    *("GET /smuggled HTTP/1.1\r\n", "GET /smuggled HTTP/1.1\r\nHost: x\r\n", "X: a\r\n b\r\n", "X: a\x00\r\n"),
    *("\n", "\r", "X: a\r\r\n", "X: \xff\r\n", "X\x00: a\r\n", "0\r\n", "X: " + "a" * 9000 + "\r\n", "X\xa0: a\r\n"),
)
STARTS: tuple[str, ...] = (
    *("POST {} HTTP/1.1", "POST {} HTTP/1.0", "POST {} HTTP/1.2", "POST {} HTTP/2.0", "POST {} HTTP/0.9", "POST {}"),
    *("POST {} HTTP/1.10", "POST {} HTTP/01.1", "POST {} HTTP/1.1 ", "POST {} http/1.1", "POST {} HTTP/1,1"),
    *("POST {} HTTP /1.1", "POST {} HTTP/1.1\t", "POST\t{}\tHTTP/1.1", "POST  {} HTTP/1.1", "POST {}  HTTP/1.1"),
    *(
        " POST {} HTTP/1.1",
        "\r\nPOST {} HTTP/1.1",
        "\r\n\r\nPOST {} HTTP/1.1",
        "\nPOST {} HTTP/1.1",
        "\rPOST {} HTTP/1.1",
    ),
    *(
        "\x00POST {} HTTP/1.1",
        "POST {}\x00 HTTP/1.1",
        "POST {}\x0b HTTP/1.1",
        "POST {} HTTP/1.1\x00",
        "PO ST {} HTTP/1.1",
    ),
    *(
        "POST {}#f HTTP/1.1",
        "POST {}?a b HTTP/1.1",
        "POST {}?a\tb HTTP/1.1",
        "POST {}\xff HTTP/1.1",
        "POST\x0b{} HTTP/1.1",
    ),
    *("POST {}?a=%0d%0a%0d%0a HTTP/1.1", 'POST {}?"<>\\^`{{|}} HTTP/1.1', "POST {}?http://x/ HTTP/1.1", "POST {}"),
    *("POST {} HTTP/1.1\r", "POST {} HTTP/1.1\r\r", "POST {} HTTP/1.1\n", "P\xd6ST {} HTTP/1.1", "P@ST {} HTTP/1.1"),
    *("GET {} HTTP/1.1", "HEAD {} HTTP/1.1", "PUT {} HTTP/1.1", "DELETE {} HTTP/1.1", "OPTIONS {} HTTP/1.1"),
    *("GET {} HTTP/1.0", "HEAD {} HTTP/1.0", "PATCH {} HTTP/1.1", "PROPFIND {} HTTP/1.1", "TRACE {} HTTP/1.1"),
    *("M-SEARCH {} HTTP/1.1", "QUERY {} HTTP/1.1", "post {} HTTP/1.1", "FOO {} HTTP/1.1", "PRI {} HTTP/1.1"),
)
_USUAL_STARTS = tuple(
    f"{method} {{}} HTTP/1.1" for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
)
HOSTS: tuple[str, ...] = (
    *(
        "Host: x\r\n",
        "host:x\r\n",
        "",
        "Host: x\r\nHost: x\r\n",
        "Host: x\r\nHost: y\r\n",
        "Host: \r\n",
        "Host: x, y\r\n",
    ),
    *("Host : x\r\n", "Host: x\r\n y\r\n", "Host: x y\r\n", "Host: http://x/\r\n", "Host:\tx\r\n", "Host: x\x00\r\n"),
    *("Host: @x\r\n", "Host: x:y\r\n", "Host: [::1\r\n", "Host: x\xff\r\n", "Host\x00: x\r\n", "Host: x\nX: y\r\n"),
)
FIELDS: tuple[str, ...] = (
    *("Connection: close", "Connection: keep-alive", "Connection: Content-Length", "Connection: Transfer-Encoding"),
    *(
        "Connection: Host, Content-Length, close",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: timeout=0",
        "TE: trailers",
    ),
    *("Expect: 100-continue", "Expect: 100-Continue", "Expect: 200", "Upgrade: h2c\r\nConnection: Upgrade", "X:"),
    *(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "HTTP2-Settings: AAA",
        "Trailer: Content-Length",
        "Max-Forwards: 0",
    ),
    *("Content-Encoding: chunked", "Content-Type: multipart/byteranges; boundary=x", "X-HTTP-Method-Override: GET"),
    *("X: \xff\x80", "X: a\tb", "X: \t a \t ", "X: " + "a" * 7000, 'X: "a', "X: a\\", "X!#$%&'*+.^_`|~: a", "X: (a"),
    *("Sec-WebSocket-Key1: 1 2\r\nSec-WebSocket-Key2: 3 4\r\nUpgrade: WebSocket\r\nConnection: Upgrade", "1: 2"),
    *(
        "Content_Length: 50",
        "Content-Length-: 50",
        "Transfer_Encoding: chunked",
        "X-Content-Length: 50",
        "Range: bytes=0-",
    ),
    *("Cookie: a=b; c=d", "Content-Disposition: \r\n", "X: a\x00b", "X: a\x7fb", "X: a\x1bb", "X: a\rb", "X: a\nb"),
)
_ODD = (
    *(
        "\r",
        "\n",
        "\r\n",
        "\r\n\r\n",
        "\r\n ",
        "\n\n",
        "\x00",
        "\t",
        " ",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x7f",
        "\x85",
        "\xa0",
    ),
    *(":", ";", ",", '"', "0", "5", "0\r\n\r\n", SMUGGLED),
)
_BODIES = (
    "hello",
    "",
    "0\r\n\r\n",
    "\r\n" + SMUGGLED,
    SMUGGLED,
    "0\r\n\r\n" + SMUGGLED,
    "5\r\nhello\r\n0\r\n\r\n",
    "\r\n",
)


@dataclass(frozen=True, slots=True)
class Draft:
    """The parts of one message; None for a length or coding that is not given."""

    start: str = "POST {} HTTP/1.1"
    host: str = "Host: x\r\n"
    fields: tuple[str, ...] = ()
    length: str | None = None
    length_name: str = "Content-Length"
    coding: str | None = None
    coding_name: str = "Transfer-Encoding"
    payload: str = "hello"
    size: str | None = None
    end: str = "\r\n"
    last: str = "0"
    trailers: str = ""

    def written(self, url: str) -> str:
        """The message, in chunks where it names a coding, and otherwise with the payload as its body."""
        lines = [self.start.replace("{}", url), self.host.removesuffix("\r\n"), *self.fields]
        if self.length is not None:
            lines.append(f"{self.length_name}: {self.length}")
        if self.coding is not None:
            lines.append(f"{self.coding_name}: {self.coding}")
        head = "\r\n".join(line for line in lines if line) + "\r\n\r\n"
        return head + (self.payload if self.coding is None else self._chunked())

    def _chunked(self) -> str:
        size = f"{len(self.payload):x}" if self.size is None else self.size
        first = f"{size}\r\n{self.payload}{self.end}" if self.payload else ""
        return f"{first}{self.last}\r\n{self.trailers}\r\n"


PLAIN, SIZED, CHUNKED = Draft("GET {} HTTP/1.1", payload=""), Draft(length="5"), Draft(coding="chunked")


def varied(draft: Draft, part: str, value: str) -> Draft:
    """The same message with one part that is another."""
    return replace(draft, **{part: value})  # type: ignore[arg-type] # each part named so is a str


def table() -> Iterator[tuple[str, Draft | str]]:
    """Every odd thing by itself: a name, and the message."""
    for part, values in (("start", STARTS), ("host", HOSTS)):
        for base in (SIZED, CHUNKED):
            yield from ((f"{part} {value!r}", varied(base, part, value)) for value in values)
    yield from ((f"start without body {value!r}", replace(PLAIN, start=value)) for value in STARTS)
    yield from ((f"length {value!r}", replace(SIZED, length=value)) for value in LENGTHS)
    yield from ((f"coding {value!r}", replace(CHUNKED, coding=value)) for value in CODINGS)
    yield from ((f"length and coding {value!r}", replace(CHUNKED, coding=value, length="5")) for value in CODINGS)
    yield from ((f"length {value!r} and coding", replace(CHUNKED, length=value)) for value in LENGTHS)
    yield from ((f"length named {name!r}", replace(SIZED, length_name=named(name, "Content-Length"))) for name in NAMES)
    for name in NAMES:
        spelt = named(name, "Transfer-Encoding")
        yield f"coding named {name!r}", replace(CHUNKED, coding_name=spelt)
        yield f"coding named {name!r}, and a length", replace(CHUNKED, coding_name=spelt, length="5")
    for part, values in (("size", SIZES), ("end", ENDS), ("last", LAST), ("trailers", TRAILERS)):
        yield from ((f"chunk {part} {value[:40]!r}", varied(CHUNKED, part, value)) for value in values)
    for value in FIELDS:
        yield from ((f"field {value[:40]!r}", replace(base, fields=(value,))) for base in (PLAIN, SIZED, CHUNKED))
    for value in _BODIES:
        yield f"body {value!r}", replace(SIZED, length=str(len(value)), payload=value)
        yield f"chunk {value!r}", replace(CHUNKED, payload=value)
        yield f"no framing, and {value!r}", replace(PLAIN, payload=value)
    yield from (("known bad: " + name, "POST {} HTTP/1.1\r\nHost: x\r\n" + rest) for name, rest in BAD.items())


def with_followers(message: Draft | str, urls: tuple[str, ...]) -> bytes:
    """The octets of a connection: the message, and ordinary ones to the other URLs behind it."""
    first = message.written(urls[0]) if isinstance(message, Draft) else message.replace("{}", urls[0])
    return (first + "".join(PLAIN.written(url) for url in urls[1:])).encode("latin-1")


def at_random(seed: str, urls: tuple[str, ...]) -> bytes:
    """The octets of a connection: a message to each URL, most with one thing odd or none, then a few octets odd."""
    chance = random.Random(seed)  # noqa: S311 - the same cases from the same seed
    messages = [_draft(chance).written(url) for url in urls]
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        which = chance.randrange(len(messages))
        messages[which] = mutated(chance, messages[which])
    return "".join(messages).encode("latin-1")


def _draft(chance: random.Random) -> Draft:
    payload = chance.choice((*_BODIES, "".join(map(chr, chance.choices(range(256), k=chance.randrange(40))))))
    sized = Draft(payload=payload, length=str(len(payload)))
    draft = chance.choice((PLAIN, sized, Draft(payload=payload, coding="chunked")))
    fields = tuple(chance.choices(FIELDS[:-7], k=chance.choice((0, 0, 1, 2))))
    draft = replace(
        draft, fields=tuple(dict.fromkeys(fields)), start=chance.choice((*_USUAL_STARTS, "POST {} HTTP/1.0"))
    )
    odd = {"start": STARTS, "host": HOSTS, "size": SIZES, "end": ENDS, "last": LAST, "trailers": TRAILERS}
    odd |= {"length": LENGTHS, "coding": CODINGS}
    part = chance.choice((*odd, *["trailers"] * 2, *["none"] * 10))
    return varied(draft, part, chance.choice(odd[part])) if part in odd else draft


def mutated(chance: random.Random, message: str) -> str:
    """With one place changed: at a border between words or lines more often than elsewhere."""
    borders = [found.start() for found in re.finditer(r"\r\n|[ :;,]", message)]
    at = chance.choice(borders) if chance.random() < 0.7 else chance.randrange(len(message))
    length = chance.choice((0, 0, 1, 1, 2, 5, 20))
    taken = message[at : at + length]
    return message[:at] + chance.choice((*_ODD, "", taken * 2)) + message[at + length :]


def named(form: str, name: str) -> str:
    """A field's name in one of the forms of `NAMES`."""
    return form.format(name, name.replace("-", "_"), name.lower())
