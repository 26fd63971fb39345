"""Origins that remember what reached them: an HTTP server, and a listener where nobody may ever arrive."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


_CROWD = 4096  # that may wait until they are accepted
_WILDCARDS = ("0.0.0.0", "::")


@dataclass
class Listener:
    """Accepts on some addresses at one port and hands each connection to `serve`, in a thread of its own."""

    serve: Callable[[socket.socket], None]
    addresses: tuple[str, ...]
    port: int = 0
    _arrived: int = 0
    _sockets: list[socket.socket] = field(default_factory=list)
    _markers: dict[tuple[str, int], threading.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for address in self.addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._bind(sock, address)
            sock.listen(_CROWD)
            self.port = sock.getsockname()[1]
            self._sockets.append(sock)
            threading.Thread(target=self._accept, args=(sock,), daemon=True).start()

    def _bind(self, sock: socket.socket, address: str) -> None:
        """At a port that the system gives to nobody by itself: proxyd's own is locked at every address of this host."""
        while True:
            try:
                return sock.bind((address, self.port or random.randrange(20_000, 30_000)))  # noqa: S311 - any
            except OSError as error:
                if self.port or error.errno != errno.EADDRINUSE:
                    raise

    @property
    def connections(self) -> int:
        """How many have arrived, those too that this thread has not been told of yet.

        The kernel hands connections out in their order: once one of our own has come, all before it have. At a wildcard
        that cannot be asked: nobody knows our own by where it comes from.
        """
        for address, sock in zip(self.addresses, self._sockets, strict=True):
            if address in _WILDCARDS:
                continue
            with contextlib.suppress(OSError), socket.socket(sock.family) as marker:
                marker.bind((address, 0))
                came = self._markers[marker.getsockname()[:2]] = threading.Event()
                marker.settimeout(60)
                marker.connect((address, self.port))
                came.wait(60)
        return self._arrived

    def close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                connection, peer = sock.accept()
            except OSError:
                return
            if marked := self._markers.pop(peer[:2], None):
                connection.close()
                marked.set()
                continue
            self._arrived += 1
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.serve(connection)
            except OSError:
                return


@dataclass
class HttpOrigin:
    """Answers every request with what it read of it, or with the bytes a test scripted for its path.

    `heads` are the request heads as they arrived, octet for octet; `bodies` their bodies.
    """

    addresses: tuple[str, ...]
    scripted: dict[str, bytes] = field(default_factory=dict)
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = Listener(self._serve, self.addresses)
        self.port = self._listener.port
        self.close = self._listener.close

    @property
    def connections(self) -> int:
        """How many connections arrived."""
        return self._listener.connections

    def _serve(self, connection: socket.socket) -> None:
        head, rest = read_head(connection)
        if not head:
            return
        self.heads.append(head)
        body = read_body(connection, head, rest)
        self.bodies.append(body)
        path = head.split(b" ")[1].decode()
        if b"\r\nupgrade: websocket" in head.lower():
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            echo(connection)
        elif path in self.scripted:
            connection.sendall(self.scripted[path])
        else:
            reply = b"you sent " + head.split(b"\r\n")[0] + b" and %d octets" % len(body)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(reply) + reply)


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """A message's head, and what was read behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b"", data
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def read_body(connection: socket.socket, head: bytes, rest: bytes) -> bytes:
    """A request's body, by Content-Length or in chunks."""
    lower = head.lower()
    if b"\r\ntransfer-encoding: chunked" in lower:
        while not (rest.endswith(b"\r\n\r\n") and (b"\r\n0\r\n" in rest or rest.startswith(b"0\r\n"))):
            rest += more(connection)
        return unchunked(rest)
    length = int(lower.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or b"0")
    while len(rest) < length:
        rest += more(connection)
    return rest


def more(connection: socket.socket) -> bytes:
    """Some more octets. Raises ConnectionError where none will come."""
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the message broke off")
    return data


def unchunked(data: bytes) -> bytes:
    """The payload of a chunked body."""
    body = b""
    while data and not data.startswith(b"0\r\n"):
        size, _, data = data.partition(b"\r\n")
        body, data = body + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return body


def echo(connection: socket.socket) -> None:
    """Send everything back until the other side ends, then end too."""
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
