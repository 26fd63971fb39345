"""A proxy asked as a client would, and a canary that must not be heard: what `validate` sees from outside.

Blocking, for a command and not for the daemon. Nothing here knows what an answer should have been.
"""

from __future__ import annotations

import base64
import secrets
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

from proxyd.http.proxy_status import has_our_refusal
from proxyd.policy.address import BadTarget, bracketed, parse_host

if TYPE_CHECKING:
    from types import TracebackType

PATIENCE_SECONDS: Final = 10.0  # for one answer; proxyd needs 5 at most
_LONGEST_REQUEST: Final = 8192
_PORTS: Final = {"http": 80, "https": 443}


class BadProxyUrl(ValueError):  # noqa: N818 - said to the user
    """It is no URL of a proxy. The text never has the credentials that may be in it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. status: 0 where nothing did, and then `failure` says why. signal: Proxy-Status (RFC 9209)."""

    status: int = 0
    phrase: str = ""
    signal: str = ""
    failure: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether proxyd itself refuses, in so many words: it strips such a member from what origins say."""
        return has_our_refusal(self.signal.encode())


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy by its URL. credential: of Proxy-Authorization, never shown."""

    scheme: str
    host: str
    port: int
    credential: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str) -> Proxy:
        """The proxy of a URL as HTTP_PROXY has it. Raises BadProxyUrl."""
        try:
            parts = urlsplit(url)
            host, port = parse_host(bracketed(parts.hostname or ""))[0], parts.port
        except (ValueError, BadTarget):
            raise BadProxyUrl("its host or port cannot be read") from None
        if parts.scheme not in _PORTS:
            raise BadProxyUrl("its scheme is neither http nor https")
        credential = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else ""
        return cls(parts.scheme, host, port or _PORTS[parts.scheme], credential)

    def __str__(self) -> str:
        return f"{self.scheme}://{'…@' if self.credential else ''}{bracketed(self.host)}:{self.port}"

    def connect(self, target: str) -> Answer:
        """What it says to a CONNECT to `target`, a host:port."""
        return self._ask("CONNECT", target, target)

    def get(self, url: str, host: str) -> Answer:
        """What it says to a GET of `url`, in absolute-form."""
        return self._ask("GET", url, host)

    def _ask(self, method: str, target: str, host: str) -> Answer:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
        if self.credential:
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(self.credential.encode()).decode()}")
        try:
            with self._reach() as sock:
                sock.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii", "replace"))
                response = HTTPResponse(sock, method=method)
                response.begin()
                signal = ", ".join(response.headers.get_all("Proxy-Status", []))
                return Answer(response.status, response.reason, signal)
        except ssl.SSLError as error:  # a ValueError, too
            return Answer(failure=f"TLS: {error.reason}")
        except (HTTPException, ValueError):  # an OSError, too, where the proxy hangs up
            return Answer(failure="its answer is no HTTP")
        except OSError as error:
            return Answer(failure=error.strerror or "no answer in time")

    def _reach(self) -> socket.socket:
        sock = socket.create_connection((self.host, self.port), PATIENCE_SECONDS)
        if self.scheme == "http":
            return sock
        try:
            return ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise


class Canary:
    """Listens on loopback, and knows whether anybody has said its word: a word that nobody could guess."""

    def __init__(self, address: str) -> None:
        """address: of loopback. Raises OSError where this host has no such address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.word = secrets.token_hex(16)
        self._came = threading.Event()
        self._sock = socket.create_server((address, 0), family=family)
        self.port: int = self._sock.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread; close(2) alone would not
        self._sock.close()
        self._thread.join(PATIENCE_SECONDS)

    def forget(self) -> None:
        """Whoever has come was known; from here on it is about the next one."""
        self._came.clear()

    def comes(self, seconds: float = 0.0) -> bool:
        """Whether anybody has come since then, or does within so many seconds."""
        return self._came.wait(seconds)

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._sock.accept()
                self._hear(client)

    def _hear(self, client: socket.socket) -> None:
        """A connection alone is somebody: who is told to keep away must not even connect."""
        self._came.set()
        with suppress(OSError), client:
            client.settimeout(1)
            client.recv(_LONGEST_REQUEST)
            client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.word)}\r\n\r\n{self.word}".encode())
