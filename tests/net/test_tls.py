"""TLS as a server: two halves that end by themselves, no octet lost, and no peer that ends more than itself.

The peer is Python's own TLS, over a real connection (R1, ATTACKS 8).
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import warnings
from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.net.stream import broken_off, hang_up, wait_until_ended
from tests.net.joined import MUCH, SMALL
from tests.net.secure import Client, Ends, agreed, received, refused

if TYPE_CHECKING:
    from proxyd.net.tls import TlsStream


FIRST: Final = 5 + 16_384 + 24  # octets of a first record, whatever the version


# What is agreed


@pytest.mark.parametrize(
    ("offered", "chosen"), [((), None), (("http/1.1",), "http/1.1"), (("h2", "http/1.1"), "http/1.1"), (("h2",), None)]
)
async def test_r1_nothing_but_http_1_1_is_agreed_on(
    raw: tuple[TlsStream, socket.socket], trust: ssl.SSLContext, offered: tuple[str, ...], chosen: str | None
) -> None:
    if offered:
        trust.set_alpn_protocols(offered)
    _, client = await agreed(raw, trust)
    assert client.tls.selected_alpn_protocol() == chosen


async def test_the_newest_version_is_agreed_on(
    raw: tuple[TlsStream, socket.socket], trust: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    _, client = await agreed(raw, trust)
    assert client.tls.version() == "TLSv1.3"
    assert context.options & ssl.OP_NO_RENEGOTIATION


async def test_a_client_that_knows_only_old_tls_is_refused(
    raw: tuple[TlsStream, socket.socket], trust: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    """RFC 9325 §3.1.1: by the version alone; the ciphers would do."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    trust.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_1
    stream, far = raw
    client = Client(far, trust)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, stream, "UNSUPPORTED_PROTOCOL")
        with pytest.raises(ssl.SSLError, match="alert protocol version"):
            await client.handshake()


# Octets


async def test_octets_come_and_go(ends: Ends) -> None:
    stream, client = ends
    await stream.send_all(b"question")
    assert await client.exactly(8) == b"question"
    await client.send(b"answer")
    assert await stream.receive_some(3) == b"ans"
    assert await stream.receive_some() == b"wer"


async def test_room_can_be_waited_for(ends: Ends) -> None:
    stream, _ = ends
    await stream.wait_send_all_might_not_block()


async def test_much_goes_both_ways_at_once(ends: Ends) -> None:
    stream, client = ends
    up, down = os.urandom(MUCH), os.urandom(MUCH)
    heard: list[bytes] = []

    async def hear() -> None:
        heard.append(await received(stream))

    async def upload() -> None:
        for at in range(0, MUCH, SMALL):
            await client.send(up[at : at + SMALL])
        await client.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, down)
        nursery.start_soon(hear)
        nursery.start_soon(upload)
        assert await client.exactly(MUCH) == down
    assert heard == [up]


async def test_attack_8_a_client_that_reads_nothing_before_it_has_sent_all_is_heard(ends: Ends) -> None:
    """To receive must not wait for what is being sent: the client would wait for us, and we for the client."""
    stream, client = ends
    up, down = os.urandom(MUCH), os.urandom(MUCH)
    heard: list[bytes] = []

    async def hear() -> None:
        heard.append(await received(stream))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, down)
        await wait_all_tasks_blocked()
        nursery.start_soon(hear)
        await client.send(up)
        await client.end()
        assert await client.exactly(MUCH) == down
    assert heard == [up]


# Ends


@pytest.mark.parametrize("fin", [True, False])
async def test_the_client_may_end_first(ends: Ends, *, fin: bool) -> None:
    stream, client = ends
    await client.send(b"request")
    await client.end(fin=fin)
    assert await received(stream) == b"request"
    await stream.send_all(b"answer")
    await stream.send_eof()
    assert await client.rest() == (b"answer", "in order")


async def test_we_may_end_first_and_hear_the_rest(ends: Ends) -> None:
    stream, client = ends
    data = os.urandom(100_000)
    await stream.send_all(b"answer")
    await stream.send_eof()
    wire = client.encrypted(data)  # before it hears of the end, which OpenSSL answers with its own
    assert await client.rest() == (b"answer", "in order")
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"more")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_raw, wire)
        heard = b""
        while len(heard) < len(data):
            heard += await stream.receive_some()
    assert heard == data
    client.sock.shutdown(socket.SHUT_WR)
    assert await received(stream) == b""


@pytest.mark.parametrize("cut", [0, 1, 5, 6, 30, 16_000, 16_384, 16_406, 16_413, 20_000])
async def test_attack_8_what_has_come_when_we_end_is_not_lost_nor_what_comes_after(ends: Ends, cut: int) -> None:
    """An upload goes on while its answer ends: OpenSSL throws away what it finds while it looks for a close_notify."""
    stream, client = ends
    data = os.urandom(40_000)
    wire = client.encrypted(data)
    await client.send_raw(wire[: FIRST + cut])
    heard = await stream.receive_some(5)
    await stream.send_eof()
    await client.send_raw(wire[FIRST + cut :])
    await client.end()
    assert heard + await received(stream) == data
    assert await client.rest() == (b"", "in order")


async def test_to_close_is_not_to_end_in_order(ends: Ends) -> None:
    """An HTTP/1.0 answer ends with the connection: one that broke off must not look complete (RFC 9112 §9.8)."""
    stream, client = ends
    await stream.send_all(b"half an ans")
    await stream.aclose()
    assert await client.rest() == (b"half an ans", "ragged")


async def test_who_waits_is_told_when_we_close(ends: Ends) -> None:
    stream, _ = ends
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await hang_up(stream)


async def test_a_client_that_ends_without_a_word_has_ended(ends: Ends) -> None:
    """Many do; the framing of HTTP says whether something is missing."""
    stream, client = ends
    await client.send(b"request")
    client.sock.shutdown(socket.SHUT_WR)
    assert await received(stream) == b"request"


async def test_attack_8_a_client_that_leaves_behind_what_is_not_received_is_noticed(ends: Ends) -> None:
    stream, client = ends
    await client.send(b"nobody takes this")
    client.sock.shutdown(socket.SHUT_WR)
    await wait_until_ended(stream)
    assert not broken_off(stream)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()
    assert broken_off(stream)


async def test_a_client_that_ends_in_the_middle_of_a_record_has_ended_before_it(ends: Ends) -> None:
    """What is not authenticated is not heard."""
    stream, client = ends
    await client.send(b"whole")
    await client.send_raw(client.encrypted(b"half")[:-1])
    client.sock.shutdown(socket.SHUT_WR)
    assert await received(stream) == b"whole"
