"""One HTTP/1.1 request, read in the strictest way: the yardstick for what proxyd sends, apart from any parser."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(
    rb"(%b) ([\x21-\x7e]+) HTTP/1\.1\r\n((?:%b: (?:[\x20-\x7e\t\x80-\xff]*)\r\n)+)\r\n" % (_TOKEN, _TOKEN)
)
_LENGTH = re.compile(rb"^content-length: ([0-9]+)\r\n", re.IGNORECASE | re.MULTILINE)
_CODING = re.compile(rb"^transfer-encoding: chunked\r\n", re.IGNORECASE | re.MULTILINE)
_FRAMING = re.compile(rb"^(?:content-length|transfer-encoding):", re.IGNORECASE | re.MULTILINE)
_CHUNK = re.compile(rb"([0-9a-f]+)\r\n")
_LAST = re.compile(rb"0\r\n(?:%b: [\x20-\x7e\t\x80-\xff]*\r\n)*\r\n" % _TOKEN)


@dataclass(frozen=True, slots=True)
class Message:
    """A complete request: what was asked for, and every octet of its body."""

    method: str
    target: str
    body: bytes = b""


def one_message(octets: bytes) -> Message:
    """The one message that `octets` are. Raises ValueError where they are less, more or anything else."""
    head = _HEAD.match(octets)
    if head is None:
        raise ValueError("no head of a request")
    framing = len(_FRAMING.findall(head[3]))
    length, coding = _LENGTH.search(head[3]), _CODING.search(head[3])
    if framing != (length is not None) + (coding is not None) or framing > 1:
        raise ValueError("more than one way to read where it ends")
    body = octets[head.end() :]
    if coding is not None:
        body = _unchunked(body)
    elif len(body) != (int(length[1]) if length else 0):
        raise ValueError("the body is not as long as it says")
    return Message(head[1].decode(), head[2].decode(), body)


def _unchunked(octets: bytes) -> bytes:
    body, at = b"", 0
    while not _LAST.fullmatch(octets, at):
        size = _CHUNK.match(octets, at)
        if size is None or int(size[1], 16) == 0:
            raise ValueError("no chunk where one should be")
        end = size.end() + int(size[1], 16)
        if octets[end : end + 2] != b"\r\n":
            raise ValueError("a chunk is not as long as it says")
        body, at = body + octets[size.end() : end], end + 2
    return body
