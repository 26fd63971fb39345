"""A client's side of one connection to proxyd, read by h11 and by llhttp: which responses are in these octets?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import httptools

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Answer:
    """A final response. status: None where there was none; complete: whether all of its body came."""

    status: int | None
    body: bytes = b""
    complete: bool = False


def read_by_h11(octets: bytes, methods: Iterable[str]) -> list[Answer]:
    """The responses to requests with these methods, as far as they came; what is left over counts as one more."""
    found: list[Answer] = []
    for method in methods:
        if not octets:
            break
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(octets)
        connection.receive_data(b"")
        found.append(_next_by_h11(connection))
        octets = connection.trailing_data[0]
    return [*found, Answer(None, octets)] if octets else found


def _next_by_h11(connection: h11.Connection) -> Answer:
    status, body = None, b""
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                return Answer(status, body)
    except h11.RemoteProtocolError:
        return Answer(status, body)
    return Answer(status, body, complete=True)


def read_by_llhttp(octets: bytes) -> list[Answer]:
    """The responses, none of which is to a HEAD: httptools cannot be told. What is none counts as one more."""
    reader = _Reader()
    try:
        reader.parser.feed_data(octets)
    except httptools.HttpParserError:
        reader.found.append(Answer(None))
    return [answer for answer in reader.found if answer.status is None or answer.status >= 200]


class _Reader:
    """The callbacks by which httptools says what the octets are."""

    def __init__(self) -> None:
        self.found: list[Answer] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        self.found.append(Answer(self.parser.get_status_code()))

    def on_body(self, part: bytes) -> None:
        self.found[-1] = Answer(self.found[-1].status, self.found[-1].body + part)

    def on_message_complete(self) -> None:
        self.found[-1] = Answer(self.found[-1].status, self.found[-1].body, complete=True)
