"""Framing that two parsers could read in two ways is refused here, before h11 sees a byte (ATTACKS 5).

h11 takes bare LF, obsolete folds, repeated lengths, and Content-Length beside Transfer-Encoding. An origin may
read each of them otherwise, and then one request in is two requests out. This file looks at raw bytes only;
what a well-framed message means is read elsewhere.
"""

from __future__ import annotations

import re

from proxyd.policy.verdict import Reason

MAX_HEAD = 32 * 1024  # octets of a request or response head; Node accepts 16 KiB, and long cookies exist
MAX_FIELDS = 256  # in a head: each costs time to parse, and nobody sends so many
MAX_TRAILERS = 8 * 1024  # octets of a trailer section
MAX_CHUNK_LINE = 1024  # octets of a chunk's size and extensions
MAX_CHUNK_EXTENSIONS = 16 * 1024  # octets of extensions in one message: they carry nothing, and we drop them

# Controls other than HTAB, a CR or LF alone, and a line that continues the one before (RFC 9112 §2.2, §5.2).
_AMBIGUOUS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n|\r\n[ \t]")
_LENGTH = re.compile(rb"\r\nContent-Length:([^\r]*)", re.IGNORECASE)
_CODING = re.compile(rb"\r\nTransfer-Encoding:([^\r]*)", re.IGNORECASE)
# Gateways to CGI and the like read a punctuation mark as a hyphen: one of these would frame the message for them alone.
_LOOKALIKE = re.compile(rb"\r\n(?:content[^0-9a-z:\r-]length|transfer[^0-9a-z:\r-]encoding):", re.IGNORECASE)
_DIGITS = re.compile(rb"[0-9]{1,18}")
_CHUNK_LINE = re.compile(rb"[0-9A-Fa-f]{1,15}(;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class Malformed(Exception):  # noqa: N818 - it says what the message is
    """A message cannot be read in exactly one way. `reason` is the word for it; the text never quotes the message."""

    def __init__(self, why: str, reason: Reason = Reason.MALFORMED_REQUEST) -> None:
        super().__init__(why)
        self.reason = reason


def check_head(head: bytes) -> None:
    """Refuse a head, final empty line included, whose lines or lengths are ambiguous. Raises Malformed."""
    if _AMBIGUOUS.search(head):
        raise Malformed("a line of the head ends, continues or contains what it must not")
    if head.count(b"\r\n") > MAX_FIELDS + 2:  # the start line and the empty one
        raise Malformed("the head has too many fields", Reason.HEAD_TOO_LARGE)
    if _LOOKALIKE.search(head):
        raise Malformed("a field is named almost as one that frames the message")
    lengths = [value.strip(b" \t") for value in _LENGTH.findall(head)]
    codings = [value.strip(b" \t").lower() for value in _CODING.findall(head)]
    if len(lengths) > 1 or not all(_DIGITS.fullmatch(length) for length in lengths):
        raise Malformed("Content-Length is not one plain number")
    if lengths and codings:
        raise Malformed("Content-Length and Transfer-Encoding exclude each other")
    if len(codings) > 1:
        raise Malformed("Transfer-Encoding is given twice")
    if codings and codings[0] != b"chunked":
        raise Malformed("the only Transfer-Encoding understood is chunked", Reason.CODING_UNSUPPORTED)


def check_lines(part: bytes | bytearray, seen: int) -> None:
    """Refuse the unfinished head `part` as early as its lines show it, its first `seen` octets having passed.

    Without this a client that ends its lines with LF alone would be waited for. Raises Malformed.
    """
    whole = len(part) - part.endswith(b"\r")
    if _AMBIGUOUS.search(part, max(0, seen - 2), whole):
        raise Malformed("a line of the head ends, continues or contains what it must not")


class ChunkedScan:
    """Watches the raw bytes of one chunked body on their way to h11 (RFC 9112 §7.1).

    `feed` every byte after the head, in order; what follows the end of the message is ignored.
    """

    def __init__(self) -> None:
        self._line = b""  # the unfinished line, or trailer section, so far
        self._skip = 0  # octets of chunk data, and of the CRLF after it, still to come
        self._extensions = 0
        self._in_trailers = False
        self._done = False

    def feed(self, data: bytes) -> None:
        """Look at the next bytes. Raises Malformed."""
        at = 0
        while at < len(data) and not self._done:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
            elif self._in_trailers:
                self._trailers(data[at:])
                return
            else:
                at = self._chunk_line(data, at)

    def _chunk_line(self, data: bytes, at: int) -> int:
        """Take the line that begins at `at` as far as it goes; return where it ends."""
        room = at + MAX_CHUNK_LINE - len(self._line)
        end = data.find(b"\n", at, room) + 1 or min(len(data), room)
        self._line += data[at:end]
        if not self._line.endswith(b"\n"):
            if len(self._line) >= MAX_CHUNK_LINE:
                raise Malformed("a chunk's size and extensions are too long")
            return end
        line, self._line = self._line, b""
        parts = _CHUNK_LINE.fullmatch(line)
        if parts is None:
            raise Malformed("a chunk's size is not a plain hexadecimal number")
        self._extensions += len(parts[1] or b"")
        if self._extensions > MAX_CHUNK_EXTENSIONS:
            raise Malformed("the chunk extensions are too long")
        size = int(line[: parts.start(1)] if parts[1] else line, 16)
        self._skip = size + 2 if size else 0
        self._in_trailers = size == 0
        return end

    def _trailers(self, data: bytes) -> None:
        """Take the trailer section as far as it goes. It begins where a line ended, so a fold may be its first."""
        self._line += data[: MAX_TRAILERS + 1 - len(self._line)]
        section, end, _ = (b"\r\n" + self._line).partition(b"\r\n\r\n")
        if _AMBIGUOUS.search(section + end if end else section.removesuffix(b"\r")):
            raise Malformed("a line of the trailers ends, continues or contains what it must not")
        self._done = bool(end)
        if not end and len(self._line) > MAX_TRAILERS:
            raise Malformed("the trailers are too long", Reason.HEAD_TOO_LARGE)
