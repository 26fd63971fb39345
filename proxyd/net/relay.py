"""Two streams joined into a tunnel, byte for byte: half-closes pass through, and silence has an end.

A tunnel of which one side has ended may be silent only for HALF_CLOSED_SECONDS: the peer that ended may be gone.

The portable relay: one task a direction, bounded memory. What the bytes mean is nobody's business here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

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
    with trio.CancelScope(deadline=trio.current_time() + patience) as scope:

        def moved_up(count: int) -> None:
            flow.up += count
            scope.deadline = trio.current_time() + patience

        def moved_down(count: int) -> None:
            flow.down += count
            scope.deadline = trio.current_time() + patience

        def ended() -> None:
            nonlocal patience
            patience = min(idle_seconds, HALF_CLOSED_SECONDS)
            scope.deadline = trio.current_time() + patience

        try:
            async with trio.open_nursery() as directions:
                directions.start_soon(_carry, client, origin, early[0], moved_up, ended)
                directions.start_soon(_carry, origin, client, early[1], moved_down, ended)
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
    moved: Callable[[int], None],
    ended: Callable[[], None],
) -> None:
    """One direction, to its end: the next piece is read when the last one was taken, so memory stays bounded."""
    piece: bytes | bytearray = early or await source.receive_some(PIECE)
    while piece:
        await sink.send_all(piece)
        moved(len(piece))
        piece = await source.receive_some(PIECE)
    ended()
    await sink.send_eof()
