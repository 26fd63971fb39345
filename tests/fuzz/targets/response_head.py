"""An origin's octets, through `Wire` and `Forward`: refused, broken off, or one answer to the client (ATTACKS 5, R11).

What the client gets is, to h11, to llhttp and to a grammar of one spelling, the interim answers and the one final
answer that a second, strict reader finds in the origin's octets: same status, reason and body, its end-to-end fields
and no other, nothing named Proxy-… but what others say in Proxy-Status, where no member bears our name. HTTP/1.0 gets
no interim answer and no trailers. An answer that breaks off never looks complete to a client that could tell. Only a
connection on which all is said is kept. Behind a 101 nothing is lost. The same octets in other pieces come to the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import h11
import trio
from hypothesis import strategies as st

from proxyd.http.proxy_status import OUR_NAME
from proxyd.http.request import read_request
from proxyd.net.wire import Wire
from proxyd.policy.verdict import Reason
from proxyd.serve.forward import MOST_INTERIM, Failed
from tests.adversarial.ambiguous_answers import CUT, OTHER_SWITCHES, REFUSED, REFUSED_AFTER_INTERIM, TOLD
from tests.adversarial.other_parsers.answers import read_by_llhttp
from tests.fuzz.by_the_book import answer_by_the_book
from tests.fuzz.scripted import Script, at_once, cut, forwarding
from tests.fuzz.strict import Fields, ReadAnswer, answer_by_h11, head_of, strict_head, values
from tests.fuzz.target import Target
from tests.http.raw_heads import VIA

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from tests.fuzz.by_the_book import Message

LONGEST: Final = 2048
_SIZE: Final = 0x7F  # the first octet: how large the pieces are, and whether the origin resets the connection
_RESET: Final = 0x80
_CLIENTS: Final = (  # by the second octet
    b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HEAD http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/ HTTP/1.0\r\n\r\n",
    b"HEAD http://a/ HTTP/1.0\r\n\r\n",
    b"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
)
_ONE_HOP: Final = {b"connection", b"keep-alive", b"te", b"upgrade"}  # RFC 9110 §7.6.1
_STAYS: Final = {b"host", b"content-length", b"transfer-encoding", b"via"}
_FRAMING: Final = {b"transfer-encoding", b"content-length"}
_NO_TRAILER: Final = _ONE_HOP | _STAYS | {b"set-cookie", b"location", b"content-type", b"trailer", b"www-authenticate"}
_WEBSOCKET: Final = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
_BALANCED: Final = re.compile(rb'(?:"(?:[^"\\]|\\.)*"|[^"])*')
_MEMBER: Final = re.compile(rb'(?:"(?:[^"\\]|\\.)*"|[^",])+')  # of a list of RFC 8941
_LONGEST_STATUS: Final = 2048
_SWITCHING: Final = 101


@dataclass(frozen=True)
class Answered:
    """What became of an exchange, and what the client got of it. behind: what came behind a 101."""

    came_to: str
    reason: Reason | None
    sent: bytes
    read: ReadAnswer
    behind: bytes = b""


def _attempt(data: bytes) -> str:
    how, who, octets = (*data[:2], data[2:]) if len(data) > 1 else (1, 0, b"")
    asking = _CLIENTS[who % len(_CLIENTS)]
    whole, pieces = trio.run(_both, asking, ([octets], cut(octets, how & _SIZE)), "reset" if how & _RESET else "end")
    _comes_to_the_same(whole, pieces)
    book = answer_by_the_book(octets, asking.split()[0], ends=not how & _RESET)
    at = _interim_is_sent_well(whole, book, asking)
    if whole.came_to == "switched":
        assert octets.endswith(b"\r\n\r\n" + whole.behind), "something is lost or doubled"
        assert whole.read.interim[-1].status_code == _SWITCHING
        assert b"websocket" in asking
        granted = {each.strip().lower() for value in values(book[-1].fields, b"upgrade") for each in value.split(b",")}
        assert granted - {b""} == {b"websocket"}, "it switches to something else"
    if whole.came_to in ("refused", "switched"):
        assert len(whole.sent) == at
        return whole.came_to
    assert len(book) > len([each for each in book if each.start[:1] == b"1"]), "there is no such answer"
    _final_is_sent_well(whole, book[-1], asking, at)
    if whole.came_to == "kept":
        assert book[-1].end == len(octets), "kept, with something behind the answer"
    if whole.came_to in ("kept", "answered") and asking.startswith(b"GET"):
        _is_the_same_to_llhttp(whole, octets)
    return whole.came_to


async def _both(asking: bytes, ways: tuple[list[bytes], list[bytes]], then: Literal["end", "reset"]) -> list[Answered]:
    return [await _tell(asking, Script(pieces, then)) for pieces in ways]


async def _tell(asking: bytes, stream: Script) -> Answered:
    """Carry an exchange in which the origin sends this, as the session does."""
    silent = Script([], "silence")
    client, origin = Wire(silent, h11.SERVER, asking), Wire(stream, h11.CLIENT)
    request = at_once(client.receive_head())
    assert isinstance(request, h11.Request)
    asked = read_request(request, VIA)
    keep = asked.repeatable and client.persistent
    forward = forwarding(client, origin, request, asked, without=None, keep=keep)
    try:
        switched = await forward.run()
    except Failed as failed:
        assert failed.reason in (Reason.ORIGIN_MALFORMED, Reason.ORIGIN_CLOSED)  # noqa: PT017 - no test
        assert client.can_respond or client.torn
        came_to = "refused" if client.can_respond else "broken off"
        read = answer_by_h11(bytes(silent.sent), asking, ends=True)
        return Answered(came_to, failed.reason, bytes(silent.sent), read)
    read = answer_by_h11(bytes(silent.sent), asking, ends=not client.reusable)
    if switched:
        assert client.leave_http() == b""
        return Answered("switched", None, bytes(silent.sent), read, origin.leave_http() + b"".join(stream.pieces))
    assert read.complete
    assert len(read.body) == forward.flow.down
    kept = keep and origin.reusable
    if kept:
        origin.next_exchange()
        kept = not origin.has_more
    return Answered("kept" if kept else "answered", None, bytes(silent.sent), read)


def _comes_to_the_same(whole: Answered, pieces: Answered) -> None:
    """What is malformed may be seen before the head has gone, or later; what is behind an answer, never at all."""
    assert whole.reason == pieces.reason, f"cut, {pieces}, else {whole}"
    one, other = whole.read, pieces.read
    assert [head_of(each) for each in one.interim] == [head_of(each) for each in other.interim]
    if whole.reason is None:
        same = replace(one, left=b"", interim=[], final=None) == replace(other, left=b"", interim=[], final=None)
        assert same, f"cut, {pieces}, else {whole}"
        assert whole.behind == pieces.behind
    if one.final is not None and other.final is not None:
        assert head_of(one.final) == head_of(other.final)
        longer = max(one.body, other.body, key=len)
        assert longer.startswith((one.body, other.body))


def _interim_is_sent_well(whole: Answered, book: list[Message], asking: bytes) -> int:
    """Interim answers, octet for octet and field for field; where they end."""
    interims, at = whole.read.interim, 0
    assert len(interims) <= (MOST_INTERIM if b"HTTP/1.1" in asking else 0)
    assert len(interims) <= len(book)
    for interim, theirs in zip(interims, book, strict=False):
        at += _is_spelt_well(whole.sent[at:], interim, theirs)
        expected = [each for each in _end_to_end(theirs) if each[0] not in _FRAMING]
        _has(list(interim.headers), expected + (_WEBSOCKET if interim.status_code == _SWITCHING else []))
    return at


def _final_is_sent_well(whole: Answered, theirs: Message, asking: bytes, at: int) -> None:
    """The final answer, complete or not."""
    read = whole.read
    assert read.final is not None
    _is_spelt_well(whole.sent[at:], read.final, theirs)
    fields = list(read.final.headers)
    _has(fields, _final_fields(theirs, asking))
    assert theirs.body.startswith(read.body)
    if whole.came_to == "broken off":
        sized = values(fields, b"content-length") or values(fields, b"transfer-encoding")
        assert not (sized and read.complete), "an answer that breaks off looks complete"
        assert not theirs.complete or _FRAMING & {name for name, _ in theirs.trailers}
        return
    assert (read.body, read.complete, read.left) == (theirs.body, theirs.complete, b"")
    assert not read.trailers or b"HTTP/1.1" in asking
    for name, value in read.trailers:
        assert (name, value) in theirs.trailers or name == b"proxy-status"
        assert name not in _NO_TRAILER
        assert not name.startswith(b"proxy-") or name == b"proxy-status"
    _nobody_speaks_for_us(values(read.trailers, b"proxy-status"))


def _is_spelt_well(octets: bytes, head: h11.Response | h11.InformationalResponse, theirs: Message) -> int:
    """Where the head ends, which says what theirs says."""
    line, fields, end = strict_head(octets)
    assert line == b"HTTP/1.1 %d %s" % (head.status_code, head.reason) == b"HTTP/1.1 " + theirs.start
    assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", line)
    assert fields == list(head.headers)
    return end


def _end_to_end(theirs: Message) -> Fields:
    fields = theirs.fields
    named = {option.strip().lower() for value in values(fields, b"connection") for option in value.split(b",")}
    left = _ONE_HOP | (named - _STAYS)
    return [
        (name, b"%d" % int(value) if name == b"content-length" else value)
        for name, value in fields
        if name not in left and (not name.startswith(b"proxy-") or name == b"proxy-status")
    ]


def _final_fields(theirs: Message, asking: bytes) -> Fields:
    """What the client has to get: the origin's, Via, and the framing that it understands."""
    dropped = _FRAMING if theirs.start[:3] == b"204" else {b"transfer-encoding"}
    fields = [each for each in _end_to_end(theirs) if each[0] not in dropped]
    fields.append((b"via", theirs.version + b" " + VIA.encode()))
    sized = bool(values(fields, b"content-length")) or theirs.start[:3] in (b"204", b"304")
    if b"HTTP/1.1" in asking and not sized:
        fields.append((b"transfer-encoding", b"chunked"))
    if b"HTTP/1.0" in asking or b"close" in asking:
        fields.append((b"connection", b"close"))
    return fields


def _has(fields: Fields, expected: Fields) -> None:
    """These fields and no other; of Proxy-Status, what others say."""
    other, of_theirs = ([each for each in some if each[0] != b"proxy-status"] for some in (fields, expected))
    assert other == sorted(of_theirs, key=lambda each: each[0] != b"host"), "h11 sends Host first, whoever has it"
    said, kept = values(expected, b"proxy-status"), _nobody_speaks_for_us(values(fields, b"proxy-status"))
    legible = _members(value for value in said if _BALANCED.fullmatch(value) and len(value) <= _LONGEST_STATUS)
    assert [member for member in legible if member in kept] == kept
    assert all(member in kept for member in legible if OUR_NAME.encode() not in member.partition(b";")[0].lower())


def _nobody_speaks_for_us(said: list[bytes]) -> list[bytes]:
    """The members, read as one list, as a client may."""
    members = _members([b", ".join(said)])
    for member in members:
        name = member.partition(b";")[0].strip(b' \t"')
        assert name.lower() != OUR_NAME.encode(), f"an origin says {member!r}"
    return members


def _members(said: Iterable[bytes]) -> list[bytes]:
    return [stripped for value in said for member in _MEMBER.findall(value) if (stripped := member.strip(b" \t"))]


def _is_the_same_to_llhttp(whole: Answered, octets: bytes) -> None:
    """What we sent, and, where llhttp reads it to its end, what the origin sent."""
    assert whole.read.final is not None
    (ours,) = read_by_llhttp(whole.sent)
    assert (ours.status, ours.body) == (whole.read.final.status_code, whole.read.body)
    assert ours.complete or not whole.read.ended
    theirs = read_by_llhttp(octets)
    if theirs and theirs[0].complete:
        assert (theirs[0].status, theirs[0].body) == (ours.status, ours.body)


def _of(text: str, how: int = 7, who: int = 0) -> bytes:
    """An input: an origin's octets, in what pieces, and who asked."""
    return bytes([how, who]) + text.replace("ORIGIN", "a").encode("latin-1")


_OK: Final = "HTTP/1.1 200 OK\r\n"
_HELLO: Final = "5\r\nhello\r\n0\r\n"
_STATUS: Final = (
    "Proxy-Status: proxyd; error=destination_ip_prohibited\r\n"
    'Proxy-Status: other; details="a, proxyd; \\"", "proxyd";error=x , PROXYD ;a, last\r\n'
    'proxy-status: other; details="no end\r\nProxy-Status:\r\n'
)
_ONE_OF_EACH: Final = (
    f"Connection: X-Mine, Content-Length\r\nX-Mine: a\r\nKeep-Alive: a\r\nUpgrade: h2c\r\n{_STATUS}"
    "Proxy-Authenticate: Basic\r\nProxy-Connection: close\r\nSet-Cookie: a\r\nVia: 1.0 x\r\n"
)
_101: Final = "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"

_seeds_of_others: Final = {
    **{
        f"told: {name}": _of(told.sent, 7, 2 if told.method == "HEAD" else 1 if told.fields else 0)
        for name, told in TOLD.items()
    },
    **{f"refused: {name}": _of(sent) for name, sent in list(REFUSED.items())[::4]},
    **{f"refused late: {name}": _of(sent) for name, (sent, _) in REFUSED_AFTER_INTERIM.items()},
    **{f"other switch: {name}": _of(sent, 7, 1) for name, sent in OTHER_SWITCHES.items()},
    **{f"cut: {name}": _of(sent, 0x87 if then == "reset" else 7) for name, (sent, _, then) in list(CUT.items())[::3]},
}
_lines = st.builds(
    "HTTP/{} {} {}".format,
    st.sampled_from(["1.1", "1.1", "1.1", "1.0", "1.2"]),
    st.sampled_from([200, 200, 200, 204, 304, 100, 103, 101, 407, 999]),
    st.sampled_from(["OK", "", "\xff\t"]),
)
_fields = st.one_of(
    st.sampled_from(_ONE_OF_EACH.split("\r\n")[:-1]),
    st.sampled_from(
        ["Connection: close", "Connection: upgrade\r\nUpgrade: websocket", "Transfer-Encoding: gzip", "X : a", "X:\n"]
    ),
    st.text(',;"\\ aproxyd', max_size=20).map("Proxy-Status: {}".format),
    st.builds(
        "{}: {}".format,
        st.from_regex("[a-zA-Z!_-]{1,8}", fullmatch=True),
        st.text(st.characters(max_codepoint=255), max_size=8),
    ),
)
_framings = st.sampled_from(
    [
        *(
            ("", ""),
            ("", "hello"),
            ("Content-Length: 5", "hello"),
            ("Content-Length: 05", "hel"),
            ("Content-Length: 0", ""),
        ),
        *(("Transfer-Encoding: chunked", f"{_HELLO}{trailers}\r\n") for trailers in ("", "X: y\r\n", _ONE_OF_EACH)),
        *(("Transfer-Encoding: chunked", body) for body in ("5;a\r\nhello\r\n", "5\nhello\r\n0\r\n\r\n", "0\r\n\r\n")),
    ]
)
_messages = st.builds(
    lambda line, fields, framing: "\r\n".join((line, *fields, *filter(None, framing[:1]), "", framing[1])),
    _lines,
    st.lists(_fields, max_size=3),
    _framings,
)

TARGET: Final = Target(
    attempt=_attempt,
    about=("proxyd.http.framing", "proxyd.http.fields", "proxyd.net.wire", "proxyd.serve.forward"),
    seeds={name: seed for name, seed in _seeds_of_others.items() if len(seed) <= LONGEST}
    | {
        "nothing": b"",
        "one of each": _of(f"{_OK}{_ONE_OF_EACH}Content-Length: 5\r\n\r\nhello"),
        "one of each in trailers": _of(f"{_OK}Transfer-Encoding: chunked\r\n\r\n{_HELLO}X: y\r\n{_ONE_OF_EACH}\r\n"),
        "one of each, interim": _of(f"HTTP/1.1 103 X\r\n{_ONE_OF_EACH}\r\n{_OK}Content-Length: 0\r\n\r\n"),
        "empty lines before heads": _of(f"\r\nHTTP/1.1 103 X\r\n\r\n\r\n{_OK}Content-Length: 0\r\n\r\n"),
        "Host": _of(f"{_OK}X: a\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
        "control": _of(f"{_OK}X: \x1b[2J\r\nContent-Length: 0\r\n\r\n"),
        "folded": _of(f"{_OK}X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        "bare LF": _of(f"{_OK}X: a\nY: b\r\nContent-Length: 0\r\n\r\n"),
        "something behind it": _of(f"{_OK}Content-Length: 0\r\n\r\n{_OK}\r\n"),
        "something behind chunks": _of(f"{_OK}Transfer-Encoding: chunked\r\n\r\n{_HELLO}\r\n{_OK}\r\n"),
        "switched, twice": _of(f"{_101}{_101}", 7, 1),
        "switched": _of(_101, 7, 1),
        "switched, early octets": _of(f"{_101}\x81\x02hi\r\n\r\n", 7, 1),
    }
    | {
        f"{name}, for client {who}": _of(sent, 3, who)
        for who in range(len(_CLIENTS))
        for name, sent in {
            "length": f"{_OK}Content-Length: 5\r\n\r\nhello",
            "chunks": f"HTTP/1.1 103 X\r\n\r\n{_OK}Transfer-Encoding: chunked\r\n\r\n{_HELLO}X: y\r\n\r\n",
            "no length": f"{_OK}\r\nhello",
            "half a length": f"{_OK}Content-Length: 5\r\n\r\nhel",
            "half of chunks": f"{_OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello",
        }.items()
    },
    inputs=st.builds(
        lambda how, who, messages: _of("".join(messages), how, who),
        st.integers(0, 255),
        st.integers(0, len(_CLIENTS) - 1),
        st.lists(_messages, min_size=1, max_size=2),
    ),
    outcomes=frozenset({"refused", "broken off", "answered", "kept", "switched"}),
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
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.0",
            b"HTTP/1.1 101 X\r\n",
            b"HTTP/1.1 103 X\r\n\r\n",
            b"204",
            b"304",
            b"0\r\n\r\n",
        ),
        *(b"Proxy-Status: ", b"proxyd", b'"', b"\\"),
    ),
)
