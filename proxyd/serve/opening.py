"""How a tunnel opens: the ClientHello is heard before a byte of it reaches the origin, and must name the host that was
asked for. Otherwise an allowed host of a shared address would be a door to all its neighbours (ATTACKS 4.2-4.4).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from proxyd.http.client_hello import MAX_OCTETS, HelloReader, NotTls

if TYPE_CHECKING:
    from trio.abc import ReceiveStream

    from proxyd.http.client_hello import ClientHello
    from proxyd.policy.address import Destination

SECONDS: Final = 5.0  # for a ClientHello to come


async def hear(stream: ReceiveStream, early: bytes) -> tuple[bytes, ClientHello | None]:
    """What a client sends first, behind `early`, and the ClientHello in it.

    None for what is none: something else, too much, nothing in time, or the end. Raises trio.BrokenResourceError.
    """
    reader = HelloReader()
    with suppress(NotTls), trio.move_on_after(SECONDS):
        hello = reader.hear(early)
        while hello is None and (more := await stream.receive_some(MAX_OCTETS)):
            early += more
            hello = reader.hear(more)
        return early, hello
    return early, None


def names(hello: ClientHello | None, destination: Destination) -> bool:
    """Whether it names the host that was asked for.

    An address may be asked for without a name: none is sent for it (RFC 6066 §3). Where an inner ClientHello is
    hidden, the outer name counts: who could read the inner one is the server of that name (RFC 9849).
    """
    if hello is None:
        return False
    return hello.name == destination.host or (hello.name is None and destination.address is not None)
