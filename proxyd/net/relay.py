"""Two streams joined into a tunnel, byte for byte: half-closes pass through, and silence has an end.

A tunnel of which one side has ended may be silent only for HALF_CLOSED_SECONDS: the peer that ended may be gone.
A client that breaks off is noticed also while nobody reads it, because the origin does not take what it sent.

The portable relay: one task a direction, bounded memory. What the bytes mean is nobody's business here.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from proxyd.net.stream import LOOK_SECONDS, broken_off

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from trio.abc import HalfCloseableStream

PIECE: Final = 64 * 1024  # octets in flight in one direction
HALF_CLOSED_SECONDS: Final = 120.0  # about what TCP keepalive takes to find a dead peer


@dataclass(slots=True)
class Flow:
    """What went through so far, and how it ended; readable also when the relay was cancelled.

    outcome: "closed" (both sides ended), "reset" (one broke off), "idle" (silence), or "cancelled".
    """

    up: int = 0
    down: int = 0
    outcome: str = "cancelled"


async def relay(
    client: HalfCloseableStream,
    origin: HalfCloseableStream,
    idle_seconds: float,
    flow: Flow,
    early: tuple[bytes, bytes] = (b"", b""),
) -> None:
    """Carry bytes both ways until both sides ended, one broke off, or nothing moved for `idle_seconds`.

    early: what the client and the origin had sent before the tunnel stood.
    """
    patience = idle_seconds
    lookout = _Lookout(client)
    with trio.CancelScope(deadline=trio.current_time() + patience) as scope:

        @contextmanager
        def moving_up(count: int) -> Iterator[None]:
            with lookout.sending():
                yield
            flow.up += count
            scope.deadline = trio.current_time() + patience

        @contextmanager
        def moving_down(count: int) -> Iterator[None]:
            yield
            flow.down += count
            scope.deadline = trio.current_time() + patience

        def ended() -> None:
            nonlocal patience
            patience = min(idle_seconds, HALF_CLOSED_SECONDS)
            scope.deadline = trio.current_time() + patience

        def client_ended() -> None:
            lookout.end()
            ended()

        try:
            async with trio.open_nursery() as directions:
                directions.start_soon(_carry, client, origin, early[0], moving_up, client_ended)
                directions.start_soon(_carry, origin, client, early[1], moving_down, ended)
                await lookout.run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            flow.outcome = "reset"
        else:
            flow.outcome = "closed"
    if scope.cancelled_caught:
        flow.outcome = "idle"


async def _carry(
    source: HalfCloseableStream,
    sink: HalfCloseableStream,
    early: bytes,
    moving: Callable[[int], AbstractContextManager[None]],
    ended: Callable[[], None],
) -> None:
    """One direction, to its end: the next piece is read when the last one was taken, so memory stays bounded."""
    piece: bytes | bytearray = early or await source.receive_some(PIECE)
    while piece:
        with moving(len(piece)):
            await sink.send_all(piece)
        piece = await source.receive_some(PIECE)
    ended()
    await sink.send_eof()


class _Lookout:
    """Looks after a peer while what it sent is not taken: nobody reads it then, so nobody is told if it breaks off.

    A tunnel in which nothing is on its way costs nothing, and any other one look a second.
    """

    def __init__(self, peer: HalfCloseableStream) -> None:
        self._peer = peer
        self._sending = False
        self._begun = trio.Event()
        self._scope = trio.CancelScope()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Meanwhile something of the peer's is on its way."""
        self._sending = True
        self._begun.set()
        yield
        self._sending = False

    def end(self) -> None:
        """It has said all, and all of it was taken."""
        self._scope.cancel()

    async def run(self) -> None:
        """Look, until the end. Raises trio.BrokenResourceError."""
        with self._scope:
            while True:
                await self._begun.wait()
                await trio.sleep(LOOK_SECONDS)
                if not self._sending:
                    self._begun = trio.Event()
                elif broken_off(self._peer):
                    raise trio.BrokenResourceError("the peer broke off")
