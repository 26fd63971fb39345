"""ClientHellos: those that OpenSSL sends, and the pieces to make any other of (RFC 8446 §4.1.2, RFC 6066 §3)."""

from __future__ import annotations

import ssl
from typing import Final

import pytest

HEADER: Final = 5
NAME: Final = "api.example.com"


def of_openssl(name: str | None, version: ssl.TLSVersion | None = None, alpn: tuple[str, ...] = ()) -> bytes:
    """What OpenSSL sends first to a server of that name."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    sent = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return sent.read()


def vector(width: int, content: bytes) -> bytes:
    """A field behind its length."""
    return len(content).to_bytes(width, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    """One extension."""
    return kind.to_bytes(2, "big") + vector(2, content)


def server_name(*names: bytes, kind: int = 0) -> bytes:
    """The extension with these names (RFC 6066 §3)."""
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


def body(*extensions: bytes, version: bytes = b"\x03\x03", behind: bytes = b"") -> bytes:
    """What is in a ClientHello."""
    fixed = version + bytes(32) + vector(1, bytes(32)) + vector(2, b"\x13\x01\x13\x02") + vector(1, b"\0")
    return fixed + vector(2, b"".join(extensions)) + behind


def message(content: bytes, kind: int = 1) -> bytes:
    """A handshake message."""
    return bytes([kind]) + vector(3, content)


def records(content: bytes, size: int = 1 << 14, version: bytes = b"\x03\x01") -> bytes:
    """It in records of that size."""
    pieces = (content[at : at + size] for at in range(0, len(content), size))
    return b"".join(b"\x16" + version + vector(2, piece) for piece in pieces)


def hello(*extensions: bytes) -> bytes:
    """A ClientHello with these extensions, in one record."""
    return records(message(body(*extensions)))


GOOD: Final = {
    "TLS 1.3": (of_openssl(NAME), NAME),
    "TLS 1.2": (of_openssl(NAME, ssl.TLSVersion.TLSv1_2), NAME),
    "ALPN": (of_openssl(NAME, alpn=("h2", "http/1.1")), NAME),
    "IDN": (of_openssl("bücher.example"), "xn--bcher-kva.example"),
    "no name": (of_openssl(None), None),
    "an address": (of_openssl("93.184.216.34"), None),
    "no extensions": (records(message(body()[:-2])), None),
    "empty extensions": (hello(), None),
}
"""What OpenSSL sends, and the name in it; and two that have as little as there can be."""
