"""Responses that two parsers could read in two ways: a table of them, and endless random ones from a seed.

Behind many of them lies a whole response more: a client that takes it for the answer to its next request is poisoned.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from proxyd.serve.forward import MOST_AT_ONCE
from tests.adversarial.other_parsers.ambiguous import (
    CODINGS,
    ENDS,
    LAST,
    LENGTHS,
    NAMES,
    SIZES,
    TRAILERS,
    Draft,
    mutated,
    named,
    varied,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

POISON = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

_STARTS = (
    *("HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1  200 OK", "HTTP/1.1\t200 OK"),
    *("HTTP/1.1 2000 OK", "HTTP/1.1 20 OK", "HTTP/1.1 099 OK", "HTTP/1.1 600 OK", "HTTP/1.1 999 OK", "HTTP/1.1 +20 OK"),
    *(
        "HTTP/1.2 200 OK",
        "HTTP/2 200",
        "HTTP/0.9 200 OK",
        "ICY 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1 200 \xff",
        "200 OK",
    ),
    *("HTTP/1.1 204 No Content", "HTTP/1.1 205 Reset Content", "HTTP/1.1 304 Not Modified", "HTTP/1.1 404 Not Found"),
    *("HTTP/1.1 100 Continue", "HTTP/1.1 101 Switching Protocols", "HTTP/1.1 103 Early Hints", "HTTP/1.1 199 X"),
    *("\r\nHTTP/1.1 200 OK", "\nHTTP/1.1 200 OK", " HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r", "HTTP/1.1 200 OK\x00", ""),
    *("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", "HTTP/1.1 103 X\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK"),
    *("HTTP/1.1 102 X\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK", "HTTP/1.1 100 X\n\nHTTP/1.1 200 OK"),
    *(
        "HTTP/1.1 103 X\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 407 X",
        "HTTP/1.1 500 X",
        "HTTP/1.1 302 X",
    ),
)
_FIELDS = (
    *("Connection: close", "Connection: keep-alive", "Connection: Content-Length", "Connection: Transfer-Encoding"),
    *("Keep-Alive: timeout=0", "Upgrade: websocket\r\nConnection: Upgrade", "Trailer: X", "Content-Encoding: chunked"),
    *(
        "Content-Type: multipart/byteranges; boundary=x",
        "X: \xff",
        "X: a\x00",
        "X: a\n",
        "X : a",
        "X",
        "Set-Cookie: a=b",
    ),
    *("Content_Length: 50", "Content-Length: 5", "Content-Length: 6", "Transfer-Encoding: chunked", "X:", " X: folded"),
)
_BASE = Draft(start="HTTP/1.1 200 OK", host="")
_SIZED, _CHUNKED = replace(_BASE, length="5"), replace(_BASE, coding="chunked")
_LONG = replace(_CHUNKED, size="1\r\nx\r\n" * 2 * MOST_AT_ONCE + "5")  # sent in part before its end is read


def table() -> Iterator[tuple[str, bytes]]:
    """Every odd thing by itself, once alone and once with poison behind it: a name, and the octets."""
    for name, draft in _drafts():
        yield name, draft.written("").encode("latin-1")
        yield f"{name}, and poison", (draft.written("") + POISON).encode("latin-1")


def at_random(seed: str) -> bytes:
    """The octets of a response with something changed in it."""
    chance = random.Random(seed)  # noqa: S311 - the same cases from the same seed
    text = chance.choice([draft for _, draft in _drafts()]).written("") + chance.choice(("", POISON))
    for _ in range(chance.choice((1, 1, 2))):
        text = mutated(chance, text)
    return text.encode("latin-1")


def _drafts() -> Iterator[tuple[str, Draft]]:
    for base in (_BASE, _SIZED, _CHUNKED):
        yield from ((f"start {value!r}", replace(base, start=value)) for value in _STARTS)
        yield from ((f"field {value!r}", replace(base, fields=(value,))) for value in _FIELDS)
    yield from ((f"length {value!r}", replace(_SIZED, length=value)) for value in LENGTHS)
    yield from ((f"coding {value!r}", replace(_CHUNKED, coding=value)) for value in CODINGS)
    yield from ((f"length and coding {value!r}", replace(_CHUNKED, coding=value, length="5")) for value in CODINGS)
    yield from (
        (f"length named {name!r}", replace(_SIZED, length_name=named(name, "Content-Length"))) for name in NAMES
    )
    for name in NAMES:
        yield f"coding named {name!r}", replace(_CHUNKED, coding_name=named(name, "Transfer-Encoding"))
    for part, values in (("size", SIZES), ("end", ENDS), ("last", LAST), ("trailers", TRAILERS)):
        yield from ((f"chunk {part} {value[:40]!r}", varied(_CHUNKED, part, value)) for value in values)
    yield from ((f"many chunks, trailers {value[:40]!r}", replace(_LONG, trailers=value)) for value in TRAILERS)
