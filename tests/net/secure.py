"""A TLS client whose halves end by themselves, and whose octets a test may hold back or change."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from proxyd.net.tls import TlsStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_PIECE = 64 * 1024
T = TypeVar("T")
Ends = tuple[TlsStream, "Client"]
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Client:
    """The client's side of TLS. `sock` is closed by the test that made it."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str = "dns.example") -> None:
        self.sock = trio.socket.from_stdlib_socket(sock)
        self._stream = trio.SocketStream(self.sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.change: Callable[[bytes], bytes] = lambda wire: wire

    async def handshake(self) -> None:
        """Agree with the server."""
        await self._do(self.tls.do_handshake)

    def encrypted(self, data: bytes) -> bytes:
        """What carries this to the server: it must be sent before anything else."""
        self.tls.write(data)
        return self._outgoing.read()

    async def send_raw(self, wire: bytes) -> None:
        """Send these octets, whatever they are."""
        await self._stream.send_all(wire)

    async def send(self, data: bytes) -> None:
        """Send it, without a look at what comes."""
        await self.send_raw(self.change(self.encrypted(data)))

    async def exactly(self, count: int) -> bytes:
        """The next `count` octets."""
        received = bytearray()
        while len(received) < count:
            data = await self._do(partial(self.tls.read, min(_PIECE, count - len(received))))
            assert data, f"the server ended after {len(received)} of {count} octets"
            received += data
        return bytes(received)

    async def rest(self) -> tuple[bytes, str]:
        """What comes until the server ends, and how that is: in order, or in the middle ("ragged")."""
        received = bytearray()
        try:
            while data := await self._do(lambda: self.tls.read(_PIECE)):
                received += data
        except ssl.SSLZeroReturnError:
            pass
        except (ssl.SSLError, trio.BrokenResourceError):  # of Python 3.11.2 it is not always an SSLEOFError
            return bytes(received), "ragged"
        return bytes(received), "in order"

    async def end(self, *, fin: bool = True) -> None:
        """Say that nothing more comes, and go on listening. fin: let TCP say so too."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.send_raw(self._outgoing.read())
        if fin:
            await self._stream.send_eof()

    async def _do(self, act: Callable[[], T]) -> T:
        while True:
            try:
                done = act()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._stream.receive_some(_PIECE)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                await self._flush()
                return done

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self.send_raw(self.change(self._outgoing.read()))


async def agreed(raw: tuple[TlsStream, socket.socket], trust: ssl.SSLContext) -> Ends:
    """The same after it."""
    stream, far = raw
    client = Client(far, trust)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.handshake)
        await client.handshake()
    return stream, client


async def received(stream: TlsStream) -> bytes:
    """All that comes until the end."""
    data = bytearray()
    while piece := await stream.receive_some():
        data += piece
    assert await stream.receive_some() == b"", "and once more"
    return bytes(data)


async def refused(stream: TlsStream, why: str | None = None) -> None:
    """Hold that the handshake fails, and in no other way than a connection may."""
    with pytest.raises(trio.BrokenResourceError, match=why):
        await stream.handshake()
