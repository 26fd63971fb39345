"""The pool: its bookkeeping, its turns, and the traps that DESIGN names, each with the test that shows it (ATTACKS 8).

What a tunnel is, whoever carries it, is in test_joined.py; here is what only a pool can get wrong. Everything runs on
real connections, and after each test no descriptor is left.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import select
import socket
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.lowlevel import checkpoint, current_statistics

from proxyd.net import pipes
from proxyd.net.pipes import CAPACITY
from proxyd.net.relay import HALF_CLOSED_SECONDS, Flow
from proxyd.net.stream import TcpStream
from proxyd.net.tunnels import PIECE, PIECES_A_TURN, Tunnels
from tests.net.joined import IDLE, MUCH, SMALL, End, Joined, Joins, connected, joining, open_files, passes, stuffed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio.testing import MockClock

MANY = 1000
ONE_TURN = PIECE + (PIECES_A_TURN - 1) * CAPACITY
"""The most that one way moves in its turn."""


@pytest.fixture
async def join() -> AsyncIterator[Joins]:
    """Makes tunnels of one pool."""
    async with joining(Tunnels) as joins:
        yield joins


@pytest.fixture
def pool(join: Joins) -> Tunnels:
    """The pool of those tunnels."""
    assert join.pool is not None
    return join.pool


@contextmanager
def file_limit(soft: int) -> Iterator[None]:
    """So many open files for this process, for a while: none of those open is lost."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


async def carries(joined: Joined, size: int = MUCH) -> None:
    """Hold that a tunnel carries bytes unchanged both ways, one after the other."""
    for sends, hears in ((joined.client, joined.origin), (joined.origin, joined.client)):
        data = os.urandom(size)
        async with trio.open_nursery() as sending:
            sending.start_soon(sends.send, data)
            assert await hears.exactly(size) == data


# Edge-triggered: whoever stops before all is done must know who will wake it


@pytest.mark.parametrize("more", [0, 1, PIECE - 1, PIECE, PIECE + 1, CAPACITY, ONE_TURN - CAPACITY + 1, ONE_TURN])
async def test_what_a_turn_leaves_behind_goes_in_the_next(join: Joins, more: int) -> None:
    """Early bytes go first; then more has come than was asked for at once, or just as much, and nothing follows it."""

    def talk(joined: Joined) -> None:
        assert joined.client.stuff(more) == more

    joined = join((b"early", b""), buffers=MUCH, before=talk)
    assert await joined.origin.exactly(5 + more) == b"early" + b"x" * more


async def test_an_end_that_came_together_with_the_last_octets_is_seen(join: Joins) -> None:
    joined = join()
    for size in (1, PIECE, 3 * PIECE):
        await joined.client.send(bytes(size))
        assert len(await joined.origin.exactly(size)) == size
    joined.client.sock.send(b"the last")
    joined.client.end()
    assert await joined.origin.rest() == b"the last"


async def test_the_buffer_that_all_share_keeps_nobodys_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bytes are copied: what a full sink did not take would be read over by the next tunnel."""
    monkeypatch.setattr(pipes, "MOST", 0)
    async with joining(Tunnels) as join:
        stuck, other = join(buffers=SMALL), join()
        sent = await stuffed(stuck.client)
        await other.client.send(b"y" * PIECE)
        assert await other.origin.exactly(PIECE) == b"y" * PIECE
        stuck.client.end()
        assert await stuck.origin.rest() == b"x" * sent


# Traps of DESIGN: numbers that come back within a batch


async def test_trap_a_number_that_comes_back_is_not_taken_for_the_one_before(join: Joins, pool: Tunnels) -> None:
    """Both sides are reset in one batch; the first ends the tunnel, and its owner opens another with their numbers."""
    (near_client, client), (near_origin, origin) = connected(), connected()
    heir = Joined(End(client), End(origin))
    joined = join()
    join.made.append(heir)

    def inherit() -> None:
        near = []
        for sock, number in zip((near_client, near_origin), sorted(joined.numbers), strict=True):
            near.append(socket.socket(fileno=fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, number)))
            sock.close()
        assert {sock.fileno() for sock in near} == joined.numbers
        streams = map(TcpStream, near)
        pool.adopt(*streams, idle_seconds=IDLE, flow=heir.flow, early=(b"", b""), owner=heir)

    joined.then = inherit
    joined.client.reset()
    joined.origin.reset()
    await joined.over.wait()
    await carries(heir, 10)
    assert not heir.over.is_set()


async def test_trap_an_owner_may_revoke_others_of_the_same_batch(join: Joins, pool: Tunnels) -> None:
    first, second, third = join(), join(), join()
    first.then = lambda: pool.revoke(lambda owner: owner is second)
    second.client.sock.send(b"hello")
    first.client.reset()
    second.origin.reset()
    third.client.sock.send(b"hello")
    assert await third.origin.exactly(5) == b"hello"
    assert (first.flow.outcome, second.over.is_set(), len(pool)) == ("reset", True, 1)


async def test_what_is_delivered_is_what_is_counted(join: Joins) -> None:
    """The client is reset and the origin has room again, in one batch."""
    joined = join(buffers=SMALL)
    await stuffed(joined.client)
    joined.client.reset()
    received = len(joined.origin.sock.recv(MUCH))
    assert await joined.outcome() == "reset"
    received += len(await joined.origin.rest())
    assert joined.flow == Flow(received, 0, "reset")


async def test_attack_8_a_reset_is_noticed_although_nothing_can_be_read_before_the_sink_has_room(join: Joins) -> None:
    joined = join(buffers=SMALL)
    await stuffed(joined.client)
    joined.client.reset()
    assert await joined.outcome() == "reset"
    assert len(await joined.origin.rest()) == joined.flow.up


# Traps of DESIGN: pipes


async def test_a_pipe_is_held_only_while_bytes_are_in_flight(join: Joins) -> None:
    before = open_files()
    for at in range(1, 21):
        await carries(join(), 300_000)
        assert open_files() - before <= 4 * at + 2


async def test_trap_octets_left_in_a_pipe_are_nobodys(join: Joins, pool: Tunnels) -> None:
    """One leaked octet is one tunnel reading another's."""
    for _ in range(3):
        secret = join(buffers=SMALL)
        await stuffed(secret.client)
        pool.revoke(lambda _: True)
        assert await secret.outcome() == "revoked"
        await carries(join())


async def test_trap_a_full_pipe_and_an_empty_socket_are_told_apart(join: Joins) -> None:
    """EAGAIN means either: the one who sent it all and waits must not be taken for one whose sink is full."""
    joined = join(buffers=SMALL)
    for _ in range(20):
        sent = await stuffed(joined.client)
        assert await joined.origin.exactly(sent) == b"x" * sent


async def test_trap_those_who_stand_still_hold_all_the_pipes(join: Joins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "MOST", 2)
    async with joining(Tunnels) as scarce:
        for _ in range(3):
            await stuffed(scarce(buffers=SMALL).client)
        await carries(scarce())
    await carries(join())


async def test_trap_pipes_of_one_page_as_an_account_beyond_its_limit_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """pipe(7), pipe-user-pages-soft: no error, but next to no room."""

    class Short(pipes.Pipe):
        def __init__(self) -> None:
            super().__init__()
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, 4096)

    monkeypatch.setattr(pipes, "Pipe", Short)
    async with joining(Tunnels) as join:
        await carries(join())


async def test_r10_no_more_files_cost_no_tunnel(join: Joins) -> None:
    joined = join()
    with file_limit(3):
        await carries(joined)
    await carries(joined)


async def test_an_account_that_may_watch_no_more_files_has_its_tunnel_ended(
    join: Joins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """epoll(7), max_user_watches: at the first socket, and at the second."""

    epoll = select.epoll

    class Watches:
        """An epoll set with room for one."""

        def __init__(self) -> None:
            self._epoll = epoll()
            self.fileno, self.poll, self.close = self._epoll.fileno, self._epoll.poll, self._epoll.close
            self._room = 1

        def register(self, sock: socket.socket, events: int) -> None:
            self._room -= 1
            if self._room < 0:
                raise OSError(errno.ENOSPC, "no more watches")
            self._epoll.register(sock, events)

    with monkeypatch.context() as patch:
        patch.setattr(select, "epoll", Watches)
        scarce = Tunnels()
    join.pool = scarce
    for early in (b"", b"early"):
        joined = join((early, b""))
        assert joined.flow == Flow(0, 0, "aborted")
        assert await joined.origin.rest() == b""
    assert len(scarce) == 0
    with trio.CancelScope() as scope:
        scope.cancel()
        await scarce.run()


# Ends


async def test_revoke_ends_those_it_is_told_to_at_once_and_no_other(join: Joins, pool: Tunnels) -> None:
    first, second, third = made = [join(), join(), join()]
    for joined in made:
        await joined.client.send(b"hello")
        assert await joined.origin.exactly(5) == b"hello"
    pool.revoke(lambda owner: owner is not second)
    assert (first.flow, third.flow) == (Flow(5, 0, "revoked"), Flow(5, 0, "revoked"))
    assert (await first.client.rest(), await third.origin.rest()) == (b"", b"")
    await carries(second, 10)
    assert len(pool) == 1


async def test_a_pool_that_is_cancelled_aborts_what_is_open() -> None:
    before = open_files()
    async with joining(Tunnels) as join:
        idle, busy = join(), join(buffers=SMALL)
        await stuffed(busy.client)
    assert (idle.flow.outcome, busy.flow.outcome) == ("aborted", "aborted")
    assert open_files() == before


async def test_the_flow_is_added_to_and_complete_when_the_owner_is_told(join: Joins) -> None:
    """An upgraded request has moved its head and body before."""
    joined = join((b"abc", b""))
    joined.flow.up, joined.flow.down = 100, 10
    assert await joined.origin.exactly(3) == b"abc"
    joined.client.end()
    joined.origin.end()
    await joined.over.wait()
    assert joined.flow == Flow(103, 10, "closed")


async def test_drained_tells_everybody_who_waits_when_the_last_tunnel_has_ended(
    join: Joins, pool: Tunnels, nursery: trio.Nursery
) -> None:
    await pool.drained()
    brief = join()
    brief.client.reset()
    await pool.drained()
    assert brief.over.is_set()
    first, last = join(), join()
    told: list[int] = []

    async def wait(number: int) -> None:
        await pool.drained()
        assert len(pool) == 0
        told.append(number)

    for number in range(3):
        nursery.start_soon(wait, number)
    await checkpoint()
    first.client.reset()
    assert await first.outcome() == "reset"
    await trio.testing.wait_all_tasks_blocked()
    assert told == []
    last.client.reset()
    while len(told) < 3:
        await checkpoint()


async def test_attack_8_silence_has_an_end_and_a_shorter_one_where_a_side_has_ended(
    join: Joins, mock_clock: MockClock
) -> None:
    silent, half, brief = join(), join(), join(idle_seconds=7)
    for joined in (half, brief):
        joined.client.end()
        assert await joined.origin.rest() == b""
    told = []
    for seconds in (8, HALF_CLOSED_SECONDS - 8 - 1, 2, IDLE - HALF_CLOSED_SECONDS - 2, 2):
        for _ in range(int(seconds)):
            await passes(mock_clock, 1)  # for more at a time it would have stood still
        told.append([joined.flow.outcome for joined in (brief, half, silent)])
    assert told == [
        ["idle", "cancelled", "cancelled"],
        ["idle", "cancelled", "cancelled"],
        ["idle", "idle", "cancelled"],
        ["idle", "idle", "cancelled"],
        ["idle", "idle", "idle"],
    ]


# Many


async def test_r10_thousands_of_tunnels_cost_no_task_and_leave_nothing_behind(join: Joins, pool: Tunnels) -> None:
    """A thousand at once, three times, and each ends in another way."""
    with file_limit(4 * MANY + 500):
        await checkpoint()
        files, tasks = open_files(), current_statistics().tasks_living
        for _ in range(3):
            made = [join() for _ in range(MANY)]
            assert (len(pool), current_statistics().tasks_living) == (MANY, tasks)
            for at, joined in enumerate(made):
                joined.client.sock.send(b"%d" % at)
                joined.origin.sock.send(b"%d" % -at)
            for at, joined in enumerate(made):
                assert await joined.origin.exactly(len(str(at))) == b"%d" % at
                assert await joined.client.exactly(len(str(-at))) == b"%d" % -at
            for joined in made[::4]:
                joined.client.reset()
            for joined in made[1::4]:
                joined.origin.reset()
            for joined in made[2::4]:
                joined.leave()
            pool.revoke(set(made[3::4]).__contains__)
            await pool.drained()
            outcomes = [joined.flow.outcome for joined in made]
            assert outcomes == ["reset", "reset", "closed", "revoked"] * (MANY // 4)
            assert sum(joined.flow.up for joined in made) == sum(len(str(at)) for at in range(MANY))
            join.leave()
            assert open_files() == files
            owners = weakref.WeakSet(made)
            del made, joined
            join.made.clear()
            gc.collect()
            assert len(owners) == 0
