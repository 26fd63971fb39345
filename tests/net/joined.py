"""Two real TCP connections joined into a tunnel, by the pool or by the portable relay: what their tests share.

The far ends are in the hands of the test; the kernel is the real one, and only the clock may be a made one.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.net.host import tune
from proxyd.net.relay import Flow, relay
from proxyd.net.stream import TcpStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from proxyd.net.tunnels import Tunnels

IDLE: Final = 300.0
MUCH: Final = 4 * 1024 * 1024
SMALL: Final = 32 * 1024
"""Of a socket's buffers, in octets: few enough that they are soon full (the kernel takes what it thinks fit)."""

PATIENCE: Final = 60.0
"""Real seconds after which a test is stuck."""


def connected(buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """The near and the far end of a TCP connection, neither of which waits."""
    with socket.socket() as listener:
        far = socket.socket()
        for sock in (listener, far):
            if buffers is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    for sock in (near, far):
        sock.settimeout(0)
        tune(sock)
    return near, far


class End:
    """A far end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await self._stream.send_all(data)

    def stuff(self, most: int) -> int:
        """Send, without waiting, what the kernel takes of so many octets: how many it took."""
        sent = 0
        try:
            while sent < most:
                sent += self.sock.send(b"x" * min(SMALL, most - sent))
        except BlockingIOError:
            pass
        return sent

    async def exactly(self, count: int) -> bytes:
        """The next `count` octets."""
        received = bytearray()
        while len(received) < count:
            data = await self._stream.receive_some(count - len(received))
            assert data, f"the connection ended after {len(received)} of {count} octets"
            received += data
        return bytes(received)

    async def rest(self) -> bytes:
        """What comes until the other side ends."""
        return b"".join([bytes(data) async for data in self._stream])

    @property
    def arrived(self) -> int:
        """How many octets have come, and were not received yet."""
        answer = fcntl.ioctl(self.sock, termios.FIONREAD, bytes(4))
        return int.from_bytes(answer, "little")

    def end(self) -> None:
        """End our side; go on listening."""
        self.sock.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        """Be gone in good order."""
        self._stream.socket.close()

    def reset(self) -> None:
        """Be gone, and tell the other side with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.leave()


@dataclass(eq=False)
class Joined:
    """The far ends of a tunnel, and what its owner was told of its end.

    numbers: the descriptors of the near ends. then: what the owner does when it is told.
    """

    client: End
    origin: End
    flow: Flow = field(default_factory=Flow)
    over: trio.Event = field(default_factory=trio.Event)
    numbers: set[int] = field(default_factory=set)
    then: Callable[[], object] = bool

    def tunnel_ended(self, flow: Flow) -> None:
        """Be told, once."""
        assert flow is self.flow
        assert not self.over.is_set()
        self.over.set()
        self.then()

    async def outcome(self) -> str:
        """How it ended, once it has."""
        await self.over.wait()
        return self.flow.outcome

    def leave(self) -> None:
        """Let both far ends be gone."""
        self.client.leave()
        self.origin.leave()


class Joins:
    """Joins connections, by a pool or, without one, by the portable relay; in the end all are let go of."""

    def __init__(self, nursery: trio.Nursery, pool: Tunnels | None) -> None:
        self.pool = pool
        self.made: list[Joined] = []
        self._nursery = nursery

    def __call__(
        self,
        early: tuple[bytes, bytes] = (b"", b""),
        *,
        buffers: int | None = None,
        idle_seconds: float = IDLE,
        before: Callable[[Joined], object] = lambda _: None,
    ) -> Joined:
        """A tunnel. before: is called with its far ends when only the connections stand, not yet the tunnel."""
        (near_client, client), (near_origin, origin) = connected(buffers), connected(buffers)
        joined = Joined(End(client), End(origin), numbers={near_client.fileno(), near_origin.fileno()})
        self.made.append(joined)
        before(joined)
        near = TcpStream(near_client), TcpStream(near_origin)
        if self.pool is None:
            self._nursery.start_soon(_relayed, joined, *near, idle_seconds, early)
        else:
            self.pool.adopt(*near, idle_seconds=idle_seconds, flow=joined.flow, early=early, owner=joined)
        return joined

    def leave(self) -> None:
        """Let all far ends be gone."""
        for joined in self.made:
            joined.leave()


async def _relayed(
    joined: Joined, client: TcpStream, origin: TcpStream, idle_seconds: float, early: tuple[bytes, bytes]
) -> None:
    """What a session does where there is no pool."""
    try:
        await relay(client, origin, idle_seconds, joined.flow, early)
    finally:
        client.close()
        origin.close()
    joined.tunnel_ended(joined.flow)


@asynccontextmanager
async def joining(make: Callable[[], Tunnels | None]) -> AsyncIterator[Joins]:
    """A `Joins`, with the pool that `make` makes. Holds that no descriptor is left behind, however the test went."""
    before = open_files()
    over = threading.Event()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_give_up, over)
            pool = make()
            if pool is not None:
                nursery.start_soon(pool.run)
            joins = Joins(nursery, pool)
            try:
                yield joins
            finally:
                joins.leave()
                nursery.cancel_scope.cancel()
    finally:
        over.set()
    assert open_files() == before


async def _give_up(over: threading.Event) -> None:
    """Fail after a generous patience, of real time whatever clock the test has."""
    in_time = await trio.to_thread.run_sync(partial(over.wait, PATIENCE), abandon_on_cancel=True)
    assert in_time, "nothing happens any more"


async def stuffed(end: End) -> int:
    """Let a side send until nobody takes any more: how much it sent."""
    sent, taken = 0, -1
    while taken:
        taken = end.stuff(MUCH)
        sent += taken
        await wait_all_tasks_blocked()
    return sent


async def passes(clock: MockClock, seconds: float) -> None:
    """Let so much time go by, once everybody has done what there was to do; and let them do what follows."""
    await wait_all_tasks_blocked()
    clock.jump(seconds)
    await wait_all_tasks_blocked()


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not read
