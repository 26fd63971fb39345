"""`Desk`: whoever asks the admin listener anything is answered one of a few texts, or nothing (R2, R7, ATTACKS 7.1, 8).

No octet of an answer comes from the one who asks, so no token is echoed. On loopback only who shows the token sees more
than 401, as another reader finds it in the request; whatever comes is no bug, and cut anywhere it is answered the same.
"""

from __future__ import annotations

import re
import select
import socket
import struct
from contextlib import ExitStack, suppress
from functools import partial
from http import HTTPStatus
from typing import Final

from hypothesis import strategies as st

from proxyd.serve.admin import Desk, Page
from tests.fuzz.target import Target
from tests.serve.reception import SHOWN, TOKEN, get
from tests.serve.test_admin import WRONG

PAGES: Final = {"/page": Page(b"here\n"), "/ill": Page(b"ill\n", "text/ill", HTTPStatus.SERVICE_UNAVAILABLE)}
REFUSALS: Final = (400, 401, 404, 405, 431, 501)
_HANG_UP: Final = struct.pack("ii", 1, 0)  # for a reset: a port that has just been used is free at once
_WHOLE: Final = 16384  # octets; h11 takes a longer head if it comes at once, and refuses it if it comes in pieces
_MOST_PIECES: Final = 64


def _texts() -> dict[bytes, str]:
    """Every answer there is -> what it is, as the standards spell it (RFC 9112 §4, RFC 9110 §11.6.1, §10.2.1)."""
    more = {401: "WWW-Authenticate: Bearer\r\n", 405: "Allow: GET, HEAD\r\n"}
    pages = [
        *PAGES.values(),
        *(Page(f"{each} {HTTPStatus(each).phrase}\n".encode(), status=HTTPStatus(each)) for each in REFUSALS),
    ]
    texts = {}
    for page in pages:
        first = f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\nContent-Type: {page.content_type}\r\n"
        second = f"Content-Length: {len(page.body)}\r\nCache-Control: no-store\r\n"
        asked, ends = more.get(page.status.value, ""), "Connection: close\r\n"
        for third in (ends + asked, asked + ends):  # to HTTP/1.0, h11 says last that the connection ends
            head = f"{first}{second}{third}\r\n".encode()
            texts[head + page.body] = str(page.status.value)
            texts[head] = f"{page.status.value} to HEAD"
    return texts


ANSWERS: Final = _texts()


def _attempt(data: bytes) -> str:
    """The first octet says which door it is, whether the caller ends in the end, and how long the pieces are."""
    how, request = data[0] if data else 0, data[1:]
    on_loopback, ends, size = bool(how & 1), bool(how & 2), how >> 2
    answer = _answered(on_loopback, [request], ends)
    if size and len(request) <= _WHOLE:
        size = max(size, len(request) // _MOST_PIECES)
        pieces = [request[at : at + size] for at in range(0, len(request), size)]
        assert _answered(on_loopback, pieces, ends) == answer, "cut, it is answered otherwise"
    if not answer:
        return "nothing"
    said = ANSWERS[answer]
    status = int(said[:3])
    method, _, rest = request.lstrip(b"\r\n").partition(b" ")
    assert (status in (400, 431, 501)) or said.endswith("HEAD") == (method == b"HEAD")
    if on_loopback and status in (200, 401, 404, 405, 503):
        assert (status != 401) == _shows_token(request), "who is heard does not show the token, or who shows it is not"
    if status in (200, 503):
        assert method in (b"GET", b"HEAD")
        assert rest.partition(b" ")[0].decode() in PAGES
    return said


def _answered(on_loopback: bool, pieces: list[bytes], ends: bool) -> bytes:  # noqa: FBT001 - from an octet
    """What a caller gets who says this; every connection is done with afterwards."""
    complaints: list[str] = []
    with ExitStack() as stack:
        listener = socket.socket(socket.AF_INET if on_loopback else socket.AF_UNIX)
        listener.bind(("127.0.0.1", 0) if on_loopback else "")
        listener.listen()
        desk = Desk(listener, lambda: TOKEN, {path: partial(_page, path) for path in PAGES}, complaints.append)
        stack.callback(desk.close)
        caller = stack.enter_context(socket.socket(listener.family))
        caller.connect(listener.getsockname())
        if on_loopback:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HANG_UP)
        answer = _told(caller, desk, pieces, ends)
    assert complaints == []
    return answer


def _page(path: str) -> Page:
    return PAGES[path]


def _told(caller: socket.socket, desk: Desk, pieces: list[bytes], ends: bool) -> bytes:  # noqa: FBT001 - as above
    caller.settimeout(0)
    answer, over = b"", False
    for number in range(len(pieces) + 1):
        with suppress(BrokenPipeError, ConnectionResetError):
            if number < len(pieces):
                caller.sendall(pieces[number])
            elif ends:
                caller.shutdown(socket.SHUT_WR)
        turns = 0
        while select.select([desk], [], [], 0)[0]:
            desk.work()
            turns += 1
            assert turns < 8, "it is never done"
        with suppress(BlockingIOError, ConnectionResetError):
            answer = caller.recv(1 << 16)
            assert caller.recv(1) == b"", "more than one answer"
            over = True
        if over:
            break
    assert over == bool(answer) or (ends and over), "an answer, and the connection goes on"
    return answer


def _shows_token(request: bytes) -> bool:
    """Another reading: of RFC 9110 §11.4 and RFC 9112 §5, and no more."""
    head = re.split(rb"\r?\n\r?\n", request.lstrip(b"\r\n"), maxsplit=1)[0]
    fields = re.sub(rb"\r?\n[ \t]+", b" ", head).split(b"\n")[1:]
    shown = [each.strip() for each in fields if each.lower().startswith(b"authorization:")]
    return (
        len(shown) == 1 and re.fullmatch(rb"(?i:authorization:[ \t]*bearer) +" + TOKEN.encode(), shown[0]) is not None
    )


def _asks(request: bytes, how: int = 1) -> bytes:
    return bytes([how]) + request


def _with(*fields: str) -> bytes:
    return "\r\n".join(("GET /page HTTP/1.1", "Host: x", *fields, "", "")).encode("latin-1")


_SHOWN: Final = get("/page", SHOWN)
_SEEDS: Final = {
    "nothing": b"",
    "the token": _asks(_SHOWN, 0x0D),
    "the token, octet by octet": _asks(_SHOWN, 5),
    "the token, folded": _asks(get("/page", f"Authorization: Bearer\r\n  {TOKEN}")),
    "the token for a page that is ill": _asks(get("/ill", SHOWN, method="HEAD")),
    "the token for nothing": _asks(get(f"/{TOKEN}", SHOWN)),
    "the token with a body": _asks(get("/page", SHOWN, "Content-Length: 5") + b"hello"),
    "the token, twice over": _asks(_SHOWN * 2),
    "the token in HTTP/1.0": _asks(f"GET /page HTTP/1.0\r\n{SHOWN}\r\n\r\n".encode()),
    "no token in HTTP/1.0": _asks(b"GET /page HTTP/1.0\r\n\r\n"),
    "another method in HTTP/1.0": _asks(b"POST /page HTTP/1.0\r\n\r\n", 0),
    "the token behind a bare LF": _asks(_SHOWN.replace(b"\r", b"")),
    "the token to change something": _asks(get("/page", SHOWN, method="POST"), 0x0F),
    "a head": _asks(get("/page", SHOWN, method="HEAD")),
    "a page at a Unix socket": _asks(get("/page"), 0),
    "a head at a Unix socket": _asks(get("/page", method="HEAD"), 0x10),
    "an ill page at a Unix socket": _asks(get("/ill"), 0),
    "a head of nothing at a Unix socket": _asks(get("/nowhere", method="HEAD"), 0),
    "another method at a Unix socket": _asks(get("/page", method="DELETE"), 0),
    "half a request": _asks(_SHOWN[:-2]),
    "half a request and the end": _asks(_SHOWN[:-2], 3),
    "only the end": _asks(b"", 3),
    "no HTTP": _asks(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "a head that is too long": _asks(_with("X: " + "y" * (_WHOLE + 100))[:-2]),
    "a coding": _asks(get("/page", SHOWN, "Transfer-Encoding: gzip")),
    "chunked": _asks(get("/page", SHOWN, "Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    "an absolute form": _asks(get("http://127.0.0.1:9128/page", SHOWN)),
    "a tunnel": _asks(get("127.0.0.1:9128", SHOWN, method="CONNECT")),
    "two hosts": _asks(get("/page", SHOWN, "Host: y")),
    "no host": _asks(b"GET /page HTTP/1.1\r\n\r\n"),
    "an upgrade": _asks(get("/page", SHOWN, "Upgrade: websocket", "Connection: Upgrade")),
    "a head without a token": _asks(get("/page", method="HEAD")),
    **{f"a wrong token, {number}": _asks(_with(*fields)) for number, fields in enumerate(WRONG)},
}

_fields = st.one_of(
    st.sampled_from(
        [SHOWN, SHOWN.lower(), "Host: y", "Content-Length: 3", "Transfer-Encoding: chunked", "Expect: 100-continue"]
    ),
    st.sampled_from([field for fields in WRONG for field in fields]),
    st.text("Aabuthorizn: BeR-\t\x00\x7f\xe9,", max_size=30),
)
_requests = st.builds(
    lambda method, target, version, fields, end, body: (
        "\r\n".join((f"{method} {target} {version}", *fields, "", "")).encode("latin-1").replace(b"\r\n", end) + body
    ),
    st.sampled_from(["GET", "HEAD", "POST", "get", "CONNECT", "OPTIONS", "G\u00c9T"]),
    st.sampled_from([*PAGES, "/", "*", "/page?x", "//page", "http://x/page", "/%70age", "/\xe9"]),
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "HTTP/1.", ""]),
    st.lists(_fields, max_size=5).map(lambda fields: ["Host: x", *fields]),
    st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r"]),
    st.binary(max_size=20),
)

TARGET: Final = Target(
    attempt=_attempt,
    about=("proxyd.serve.admin",),
    seeds=_SEEDS,
    inputs=st.builds(_asks, _requests, st.integers(0, 255)),
    outcomes=frozenset(
        {
            *("nothing", "200", "400", "401", "404", "405", "431", "501", "503"),
            *(f"{each} to HEAD" for each in (200, 401, 404, 503)),
        }
    ),
    longest=_WHOLE + 300,
    words=(b"\r\n", b"Authorization: ", b"Bearer ", TOKEN.encode(), b"HTTP/1.1", b"Host: x", b"HEAD ", b"/page"),
)
