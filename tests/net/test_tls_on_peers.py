"""TLS with peers that break its rules or leave, and tasks that are cancelled: nothing else breaks (ATTACKS 8)."""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.net.stream import TcpStream, hang_up
from proxyd.net.tls import TlsStream
from tests.net.joined import MUCH, PATIENCE, connected
from tests.net.secure import VERSIONS, Client, Ends, received, refused

if TYPE_CHECKING:
    from collections.abc import Callable


ALERT: Final = 21  # RFC 8446 §5.1


# Peers that break the rules


@pytest.mark.parametrize("garbage", [b"\0" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\x00\x20" + b"\xff" * 32])
async def test_attack_8_garbage_ends_the_connection_and_its_sender_is_told_why(ends: Ends, garbage: bytes) -> None:
    stream, client = ends
    await client.send_raw(garbage)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    with pytest.raises(ssl.SSLError, match="alert"):
        await client.exactly(1)


async def test_attack_8_garbage_that_is_found_when_we_end_ends_the_connection_too(ends: Ends) -> None:
    stream, client = ends
    await client.send(b"whole")
    assert await stream.receive_some(1) == b"w"
    await client.send(b"whole")
    await client.send_raw(b"\0" * 64)
    assert await stream.receive_some() == b"hole"
    assert await stream.receive_some(1) == b"w"
    with suppress(trio.BrokenResourceError):
        await stream.send_eof()
    assert await stream.receive_some() == b"hole"
    with suppress(trio.BrokenResourceError):
        assert await stream.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"more")


async def test_a_reset_is_what_it_is_everywhere(ends: Ends) -> None:
    stream, client = ends
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()
    for act in (stream.receive_some, lambda: stream.send_all(b"x" * MUCH), stream.send_eof):
        with pytest.raises(trio.BrokenResourceError):
            await act()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x16",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
        b"\0" * 1024,
        b"\xff" * 20_000,
        b"\x80\x2e\x01\x00\x02" + b"\0" * 44,
    ],
    ids=["nothing", "an octet", "a beginning", "HTTP", "CONNECT", "zeros", "much", "SSLv2"],
)
async def test_attack_8_a_handshake_with_one_who_speaks_no_tls_fails(
    raw: tuple[TlsStream, socket.socket], said: bytes
) -> None:
    stream, far = raw
    far.send(said)
    far.shutdown(socket.SHUT_WR)
    await refused(stream)
    await stream.aclose()
    far.settimeout(PATIENCE)
    with suppress(ConnectionResetError):
        answer = far.recv(1000)
        assert not answer or answer[0] == ALERT, "and nothing else is said to them"


async def test_attack_8_a_handshake_that_is_reset_fails(raw: tuple[TlsStream, socket.socket]) -> None:
    stream, far = raw
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    await refused(stream)


async def test_attack_8_a_client_that_leaves_in_the_middle_of_the_handshake_fails_it(
    raw: tuple[TlsStream, socket.socket], trust: ssl.SSLContext
) -> None:
    stream, far = raw
    client = Client(far, trust, "not.this.example")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, stream)
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.handshake()
        client.sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_attack_8_whichever_octet_of_a_client_is_another_nothing_but_the_connection_breaks(
    context: ssl.SSLContext, trust: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    trust.minimum_version = trust.maximum_version = version
    for place in range(0, 800, 9):
        near, far = connected()
        stream, client = TlsStream(TcpStream(near), context), Client(far, trust)
        client.change = _flipping(place)
        with far:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_serve, stream)
                nursery.start_soon(_ask, client)
                await wait_all_tasks_blocked(0.01)  # perhaps both wait, for what one of them took to be longer
                with suppress(OSError):
                    far.shutdown(socket.SHUT_WR)
        assert near.fileno() == -1


def _flipping(place: int) -> Callable[[bytes], bytes]:
    """Changes the octet at that place of all that is sent."""
    sent = 0

    def change(wire: bytes) -> bytes:
        nonlocal sent
        at, sent = place - sent, sent + len(wire)
        return wire[:at] + bytes([wire[at] ^ 1]) + wire[at + 1 :] if 0 <= at < len(wire) else wire

    return change


async def _ask(client: Client) -> None:
    with suppress(ssl.SSLError, trio.BrokenResourceError):
        await client.handshake()
        await client.send(b"request")
        await client.rest()


async def _serve(stream: TlsStream) -> None:
    """What a session does; whatever else is raised fails the test."""
    with suppress(trio.BrokenResourceError):
        await stream.handshake()
        assert await stream.receive_some() in (b"request", b"")
        await stream.send_all(b"answer")
        await stream.send_eof()
        assert await stream.receive_some() == b""
    await stream.aclose()


# Whoever is cancelled


async def test_a_receiver_that_is_cancelled_loses_no_octet(ends: Ends) -> None:
    """A request whose beginning was lost would be read as another one (ATTACKS 5)."""
    stream, client = ends
    await client.send(b"1" * 16_384 + b"2" * 16_384 + b"3" * 16_384)
    await client.end()
    heard = bytearray(await stream.receive_some(10))
    for _ in range(6):
        with trio.CancelScope() as scope:
            scope.cancel()
            heard += await stream.receive_some(10_000)
    heard += await received(stream)
    assert heard == b"1" * 16_384 + b"2" * 16_384 + b"3" * 16_384


async def test_a_receiver_that_waited_in_vain_can_be_followed_by_another(ends: Ends) -> None:
    stream, client = ends
    with trio.move_on_after(0):
        await stream.receive_some()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await client.send(b"late")
    assert await stream.receive_some() == b"late"


async def test_a_sender_that_is_cancelled_in_the_middle_leaves_nothing_that_looks_whole(ends: Ends) -> None:
    stream, client = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"x" * MUCH)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await stream.send_eof()
    await stream.aclose()
    with pytest.raises(ssl.SSLError):
        await client.exactly(MUCH)


async def test_a_handshake_that_is_cancelled_leaves_nothing(raw: tuple[TlsStream, socket.socket]) -> None:
    stream, far = raw
    far.send(b"\x16\x03\x01\x02\x00\x01")
    with trio.move_on_after(0.01) as scope:
        await stream.handshake()
    assert scope.cancelled_caught
    await hang_up(stream)
    far.settimeout(PATIENCE)
    with suppress(ConnectionResetError):
        assert far.recv(1) == b""
