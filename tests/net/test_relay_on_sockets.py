"""The portable relay on real sockets: TCP ends and resets as streams in memory do, and says who is gone (ATTACKS 8)."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from proxyd.net.relay import Flow
from proxyd.net.stream import LOOK_SECONDS
from tests.net.joined import SMALL, joining, passes, stuffed
from tests.net.test_relay import Tunnel, received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


@pytest.mark.parametrize("early", [b"", b"early"])
async def test_attack_8_a_client_that_breaks_off_is_noticed_within_a_second_behind_what_nobody_takes(
    early: bytes, mock_clock: MockClock
) -> None:
    """Nobody reads it meanwhile. That its other direction stands still is no sign: it may have nothing to hear."""
    async with joining(lambda: None) as join:
        joined = join((early, b""), buffers=SMALL)
        await stuffed(joined.client)
        joined.client.reset()
        await passes(mock_clock, LOOK_SECONDS)
        assert (joined.over.is_set(), joined.flow.outcome) == (True, "reset")


async def test_a_client_that_only_ends_behind_what_nobody_takes_is_there(mock_clock: MockClock) -> None:
    """The neighbour of the one before."""
    async with joining(lambda: None) as join:
        joined = join(buffers=SMALL)
        sent = await stuffed(joined.client)
        joined.client.end()
        await passes(mock_clock, 10 * LOOK_SECONDS)
        assert await joined.origin.rest() == b"x" * sent
        assert joined.flow == Flow(sent, 0, "cancelled"), "it runs"


async def test_what_an_origin_sent_before_it_broke_off_is_not_cut_short_by_a_look(mock_clock: MockClock) -> None:
    """An origin that closes without having read everything resets; its answer is on its way still."""
    async with joining(lambda: None) as join:
        joined = join(buffers=SMALL)
        await stuffed(joined.origin)
        taken = joined.flow.down
        joined.origin.reset()
        await passes(mock_clock, 10 * LOOK_SECONDS)
        assert joined.flow.outcome == "cancelled", "it runs"
        assert len(await joined.client.rest()) == joined.flow.down > taken
        assert await joined.outcome() == "reset"


@asynccontextmanager
async def loopback() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """The two ends of a real TCP connection."""
    with trio.socket.socket() as listener, trio.socket.socket() as client:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        await client.connect(listener.getsockname())
        accepted, _ = await listener.accept()
        async with trio.SocketStream(client) as far, trio.SocketStream(accepted) as near:
            yield far, near


async def test_real_sockets_close_in_good_order(nursery: trio.Nursery) -> None:
    async with loopback() as (client, near_client), loopback() as (origin, near_origin):
        made = Tunnel(client, origin)
        nursery.start_soon(made.run, near_client, near_origin)
        await client.send_all(b"question")
        await client.send_eof()
        assert await received(origin) == b"question"
        await origin.send_all(b"answer")
        await origin.aclose()
        assert await received(client) == b"answer"
        await made.ended.wait()
        assert made.flow == Flow(8, 6, "closed")


async def test_a_real_reset_ends_the_tunnel(nursery: trio.Nursery) -> None:
    async with loopback() as (client, near_client), loopback() as (origin, near_origin):
        made = Tunnel(client, origin)
        nursery.start_soon(made.run, near_client, near_origin)
        await client.send_all(b"hello")
        assert await origin.receive_some() == b"hello"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        await made.ended.wait()
        assert made.flow == Flow(5, 0, "reset")
