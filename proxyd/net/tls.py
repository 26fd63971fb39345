"""TLS as a server speaks it to clients (`https://` proxy URLs), as a stream with two halves.

Over ssl.MemoryBIO and not trio.SSLStream, which cannot end one half: an answer that ends the connection must be heard
out, and a tunnel's halves end by themselves. HTTP/1.1 only; TLS 1.2 at least (RFC 9325).
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import trio
from trio.abc import HalfCloseableStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.net.stream import TcpStream

_PIECE: Final = 64 * 1024
T = TypeVar("T")


class TlsStream(HalfCloseableStream):
    """The server's side of TLS on `tcp`. Raises as TcpStream does; a peer that breaks TLS is gone."""

    def __init__(self, tcp: TcpStream, context: ssl.SSLContext) -> None:
        self._tcp = tcp
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ahead = bytearray()  # decrypted, and not asked for yet
        self._sending = trio.Lock()

    async def handshake(self) -> None:
        """Agree with the client; nothing can be sent or received before."""
        await self._do(self._tls.do_handshake)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At most `max_bytes` octets; none once the peer has ended its side, with a close_notify or without."""
        if not self._ahead:
            await self._do(self._decrypt)
        piece = bytes(self._ahead[: max_bytes or _PIECE])
        del self._ahead[: len(piece)]
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Hand all of it to the kernel."""
        rest = memoryview(data)
        while rest:
            piece = rest
            rest = rest[await self._do(lambda piece=piece: self._tls.write(piece)) :]  # type: ignore[misc]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await self._tcp.wait_send_all_might_not_block()

    def fileno(self) -> int:
        """The number of the socket below, for select.poll."""
        return self._tcp.fileno()

    async def send_eof(self) -> None:
        """End our side (RFC 8446 §6.1); the peer may go on."""
        with suppress(ssl.SSLError):
            while data := self._tls.read(_PIECE):  # unwrap would throw away what has come
                self._ahead += data
        with suppress(ssl.SSLError):
            self._tls.unwrap()  # writes close_notify, and would wait for the peer's
        await self._flush()
        await self._tcp.send_eof()

    async def aclose(self) -> None:
        """Close it without a word: a close_notify would make an answer that broke off look complete."""
        await self._tcp.aclose()

    def _decrypt(self) -> None:
        """Get what has come, or the end; kept here, so that a receiver who is cancelled meanwhile loses no octet."""
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ahead += self._tls.read(_PIECE)

    async def _do(self, act: Callable[[], T]) -> T:
        """Do one thing of TLS, with as many octets from and to the peer as it takes."""
        while True:
            try:
                done = act()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._tcp.receive_some(_PIECE)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError as error:
                with suppress(trio.BrokenResourceError):
                    await self._flush()  # the alert that says why
                raise trio.BrokenResourceError(error.reason) from None
            else:
                await self._flush()
                return done

    async def _flush(self) -> None:
        """Send what TLS has written, if anything; one after the other, or records would be torn apart."""
        if not self._outgoing.pending:
            return  # a receiver must not wait for a sender: the peer may read nothing before it is read
        async with self._sending:
            await self._tcp.send_all(self._outgoing.read())
