"""A second reader of messages, written from RFC 9112 as DESIGN narrows it: what has another spelling is no message.

It shares nothing with proxyd but the bounds, and is as plain as can be: it has all the octets, and reads them once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from proxyd.http.framing import MAX_CHUNK_LINE
from tests.fuzz.strict import Fields, values

_FIELD: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n"
_REQUEST: Final = re.compile(
    rb"(?:\r\n)?(?P<method>[!#$%%&'*+\-.^_`|~0-9A-Za-z]+) (?P<target>[\x21-\x7e]+) HTTP/1\.(?P<minor>[01])\r\n"
    rb"(?P<fields>(?:%s)*)\r\n" % _FIELD
)
_RESPONSE: Final = re.compile(
    rb"(?:\r\n)?HTTP/1\.(?P<minor>[01]) (?P<status>[1-9][0-9]{2})(?: (?P<reason>[\t\x20-\x7e\x80-\xff]*))?\r\n"
    rb"(?P<fields>(?:%s)*)\r\n" % _FIELD
)
_TRAILERS: Final = re.compile(rb"((?:%s)*)\r\n" % _FIELD)
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_FRAMING: Final = {b"content-length", b"transfer-encoding"}
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


@dataclass
class Message:
    """A message: its head, and as much of its body as there is. start: "GET /" or "200 OK"; end: where that was."""

    start: bytes
    version: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    complete: bool = False
    end: int = 0


def requests_by_the_book(octets: bytes) -> list[Message]:
    """The requests of a connection, up to the first that is none. Behind a CONNECT there are no more."""
    found: list[Message] = []
    at = 0
    while head := _REQUEST.match(octets, at):
        message = Message(head["method"] + b" " + head["target"], b"1." + head["minor"], _fields(head["fields"]))
        if not _is_framed(message):
            break
        found.append(message)
        at = _read_body(message, octets, head.end())
        if not message.complete or head["method"] == b"CONNECT":
            break
    return found


def answer_by_the_book(octets: bytes, method: bytes, *, ends: bool) -> list[Message]:
    """The interim answers and the final one, or a 101, up to what is none. ends: the connection ends behind it."""
    found: list[Message] = []
    at = 0
    while head := _RESPONSE.match(octets, at):
        status = head["status"]
        message = Message(status + b" " + (head["reason"] or b""), b"1." + head["minor"], _fields(head["fields"]))
        if not _is_framed(message):
            break
        found.append(message)
        if status[:1] == b"1" or method == b"HEAD" or status in (b"204", b"304"):
            message.complete, message.end = True, head.end()
        elif not _FRAMING & {name for name, _ in message.fields}:
            message.body, message.complete, message.end = octets[head.end() :], ends, len(octets)
        else:
            _read_body(message, octets, head.end())
        at = message.end
        if status[:1] != b"1" or status == b"101":
            break
    return found


def _fields(section: bytes) -> Fields:
    lines = [line.partition(b":") for line in section.split(b"\r\n")[:-1]]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in lines]


def _is_framed(message: Message) -> bool:
    """Whether it says its length in one way, or not at all (RFC 9112 §6)."""
    lengths, codings = (values(message.fields, name) for name in (b"content-length", b"transfer-encoding"))
    if len(lengths) + len(codings) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        return False
    return not codings or (codings[0].lower() == b"chunked" and message.version == b"1.1")


def _read_body(message: Message, octets: bytes, at: int) -> int:
    """Take the body, which begins there and has a length, if it is only 0; where it ends."""
    if values(message.fields, b"transfer-encoding"):
        message.end = _read_chunks(message, octets, at)
        return message.end
    length = int(next(iter(values(message.fields, b"content-length")), b"0"))
    message.body = octets[at : at + length]
    message.complete = len(message.body) == length
    message.end = at + length
    return message.end


def _read_chunks(message: Message, octets: bytes, at: int) -> int:
    while (chunk := _CHUNK.match(octets, at)) and len(chunk[0]) <= MAX_CHUNK_LINE:
        size, at = int(chunk[1], 16), chunk.end()
        if not size:
            trailers = _TRAILERS.match(octets, at)
            message.complete = trailers is not None
            message.trailers = _fields(trailers[1]) if trailers else []
            return trailers.end() if trailers else at
        message.body += octets[at : at + size]
        if octets[at + size : at + size + 2] != b"\r\n":
            break
        at += size + 2
    return at
