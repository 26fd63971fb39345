"""All established tunnels of a worker in one pool: one task moves the bytes of thousands (DESIGN, fourth idea).

Their sockets are in an epoll set of their own, edge-triggered, which one trio task awaits. Little pieces are copied;
a stream that flows is spliced through a pipe, borrowed for as long as bytes are in it. Everybody gets a bounded turn.
A tunnel of which one side has ended may be silent only for HALF_CLOSED_SECONDS, as in the portable relay. What the
bytes mean is nobody's business here, and who may have a tunnel was decided elsewhere.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from proxyd.net.deadlines import Deadlines
from proxyd.net.pipes import Pipe, Pipes
from proxyd.net.relay import HALF_CLOSED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.net.relay import Flow
    from proxyd.net.stream import TcpStream

PIECE: Final = 16 * 1024  # octets copied at once; a read that fills it shows a stream worth a pipe
PIECES_A_TURN: Final = 8  # that one direction may move before the others have their turn
EVENTS_A_TURN: Final = 256  # heard before sessions have their turn; and as many are moved who wait for theirs
SWEEP_SECONDS: Final = 1.0

_READABLE: Final = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
_WRITABLE_TOO: Final = _READABLE | select.EPOLLOUT
_WARNING: Final = select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Owner(Protocol):
    """Who wants to know how a tunnel ended, and is asked about by `revoke`."""

    def tunnel_ended(self, flow: Flow) -> None:
        """The tunnel is no more; `flow` is complete. Must not raise."""


class _Way:
    """One direction of a tunnel: from a socket to a socket."""

    __slots__ = (
        *("back", "flows", "moved", "over", "pending", "pipe", "sink", "source", "tunnel", "waits", "wary"),
        "watches_sink",
    )

    def __init__(self, source: socket.socket, sink: socket.socket, pending: bytes) -> None:
        self.source = source
        self.sink = sink
        self.pending: bytes | memoryview = pending  # copied, and not yet taken
        self.pipe: Pipe | None = None
        self.moved = 0
        self.flows = False  # whether the last read took all it could: more of the kind is likely
        self.wary = False  # whether an end or urgent data was announced: a short read is then not the last
        self.over = False
        self.waits = False  # whether it has its place among those whose turn was over too soon
        self.watches_sink = bool(pending)
        self.back: _Way
        self.tunnel: Tunnel


@dataclass(slots=True, eq=False)
class Tunnel:
    """Two sockets, and what is known of them. Made by `Tunnels.adopt`."""

    up: _Way
    down: _Way
    flow: Flow
    owner: Owner
    idle_seconds: float
    idle_at: float = 0.0
    slot: int = 0
    ended: bool = False


class Tunnels:
    """The pool. `run` moves the bytes; everything else may be called from any task."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ways: dict[int, _Way] = {}  # by the number of the source, which stands for it until it is closed
        self._tunnels: set[Tunnel] = set()
        self._pipes = Pipes()
        self._buffer = memoryview(bytearray(PIECE))
        self._waiting: deque[_Way] = deque()
        self._closing: list[Tunnel] = []
        self._deadlines: Deadlines[Tunnel] = Deadlines(trio.current_time())
        self._now = trio.current_time()
        self._empty = trio.Event()

    def __len__(self) -> int:
        """How many tunnels are open."""
        return len(self._tunnels)

    def adopt(
        self,
        client: TcpStream,
        origin: TcpStream,
        *,
        idle_seconds: float,
        flow: Flow,
        early: tuple[bytes, bytes],
        owner: Owner,
    ) -> None:
        """Take two connected sockets over, for good: the streams are empty shells from now on.

        early: what the client and the origin had sent before the tunnel stood. flow: is added to when it ends.
        """
        near, far = client.release(), origin.release()
        up, down = _Way(near, far, early[0]), _Way(far, near, early[1])
        tunnel = Tunnel(up, down, flow, owner, idle_seconds)
        for way, back in ((up, down), (down, up)):
            way.tunnel, way.back = tunnel, back
            self._ways[way.source.fileno()] = way
        self._tunnels.add(tunnel)
        self._now = trio.current_time()
        self._touch(tunnel)
        self._deadlines.add(tunnel)
        try:
            # Only `run` moves bytes, or nobody would wake it for what is left: early ones go when their sink has room.
            for way in (up, down):
                self._epoll.register(way.source, _WRITABLE_TOO if way.back.watches_sink else _READABLE)
        except OSError:  # the account watches as many files as it may (epoll(7), max_user_watches)
            self._end(tunnel, "aborted")
            self._close_ended()

    async def run(self) -> None:
        """Move bytes until cancelled; what is still open then ends as "aborted"."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                while True:
                    if self._waiting:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._epoll)
                    self._turn()
        finally:
            self.revoke(lambda _: True, "aborted")
            self._pipes.close()
            self._epoll.close()

    async def drained(self) -> None:
        """Return once no tunnel is open."""
        while self._tunnels:
            await self._empty.wait()

    def revoke(self, predicate: Callable[[Owner], bool], outcome: str = "revoked") -> int:
        """End every tunnel whose owner the predicate names, at once: how many those were."""
        named = [each for each in self._tunnels if predicate(each.owner)]
        for tunnel in named:
            self._end(tunnel, outcome)
        self._close_ended()
        return len(named)

    async def _sweep(self) -> None:
        """End those that stood still for too long."""
        while True:
            due = trio.current_time() + SWEEP_SECONDS
            await trio.sleep_until(due)
            # Not those for whom it is time by now: if this worker stood still since, they may have spoken.
            for tunnel in self._deadlines.idle(due):
                self._end_unless_heard(tunnel)
            self._close_ended()

    def _end_unless_heard(self, tunnel: Tunnel) -> None:
        """What waits in the kernel came in time, if `run` was late."""
        self._now = trio.current_time()
        before = tunnel.idle_at
        self._move(tunnel.up)
        self._move(tunnel.down)
        if tunnel.idle_at == before:
            self._end(tunnel, "idle")
        else:
            self._deadlines.add(tunnel)

    def _turn(self) -> None:
        """A turn for each who has something to move: first those whose last turn was over too soon."""
        self._now = trio.current_time()
        for _ in range(min(len(self._waiting), EVENTS_A_TURN)):
            way = self._waiting.popleft()
            way.waits = False
            self._move(way)
        for number, events in self._epoll.poll(0, EVENTS_A_TURN):
            self._heard(self._ways[number], events)
        self._close_ended()

    def _heard(self, way: _Way, events: int) -> None:
        """Something happened to a socket: it is the source of one way and the sink of the way back."""
        if events & _WARNING:
            way.wary = True
        if events & select.EPOLLRDHUP:
            self._half_close(way.tunnel)
        if events & select.EPOLLOUT and (way.back.pending or way.back.pipe):
            self._move(way.back)
        if events & ~select.EPOLLOUT:
            self._move(way)
        if events & select.EPOLLERR:
            self._end(way.tunnel, "reset")

    def _move(self, way: _Way) -> None:
        """Move what can be moved in one turn."""
        if way.over or way.waits or way.tunnel.ended:
            return
        try:
            for _ in range(PIECES_A_TURN):
                if not self._delivered(way) or not self._fetched(way):
                    return
        except OSError:
            self._end(way.tunnel, "reset")
        else:
            way.waits = True
            self._waiting.append(way)

    def _delivered(self, way: _Way) -> bool:
        """Hand over what is on its way: whether all of it was taken. Raises OSError."""
        try:
            while way.pending:
                taken = way.sink.send(way.pending)
                self._count(way, taken)
                way.pending = way.pending[taken:]
            while way.pipe is not None and way.pipe.held:
                self._count(way, way.pipe.drain(way.sink.fileno()))
        except BlockingIOError:
            self._watch_sink(way)
            return False
        way.pending = b""
        return True

    def _fetched(self, way: _Way) -> bool:
        """Take what has come from the source: whether there may be more. Raises OSError."""
        try:
            taken = (way.flows and self._spliced(way)) or self._copied(way)
        except BlockingIOError:
            taken = -1
        if taken <= 0 or not way.flows:
            self._return_pipe(way)
        if taken == 0:
            self._finish(way)
        return taken > 0

    def _copied(self, way: _Way) -> int:
        """Through our own memory: best for the little, and always possible."""
        taken = way.source.recv_into(self._buffer)
        way.flows = taken == PIECE
        way.pending = self._buffer[:taken]
        if not self._delivered(way):
            way.pending = bytes(way.pending)  # the buffer is everybody's
            return -1
        return taken if way.flows or way.wary or not taken else -1

    def _spliced(self, way: _Way) -> int:
        """Through a pipe, without a copy: best for a stream that flows. 0 tells nothing: to copy has the last word."""
        way.pipe = way.pipe or self._pipes.borrow()
        if way.pipe is None:
            return 0
        taken = way.pipe.fill(way.source.fileno())
        way.flows = taken == 0 or taken >= PIECE
        return taken

    def _finish(self, way: _Way) -> None:
        """The source ended: let the sink know, or end the tunnel if this was the other half of it."""
        way.over = True
        if way.back.over:
            self._end(way.tunnel, "closed")
        else:
            way.sink.shutdown(socket.SHUT_WR)

    def _return_pipe(self, way: _Way) -> None:
        if way.pipe is not None and not way.pipe.held:
            self._pipes.give_back(way.pipe)
            way.pipe = None

    def _watch_sink(self, way: _Way) -> None:
        """Hear of room, once the sink had none: to ask from the beginning would cost each tunnel two idle events."""
        if not way.watches_sink:
            way.watches_sink = True
            self._epoll.modify(way.sink, _WRITABLE_TOO)

    def _count(self, way: _Way, octets: int) -> None:
        way.moved += octets
        self._touch(way.tunnel)

    def _touch(self, tunnel: Tunnel) -> None:
        """Something moved: the silence that ends the tunnel begins anew."""
        tunnel.idle_at = self._now + tunnel.idle_seconds

    def _half_close(self, tunnel: Tunnel) -> None:
        """One side has ended and may be gone altogether: from now on silence has to be short."""
        if tunnel.idle_seconds > HALF_CLOSED_SECONDS:
            tunnel.idle_seconds = HALF_CLOSED_SECONDS
            self._touch(tunnel)
            self._deadlines.discard(tunnel)
            self._deadlines.add(tunnel)

    def _end(self, tunnel: Tunnel, outcome: str) -> None:
        """End a tunnel. Its sockets are closed after the batch: until then their numbers cannot be anyone else's."""
        if tunnel.ended:
            return
        tunnel.ended = True
        tunnel.flow.outcome = outcome
        tunnel.flow.up += tunnel.up.moved
        tunnel.flow.down += tunnel.down.moved
        self._closing.append(tunnel)

    def _close_ended(self) -> None:
        while self._closing:
            tunnel = self._closing.pop()
            self._tunnels.discard(tunnel)
            self._deadlines.discard(tunnel)
            for way in (tunnel.up, tunnel.down):
                del self._ways[way.source.fileno()]
                if way.pipe is not None:
                    self._pipes.give_back(way.pipe)
                way.source.close()
            tunnel.owner.tunnel_ended(tunnel.flow)
        if not self._tunnels:
            self._empty.set()
            self._empty = trio.Event()
