"""Answers that two readers could read in two ways, and such as have one reading only (ATTACKS 5).

Lists by section of RFC 9112. Behind each the tests put `POISON`, an answer that nobody asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.adversarial.ambiguities import BROKEN_CODINGS, CHUNKS, INSIDE, LENGTHS, LINES, UNKNOWN_CODINGS

POISON = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
OK = "HTTP/1.1 200 OK\r\n"
CHUNKED = f"{OK}Transfer-Encoding: chunked\r\n\r\n"
HELLO = "5\r\nhello\r\n0\r\n\r\n"
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\n"


@dataclass(frozen=True)
class Told:
    """An answer that has one reading: as the origin sends it, and head and body as the client must get them.

    chunked: the client gets it so. interim: what the client gets before. ends: the end of the connection ends it, so
    that whatever comes is a part of it. method, fields: of the request. trailers: that the client gets. spills: it has
    a body that must not be there, and belongs to no message.
    """

    sent: str
    head: str = OK
    body: str = ""
    chunked: bool = False
    interim: str = ""
    ends: bool = False
    method: str = "GET"
    fields: str = ""
    trailers: str = ""
    spills: bool = False


def _refused_lines(line: str) -> str:
    return f"{OK}{line}\r\nContent-Length: 5\r\n\r\nhello"


REFUSED = {
    # §4: a status line has one form.
    **{
        f"status line {line!r}": f"{line}\r\nContent-Length: 5\r\n\r\nhello"
        for line in (
            *(
                "hello",
                "HTTP/1.1",
                "HTTP/1.1 ",
                "HTTP/1.1 OK",
                "HTTP/1.1 20 OK",
                "HTTP/1.1 2000 OK",
                "HTTP/1.1  200 OK",
            ),
            *(
                "HTTP/1.1\t200 OK",
                "HTTP/1.1 200\tOK",
                "HTTP/1.1 200OK",
                "HTTP/1.1 +20 OK",
                "HTTP/1.1 2x0 OK",
                " HTTP/1.1 200",
            ),
            *(
                "HTTP/1.1 0x1 OK",
                "HTTP/1.1 -20 OK",
                "HTTP/1.1 000 OK",
                "HTTP/1.1 099 OK",
                "HTTP/1.1 2\xb20 OK",
                "\tHTTP/1.1 200",
            ),
            *(
                "http/1.1 200 OK",
                "Http/1.1 200 OK",
                "HTTPS/1.1 200 OK",
                "HTTP/11 200 OK",
                "HTTP/1.10 200 OK",
                "HTTP/ 1.1 200 OK",
            ),
            *(
                "HTTP/1 200 OK",
                "HTTP/1,1 200 OK",
                "HTTP/0.9 200 OK",
                "HTTP/1.2 200 OK",
                "HTTP/2.0 200 OK",
                "HTTP/9.9 200 OK",
            ),
            *(
                "HTTP/1.1 200 a\x00b",
                "HTTP/1.1 200 a\rb",
                "HTTP/1.1 200 a\nb",
                "HTTP/1.1 200 a\x0b",
                "HTTP/1.1 200 \x1b[2J",
            ),
            *(
                "HTTP/1.1 200 OK\n",
                "HTTP/1.1 200 OK\r",
                "HTTP/1.1 200 OK\r\n X: y",
                "\nHTTP/1.1 200 OK",
                "\rHTTP/1.1 200 OK",
            ),
            *(
                "\x00HTTP/1.1 200 OK",
                "\r\n\r\nHTTP/1.1 200 OK",
                "\xef\xbb\xbfHTTP/1.1 200 OK",
                "ICY 200 OK",
                "GET / HTTP/1.1",
            ),
            "HTTP/1.1 407 OK",
        )
    },
    **{f"coding {field!r}": f"{OK}{field}\r\n\r\n0\r\n\r\n" for field in (*UNKNOWN_CODINGS, *BROKEN_CODINGS)},
    **{f"length {field!r}": f"{OK}{field}\r\n\r\nhello" for field in LENGTHS},
    **{f"line {line!r}": _refused_lines(line) for line in LINES if "host" not in line.lower()},
    # §6.3: who says two lengths says none.
    "coding and length": f"{OK}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{HELLO}",
    "length and coding": f"{OK}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{HELLO}",
    "coding and length, 204": "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "coding and length, 1xx": f"HTTP/1.1 103 Hm\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{OK}\r\n",
    "coding, HTTP/1.0": f"{CHUNKED.replace('HTTP/1.1', 'HTTP/1.0')}{HELLO}",
    "coding, HTTP/1.0, 1xx": f"HTTP/1.0 103 Hm\r\nTransfer-Encoding: chunked\r\n\r\n{OK}\r\n",
    # RFC 9110 §15.2, §7.8: nobody asked for it.
    "101": f"HTTP/1.1 101 Switching Protocols\r\n{WEBSOCKET}\r\n",
    "101, no Upgrade": "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "101, HTTP/1.0": f"HTTP/1.0 101 Switching Protocols\r\n{WEBSOCKET}\r\n",
    "too long": f"{OK}X: {'a' * 33_000}\r\n\r\n",
    "too many": OK + "X: y\r\n" * 257 + "\r\n",
}
# RFC 9110 §7.8, §15.2.2: asked for a WebSocket, an origin switches to that or not at all.
OTHER_SWITCHES = {
    "no Upgrade": "HTTP/1.1 101 X\r\n\r\n",
    "another protocol": "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "two protocols": "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
    "two fields": f"HTTP/1.1 101 X\r\n{WEBSOCKET}Upgrade: h2c\r\n\r\n",
    "two lengths": f"HTTP/1.1 101 X\r\n{WEBSOCKET}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.2": f"HTTP/1.2 101 X\r\n{WEBSOCKET}\r\n",
}
HINT = "HTTP/1.1 103 Hint\r\n\r\n"
REFUSED_AFTER_INTERIM = {
    "1xx with a body": (f"HTTP/1.1 103 Hint\r\nContent-Length: 5\r\n\r\nhello\r\n\r\n{OK}\r\n", HINT),
    "1xx with chunks": (f"HTTP/1.1 103 Hint\r\nTransfer-Encoding: chunked\r\n\r\n{HELLO}{OK}\r\n", HINT),
    "1xx without end": (HINT * 40, HINT * 32),
    "1xx, 101": (f"{HINT}HTTP/1.1 101 Switching Protocols\r\n{WEBSOCKET}\r\n", HINT),
    "1xx, no answer": (f"{HINT}hello\r\n\r\n", HINT),
    "1xx, two lengths": (f"{HINT}{OK}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", HINT),
}
# §8: the origin ends, or breaks off, before its head does.
UNFINISHED_HEADS = (
    "",
    "HTT",
    "HTTP/1.1 200 OK",
    OK,
    f"{OK}Content-Length: 5\r\n",
    f"{OK}Content-Length: 5\r\n\r",
    HINT,
)
# §7.1, §8: a head that is good, and a body that is not, or not all of it; how much of it may have passed.
CUT = {
    **{name: (CHUNKED + body, payload, "wait") for name, (body, payload) in CHUNKS.items()},
    **{
        f"{name}, then {after}": (sent, payload, after)
        for after in ("end", "reset")
        for name, (sent, payload) in {
            "no body": (f"{OK}Content-Length: 5\r\n\r\n", ""),
            "half a body": (f"{OK}Content-Length: 5\r\n\r\nhel", "hel"),
            "no chunk": (CHUNKED, ""),
            "half a size": (f"{CHUNKED}5", ""),
            "half a chunk": (f"{CHUNKED}5\r\nhel", "hel"),
            "chunk without CRLF": (f"{CHUNKED}5\r\nhello", "hello"),
            "no last chunk": (f"{CHUNKED}5\r\nhello\r\n", "hello"),
            "half a last chunk": (f"{CHUNKED}5\r\nhello\r\n0\r\n", "hello"),
            "half an empty line": (f"{CHUNKED}5\r\nhello\r\n0\r\n\r", "hello"),
            "half a trailer": (f"{CHUNKED}5\r\nhello\r\n0\r\nX: a\r\n", "hello"),
        }.items()
    },
    "no length, then reset": (f"{OK}\r\nhello", "hello", "reset"),
    "no length, HTTP/1.0, then reset": ("HTTP/1.0 200 OK\r\n\r\nhello", "hello", "reset"),
}
LENGTH = f"{OK}Content-Length: 5\r\n"
TOLD = {
    "length": Told(f"{LENGTH}\r\nhello", LENGTH, "hello"),
    "length zero": Told(f"{OK}Content-Length: 0\r\n\r\n", f"{OK}Content-Length: 0\r\n"),
    "length in whitespace": Told(f"{OK}Content-Length:\t5 \r\n\r\nhello", LENGTH, "hello"),
    "length with leading zeros": Told(f"{OK}Content-Length: 0005\r\n\r\nhello", LENGTH, "hello"),
    "length, HTTP/1.0": Told(f"{LENGTH.replace('1.1', '1.0')}\r\nhello", LENGTH, "hello"),
    "length, HTTP/1.0, keep-alive": Told(
        f"{LENGTH.replace('1.1', '1.0')}Connection: keep-alive\r\n\r\nhello", LENGTH, "hello"
    ),
    "length, close": Told(f"{LENGTH}Connection: close\r\n\r\nhello", LENGTH, "hello"),
    "length, protected": Told(f"{LENGTH}Connection: Content-Length\r\n\r\nhello", LENGTH, "hello"),
    "length, reset content": Told(
        "HTTP/1.1 205 X\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 205 X\r\nContent-Length: 0\r\n"
    ),
    "no reason": Told(
        "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 \r\nContent-Length: 5\r\n", "hello"
    ),
    "odd reason": Told(
        "HTTP/1.1 299 \xff\ta\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 299 \xff\ta\r\nContent-Length: 0\r\n"
    ),
    "odd status": Told("HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 999 X\r\nContent-Length: 0\r\n"),
    "a body like an answer": Told(
        f"{OK}Content-Length: {len(INSIDE)}\r\n\r\n{INSIDE}", f"{OK}Content-Length: {len(INSIDE)}\r\n", INSIDE
    ),
    "chunks": Told(f"{CHUNKED}{HELLO}", body="hello", chunked=True),
    "chunks, capitals": Told(f"{OK}transfer-encoding:CHUNKED\r\n\r\n{HELLO}", body="hello", chunked=True),
    "chunks, extensions": Told(f"{CHUNKED}05;a=b\r\nhello\r\n0;c\r\n\r\n", body="hello", chunked=True),
    "chunks, none": Told(f"{CHUNKED}0\r\n\r\n", chunked=True),
    "chunks, like the last": Told(f"{CHUNKED}5\r\n0\r\n\r\n\r\n0\r\n\r\n", body="0\r\n\r\n", chunked=True),
    "chunks, trailers": Told(
        f"{CHUNKED}5\r\nhello\r\n0\r\nX:y\r\nContent-Length: 9\r\nSet-Cookie: a\r\nProxy-X: a\r\nVia: a\r\n\r\n",
        body="hello",
        chunked=True,
        trailers="X: y\r\n",
    ),
    "chunks, protected": Told(
        f"{OK}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n{HELLO}", OK, "hello", chunked=True
    ),
    "no length": Told(f"{OK}\r\nhello", body="hello", chunked=True, ends=True),
    "no length, HTTP/1.0": Told("HTTP/1.0 200 OK\r\n\r\nhello", body="hello", chunked=True, ends=True),
    "no length, keep-alive": Told(f"{OK}Connection: keep-alive\r\n\r\nhello", body="hello", chunked=True, ends=True),
    "HEAD, length": Told(f"{LENGTH}\r\nhello", LENGTH, method="HEAD", spills=True),
    "HEAD, chunks": Told(f"{CHUNKED}{HELLO}", method="HEAD", chunked=True, spills=True),
    "HEAD, no length": Told(f"{OK}\r\n", method="HEAD", chunked=True),
    "204": Told("HTTP/1.1 204 No\r\n\r\n", "HTTP/1.1 204 No\r\n"),
    "204, length": Told("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 204 No\r\n", spills=True),
    "204, chunks": Told(
        f"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n{HELLO}", "HTTP/1.1 204 No\r\n", spills=True
    ),
    "304, length": Told(
        "HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 304 No\r\nContent-Length: 5\r\n",
        spills=True,
    ),
    "304, chunks": Told(
        f"HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n{HELLO}", "HTTP/1.1 304 No\r\n", spills=True
    ),
    "1xx": Told(f"{HINT}{LENGTH}\r\nhello", LENGTH, "hello", interim=HINT),
    "1xx, many": Told(f"{HINT * 31}{LENGTH}\r\nhello", LENGTH, "hello", interim=HINT * 31),
    "1xx, length": Told(
        f"HTTP/1.1 100 X\r\nContent-Length: 5\r\n\r\n{LENGTH}\r\nhello",
        LENGTH,
        "hello",
        interim="HTTP/1.1 100 X\r\n\r\n",
    ),
    "1xx, coding": Told(
        f"HTTP/1.1 100 X\r\nTransfer-Encoding: chunked\r\n\r\n{LENGTH}\r\nhello",
        LENGTH,
        "hello",
        interim="HTTP/1.1 100 X\r\n\r\n",
    ),
    "1xx, HTTP/1.0": Told(
        f"HTTP/1.0 100 X\r\n\r\n{LENGTH}\r\nhello", LENGTH, "hello", interim="HTTP/1.1 100 X\r\n\r\n"
    ),
    "websocket, no": Told(f"{LENGTH}\r\nhello", LENGTH, "hello", fields=WEBSOCKET),
    "websocket, upgrade required": Told(
        "HTTP/1.1 426 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 426 X\r\nContent-Length: 0\r\n",
        fields=WEBSOCKET,
    ),
}
