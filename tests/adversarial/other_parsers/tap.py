"""A listener between proxyd and an origin: it keeps what proxyd sent, and asks the origin where that ended.

proxyd gives each request a connection of its own and says `Connection: close`, and then an origin ignores whatever
it takes for a second request. So the tap says `keep-alive` instead, and when proxyd has closed, it adds a request of
its own: the sentinel. An origin that ends the message where proxyd does sees the message, and then the sentinel. One
that ends it earlier sees what is left over before the sentinel; one that ends it later swallows the sentinel, or never
answers.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

from tests.adversarial.other_parsers.messages import Message
from tests.end_to_end.daemon import PATIENCE

_END_OF_HEAD = b"\r\n\r\n"
_CLOSE, _KEEP_ALIVE = b"\r\nConnection: close", b"\r\nConnection: keep-alive"
_FINAL_RESPONSE = re.compile(rb"(?:\A|\r\n\r\n)HTTP/1\.[01] ([2-5][0-9][0-9])")


@dataclass(slots=True)
class Crossing:
    """One connection of proxyd's: what it sent, what the origin answered it, and the sentinel if one was sent."""

    sent: bytes = b""
    answer: bytes = b""
    sentinel: Message | None = None
    stuck: bool = False

    @property
    def status(self) -> int | None:
        """The status of the origin's answer, if it began one."""
        found = _FINAL_RESPONSE.search(self.answer)
        return int(found[1]) if found else None


class Tap:
    """Serves one connection after the other, each to its very end, so that an origin sees all there is in order."""

    def __init__(self, address: str, origin: tuple[str, int]) -> None:
        self.crossings: list[Crossing] = []
        self._origin = origin
        self._more = threading.Condition()
        self._listener = socket.create_server((address, 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def take(self, count: int) -> list[Crossing]:
        """The crossings since the last time, as soon as there are `count`."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.crossings) >= count, 2 * PATIENCE), (
                "fewer connections than dials"
            )
            taken, self.crossings = self.crossings, []
        return taken

    def _accept(self) -> None:
        served = 0
        while True:
            try:
                proxyd, _ = self._listener.accept()
            except OSError:
                return
            crossing = Crossing()
            with proxyd, socket.create_connection(self._origin, PATIENCE) as origin:
                served += 1
                with suppress(ConnectionError):
                    self._cross(crossing, proxyd, origin, Message("GET", f"/sentinel-{served}"))
            with self._more:
                self.crossings.append(crossing)
                self._more.notify_all()

    def _cross(self, crossing: Crossing, proxyd: socket.socket, origin: socket.socket, sentinel: Message) -> None:
        _carry(crossing, proxyd, origin)
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


def _carry(crossing: Crossing, proxyd: socket.socket, origin: socket.socket) -> None:
    """Both directions, until proxyd closes."""
    with selectors.DefaultSelector() as selector:
        selector.register(proxyd, selectors.EVENT_READ)
        selector.register(origin, selectors.EVENT_READ)
        while ready := selector.select(2 * PATIENCE):
            for key, _ in ready:
                if key.fileobj is proxyd:
                    if not (data := _received(proxyd)):
                        return
                    origin.sendall(_upwards(crossing, data))
                elif data := _received(origin):
                    crossing.answer += data
                    with suppress(ConnectionError):
                        proxyd.sendall(data)
                else:
                    selector.unregister(origin)
                    with suppress(OSError):
                        proxyd.shutdown(socket.SHUT_WR)
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
