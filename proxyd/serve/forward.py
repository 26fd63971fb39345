"""One plain request and its response, carried side by side: an answer may come before the question is complete.

Bodies of any size pass through in bounded memory, both ways. Nothing here judges; by now the origin is connected.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio

from proxyd.http.fields import grants_websocket, informational_to_client, response_to_client, trailers
from proxyd.http.framing import Malformed
from proxyd.http.request import check_version
from proxyd.net.relay import HALF_CLOSED_SECONDS
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator

    from proxyd.net.relay import Flow
    from proxyd.net.wire import Sent, Wire

SOON_SECONDS: Final = 1.0  # for an answer to begin, before it is watched whether the client still waits for it
LEAVE_SECONDS: Final = 10.0  # until the answer to a client that has ended its side must have begun
STALL_SECONDS: Final = 120.0  # for an origin to take a piece of the request; meanwhile nobody looks after the client
MOST_AT_ONCE: Final = 16  # chunks that are sent together, before others have their turn
MOST_INTERIM: Final = 32  # 1xx responses before the final one; a server that sends more means no good


class Failed(Exception):  # noqa: N818 - what became of the exchange
    """The exchange cannot be completed. reason: whose fault; None if the client is gone and needs no answer."""

    def __init__(self, reason: Reason | None) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Forward:
    """One exchange between two wires.

    request: as the origin shall get it. without_identity: headers that must not reach it, besides those that never do
    where there are such; None where it may have them all. upgrade: whether a WebSocket was asked for.
    flow: counts the bodies; readable also when the exchange was cancelled. answered: called when the answer begins;
    completed: when all of it is sent, which a client may know before anybody else here does. status: the origin's, once
    known.
    """

    client: Wire
    origin: Wire
    request: h11.Request
    upgrade: bool
    without_identity: Collection[str] | None
    via: str
    idle_seconds: float
    flow: Flow
    answered: Callable[[], None]
    completed: Callable[[], None]
    status: int | None = None
    _failure: Failed | None = field(default=None, init=False)
    _switched: bool = field(default=False, init=False)
    _watched: bool = field(default=False, init=False)
    _complete: bool = field(default=False, init=False)
    _tasks: trio.Nursery = field(init=False)
    _awaited: list[Reason | None] = field(default_factory=lambda: [Reason.ORIGIN_TIMEOUT], init=False)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope, init=False)

    async def run(self) -> bool:
        """Carry the exchange to its end: whether it turned into a tunnel. Raises Failed."""
        head = self.origin.framed(self.request)  # before the origin is heard: it may speak first
        self._stir()
        with self._scope:
            async with trio.open_nursery() as self._tasks:
                if self.client.receiving:
                    self._tasks.start_soon(self._beside, partial(self._carry_request, head))
                else:
                    await self._settled(partial(self._ask, head))
                if self._failure is None:
                    await self._settled(self._carry_response)
                self._tasks.cancel_scope.cancel()
        if self._complete:  # whatever else happened in the same moment
            return False
        if self._failure is not None:
            raise self._failure
        if self._scope.cancelled_caught:
            raise Failed(self._awaited[-1])
        return self._switched

    def revoke(self) -> None:
        """End it: it is not allowed any longer. What is over already was allowed."""
        if not self._complete:
            self._fail(Failed(Reason.REVOKED))

    async def _settled(self, carry: Callable[[], Awaitable[None]]) -> None:
        """Carry one direction; the first failure of either ends both."""
        try:
            await carry()
        except Failed as failure:
            self._fail(failure)

    async def _beside(self, carry: Callable[[], Awaitable[None]]) -> None:
        """The same for what goes on beside the answer: who has the whole of that may leave, and was served."""
        try:
            await carry()
        except Failed as failure:
            if not self._complete:
                self._fail(failure)

    def _fail(self, failure: Failed) -> None:
        self._failure = self._failure or failure
        self._scope.cancel()

    async def _ask(self, head: bytes) -> None:
        """Send a request that has no body, and give the answer a moment to begin before the client is watched."""
        await self._transmit(head + self.origin.framed(h11.EndOfMessage()))
        with suppress(trio.BrokenResourceError), trio.move_on_after(SOON_SECONDS):
            await self.origin.wait()

    async def _carry_request(self, head: bytes) -> None:
        """Head and body, up. An origin that stops listening may still answer: that is no failure."""
        listening = await self._transmit(head)
        while listening and self.client.receiving:
            listening = await self._up(await self._from_client())
        if listening:
            self._watch()

    async def _up(self, event: h11.Data | h11.EndOfMessage) -> bool:
        """Send to the origin: whether it still listens."""
        if not await self._transmit(self.origin.framed(event)):
            return False
        self.flow.up += len(event.data) if isinstance(event, h11.Data) else 0
        return True

    async def _transmit(self, octets: bytes) -> bool:
        try:
            with trio.move_on_after(STALL_SECONDS) as stalled:
                await self.origin.say(octets)
        except trio.BrokenResourceError:
            return False
        if stalled.cancelled_caught:
            raise Failed(Reason.ORIGIN_TIMEOUT)
        self._stir()
        return True

    async def _from_client(self) -> h11.Data | h11.EndOfMessage:
        """The next piece of the body, or its end with the trailers that are passed on."""
        try:
            with self._waiting_for_client(Reason.BODY_TIMEOUT):
                event = await self.client.receive()
            if isinstance(event, h11.Data):
                return event
            return h11.EndOfMessage(headers=trailers(event, without_identity=self.without_identity))
        except trio.BrokenResourceError:
            raise Failed(None) from None
        except Malformed as malformed:
            raise Failed(malformed.reason) from None

    def _watch(self) -> None:
        """See to it that somebody notices when the client leaves."""
        if not self._watched and not self.client.receiving:
            self._watched = True
            self._tasks.start_soon(self._beside, self._watch_client)

    async def _watch_client(self) -> None:
        """A client that leaves while it waits for the answer takes the exchange with it.

        An EOF alone may be a half-close: the answer has a little time to begin, and once it has, sending it tells
        whether anybody is there.
        """
        with suppress(trio.BrokenResourceError):
            await self.client.wait_for_eof()
            await trio.sleep(LEAVE_SECONDS)
            if self.status is not None and self.status >= HTTPStatus.OK:
                self.idle_seconds = min(self.idle_seconds, HALF_CLOSED_SECONDS)
                self._stir()
                return
        raise Failed(None)

    async def _carry_response(self) -> None:
        """Interim heads, the final head and its body, down: in one piece what came in one.

        None of it is framed before it was all read: what is malformed from the beginning is a 502 still.
        """
        try:
            head = await self._final_head()
            if head is None:
                return
            piece: list[Sent] = [response_to_client(head, self.via)]
            event = self.origin.received()
            while not isinstance(event, h11.EndOfMessage):
                if event is not None:
                    piece.append(event)
                    event = self.origin.received()
                if event is not None and len(piece) < MOST_AT_ONCE:
                    continue
                octets, piece = self._framed(piece), []
                await self._down(octets)
                if event is None:
                    self._watch()
                    event = await self.origin.receive()
                else:
                    await trio.lowlevel.checkpoint()  # an origin can make thousands of chunks of one read
            piece.append(h11.EndOfMessage(headers=trailers(event) if self._client_is_modern() else []))
        except trio.BrokenResourceError:
            raise Failed(Reason.ORIGIN_CLOSED) from None
        except Malformed:
            raise Failed(Reason.ORIGIN_MALFORMED) from None
        await self._down(self._framed(piece))
        self._complete = True
        self.completed()

    def _framed(self, piece: list[Sent]) -> bytes:
        """The octets of a piece of the answer for the client, its body counted."""
        self.flow.down += sum(len(event.data) for event in piece if isinstance(event, h11.Data))
        return b"".join(map(self.client.framed, piece))

    async def _final_head(self) -> h11.Response | None:
        """The final response's head, interim ones passed on; None once a 101 made a tunnel of the connection."""
        for _ in range(MOST_INTERIM):
            if not self.origin.has_head:
                self._watch()
            if not await self.origin.wait():
                raise Failed(Reason.ORIGIN_CLOSED)
            head = await self.origin.receive_head()
            if isinstance(head, h11.Request):
                raise Malformed("an origin sends a request")
            check_version(head)
            self._stir()
            self.status = head.status_code
            if isinstance(head, h11.Response):
                self.answered()
                if head.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                    raise Malformed("an origin asks for the proxy's credentials")
                return head
            if await self._pass_interim(head):
                return None
        raise Malformed("an origin sends interim responses without end")

    async def _pass_interim(self, head: h11.InformationalResponse) -> bool:
        """Pass a 1xx on to a client that knows them: whether it was the 101 that was asked for."""
        switches = head.status_code == HTTPStatus.SWITCHING_PROTOCOLS
        if switches and not (self.upgrade and grants_websocket(head)):
            raise Malformed("an origin switches protocols unasked")
        if switches:
            self.answered()
        if self._client_is_modern():
            await self._down(self.client.framed(informational_to_client(head)))
        self._switched = switches
        return switches

    async def _down(self, octets: bytes) -> None:
        """Send to the client."""
        try:
            with self._waiting_for_client(None):
                await self.client.say(octets)
        except trio.BrokenResourceError:
            raise Failed(None) from None
        self._stir()

    @contextmanager
    def _waiting_for_client(self, late: Reason | None) -> Iterator[None]:
        """A silence that ends the exchange meanwhile is the client's. late: the reason; None if it does not read.

        Both directions may wait for it at once, and stop in any order.
        """
        self._awaited.append(late)
        yield
        self._awaited.remove(late)

    def _client_is_modern(self) -> bool:
        """Whether the client knows interim responses and trailers, which HTTP/1.0 does not."""
        return self.client.their_version != b"1.0"

    def _stir(self) -> None:
        """Something moved: the silence that ends the exchange begins anew."""
        self._scope.deadline = trio.current_time() + self.idle_seconds
