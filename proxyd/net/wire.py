"""One side of HTTP/1.1 on a stream: raw bytes pass `http.framing` first and h11 second (ATTACKS 5).

Each message exchange has a fresh h11.Connection; what arrives behind a message waits here for its turn, unread.
Nothing here knows what a message means to a proxy.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import h11
import trio

from proxyd.http.framing import MAX_HEAD, ChunkedScan, Malformed, check_head, check_lines
from proxyd.net.stream import TcpStream, wait_until_ended
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from trio.abc import HalfCloseableStream

READ_SIZE: Final = 64 * 1024  # octets asked of the kernel at once
_EMPTY_LINE: Final = b"\r\n"
_END_OF_HEAD: Final = b"\r\n\r\n"

Head = h11.Request | h11.InformationalResponse | h11.Response
Sent = h11.Request | h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage


class Wire:
    """An HTTP/1.1 connection, seen as a client's (role h11.SERVER: we serve it) or an origin's (h11.CLIENT).

    Every method that reads or writes raises trio.BrokenResourceError when the peer is gone.
    """

    def __init__(self, stream: HalfCloseableStream, role: type[h11.SERVER | h11.CLIENT], received: bytes = b"") -> None:
        """received: what has been read from the stream already."""
        self.stream = stream
        self._role = role
        self._h11 = h11.Connection(role)
        self._received = bytearray(received)  # read from the stream, not yet given to h11
        self._scan: ChunkedScan | None = None
        self._tunnel = False
        self._owing = False  # whether of what was framed, or was to be said, not every octet was handed over
        self._ignored = False  # the empty line before the head that is waited for

    async def wait(self) -> bool:
        """Wait for the next message to begin: whether one did, or the peer ended the connection.

        One empty line before it is ignored (RFC 9112 §2.2), and begins nothing.
        """
        while self._nothing_yet():
            if not await self._read():
                return False
        return True

    @property
    def has_head(self) -> bool:
        """Whether a whole head has come already, so that nothing has to be waited for.

        The empty line that is ignored before one is not its end, or whoever sent two would be waited for without end.
        """
        ignored = not self._ignored and self._received.startswith(_EMPTY_LINE)
        begin = len(_EMPTY_LINE) if ignored else 0
        return self._received.find(_END_OF_HEAD, begin) >= 0

    async def receive_head(self) -> Head:
        """The head of the next message. Raises Malformed."""
        raw = await self._receive_raw_head()
        check_head(raw)
        self._h11.receive_data(raw)
        event = self._next_event()
        if not isinstance(event, Head):
            raise Malformed("the head is no head")
        chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
        self._scan = ChunkedScan() if chunked else None
        if isinstance(event, h11.Request):
            self._next_event()  # ends a message that has no body, and tells nothing of one that has
        return event

    async def receive(self) -> h11.Data | h11.EndOfMessage:
        """The next piece of the body, or its end. Raises Malformed, also where the body breaks off."""
        while (event := self.received()) is None:
            if not await self._read():
                self._h11.receive_data(b"")
        return event

    def received(self) -> h11.Data | h11.EndOfMessage | None:
        """The same, if it has come already. Raises Malformed."""
        event = self._next_event()
        if event is h11.NEED_DATA and self._received:
            data = bytes(self._received)
            self._received.clear()
            if self._scan is not None:
                self._scan.feed(data)
            self._h11.receive_data(data)
            event = self._next_event()
        if event is h11.NEED_DATA:
            return None
        if not isinstance(event, h11.Data | h11.EndOfMessage):
            raise Malformed("the body is no body")
        return event

    async def send(self, event: Sent) -> None:
        """Send a message, or a part of one. Raises h11.LocalProtocolError for what may not be sent now."""
        await self.say(self.framed(event))

    def framed(self, event: Sent) -> bytes:
        """The octets of `event`, which are now as good as sent: the caller does `say` them."""
        return self._h11.send(event)

    async def say(self, octets: bytes) -> None:
        """Hand over what was framed. If this is cut off, so is the message, wherever h11 is: nothing may follow it."""
        self._owing = True
        await self.stream.send_all(octets)
        self._owing = False

    async def wait_for_eof(self) -> None:
        """Return when the peer ends the connection; what it sends meanwhile is kept, within bounds."""
        while len(self._received) <= MAX_HEAD:
            if not await self._read():
                return
        await wait_until_ended(self.stream)  # the rest waits in the kernel

    def next_exchange(self) -> None:
        """Make ready for the next message; what came behind the last one is its beginning."""
        self._received[:0] = self._h11.trailing_data[0]
        self._h11 = h11.Connection(self._role)
        self._scan = None

    def leave_http(self) -> bytes:
        """Turn the connection into a tunnel, in which we say no more: what the peer has sent into it already."""
        self._tunnel = True
        return self._behind()

    def _behind(self) -> bytes:
        """What came behind the last message."""
        return self._h11.trailing_data[0] + bytes(self._received)

    @property
    def their_version(self) -> bytes:
        """The version of the last message received; b"1.1" before there was one."""
        return self._h11.their_http_version or b"1.1"

    async def linger(self, silence: float, seconds: float) -> None:
        """End our side and hear the peer out, so that no reset overtakes our answer: until it ends or falls silent."""
        with suppress(trio.BrokenResourceError), trio.move_on_after(seconds):
            await self.stream.send_eof()
            with trio.CancelScope() as quiet:
                heard = True
                while heard:
                    quiet.deadline = trio.current_time() + silence
                    heard = bool(await self.stream.receive_some(READ_SIZE))

    def break_off(self) -> None:
        """Let the close that follows be a reset: an HTTP/1.0 client takes a plain end for the end of the body."""
        if isinstance(self.stream, TcpStream):
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @property
    def receiving(self) -> bool:
        """Whether the peer's message has begun and is not complete."""
        return self._h11.their_state is h11.SEND_BODY

    @property
    def reusable(self) -> bool:
        """Whether both messages of this exchange are complete and neither side wants to close."""
        return not self._owing and self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    @property
    def persistent(self) -> bool:
        """Whether the peer's message is complete, and the peer means to go on after it."""
        return self._h11.their_state is h11.DONE

    @property
    def has_more(self) -> bool:
        """Whether something came behind the last message."""
        return bool(self._received)

    @property
    def between_messages(self) -> bool:
        """Whether the peer's message is complete and nothing of a tunnel that it hoped for was sent behind it."""
        if self._h11.their_state in (h11.IDLE, h11.SEND_BODY, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR):
            return False
        return self._h11.their_state is h11.DONE or not self._behind()

    @property
    def torn(self) -> bool:
        """Whether our message has begun and is not complete."""
        return self._owing or self._h11.our_state is h11.SEND_BODY

    @property
    def can_respond(self) -> bool:
        """Whether a response may still begin."""
        return not (self._tunnel or self._owing) and self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def _next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            reason = Reason.CODING_UNSUPPORTED if error.error_status_hint == 501 else Reason.MALFORMED_REQUEST  # noqa: PLR2004
            raise Malformed("the message breaks the rules of HTTP/1.1", reason) from None

    async def _receive_raw_head(self) -> bytes:
        """The octets of a head, its empty line included."""
        seen = 0
        arriving = await self.wait()
        while arriving:
            found = self._received.find(_END_OF_HEAD, max(0, seen - 3))
            end = found + len(_END_OF_HEAD) if found >= 0 else len(self._received)
            if end > MAX_HEAD:
                raise Malformed("the head is too long", Reason.HEAD_TOO_LARGE)
            if found >= 0:
                raw = bytes(self._received[:end])
                del self._received[:end]
                self._ignored = False
                return raw
            check_lines(self._received, seen)
            seen = len(self._received)
            arriving = await self._read()
        raise Malformed("the connection ended before the head did")

    def _nothing_yet(self) -> bool:
        """Whether no more has come than an empty line that is ignored, or a part of it."""
        if not self._ignored and self._received.startswith(_EMPTY_LINE):
            del self._received[: len(_EMPTY_LINE)]
            self._ignored = True
        return not self._received or self._received == b"\r"

    async def _read(self) -> bool:
        data = await self.stream.receive_some(READ_SIZE)
        self._received += data
        return bool(data)
