"""An origin at every address of a network in which all are local: it notes at which of them each connection arrived."""

from __future__ import annotations

import random
import select
import socket
import threading
from contextlib import suppress
from typing import Final

from tests.end_to_end.daemon import PATIENCE, ticks

_SWITCHED: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
_DONE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_MARKS: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
"""Where nobody but we ourselves can arrive."""


class Census:
    """Listens on one port of both families, in one thread. seen: the addresses at which somebody arrived."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.arrivals = 0
        self.port = random.randrange(20_000, 30_000)  # noqa: S311 - one that the system gives to nobody by itself
        self._epoll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._listeners = {family: self._listen(family) for family in _MARKS}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until all who have arrived by now are noted: the kernel hands connections out in their order."""
        self.seen -= set(_MARKS.values())
        for address in _MARKS.values():
            with socket.create_connection((address, self.port), PATIENCE):
                self._wait_for(address)
        self.seen -= set(_MARKS.values())

    def close(self) -> None:
        """Stop listening."""
        self._over.set()
        with socket.create_connection((_MARKS[socket.AF_INET], self.port), PATIENCE):
            self._thread.join(PATIENCE)
        self._epoll.close()
        for each in (*self._listeners.values(), *self._open.values()):
            each.close()

    def _wait_for(self, address: str) -> None:
        for _ in ticks():
            if address in self.seen:
                return
        raise AssertionError("the census takes no more")

    def _listen(self, family: socket.AddressFamily) -> socket.socket:
        sock = socket.socket(family)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", self.port))
        sock.listen(4096)
        sock.settimeout(0)
        self._epoll.register(sock, select.EPOLLIN)
        return sock

    def _serve(self) -> None:
        listening = {sock.fileno(): sock for sock in self._listeners.values()}
        while not self._over.is_set():
            for number, _ in self._epoll.poll():
                if number in listening:
                    self._admit(listening[number])
                else:
                    self._answer(number)

    def _admit(self, listener: socket.socket) -> None:
        """Note all who wait, also those who left before they were let in."""
        with suppress(BlockingIOError):
            while True:
                accepted, _ = listener.accept()
                self.seen.add(accepted.getsockname()[0])
                self.arrivals += 1
                accepted.settimeout(0)
                self._open[accepted.fileno()] = accepted
                self._epoll.register(accepted, select.EPOLLIN)

    def _answer(self, number: int) -> None:
        connection = self._open[number]
        with suppress(OSError):
            if asked := connection.recv(65536):
                connection.send(_SWITCHED if b"pgrade: websocket" in asked else _DONE)
                return
        self._epoll.unregister(number)  # a process that is just being started may hold it open a moment longer
        del self._open[number]
        connection.close()
