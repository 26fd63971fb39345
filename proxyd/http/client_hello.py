"""The name that a client tells a TLS server before anything is encrypted: server_name of its ClientHello.

Put together over any number of segments and TLS records (RFC 8446 §4.1.2, §5.1; RFC 6066 §3). It is read, never
changed, and nothing of it is kept. What the name must be is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_OCTETS: Final = 16 * 1024
"""Of a ClientHello, its records' headers included; real ones have a tenth of it."""

_RECORD_HEADER: Final = 5
_BEGINNING: Final = b"\x16\x03"  # of a record: of a handshake, and the major version
_LARGEST_RECORD: Final = 1 << 14
_MESSAGE_HEADER: Final = 4
_CLIENT_HELLO: Final = b"\x01"
_MAJOR_VERSION: Final = 3
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D  # RFC 9849

ALERT_UNRECOGNIZED_NAME: Final = b"\x15\x03\x03\x00\x02\x02\x70"
"""A fatal alert, as a server sends it that is not the one asked for (RFC 6066 §3)."""


class NotTls(ValueError):  # noqa: N818 - what was sent
    """It is no ClientHello, or none that can be read in one way only."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a ClientHello says in the clear.

    name: in lower case, without a trailing dot; None where there is none. encrypted: whether there is, or pretends to
    be (RFC 9849 §6.2), an inner one; then the name is the outer one's.
    """

    name: str | None
    encrypted: bool


class HelloReader:
    """Puts the ClientHello together that a stream begins with. Each octet is looked at once, in whatever pieces."""

    def __init__(self) -> None:
        self._heard = 0
        self._header = bytearray()
        self._left = 0  # of the record at hand
        self._message = bytearray()

    def hear(self, octets: bytes | bytearray) -> ClientHello | None:
        """What came next: the ClientHello, if it is complete with that. Raises NotTls; either is the end."""
        rest = octets[: MAX_OCTETS - self._heard]
        self._heard += len(octets)
        while rest:
            rest = rest[self._take_content(rest) if self._left else self._take_header(rest) :]
            if (message := self._whole()) is not None:
                return _parsed(_Reader(message))
        if self._heard > MAX_OCTETS:
            raise NotTls("longer than any ClientHello")
        return None

    def _take_header(self, octets: bytes | bytearray) -> int:
        """Of a record: how much of `octets` it was."""
        piece = octets[: _RECORD_HEADER - len(self._header)]
        self._header += piece
        if not _BEGINNING.startswith(self._header[: len(_BEGINNING)]):
            raise NotTls("no TLS record of a handshake")
        if len(self._header) == _RECORD_HEADER:
            self._left = int.from_bytes(self._header[3:], "big")
            self._header.clear()
            if not 0 < self._left <= _LARGEST_RECORD:
                raise NotTls("a record of a length that there is not")
        return len(piece)

    def _take_content(self, octets: bytes | bytearray) -> int:
        """Of a record: how much of `octets` it was."""
        piece = octets[: self._left]
        self._left -= len(piece)
        self._message += piece
        if not self._message.startswith(_CLIENT_HELLO):
            raise NotTls("a handshake that begins with something else")
        return len(piece)

    def _whole(self) -> bytes | None:
        """The body of the message, once all of it is there."""
        end = _MESSAGE_HEADER + int.from_bytes(self._message[1:_MESSAGE_HEADER], "big")
        return bytes(self._message[_MESSAGE_HEADER:end]) if _MESSAGE_HEADER <= len(self._message) >= end else None


class _Reader:
    """Takes one field after the other. Raises NotTls where there is not enough."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def take(self, count: int) -> bytes:
        taken = self._octets[self._at : self._at + count]
        if len(taken) < count:
            raise NotTls("it ends in the middle")
        self._at += count
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> _Reader:
        """A field behind its length of `width` octets."""
        return _Reader(self.take(self.number(width)))

    def rest(self) -> bytes:
        return self.take(len(self._octets) - self._at)

    @property
    def over(self) -> bool:
        return self._at == len(self._octets)


def _parsed(hello: _Reader) -> ClientHello:
    if hello.number(1) != _MAJOR_VERSION:
        raise NotTls("another protocol's version")
    hello.take(1 + 32)  # minor version, random
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        hello.vector(width)
    name: str | None = None
    encrypted = False
    seen: set[int] = set()
    extensions = _Reader(b"") if hello.over else hello.vector(2)
    while not extensions.over:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind in seen:
            raise NotTls("an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _name_in(content)
        encrypted = encrypted or kind == _ENCRYPTED_CLIENT_HELLO
    if not hello.over:
        raise NotTls("more than a ClientHello has")
    return ClientHello(name, encrypted)


def _name_in(content: _Reader) -> str:
    """The one host name of the extension."""
    names = content.vector(2)
    kind, name = names.number(1), names.vector(2)
    if kind != _HOST_NAME or not names.over or not content.over:
        raise NotTls("not one host name")
    octets = name.rest()
    if not octets or not octets.isascii():
        raise NotTls("no host name")
    return octets.decode("ascii").lower().removesuffix(".")
