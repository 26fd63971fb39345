"""What a tunnel is, whoever carries it: the pool, the pool without pipes, or the portable relay (ATTACKS 8).

Real connections; time is real where nothing depends on it, and moved by hand where silence does.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.net import pipes
from proxyd.net.relay import HALF_CLOSED_SECONDS, Flow
from proxyd.net.tunnels import Tunnels
from tests.net.joined import IDLE, MUCH, SMALL, Joined, Joins, joining, passes, stuffed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

BOTH_WAYS = [("client", "origin"), ("origin", "client")]


@pytest.fixture(params=["pool", "pool without pipes", "relay"])
async def join(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Joins]:
    """Makes tunnels of one kind."""
    if request.param == "pool without pipes":
        monkeypatch.setattr(pipes, "MOST", 0)
    async with joining(lambda: None if request.param == "relay" else Tunnels()) as joins:
        yield joins


def moved(joined: Joined, to: str) -> int:
    """How many octets reached a side."""
    return joined.flow.up if to == "origin" else joined.flow.down


# Bytes


async def test_bytes_pass_unchanged_both_ways_and_are_counted(join: Joins) -> None:
    joined = join()
    await joined.client.send(b"\x16\x03\x01 hello")
    assert await joined.origin.exactly(9) == b"\x16\x03\x01 hello"
    await joined.origin.send(b"hi")
    assert await joined.client.exactly(2) == b"hi"
    joined.client.end()
    joined.origin.end()
    await joined.over.wait()
    assert joined.flow == Flow(9, 2, "closed")


async def test_much_passes_unchanged_both_ways_at_once(join: Joins) -> None:
    joined = join()
    up, down = os.urandom(MUCH), os.urandom(MUCH)
    received: dict[str, bytes] = {}

    async def hear(side: str) -> None:
        received[side] = await getattr(joined, side).exactly(MUCH)

    async with trio.open_nursery() as all_four:
        all_four.start_soon(joined.client.send, up)
        all_four.start_soon(joined.origin.send, down)
        all_four.start_soon(hear, "client")
        all_four.start_soon(hear, "origin")
    assert received == {"client": down, "origin": up}
    joined.client.end()
    joined.origin.end()
    await joined.over.wait()
    assert joined.flow == Flow(MUCH, MUCH, "closed")


@pytest.mark.parametrize("size", [1, 100, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 64 * 1024, 300_000])
async def test_a_piece_of_any_size_goes_there_and_back_and_again(join: Joins, size: int) -> None:
    joined = join()
    for _ in range(5):
        data = os.urandom(size)
        for sends, hears in ((joined.client, joined.origin), (joined.origin, joined.client)):
            async with trio.open_nursery() as sending:
                sending.start_soon(sends.send, data)
                assert await hears.exactly(size) == data


@pytest.mark.parametrize(("talks", "hears"), BOTH_WAYS)
async def test_what_came_before_the_tunnel_stood_comes_first_and_counts(join: Joins, talks: str, hears: str) -> None:
    """ATTACKS 4.10."""

    def talk_and_end(joined: Joined) -> None:
        end = getattr(joined, talks)
        end.sock.send(b"late")
        end.end()

    joined = join((b"early, ", b"early, "), before=talk_and_end)
    assert await getattr(joined, hears).rest() == b"early, late"
    assert await getattr(joined, talks).exactly(7) == b"early, "
    getattr(joined, hears).end()
    await joined.over.wait()
    assert (moved(joined, hears), moved(joined, talks), joined.flow.outcome) == (11, 7, "closed")


async def test_early_bytes_go_out_although_nothing_follows(join: Joins) -> None:
    joined = join((b"hello", b""))
    assert await joined.origin.exactly(5) == b"hello"


async def test_early_bytes_that_do_not_fit_go_out_as_there_is_room(join: Joins) -> None:
    early = os.urandom(MUCH)
    joined = join((early, b""), buffers=SMALL)
    assert await joined.origin.exactly(MUCH) == early
    await joined.origin.send(b"hi")
    assert await joined.client.exactly(2) == b"hi"


@pytest.mark.parametrize("before", [1, 40_000], ids=["little", "a stream that flows"])
@pytest.mark.parametrize("ends", [True, False], ids=["and an end", "and no end"])
@pytest.mark.parametrize(("talks", "hears"), BOTH_WAYS)
async def test_urgent_data_holds_nothing_up_and_cuts_nothing_off(
    join: Joins,
    before: int,
    ends: bool,  # noqa: FBT001 - a table
    talks: str,
    hears: str,
) -> None:
    """recv(2) falls short of an urgent octet, and splice(2) never goes past it, though more has come behind."""
    first, then = os.urandom(before), b"and behind it"

    def talk(joined: Joined) -> None:
        talker = getattr(joined, talks)
        assert talker.sock.send(first) == before
        talker.sock.send(b"!", socket.MSG_OOB)
        talker.sock.send(then)
        if ends:
            talker.end()

    hearer = getattr(join(before=talk), hears)
    assert await hearer.exactly(before + len(then)) == first + then
    if ends:
        assert await hearer.rest() == b""


# Half-closes


@pytest.mark.parametrize(("asks", "answers"), BOTH_WAYS)
async def test_who_has_said_all_still_hears_the_answer(join: Joins, asks: str, answers: str) -> None:
    joined = join()
    asking, answering = getattr(joined, asks), getattr(joined, answers)
    await asking.send(b"question")
    asking.end()
    assert await answering.rest() == b"question"
    answer = os.urandom(300_000)
    async with trio.open_nursery() as sending:
        sending.start_soon(answering.send, answer)
        assert await asking.exactly(len(answer)) == answer
    answering.end()
    assert await asking.rest() == b""
    await joined.over.wait()
    assert (moved(joined, answers), moved(joined, asks)) == (8, 300_000)
    assert joined.flow.outcome == "closed"


@pytest.mark.parametrize("size", [0, 1, 60_000])
async def test_sides_that_end_before_anybody_looks_have_said_all_they_said(join: Joins, size: int) -> None:
    """Both ends of both ways come in one batch."""
    data = os.urandom(size)

    def talk_and_end(joined: Joined) -> None:
        for end in (joined.client, joined.origin):
            assert size == 0 or end.sock.send(data) == size
            end.end()

    joined = join(before=talk_and_end)
    assert (await joined.client.rest(), await joined.origin.rest()) == (data, data)
    await joined.over.wait()
    assert joined.flow == Flow(size, size, "closed")


# Breaking off


@pytest.mark.parametrize(("breaks", "other"), BOTH_WAYS)
async def test_attack_8_a_reset_of_either_side_ends_both(join: Joins, breaks: str, other: str) -> None:
    joined = join()
    await joined.client.send(b"hello")
    assert await joined.origin.exactly(5) == b"hello"
    getattr(joined, breaks).reset()
    assert await getattr(joined, other).rest() == b""
    await joined.over.wait()
    assert joined.flow == Flow(5, 0, "reset")


@pytest.mark.parametrize("breaks", ["client", "origin"])
async def test_attack_8_a_reset_before_the_tunnel_stood_ends_it(join: Joins, breaks: str) -> None:
    joined = join(before=lambda joined: getattr(joined, breaks).reset())
    assert await joined.outcome() == "reset"


async def test_a_reset_of_both_sides_at_once_is_one_reset(join: Joins) -> None:
    joined = join()
    joined.client.reset()
    joined.origin.reset()
    await joined.over.wait()
    assert joined.flow == Flow(0, 0, "reset")


@pytest.mark.parametrize(("breaks", "other"), BOTH_WAYS)
async def test_a_reset_of_a_side_that_had_ended_ends_the_tunnel(join: Joins, breaks: str, other: str) -> None:
    joined = join()
    getattr(joined, breaks).end()
    assert await getattr(joined, other).rest() == b""
    getattr(joined, breaks).reset()
    await getattr(joined, other).send(b"to nobody")
    assert await joined.outcome() == "reset"


@pytest.mark.parametrize(("breaks", "talks"), BOTH_WAYS)
async def test_attack_8_a_reset_of_a_side_that_does_not_read_ends_the_tunnel(
    join: Joins, breaks: str, talks: str
) -> None:
    joined = join(buffers=SMALL)
    await stuffed(getattr(joined, talks))
    getattr(joined, breaks).reset()
    assert await joined.outcome() == "reset"


# Slow readers


@pytest.mark.parametrize(("talks", "sleeps"), BOTH_WAYS)
async def test_attack_8_a_peer_that_never_reads_stops_the_reading_and_is_silence(
    join: Joins, mock_clock: MockClock, talks: str, sleeps: str
) -> None:
    """Bounded memory: the one who talks feels it."""
    joined = join(buffers=SMALL)
    sent = await stuffed(getattr(joined, talks))
    assert sent < 1024 * 1024
    await passes(mock_clock, IDLE - 1)
    assert not joined.over.is_set()
    await silence_ends(joined, mock_clock)
    assert 0 < moved(joined, sleeps) <= sent


async def test_early_bytes_that_nobody_takes_are_silence(join: Joins, mock_clock: MockClock) -> None:
    joined = join((bytes(MUCH), b""), buffers=SMALL)
    await silence_ends(joined, mock_clock)
    assert joined.flow.up < 1024 * 1024


async def silence_ends(joined: Joined, clock: MockClock) -> None:
    """Hold that it does, though the kernel, in its own time, now and then still finds room for a few octets."""
    for _ in range(20):
        await passes(clock, IDLE + 1)
        if joined.over.is_set():
            break
    assert joined.flow.outcome == "idle"


async def test_a_slow_reader_gets_everything_and_is_no_silence(join: Joins, mock_clock: MockClock) -> None:
    joined = join(buffers=SMALL)
    data = os.urandom(MUCH)
    async with trio.open_nursery() as sending:
        sending.start_soon(joined.client.send, data)
        for at in range(0, MUCH, MUCH // 8):
            await passes(mock_clock, IDLE - 1)
            assert await joined.origin.exactly(MUCH // 8) == data[at : at + MUCH // 8]
    assert not joined.over.is_set()


@pytest.mark.parametrize(("talks", "sleeps"), BOTH_WAYS)
async def test_one_way_that_is_stuck_does_not_hold_up_the_other(join: Joins, talks: str, sleeps: str) -> None:
    joined = join(buffers=SMALL)
    await stuffed(getattr(joined, talks))
    data = os.urandom(300_000)
    async with trio.open_nursery() as sending:
        sending.start_soon(getattr(joined, sleeps).send, data)
        assert await getattr(joined, talks).exactly(len(data)) == data


@pytest.mark.parametrize(("talks", "sleeps"), BOTH_WAYS)
async def test_who_ended_behind_a_reader_that_slept_is_heard_out(join: Joins, talks: str, sleeps: str) -> None:
    """The end is announced long before it can be read."""
    joined = join(buffers=SMALL)
    sent = await stuffed(getattr(joined, talks))
    getattr(joined, talks).end()
    await wait_all_tasks_blocked()
    assert await getattr(joined, sleeps).rest() == b"x" * sent
    getattr(joined, sleeps).end()
    assert await joined.outcome() == "closed"
    assert moved(joined, sleeps) == sent


async def test_who_ended_is_heard_out_although_the_other_has_ended_too(join: Joins, mock_clock: MockClock) -> None:
    """Of such a socket the kernel says POLLHUP, which is no reset."""
    joined = join(buffers=SMALL)
    sent = await stuffed(joined.client)
    joined.client.end()
    joined.origin.end()
    assert await joined.client.rest() == b""
    for _ in range(5):
        await passes(mock_clock, 2)
    assert not joined.over.is_set()
    assert await joined.origin.rest() == b"x" * sent
    assert (await joined.outcome(), joined.flow.up) == ("closed", sent)


async def test_attack_8_a_client_that_breaks_off_is_noticed_behind_what_nobody_takes(
    join: Joins, mock_clock: MockClock
) -> None:
    """Nobody reads it meanwhile; it held its place and two files for the idle hour."""
    joined = join(buffers=SMALL)
    await stuffed(joined.client)
    await passes(mock_clock, 100)
    assert not joined.over.is_set()
    joined.client.reset()
    await passes(mock_clock, 2)
    assert joined.over.is_set()
    assert joined.flow.outcome == "reset"


# Silence


async def test_attack_8_silence_ends_the_tunnel_within_a_second(join: Joins, mock_clock: MockClock) -> None:
    joined = join()
    await passes(mock_clock, IDLE - 1)
    assert not joined.over.is_set()
    await passes(mock_clock, 2)
    assert await joined.outcome() == "idle"
    assert (await joined.client.rest(), await joined.origin.rest()) == (b"", b"")


@pytest.mark.parametrize(("talks", "hears"), BOTH_WAYS)
async def test_whatever_moves_either_way_begins_the_silence_anew(
    join: Joins, mock_clock: MockClock, talks: str, hears: str
) -> None:
    joined = join()
    for _ in range(3):
        await passes(mock_clock, IDLE - 1)
        await getattr(joined, talks).send(b"x")
        await getattr(joined, hears).exactly(1)
    await passes(mock_clock, IDLE - 1)
    assert not joined.over.is_set()
    await passes(mock_clock, 2)
    assert await joined.outcome() == "idle"
    assert moved(joined, hears) == 3


@pytest.mark.parametrize(("ends", "other"), BOTH_WAYS)
async def test_attack_8_once_a_side_has_ended_silence_may_last_two_minutes(
    join: Joins, mock_clock: MockClock, ends: str, other: str
) -> None:
    """A peer that is gone ends its side like one that has said all."""
    assert HALF_CLOSED_SECONDS == 120.0 < IDLE
    joined = join()
    await passes(mock_clock, 10)
    getattr(joined, ends).end()
    assert await getattr(joined, other).rest() == b""
    await passes(mock_clock, HALF_CLOSED_SECONDS - 1)
    assert not joined.over.is_set()
    await passes(mock_clock, 2)
    assert await joined.outcome() == "idle"


@pytest.mark.parametrize(("ends", "talks"), BOTH_WAYS)
async def test_a_half_open_tunnel_stands_as_long_as_the_other_side_talks(
    join: Joins, mock_clock: MockClock, ends: str, talks: str
) -> None:
    """The neighbour of the one before: each piece begins the two minutes anew, and nothing the idle seconds."""
    joined = join()
    getattr(joined, ends).end()
    assert await getattr(joined, talks).rest() == b""
    for _ in range(5):
        await passes(mock_clock, HALF_CLOSED_SECONDS - 1)
        await getattr(joined, talks).send(b"x")
        assert await getattr(joined, ends).exactly(1) == b"x"
    await passes(mock_clock, HALF_CLOSED_SECONDS - 1)
    assert not joined.over.is_set()
    await passes(mock_clock, 2)
    assert await joined.outcome() == "idle"
    assert moved(joined, ends) == 5


async def test_no_silence_lasts_longer_than_the_idle_seconds_half_open_or_not(
    join: Joins, mock_clock: MockClock
) -> None:
    joined = join(idle_seconds=7)
    joined.client.end()
    assert await joined.origin.rest() == b""
    await passes(mock_clock, 6)
    assert not joined.over.is_set()
    await passes(mock_clock, 2)
    assert await joined.outcome() == "idle"
