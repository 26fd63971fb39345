"""One plain request and its response, side by side: any length, any framing, and no clean end of a torn body.

Every scenario ends in `connected`, which holds it to exactly one decision and one closing record a request.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from functools import partial
from typing import Final

import h11
import pytest
import trio
from trio.abc import HalfCloseableStream
from trio.testing import memory_stream_pair

from proxyd.http.framing import MAX_HEAD
from proxyd.net.relay import HALF_CLOSED_SECONDS, Flow
from proxyd.net.wire import Wire
from proxyd.policy.verdict import Reason
from proxyd.serve.forward import LEAVE_SECONDS, MOST_AT_ONCE, MOST_INTERIM, SOON_SECONDS, STALL_SECONDS, Failed, Forward
from tests.serve.scene import OK, VIA, Peer, World, connect, connected, exchange, get, in_virtual_time, policy

HEAD: Final = b"\r\n\r\n"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
)


def post(*fields: str, version: str = "1.1") -> bytes:
    """A request head with a body behind it."""
    return get("http://example.com/up", *fields, method="POST", version=version)


def dechunked(body: bytes) -> bytes:
    """What a complete chunked body says."""
    chunks = re.findall(rb"([0-9a-fA-F]+)\r\n", body)
    assert body.endswith(b"0\r\n\r\n")
    data = b""
    while chunks:
        size, _, rest = body.partition(b"\r\n")
        if int(size, 16) == 0:
            break
        data += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return data


# The request, up


@in_virtual_time
async def test_the_origin_gets_an_origin_form_request_for_itself_alone() -> None:
    """ATTACKS 4.1, 4.12, 9: its own Host first, our Via, no hop-by-hop field and none meant for us."""
    world = World()
    async with connected(world) as client:
        head = await exchange(
            world,
            client,
            get(
                "http://example.com/a?b=c",
                "Proxy-Authorization: Basic eDp5",
                "Proxy-Connection: keep-alive",
                "Keep-Alive: timeout=5",
                "Connection: keep-alive, X-Mine",
                "X-Mine: 1",
                "X-Theirs: 2",
            ),
        )
    assert (
        head
        == (
            f"GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nX-Theirs: 2\r\nVia: 1.1 {VIA}\r\nConnection: close\r\n\r\n"
        ).encode()
    )


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@in_virtual_time
async def test_a_body_with_a_length_goes_up_as_it_comes(version: str) -> None:
    """CLIENT.md: streamed, not collected."""
    world = World()
    async with connected(world) as client:
        await client.send(post("Content-Length: 10", version=version), b"12345")
        origin = await world.origin()
        assert b"\r\nContent-Length: 10\r\n" in await origin.until(HEAD)
        assert await origin.exactly(5) == b"12345"
        await client.send(b"67890")
        assert await origin.exactly(5) == b"67890"
        await origin.send(OK)
        await client.until(b"hi")
    _, close = world.only()
    assert (close.outcome, close.bytes_up, close.bytes_down) == ("complete", 10, 2)


@in_virtual_time
async def test_a_chunked_body_goes_up_chunked_as_it_comes() -> None:
    """CLIENT.md: re-framed by us, never relayed raw (ATTACKS 5)."""
    world = World()
    async with connected(world) as client:
        await client.send(post("Transfer-Encoding: chunked"), b"5;ext=1\r\nhel", b"lo\r\n")
        origin = await world.origin()
        assert b"\r\nTransfer-Encoding: chunked\r\n" in await origin.until(HEAD)
        assert dechunked(await origin.until(b"lo\r\n") + b"0\r\n\r\n") == b"hello"
        await client.send(b"0\r\n\r\n")
        assert await origin.until(b"0\r\n\r\n") == b"0\r\n\r\n"
        await origin.send(OK)
        assert (await client.answer()).status == 200
        await exchange(world, client)
        assert (await client.answer()).status == 200
    (_, close), _ = world.trail()
    assert (close.outcome, close.bytes_up) == ("complete", 5)


@in_virtual_time
async def test_a_large_body_arrives_whole() -> None:
    """CLIENT.md: 1 MiB and more."""
    world = World()
    body = bytes(range(256)) * 4096
    async with connected(world) as client:
        await client.send(post(f"Content-Length: {len(body)}") + body)
        origin = await world.origin()
        await origin.until(HEAD)
        assert await origin.exactly(len(body)) == body
        await origin.send(OK)
        assert (await client.answer()).status == 200
    assert world.only()[1].bytes_up == len(body)


@in_virtual_time
async def test_trailers_of_a_request_pass_the_same_filter_as_a_head() -> None:
    """ATTACKS 5: none may change what was judged."""
    world = World()
    async with connected(world) as client:
        await client.send(
            post("Transfer-Encoding: chunked"),
            b"1\r\nx\r\n0\r\nX-Sum: 9\r\nHost: evil\r\nAuthorization: y\r\nContent-Length: 7\r\nProxy-A: z\r\n\r\n",
        )
        origin = await world.origin()
        await origin.until(HEAD)
        assert (await origin.until(HEAD)).endswith(b"\r\n0\r\nX-Sum: 9\r\n\r\n")


@in_virtual_time
async def test_attack_8_trailers_of_a_request_whose_connection_names_too_much_are_refused() -> None:
    """The client's fault, and no bug of ours; the body never ends cleanly for the origin."""
    world = World()
    async with connected(world) as client:
        await client.send(post("Transfer-Encoding: chunked"), b"1\r\nx\r\n0\r\nConnection:" + b"," * 256 + b"\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.reason, answer.fields["connection"]) == (431, "head_too_large", "close")
        assert (await (await world.origin()).rest()).endswith(b"\r\n\r\n1\r\nx\r\n")


@in_virtual_time
async def test_attack_5_a_length_of_the_client_s_is_written_anew_for_the_origin() -> None:
    """`010` is ten octets, here and there."""
    world = World()
    async with connected(world) as client:
        await client.send(post("Content-Length: 010") + b"ten octets" + get("http://other.example/"))
        origin = await world.origin()
        assert b"\r\nContent-Length: 10\r\n" in await origin.until(HEAD)
        assert await origin.exactly(10) == b"ten octets"
        await origin.send(OK.replace(b": 2", b": 02"))
        assert (await client.answer()).fields["content-length"] == "2"
        assert (await (await world.origin()).until(HEAD)).startswith(b"GET / ")


@in_virtual_time
async def test_a_request_without_a_body_has_none_for_the_origin() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        head = await origin.until(HEAD)
        assert b"ontent-" not in head
        assert b"ransfer-" not in head
        await origin.silent()


@pytest.mark.parametrize(
    "broken", [b"5\nhello\r\n", b"-1\r\n\r\n", b"ffffffffffffffff\r\n", b"5\r\nhello!!", b"0\r\nX: a\nb\r\n\r\n"]
)
@in_virtual_time
async def test_a_body_that_is_framed_badly_is_refused_and_never_ends_cleanly_for_the_origin(broken: bytes) -> None:
    """ATTACKS 5: the connection closes, and what follows is not read as a request."""
    world = World()
    async with connected(world) as client:
        await client.send(post("Transfer-Encoding: chunked"), b"1\r\na\r\n", broken + get("http://smuggled.example/"))
        origin = await world.origin()
        answer = await client.answer()
        assert (answer.status, answer.reason, answer.fields["connection"]) == (400, "malformed_request", "close")
        await client.closed()
        assert not (await origin.rest()).endswith(b"0\r\n\r\n")
    decision, close = world.only()
    assert (decision.verdict, close.verdict, close.outcome) == ("allow", "error", "refused")


@in_virtual_time
async def test_a_client_that_ends_within_its_body_never_ends_it_cleanly_for_the_origin() -> None:
    """ATTACKS 5, 8: half an upload is no upload."""
    world = World()
    async with connected(world) as client:
        await client.send(post("Transfer-Encoding: chunked"), b"4\r\nhalf\r\n")
        origin = await world.origin()
        await client.end()
        assert (await origin.rest()).endswith(b"4\r\nhalf\r\n")
        assert (await client.answer()).status == 400


@in_virtual_time
async def test_a_client_that_is_reset_within_its_body_takes_the_origin_connection_with_it() -> None:
    """ATTACKS 8."""
    forward = _forward(request=h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "9")]))
    await forward.client.peer.send(b"POST http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
    await forward.client.wire.receive_head()

    async def reset() -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    forward.client.ours.receive_stream.receive_some_hook = reset
    with pytest.raises(Failed) as failed:
        await forward.it.run()
    assert failed.value.reason is None


# The response, down


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@in_virtual_time
async def test_a_body_with_a_length_comes_down_as_it_comes(version: str) -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get(version=version))
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX: y\r\n\r\n12345")
        head = await client.until(HEAD)
        assert b"\r\nX: y\r\n" in head
        assert f"\r\nVia: 1.1 {VIA}\r\n".encode() in head
        assert await client.exactly(5) == b"12345"
        await origin.send(b"67890")
        assert await client.exactly(5) == b"67890"


@in_virtual_time
async def test_a_chunked_body_comes_down_chunked_with_its_filtered_trailers() -> None:
    """ATTACKS 5: re-framed by us."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in await client.until(HEAD)
        assert dechunked(await client.until(b"lo\r\n") + b"0\r\n\r\n") == b"hello"
        await origin.send(b"0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n")
        assert await client.until(HEAD) == b"0\r\nX-Sum: 1\r\n\r\n"
        await exchange(world, client)
        assert (await client.answer()).status == 200


@in_virtual_time
async def test_attack_8_trailers_of_a_response_whose_connection_names_too_much_end_nothing_cleanly() -> None:
    """The origin's fault, and no bug of ours."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        await origin.send(b"Connection:" + b"," * 256 + HEAD)
        await client.until(HEAD)
        assert await client.rest() == b"1\r\nx\r\n"
    _, close = world.only()
    assert (close.outcome, close.reason) == ("aborted", "origin_malformed")


@in_virtual_time
async def test_a_body_that_ends_with_the_connection_comes_down_chunked() -> None:
    """The connection to a client of HTTP/1.1 goes on."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await origin.end()
        await client.until(HEAD)
        assert dechunked(await client.until(b"0\r\n\r\n")) == b"hello"
        await exchange(world, client)
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    ],
)
@in_virtual_time
async def test_a_client_of_http_1_0_gets_a_body_that_ends_with_the_connection(response: bytes) -> None:
    """RFC 9112 §6.1: it knows neither chunks nor trailers."""
    world = World()
    async with connected(world) as client:
        await client.send(get(version="1.0"))
        origin = await world.origin()
        await origin.send(response)
        await origin.end()
        head = await client.until(HEAD)
        assert b"ransfer-" not in head
        assert b"\r\nConnection: close\r\n" in head
        assert await client.rest() == b"hello"
    assert world.only()[1].outcome == "complete"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@in_virtual_time
async def test_a_status_that_has_no_body_has_none(status: bytes) -> None:
    """RFC 9110 §15.3.5, §15.4.5: the connection goes on at once."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n")
        assert b"ransfer-" not in await client.until(HEAD)
        await exchange(world, client)
        assert (await client.answer()).body == b"hi"


@in_virtual_time
async def test_the_answer_to_a_head_has_a_length_and_no_body() -> None:
    """RFC 9110 §9.3.2."""
    world = World()
    async with connected(world) as client:
        await client.send(get(method="HEAD"))
        origin = await world.origin()
        assert (await origin.until(HEAD)).startswith(b"HEAD / HTTP/1.1\r\n")
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        assert (await client.answer(body=False)).fields["content-length"] == "1000"
        await exchange(world, client)
        assert (await client.answer()).body == b"hi"


@in_virtual_time
async def test_what_an_origin_sends_behind_its_response_reaches_nobody() -> None:
    """ATTACKS 5 (response splitting): the next request has a connection of its own."""
    world = World()
    async with connected(world) as client:
        await exchange(world, client, get(), OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        assert (await client.answer()).body == b"hi"
        await client.silent()
        await exchange(world, client)
        assert (await client.answer()).body == b"hi"
    assert world.opened == 2


# Side by side


@in_virtual_time
async def test_an_answer_comes_down_while_the_upload_runs() -> None:
    """CLIENT.md: neither waits for the other."""
    world = World()
    async with connected(world) as client:
        await client.send(post("Transfer-Encoding: chunked"), b"1\r\na\r\n")
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n")
        await client.until(b"A\r\n")
        await client.send(b"1\r\nb\r\n")
        await origin.until(b"b\r\n")
        await origin.send(b"1\r\nB\r\n")
        await client.until(b"B\r\n")
        await client.send(b"0\r\n\r\n")
        await origin.until(b"0\r\n\r\n")
        await origin.send(b"0\r\n\r\n")
        await client.until(b"0\r\n\r\n")
        await exchange(world, client)
        assert (await client.answer()).status == 200
    (_, close), _ = world.trail()
    assert (close.outcome, close.bytes_up, close.bytes_down) == ("complete", 2, 2)


@pytest.mark.parametrize("framing", ["Content-Length: 2000", "Transfer-Encoding: chunked"])
@in_virtual_time
async def test_an_origin_that_stops_reading_may_still_answer(framing: str) -> None:
    """CLIENT.md: "413" while the upload runs; a broken pipe must not hide it."""
    world = World()
    async with connected(world) as client:
        await client.send(post(framing))
        origin = await world.origin()
        await origin.until(HEAD)
        await trio.aclose_forcefully(origin.stream.receive_stream)  # type: ignore[attr-defined] # a StapledStream
        await client.send(b"5\r\nhello\r\n", b"5\r\nworld\r\n")
        await origin.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        answer = await client.answer()
        assert (answer.status, answer.body) == (413, b"no")
    assert world.only()[1].status == 413


@in_virtual_time
async def test_an_origin_that_takes_nothing_any_more_may_still_answer() -> None:
    """ATTACKS 8: its window is full, our sending blocks, and the answer comes down all the same."""
    world = World()

    def streams() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()
        ours.send_stream.send_all_hook = trio.sleep_forever
        return ours, theirs

    world.origin_streams = streams
    async with connected(world) as client:
        await client.send(post("Content-Length: 9"), b"some body")
        origin = await world.origin()
        await origin.send(OK)
        assert (await client.answer()).status == 200


@in_virtual_time
async def test_an_answer_before_the_upload_is_complete_ends_the_connection() -> None:
    """What is left of the body is no next request (ATTACKS 5)."""
    world = World()
    async with connected(world) as client:
        await client.send(post("Content-Length: 100"), b"x")
        await (await world.origin()).send(OK)
        assert (await client.answer()).status == 200
        await client.send(get("http://smuggled.example/"))
        await client.closed()
    world.only()


@pytest.mark.parametrize("ask", [get(method="HEAD"), get("http://example.com/", *UPGRADE)])
@in_virtual_time
async def test_an_answer_that_was_there_before_the_question_is_no_bug_of_ours(ask: bytes) -> None:
    """An origin may speak at once, and h11 must not see its answer before our question: again and again."""
    for _ in range(30):
        world = World()
        world.origin_streams = partial(_speaking_first, OK[:-2] if ask.startswith(b"HEAD") else SWITCHING)
        async with connected(world) as client:
            await client.send(ask)
            await client.until(HEAD)
        assert world.complaints == []
        assert world.only()[1].status in (101, 200, 502)


def _speaking_first(early: bytes) -> tuple[HalfCloseableStream, HalfCloseableStream]:
    ours, theirs = memory_stream_pair()
    return Eager(early, ours), theirs


class Eager(HalfCloseableStream):
    """A stream that hands over what was there from the beginning after one checkpoint, as a socket does."""

    def __init__(self, early: bytes, stream: HalfCloseableStream) -> None:
        self._early = early
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._early:
            return await self._stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        early, self._early = self._early, b""
        return early

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


# Interim responses


@in_virtual_time
async def test_interim_responses_reach_a_client_of_http_1_1() -> None:
    """RFC 9110 §15.2; and what our name vouches for is not theirs to say."""
    world = World()
    async with connected(world) as client:
        await client.send(post("Content-Length: 2", "Expect: 100-continue"))
        origin = await world.origin()
        assert b"\r\nExpect: 100-continue\r\n" in await origin.until(HEAD)
        await origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await client.until(HEAD)).startswith(b"HTTP/1.1 100 ")
        await client.send(b"ab")
        assert await origin.exactly(2) == b"ab"
        await origin.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nProxy-Status: proxyd; error=x\r\n\r\n")
        assert await client.until(HEAD) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        await origin.send(OK)
        assert (await client.answer()).status == 200
    assert world.only()[1].status == 200


@in_virtual_time
async def test_interim_responses_do_not_reach_a_client_of_http_1_0() -> None:
    """RFC 9110 §15.2: it does not know them."""
    world = World()
    async with connected(world) as client:
        await client.send(get(version="1.0"))
        await (await world.origin()).send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
        assert (await client.answer()).status == 200


@in_virtual_time
async def test_as_many_interim_responses_as_anybody_needs_are_passed_on() -> None:
    """The neighbour of the next one."""
    world = World()
    async with connected(world) as client:
        await client.send(get(version="1.0"))
        await (await world.origin()).send(b"HTTP/1.1 102 Processing\r\n\r\n" * (MOST_INTERIM - 1) + OK)
        assert (await client.answer()).status == 200


@in_virtual_time
async def test_interim_responses_without_end_end_in_502() -> None:
    """ATTACKS 8: each one moved something, so that no idle deadline would."""
    assert MOST_INTERIM == 32
    world = World()
    async with connected(world) as client:
        await client.send(get(version="1.0"))
        await (await world.origin()).send(b"HTTP/1.1 102 Processing\r\n\r\n" * MOST_INTERIM + OK)
        answer = await client.answer()
        assert (answer.status, answer.reason) == (502, "origin_malformed")


# WebSockets


@in_virtual_time
async def test_a_granted_websocket_becomes_a_tunnel_with_what_both_sides_sent_early() -> None:
    """R4, CLIENT.md: a global WebSocket on ws:// arrives like this."""
    world = World(policy=policy("[limits]\nidle_seconds = 5"))
    async with connected(world) as client:
        await client.send(get("http://example.com/ws", *UPGRADE) + b"client's early bytes")
        origin = await world.origin()
        head = await origin.until(HEAD)
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"\r\nSec-WebSocket-Key: " in head
        await origin.send(SWITCHING + b"origin's early bytes")
        switched = await client.until(HEAD)
        assert switched.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in switched
        assert b"\r\nSec-WebSocket-Accept: x\r\n" in switched
        assert await client.exactly(20) == b"origin's early bytes"
        assert await origin.exactly(20) == b"client's early bytes"
        await client.send(b"\x00\xff ping")
        assert await origin.exactly(7) == b"\x00\xff ping"
        await origin.send(b"pong \x00\xff")
        assert await client.exactly(7) == b"pong \x00\xff"
        assert await client.rest() == b""
        assert trio.current_time() == 5.0
    _, close = world.only()
    assert (close.outcome, close.status, close.bytes_up, close.bytes_down) == ("idle", 101, 27, 27)


@in_virtual_time
async def test_a_websocket_that_is_not_granted_is_an_ordinary_answer() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com/ws", *UPGRADE))
        await (await world.origin()).send(b"HTTP/1.1 426 No\r\nContent-Length: 2\r\n\r\nno")
        assert (await client.answer()).status == 426
        await exchange(world, client)
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ((), SWITCHING),
        (("Connection: Upgrade", "Upgrade: h2c"), SWITCHING.replace(b"websocket", b"h2c")),
        (("Connection: Upgrade", "Upgrade: notwebsocket"), SWITCHING),
        (UPGRADE, SWITCHING.replace(b"websocket", b"h2c")),
        (UPGRADE, SWITCHING.replace(b"websocket", b"websocket, h2c")),
        (UPGRADE, SWITCHING.replace(b"Upgrade: websocket\r\n", b"")),
    ],
)
@in_virtual_time
async def test_a_101_that_nobody_asked_for_makes_no_tunnel(asked: tuple[str, ...], granted: bytes) -> None:
    """ATTACKS 4.12: neither unasked nor to another protocol than the one asked for."""
    world = World()
    async with connected(world) as client:
        await client.send(get("http://example.com/", *asked))
        origin = await world.origin()
        await origin.send(granted + b"tunnelled")
        answer = await client.answer()
        assert (answer.status, answer.reason) == (502, "origin_malformed")
        await client.closed()


# Origins that fail


@in_virtual_time
async def test_an_origin_that_ends_before_its_answer_is_502_origin_closed() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get())
        await (await world.origin()).end()
        answer = await client.answer()
        assert (answer.status, answer.reason, answer.fields["connection"]) == (502, "origin_closed", "close")
        await client.closed()
        assert "error=connection_terminated" in answer.fields["proxy-status"]
    decision, close = world.only()
    assert (decision.verdict, close.verdict, close.reason, close.outcome) == (
        "allow",
        "error",
        "origin_closed",
        "refused",
    )


@in_virtual_time
async def test_an_origin_that_ends_between_an_interim_response_and_its_answer_is_502_all_the_same() -> None:
    """The status on record is the one the client got, not the interim one."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await client.until(HEAD)
        await origin.end()
        assert (await client.answer()).reason == "origin_closed"
    assert world.only()[1].status == 502


@in_virtual_time
async def test_an_origin_that_is_reset_is_502_origin_closed() -> None:
    world = World()

    def streams() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()

        async def reset() -> None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError

        ours.receive_stream.receive_some_hook = reset
        return ours, theirs

    world.origin_streams = streams
    async with connected(world) as client:
        await client.send(get())
        assert (await client.answer()).reason == "origin_closed"


@in_virtual_time
async def test_an_origin_that_is_gone_before_it_was_asked_is_502_origin_closed() -> None:
    world = World()

    def streams() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()
        theirs.send_stream.close()
        theirs.receive_stream.close()
        return ours, theirs

    world.origin_streams = streams
    async with connected(world) as client:
        await client.send(get())
        assert (await client.answer()).reason == "origin_closed"


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer_Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent.Length: 3\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nConnection: " + b"," * 256 + b"\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nProxy-Authenticate: Basic\r\n\r\n",
    ],
)
@in_virtual_time
async def test_an_origin_that_answers_with_no_valid_http_is_502(response: bytes) -> None:
    """ATTACKS 5, 9: nor may it ask for the credentials that were meant for us."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(response)
        answer = await client.answer()
        assert (answer.status, answer.reason) == (502, "origin_malformed")
        assert "error=http_protocol_error" in answer.fields["proxy-status"]
        assert await origin.rest() != b""
    assert world.only()[1].status == 502


@in_virtual_time
async def test_an_origin_that_ends_within_its_head_is_502() -> None:
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\n")
        await origin.end()
        assert (await client.answer()).reason == "origin_malformed"


@in_virtual_time
async def test_an_origin_that_sends_a_request_is_malformed() -> None:
    """h11 does not read one from it; if it did, it would not be passed on."""
    forward = _forward()

    async def head() -> h11.Request:
        await trio.lowlevel.checkpoint()
        return h11.Request(method="GET", target="/", headers=[("Host", "x")])

    forward.origin.wire.receive_head = head  # type: ignore[method-assign]
    await forward.ask()
    await forward.origin.peer.send(b"x")
    with pytest.raises(Failed) as failed:
        await forward.it.run()
    assert failed.value.reason is Reason.ORIGIN_MALFORMED


@pytest.mark.parametrize("broken", [b"", b"zz\r\n", b"5\r\nhello!!"])
@in_virtual_time
async def test_an_origin_that_breaks_off_never_ends_the_chunked_body_cleanly(broken: bytes) -> None:
    """ATTACKS 5: half a download must not look whole, nor be followed by words of ours."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", broken)
        await origin.end()
        await client.until(HEAD)
        body = await client.rest()
        assert body.startswith(b"4\r\nhalf\r\n")
        assert not body.endswith(b"0\r\n\r\n")
        assert b"HTTP/1.1" not in body
    _, close = world.only()
    assert (close.outcome, close.verdict, close.reason, close.status) == ("aborted", "error", "origin_malformed", 200)


@in_virtual_time
async def test_an_origin_that_is_reset_within_its_body_never_ends_it_cleanly() -> None:
    """Also where only the connection would have ended it."""
    world = World()

    def streams() -> tuple[HalfCloseableStream, HalfCloseableStream]:
        ours, theirs = memory_stream_pair()
        ours.receive_stream.put_data(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        turns = iter((None, trio.BrokenResourceError()))

        async def then_reset() -> None:
            await trio.testing.wait_all_tasks_blocked()
            if (broken := next(turns)) is not None:
                raise broken

        ours.receive_stream.receive_some_hook = then_reset
        return ours, theirs

    world.origin_streams = streams
    async with connected(world) as client:
        await client.send(get())
        await client.until(HEAD)
        assert await client.rest() == b"4\r\nhalf\r\n"
    assert world.only()[1].reason == "origin_closed"


# Clients that leave


@in_virtual_time
async def test_a_client_that_leaves_while_it_waits_takes_the_origin_connection_with_it() -> None:
    """ATTACKS 8: an EOF may be a half-close, so that the answer has a little time; then it is over."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await trio.sleep(3.0)
        await client.leave()
        assert (await origin.rest()).endswith(HEAD)
        assert trio.current_time() == 3.0 + LEAVE_SECONDS
    _, close = world.only()
    assert (close.outcome, close.status) == ("client_gone", None)


@pytest.mark.parametrize("count", [MAX_HEAD, MAX_HEAD + 1, 4 * MAX_HEAD])
@in_virtual_time
async def test_attack_8_a_client_that_pipelines_more_than_32_kib_is_there_and_waits_for_its_answer(count: int) -> None:
    """What is beyond waits in the kernel; it was taken for gone, and its first request was never answered."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await client.send(get("http://127.0.0.1/").ljust(count, b"x"))
        await trio.sleep(30 * LEAVE_SECONDS)
        await origin.send(OK)
        assert (await client.answer()).status == 200
        assert (await client.answer()).reason == "address_denied", "the next one"


@in_virtual_time
async def test_a_client_that_ends_its_side_gets_an_answer_that_comes_soon() -> None:
    """A half-close is no leaving."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        await client.end()
        origin = await world.origin()
        await trio.sleep(LEAVE_SECONDS - 1.0)
        await origin.send(OK)
        assert (await client.answer()).status == 200
    assert world.only()[1].outcome == "complete"


@in_virtual_time
async def test_a_client_that_ends_its_side_gets_the_whole_of_an_answer_that_has_begun() -> None:
    """A download takes as long as it takes, as long as it moves: who is gone is found out by sending."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        await client.end()
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        await client.until(HEAD)
        for _ in range(40):
            await trio.sleep(1.0)
            await origin.send(b"x")
        assert await client.rest() == b"x" * 40
    assert world.only()[1].outcome == "complete"


@in_virtual_time
async def test_attack_8_an_interim_response_that_is_not_taken_is_no_answer_that_has_begun() -> None:
    """A client that has ended its side is let go of all the same."""
    forward = _forward(idle_seconds=1000.0)
    await forward.ask()
    await forward.client.peer.end()
    forward.client.ours.send_stream.send_all_hook = trio.sleep_forever
    async with trio.open_nursery() as nursery:

        async def hint() -> None:
            await trio.sleep(2 * SOON_SECONDS)
            await forward.origin.peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")

        nursery.start_soon(hint)
        with pytest.raises(Failed) as failed:
            await forward.it.run()
    assert (failed.value.reason, trio.current_time()) == (None, SOON_SECONDS + LEAVE_SECONDS)


@in_virtual_time
async def test_attack_8_a_client_that_ended_its_side_waits_two_minutes_for_the_rest_of_a_silent_origin() -> None:
    """It may be gone: for the idle hour it held a place, and the origin's connection."""
    assert (LEAVE_SECONDS, HALF_CLOSED_SECONDS) == (10.0, 120.0)
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await client.until(HEAD)
        await trio.sleep(200.0)
        await client.end()
        assert (await origin.rest()).endswith(HEAD)
        assert trio.current_time() == 200.0 + LEAVE_SECONDS + HALF_CLOSED_SECONDS
    assert world.only()[1].outcome == "aborted"


@in_virtual_time
async def test_attack_8_a_client_that_ended_its_side_gets_what_comes_every_other_minute() -> None:
    """The neighbour of the one before: each piece begins the two minutes anew, and nothing the idle hour."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        await client.end()
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        await client.until(HEAD)
        for _ in range(5):
            await trio.sleep(HALF_CLOSED_SECONDS - 1.0)
            await origin.send(b"x")
        assert await client.rest() == b"x" * 5
        assert trio.current_time() == 5 * (HALF_CLOSED_SECONDS - 1.0) + HALF_CLOSED_SECONDS


@in_virtual_time
async def test_no_silence_lasts_longer_than_the_idle_seconds_half_closed_or_not() -> None:
    world = World(policy=policy("[limits]\nidle_seconds = 17"))
    async with connected(world) as client:
        await client.send(get())
        await client.end()
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        await client.until(HEAD)
        assert await client.rest() == b""
        assert trio.current_time() == LEAVE_SECONDS + 17.0


@in_virtual_time
async def test_a_client_that_is_reset_while_it_waits_takes_the_origin_connection_with_it() -> None:
    """ATTACKS 8: as soon as anybody looks after it."""
    forward = _forward()
    await forward.ask()

    async def reset() -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    forward.client.ours.receive_stream.receive_some_hook = reset
    with pytest.raises(Failed) as failed:
        await forward.it.run()
    assert (failed.value.reason, trio.current_time()) == (None, SOON_SECONDS)


@in_virtual_time
async def test_a_client_that_leaves_within_the_answer_takes_the_origin_connection_with_it() -> None:
    """ATTACKS 8: nothing more is fetched for nobody."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await client.until(HEAD)
        await client.leave()
        await origin.send(b"more")
        assert (await origin.rest()).endswith(HEAD)
        assert trio.current_time() == 0.0
    _, close = world.only()
    assert (close.outcome, close.status) == ("client_gone", 200)


# Silence


@in_virtual_time
async def test_an_origin_that_is_silent_is_504_after_exactly_the_policys_idle_seconds() -> None:
    """ATTACKS 8."""
    world = World(policy=policy("[limits]\nidle_seconds = 7"))
    async with connected(world) as client:
        await trio.sleep(1.0)
        await client.send(get())
        answer = await client.answer()
        assert trio.current_time() == 1.0 + 7.0
        assert (answer.status, answer.reason) == (504, "origin_timeout")
        assert "error=connection_read_timeout" in answer.fields["proxy-status"]


@in_virtual_time
async def test_whatever_moves_begins_the_silence_anew() -> None:
    """Upload, interim response, head and body: each of them; then exactly the idle seconds."""
    world = World(policy=policy("[limits]\nidle_seconds = 7"))
    async with connected(world) as client:
        await client.send(post("Content-Length: 2"), b"a")
        origin = await world.origin()
        await trio.sleep(6.0)
        await client.send(b"b")
        await trio.sleep(6.0)
        await origin.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await trio.sleep(6.0)
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        await trio.sleep(6.0)
        await origin.send(b"x")
        await client.until(HEAD)
        await client.until(HEAD)
        assert await client.rest() == b"x"
        assert trio.current_time() == 4 * 6.0 + 7.0
    _, close = world.only()
    assert (close.outcome, close.reason, close.status) == ("aborted", "origin_timeout", 200)


@in_virtual_time
async def test_an_interim_response_that_is_not_passed_on_moves_something_too() -> None:
    """The origin is not silent, only its client too old to hear it."""
    world = World(policy=policy("[limits]\nidle_seconds = 7"))
    async with connected(world) as client:
        await client.send(get(version="1.0"))
        origin = await world.origin()
        for _ in range(3):
            await trio.sleep(6.0)
            await origin.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        assert (await client.answer()).reason == "origin_timeout"
        assert trio.current_time() == 3 * 6.0 + 7.0


# Whose silence it was


@in_virtual_time
async def test_r7_a_client_that_stalls_its_body_is_408_body_timeout_and_not_the_origin_s_fault() -> None:
    """ATTACKS 8 (slow POST)."""
    world = World(policy=policy("[limits]\nidle_seconds = 7"))
    async with connected(world) as client:
        await client.send(post("Content-Length: 9"), b"some")
        origin = await world.origin()
        answer = await client.answer()
        assert trio.current_time() == 7.0
        assert (answer.status, answer.reason, answer.fields["connection"]) == (408, "body_timeout", "close")
        assert "error=http_request_error" in answer.fields["proxy-status"]
        await client.closed()
        assert (await origin.rest()).endswith(b"some")
    _, close = world.only()
    assert (close.outcome, close.verdict, close.reason, close.status) == ("refused", "error", "body_timeout", 408)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
@in_virtual_time
async def test_r7_an_origin_that_is_silent_behind_a_whole_body_is_504_origin_timeout(sent: bytes) -> None:
    """The neighbour of the one before."""
    world = World(policy=policy("[limits]\nidle_seconds = 7"))
    async with connected(world) as client:
        await client.send(post("Content-Length: 4"), b"so", b"me")
        await (await world.origin()).send(*([sent] if sent else []))
        if sent:
            await client.until(HEAD)
        answer = await client.answer()
        assert (answer.status, answer.reason) == (504, "origin_timeout")


@in_virtual_time
async def test_r7_whom_one_direction_waited_for_is_not_held_against_the_other() -> None:
    """A body ends while an interim response is on its way down: from then on, the silence is the origin's."""
    forward = _forward(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "2")]), 7.0)
    await forward.client.peer.send(post("Content-Length: 2"))
    await forward.client.wire.receive_head()
    read = trio.Event()
    forward.client.ours.send_stream.send_all_hook = read.wait
    async with trio.open_nursery() as nursery:

        async def talk() -> None:
            await forward.origin.peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await forward.client.peer.send(b"ab")
            read.set()

        nursery.start_soon(talk)
        with pytest.raises(Failed) as failed:
            await forward.it.run()
    assert (failed.value.reason, trio.current_time()) == (Reason.ORIGIN_TIMEOUT, 7.0)


@in_virtual_time
async def test_r7_a_client_that_never_reads_its_answer_is_client_gone_after_exactly_the_policys_idle_seconds() -> None:
    """ATTACKS 8 (a peer that never reads): nobody is there to be answered, and it was not the origin."""
    forward = _forward(idle_seconds=7.0)
    await forward.ask()
    forward.client.ours.send_stream.send_all_hook = trio.sleep_forever
    await forward.origin.peer.send(OK)
    with pytest.raises(Failed) as failed:
        await forward.it.run()
    assert (failed.value.reason, trio.current_time()) == (None, 7.0)


def _taking_slowly(*seconds: float) -> tuple[HalfCloseableStream, HalfCloseableStream]:
    """An origin that lets us wait so long for it to take the first pieces, and then for ever."""
    ours, theirs = memory_stream_pair()
    pump = ours.send_stream.send_all_hook
    assert pump is not None
    turns = iter(seconds)

    async def slowly() -> None:
        await trio.sleep(next(turns, math.inf))
        await pump()

    ours.send_stream.send_all_hook = slowly
    return ours, theirs


@pytest.mark.parametrize("taken", [(), (119.0,), (119.0, 119.0)])
@in_virtual_time
async def test_attack_8_an_origin_that_takes_no_piece_of_the_request_for_two_minutes_is_504(
    taken: tuple[float, ...],
) -> None:
    """Meanwhile nobody looks after the client, and one that had left held a place for the idle hour."""
    assert STALL_SECONDS == 120.0
    world = World()
    world.origin_streams = partial(_taking_slowly, *taken)
    async with connected(world) as client:
        await client.send(post("Content-Length: 900000") + b"x" * 200_000)
        answer = await client.answer()
        assert (answer.status, answer.reason) == (504, "origin_timeout")
        assert trio.current_time() == sum(taken) + STALL_SECONDS
        await client.closed()


@in_virtual_time
async def test_an_origin_that_takes_each_piece_in_just_under_two_minutes_gets_the_whole_request() -> None:
    """The neighbour of the one before."""
    world = World()
    world.origin_streams = partial(_taking_slowly, *[119.0] * 10)
    async with connected(world) as client:
        await client.send(post("Content-Length: 200000") + b"x" * 200_000)
        origin = await world.origin()
        await origin.until(HEAD)
        await origin.exactly(200_000)
        await origin.send(OK)
        assert (await client.answer()).status == 200


@in_virtual_time
async def test_attack_8_an_origin_that_does_not_take_a_request_without_a_body_is_504_too() -> None:
    world = World()
    world.origin_streams = _taking_slowly
    async with connected(world) as client:
        await client.send(get())
        answer = await client.answer()
        assert (answer.status, answer.reason) == (504, "origin_timeout")
        assert trio.current_time() == STALL_SECONDS
        await client.closed()


# Forward by itself


class End:
    """A wire of ours, and the peer at its other end. sent: what left us in one piece; asked: when we began to read."""

    def __init__(self, role: type[h11.SERVER | h11.CLIENT]) -> None:
        self.ours, theirs = memory_stream_pair()
        self.wire = Wire(self.ours, role)
        self.peer = Peer(theirs)
        self.sent: list[bytes] = []
        self.asked: list[float] = []

    def listen(self) -> None:
        """Note from now on what is sent, and when something is read."""
        send, receive = self.ours.send_all, self.ours.receive_some

        async def send_all(data: bytes) -> None:
            if data:
                self.sent.append(data)
            await send(data)

        async def receive_some(max_bytes: int | None = None) -> bytes | bytearray:
            self.asked.append(trio.current_time())
            return await receive(max_bytes)

        self.ours.send_all = send_all  # type: ignore[method-assign, assignment]
        self.ours.receive_some = receive_some  # type: ignore[method-assign]


class Between:
    """A Forward between two peers."""

    def __init__(self, request: h11.Request, idle_seconds: float) -> None:
        self.client, self.origin = End(h11.SERVER), End(h11.CLIENT)
        self.answered: list[float] = []
        self.completed: list[bytes] = []
        self.it = Forward(
            client=self.client.wire,
            origin=self.origin.wire,
            request=request,
            upgrade=False,
            without_identity=None,
            via=VIA,
            idle_seconds=idle_seconds,
            flow=Flow(),
            answered=lambda: self.answered.append(trio.current_time()),
            completed=lambda: self.completed.append(b"".join(self.client.sent)),
        )

    async def ask(self) -> None:
        """Let the client's question be received."""
        await self.client.peer.send(get())
        await self.client.wire.receive_head()


def _forward(request: h11.Request | None = None, idle_seconds: float = 60.0) -> Between:
    return Between(request or h11.Request(method="GET", target="/", headers=[("Host", "x")]), idle_seconds)


@in_virtual_time
async def test_a_forward_says_whether_it_became_a_tunnel_and_what_the_origins_status_was() -> None:
    forward = _forward()
    await forward.ask()
    await forward.origin.peer.send(OK)
    assert await forward.it.run() is False
    assert (forward.it.status, forward.it.flow.down) == (200, 2)


@pytest.mark.parametrize("heard", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", OK[:-1]])
@in_virtual_time
async def test_attack_7_7_a_forward_that_is_revoked_ends_at_once_and_says_so(heard: bytes) -> None:
    """Whatever has come of the answer; whoever asked for it says what to do about that."""
    forward = _forward()
    await forward.ask()
    await forward.origin.peer.send(heard)
    async with trio.open_nursery() as nursery:

        async def revoke() -> None:
            await trio.testing.wait_all_tasks_blocked()
            forward.it.revoke()

        nursery.start_soon(revoke)
        with pytest.raises(Failed) as failed:
            await forward.it.run()
    assert failed.value.reason is Reason.REVOKED
    assert trio.current_time() == 0.0


@in_virtual_time
async def test_attack_7_7_a_forward_that_is_revoked_before_it_runs_carries_nothing_to_its_end() -> None:
    forward = _forward()
    await forward.ask()
    forward.it.revoke()
    await forward.origin.peer.send(OK)
    with pytest.raises(Failed) as failed:
        await forward.it.run()
    assert failed.value.reason is Reason.REVOKED


@in_virtual_time
async def test_a_forward_that_is_complete_is_not_revoked_any_more() -> None:
    """The client has the whole answer; that is what the record says."""
    forward = _forward()
    await forward.ask()
    forward.it.completed = forward.it.revoke
    await forward.origin.peer.send(OK)
    assert await forward.it.run() is False


@in_virtual_time
async def test_a_forward_that_has_failed_is_not_revoked_any_more() -> None:
    """Whose fault it was stays on record."""
    forward = _forward()
    await forward.ask()
    await forward.origin.peer.end()
    with pytest.raises(Failed) as failed:
        await forward.it.run()
    forward.it.revoke()
    assert failed.value.reason is Reason.ORIGIN_CLOSED
    assert failed.value is forward.it._failure  # noqa: SLF001 - the one thing that revoke could change


@pytest.mark.parametrize("pieces", [(OK,), (OK[:-1], OK[-1:])])
@in_virtual_time
async def test_r10_an_answer_is_complete_once_its_last_octet_is_sent(pieces: tuple[bytes, ...]) -> None:
    forward = _forward()
    await forward.ask()
    forward.client.listen()
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            for piece in pieces:
                await forward.origin.peer.send(piece)
                await trio.testing.wait_all_tasks_blocked()

        nursery.start_soon(answer)
        assert await forward.it.run() is False
    (sent,) = forward.completed
    assert sent.endswith(b"\r\n\r\nhi")


@pytest.mark.parametrize("answer", [b"", OK[:-1], b"HTTP/1.1 103 Early Hints\r\n\r\n", b"no answer\r\n\r\n"])
@in_virtual_time
async def test_an_answer_that_breaks_off_is_never_complete(answer: bytes) -> None:
    forward = _forward()
    await forward.ask()
    await forward.origin.peer.send(answer)
    await forward.origin.peer.end()
    with pytest.raises(Failed):
        await forward.it.run()
    assert forward.completed == []


# What is spared where nothing has to be waited for


@in_virtual_time
async def test_a_request_without_a_body_and_its_answer_leave_in_one_piece_each() -> None:
    """Head and end up, head and body down; and nobody listens to a client that has nothing to say."""
    forward = _forward()
    await forward.ask()
    forward.client.listen()
    forward.origin.listen()
    await forward.origin.peer.send(OK)
    assert await forward.it.run() is False
    assert forward.origin.sent == [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
    assert forward.client.sent == [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.1 proxyd-test\r\n\r\nhi"]
    assert forward.client.asked == []


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", [b"HTTP/1.1 204 No Content\r\nVia: 1.1 proxyd-test\r\n\r\n"]),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            [b"HTTP/1.1 200 OK\r\nVia: 1.1 proxyd-test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"],
        ),
    ],
)
@in_virtual_time
async def test_an_answer_that_has_come_whole_leaves_in_as_few_pieces_as_it_can(
    answer: bytes, sent: list[bytes]
) -> None:
    forward = _forward()
    await forward.ask()
    forward.client.listen()
    await forward.origin.peer.send(answer)
    assert await forward.it.run() is False
    assert (forward.client.sent, forward.client.asked) == (sent, [])


@in_virtual_time
async def test_attack_8_an_answer_of_a_thousand_chunks_that_has_come_whole_leaves_in_several_pieces() -> None:
    """Others have their turn between two of them, where the client's socket has room for all of them, too."""
    forward = _forward()
    await forward.ask()
    turns: list[int] = []

    async def send_at_once(data: bytes) -> None:
        forward.client.sent.append(data)
        if len(forward.client.sent) == 1:
            nursery.start_soon(another)

    async def another() -> None:
        while True:
            turns.append(len(forward.client.sent))
            await trio.lowlevel.checkpoint()

    forward.client.ours.send_all = send_at_once  # type: ignore[method-assign, assignment]
    chunks = b"1\r\nx\r\n" * 1000
    await forward.origin.peer.send(CHUNKED + chunks + b"0\r\n\r\n")
    async with trio.open_nursery() as nursery:
        assert await forward.it.run() is False
        nursery.cancel_scope.cancel()
    sent = b"".join(forward.client.sent)
    assert len(set(turns)) > len(forward.client.sent) // 2
    assert sent.endswith(HEAD + chunks + b"0\r\n\r\n")
    assert len(forward.client.sent) == math.ceil((1 + 1000 + 1) / MOST_AT_ONCE)
    assert forward.it.flow.down == 1000


@pytest.mark.parametrize("pieces", [(OK,), (OK[:-1], OK[-1:]), (CHUNKED + b"2\r\nhi\r\n", b"0\r\n\r\n")])
@pytest.mark.parametrize("said", [b"", b"no chunk\r\n"])
@in_virtual_time
async def test_r11_an_exchange_is_complete_or_it_failed_and_never_both(pieces: tuple[bytes, ...], said: bytes) -> None:
    """A client that has its whole answer may leave within its upload, whichever of the two is told first."""
    for _ in range(30):
        forward = _forward(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "9")]))
        client, origin = forward.client, forward.origin
        await client.peer.send(post("Transfer-Encoding: chunked") + b"2\r\nup\r\n")
        await client.wire.receive_head()
        for piece in pieces[:-1]:
            await origin.peer.send(piece)

        async def send_at_once(data: bytes) -> None:
            """As a socket with room does."""

        client.ours.send_all = send_at_once  # type: ignore[method-assign, assignment]

        async def end(client: End = client, origin: End = origin) -> None:
            await trio.testing.wait_all_tasks_blocked()
            origin.ours.receive_stream.put_data(pieces[-1])
            client.ours.receive_stream.put_data(said) if said else client.ours.receive_stream.put_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            assert await forward.it.run() is False
        assert len(forward.completed) == 1


@pytest.mark.parametrize(
    ("script", "watched"),
    [
        (((0.0, OK),), []),
        (((0.9, OK),), []),
        (((0.9, OK[:10]), (5.0, OK[10:])), [0.9]),
        (((5.0, OK),), [1.0]),
        (((0.5, OK[:-2]), (5.0, OK[-2:])), [0.5]),
        (((0.5, OK[:-1]), (5.0, OK[-1:])), [0.5]),
        (((0.5, b"HTTP/1.1 103 Early Hints\r\n\r\n"), (5.0, OK)), [0.5]),
        (((0.5, b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK),), []),
    ],
    ids=["at once", "soon", "a head in two", "late", "body behind", "body in two", "interim", "interim and answer"],
)
@in_virtual_time
async def test_attack_8_a_client_is_watched_as_soon_as_its_answer_has_to_be_waited_for(
    script: tuple[tuple[float, bytes], ...], watched: list[float]
) -> None:
    """Or one that left would hold its place, and the origin's connection, until the idle hour is over."""
    assert SOON_SECONDS == 1.0
    forward = _forward()
    await forward.ask()
    forward.client.listen()
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            for when, piece in script:
                await trio.sleep_until(when)
                await forward.origin.peer.send(piece)

        nursery.start_soon(answer)
        assert await forward.it.run() is False
    assert forward.client.asked == watched
    assert b"".join(forward.client.sent).endswith(b"\r\n\r\nhi")


@pytest.mark.parametrize("piece", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 "])
@in_virtual_time
async def test_attack_8_a_client_that_leaves_behind_the_beginning_of_an_answer_is_noticed(piece: bytes) -> None:
    """An interim response, or half a head, is no answer that anybody could be found gone by sending."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.until(HEAD)
        await origin.send(piece)
        await client.leave()
        assert await origin.rest() == b""
        assert trio.current_time() == LEAVE_SECONDS
    assert world.only()[1].outcome == "client_gone"


@in_virtual_time
async def test_a_client_is_watched_when_its_body_is_complete() -> None:
    forward = _forward(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "2")]))
    await forward.client.peer.send(post("Content-Length: 2") + b"ab")
    await forward.client.wire.receive_head()
    forward.client.listen()
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            await trio.sleep(3.0)
            await forward.origin.peer.send(OK)

        nursery.start_soon(answer)
        assert await forward.it.run() is False
    assert forward.client.asked == [0.0]


@pytest.mark.parametrize("body", [b"zz\r\n", b"-1\r\n", b"2\nhi\r\n0\r\n\r\n", b"1\r\nhi\r\n"])
@in_virtual_time
async def test_attack_5_a_body_that_is_malformed_from_the_beginning_is_a_502(body: bytes) -> None:
    """Nothing of it has left yet: the client is told in so many words, instead of a broken answer."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        answer = await client.answer()
        assert (answer.status, answer.reason) == (502, "origin_malformed")
        await client.closed()
    assert (world.only()[1].status, world.only()[1].bytes_down) == (502, 0)


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
@in_virtual_time
async def test_a_head_behind_which_nothing_has_come_is_not_held_back(framing: bytes) -> None:
    """A stream of events may begin with a long silence, and who asked wants to know that it stands."""
    world = World()
    async with connected(world) as client:
        await client.send(get())
        origin = await world.origin()
        await origin.until(HEAD)
        await trio.sleep(0.25)
        await origin.send(b"HTTP/1.1 200 OK\r\n" + framing + HEAD)
        assert framing in await client.until(HEAD)
        assert trio.current_time() == 0.25


@in_virtual_time
async def test_a_failure_says_whose_it_is_in_its_text() -> None:
    """For a traceback; `None` is nobody's."""
    assert (str(Failed(Reason.ORIGIN_CLOSED)), str(Failed(None))) == ("origin_closed", "None")


@in_virtual_time
async def test_a_tunnel_and_a_plain_request_of_one_connection_do_not_mix() -> None:
    """ATTACKS 9 (buffers across users): what was left over from one exchange is not in the next."""
    world = World()
    async with connected(world) as client:
        await exchange(world, client, get() + connect())
        assert (await client.answer()).body == b"hi"
        origin = await world.origin()
        assert (await client.until(HEAD)).split()[1] == b"200"
        await origin.silent()


@pytest.mark.parametrize(
    ("heard", "seconds", "begun"),
    [
        (OK, 0.0, [3.0]),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", 1.0, []),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, 1.0, [4.0]),
        (SWITCHING, 1.0, [3.0]),
        (b"nonsense\r\n\r\n", 0.0, []),
    ],
)
@in_virtual_time
async def test_an_answer_begins_when_it_came_however_long_the_client_takes_for_it(
    heard: bytes, seconds: float, begun: list[float]
) -> None:
    """And once: interim answers say nothing of it. seconds: for which the client does not read each piece."""
    fields = [("Host", "x"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
    forward = _forward(h11.Request(method="GET", target="/", headers=fields))
    forward.it.upgrade = True
    await forward.client.peer.send(get("http://example.com/", *UPGRADE))
    await forward.client.wire.receive_head()
    send = forward.client.ours.send_all

    async def send_all(data: bytes) -> None:
        await trio.sleep(seconds)
        await send(data)

    forward.client.ours.send_all = send_all  # type: ignore[method-assign, assignment]
    async with trio.open_nursery() as nursery:

        async def origin() -> None:
            await trio.sleep(3.0)
            await forward.origin.peer.send(heard)
            await forward.origin.peer.end()

        nursery.start_soon(origin)
        with suppress(Failed):
            await forward.it.run()
    assert forward.answered == begun
