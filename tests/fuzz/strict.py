"""Readers of messages that are stricter than any peer's, and readers by others: what proxyd sends has to please all."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import h11
import httptools

Fields = list[tuple[bytes, bytes]]

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE: Final = rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
_FIELD: Final = re.compile(rb"(%s): (%s)\r\n" % (_TOKEN, _VALUE))
_HEAD: Final = re.compile(rb"([^\r\n]*)\r\n((?:%s: %s\r\n)*)\r\n" % (_TOKEN, _VALUE))
_RAISED: Final = frozenset({"Malformed", "BadTarget"})


@dataclass
class Read:
    """A request as llhttp reads it. fields: of the head, names in lower case; complete: whether all of it came.

    last: a CONNECT, or one that asks for an upgrade; what is behind its head is no HTTP to llhttp.
    """

    method: bytes = b""
    target: bytes = b""
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    last: bool = False


@dataclass
class ReadAnswer:
    """An answer as h11 reads it. interim, final: the heads; ended: it says where it ends; left: what is behind it."""

    interim: list[h11.InformationalResponse] = field(default_factory=list)
    final: h11.Response | None = None
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    complete: bool = False
    ended: bool = False
    left: bytes = b""


def strict_head(octets: bytes) -> tuple[bytes, Fields, int]:
    """The first line of what we sent, its fields, names in lower case, and where its body begins."""
    head = _HEAD.match(octets)
    assert head is not None, f"it begins with no head: {octets[:200]!r}"
    return head[1], [(name.lower(), value) for name, value in _FIELD.findall(head[2])], head.end()


def values(fields: Fields, name: bytes) -> list[bytes]:
    """The values of the fields of that name."""
    return [value for each, value in fields if each == name]


def requests_by_llhttp(octets: bytes) -> list[Read]:
    """The requests that llhttp makes out; from where it would not go on there are no more."""
    reader = _Reader()
    try:
        reader.parser.feed_data(octets)
    except httptools.HttpParserUpgrade:
        reader.found[-1].last = True
    except httptools.HttpParserError:
        pass
    return reader.found


class _Reader:
    """The callbacks by which httptools says what the octets are."""

    def __init__(self) -> None:
        self.found: list[Read] = []
        self.parser = httptools.HttpRequestParser(self)
        self._in_head = False

    def on_message_begin(self) -> None:
        self.found.append(Read())
        self._in_head = True

    def on_url(self, piece: bytes) -> None:
        self.found[-1].target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.found[-1].fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.found[-1].method = self.parser.get_method()

    def on_body(self, piece: bytes) -> None:
        self.found[-1].body += piece

    def on_message_complete(self) -> None:
        self.found[-1].complete = True


def answer_by_h11(octets: bytes, asking: bytes, *, ends: bool) -> ReadAnswer:
    """The answer to the request whose octets are `asking`, as far as it goes. ends: the connection ends behind it."""
    connection = h11.Connection(h11.CLIENT)
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")] if b"websocket" in asking else []
    connection.send(h11.Request(method=asking.split()[0], target="/", headers=[("Host", "a"), *upgrade]))
    connection.send(h11.EndOfMessage())
    read = ReadAnswer()
    if octets:
        connection.receive_data(octets)
    with suppress(h11.RemoteProtocolError):
        _next_events(connection, read)
        read.ended = read.complete
        if ends and not read.complete:
            connection.receive_data(b"")
            _next_events(connection, read)
    read.left = connection.trailing_data[0]
    return read


def _next_events(connection: h11.Connection, read: ReadAnswer) -> None:
    while isinstance(event := connection.next_event(), h11.Event):
        if isinstance(event, h11.InformationalResponse):
            read.interim.append(event)
        elif isinstance(event, h11.Response):
            read.final = event
        elif isinstance(event, h11.Data):
            read.body += event.data
        else:
            read.complete = isinstance(event, h11.EndOfMessage)
            read.trailers = list(event.headers) if isinstance(event, h11.EndOfMessage) else []
            return


def head_of(head: h11.Response | h11.InformationalResponse) -> tuple[int, bytes, Fields]:
    """All that it says."""
    return head.status_code, head.reason, list(head.headers)


def says_nothing(error: Exception, *modules: str) -> None:
    """Hold a refusal to a text that these modules have in their source: never one made of what was refused (R7)."""
    assert len(error.args) == 1
    assert error.args[0] in _texts(modules), f"made of what was refused? {error!r}"
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None, "what it came of would be shown with it"


@cache
def _texts(modules: tuple[str, ...]) -> frozenset[str]:
    return frozenset(
        node.args[0].value
        for module in modules
        for node in ast.walk(ast.parse(_source(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _RAISED
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    )


def _source(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text()
