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

    from netaddr import IPAddress
    from trio.abc import HalfCloseableStream

    from proxyd.serve.seams import Seams

KEEP_ALIVE_SECONDS: Final = 60.0  # for the first byte of the next request


async def serve_connection(stream: HalfCloseableStream, address: IPAddress | None, seams: Seams) -> None:
    """Serve one connection to its end. Raises nothing.

    address: the client's, or None where it has none.
    """
    await _guarded(_serve, stream, address, seams)


async def turn_away(stream: HalfCloseableStream, address: IPAddress | None, seams: Seams) -> None:
    """Refuse a connection beyond the limit, with an answer and a record. Raises nothing."""
    await _guarded(_turn_away, stream, address, seams)


async def _serve(wire: Wire, address: IPAddress | None, seams: Seams) -> None:
    kept = Kept()
    try:
        while await seams.drain.wait(wire.wait, KEEP_ALIVE_SECONDS):
            if not await Exchange(wire, address, seams, kept).run():
                return
            wire.next_exchange()
    finally:
        await kept.close()


async def _turn_away(wire: Wire, address: IPAddress | None, seams: Seams) -> None:
    await Exchange(wire, address, seams, Kept()).turn_away(Reason.CONNECTION_LIMIT)


async def _guarded(
    serve: Callable[[Wire, IPAddress | None, Seams], Awaitable[None]],
    stream: HalfCloseableStream,
    address: IPAddress | None,
    seams: Seams,
) -> None:
    """Whatever happens to one connection, it is closed, and nobody else hears of it but the operator."""
    try:
        await serve(Wire(stream, h11.SERVER), address, seams)
    except trio.BrokenResourceError:
        pass  # the client left between two requests
    except Exception as bug:  # noqa: BLE001 - a bug ends this connection and is told; it must not end the others
        seams.complain(f"bug: {described(bug)}")
    finally:
        await hang_up(stream)


def described(bug: BaseException) -> str:
    """Where a bug is, without its message: that may quote a request."""
    leaves = [bug]
    while isinstance(leaves[0], BaseExceptionGroup):
        leaves = list(leaves[0].exceptions)
    frames = traceback.extract_tb(leaves[0].__traceback__)[-3:]
    return f"{type(leaves[0]).__name__} in " + " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
