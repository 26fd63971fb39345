"""Every way into proxyd: a destination, as an attacker spells it, sent through it over a raw socket (R4, ATTACKS 4.11).

A door sends the same destination, path, fields and body in its own form, and hands back what came for that request.
A door whose request is the second of its connection first asks for `opener`, a destination that is allowed.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests import namespace

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.end_to_end.daemon import Daemon

_WEBSOCKET: Final = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
_LENGTH: Final = re.compile(rb"\r\nContent-Length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\nTransfer-Encoding: *chunked\r\n", re.IGNORECASE)
_BODILESS: Final = frozenset({101, 204, 304})


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    authority: the destination, octet for octet: b"10.0.0.5:80", b"[::1%25lo]:80".
    fields: lines of the head, each with its CRLF. In a tunnel they, the path and the body stand inside it; the
        fields stand in the CONNECT as well.
    body: what is posted; where an upgrade was granted, what is sent after it.
    opener: the destination of the first request, at the doors where this one is the second.
    """

    authority: bytes
    path: bytes = b"/"
    fields: bytes = b""
    body: bytes = b""
    opener: bytes = b"%b:80" % namespace.ORIGIN_4.encode()


@dataclass(frozen=True)
class Answer:
    """What came for the request that matters.

    status: proxyd's, or the origin's as proxyd passed it on; of a CONNECT, what it was answered with.
    raw: every octet that came for it, those from inside the tunnel included.
    """

    status: int
    raw: bytes


@dataclass(frozen=True)
class Door:
    """One way in. tunnels: it is a CONNECT. opens: it asks for the opener first."""

    name: str
    enter: Callable[[Connection, Asked], Answer]
    tunnels: bool = False
    opens: bool = False

    def ask(self, daemon: Daemon, asked: Asked) -> Answer:
        """Send it through this door, on a connection of its own. Raises AssertionError if no answer comes."""
        with _connection(daemon) as connection:
            return self.enter(connection, asked)


class Connection:
    """A client's connection to proxyd: octets out, responses in, one by one."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._received = b""

    def send(self, octets: bytes) -> None:
        """Send octets as they are."""
        self._client.sendall(octets)

    def octets(self, count: int) -> bytes:
        """The next octets, which are there or on their way."""
        while len(self._received) < count:
            self._read()
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def response(self, *, to_connect: bool = False) -> Answer:
        """The next response, its body included."""
        head = self._until(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        return Answer(status, head + self._body(status, head, to_connect=to_connect))

    def _body(self, status: int, head: bytes, *, to_connect: bool) -> bytes:
        """RFC 9112 §6.3, for a client that asks by GET, POST and CONNECT."""
        if status in _BODILESS or (to_connect and status == 200):
            return b""
        if (length := _LENGTH.search(head)) is not None:
            return self.octets(int(length[1]))
        if _CHUNKED.search(head) is not None:
            return self._chunks()
        return self._to_the_end()

    def _chunks(self) -> bytes:
        chunks = b""
        while not chunks.endswith(b"\r\n0\r\n\r\n") and chunks != b"0\r\n\r\n":
            line = self._until(b"\r\n")
            chunks += line + self.octets(int(line.split(b";")[0], 16) + 2)
        return chunks

    def _to_the_end(self) -> bytes:
        while piece := self._client.recv(65536):
            self._received += piece
        return self.octets(len(self._received))

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._read()
        return self.octets(self._received.index(end) + len(end))

    def _read(self) -> None:
        piece = self._client.recv(65536)
        if not piece:
            raise AssertionError(f"proxyd ended the connection in the middle of an answer: {self._received!r}")
        self._received += piece


@contextmanager
def _connection(daemon: Daemon) -> Iterator[Connection]:
    with daemon.connect() as client:
        yield Connection(client)


def _message(target: bytes, asked: Asked, version: bytes = b"1.1") -> bytes:
    """A GET, or a POST of the body."""
    method, length = (b"POST", b"Content-Length: %d\r\n" % len(asked.body)) if asked.body else (b"GET", b"")
    head = b"%b %b HTTP/%b\r\nHost: door.test\r\n%b%b\r\n" % (method, target, version, length, asked.fields)
    return head + asked.body


def _absolute(asked: Asked) -> bytes:
    return b"http://" + asked.authority + asked.path


def _absolute_form(connection: Connection, asked: Asked) -> Answer:
    connection.send(_message(_absolute(asked), asked))
    return connection.response()


def _http_1_0(connection: Connection, asked: Asked) -> Answer:
    connection.send(_message(_absolute(asked), asked, b"1.0"))
    return connection.response()


def _connect(connection: Connection, asked: Asked) -> Answer:
    connection.send(b"CONNECT %b HTTP/1.1\r\nHost: door.test\r\n%b\r\n" % (asked.authority, asked.fields))
    return _inside(connection, asked)


def _http_1_0_connect(connection: Connection, asked: Asked) -> Answer:
    """As some clients send it: without Host."""
    connection.send(b"CONNECT %b HTTP/1.0\r\n%b\r\n" % (asked.authority, asked.fields))
    return _inside(connection, asked)


def _inside(connection: Connection, asked: Asked) -> Answer:
    """The answer to a CONNECT, and to the request that is sent through the tunnel if there is one."""
    answer = connection.response(to_connect=True)
    if answer.status != 200:
        return answer
    connection.send(_message(asked.path, asked))
    return Answer(answer.status, answer.raw + connection.response().raw)


def _upgrade(connection: Connection, asked: Asked) -> Answer:
    """A WebSocket's opening handshake (RFC 6455 §4.1), and octets that come back through the tunnel it makes."""
    head = b"GET %b HTTP/1.1\r\nHost: door.test\r\n" % _absolute(asked)
    connection.send(head + _WEBSOCKET + asked.fields + b"\r\n")
    answer = connection.response()
    if answer.status != 101:
        return answer
    octets = asked.body or b"ping"
    connection.send(octets)
    return Answer(answer.status, answer.raw + connection.octets(len(octets)))


def _pipelined(connection: Connection, asked: Asked) -> Answer:
    connection.send(_opening(asked) + _message(_absolute(asked), asked))
    _opened(connection)
    return connection.response()


def _kept_alive(connection: Connection, asked: Asked) -> Answer:
    connection.send(_opening(asked))
    _opened(connection)
    return _absolute_form(connection, asked)


def _opening(asked: Asked) -> bytes:
    return b"GET http://%b/ HTTP/1.1\r\nHost: door.test\r\n\r\n" % asked.opener


def _opened(connection: Connection) -> None:
    answer = connection.response()
    if answer.status != 200:
        raise AssertionError(f"the first request is to be allowed: {answer.raw!r}")


DOORS: Final = (
    Door("absolute-form", _absolute_form),
    Door("CONNECT", _connect, tunnels=True),
    Door("WebSocket upgrade", _upgrade),
    Door("HTTP/1.0", _http_1_0),
    Door("HTTP/1.0 CONNECT", _http_1_0_connect, tunnels=True),
    Door("pipelined second", _pipelined, opens=True),
    Door("kept-alive second", _kept_alive, opens=True),
)
"""All of them."""
