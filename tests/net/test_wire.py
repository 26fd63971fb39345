"""One side of HTTP/1.1: whatever the pieces it comes in, a message is read in one way or refused (ATTACKS 5, 8).

The stream is scripted: it hands over exactly the pieces that a test cut, and remembers what it was asked.
"""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from proxyd.http.framing import MAX_HEAD, Malformed
from proxyd.net import wire as wire_module
from proxyd.net.stream import TcpStream
from proxyd.net.wire import READ_SIZE, Wire
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from trio.testing import MockClock

GET: Final = b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n"
HEAD: Final = b"HEAD http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n"
LAST_GET: Final = b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"
OLD_GET: Final = b"GET http://example.com/ HTTP/1.0\r\n\r\n"
CONNECT: Final = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"
UPGRADE: Final = (
    b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)
POST: Final = b"POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\n"
CHUNKED: Final = b"POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_CONTENT: Final = h11.Response(status_code=204, headers=[])
EOF: Final = b""
"""As a piece: the peer's end."""


class Script(trio.abc.HalfCloseableStream):
    """A peer that sends these pieces, one for each time it is asked, and then nothing more, ever."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.reads = 0
        self.pause = 0.0  # before each piece
        self.sent = b""
        self.ended = False
        self.gone = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Hand over the next piece."""
        assert max_bytes == READ_SIZE
        await trio.lowlevel.checkpoint()
        self.reads += 1
        if self.gone:
            raise trio.BrokenResourceError
        await trio.sleep(self.pause)
        if not self.pieces:
            await trio.sleep_forever()
        return self.pieces.pop(0)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Take it down."""
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise trio.BrokenResourceError
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        """There is always room."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Remember it."""
        await self.send_all(b"")
        self.ended = True

    async def aclose(self) -> None:
        """Nothing to close."""
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def loopback() -> AsyncIterator[tuple[TcpStream, trio.SocketStream]]:
    """The two ends of a real TCP connection."""
    with trio.socket.socket() as listener, trio.socket.socket() as client:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        await client.connect(listener.getsockname())
        accepted, _ = await listener.accept()
        own = socket.socket(fileno=accepted.detach())
        own.setblocking(False)  # noqa: FBT003 - the only way to say it
        async with TcpStream(own) as ours, trio.SocketStream(client) as theirs:
            yield ours, theirs


def client_sends(*pieces: bytes) -> Wire:
    """The wire to a client that sends these pieces."""
    return Wire(Script(*pieces), h11.SERVER)


async def origin_sends(*pieces: bytes, method: str = "GET") -> Wire:
    """The wire to an origin that was asked and answers with these pieces."""
    wire = Wire(Script(*pieces), h11.CLIENT)
    await wire.send(h11.Request(method=method, target="/", headers=[("Host", "example.com")]))
    await wire.send(h11.EndOfMessage())
    return wire


def script(wire: Wire) -> Script:
    """The peer's side of a wire."""
    assert isinstance(wire.stream, Script)
    return wire.stream


def halves(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Every way to cut it in two."""
    return ((data[:at], data[at:]) for at in range(1, len(data)))


def octets(data: bytes) -> list[bytes]:
    """Each octet on its own."""
    return [data[at : at + 1] for at in range(len(data))]


async def head_of(*pieces: bytes) -> tuple[bytes, bytes, list[Any]] | Reason:
    """What is made of a request's head: method, target and fields, or why it is refused."""
    try:
        head = await client_sends(*pieces).receive_head()
    except Malformed as malformed:
        return malformed.reason
    assert isinstance(head, h11.Request)
    return head.method, head.target, list(head.headers)


async def body(wire: Wire) -> tuple[bytes, list[Any]]:
    """The rest of a message: its data, and its trailers."""
    data = b""
    while isinstance(event := await wire.receive(), h11.Data):
        data += event.data
    return data, list(event.headers)


async def refusal_of_body(wire: Wire) -> Reason:
    """Why a body cannot be read."""
    with pytest.raises(Malformed) as caught:
        await body(wire)
    return caught.value.reason


async def answer(wire: Wire, response: h11.Response = NO_CONTENT) -> None:
    """A whole response without a body."""
    await wire.send(response)
    await wire.send(h11.EndOfMessage())


# Heads

HEADS: Final = {
    "GET": GET,
    "POST": POST,
    "chunked": CHUNKED,
    "CONNECT": CONNECT,
    "HTTP/1.0": OLD_GET,
    "after an empty line": b"\r\n" + GET,
    "LF": GET.replace(b"\r\n", b"\n"),
    "one LF": GET.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"),
    "a bare CR": GET.replace(b"Host", b"a: b\rc\r\nHost"),
    "a fold": GET.replace(b"Host: ", b"Host:\r\n "),
    "NUL": GET.replace(b"Host: ", b"Host: \0"),
    "two lengths": POST.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"),
    "length and coding": CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"),
    "gzip": CHUNKED.replace(b"chunked", b"gzip"),
    "no Host": b"GET http://example.com/ HTTP/1.1\r\n\r\n",
    "two Hosts": GET.replace(b"\r\n\r\n", b"\r\nHost: example.org\r\n\r\n"),
    "no request line": b"\r\n\r\n\r\n",
    "a space before the colon": GET.replace(b"Host:", b"Host :"),
    "HTTP/0.9": b"GET http://example.com/\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
}
heads = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())


@heads
async def test_attack_5_a_head_is_read_in_one_way_wherever_it_is_cut(head: bytes) -> None:
    whole = await head_of(head)
    for pieces in halves(head):
        assert await head_of(*pieces, EOF) == whole, pieces


@heads
async def test_attack_8_a_head_is_read_in_one_way_octet_by_octet(head: bytes) -> None:
    assert await head_of(*octets(head), EOF) == await head_of(head)


@pytest.mark.parametrize("head", [GET, POST, CHUNKED, CONNECT, HEAD, UPGRADE, LAST_GET, OLD_GET])
async def test_a_head_is_method_target_and_fields(head: bytes) -> None:
    method, target, _ = head.split(b"\r\n")[0].split(b" ")
    fields = [tuple(line.split(b": ")) for line in head.split(b"\r\n")[1:-2]]
    assert await head_of(head) == (method, target, [(name.lower(), value) for name, value in fields])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("LF", Reason.MALFORMED_REQUEST),
        ("a fold", Reason.MALFORMED_REQUEST),
        ("length and coding", Reason.MALFORMED_REQUEST),
        ("gzip", Reason.CODING_UNSUPPORTED),
        ("no Host", Reason.MALFORMED_REQUEST),
        ("two Hosts", Reason.MALFORMED_REQUEST),
        ("no request line", Reason.MALFORMED_REQUEST),
        ("HTTP/0.9", Reason.MALFORMED_REQUEST),
        ("TLS", Reason.MALFORMED_REQUEST),
    ],
)
async def test_attack_5_what_could_be_read_in_two_ways_is_refused(name: str, reason: Reason) -> None:
    assert await head_of(HEADS[name]) is reason


async def test_attack_5_a_coding_that_only_h11_finds_unknown_is_called_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "check_head", lambda _: None)
    assert await head_of(CHUNKED.replace(b"chunked", b"gzip")) is Reason.CODING_UNSUPPORTED


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET http://example.com/ HTTP/1.1\n",
        b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\n",
        b"GET http://example.com/ HTTP/1.1\r\nHost:\r\n ",
        b"GET http://example.com/ HTTP/1.1\rH",
        b"GET \0",
        b"\n",
    ],
)
async def test_attack_8_a_head_that_is_wrong_already_is_not_waited_for(
    beginning: bytes, autojump_clock: MockClock
) -> None:
    for pieces in ((beginning,), octets(beginning)):
        with trio.fail_after(1):
            assert await head_of(*pieces) is Reason.MALFORMED_REQUEST
    assert autojump_clock.current_time() == 0


@pytest.mark.parametrize("beginning", [b"GET http://example.com/ HTTP/1.1\r", b"GET / HTTP/1.1\r\nA: b\r\n\r", b"\r"])
async def test_a_line_end_that_may_still_come_is_waited_for(beginning: bytes, autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await head_of(beginning)
    assert (scope.cancelled_caught, autojump_clock.current_time()) == (True, 1)


@pytest.mark.parametrize("at", range(len(GET)))
async def test_a_connection_that_ends_before_the_head_does_is_refused(at: int) -> None:
    assert await head_of(*([GET[:at]] if at else []), EOF) is Reason.MALFORMED_REQUEST


def long_head(size: int) -> bytes:
    """A head of this many octets, the empty line included."""
    start = GET.removesuffix(b"\r\n") + b"Long: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("cut", [None, 1, READ_SIZE // 4, MAX_HEAD - 3, MAX_HEAD])
async def test_attack_8_a_head_may_be_just_so_long(cut: int | None) -> None:
    for size, expected in ((MAX_HEAD, True), (MAX_HEAD + 1, False)):
        head = long_head(size)
        assert len(head) == size
        pieces = [head] if cut is None else [head[:cut], head[cut:]]
        said = await head_of(*pieces, EOF)
        assert (said is not Reason.HEAD_TOO_LARGE) is expected
        assert isinstance(said, tuple) is expected


@pytest.mark.parametrize("size", range(MAX_HEAD - 1, MAX_HEAD + 7))
async def test_attack_8_whether_a_head_is_too_long_does_not_depend_on_where_it_is_cut(size: int) -> None:
    head = long_head(size)
    whole = await head_of(head)
    for cut in range(MAX_HEAD - 5, size):
        assert await head_of(head[:cut], head[cut:], EOF) == whole, cut - size


async def test_attack_8_a_head_without_end_is_refused_before_it_fills_the_memory(autojump_clock: MockClock) -> None:
    wire = client_sends(*[b"x" * 1024] * 10_000)
    with pytest.raises(Malformed) as caught:
        await wire.receive_head()
    assert caught.value.reason is Reason.HEAD_TOO_LARGE
    assert script(wire).reads <= MAX_HEAD // 1024 + 2
    assert autojump_clock.current_time() == 0


async def test_attack_8_a_head_without_end_that_pauses_is_refused_as_soon_as_it_is_too_long(
    autojump_clock: MockClock,
) -> None:
    with trio.fail_after(1):
        assert await head_of(GET.removesuffix(b"\r\n") + b"Long: " + b"x" * MAX_HEAD) is Reason.HEAD_TOO_LARGE
    assert autojump_clock.current_time() == 0


async def test_a_body_right_behind_a_good_head_may_hold_anything() -> None:
    """Bare LF, NUL, a CR at its end: a body is octets."""
    wire = client_sends(POST + b"\n\0\r\n\r")
    await wire.receive_head()
    assert await body(wire) == (b"\n\0\r\n\r", [])


async def test_a_long_body_right_behind_a_good_head_does_not_count_as_head() -> None:
    size = MAX_HEAD * 2
    wire = client_sends(POST.replace(b": 5", b": %d" % size) + b"x" * size)
    await wire.receive_head()
    assert await body(wire) == (b"x" * size, [])


async def test_a_head_out_of_turn_is_refused() -> None:
    """Only `next_exchange` makes room for another."""
    wire = client_sends(GET + GET)
    await wire.receive_head()
    with pytest.raises(Malformed):
        await wire.receive_head()


async def test_a_peer_that_is_gone_is_a_broken_resource() -> None:
    wire = client_sends()
    script(wire).gone = True
    for broken in (wire.wait, wire.receive_head, wire.wait_for_eof):
        with pytest.raises(trio.BrokenResourceError):
            await broken()
    with pytest.raises(trio.BrokenResourceError):
        await wire.send(NO_CONTENT)


async def test_waiting_for_a_message_reads_no_more_than_it_must() -> None:
    wire = client_sends(GET, EOF)
    assert await wire.wait()
    assert await wire.wait()
    assert script(wire).reads == 1
    await wire.receive_head()
    assert not await wire.wait()


@pytest.mark.parametrize("nothing", [(b"\r\n",), (b"\r", b"\n"), (b"\r",), (b"\r\n\r",)])
async def test_attack_8_an_empty_line_begins_no_message(nothing: tuple[bytes, ...], autojump_clock: MockClock) -> None:
    """RFC 9112 §2.2: some clients send one behind a request; a record of a request that nobody made would be of it."""
    wire = client_sends(*nothing)
    with trio.move_on_after(60) as scope:
        await wire.wait()
    assert (scope.cancelled_caught, autojump_clock.current_time()) == (True, 60)
    assert not wire.has_head
    assert not await client_sends(*nothing, EOF).wait()


@pytest.mark.parametrize("behind", [b"G", b"\r\n", b"\n", b"\rG"])
async def test_attack_8_whatever_is_behind_the_empty_line_begins_a_message(behind: bytes) -> None:
    """Another one, too: who sends nothing else must not wait for ever."""
    for pieces in halves(b"\r\n" + behind):
        wire = client_sends(*pieces)
        assert await wire.wait()
        assert not wire.has_head


async def test_one_empty_line_before_each_message_is_ignored_however_it_is_waited_for() -> None:
    wire = client_sends(b"\r\n", GET + b"\r\n", GET + b"\r\n\r\n")
    for _ in range(2):
        assert await wire.wait()
        assert wire.has_head
        assert isinstance(await wire.receive_head(), h11.Request)
        await answer(wire)
        wire.next_exchange()
    assert await wire.wait()
    with trio.move_on_after(1) as scope:
        await wire.receive_head()
    assert scope.cancelled_caught


async def test_attack_5_what_is_behind_the_empty_line_that_was_ignored_is_a_head_or_none() -> None:
    for head in (b"\r\n\r\n", b"\r\n" + GET):
        wire = client_sends(b"\r\n", head)
        assert await wire.wait()
        assert wire.has_head, "nothing more is read"
        with pytest.raises(Malformed):
            await wire.receive_head()
        assert script(wire).reads == 2


async def test_the_version_is_the_peers() -> None:
    wire = client_sends(OLD_GET)
    assert wire.their_version == b"1.1"
    await wire.receive_head()
    assert wire.their_version == b"1.0"
    wire.next_exchange()
    assert wire.their_version == b"1.1"


# Bodies of requests

TRAILED: Final = b"2\r\nab\r\n3;x=y\r\ncde\r\n0\r\nCheck: sum\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "raw", "read"),
    [
        (POST, b"abcde", (b"abcde", [])),
        (POST.replace(b": 5", b": 0"), b"", (b"", [])),
        (CHUNKED, b"5\r\nabcde\r\n0\r\n\r\n", (b"abcde", [])),
        (CHUNKED, b"0\r\n\r\n", (b"", [])),
        (CHUNKED, TRAILED, (b"abcde", [(b"check", b"sum")])),
    ],
    ids=["length", "length 0", "chunked", "no chunk", "trailers"],
)
async def test_a_body_is_read_alike_wherever_it_is_cut(head: bytes, raw: bytes, read: tuple[bytes, list[Any]]) -> None:
    message = head + raw
    for pieces in ([message], octets(message), [head, raw] if raw else [head], *halves(message)):
        wire = client_sends(*pieces, GET)
        await wire.receive_head()
        if wire.receiving:
            assert await body(wire) == read
        assert not wire.receiving


@pytest.mark.parametrize(("head", "raw"), [(POST, b"abcde"), (CHUNKED, TRAILED)], ids=["length", "chunked"])
async def test_attack_5_a_body_that_breaks_off_is_refused(head: bytes, raw: bytes) -> None:
    for at in range(len(raw)):
        wire = client_sends(head + raw[:at], EOF)
        await wire.receive_head()
        assert await refusal_of_body(wire) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "raw",
    [
        b"-1\r\n",
        b"0x5\r\nabcde\r\n",
        b"5 \r\nabcde\r\n",
        b"ffffffffffffffff\r\n",
        b"5\nabcde\r\n0\r\n\r\n",
        b"5\r\nabcdeXX0\r\n\r\n",
        b"0\r\nCheck: sum\n\r\n",
        b"0\r\n\nGET",
        b"0\r\nno field\r\n\r\n",
    ],
)
async def test_attack_5_a_chunked_body_that_could_be_read_in_two_ways_is_refused(raw: bytes) -> None:
    for pieces in ((raw,), octets(raw)):
        wire = client_sends(CHUNKED, *pieces, EOF)
        await wire.receive_head()
        assert await refusal_of_body(wire) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("behind", [GET, EOF])
async def test_what_is_over_has_no_body(behind: bytes) -> None:
    wire = client_sends(GET, behind)
    await wire.receive_head()
    with pytest.raises(Malformed):
        await wire.receive()


async def test_bodies_are_handed_over_piece_by_piece() -> None:
    wire = client_sends(POST, b"ab", b"cde")
    await wire.receive_head()
    assert [await wire.receive() for _ in range(2)] == [h11.Data(data=b"ab"), h11.Data(data=b"cde")]
    assert script(wire).reads == 3


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(1, 400), max_size=8))
def test_attack_5_any_chunked_body_reads_alike_whatever_the_pieces(chunks: list[bytes], cuts: list[int]) -> None:
    raw = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n" + GET
    edges = [0, *sorted({cut for cut in cuts if cut < len(raw)}), len(raw)]
    pieces = [raw[start:end] for start, end in pairwise(edges)]

    async def main() -> None:
        wire = client_sends(*pieces)
        await wire.receive_head()
        assert await body(wire) == (b"".join(chunks), [])
        await answer(wire)
        wire.next_exchange()
        head = await wire.receive_head()
        assert isinstance(head, h11.Request)
        assert head.method == b"GET"

    trio.run(main)


# One message after the other


@pytest.mark.parametrize("first", [GET, POST + b"abcde", CHUNKED + TRAILED], ids=["GET", "POST", "chunked"])
async def test_attack_4_10_pipelined_requests_are_read_one_by_one_wherever_they_are_cut(first: bytes) -> None:
    for pieces in ([first + CONNECT], octets(first + CONNECT), *halves(first + CONNECT)):
        wire = client_sends(*pieces)
        await wire.receive_head()
        if wire.receiving:
            assert (await body(wire))[0] == b"abcde"
        assert not wire.reusable
        await answer(wire)
        assert wire.reusable
        wire.next_exchange()
        head = await wire.receive_head()
        assert isinstance(head, h11.Request)
        assert head.method == b"CONNECT"


async def test_a_body_that_was_scanned_leaves_no_scan_behind() -> None:
    wire = client_sends(CHUNKED + b"0\r\n\r\n" + POST + b"no chunk"[:5])
    await wire.receive_head()
    await body(wire)
    await answer(wire)
    wire.next_exchange()
    await wire.receive_head()
    assert await body(wire) == (b"no ch", [])


@pytest.mark.parametrize("behind", [b"", b"\x16\x03\x01"])
async def test_attack_4_10_early_bytes_are_those_behind_the_head(behind: bytes) -> None:
    for pieces in ([CONNECT + behind], [CONNECT[:-1], CONNECT[-1:] + behind]):
        wire = client_sends(*pieces)
        await wire.receive_head()
        assert wire.leave_http() == behind


async def test_early_bytes_that_came_while_we_waited_are_kept(autojump_clock: MockClock) -> None:
    wire = client_sends(CONNECT + b"ab", b"cd")
    await wire.receive_head()
    with trio.move_on_after(1):
        await wire.wait_for_eof()
    assert wire.leave_http() == b"abcd"
    assert autojump_clock.current_time() == 1


async def test_early_bytes_of_an_origin_that_switched() -> None:
    wire = Wire(Script(b"HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframe"), h11.CLIENT)
    fields = [("Host", "example.com"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
    await wire.send(h11.Request(method="GET", target="/", headers=fields))
    await wire.send(h11.EndOfMessage())
    head = await wire.receive_head()
    assert isinstance(head, h11.InformationalResponse)
    assert wire.leave_http() == b"frame"


# Responses


async def test_a_response_with_a_length() -> None:
    wire = await origin_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", b"de")
    head = await wire.receive_head()
    assert (type(head), wire.receiving) == (h11.Response, True)
    assert await body(wire) == (b"abcde", [])
    assert not wire.receiving


async def test_a_response_in_chunks() -> None:
    wire = await origin_sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + TRAILED)
    await wire.receive_head()
    assert await body(wire) == (b"abcde", [(b"check", b"sum")])


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_response_until_the_connection_ends(version: bytes) -> None:
    wire = await origin_sends(b"HTTP/%b 200 OK\r\n\r\nabc" % version, b"de", EOF)
    await wire.receive_head()
    assert await body(wire) == (b"abcde", [])
    assert not wire.receiving


@pytest.mark.parametrize(
    ("method", "response"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    ],
)
async def test_a_response_that_has_no_body_is_over_with_its_head(method: str, response: bytes) -> None:
    wire = await origin_sends(response, method=method)
    await wire.receive_head()
    assert await body(wire) == (b"", [])
    assert wire.reusable


async def test_interim_responses_come_before_the_final_one() -> None:
    wire = await origin_sends(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No\r\n\r\n")
    heads = [await wire.receive_head() for _ in range(3)]
    assert [getattr(head, "status_code", None) for head in heads] == [100, 103, 204]


async def test_a_coding_of_an_interim_response_is_not_that_of_the_final_one() -> None:
    interim = b"HTTP/1.1 103 Early\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = await origin_sends(interim + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n-1\r\nx")
    await wire.receive_head()
    await wire.receive_head()
    assert await body(wire) == (b"-1\r\nx", [])


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        GET,
    ],
)
async def test_attack_5_a_response_that_could_be_read_in_two_ways_is_refused(response: bytes) -> None:
    wire = await origin_sends(response)
    with pytest.raises(Malformed):
        await wire.receive_head()


async def test_attack_5_a_response_that_breaks_off_is_refused() -> None:
    wire = await origin_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", EOF)
    await wire.receive_head()
    assert await refusal_of_body(wire) is Reason.MALFORMED_REQUEST


# Sending


async def test_what_is_sent_is_what_h11_makes_of_it() -> None:
    wire = client_sends(GET)
    await wire.receive_head()
    await wire.send(h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")], reason="OK"))
    await wire.send(h11.Data(data=b"abc"))
    await wire.send(h11.EndOfMessage(headers=[("Check", "sum")]))
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nCheck: sum\r\n\r\n"
    assert script(wire).sent == said


async def test_what_may_not_be_sent_now_is_our_own_mistake() -> None:
    wire = client_sends(GET)
    await wire.receive_head()
    with pytest.raises(h11.LocalProtocolError):
        await wire.send(h11.Data(data=b"abc"))
    assert script(wire).sent == b""


# What may come next


@pytest.mark.parametrize(
    ("raw", "state"),
    [
        (GET, True),
        (GET + GET, True),
        (HEAD, True),
        (LAST_GET, False),
        (OLD_GET, False),
        (POST, False),
        (POST + b"abc", False),
        (CONNECT, True),
        (CONNECT + b"\x16", False),
        (UPGRADE, True),
        (UPGRADE + b"frame", False),
    ],
)
async def test_between_messages_behind_a_head(raw: bytes, state: bool) -> None:  # noqa: FBT001 - a table
    wire = client_sends(raw)
    assert not wire.between_messages, "nothing was said yet"
    await wire.receive_head()
    assert wire.between_messages is state


async def test_between_messages_behind_a_body() -> None:
    wire = client_sends(POST + b"abcde")
    await wire.receive_head()
    assert not wire.between_messages
    await body(wire)
    assert wire.between_messages


async def test_not_between_messages_behind_what_was_malformed() -> None:
    wire = client_sends(HEADS["no Host"])
    with pytest.raises(Malformed):
        await wire.receive_head()
    assert not wire.between_messages
    assert wire.can_respond


async def test_not_between_messages_behind_the_end() -> None:
    wire = client_sends(EOF)
    with pytest.raises(Malformed):
        await wire.receive()
    assert not wire.between_messages


@pytest.mark.parametrize(
    ("raw", "response", "reusable"),
    [
        (GET, NO_CONTENT, True),
        (GET + GET, NO_CONTENT, True),
        (LAST_GET, NO_CONTENT, False),
        (OLD_GET, NO_CONTENT, False),
        (GET, h11.Response(status_code=403, headers=[("Connection", "close"), ("Content-Length", "0")]), False),
        (POST, h11.Response(status_code=403, headers=[("Content-Length", "0")]), False),
        (CONNECT, h11.Response(status_code=403, headers=[("Content-Length", "0")]), True),
        (UPGRADE, h11.Response(status_code=403, headers=[("Content-Length", "0")]), True),
    ],
)
async def test_a_connection_can_be_used_again_when_both_messages_are_complete(
    raw: bytes,
    response: h11.Response,
    reusable: bool,  # noqa: FBT001 - a table
) -> None:
    wire = client_sends(raw)
    assert not wire.reusable
    await wire.receive_head()
    assert not wire.reusable
    await wire.send(response)
    assert not wire.reusable
    await wire.send(h11.EndOfMessage())
    assert wire.reusable is reusable


async def test_a_response_may_begin_until_one_has_begun() -> None:
    wire = client_sends(POST)
    assert wire.can_respond, "408 needs no request"
    await wire.receive_head()
    assert wire.can_respond
    await wire.send(h11.InformationalResponse(status_code=100, headers=[]))
    assert wire.can_respond
    await wire.send(NO_CONTENT)
    assert not wire.can_respond
    await wire.send(h11.EndOfMessage())
    assert not wire.can_respond


@pytest.mark.parametrize("raw", [CONNECT, CONNECT + b"\x16", UPGRADE, UPGRADE + b"frame"])
async def test_attack_4_14_no_response_may_begin_in_a_tunnel(raw: bytes) -> None:
    """The 200 is not written by h11, which would let a refusal follow: into the tunnel, as if the origin said it."""
    wire = client_sends(raw)
    await wire.receive_head()
    assert wire.can_respond
    wire.leave_http()
    assert not wire.can_respond
    assert not wire.reusable


# The end


async def test_waiting_for_the_end_keeps_what_comes_meanwhile() -> None:
    wire = client_sends(GET + GET[:10], GET[10:], EOF)
    await wire.receive_head()
    await wire.wait_for_eof()
    await answer(wire)
    wire.next_exchange()
    assert await wire.wait()
    assert isinstance(await wire.receive_head(), h11.Request)


async def test_attack_8_waiting_for_the_end_takes_no_more_than_so_much(autojump_clock: MockClock) -> None:
    """What a peer pipelines beyond that waits in the kernel, and an end that is met by reading is not reported."""
    wire = client_sends(*[b"x" * 1024] * 1000, EOF)
    with trio.move_on_after(60) as scope:
        await wire.wait_for_eof()
    assert (scope.cancelled_caught, autojump_clock.current_time()) == (True, 60)
    assert script(wire).reads == MAX_HEAD // 1024 + 1


async def test_attack_8_what_waits_already_counts_when_the_end_is_waited_for(autojump_clock: MockClock) -> None:
    wire = client_sends(GET + b"x" * (MAX_HEAD + 1), EOF)
    await wire.receive_head()
    with trio.move_on_after(60) as scope:
        await wire.wait_for_eof()
    assert (scope.cancelled_caught, autojump_clock.current_time()) == (True, 60)
    assert script(wire).reads == 1


async def test_the_end_behind_just_so_much_is_heard(autojump_clock: MockClock) -> None:
    """The neighbour of those before."""
    wire = client_sends(GET + b"x" * MAX_HEAD, EOF)
    await wire.receive_head()
    await wire.wait_for_eof()
    assert autojump_clock.current_time() == 0


@pytest.mark.parametrize("size", [MAX_HEAD + 1, MAX_HEAD + READ_SIZE], ids=["all of it read", "some in the kernel"])
@pytest.mark.parametrize("resets", [True, False], ids=["resets", "ends"])
async def test_attack_8_a_real_client_that_leaves_behind_too_much_is_noticed(size: int, resets: bool) -> None:  # noqa: FBT001
    """It held its place, its connection to the origin and its record for the idle hour."""
    async with loopback() as (ours, client):
        wire = Wire(ours, h11.SERVER)
        await client.send_all(GET)
        await wire.receive_head()
        await client.send_all(b"G" * size)
        if resets:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        with trio.fail_after(20), pytest.raises(trio.BrokenResourceError) if resets else nullcontext():
            await wire.wait_for_eof()


async def test_just_so_much_may_wait_and_the_end_is_waited_for(autojump_clock: MockClock) -> None:
    wire = client_sends(GET + b"x" * MAX_HEAD)
    await wire.receive_head()
    with trio.move_on_after(60) as scope:
        await wire.wait_for_eof()
    assert (scope.cancelled_caught, autojump_clock.current_time()) == (True, 60)


async def test_lingering_ends_our_side_and_hears_the_peer_out() -> None:
    wire = client_sends(b"abc", b"def", EOF)
    await wire.linger(1, 100)
    assert script(wire).ended
    assert script(wire).pieces == []


async def test_attack_8_a_peer_that_is_silent_is_not_lingered_for_any_longer(autojump_clock: MockClock) -> None:
    wire = client_sends(b"abc")
    await wire.linger(1, 100)
    assert autojump_clock.current_time() == 1


async def test_attack_8_a_peer_is_heard_out_however_much_it_still_sends(autojump_clock: MockClock) -> None:
    """A bound of 64 KiB was no bound for an upload: the reset that followed took the 403 or 413 with it."""
    wire = client_sends(*[b"x" * READ_SIZE] * 1000, EOF)
    await wire.linger(1, 5)
    assert (script(wire).ended, script(wire).pieces) == (True, [])
    assert autojump_clock.current_time() == 0


@pytest.mark.parametrize(
    ("pause", "silence", "seconds", "over"),
    [(0.75, 1, 5, 5), (0.999, 1, 60, 60), (0.75, 0.5, 5, 0.5), (4, 5, 10, 10), (10, 5, 10, 5), (10, 10, 5, 5)],
)
async def test_attack_8_a_peer_that_sends_for_ever_is_not_lingered_for_that_long(
    pause: float, silence: float, seconds: float, over: float, autojump_clock: MockClock
) -> None:
    """Each piece is a sign of life, and begins the silence anew; the bound of the whole holds all the same."""
    wire = client_sends(*[b"x"] * 1000)
    script(wire).pause = pause
    await wire.linger(silence, seconds)
    assert autojump_clock.current_time() == over


async def test_lingering_for_a_peer_that_is_gone_is_over_at_once(autojump_clock: MockClock) -> None:
    wire = client_sends()
    script(wire).gone = True
    await wire.linger(1, 100)
    assert autojump_clock.current_time() == 0


# What has come already


@pytest.mark.parametrize(
    ("pieces", "has"),
    [((GET,), True), ((GET + GET,), True), ((GET[:-1],), False), ((GET[:-4], GET[-4:]), False), ((EOF,), False)],
)
async def test_a_head_that_has_come_whole_needs_no_waiting(pieces: tuple[bytes, ...], has: bool) -> None:  # noqa: FBT001
    wire = client_sends(*pieces)
    assert not wire.has_head
    await wire.wait()
    assert wire.has_head is has
    if has:
        await wire.receive_head()
        assert (wire.has_head, script(wire).reads) == (pieces != (GET,), 1)


@pytest.mark.parametrize("piece", [b"\r\n\r\n", b"\r\n\r\nGET / HTTP/1.1\r\n"])
async def test_attack_8_empty_lines_are_no_head(piece: bytes) -> None:
    """One is ignored before a head; the next must not be taken for the end of one, or what follows has no deadline."""
    wire = client_sends(piece)
    await wire.wait()
    assert not wire.has_head


async def test_a_head_behind_the_empty_line_that_is_ignored_has_come() -> None:
    wire = client_sends(b"\r\n" + GET)
    await wire.wait()
    assert wire.has_head


async def test_the_head_behind_a_message_has_come_too_once_its_turn_is_there() -> None:
    wire = client_sends(POST + b"hello" + GET)
    await wire.receive_head()
    await body(wire)
    await answer(wire)
    assert not wire.has_head, "it is h11's to hold until then"
    wire.next_exchange()
    assert wire.has_head


async def test_what_has_come_of_a_body_is_had_without_waiting() -> None:
    wire = await origin_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", b"llo")
    await wire.receive_head()
    first = wire.received()
    assert isinstance(first, h11.Data)
    assert bytes(first.data) == b"he"
    assert wire.received() is None
    assert script(wire).reads == 1
    second = await wire.receive()
    assert isinstance(second, h11.Data)
    assert bytes(second.data) == b"llo"
    assert isinstance(wire.received(), h11.EndOfMessage)
    assert script(wire).reads == 2


@pytest.mark.parametrize("raw", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
async def test_the_end_of_a_body_that_is_empty_has_come_with_its_head(raw: bytes) -> None:
    wire = await origin_sends(raw)
    await wire.receive_head()
    assert isinstance(wire.received(), h11.EndOfMessage)


@pytest.mark.parametrize("broken", [b"zz\r\n", b"-1\r\n", b"5\nhello\r\n", b"1\r\nab\r\n"])
async def test_attack_5_a_body_that_came_malformed_is_so_without_waiting(broken: bytes) -> None:
    wire = await origin_sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + broken)
    await wire.receive_head()
    with pytest.raises(Malformed):
        list(iter(wire.received, None))
    assert script(wire).reads == 1


async def test_a_head_where_a_body_should_be_is_malformed() -> None:
    wire = client_sends(POST + b"hello" + GET)
    await wire.receive_head()
    assert isinstance(wire.received(), h11.Data)
    assert isinstance(wire.received(), h11.EndOfMessage)
    with pytest.raises(Malformed):
        wire.received()


@pytest.mark.parametrize("behind", [b"", b"H", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_attack_5_what_an_origin_sent_behind_its_message_is_noticed(behind: bytes) -> None:
    wire = await origin_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" + behind)
    await wire.receive_head()
    await body(wire)
    wire.next_exchange()
    assert wire.has_more is bool(behind)


@pytest.mark.parametrize(
    ("raw", "persistent"),
    [(GET, True), (HEAD, True), (LAST_GET, False), (OLD_GET, False), (POST, False), (CONNECT, False), (UPGRADE, False)],
)
async def test_a_client_that_has_asked_means_to_go_on_or_not(raw: bytes, persistent: bool) -> None:  # noqa: FBT001
    """Whatever our answer to it will be."""
    wire = client_sends(raw)
    assert not wire.persistent
    await wire.receive_head()
    assert wire.persistent is persistent


async def test_a_client_means_to_go_on_once_its_body_is_complete() -> None:
    wire = client_sends(POST + b"hello")
    await wire.receive_head()
    await body(wire)
    assert wire.persistent


# Other streams


@pytest.mark.parametrize("broken", [False, True])
async def test_a_message_that_is_broken_off_ends_in_a_reset(broken: bool) -> None:  # noqa: FBT001 - a table
    """An HTTP/1.0 client takes a plain end for the end of the body."""
    async with loopback() as (ours, client):
        wire = Wire(ours, h11.SERVER)
        if broken:
            wire.break_off()
        ours.close()
        if broken:
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
        else:
            assert await client.receive_some() == EOF


async def test_a_stream_that_knows_no_reset_is_broken_off_without_one() -> None:
    wire = client_sends(GET)
    wire.break_off()
    assert isinstance(await wire.receive_head(), h11.Request)
    assert not script(wire).ended


async def test_two_wires_understand_each_other() -> None:
    ours, theirs = memory_stream_pair()
    origin, client = Wire(ours, h11.CLIENT), Wire(theirs, h11.SERVER)
    await origin.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "3")]))
    await origin.send(h11.Data(data=b"abc"))
    await origin.send(h11.EndOfMessage())
    await client.receive_head()
    assert await body(client) == (b"abc", [])
    await answer(client)
    assert isinstance(await origin.receive_head(), h11.Response)


async def test_a_real_client_asks_is_refused_and_reads_the_refusal_although_it_still_sends() -> None:
    """Without lingering, the bytes that nobody read would reset the connection and take the answer with them."""
    async with loopback() as (ours, client):
        wire = Wire(ours, h11.SERVER)
        await client.send_all(POST.replace(b": 5", b": 100000"))
        await wire.receive_head()
        await wire.send(h11.Response(status_code=403, headers=[("Connection", "close"), ("Content-Length", "0")]))
        await wire.send(h11.EndOfMessage())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.linger, 10, 10)
            await client.send_all(b"x" * 100_000)
            await client.send_eof()
        await ours.aclose()
        assert b"".join([bytes(piece) async for piece in client]).startswith(b"HTTP/1.1 403 ")


async def test_a_real_client_that_resets_is_a_broken_resource() -> None:
    async with loopback() as (ours, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.send_all(GET[:10])
        wire = Wire(ours, h11.SERVER)
        assert await wire.wait()
        await client.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await wire.receive_head()
        await wire.linger(1, 100)


async def test_our_message_is_torn_from_its_head_to_its_end() -> None:
    ours, _ = memory_stream_pair()
    wire = Wire(ours, h11.SERVER)
    torn = [wire.torn]
    for event in (h11.Response(status_code=200, headers=[("Content-Length", "0")]), h11.EndOfMessage()):
        await wire.send(event)
        torn.append(wire.torn)
    assert torn == [False, True, False]


@pytest.mark.parametrize("events", [1, 2])
async def test_attack_5_nothing_follows_a_message_whose_last_octets_were_not_handed_over(events: int) -> None:
    """Framed it is, and half of it may be with the peer: a response behind that would stand in the middle of it."""
    ours, theirs = memory_stream_pair()
    await theirs.send_all(GET)
    wire = Wire(ours, h11.SERVER)
    await wire.receive_head()
    answer = (h11.Response(status_code=200, headers=[("Content-Length", "0")]), h11.EndOfMessage())[:events]
    octets = b"".join(map(wire.framed, answer))
    ours.send_stream.send_all_hook = trio.sleep_forever
    with trio.move_on_after(0.01):
        await wire.say(octets)
    assert wire.torn
    assert not wire.reusable
    assert not wire.can_respond


async def test_attack_5_no_response_follows_an_interim_one_that_was_cut_off() -> None:
    ours, theirs = memory_stream_pair()
    await theirs.send_all(GET)
    wire = Wire(ours, h11.SERVER)
    await wire.receive_head()
    octets = wire.framed(h11.InformationalResponse(status_code=103, headers=[]))
    assert wire.can_respond
    ours.send_stream.send_all_hook = trio.sleep_forever
    with trio.move_on_after(0.01):
        await wire.say(octets)
    assert not wire.can_respond


# What has been read before


@pytest.mark.parametrize("cut", range(0, len(LAST_GET) + 1, 7))
async def test_attack_5_what_was_read_before_is_the_beginning_of_the_message(cut: int) -> None:
    """As if it had come over this wire, wherever it was cut: so begins a request that somebody looked at."""
    wire = Wire(Script(LAST_GET[cut:], EOF), h11.SERVER, LAST_GET[:cut])
    assert wire.has_more is (cut > 0)
    assert await wire.wait()
    head = await wire.receive_head()
    assert isinstance(head, h11.Request)
    assert (head.method, head.target) == (b"GET", b"http://example.com/")
    assert not wire.has_more


async def test_attack_5_what_was_read_before_is_held_to_the_same_rules() -> None:
    for received in (b"GET / HTTP/1.1\n", b"x" * (MAX_HEAD + 1)):
        with pytest.raises(Malformed):
            await Wire(Script(EOF), h11.SERVER, received).receive_head()


async def test_an_answer_that_was_read_before_leaves_what_follows_it_for_the_tunnel() -> None:
    wire = Wire(Script(), h11.CLIENT, b"HTTP/1.1 200 OK\r\n\r\nearly")
    await wire.send(h11.Request(method="CONNECT", target="192.0.2.1:443", headers=[("Host", "192.0.2.1:443")]))
    assert isinstance(await wire.receive_head(), h11.Response)
    assert wire.leave_http() == b"early"
    assert script(wire).reads == 0
