"""One client connection, first byte to last: requests one after the other, each judged anew (ATTACKS 4.10).

It is also the one place that catches everything: a bug ends the connection it happened on, and no other.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final

import h11
import trio

from proxyd.net.stream import hang_up
from proxyd.net.wire import Wire
from proxyd.policy.verdict import Reason
from proxyd.serve.exchange import Exchange
from proxyd.serve.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.abc import HalfCloseableStream

    from proxyd.serve.seams import Seams
    from proxyd.serve.visit import Visit

KEEP_ALIVE_SECONDS: Final = 60.0  # for the first byte of the next request


async def serve_connection(stream: HalfCloseableStream, visit: Visit, seams: Seams) -> None:
    """Serve one connection to its end. Raises nothing."""
    await _guarded(_serve, stream, visit, seams)


async def turn_away(stream: HalfCloseableStream, visit: Visit, seams: Seams) -> None:
    """Refuse a connection beyond the limit, with an answer and a record. Raises nothing."""
    await _guarded(_turn_away, stream, visit, seams)


async def _serve(wire: Wire, visit: Visit, seams: Seams) -> None:
    kept = Kept()
    first = True
    try:
        while await _next(wire, visit, seams, first=first):
            first = False
            if not await Exchange(wire, visit, seams, kept).run():
                return
            wire.next_exchange()
    finally:
        await kept.close()


async def _next(wire: Wire, visit: Visit, seams: Seams, *, first: bool) -> bool:
    """Wait for a request to begin: whether one did."""
    with seams.crowd.waiting(visit):
        return await seams.drain.wait(visit.peer, wire.wait, KEEP_ALIVE_SECONDS, first=first)
    return False


async def _turn_away(wire: Wire, visit: Visit, seams: Seams) -> None:
    await Exchange(wire, visit, seams, Kept()).turn_away(Reason.CONNECTION_LIMIT)


async def _guarded(
    serve: Callable[[Wire, Visit, Seams], Awaitable[None]],
    stream: HalfCloseableStream,
    visit: Visit,
    seams: Seams,
) -> None:
    """Whatever happens to one connection, it is closed, and nobody else hears of it but the operator."""
    try:
        with visit.presence:
            await serve(Wire(stream, h11.SERVER), visit, seams)
    except trio.BrokenResourceError:
        pass  # the client left between two requests
    except Exception as bug:  # noqa: BLE001 - a bug ends this connection and is told; it must not end the others
        seams.complain(f"bug: {described(bug)}")
    finally:
        visit.leave()
        await hang_up(stream)


def described(bug: BaseException) -> str:
    """Where a bug is, without its message: that may quote a request."""
    leaves = [bug]
    while isinstance(leaves[0], BaseExceptionGroup):
        leaves = list(leaves[0].exceptions)
    frames = traceback.extract_tb(leaves[0].__traceback__)[-3:]
    return f"{type(leaves[0]).__name__} in " + " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
