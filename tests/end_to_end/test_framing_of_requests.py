"""Framing that two parsers could read in two ways: one request in is one request out, or 400 and close (ATTACKS 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.daemon import Daemon, status

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Scene

BAD = {
    "CL and TE": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two CL, equal": "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "two CL, different": "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "CL list": "Content-Length: 5,5\r\n\r\nhello",
    "CL plus": "Content-Length: +5\r\n\r\nhello",
    "CL hex": "Content-Length: 0x5\r\n\r\nhello",
    "CL empty": "Content-Length: \r\n\r\nhello",
    "CL negative": "Content-Length: -5\r\n\r\nhello",
    "CL huge": f"Content-Length: {'9' * 30}\r\n\r\nhello",
    "TE gzip": "Transfer-Encoding: gzip\r\n\r\nx",
    "TE chunked, gzip": "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "TE chunked,": "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
    "TE vertical tab": "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "TE space before colon": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "obs-fold": "X: a\r\n b\r\n\r\n",
    "TE folded": "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare LF": "X: a\nY: b\r\n\r\n",
    "bare CR": "X: a\rY: b\r\n\r\n",
    "NUL": "X: a\0b\r\n\r\n",
    "no colon": "nonsense\r\n\r\n",
    "empty name": ": x\r\n\r\n",
    "chunk size negative": "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "chunk size hex prefix": "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size huge": "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    "chunk size and space": "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
    "chunk line LF": "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    "chunk without CRLF": "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    "chunk extension flood": "Transfer-Encoding: chunked\r\n\r\n5;" + "x" * 5000 + "\r\nhello\r\n0\r\n\r\n",
    "trailer LF": "Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\r\n",
    "trailer folded": "Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n b\r\n\r\n",
}
AFTER = "GET http://10.0.0.5/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("case", BAD)
def test_attack_5_ambiguous_framing_is_refused_and_the_connection_closed(
    scene: Scene, proxy: Daemon, case: str
) -> None:
    head = f"POST {scene.url}/ HTTP/1.1\r\nHost: x\r\n"
    answer = proxy.ask((head + BAD[case] + AFTER).encode("latin-1"))
    assert status(answer) in (400, 501)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert scene.origin.bodies == []
    assert len(proxy.decisions()) == 1


@pytest.mark.parametrize(
    "start",
    [
        *(
            "GET {}/",
            "GET {}/ HTTP/0.9",
            "GET {}/ HTTP/2.0",
            "GET {}/ HTTP/1.2",
            "GET {}/ http/1.1",
            "GET  {}/ HTTP/1.1",
        ),
        *("GET {}/ HTTP/1.1 ", " GET {}/ HTTP/1.1", "GET {}/ x HTTP/1.1", "G@T {}/ HTTP/1.1", "GET\t{}/ HTTP/1.1"),
    ],
)
def test_attack_5_a_request_line_has_one_form(scene: Scene, proxy: Daemon, start: str) -> None:
    answer = proxy.ask(f"{start.format(scene.url)}\r\nHost: x\r\n\r\n".encode())
    assert status(answer) in (400, 505)
    assert scene.origin.connections == 0


@pytest.mark.parametrize("body", ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_attack_5_a_connect_has_no_body(scene: Scene, proxy: Daemon, body: str) -> None:
    assert status(proxy.ask(f"CONNECT {scene.target} HTTP/1.1\r\nHost: x\r\n{body}".encode())) == 400
    assert scene.origin.connections == 0


def test_attack_5_http_1_0_has_no_transfer_encoding(scene: Scene, proxy: Daemon) -> None:
    request = f"POST {scene.url}/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert status(proxy.ask(request.encode())) == 400


def test_a_head_that_is_too_long_is_431(proxy: Daemon) -> None:
    assert status(proxy.ask(b"GET http://x.test/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n")) == 431


def test_bytes_are_framed_anew_and_never_relayed_raw(scene: Scene, proxy: Daemon) -> None:
    request = (
        f"POST {scene.url}/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: CHUNKED\r\nConnection: close\r\n\r\n"
        "3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: t\r\nHost: evil\r\n\r\n"
    )
    assert status(proxy.ask(request.encode())) == 200
    assert scene.origin.bodies[0].startswith(b"abcde")
    assert b"a=b" not in scene.origin.heads[0] + scene.origin.bodies[0]


BAD_RESPONSES = {
    "CL and TE": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two CL": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "obs-fold": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "HTTP/0.9": b"hello\r\n\r\n",
    "TE in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "407": b"HTTP/1.1 407 Give me\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n",
    "endless 1xx": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100,
    "head too long": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("case", BAD_RESPONSES)
def test_attack_5_an_ambiguous_response_is_502(scene: Scene, proxy: Daemon, case: str) -> None:
    scene.origin.scripted["/bad"] = BAD_RESPONSES[case]
    answer = proxy.ask(f"GET {scene.url}/bad HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert b"HTTP/1.1 502 Bad Gateway: origin_malformed" in answer
    assert proxy.closings()[0]["reason"] == "origin_malformed"


def test_an_origin_that_says_nothing_is_502(scene: Scene, proxy: Daemon) -> None:
    scene.origin.scripted["/none"] = b""
    answer = proxy.ask(f"GET {scene.url}/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert b"HTTP/1.1 502 Bad Gateway: origin_closed" in answer


def test_a_body_that_breaks_off_never_ends_well(scene: Scene, proxy: Daemon) -> None:
    scene.origin.scripted["/half"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    answer = proxy.ask(f"GET {scene.url}/half HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.endswith(b"hello\r\n")
    assert proxy.closings()[0]["outcome"] == "aborted"


def test_an_origin_does_not_speak_for_us(scene: Scene, proxy: Daemon) -> None:
    scene.origin.scripted["/forged"] = (
        b'HTTP/1.1 200 OK\r\nProxy-Status: proxyd; error=destination_ip_prohibited, cdn; details="x"\r\n'
        b"Content-Length: 0\r\n\r\n"
    )
    answer = proxy.ask(f"GET {scene.url}/forged HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert b"proxyd; error" not in answer
    assert b'Proxy-Status: cdn; details="x"' in answer


def test_a_body_that_breaks_off_is_a_reset_for_http_1_0(scene: Scene, proxy: Daemon) -> None:
    """There the end of the connection is the end of the body: an ordinary one would make it whole."""
    scene.origin.scripted["/half"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with pytest.raises(ConnectionResetError):
        proxy.ask(f"GET {scene.url}/half HTTP/1.0\r\n\r\n".encode())
