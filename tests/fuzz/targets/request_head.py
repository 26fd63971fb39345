"""A client's octets, through `Wire`, `read_request` and `Forward`: refused, or one request of ours (ATTACKS 4, 5, 9).

Whatever arrives at an origin is exactly one request to h11, to llhttp and to a grammar of one spelling; its target,
Host, framing, Via and Connection are ours, and else it has the client's end-to-end fields and no other: nothing of one
hop, nothing named Proxy-…, so no credential, and nothing that vouches for anybody where that is left out. What is
accepted is what a second, strict reader has there, and llhttp, if it reads that at all. A body that breaks off never
looks complete. Behind a CONNECT nothing is lost or doubled. The same octets in other pieces come to the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import h11
import trio
from hypothesis import strategies as st

from proxyd.http.credential import shown_credential
from proxyd.http.fields import host_field, trailers
from proxyd.http.framing import Malformed
from proxyd.http.request import known_method, read_request
from proxyd.net.wire import Wire
from proxyd.serve.forward import Failed
from tests.adversarial import ambiguities
from tests.adversarial.clear_requests import CLEAR
from tests.adversarial.other_parsers.answers import Answer, read_by_h11
from tests.fuzz.by_the_book import requests_by_the_book
from tests.fuzz.scripted import Listener, Script, at_once, cut, forwarding
from tests.fuzz.strict import Fields, requests_by_llhttp, says_nothing, strict_head, values
from tests.fuzz.target import Target
from tests.http.raw_heads import VIA

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from proxyd.http.request import Asked
    from proxyd.policy.verdict import Reason
    from tests.fuzz.by_the_book import Message

_WHO_SPEAKS: Final = ("http.framing", "http.request", "http.credential", "http.fields", "policy.address", "net.wire")
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
_END_OF_HEAD: Final = b"\r\n\r\n"
_ONE_HOP: Final = {b"connection", b"keep-alive", b"te", b"upgrade", b"host"}  # RFC 9110 §7.6.1, and ours
_STAYS: Final = {b"host", b"content-length", b"transfer-encoding", b"via"}
_IDENTITY: Final = ("x-secret",)
_VOUCHING: Final = re.compile(  # MISSION: "identity and forwarding headers are dropped", in any spelling that CGI folds
    rb"forwarded|x-secret|x[^a-z0-9]forwarded.*|x[^a-z0-9](?:real|client)[^a-z0-9]ip|x[^a-z0-9]remote[^a-z0-9]user|remote[^a-z0-9]user"
)
LONGEST: Final = 2048
_CUT: Final = 0x7F  # the first octet: how large the pieces are, and whether identity is left out
_PRIVATE: Final = 0x80


@dataclass(frozen=True)
class Heard:
    """What became of a request. body: what passed of it, without its framing, or what came behind a CONNECT."""

    came_to: str
    reason: Reason | None = None
    asked: Asked | None = None
    method: str = ""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()


def _attempt(data: bytes) -> str:
    how, octets = (data[0] if data else 1), data[1:]
    without = _IDENTITY if how & _PRIVATE else None
    whole = _hear([octets], partial(_forwarded, without=without))
    _stands_there(whole, requests_by_the_book(octets))
    _reads_alike_elsewhere(whole, octets)
    pieces = _hear(cut(octets, how & _CUT), partial(_received, without=without))
    for one, other in zip_longest(whole, pieces):
        assert _same(one, other), f"cut, it comes to {other}, else to {one}"
    return "several" if len(whole) > 1 else whole[0].came_to if whole else "nothing"


def _same(one: Heard | None, other: Heard | None) -> bool:
    """Of a body that breaks off more may have passed, or less."""
    if one is None or other is None or one.came_to != "broken off":
        return one == other
    longer = max(one.body, other.body, key=len)
    return replace(one, body=b"") == replace(other, body=b"") and longer.startswith((one.body, other.body))


def _hear(pieces: list[bytes], carry: Callable[[Wire, h11.Request, Heard], Heard]) -> list[Heard]:
    """One connection, request by request, as a session serves it."""
    stream = Script(pieces)
    client = Wire(stream, h11.SERVER)
    heard: list[Heard] = []
    while at_once(client.wait()):
        heard.append(_exchange(client, stream, carry))
        if not client.reusable:
            break
        client.next_exchange()
    methods = [each.method for each in heard if each.came_to == "forwarded"]
    answers = [Answer(200, b"" if method == "HEAD" else b"hi", complete=True) for method in methods]
    assert read_by_h11(bytes(stream.sent), methods) == answers
    if heard and heard[-1].came_to == "tunnel":
        assert b"".join(pieces).endswith(_END_OF_HEAD + heard[-1].body), "something is lost or doubled"
    return heard


def _exchange(client: Wire, stream: Script, carry: Callable[[Wire, h11.Request, Heard], Heard]) -> Heard:
    try:
        request = at_once(client.receive_head())
        assert isinstance(request, h11.Request)
        asked = read_request(request, VIA)
        shown_credential(request.headers)
    except Malformed as malformed:
        says_nothing(malformed, *(f"proxyd.{module}" for module in _WHO_SPEAKS))
        return Heard("refused", malformed.reason)
    assert re.fullmatch("[A-Z]{3,9}|other", known_method(request.method)), "it could be anything, in the log"
    heard = Heard("forwarded", None, asked, request.method.decode(), tuple(request.headers))
    if asked.scheme == "connect":
        return replace(heard, came_to="tunnel", body=client.leave_http() + b"".join(stream.pieces))
    if asked.answer_here:
        return replace(heard, came_to="answered here")
    return carry(client, request, heard)


def _received(client: Wire, request: h11.Request, heard: Heard, *, without: Collection[str] | None) -> Heard:
    """The rest of a request as it is carried up, and the same answer, without a loop: for pieces."""
    body, passed = b"", Fields()
    try:
        while client.receiving:
            event = at_once(client.receive())
            if isinstance(event, h11.Data):
                body += event.data
            else:
                passed = trailers(event, without_identity=without)
    except Malformed as malformed:
        says_nothing(malformed, *(f"proxyd.{module}" for module in _WHO_SPEAKS))
        return replace(heard, came_to="broken off", reason=malformed.reason, body=body)
    at_once(client.send(h11.Response(status_code=200, headers=[("Content-Length", "2")])))
    if request.method != b"HEAD":
        at_once(client.send(h11.Data(data=b"hi")))
    at_once(client.send(h11.EndOfMessage()))
    return replace(heard, body=body, trailers=tuple((name.lower(), value) for name, value in passed))


def _forwarded(client: Wire, request: h11.Request, heard: Heard, *, without: Collection[str] | None) -> Heard:
    """The rest of a request, as an origin gets it that was asked in so many words."""
    asked = heard.asked
    assert asked is not None
    keep = asked.repeatable and client.persistent
    origin = Listener(_ANSWER)
    forward = forwarding(client, Wire(origin, h11.CLIENT), request, asked, without=without, keep=keep)
    try:
        switched = trio.run(forward.run)
    except Failed as failed:
        assert not origin.asked.is_set(), "a body that breaks off looks complete"
        heard = replace(heard, came_to="broken off", reason=failed.reason, body=origin.body)
    else:
        assert origin.asked.is_set()
        assert not switched
        assert len(origin.body) == forward.flow.up
        _llhttp_reads_it_too(origin)
        _may_be_trailers(origin.trailers, without)
        heard = replace(heard, body=origin.body, trailers=tuple(origin.trailers))
    _is_ours(origin, request, asked, without, keep=keep)
    return heard


def _is_ours(
    origin: Listener, request: h11.Request, asked: Asked, without: Collection[str] | None, *, keep: bool
) -> None:
    line, fields, _ = strict_head(bytes(origin.sent))
    assert line == b"%s %s HTTP/1.1" % (request.method, asked.origin_form.encode())
    expected = _end_to_end(request)
    if without is not None:
        assert not any(_VOUCHING.fullmatch(name) for name, _ in fields)
        expected = [
            field for field in expected if field in fields
        ]  # what else is left out is fields' own tests' matter
    ends = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")] if asked.upgrade else [(b"connection", b"close")]
    via = (b"via", request.http_version + b" " + VIA.encode())
    assert fields == [
        (b"host", host_field(asked.destination)),
        *expected,
        via,
        *([] if keep and not asked.upgrade else ends),
    ]
    assert len(values(fields, b"content-length")) + len(values(fields, b"transfer-encoding")) <= 1


def _end_to_end(request: h11.Request) -> Fields:
    """What must pass, by RFC 9110 §7.6.1, §7.6.2, §8.6 and §10.1.1."""
    named = {
        option.strip().lower() for value in values(list(request.headers), b"connection") for option in value.split(b",")
    }
    left = _ONE_HOP | (named - _STAYS) | ({b"expect"} if request.http_version == b"1.0" else set())
    passed = []
    for name, value in request.headers:
        if name in left or name.startswith(b"proxy-"):
            continue
        number = name == b"content-length" or (name == b"max-forwards" and request.method == b"OPTIONS")
        passed.append((name, b"%d" % (int(value) - (name == b"max-forwards")) if number else value))
    return passed


def _llhttp_reads_it_too(origin: Listener) -> None:
    """What we sent. A method that llhttp does not know is the end of it."""
    line, fields, _ = strict_head(bytes(origin.sent))
    read = requests_by_llhttp(bytes(origin.sent))
    if read and read[0].method:
        assert len(read) == 1
        assert read[0].complete
        assert (read[0].method + b" " + read[0].target + b" HTTP/1.1", read[0].fields) == (line, fields)
        assert read[0].body == origin.body


def _may_be_trailers(passed: Fields, without: Collection[str] | None) -> None:
    for name, _ in passed:
        assert name not in _ONE_HOP | _STAYS | {b"trailer", b"authorization", b"cookie", b"expect", b"max-forwards"}
        assert not name.startswith(b"proxy-")
        assert without is None or not _VOUCHING.fullmatch(name)


def _stands_there(heard: list[Heard], book: list[Message]) -> None:
    """What is accepted, and how much of it there is: no more and no less than a strict reader has."""
    accepted = [each for each in heard if each.came_to != "refused"]
    assert len(accepted) <= len(book), "there is no such request"
    for ours, theirs in zip(accepted, book, strict=False):
        assert ours.asked is not None
        assert theirs.start.decode().startswith(f"{ours.method} ")
        assert theirs.start.decode().endswith(ours.asked.origin_form[1:])
        coded = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in theirs.fields]
        assert list(ours.fields) == coded
        assert theirs.complete or ours.came_to == "broken off", "there is no end of it"
        if theirs.complete and ours.came_to == "broken off":  # h11 minds lengths and codings that are trailers
            assert {b"content-length", b"transfer-encoding"} & {name for name, _ in theirs.trailers}
        if ours.came_to != "tunnel":
            assert theirs.body.startswith(ours.body)
            assert len(theirs.body) == len(ours.body) or ours.came_to == "broken off"
        assert set(ours.trailers) <= set(theirs.trailers)


def _reads_alike_elsewhere(heard: list[Heard], octets: bytes) -> None:
    """llhttp, as long as it goes on, reads what the client sent as we do."""
    for ours, theirs in zip(heard, requests_by_llhttp(octets), strict=False):
        if not theirs.complete or theirs.last or ours.came_to not in ("forwarded", "broken off"):
            break
        assert ours.asked is not None
        if ours.came_to == "broken off":  # we are stricter: on chunk sizes of many digits, and long extensions
            assert theirs.body.startswith(ours.body)
            break
        assert theirs.method.decode() == ours.method
        assert theirs.target.decode().endswith(ours.asked.origin_form[1:])
        assert theirs.body == ours.body


def _of(text: str, how: int = 7) -> bytes:
    """An input: a connection's octets, "ORIGIN" in them for an authority."""
    return bytes([how]) + text.replace("CONNECT ORIGIN", "CONNECT ORIGIN:443").replace("ORIGIN", "example.com").encode(
        "latin-1"
    )


_GET: Final = "GET http://ORIGIN/ HTTP/1.1\r\nHost: x\r\n"
_CONNECT: Final = "CONNECT ORIGIN HTTP/1.1\r\nHost: x\r\n"
_ONE_OF_EACH: Final = (
    "Proxy-Authorization: Basic c2VjcmV0OnNlY3JldA==\r\nProxy-Connection: x\r\nConnection: keep-alive, X-Mine\r\n"
    "X-Mine: a\r\nKeep-Alive: a\r\nTE: trailers\r\nCookie: a\r\nX_Forwarded-User: a\r\nForwarded: a\r\nX-Secret: a\r\n"
)
_TRAILERS: Final = (
    "5\r\nhello\r\n0\r\nX: y\r\nProxy-X: a\r\nX-Forwarded-For: a\r\nCookie: a\r\nConnection: Z\r\nZ: a\r\n\r\n"
)

_lines = st.builds(
    "{} {} HTTP/{}".format,
    st.sampled_from(["GET", "GET", "POST", "HEAD", "OPTIONS", "CONNECT", "x"]),
    st.sampled_from(["http://example.com/a?b", "http://example.com", "http://[::1]:8/", "example.com:443", "/"]),
    st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0"]),
)
_framings = st.sampled_from(
    [
        *(
            ("", ""),
            ("", ""),
            ("Content-Length: 5", "hello"),
            ("Content-Length: 005", "hello"),
            ("Content-Length: 5", "hel"),
        ),
        *(
            ("Transfer-Encoding: chunked", body)
            for body in ("5;a\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n", "1\r\na\r\n0\r\n", _TRAILERS)
        ),
        *((line, "0\r\n\r\n") for line in ambiguities.BROKEN_CODINGS[:20]),
        *((line, "hello") for line in ambiguities.LENGTHS[:20]),
    ]
)
_fields = st.one_of(
    st.sampled_from(_ONE_OF_EACH.split("\r\n")),
    st.sampled_from(
        ["Connection: close", "Connection: upgrade\r\nUpgrade: websocket", "Expect: 100-continue", "Max-Forwards: 1"]
    ),
    st.sampled_from(ambiguities.LINES),
    st.builds(
        "{}: {}".format,
        st.from_regex("[a-zA-Z!_-]{1,8}", fullmatch=True),
        st.text(st.characters(max_codepoint=255), max_size=8),
    ),
)
_messages = st.builds(
    lambda line, fields, framing: "\r\n".join((line, "Host: x", *fields, *filter(None, framing[:1]), "", framing[1])),
    _lines,
    st.lists(_fields, max_size=3),
    _framings,
)

TARGET: Final = Target(
    attempt=_attempt,
    about=("proxyd.http.framing", "proxyd.http.request", "proxyd.http.fields", "proxyd.net.wire"),
    seeds={f"clear: {name}": _of(clear.sent) for name, clear in CLEAR.items()}
    | {f"head: {name}": _of(sent) for name, (sent, _) in ambiguities.HEADS.items() if len(sent) < LONGEST}
    | {
        f"chunks: {name}": _of(ambiguities.CHUNKED + body)
        for name, (body, _) in ambiguities.CHUNKS.items()
        if len(body) < LONGEST
    }
    | {f"unfinished: {name}": _of(sent, 1) for name, (sent, _) in ambiguities.UNFINISHED.items()}
    | {
        "nothing": b"",
        "tunnel": _of(f"{_CONNECT}\r\n"),
        "tunnel, early octets": _of(f"{_CONNECT}\r\n\x16\x03\x01\r\n\r\n"),
        "answered here": _of("OPTIONS http://ORIGIN HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n\r\n"),
        "one of each": _of(f"{_GET}{_ONE_OF_EACH}\r\n"),
        "one of each, private": _of(f"{_GET}{_ONE_OF_EACH}\r\n", 0x80),
        "trailers": _of(ambiguities.CHUNKED + _TRAILERS),
        "trailers, private": _of(ambiguities.CHUNKED + _TRAILERS, 0x83),
        "spelt otherwise": _of(
            f"{_GET}proxy-authorization: a\r\nPROXY-X: a\r\npRoXy-CoNNection: a\r\ncONNECTION: x\r\n\r\n"
        ),
        "folded": _of(f"{_GET}X: a\r\n b\r\n\r\n"),
        "bare LF": _of(f"{_GET}X: a\nContent-Length: 5\r\n\r\nhello"),
        "bare CR": _of(f"{_GET}X: a\rContent-Length: 5\r\n\r\nhello"),
        "length and coding": _of(f"{_GET}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "control": _of(f"{_GET}X: \x1b[2J\r\n\r\n"),
        "two": _of(f"{_GET}\r\n" * 2),
        "two, the first with a body": _of(f"{_GET}Content-Length: 2\r\n\r\nhi{_CONNECT}\r\n"),
        "HEAD": _of(f"HEAD{_GET[3:]}\r\n"),
        "two credentials": _of(f"{_GET}Proxy-Authorization: a\r\nProxy-Authorization: b\r\n\r\n"),
        "a loop": _of(f"{_GET}Via: 1.1 x, 1.0 {VIA}\r\n\r\n"),
        "many members": _of(f"{_GET}Connection: {',' * 300}\r\n\r\n"),
    },
    inputs=st.builds(
        lambda how, messages: _of("".join(messages), how),
        st.integers(0, 255),
        st.lists(_messages, min_size=1, max_size=2),
    ),
    outcomes=frozenset({"nothing", "refused", "broken off", "forwarded", "several", "tunnel", "answered here"}),
    longest=LONGEST,
    words=(
        *(
            b"\r\n",
            b"\r\n\r\n",
            b"Content-Length: ",
            b"Transfer-Encoding: chunked",
            b"Connection: ",
            b"Upgrade: websocket",
        ),
        *(
            b"Proxy-Authorization: ",
            b"Host: ",
            b"http://example.com/",
            b"HTTP/1.0",
            b"0\r\n\r\n",
            b"CONNECT a:443 HTTP/1.1",
        ),
        *(b"Max-Forwards: 0", b"Expect: 100-continue", b"Via: ", b"X-Forwarded-For: "),
    ),
)
