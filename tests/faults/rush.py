"""Clients in a hurry: CONNECT, GET and upgrade as fast as they can, each to an address that nobody else asks for."""

from __future__ import annotations

import itertools
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

from tests.end_to_end.daemon import PATIENCE, ticks
from tests.end_to_end.nameserver import Says

if TYPE_CHECKING:
    from tests.end_to_end.nameserver import Nameserver

_CLIENTS: Final = 8
_MOST: Final = 1 << 24  # numbers for which there are addresses
_BREATH: Final = 0.005  # seconds, where nobody listens
_WEBSOCKET: Final = "Upgrade: websocket\r\nConnection: Upgrade\r\n"


class Rush:
    """As a context: at it, in threads. port: where the daemon of the moment listens. served: how many were."""

    def __init__(self, nameserver: Nameserver, origin_port: int) -> None:
        self.port = 0
        self.served = 0
        self._nameserver = nameserver
        self._origin_port = origin_port
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(_CLIENTS)]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join(PATIENCE)

    def go_on(self, times: int = 20) -> None:
        """Wait until so many more were served."""
        aim = self.served + times
        for _ in ticks():
            if self.served >= aim:
                return
        raise AssertionError("nobody is served")

    def _ask(self) -> None:
        while not self._over.is_set():
            request = self._request(next(self._numbers))
            try:
                with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as client:
                    client.sendall(request)
                    answer = client.recv(4096)
            except OSError:
                self._over.wait(_BREATH)
                continue
            self.served += answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101"))

    def _request(self, number: int) -> bytes:
        """One of each way, and one of each kind of destination, in turn."""
        host = self._host(number)
        to = f"{host}:{self._origin_port}"
        fields = f"Host: {to}\r\n"
        if number % 3 == 0:
            return f"CONNECT {to} HTTP/1.1\r\n{fields}\r\n".encode()
        if number % 3 == 1:
            return f"GET http://{to}/ HTTP/1.1\r\n{fields}Connection: close\r\n\r\n".encode()
        return f"GET http://{to}/ HTTP/1.1\r\n{fields}{_WEBSOCKET}\r\n".encode()

    def _host(self, number: int) -> str:
        """An address, or a name with an address, of its own: all of them are public."""
        assert number < _MOST
        high, middle, low = number >> 16, number >> 8 & 255, number & 255
        if number % 4 == 0:
            return f"[2606:4700::{number >> 16:x}:{number & 0xFFFF:x}]"
        if number % 4 == 1:
            self._nameserver.zone[f"n{number}.test"] = Says(a=(f"9.{high}.{middle}.{low}",))
            return f"n{number}.test"
        return f"8.{high}.{middle}.{low}"
