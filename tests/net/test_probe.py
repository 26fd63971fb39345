"""A proxy asked as a client would: what it says, and what it means that it says nothing (R11)."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from proxyd.net import probe
from proxyd.net.probe import Answer, BadProxyUrl, Canary, Proxy

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tests.adversarial.tls import Certificates

OURS = 'proxyd; error=destination_ip_prohibited; details="address_denied"'


class Scripted:
    """A proxy that says one thing to whoever asks, and keeps what was asked."""

    def __init__(self, answer: bytes, context: ssl.SSLContext | None = None) -> None:
        self.heads: list[bytes] = []
        self._answer = answer
        self._context = context
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve nobody any more."""
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join()

    def _serve(self) -> None:
        try:
            while True:
                client, _ = self._sock.accept()
                with client if self._context is None else self._context.wrap_socket(client, server_side=True) as sock:
                    self.heads.append(sock.recv(65536))
                    sock.sendall(self._answer)
        except OSError:
            return


@contextmanager
def scripted(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """One, meanwhile."""
    proxy = Scripted(answer, context)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:3128", "http://127.0.0.1:3128"),
        ("http://127.0.0.1", "http://127.0.0.1:80"),
        ("https://proxy.test", "https://proxy.test:443"),
        ("http://[::1]:3128/", "http://[::1]:3128"),
        ("http://us%3Aer:p%40ss@127.0.0.1:1", "http://…@127.0.0.1:1"),
    ],
)
def test_a_proxy_is_known_by_its_url_and_its_credential_is_never_told(url: str, told: str) -> None:
    """R7."""
    proxy = Proxy.of(url)
    assert str(proxy) == told
    assert "p@ss" not in f"{proxy} {proxy!r}"


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:3128", "ftp://127.0.0.1", "http://", "http://127.1:3128", "http://a:b@x:99999", "http://[::1"],
)
def test_what_is_no_url_of_a_proxy_is_an_error_that_repeats_nothing(url: str) -> None:
    with pytest.raises(BadProxyUrl) as bad:
        Proxy.of(url)
    assert "a:b" not in str(bad.value)


def test_it_asks_as_clients_do() -> None:
    answer = f"HTTP/1.1 403 Forbidden: address_denied\r\nProxy-Status: {OURS}\r\nContent-Length: 0\r\n\r\n".encode()
    with scripted(answer) as far:
        proxy = Proxy.of(f"http://us%3Aer:p%40ss@127.0.0.1:{far.port}")
        said = proxy.connect("10.0.0.1:80")
        assert said == Answer(403, "Forbidden: address_denied", OURS)
        assert said.is_ours
        proxy.get("http://10.0.0.1/", "10.0.0.1")
    assert far.heads[0].startswith(b"CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: 10.0.0.1:80\r\n")
    assert far.heads[1].startswith(b"GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\n")
    assert base64.b64encode(b"us:er:p@ss") in far.heads[0]


@pytest.mark.parametrize(
    ("signal", "ours"),
    [
        (OURS, True),
        (f"other; error=x, {OURS}", True),
        ("", False),
        ("proxyd", False),
        ("proxyd-not; error=x", False),
        ('other; details="proxyd; error=x"', False),
        (f'x; details="a, {OURS}"', False),
        (f'x; details="a, {OURS}", {OURS}', True),
        (f'x; details="a, {OURS}', False),
    ],
)
def test_only_proxyds_own_word_is_its_signal(signal: str, *, ours: bool) -> None:
    assert Answer(403, signal=signal).is_ours is ours


@pytest.mark.parametrize(
    ("answer", "failure"),
    [(b"", "its answer is no HTTP"), (b"SSH-2.0-x\r\n\r\n", "its answer is no HTTP")],
)
def test_what_is_no_answer_is_a_failure(answer: bytes, failure: str) -> None:
    with scripted(answer) as far:
        assert Proxy.of(f"http://127.0.0.1:{far.port}").connect("a.test:443").failure == failure


def test_where_nobody_listens_that_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert Proxy.of(f"http://127.0.0.1:{port}").connect("a.test:443") == Answer(failure="Connection refused")


def test_silence_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert (
            Proxy.of(f"http://127.0.0.1:{sock.getsockname()[1]}").connect("a.test:443").failure == "no answer in time"
        )


def test_a_proxy_that_speaks_tls_is_asked_over_tls(
    context: ssl.SSLContext, certified: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one whose certificate does not hold is not asked: a credential is nobody else's."""
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", context) as far:
        proxy = Proxy.of(f"https://user:secret@127.0.0.1:{far.port}")
        assert proxy.connect("a.test:443").failure.startswith("TLS: CERTIFICATE_VERIFY_FAILED")
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.authority))
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", context) as far:
        assert Proxy.of(f"https://user:secret@127.0.0.1:{far.port}").connect("a.test:443").status == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_canary_knows_whether_anybody_came_and_says_its_word(address: str) -> None:
    with Canary(address) as canary:
        assert not canary.comes()
        with socket.create_connection((address, canary.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            said = b""
            while more := client.recv(4096):
                said += more
        assert canary.comes()
        assert canary.word.encode() in said
    with Canary(address) as other:
        assert other.word != canary.word


def test_who_connects_and_leaves_has_reached_the_canary_and_the_next_one_is_heard() -> None:
    with Canary("127.0.0.1") as canary:
        for _ in range(2):
            canary.forget()
            assert not canary.comes()
            socket.create_connection(("127.0.0.1", canary.port)).close()
            with socket.create_connection(("127.0.0.1", canary.port)) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"H"
            assert canary.comes()


def test_where_there_is_no_such_address_there_is_no_canary() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        Canary("2001:db8::77")
