"""Turns of the pool: bounded while there is much to do, and none at all while nothing happens (ATTACKS 8).

To be busy with nothing is what edge-triggered readiness is for not to be; each of these states once made somebody's
event loop spin.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from trio.lowlevel import checkpoint
from trio.testing import wait_all_tasks_blocked

from proxyd.net import tunnels
from proxyd.net.pipes import CAPACITY
from proxyd.net.relay import Flow
from proxyd.net.tunnels import PIECE, Tunnels
from tests.net.joined import IDLE, MUCH, SMALL, Joined, Joins, joining, passes, stuffed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock


@pytest.fixture
async def join() -> AsyncIterator[Joins]:
    """Makes tunnels of one pool."""
    async with joining(Tunnels) as joins:
        yield joins


class Turns(trio.abc.Instrument):
    """Counts the turns of pools."""

    def __init__(self) -> None:
        self.taken = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Somebody goes on."""
        self.taken += task.name == "proxyd.net.tunnels.Tunnels.run"

    async def next(self) -> None:
        """Return when the next turn was taken."""
        before = self.taken
        while self.taken == before:
            await checkpoint()

    async def rest(self) -> None:
        """Hold that the pool comes to rest: each checkpoint is a chance for one more turn."""
        for _ in range(100):
            before = self.taken
            for _ in range(50):
                await checkpoint()
            if self.taken == before:
                return
        pytest.fail("the pool is busy with nothing")


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    """The turns taken from now on."""
    counted = Turns()
    trio.lowlevel.add_instrument(counted)
    yield counted
    trio.lowlevel.remove_instrument(counted)


# At rest: nothing happens, and costs nothing


async def fresh(joined: Joined) -> None:
    """Nobody has said anything."""
    assert not joined.over.is_set()
    await checkpoint()


async def ended(joined: Joined) -> None:
    """One side ended."""
    joined.client.end()
    assert await joined.origin.rest() == b""


async def stuck(joined: Joined) -> None:
    """Neither side reads."""
    await stuffed(joined.client)
    await stuffed(joined.origin)


async def stuck_and_ended(joined: Joined) -> None:
    """Neither side reads, and both have ended."""
    await stuck(joined)
    joined.client.end()
    joined.origin.end()


async def unstuck_and_ended(joined: Joined) -> None:
    """A side was stuck, and is no more; then the other one ended."""
    sent = await stuffed(joined.client)
    await joined.origin.exactly(sent)
    joined.origin.end()
    assert await joined.client.rest() == b""


async def urgent(joined: Joined) -> None:
    """Urgent data has come, and nothing behind it."""
    await joined.client.send(b"a")
    joined.client.sock.send(b"!", socket.MSG_OOB)
    assert await joined.origin.exactly(1) == b"a"


async def half_gone(joined: Joined) -> None:
    """One side ended and is gone, and the other does not know."""
    joined.client.leave()
    assert await joined.origin.rest() == b""


@pytest.mark.parametrize("comes_about", [fresh, ended, stuck, stuck_and_ended, unstuck_and_ended, urgent, half_gone])
async def test_a_tunnel_in_which_nothing_happens_takes_no_turn(
    join: Joins, turns: Turns, comes_about: Callable[[Joined], Awaitable[None]]
) -> None:
    joined = join(buffers=SMALL)
    await comes_about(joined)
    await turns.rest()
    assert not joined.over.is_set()


async def test_a_pool_without_tunnels_takes_no_turn(join: Joins, turns: Turns) -> None:
    joined = join()
    joined.client.reset()
    assert await joined.outcome() == "reset"
    await turns.rest()


# Turns


async def test_nobody_starves_beside_a_stream_that_never_stops(
    join: Joins, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its bounded turn the greedy one waits behind the others, in the same batch and in every other."""
    monkeypatch.setattr(tunnels, "PIECES_A_TURN", 2)
    greedy = join(buffers=MUCH, before=lambda joined: joined.client.stuff(MUCH))
    modest = join(before=lambda joined: joined.client.sock.send(b"please"))
    taken = 0
    for arrived in range(6, 61, 6):
        await turns.next()
        assert modest.origin.arrived == arrived
        taken += len(greedy.origin.sock.recv(MUCH))
        assert taken <= turns.taken * 2 * CAPACITY
        greedy.client.stuff(MUCH)
        modest.client.sock.send(b"please")


async def test_however_many_streams_flow_a_turn_has_an_end(
    join: Joins, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a session, and not for a tunnel, has to wait for no more than so many pieces."""
    monkeypatch.setattr(tunnels, "PIECES_A_TURN", 1)
    monkeypatch.setattr(tunnels, "EVENTS_A_TURN", 4)
    streams = [join(buffers=MUCH, before=lambda joined: joined.client.stuff(MUCH)) for _ in range(20)]
    arrived, taken = [0] * 20, turns.taken
    while not all(arrived):
        await turns.next()
        before, arrived = arrived, [joined.origin.arrived for joined in streams]
        moved = sum(later > earlier for earlier, later in zip(before, arrived, strict=True))
        assert moved <= (turns.taken - taken) * 2 * 4
        taken = turns.taken


async def test_who_spoke_while_nobody_here_could_listen_is_heard_before_the_silent_are_ended(
    join: Joins, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stood still for longer than a tunnel may: octets wait in the kernel, and two tasks wake at once."""
    several = [join() for _ in range(3)]
    monkeypatch.setattr(tunnels, "EVENTS_A_TURN", 1)
    for _ in range(10):  # which of the two goes first is left to chance by trio
        await wait_all_tasks_blocked()
        for joined in several:
            joined.client.sock.send(b"a")
        mock_clock.jump(2 * IDLE)
        for joined in several:
            assert await joined.origin.exactly(1) == b"a"


async def test_who_spoke_just_before_it_was_time_is_heard_though_nobody_here_could_listen(
    join: Joins, mock_clock: MockClock
) -> None:
    """It was due within the second that this worker stood still; the silent one beside it is ended."""
    for _ in range(10):
        speaking, silent = join(), join()
        for _ in range(int(IDLE) - 1):
            await passes(mock_clock, 1)
        speaking.client.sock.send(b"a")
        mock_clock.jump(2)
        assert await speaking.origin.exactly(1) == b"a"
        await passes(mock_clock, 1)
        assert (speaking.flow.outcome, silent.flow.outcome) == ("cancelled", "idle")
        speaking.client.reset()
        await speaking.over.wait()


async def test_a_tunnel_that_ends_while_it_waits_for_its_next_turn_has_none(
    join: Joins, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "PIECES_A_TURN", 1)
    joined = join(before=lambda joined: joined.client.stuff(MUCH))
    await turns.next()
    arrived = joined.origin.arrived
    assert join.pool is not None
    join.pool.revoke(lambda _: True)
    assert joined.flow == Flow(arrived, 0, "revoked")
    await turns.rest()
    assert joined.origin.arrived == arrived == PIECE
