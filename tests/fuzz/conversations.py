"""Conversations of every kind, as scripts: valid ones, and one for each thing that can become of a request.

The secret is planted wherever clients and origins have secrets.
"""

from __future__ import annotations

from typing import Final

from tests.fuzz.scripts import (
    AMENDS,
    DRAINS,
    ENDS,
    IS_DEAF,
    KINDS,
    MARK,
    RESETS,
    SENDS,
    TURNS,
    WAITS,
    Script,
    Step,
)
from tests.fuzz.town import (
    CREDENTIAL,
    KNOWN,
    LATE,
    LISTED,
    NAMED,
    NOBODY,
    PERMITTED,
    UNIFORM,
    WATCHED,
    mood,
)
from tests.http.hellos import hello, server_name
from tests.serve.scene import OK, SECRET, VIA, connect, get

NAME: Final = "api.example.com"
HELLO: Final = hello(server_name(NAME.encode()))
TURN_AWAY: Final = 1
"""Of a script's `ways`: the connection is one too many."""

_HEAD: Final = b"HTTP/1.1 200 OK\r\n"
_SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
_CHUNKED: Final = _HEAD + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4;x=y\r\nwiki\r\n0\r\nX-Sum: 1\r\n\r\n"
_LONG: Final = _HEAD + b"Content-Length: 900\r\n\r\n" + b"octets on their way " * 45
_URL: Final = f"http://{NAME}/bot{SECRET}/path?key={SECRET}"
_COOKIE: Final = f"Cookie: session={SECRET}"
_SHOWN: Final = f"Proxy-Authorization: Basic {CREDENTIAL.decode()}"
_UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
_SET: Final = _HEAD + f"Set-Cookie: session={SECRET}\r\nContent-Length: 2\r\n\r\nhi".encode()
_POST: Final = get(_URL, "Content-Length: 17", _COOKIE, method="POST") + SECRET.encode()
_IN_CHUNKS: Final = get(_URL, "Transfer-Encoding: chunked", "Trailer: X-Sum", method="PUT")
_BODY: Final = b"5\r\nhello\r\n11\r\n" + SECRET.encode() + b"\r\n0\r\nX-Sum: 1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"


def says(octets: bytes, size: int = 0) -> Step:
    """The client does."""
    return Step(SENDS, size, octets)


def hears(octets: bytes, size: int = 0) -> Step:
    """The client does, from the origin."""
    return Step(SENDS.upper(), size, octets)


def waits(seconds: int) -> Step:
    """Everybody does."""
    return Step(WAITS, seconds)


def _script(*steps: Step, home: int = 0, policy: int = 0, of: str = "fine", ways: int = 0) -> bytes:
    return Script(steps, home, policy, mood(of), ways).written()


def _refused(request: bytes, **more: int | str) -> bytes:
    return _script(says(request, 40), **more)  # type: ignore[arg-type] # passed through


SERVED: Final = {
    "GET": _script(says(get(_URL, _COOKIE)), hears(_SET)),
    "HEAD": _script(says(get(_URL, method="HEAD"), 50), hears(_SET[:-2])),
    "OPTIONS that is answered here": _script(says(get("http://example.com", "Max-Forwards: 0", method="OPTIONS"))),
    "OPTIONS": _script(says(get("http://example.com", "Max-Forwards: 7", method="OPTIONS")), hears(OK)),
    "POST": _script(says(_POST, 60), hears(_SET, 10)),
    "POST in chunks": _script(says(_IN_CHUNKS), says(_BODY, 7), hears(_CHUNKED, 9)),
    "Expect": _script(
        says(get(_URL, "Expect: 100-continue", "Content-Length: 5", method="POST")),
        hears(b"HTTP/1.1 100 Continue\r\n\r\n"),
        says(b"hello"),
        hears(OK),
    ),
    "early hints": _script(says(get(_URL)), hears(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, 30)),
    "early hints to HTTP/1.0": _script(
        says(get(_URL, version="1.0")), hears(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _CHUNKED)
    ),
    "early response": _script(says(_POST[:-9]), hears(OK), says(_POST[-9:])),
    "early response, and the end": _script(says(_POST[:-9]), hears(OK), Step(ENDS.upper()), waits(3)),
    "HTTP/1.0": _script(says(get(_URL, version="1.0")), hears(b"HTTP/1.0 200 OK\r\n\r\nhi"), Step(ENDS.upper())),
    "HTTP/1.0, and it is torn": _script(says(get(_URL, version="1.0")), hears(_LONG[:-9]), Step(RESETS.upper())),
    "HTTP/1.0, and it is torn in chunks": _script(
        says(get(_URL, version="1.0")), hears(_CHUNKED[:-9]), Step(RESETS.upper())
    ),
    "pipelined": _script(says(get(_URL) + get(_URL, _COOKIE) + get()), hears(OK), hears(_SET), hears(_CHUNKED)),
    "kept": _script(
        says(get(_URL)), hears(OK), waits(5), says(get()), hears(_CHUNKED), waits(59), says(get()), hears(OK)
    ),
    "kept, and asked again": _script(
        *(says(get()), hears(OK), says(get("http://example.com/b"), 9), Step(ENDS.upper()), hears(OK))
    ),
    "kept, and the origin said too much": _script(says(get()), hears(OK + OK), says(get()), hears(_SET)),
    "kept, and the origin says more": _script(says(get()), hears(OK), hears(OK), says(get()), hears(_SET)),
    "kept for another host": _script(says(get()), hears(OK), says(get(_URL)), hears(OK), says(_POST), hears(OK)),
    "empty lines before": _script(says(b"\r\n" + get()), hears(OK), says(b"\r\n" + get()), hears(OK)),
    "end of the body by the end": _script(says(get()), hears(_HEAD + b"\r\nhi"), Step(ENDS.upper())),
    "half-closed": _script(says(get()), Step(ENDS), hears(OK)),
    "no content": _script(says(get()), hears(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")),
    "the client is slow to read": _script(Step(IS_DEAF), says(get()), hears(_LONG * 3), waits(9), Step(IS_DEAF)),
    "both families": _script(says(get()), hears(OK), of="both families"),
    "a literal": _script(says(get("http://[2606:2800:220:1:248:1893:25c8:1946]:81/")), hears(OK)),
    "credential": _script(says(get()), says(get(_URL, _SHOWN)), hears(OK), home=KNOWN),
    "watched": _script(says(get("http://other.example/")), hears(OK), home=WATCHED),
    "permitted": _script(
        says(get("http://ui.example:8080/", "X-Forwarded-User: root", "X_Real.IP: ::1")),
        hears(OK),
        home=PERMITTED,
        of="private",
    ),
    "availability before records": _script(says(get()), hears(OK), policy=UNIFORM, of="full disk"),
    "slow all round": _script(says(get()), waits(4), hears(OK), waits(9), hears(OK), of="slow nameserver"),
}
TUNNELS: Final = {
    "TLS": _script(says(connect(f"{NAME}:443")), says(HELLO), hears(b"\x16\x03\x03"), Step(ENDS), Step(ENDS.upper())),
    "TLS of the right name": _script(
        says(connect(f"{NAME}:443") + HELLO, 50), hears(b"\x16\x03\x03"), Step(ENDS.upper()), Step(ENDS), home=LISTED
    ),
    "TLS of another name": _script(says(connect("example.com:443")), says(HELLO, 30), waits(2), home=LISTED),
    "no TLS": _script(says(connect("example.com:443")), says(b"SSH-2.0-OpenSSH\r\n"), waits(2), home=NAMED),
    "no TLS in time": _script(says(connect("example.com:443")), says(HELLO[:9]), waits(9), home=NAMED),
    "spoken to first": _script(says(connect("example.com:8022")), hears(b"SSH-2.0-OpenSSH\r\n"), Step(RESETS.upper())),
    "HTTP/1.0 CONNECT": _script(says(connect("example.com:80", version="1.0") + get("/")), hears(OK), waits(120)),
    "WebSocket": _script(
        *(says(get(_URL, *_UPGRADE)), hears(_SWITCHING + b"\x81\x02hi"), says(b"\x81\x82mask\0\0"), Step(ENDS)),
        Step(ENDS.upper()),
    ),
    "WebSocket, early": _script(says(get(_URL, *_UPGRADE) + b"\x81\x82"), hears(_SWITCHING, 20), Step(RESETS)),
    "WebSocket that is not to be": _script(says(get(_URL, *_UPGRADE)), hears(OK), says(get()), hears(OK)),
    "a tunnel that is cut": _script(says(connect()), says(HELLO), Step(AMENDS, LATE), waits(2)),
    "a tunnel too late": _script(says(connect()), waits(1), Step(AMENDS, LATE), waits(4), of="slow origin"),
    "a client that never reads": _script(Step(IS_DEAF), says(connect()), hears(_LONG * 3), waits(120)),
}
REFUSED: Final = {
    "client unknown": _refused(get(_URL, _COOKIE), home=NOBODY),
    "credential required": _refused(connect(f"{NAME}:443", _COOKIE), home=KNOWN),
    "credential of another": _refused(get(_URL, "Proxy-Authorization: Basic Ym9iOmJvYg=="), home=KNOWN),
    "malformed target": _refused(get(f"http://a:{SECRET}@example.com/")),
    "origin-form": _refused(get(f"/{SECRET}")),
    "port": _refused(get(f"http://example.com:25/{SECRET}")),
    "metadata name": _refused(get(f"http://metadata.google.internal/{SECRET}")),
    "denied name": _refused(get(f"http://denied.example/{SECRET}")),
    "reserved name": _refused(get(f"http://printer.local/{SECRET}")),
    "not on the list": _refused(connect("other.example:443"), home=LISTED),
    "metadata address": _refused(get(f"http://169.254.169.254/{SECRET}")),
    "private address": _refused(get(f"http://10.0.0.5/{SECRET}")),
    "a name that is private": _refused(get(_URL), of="private"),
    "a name that is private, uniformly": _refused(get(_URL), of="private", policy=UNIFORM),
    "mixed answer": _refused(connect(f"{NAME}:443"), of="mixed"),
    "metadata behind a name": _refused(get(_URL), of="metadata"),
    "metadata in the chain": _refused(get(_URL), of="chain"),
    "no head": _refused(b"\x16\x03\x01\x02\x00" + SECRET.encode() + b"\r\n\r\n"),
    "bare LF": _refused(get(_URL, _COOKIE).replace(b"\r\n", b"\n")),
    "two lengths": _refused(get(_URL, "Content-Length: 5", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n"),
    "too many fields": _refused(get(_URL, *(["a:"] * 257))),
    "half a head": _script(says(get(_URL, _COOKIE)[:-9]), waits(20)),
    "half a head, and the end": _script(says(get(_URL, _COOKIE)[:-9], 9), Step(ENDS)),
    "half a body": _script(says(_POST[:-9]), waits(200)),
    "a body that is none": _script(says(_IN_CHUNKS + b"5\r\nhello\r\nXYZ\r\n", 30)),
    "TRACE": _refused(get(_URL, _COOKIE, method="TRACE")),
    "expectation": _refused(get(_URL, f"Expect: {SECRET}", method="POST")),
    "version": _refused(get(_URL, version="1.2")),
    "coding": _refused(get(_URL, "Transfer-Encoding: gzip, chunked", method="POST")),
    "loop": _refused(get(_URL, f"Via: 1.1 {VIA}")),
    "too fast": _refused(get(_URL), of="too fast"),
    "too many": _refused(connect(), of="too many"),
    "busy": _refused(get(_URL), of="busy"),
    "one connection too many": _script(says(get(_URL)), ways=TURN_AWAY),
    "full disk": _refused(get(_URL), of="full disk"),
    "full disk, for a while": _script(says(get()), Step(TURNS), waits(1), says(get()), hears(OK), of="full disk"),
    "no name": _refused(get(_URL), of="no name"),
    "no nameserver": _refused(connect(), of="no nameserver"),
    "slow nameserver": _refused(connect(), of="slower nameserver"),
    "slow origin": _refused(connect(), of="slower origin"),
    "cut before the answer": _script(says(get()), Step(AMENDS, LATE), waits(2), says(get(_URL))),
    "origin garbage": _script(says(get()), hears(f"220 {SECRET} ESMTP\r\n\r\n".encode(), 9)),
    "origin asks for our credential": _script(says(get()), hears(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")),
    "origin switches unasked": _script(says(get()), hears(_SWITCHING)),
    "origin switches to another protocol": _script(
        says(get(_URL, *_UPGRADE)), hears(_SWITCHING.replace(b"websocket", b"h2c"))
    ),
    "origin ends": _script(says(get(_URL)), Step(ENDS.upper()), says(get(_URL))),
    "origin resets": _script(says(_POST), Step(RESETS.upper()), says(get(_URL))),
    "origin stalls": _script(says(get(_URL)), waits(120), hears(OK)),
    "origin stalls in the middle": _script(says(get(_URL)), hears(_LONG[:99]), waits(120)),
    "origin does not read": _script(
        says(get(_URL, "Content-Length: 9999", method="PUT")), Step(IS_DEAF.upper()), says(_LONG * 3), waits(250)
    ),
} | {
    f"dialling: {word}": _refused(get(_URL), of=word)
    for word in (
        *("connect_refused", "connect_unreachable", "connect_timeout", "egress_unavailable"),
        *("parent_unreachable", "parent_refused", "out_of_resources", "origin_closed"),
    )
}
LEFT: Final = {
    "nothing is said": _script(waits(99)),
    "nothing but an empty line": _script(says(b"\r\n"), waits(99)),
    "empty lines, which were taken for the end of a head": _script(says(b"\r\n\r\n")),
    "the end is announced": _script(says(get()), Step(DRAINS), hears(OK), says(get())),
    "the end is announced before": _script(Step(DRAINS), says(get()), hears(OK)),
    "reset in the head": _script(says(get(_URL)[:30]), Step(RESETS)),
    "reset in the body": _script(says(_POST[:-9]), Step(RESETS)),
    "reset before the answer": _script(says(get(_URL)), Step(RESETS), hears(OK)),
    "reset in the answer": _script(says(get(_URL)), hears(_LONG[:99]), Step(RESETS), hears(_LONG[99:])),
    "reset before the tunnel": _script(says(connect()), Step(RESETS), waits(5), of="slow nameserver"),
    "gone, and the origin is slow": _script(says(get(_URL)), Step(ENDS), waits(20)),
}
SEEDS: Final = SERVED | TUNNELS | REFUSED | LEFT
WORDS: Final = (
    MARK,
    *(MARK + kind.encode() + b"\0" for kind in KINDS),
    *(b"\r\n", b"\r\n\r\n", b"\n", b": ", b" HTTP/1.0\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    *(
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
    ),
    *(b"Connection: close\r\n", b"Connection: Upgrade\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n"),
    *(b"CONNECT ", b"GET ", b"HEAD ", b"OPTIONS ", b"POST ", b"http://", b"10.0.0.5", b"[::1]", b":443", b"localhost"),
    *(
        b"Proxy-Authorization: Basic " + CREDENTIAL + b"\r\n",
        b"Max-Forwards: 0\r\n",
        SECRET.encode(),
        _SWITCHING,
        OK,
        HELLO,
    ),
)
"""Of the language of scripts, of HTTP, and of what proxies are tried with."""
