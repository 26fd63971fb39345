"""Peers that say everything at once, for targets that read a connection: no network, no loop where nothing waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import h11
import trio

from proxyd.http.fields import request_to_origin
from proxyd.net.relay import Flow
from proxyd.serve.forward import Forward
from tests.http.raw_heads import VIA

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Iterable

    from proxyd.http.request import Asked
    from proxyd.net.wire import Wire
    from tests.fuzz.strict import Fields

T = TypeVar("T")

PATIENT: Final = 10
"""How often a reader may ask a peer that has ended: one that goes on asking spins."""

MOST_PIECES: Final = 150  # of an input: each costs a fuzzer time, and short inputs are cut octet by octet all the same


class Script(trio.abc.HalfCloseableStream):
    """A peer that sends these pieces, one each time it is asked, and then ends its side, resets, or is silent."""

    def __init__(self, pieces: Iterable[bytes], then: Literal["end", "reset", "silence"] = "end") -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.sent = bytearray()
        self._then = then
        self._in_vain = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Hand over the next piece, without a checkpoint: `at_once` has no loop."""
        assert max_bytes is not None
        if self.pieces:
            return self.pieces.pop(0)
        self._in_vain += 1
        assert self._in_vain <= PATIENT, "it asks for ever"
        if self._then == "silence":
            await trio.sleep_forever()
        if self._then == "reset":
            raise trio.BrokenResourceError
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Take it down."""
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        """There is always room."""

    async def send_eof(self) -> None:
        """Nothing to end."""

    async def aclose(self) -> None:
        """Nothing to close."""


class Listener(Script):
    """An origin that answers when h11 has read a request to its end, and takes nothing behind it."""

    def __init__(self, answer: bytes) -> None:
        super().__init__([answer])
        self.asked = trio.Event()
        self.heard: list[h11.Event] = []
        self._h11 = h11.Connection(h11.SERVER)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await super().send_all(data)
        if not data:
            return  # to h11 that would be the end
        self._h11.receive_data(bytes(data))
        while isinstance(event := self._h11.next_event(), h11.Event):
            self.heard.append(event)
            if isinstance(event, h11.EndOfMessage):
                self.asked.set()
                break
        assert not (self.asked.is_set() and self._h11.trailing_data[0]), "more than one request"

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self.asked.wait()
        return await super().receive_some(max_bytes)

    @property
    def body(self) -> bytes:
        """What came behind the head, without its framing."""
        return b"".join(event.data for event in self.heard if isinstance(event, h11.Data))

    @property
    def trailers(self) -> Fields:
        """Those of a complete request."""
        return [field for event in self.heard if isinstance(event, h11.EndOfMessage) for field in event.headers]


def forwarding(
    client: Wire,
    origin: Wire,
    request: h11.Request,
    asked: Asked,
    *,
    without: Collection[str] | None,
    keep: bool,
) -> Forward:
    """An exchange between these two, as the session has it. without: the identity that is kept from the origin."""
    return Forward(
        client=client,
        origin=origin,
        request=request_to_origin(request, asked, VIA, without_identity=without, keep=keep),
        upgrade=asked.upgrade,
        without_identity=without,
        via=VIA,
        idle_seconds=60.0,
        flow=Flow(),
        answered=lambda: None,
        completed=lambda: None,
    )


def cut(octets: bytes, size: int) -> list[bytes]:
    """In pieces of that size, or larger ones where there would be too many."""
    size = max(1, size, len(octets) // MOST_PIECES)
    return [octets[at : at + size] for at in range(0, len(octets), size)]


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What it returns, which must not wait for anything: thousands a second, where a loop each would take hundreds."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AssertionError("it waits")
