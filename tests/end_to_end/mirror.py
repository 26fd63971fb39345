"""The public web of the recipes: files for many hosts, over HTTP and TLS at the ports that URLs have by default."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

_TLS: Final = 443


@dataclass
class Mirror:
    """Serves `root/HOST/PATH` at each address; `reached` are the addresses and hosts of the requests that arrived."""

    root: Path
    addresses: tuple[str, ...]
    context: ssl.SSLContext
    reached: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._servers = [self._serving(address, port) for address in self.addresses for port in (80, _TLS)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _serving(self, address: str, port: int) -> ThreadingHTTPServer:
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def translate_path(self, path: str) -> str:
                host = self.headers.get("Host", "").partition(":")[0]
                outer.reached.add((address, host))
                self.directory = str(outer.root / host)
                return super().translate_path(path)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        server = Quiet((address, port), Handler)
        if (
            port == _TLS
        ):  # the handshake is the handler's, in its thread: a client that says nothing keeps nobody waiting
            server.socket = self.context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        return server


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that leave: it is the tests that judge what they saw."""

    def handle_error(self, *_: object) -> None:
        """Nobody reads it."""
