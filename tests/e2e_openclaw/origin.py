"""The rest of the world: one origin behind every name, at the usual ports, plain and TLS."""

from __future__ import annotations

import base64
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

HTTP, HTTPS = 80, 443
HELLO: Final = "hello"

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_PING, _PONG, _CLOSE = 0x89, 0x8A, 0x88


@dataclass
class World:
    """Serves what stands in a folder at one address; POST: the body's SHA-256; a WebSocket: everything sent back.

    `heads` are the heads of the requests, by the host that they ask.
    """

    address: str
    folder: Path
    context: ssl.SSLContext
    heads: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / HELLO).write_text(HELLO)
        world = self

        class Handler(_Handler):
            def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - passed through
                self.world = world
                super().__init__(*arguments, directory=str(world.folder))

        self._servers = [ThreadingHTTPServer((self.address, port), Handler) for port in (HTTP, HTTPS)]
        plain = self._servers[-1].socket
        self._servers[-1].socket = self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    world: World

    def parse_request(self) -> bool:
        good = super().parse_request()
        if good:
            head = f"{self.requestline}\n{self.headers}"
            self.world.heads.setdefault(self.headers["Host"].partition(":")[0], []).append(head)
        return good

    def do_GET(self) -> None:
        if "upgrade" in self.headers:
            self._converse()
        else:
            super().do_GET()

    def do_POST(self) -> None:
        digest = hashlib.sha256(self._body()).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(digest)))
        self.end_headers()
        self.wfile.write(digest)

    def log_message(self, *_: object) -> None:
        """Nothing is said on stderr."""

    def _body(self) -> bytes:
        if "transfer-encoding" not in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _converse(self) -> None:
        """Agree to a WebSocket and send short messages back until the client closes it (RFC 6455 §4.2.2, §5.2)."""
        proof = hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + _GUID, usedforsecurity=False).digest()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade")):
            self.send_header(name, value)
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(proof).decode())
        self.end_headers()
        self.close_connection = True
        while start := self.rfile.read(2):
            mask, payload = self.rfile.read(4), self.rfile.read(start[1] & 0x7F)
            plain = bytes(octet ^ mask[place % 4] for place, octet in enumerate(payload))
            kind = _PONG if start[0] == _PING else start[0]
            self.wfile.write(bytes([kind, len(plain)]) + plain)
            if kind == _CLOSE:
                return
