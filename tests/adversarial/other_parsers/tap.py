"""A listener between proxyd and an origin: it keeps what proxyd sent, and asks the origin where that ended.

An origin that was told `Connection: close` ignores whatever it takes for a second request. So the tap says `keep-alive`
instead, and when proxyd is done with a message, because it closes, dials again or sends another one, the tap adds a
request of its own: the sentinel. An origin that ends the message where proxyd does sees the message, and then the
sentinel. One that ends it earlier sees what is left over before the sentinel; one that ends it later swallows the
sentinel, or never answers. Messages that proxyd sends on one connection are told apart, and the origin gets each on a
connection of its own.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from tests.adversarial.other_parsers.messages import Message
from tests.end_to_end.daemon import PATIENCE

_END_OF_HEAD = b"\r\n\r\n"
_CLOSE, _KEEP_ALIVE = b"\r\nConnection: close", b"\r\nConnection: keep-alive"
_FINAL_RESPONSE = re.compile(rb"(?:\A|\r\n\r\n)HTTP/1\.[01] ([2-5][0-9][0-9])")


@dataclass(slots=True)
class Crossing:
    """One message of proxyd's: what it sent, what the origin answered it, and the sentinel if one was sent."""

    sent: bytes = b""
    answer: bytes = b""
    sentinel: Message | None = None
    stuck: bool = False

    @property
    def status(self) -> int | None:
        """The status of the origin's answer, if it began one."""
        found = _FINAL_RESPONSE.search(self.answer)
        return int(found[1]) if found else None


@dataclass(slots=True)
class _Carried:
    """The message that is carried now. ended: the origin has nothing more to say."""

    proxyd: socket.socket
    origin: socket.socket
    crossing: Crossing = field(default_factory=Crossing)
    ended: bool = False

    @property
    def done(self) -> bool:
        """Whether whatever proxyd sends now is another message: this one had no body, and has its answer."""
        head = self.crossing.sent.partition(_END_OF_HEAD)[0]
        return self.crossing.status is not None and not head.endswith(_CLOSE)


class Tap:
    """Carries one message after the other, each to its very end, so that an origin sees all there is in order."""

    def __init__(self, address: str, origin: tuple[str, int]) -> None:
        self.crossings: list[Crossing] = []
        self._origin = origin
        self._more = threading.Condition()
        self._served = 0
        self._carried: _Carried | None = None
        self._listener = socket.create_server((address, 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def take(self, count: int) -> list[Crossing]:
        """The crossings since the last time, as soon as there are `count`."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.crossings) >= count, 2 * PATIENCE), (
                "fewer messages than were sent"
            )
            taken, self.crossings = self.crossings, []
        return taken

    def _serve(self) -> None:
        with self._selector, suppress(OSError):
            while True:
                carried = self._carried
                ready = self._selector.select(None if carried is None else 2 * PATIENCE)
                if not ready and carried is not None:
                    carried.crossing.stuck = True
                    self._drop(carried.proxyd)
                for key, _ in ready[:1]:  # the next may be closed by then
                    self._hear(key.fileobj)  # type: ignore[arg-type] # a socket was registered

    def _hear(self, side: socket.socket) -> None:
        carried = self._carried
        if side is self._listener:
            proxyd, _ = side.accept()
            self._selector.register(proxyd, selectors.EVENT_READ)
            self._begin(proxyd)
        elif carried is not None and side is carried.origin:
            self._downwards(carried)
        elif not (data := _received(side)):
            self._drop(side)
        elif carried is not None and side is carried.proxyd and carried.done and carried.ended:
            self._drop(side)  # nobody heard this
        else:
            if carried is None or side is not carried.proxyd or carried.done:
                carried = self._begin(side)
            with suppress(ConnectionError):
                carried.origin.sendall(_upwards(carried.crossing, data))

    def _begin(self, proxyd: socket.socket) -> _Carried:
        """A message of proxyd's comes: the one before is over."""
        self._finish()
        self._carried = _Carried(proxyd, socket.create_connection(self._origin, PATIENCE))
        self._selector.register(self._carried.origin, selectors.EVENT_READ)
        return self._carried

    def _downwards(self, carried: _Carried) -> None:
        if data := _received(carried.origin):
            carried.crossing.answer += data
            with suppress(ConnectionError):
                carried.proxyd.sendall(data)
        else:
            carried.ended = True
            self._selector.unregister(carried.origin)
            with suppress(OSError):
                carried.proxyd.shutdown(socket.SHUT_WR)

    def _drop(self, proxyd: socket.socket) -> None:
        """A connection of proxyd's is over."""
        if self._carried is not None and self._carried.proxyd is proxyd:
            self._finish()
        if proxyd.fileno() >= 0:
            self._selector.unregister(proxyd)
            proxyd.close()

    def _finish(self) -> None:
        """Ask the origin where the message ended."""
        carried, self._carried = self._carried, None
        if carried is None:
            return
        if carried.ended:
            self._drop(carried.proxyd)
        else:
            self._selector.unregister(carried.origin)
        self._served += 1
        with carried.origin as origin, suppress(ConnectionError):
            _end(carried.crossing, origin, Message("GET", f"/sentinel-{self._served}"))
        with self._more:
            self.crossings.append(carried.crossing)
            self._more.notify_all()


def _end(crossing: Crossing, origin: socket.socket, sentinel: Message) -> None:
    if crossing.status is not None:
        crossing.sentinel = sentinel
        origin.sendall(f"GET {sentinel.target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    else:
        origin.shutdown(socket.SHUT_WR)
    try:
        while origin.recv(65536):
            pass
    except TimeoutError:
        crossing.stuck = True


def _received(side: socket.socket) -> bytes:
    try:
        return side.recv(65536)
    except ConnectionError:
        return b""


def _upwards(crossing: Crossing, data: bytes) -> bytes:
    """What goes on to the origin: nothing until the head is complete, which then asks to stay connected."""
    had_head = _END_OF_HEAD in crossing.sent
    crossing.sent += data
    head, end, rest = crossing.sent.partition(_END_OF_HEAD)
    if had_head or not end:
        return data if had_head else b""
    if head.endswith(_CLOSE):
        head = head.removesuffix(_CLOSE) + _KEEP_ALIVE
    return head + end + rest
