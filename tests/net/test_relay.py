"""The portable relay: half-closes, silence, resets and slow readers, each to the tick and to the octet (ATTACKS 8).

In virtual time between streams in memory; test_relay_on_sockets.py shows that TCP behaves as they do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from proxyd.net.relay import HALF_CLOSED_SECONDS, PIECE, Flow, relay

if TYPE_CHECKING:
    from trio.abc import HalfCloseableStream
    from trio.testing import MockClock

IDLE: Final = 300.0
HOUR: Final = 3600.0


@dataclass
class Tunnel:
    """The far ends of a relay that runs, and what it reports."""

    client: HalfCloseableStream
    origin: HalfCloseableStream
    flow: Flow = field(default_factory=Flow)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    at: float = -1.0

    async def run(
        self, client: HalfCloseableStream, origin: HalfCloseableStream, early: tuple[bytes, bytes] = (b"", b"")
    ) -> None:
        """Relay between the near ends."""
        with self.scope:
            await relay(client, origin, IDLE, self.flow, early)
        self.at = trio.current_time()
        self.ended.set()


def tunnel(nursery: trio.Nursery, early: tuple[bytes, bytes] = (b"", b""), *, lockstep: bool = False) -> Tunnel:
    """A relay under way; in lockstep, a stream holds nothing that its reader did not ask for."""
    pair = lockstep_stream_pair if lockstep else memory_stream_pair
    (client, near_client), (origin, near_origin) = pair(), pair()
    made = Tunnel(client, origin)
    nursery.start_soon(made.run, near_client, near_origin, early)
    return made


async def received(stream: HalfCloseableStream) -> bytes:
    """Everything up to its end."""
    return b"".join([bytes(piece) async for piece in stream])


# Bytes


async def test_bytes_pass_unchanged_both_ways_and_are_counted(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    made = tunnel(nursery)
    await made.client.send_all(b"\x16\x03\x01 hello")
    assert await made.origin.receive_some() == b"\x16\x03\x01 hello"
    await made.origin.send_all(b"hi")
    assert await made.client.receive_some() == b"hi"
    assert (made.flow.up, made.flow.down, made.flow.outcome) == (9, 2, "cancelled"), "readable while it runs"
    assert autojump_clock.current_time() == 0


async def test_attack_4_10_early_bytes_go_first_and_count(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    made = tunnel(nursery, (b"early up, ", b"early down, "))
    await made.client.send_all(b"late")
    await made.client.send_eof()
    await made.origin.send_all(b"late")
    await made.origin.send_eof()
    assert await received(made.origin) == b"early up, late"
    assert await received(made.client) == b"early down, late"
    await made.ended.wait()
    assert (made.flow.up, made.flow.down, made.flow.outcome) == (14, 16, "closed")
    assert autojump_clock.current_time() == 0


async def test_early_bytes_go_out_although_nothing_follows(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    made = tunnel(nursery, (b"hello", b""))
    assert await made.origin.receive_some() == b"hello"
    assert (made.flow.up, autojump_clock.current_time()) == (5, 0)


async def test_much_data_passes_in_pieces(nursery: trio.Nursery) -> None:
    data = bytes(range(256)) * 4096
    made = tunnel(nursery)
    await made.client.send_all(data)
    await made.client.send_eof()
    assert await received(made.origin) == data
    assert made.flow.up == len(data) > 10 * PIECE


# Half-closes


async def test_a_client_that_has_said_all_still_hears_the_answer(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    made = tunnel(nursery)
    await made.client.send_all(b"question")
    await made.client.send_eof()
    assert await received(made.origin) == b"question"
    await trio.sleep(100)
    await made.origin.send_all(b"answer")
    await made.origin.send_eof()
    assert await received(made.client) == b"answer"
    await made.ended.wait()
    assert (made.flow, made.at) == (Flow(8, 6, "closed"), 100)
    assert autojump_clock.current_time() == 100


async def test_an_origin_that_has_said_all_still_hears_the_client(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    made = tunnel(nursery)
    await made.origin.send_all(b"banner")
    await made.origin.send_eof()
    assert await received(made.client) == b"banner"
    await trio.sleep(100)
    await made.client.send_all(b"data")
    await made.client.send_eof()
    assert await received(made.origin) == b"data"
    await made.ended.wait()
    assert (made.flow, autojump_clock.current_time()) == (Flow(4, 6, "closed"), 100)


async def test_a_tunnel_in_which_nothing_was_said_closes_too(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    made = tunnel(nursery)
    await made.client.send_eof()
    await made.origin.send_eof()
    await made.ended.wait()
    assert (made.flow, autojump_clock.current_time()) == (Flow(0, 0, "closed"), 0)


async def test_the_relay_closes_neither_stream() -> None:
    """They belong to who made them."""
    (client, near_client), (origin, near_origin) = memory_stream_pair(), memory_stream_pair()
    await client.send_eof()
    await origin.send_eof()
    await relay(near_client, near_origin, IDLE, Flow())
    for stream in (near_client, near_origin):
        assert await stream.receive_some() == b""


# Silence


async def test_attack_8_silence_ends_the_tunnel_to_the_tick(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    made = tunnel(nursery)
    await made.ended.wait()
    assert (made.flow, autojump_clock.current_time()) == (Flow(0, 0, "idle"), IDLE)


@pytest.mark.parametrize("side", ["client", "origin"])
async def test_whatever_moves_either_way_begins_the_silence_anew(
    autojump_clock: MockClock, nursery: trio.Nursery, side: str
) -> None:
    made = tunnel(nursery)
    talks: HalfCloseableStream = getattr(made, side)
    for _ in range(3):
        await trio.sleep(IDLE - 1)
        await talks.send_all(b"x")
    await made.ended.wait()
    assert (made.flow.outcome, made.flow.up + made.flow.down) == ("idle", 3)
    assert autojump_clock.current_time() == 3 * (IDLE - 1) + IDLE


@pytest.mark.parametrize("side", ["client", "origin"])
async def test_attack_8_once_a_side_has_ended_silence_may_last_two_minutes(
    autojump_clock: MockClock, nursery: trio.Nursery, side: str
) -> None:
    """A peer that is gone ends its side like one that has said all: for the idle hour it held a place and two files."""
    assert HALF_CLOSED_SECONDS == 120.0 < IDLE
    made = tunnel(nursery)
    await trio.sleep(10)
    await getattr(made, side).send_eof()
    await made.ended.wait()
    assert (made.flow.outcome, autojump_clock.current_time()) == ("idle", 10 + HALF_CLOSED_SECONDS)


@pytest.mark.parametrize(("ends", "talks"), [("client", "origin"), ("origin", "client")])
async def test_a_half_open_tunnel_stands_as_long_as_the_other_side_talks(
    autojump_clock: MockClock, nursery: trio.Nursery, ends: str, talks: str
) -> None:
    """The neighbour of the one before: each piece begins the two minutes anew, and nothing the idle seconds."""
    made = tunnel(nursery)
    await getattr(made, ends).send_eof()
    for _ in range(5):
        await trio.sleep(HALF_CLOSED_SECONDS - 1)
        await getattr(made, talks).send_all(b"x")
    await made.ended.wait()
    assert (made.flow.outcome, made.flow.up + made.flow.down) == ("idle", 5)
    assert autojump_clock.current_time() == 5 * (HALF_CLOSED_SECONDS - 1) + HALF_CLOSED_SECONDS


async def test_attack_8_a_half_open_tunnel_is_not_prolonged_by_what_nobody_takes(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    made = tunnel(nursery, (b"nobody takes this", b""), lockstep=True)
    await made.origin.send_eof()
    await made.ended.wait()
    assert (made.flow, autojump_clock.current_time()) == (Flow(0, 0, "idle"), HALF_CLOSED_SECONDS)


async def test_no_silence_lasts_longer_than_the_idle_seconds_half_open_or_not(autojump_clock: MockClock) -> None:
    (client, near_client), (_, near_origin) = memory_stream_pair(), memory_stream_pair()
    await client.send_eof()
    flow = Flow()
    await relay(near_client, near_origin, 7, flow)
    assert (flow.outcome, autojump_clock.current_time()) == ("idle", 7)


async def test_early_bytes_that_nobody_takes_are_silence(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    made = tunnel(nursery, (b"early", b""), lockstep=True)
    await made.ended.wait()
    assert (made.flow, autojump_clock.current_time()) == (Flow(0, 0, "idle"), IDLE)


# Slow readers


@pytest.mark.parametrize("upwards", [True, False], ids=["up", "down"])
async def test_attack_8_a_peer_that_never_reads_stops_the_reading(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    upwards: bool,  # noqa: FBT001 - a table
) -> None:
    """One piece is on its way; the next is not even asked for, so the sender feels it."""
    made = tunnel(nursery, lockstep=True)
    talks = made.client if upwards else made.origin
    sent = 0
    with trio.move_on_after(IDLE - 1):
        while True:
            await talks.send_all(b"x" * PIECE)
            sent += PIECE
    assert sent == PIECE
    await made.ended.wait()
    assert (made.flow, autojump_clock.current_time()) == (Flow(0, 0, "idle"), IDLE)


async def test_a_slow_reader_gets_everything_and_is_no_silence(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    made = tunnel(nursery, lockstep=True)

    async def talk() -> None:
        for _ in range(10):
            await made.client.send_all(b"x")

    nursery.start_soon(talk)
    for _ in range(10):
        await trio.sleep(IDLE - 1)
        assert await made.origin.receive_some() == b"x"
    await wait_all_tasks_blocked()
    assert made.flow == Flow(10, 0, "cancelled"), "it runs"
    assert autojump_clock.current_time() == 10 * (IDLE - 1)


async def test_one_direction_that_is_stuck_does_not_hold_up_the_other(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    made = tunnel(nursery, lockstep=True)
    await made.client.send_all(b"nobody takes this")
    nursery.start_soon(made.origin.send_all, b"hi")
    assert await made.client.receive_some() == b"hi"
    await wait_all_tasks_blocked()
    assert (made.flow.down, made.flow.up, autojump_clock.current_time()) == (2, 0, 0)


# Breaking off


class Broken(trio.abc.HalfCloseableStream):
    """A stream whose peer reset the connection after `seconds`."""

    def __init__(self, seconds: float, error: type[Exception] = trio.BrokenResourceError) -> None:
        self.seconds = seconds
        self.error = error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Break off."""
        assert max_bytes == PIECE
        await trio.sleep(self.seconds)
        raise self.error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Break off."""
        assert data
        await trio.lowlevel.checkpoint()
        raise self.error

    async def wait_send_all_might_not_block(self) -> None:
        """There is room."""

    async def send_eof(self) -> None:
        """Break off."""
        await trio.lowlevel.checkpoint()
        raise self.error

    async def aclose(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("error", [trio.BrokenResourceError, trio.ClosedResourceError])
@pytest.mark.parametrize("client_breaks", [True, False], ids=["client", "origin"])
async def test_attack_8_a_reset_of_either_side_ends_both(
    autojump_clock: MockClock,
    error: type[Exception],
    client_breaks: bool,  # noqa: FBT001 - a table
) -> None:
    broken, (near, _) = Broken(7, error), memory_stream_pair()
    flow = Flow()
    await (relay(broken, near, IDLE, flow) if client_breaks else relay(near, broken, IDLE, flow))
    assert (flow, autojump_clock.current_time()) == (Flow(0, 0, "reset"), 7)


async def test_a_reset_of_both_sides_at_once_is_one_reset(autojump_clock: MockClock) -> None:
    flow = Flow()
    await relay(Broken(7), Broken(7), IDLE, flow)
    assert (flow.outcome, autojump_clock.current_time()) == ("reset", 7)


async def test_bytes_that_a_reset_side_did_not_take_are_not_counted(autojump_clock: MockClock) -> None:
    flow = Flow()
    near, far = memory_stream_pair()
    await far.send_all(b"lost")
    await relay(near, Broken(HOUR), IDLE, flow)
    assert (flow, autojump_clock.current_time()) == (Flow(0, 0, "reset"), 0)


async def test_an_end_that_cannot_be_passed_on_is_a_reset(autojump_clock: MockClock) -> None:
    flow = Flow()
    near, far = memory_stream_pair()
    await far.send_eof()
    await relay(near, Broken(HOUR), IDLE, flow)
    assert (flow.outcome, autojump_clock.current_time()) == ("reset", 0)


async def test_a_bug_is_no_reset() -> None:
    near, _ = memory_stream_pair()
    with pytest.RaisesGroup(ZeroDivisionError):
        await relay(near, Broken(0, ZeroDivisionError), IDLE, Flow())


async def test_a_relay_that_was_cancelled_says_so_and_how_far_it_came(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    made = tunnel(nursery, (b"", b"hi"))
    await made.client.send_all(b"hello")
    await trio.sleep(5)
    made.scope.cancel()
    await made.ended.wait()
    assert (made.flow, autojump_clock.current_time()) == (Flow(5, 2, "cancelled"), 5)
