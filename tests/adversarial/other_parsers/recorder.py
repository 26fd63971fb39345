"""llhttp, through httptools, as an origin: it reads octets, notes every message that it makes out, and answers it.

It also stands behind nginx, Apache and HAProxy, and notes what they made out.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import httptools

from tests.adversarial.other_parsers.messages import Message
from tests.adversarial.other_parsers.program import Origin
from tests.end_to_end.origin import Listener

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


@contextmanager
def recorder(address: str) -> Iterator[Origin]:
    """An origin at `address`."""
    seen: list[Message] = []

    def serve(connection: socket.socket) -> None:
        reader = _Reader(seen)
        while data := connection.recv(65536):
            if answers := reader.feed(data):
                connection.sendall(answers)
            if reader.ended:
                return

    listener = Listener(serve, (address,))
    try:
        yield Origin((address, listener.port), lambda: seen)
    finally:
        listener.close()


class _Reader:
    """One connection's octets, and the callbacks by which httptools says what they are."""

    def __init__(self, seen: list[Message]) -> None:
        self.ended = False
        self._seen = seen
        self._answers = b""
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> bytes:
        """Take in some octets; what is to be answered now."""
        self._answers = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # we speak no other protocol: HTTP goes on
            answers, self._parser = self._answers, httptools.HttpRequestParser(self)
            return answers + (self.feed(data[upgrade.args[0] :]) if upgrade.args[0] < len(data) else b"")
        except httptools.HttpParserError:
            self.ended = True
            self._answers += b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        return self._answers

    def on_message_begin(self) -> None:
        self._target = self._body = b""
        self._expects = False

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, _value: bytes) -> None:
        self._expects = self._expects or name.lower() == b"expect"

    def on_headers_complete(self) -> None:
        if self._expects:  # a gateway may wait for it (RFC 9110 §10.1.1)
            self._answers += b"HTTP/1.1 100 Continue\r\n\r\n"

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        self._seen.append(Message(method, self._target.decode("latin-1"), self._body))
        self.ended = not self._parser.should_keep_alive()
        connection = b"Connection: close\r\n" if self.ended else b""
        self._answers += b"HTTP/1.1 200 OK\r\n%bContent-Length: 0\r\n\r\n" % connection
