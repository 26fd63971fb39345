"""`HelloReader`: any octets, cut anywhere, are NotTls, wanting, or one ClientHello, and always the same (ATTACKS 4.3).

OpenSSL reads along: a name that proxyd allows a tunnel by is the one that a server would have seen, if it saw any.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

from hypothesis import strategies as st

from proxyd.http.client_hello import MAX_OCTETS, ClientHello, HelloReader, NotTls
from tests.fuzz.target import Target
from tests.http.hellos import GOOD, body, extension, message, records, server_name


def _attempt(data: bytes) -> str:
    """The first octet says how long the pieces are that the rest comes in."""
    size, stream = (data[0] or 1 if data else 1), data[1:]
    read = _heard([stream])
    assert _heard([stream[at : at + size] for at in range(0, len(stream), size)]) == read, "cut, it reads otherwise"
    if not isinstance(read, ClientHello):
        return read
    assert read.name is None or (read.name == read.name.lower() and read.name.isascii() and read.name)
    seen = _seen_by_openssl(stream)
    if seen is None:
        return "a hello that OpenSSL refuses"
    assert (seen.lower().removesuffix(".") or None) == read.name, f"a server sees {seen!r}, we {read.name!r}"
    return "a hello with a name" if read.name else "a hello without a name"


def _heard(pieces: list[bytes]) -> ClientHello | str:
    reader = HelloReader()
    for piece in pieces:
        try:
            found = reader.hear(piece)
        except NotTls:
            return "not TLS"
        if found is not None:
            return found
    assert sum(map(len, pieces)) <= MAX_OCTETS, "it waits for ever"
    return "wanting"


def _seen_by_openssl(stream: bytes) -> str | None:
    """The name that a server is asked for, "" if for none, None if it never gets to ask."""
    seen: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _tls, name, _context: seen.append(name or "")
    incoming = ssl.MemoryBIO()
    incoming.write(stream)
    with suppress(ssl.SSLError):
        context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    return seen[0] if seen else None


_names = st.one_of(
    st.sampled_from([b"api.example.com", b"API.example.com.", b"a", b"127.0.0.1"]), st.binary(max_size=20)
)
_extensions = st.one_of(
    st.lists(_names, max_size=2).map(lambda names: server_name(*names)),
    st.builds(extension, st.integers(0, 0xFFFF), st.binary(max_size=20)),
    st.just(extension(0xFE0D, bytes(40))),
)
_bodies = st.lists(_extensions, max_size=4).map(lambda extensions: body(*extensions))

TARGET: Final = Target(
    attempt=_attempt,
    about=("proxyd.http.client_hello",),
    seeds={name: b"\x07" + stream for name, (stream, _) in GOOD.items()}
    | {"no TLS": b"\x01GET / HTTP/1.1", "wanting": b"\x01" + GOOD["TLS 1.3"][0][:-1]}
    | {"SSL 3": b"\xff" + records(message(body(server_name(b"a"), version=b"\x03\x00")))},
    inputs=st.builds(
        lambda size, content, of, cut: bytes([size]) + records(message(content), of)[: -cut or None],
        st.integers(0, 255),
        _bodies,
        st.integers(1, 600),
        st.integers(0, 3),
    ),
    outcomes=frozenset(
        {"not TLS", "wanting", "a hello with a name", "a hello without a name", "a hello that OpenSSL refuses"}
    ),
    words=(b"\x16\x03\x01", b"\x00\x00", b"\xfe\x0d"),
)
