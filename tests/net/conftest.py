"""What several tests of sockets need: authorities, made once, and a connection over TLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trio

from proxyd.net import nameserver, resolver
from proxyd.net.certificate import server_context
from proxyd.net.stream import TcpStream
from proxyd.net.tls import TlsStream
from tests.adversarial.tls import Certificates, certificates
from tests.net.joined import PATIENCE, SMALL, connected, open_files
from tests.net.secure import VERSIONS, Ends, agreed

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A server that is 127.0.0.1, ::1 and dns.example, and who says so."""
    return certificates(tmp_path_factory.mktemp("authority"), ["dns.example"], ["127.0.0.1", "::1"])


@pytest.fixture(scope="session")
def uncertified(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One that says the same, and whom nobody trusts."""
    return certificates(tmp_path_factory.mktemp("stranger"), ["dns.example"], ["127.0.0.1", "::1"])


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long time for a question and for a lookup: a slow machine decides nothing."""
    monkeypatch.setattr(nameserver, "TRY_SECONDS", PATIENCE)
    for name in ("TOTAL_SECONDS", "GRACE_SECONDS"):
        monkeypatch.setattr(resolver, name, PATIENCE)


@pytest.fixture
def context(certified: Certificates) -> ssl.SSLContext:
    """The server's."""
    directory = certified.authority.parent
    return server_context((directory / "origin.pem").read_text(), (directory / "origin.key").read_text())


@pytest.fixture
def trust(certified: Certificates) -> ssl.SSLContext:
    """The client's."""
    trusting = ssl.create_default_context(cafile=str(certified.authority))
    trusting.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # which some builds of Python set
    return trusting


@pytest.fixture
async def raw(context: ssl.SSLContext) -> AsyncIterator[tuple[TlsStream, socket.socket]]:
    """A stream before its handshake, and the socket at the far end. No descriptor is left open."""
    before = open_files()
    near, far = connected(SMALL)
    stream = TlsStream(TcpStream(near), context)
    with trio.fail_after(PATIENCE):
        yield stream, far
    near.close()
    far.close()
    assert open_files() == before


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
async def ends(raw: tuple[TlsStream, socket.socket], trust: ssl.SSLContext, request: pytest.FixtureRequest) -> Ends:
    """A stream that can be used, and its client."""
    trust.minimum_version = trust.maximum_version = request.param
    return await agreed(raw, trust)
