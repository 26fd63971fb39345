"""A TCP stream that asks the kernel first: the same words as trio's own, no octet lost, and everybody has a turn."""

from __future__ import annotations

import errno
import os
import socket
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
from trio.lowlevel import checkpoint
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from proxyd.net.stream import LOOK_SECONDS, TURN, TcpStream, broken_off, hang_up, wait_until_ended
from tests.net.joined import MUCH, SMALL, End, connected, open_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock


@pytest.fixture
async def ends() -> AsyncIterator[tuple[TcpStream, End]]:
    """A stream, and the far end of its connection. No descriptor is left."""
    before = open_files()
    near, far = connected(SMALL)
    stream, end = TcpStream(near), End(far)
    yield stream, end
    near.close()
    end.leave()
    assert open_files() == before


Ends = tuple[TcpStream, End]
CALLS: list[Callable[[TcpStream], Awaitable[object]]] = [
    TcpStream.receive_some,
    lambda stream: stream.send_all(b"x"),
    TcpStream.send_eof,
]


# Octets


async def test_octets_come_and_go(ends: Ends) -> None:
    stream, end = ends
    await stream.send_all(b"question")
    assert await end.exactly(8) == b"question"
    await end.send(b"answer")
    assert await stream.receive_some(3) == b"ans"
    assert await stream.receive_some() == b"wer"


async def test_it_waits_for_what_has_not_come_yet(ends: Ends, nursery: trio.Nursery) -> None:
    stream, end = ends
    received: list[bytes] = []

    async def hear() -> None:
        received.append(await stream.receive_some())

    nursery.start_soon(hear)
    await wait_all_tasks_blocked()
    await end.send(b"late")
    while not received:
        await checkpoint()
    assert received == [b"late"]


async def test_much_is_sent_as_there_is_room(ends: Ends, nursery: trio.Nursery) -> None:
    stream, end = ends
    data = os.urandom(MUCH)
    nursery.start_soon(stream.send_all, bytearray(data))
    await wait_all_tasks_blocked()
    assert await end.exactly(MUCH) == data


async def test_room_can_be_waited_for(ends: Ends, nursery: trio.Nursery) -> None:
    stream, end = ends
    await stream.wait_send_all_might_not_block()
    sent = End(stream.socket).stuff(MUCH)
    there_is_room = trio.Event()

    async def wait() -> None:
        await stream.wait_send_all_might_not_block()
        there_is_room.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert not there_is_room.is_set()
    await end.exactly(sent)
    await there_is_room.wait()


async def test_each_side_ends_by_itself(ends: Ends) -> None:
    stream, end = ends
    await stream.send_all(b"all")
    await stream.send_eof()
    assert await end.rest() == b"all"
    await end.send(b"more")
    end.end()
    assert [data async for data in stream] == [b"more"]


# Whether anything was said unasked


def nothing(_: TcpStream, __: End) -> None:
    """Nothing happens."""


@pytest.mark.parametrize(
    ("happens", "quiet"),
    [
        (nothing, True),
        (lambda _, end: end.sock.send(b"x"), False),
        (lambda _, end: end.end(), False),
        (lambda _, end: end.reset(), False),
        (lambda stream, _: stream.close(), False),
    ],
    ids=["nothing", "said something", "ended", "reset", "closed by us"],
)
async def test_quiet_is_only_who_is_there_and_says_nothing(
    ends: Ends,
    happens: Callable[[TcpStream, End], None],
    quiet: bool,  # noqa: FBT001 - a table
) -> None:
    stream, end = ends
    happens(stream, end)
    assert stream.quiet is quiet


async def test_to_ask_whether_it_is_quiet_takes_nothing(ends: Ends) -> None:
    stream, end = ends
    await end.send(b"hello")
    assert not stream.quiet
    assert await stream.receive_some() == b"hello"
    assert stream.quiet


# Whether anybody is there, though nothing is received


def ends_behind_much(_: TcpStream, end: End) -> None:
    """It fills what the kernel holds for us, but for a little; its end comes behind that."""
    end.sock.send(bytes(SMALL // 4))
    end.end()


def both_end(stream: TcpStream, end: End) -> None:
    """What it has sent is there still."""
    end.sock.send(b"x")
    end.end()
    stream.socket.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("happens", "broken"),
    [
        (nothing, False),
        (lambda _, end: end.sock.send(b"x"), False),
        (lambda _, end: end.end(), False),
        (both_end, False),
        (lambda _, end: end.reset(), True),
        (lambda _, end: (end.sock.send(b"x"), end.reset()), True),
        (lambda _, end: (end.end(), end.reset()), True),
        (lambda stream, _: stream.close(), True),
    ],
    ids=["nothing", "spoke", "ended", "both ended", "reset", "spoke and reset", "ended and reset", "closed by us"],
)
async def test_attack_8_broken_off_is_only_who_is_gone_for_both_ways(
    ends: Ends,
    happens: Callable[[TcpStream, End], object],
    broken: bool,  # noqa: FBT001 - a table
) -> None:
    """That both have ended is no reset: the kernel says POLLHUP of it, while what was sent before may be on its way."""
    stream, end = ends
    happens(stream, end)
    assert broken_off(stream) is broken


@pytest.mark.parametrize(
    "happens", [lambda _, end: end.end(), ends_behind_much], ids=["at once", "behind what is not received"]
)
async def test_attack_8_an_end_is_noticed_whatever_was_sent_before_it(
    ends: Ends, happens: Callable[[TcpStream, End], object]
) -> None:
    stream, end = ends
    happens(stream, end)
    await wait_until_ended(stream)
    assert not broken_off(stream)


@pytest.mark.parametrize(
    "happens",
    [
        lambda _, end: (end.sock.send(b"x"), end.reset()),
        lambda _, end: (end.end(), end.reset()),
        lambda stream, _: stream.close(),
    ],
    ids=["reset", "ended and reset", "closed by us"],
)
async def test_attack_8_a_reset_is_noticed_whatever_was_sent_before_it(
    ends: Ends, happens: Callable[[TcpStream, End], object]
) -> None:
    stream, end = ends
    happens(stream, end)
    with pytest.raises(trio.BrokenResourceError):
        await wait_until_ended(stream)


async def test_who_is_waited_for_is_looked_at_once_a_second_and_not_received(
    ends: Ends, autojump_clock: MockClock
) -> None:
    stream, end = ends
    await end.send(b"all")

    async def end_later() -> None:
        await trio.sleep(7.5 * LOOK_SECONDS)
        end.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_later)
        await wait_until_ended(stream)
    assert autojump_clock.current_time() == 8 * LOOK_SECONDS
    assert [data async for data in stream] == [b"all"]


async def test_of_a_stream_in_memory_nothing_is_known(autojump_clock: MockClock) -> None:
    """Its end is met by who receives, and by nobody else."""
    ours, theirs = memory_stream_pair()
    await theirs.aclose()
    assert not broken_off(ours)
    with trio.move_on_after(60) as scope:
        await wait_until_ended(ours)
    assert (scope.cancelled_caught, autojump_clock.current_time()) == (True, 60)


# Ends


@pytest.mark.parametrize("call", CALLS, ids=["receive", "send", "end"])
async def test_a_peer_that_is_gone_breaks_the_stream(
    ends: Ends, call: Callable[[TcpStream], Awaitable[object]]
) -> None:
    stream, end = ends
    end.reset()
    with pytest.raises(trio.BrokenResourceError):
        await call(stream)


@pytest.mark.parametrize("call", CALLS, ids=["receive", "send", "end"])
@pytest.mark.parametrize("close", [TcpStream.close, TcpStream.release], ids=["closed", "released"])
async def test_a_stream_that_we_closed_is_closed(
    ends: Ends, call: Callable[[TcpStream], Awaitable[object]], close: Callable[[TcpStream], object]
) -> None:
    stream, _ = ends
    close(stream)
    with pytest.raises(trio.ClosedResourceError):
        await call(stream)


async def test_who_waits_for_a_stream_is_told_that_it_was_closed(ends: Ends, nursery: trio.Nursery) -> None:
    stream, _ = ends
    told = trio.Event()

    async def hear() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        told.set()

    nursery.start_soon(hear)
    await wait_all_tasks_blocked()
    stream.close()
    await told.wait()


async def test_a_stream_can_be_closed_again_and_again(ends: Ends) -> None:
    stream, end = ends
    stream.close()
    stream.close()
    await stream.aclose()
    await hang_up(stream)
    assert await end.rest() == b""


async def test_what_was_released_is_not_closed(ends: Ends) -> None:
    stream, end = ends
    sock = stream.release()
    stream.close()
    await hang_up(stream)
    sock.send(b"alive")
    assert await end.exactly(5) == b"alive"


@pytest.mark.parametrize("leave", [TcpStream.aclose, hang_up])
async def test_closing_says_so_to_the_peer(ends: Ends, leave: Callable[[TcpStream], Awaitable[None]]) -> None:
    stream, end = ends
    await leave(stream)
    assert await end.rest() == b""


async def test_any_stream_can_be_hung_up() -> None:
    ours, theirs = memory_stream_pair()
    await hang_up(ours)
    assert await theirs.receive_some() == b""


# Turns


@pytest.mark.parametrize("sends", [True, False], ids=["sends", "receives"])
async def test_who_never_has_to_wait_gives_way_all_the_same(
    ends: Ends,
    nursery: trio.Nursery,
    sends: bool,  # noqa: FBT001 - a table
) -> None:
    stream, end = ends
    await end.send(bytes(8 * TURN))
    calls = 0

    async def other() -> None:
        seen.append(calls)
        while calls < 8 * TURN:
            await checkpoint()
            seen.append(calls)

    seen: list[int] = []
    nursery.start_soon(other)
    for _ in range(8 * TURN):
        await (stream.send_all(b"x") if sends else stream.receive_some(1))
        calls += 1
    await wait_all_tasks_blocked()
    assert max(later - earlier for earlier, later in pairwise(seen)) <= 2 * TURN


async def test_a_connection_that_cannot_be_watched_is_broken(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACKS 8: the account watches as many files as it may (epoll(7)); that is nobody's bug."""

    async def refused(_sock: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stream, end = ends
    end.stuff(1)
    monkeypatch.setattr(trio.lowlevel, "wait_readable", refused)
    monkeypatch.setattr(trio.lowlevel, "wait_writable", refused)
    await stream.receive_some()
    for wait in (stream.receive_some, stream.wait_send_all_might_not_block):
        with pytest.raises(trio.BrokenResourceError, match="No space left on device"):
            await wait()


async def test_who_is_cancelled_has_lost_no_octet(ends: Ends) -> None:
    """And is told at the latest when the turn is over, though there always was something to receive."""
    stream, end = ends
    data = os.urandom(4 * TURN)
    await end.send(data)
    received = bytearray()
    with trio.CancelScope() as scope:
        scope.cancel()
        while True:
            received += await stream.receive_some(1)
    assert len(received) < TURN
    assert bytes(received) + await stream.receive_some() == data
