"""An origin for real clients, plain and TLS, with certificates of an authority that lives as long as the test.

The authority is made by the openssl command: Python's own library makes no certificates.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from tests.end_to_end.origin import Listener
from tests.tools import tool

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PIECE = 64 * 1024
_CONFIG = "[req]\ndistinguished_name = none\n[none]\n"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_CLOSE = 0x88

Fields = dict[str, str]


@dataclass(frozen=True)
class Certificates:
    """The file to trust, and what a server needs that speaks for some names and addresses."""

    authority: Path
    context: ssl.SSLContext


def certificates(directory: Path, names: Sequence[str], addresses: Sequence[str]) -> Certificates:
    """A new authority, and a certificate that it issued."""
    config, authority, authority_key = directory / "config", directory / "ca.pem", directory / "ca.key"
    certificate, key = directory / "origin.pem", directory / "origin.key"
    config.write_text(_CONFIG)
    subject = ",".join([f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses])
    make = [tool("openssl"), "req", "-x509", "-config", str(config), "-noenc", "-days", "2"]
    make += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    issuer = ["-subj", "/CN=Tests", "-keyout", str(authority_key), "-out", str(authority)]
    issuer += ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    issued = ["-CA", str(authority), "-CAkey", str(authority_key), "-subj", "/CN=Origin"]
    issued += ["-keyout", str(key), "-out", str(certificate), "-addext", f"subjectAltName={subject}"]
    for arguments in (issuer, issued):
        subprocess.run([*make, *arguments], check=True, capture_output=True)  # noqa: S603 - a fixed program
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return Certificates(authority, context)


@dataclass
class Origin:
    """Serves, on a kept-alive connection, plain at `port` and over TLS at `tls_port`:

    `/big`: the octets of `big`; `/digest`: the SHA-256 of the request's body; `/early`: 413 after the body's first
    octets; a WebSocket that echoes; else "hello". `heads` are the request heads that arrived.
    """

    addresses: tuple[str, ...]
    context: ssl.SSLContext
    big: bytes
    heads: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._plain = Listener(self._serve, self.addresses)
        self._secure = Listener(self._serve_tls, self.addresses)
        self.port, self.tls_port = self._plain.port, self._secure.port

    def close(self) -> None:
        """Stop listening."""
        self._plain.close()
        self._secure.close()

    def _serve_tls(self, connection: socket.socket) -> None:
        with self.context.wrap_socket(connection, server_side=True) as inner:
            self._serve(inner)

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            while head := _head(reader):
                self.heads.append(head)
                target, fields = _understood(head)
                if "upgrade" in fields:
                    _web_socket(connection, reader, fields)
                    return
                if "expect" in fields:
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                if target == "/early":
                    _answer_early(connection, reader, fields)
                    return
                body = self._content(target, _body(reader, fields))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                connection.sendall(body)
                if fields.get("connection") == "close":
                    return

    def _content(self, target: str, body: Iterator[bytes]) -> bytes:
        digest = hashlib.sha256()
        for piece in body:
            digest.update(piece)
        if target == "/digest":
            return digest.hexdigest().encode()
        return self.big if target == "/big" else b"hello"


def _head(reader: BinaryIO) -> bytes:
    """A request's head with its empty line; nothing where the client is done."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = reader.readline()
        if not line:
            return b""
        head += line
    return head


def _understood(head: bytes) -> tuple[str, Fields]:
    request, *lines = head.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return request.split(" ")[1], {name.lower(): value.strip() for name, _, value in pairs}


def _body(reader: BinaryIO, fields: Fields) -> Iterator[bytes]:
    """The body's octets, by length or in chunks, as they come."""
    if "transfer-encoding" not in fields:
        yield reader.read(int(fields.get("content-length", "0")))
        return
    while size := int(reader.readline(), 16):
        yield reader.read(size)
        reader.readline()
    reader.readline()


def _answer_early(connection: socket.socket, reader: BinaryIO, fields: Fields) -> None:
    """Refuse an upload that has begun, and hear it out: what would be missed is the client's answer."""
    next(_body(reader, fields))
    connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly")
    while reader.read(_PIECE):
        pass


def _web_socket(connection: socket.socket, reader: BinaryIO, fields: Fields) -> None:
    """Agree to a WebSocket and send short text back until the client closes it (RFC 6455 §4.2.2, §5.2)."""
    proof = hashlib.sha1(fields["sec-websocket-key"].encode() + _GUID, usedforsecurity=False).digest()
    agreed = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    connection.sendall(agreed + b"Sec-WebSocket-Accept: " + base64.b64encode(proof) + b"\r\n\r\n")
    while start := reader.read(2):
        mask, payload = reader.read(4), reader.read(start[1] & 0x7F)
        plain = bytes(octet ^ mask[place % 4] for place, octet in enumerate(payload))
        connection.sendall(bytes([start[0], len(plain)]) + plain)
        if start[0] == _CLOSE:
            return
