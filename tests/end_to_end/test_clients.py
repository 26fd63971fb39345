"""The clients of CLIENT.md, as captured and as themselves: curl, Python and Node through the real daemon (R4, R11)."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.daemon import Daemon, read_all, read_until, status
from tests.end_to_end.origin import Listener, echo
from tests.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import Scene

MIB = 1024 * 1024

# The request heads that OpenClaw's stacks send, shapes of client-captures.md, with the origin's port put in.
PLAIN = {
    "undici fetch": "host: {0}\r\nconnection: keep-alive\r\naccept: */*\r\nuser-agent: undici\r\n",
    "node:http": "Host: {0}\r\nProxy-Connection: close\r\nConnection: close\r\n",
    "axios": "Accept: application/json\r\nUser-Agent: axios/1.21.1\r\nhost: {0}\r\nProxy-Connection: close\r\n",
    "credentials": "host: {0}\r\nproxy-authorization: Basic dXNAZXI6cGE6c3Mgw7Y=\r\nconnection: keep-alive\r\n",
    "curl": "Host: {0}\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nProxy-Connection: Keep-Alive\r\n",
}
CONNECTS = {
    "undici": "1.1\r\nhost: origin.test\r\nconnection: close\r\nproxy-connection: keep-alive\r\n",
    "node:https": "1.1\r\nHost: {0}\r\nProxy-Connection: close\r\n",
    "credentials": "1.1\r\nhost: {0}\r\nconnection: close\r\nproxy-authorization: Basic dXNlcjpwYUBzcw==\r\n",
    "APNs": "1.1\r\nHost: {0}\r\nProxy-Connection: Keep-Alive\r\n",
    "curl": "1.1\r\nHost: {0}\r\nUser-Agent: curl/7.88.1\r\nProxy-Connection: Keep-Alive\r\n",
    "python urllib": "1.0\r\n",
}


@pytest.mark.parametrize("client", PLAIN)
def test_a_captured_plain_request_is_served(scene: Scene, proxy: Daemon, client: str) -> None:
    with proxy.connect() as sock:
        sock.sendall(f"GET {scene.url}/a?b=c HTTP/1.1\r\n{PLAIN[client].format('origin.test')}\r\n".encode())
        assert status(read_until(sock, b"octets")) == 200
    assert scene.origin.heads[0].startswith(b"GET /a?b=c HTTP/1.1\r\nHost: origin.test:")
    assert b"proxy-" not in scene.origin.heads[0].lower().replace(b"proxyd", b"")


@pytest.mark.parametrize("client", CONNECTS)
def test_a_captured_connect_becomes_a_tunnel(scene: Scene, proxy: Daemon, client: str) -> None:
    with proxy.connect() as sock:
        sock.sendall(f"CONNECT {scene.target} HTTP/{CONNECTS[client].format(scene.target)}\r\n".encode())
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 200 Connection Established\r\n\r\n"
        sock.sendall(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_until(sock, b"octets").endswith(b"you sent GET /a HTTP/1.1 and 0 octets")


@pytest.mark.parametrize("framing", ["content-length: 1048576\r\n", "transfer-encoding: chunked\r\n"])
def test_a_mebibyte_arrives_by_length_and_in_chunks(scene: Scene, proxy: Daemon, framing: str) -> None:
    body = os.urandom(MIB)
    sent = (
        body
        if "length" in framing
        else b"".join(b"400\r\n" + body[i : i + 1024] + b"\r\n" for i in range(0, MIB, 1024))
    )
    with proxy.connect() as sock:
        sock.sendall(f"POST {scene.url}/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{framing}\r\n".encode())
        sock.sendall(sent if "length" in framing else sent + b"0\r\n\r\n")
        assert status(read_all(sock)) == 200
    assert scene.origin.bodies == [body]
    assert proxy.closings()[0]["bytes_up"] == MIB


def test_a_websocket_upgrade_becomes_a_tunnel_at_101(scene: Scene, proxy: Daemon) -> None:
    with proxy.connect() as sock:
        sock.sendall(
            f"GET {scene.url}/ws HTTP/1.1\r\nhost: origin.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            "sec-websocket-key: Q6CueLT+bVnyEXhZWPTfzw==\r\nsec-websocket-version: 13\r\n\r\n".encode()
        )
        assert status(read_until(sock, b"\r\n\r\n")) == 101
        sock.sendall(b"\x81\x05hello")
        assert sock.recv(7) == b"\x81\x05hello"
    assert proxy.closings()[0] | {"status": 101, "bytes_up": 7, "bytes_down": 7} == proxy.closings()[0]


def test_an_early_answer_arrives_while_the_body_is_still_sent(scene: Scene) -> None:
    origin = Listener(_answers_at_once, scene.origin.addresses[:1])
    policy = f'[[permit]]\nhost = "second.test"\nports = [{origin.port}]\nnetworks = ["127.0.0.10/32"]\nreason = "x"\n'
    scene.nameserver.zone["second.test"] = scene.nameserver.zone["origin.test"]
    second = scene.start(policy)
    with second.connect() as sock:
        url = f"http://second.test:{origin.port}/"
        sock.sendall(f"POST {url} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nfirst".encode())
        assert status(read_until(sock, b"early")) == 413
    origin.close()


def _answers_at_once(connection: object) -> None:
    connection.recv(10)  # type: ignore[attr-defined] # a socket
    connection.sendall(b"HTTP/1.1 413 Too big\r\nContent-Length: 5\r\n\r\nearly")  # type: ignore[attr-defined]


@pytest.mark.parametrize("field", ["expect: 100-continue\r\n", ""])
def test_expect_100_continue_is_answered_by_the_origin(scene: Scene, proxy: Daemon, field: str) -> None:
    scene.origin.scripted["/c"] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    answer = proxy.ask(f"GET {scene.url}/c HTTP/1.1\r\nhost: x\r\n{field}connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_curl_uploads_and_downloads(scene: Scene, proxy: Daemon, tmp_path: Path) -> None:
    big = os.urandom(3 * MIB)
    (tmp_path / "big").write_bytes(big)
    scene.origin.scripted["/big"] = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(big) + big
    upload = _curl(proxy, "-T", str(tmp_path / "big"), f"{scene.url}/up")
    assert upload == b"you sent PUT /up HTTP/1.1 and %d octets" % len(big)
    assert _curl(proxy, f"{scene.url}/big") == big
    assert scene.origin.bodies[0] == big


def _curl(proxy: Daemon, *arguments: str) -> bytes:
    command = [tool("curl"), "-sS", "-m", "60", "-x", f"http://127.0.0.1:{proxy.port}", *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout  # noqa: S603 - a fixed program


def test_python_urllib(scene: Scene, proxy: Daemon) -> None:
    code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=60).read().decode())"
    env = os.environ | {"http_proxy": f"http://127.0.0.1:{proxy.port}", "no_proxy": ""}
    command = [sys.executable, "-c", code, f"{scene.url}/py"]
    answer = subprocess.run(command, capture_output=True, check=True, env=env, text=True)  # noqa: S603 - our own words
    assert answer.stdout == "you sent GET /py HTTP/1.1 and 0 octets\n"


_NODE = """
const http = require("node:http");
const [port, url, target] = process.argv.slice(1);
http.get({ host: "127.0.0.1", port, path: url, headers: { host: "origin.test" } }, (answer) => {
  console.log(answer.statusCode);
  answer.on("data", (piece) => console.log(piece.toString()));
  const tunnel = http.request({ host: "127.0.0.1", port, method: "CONNECT", path: target });
  tunnel.on("connect", (reply, socket) => {
    console.log(reply.statusCode);
    socket.end("GET /inner HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n");
    socket.on("data", (piece) => console.log(piece.toString().split("\\r\\n\\r\\n")[1]));
  });
  tunnel.end();
});
http.get({ host: "127.0.0.1", port, path: "http://10.0.0.5/" }, (refused) => {
  console.log(refused.statusCode, refused.statusMessage);
  refused.resume();
});
"""


def test_node_http_plain_connect_and_refusal(scene: Scene, proxy: Daemon) -> None:
    command = [tool("node"), "-e", _NODE, str(proxy.port), f"{scene.url}/node", scene.target]
    answer = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60)  # noqa: S603 - our own words
    assert set(answer.stdout.splitlines()) == {
        "200",
        "you sent GET /node HTTP/1.1 and 0 octets",
        "you sent GET /inner HTTP/1.1 and 0 octets",
        "403 Forbidden: address_denied",
    }


def test_http_1_0_clients_are_served_and_their_connection_closes(scene: Scene, proxy: Daemon) -> None:
    scene.origin.scripted["/c"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n"
    answer = proxy.ask(f"GET {scene.url}/c HTTP/1.0\r\n\r\n".encode())
    assert answer.endswith(b"\r\n\r\nok")
    assert b"chunked" not in answer


def test_a_tunnel_passes_half_closes_both_ways_and_early_bytes(scene: Scene) -> None:
    origin = Listener(echo, scene.origin.addresses[:1])
    scene.nameserver.zone["second.test"] = scene.nameserver.zone["origin.test"]
    proxy = scene.start(
        f'[[permit]]\nhost = "second.test"\nports = [{origin.port}]\nnetworks = ["127.0.0.10/32"]\nreason = "x"\n'
        if scene.origin.addresses[0].startswith("127.")
        else ""
    )
    with proxy.connect() as sock:
        sock.sendall(f"CONNECT second.test:{origin.port} HTTP/1.1\r\nHost: x\r\n\r\nearly ".encode())
        assert status(read_until(sock, b"\r\n\r\n")) == 200
        sock.sendall(b"late")
        sock.shutdown(1)
        assert read_all(sock) == b"early late"
    assert proxy.closings()[0] | {"outcome": "closed", "bytes_up": 10, "bytes_down": 10} == proxy.closings()[0]
    origin.close()


def test_idle_tunnels_end_after_the_idle_limit(scene: Scene) -> None:
    origin = Listener(echo, scene.origin.addresses[:1])
    proxy = scene.start(
        "[limits]\nidle_seconds = 1\n"
        f'[[permit]]\nhost = "{scene.origin.addresses[0]}"\nports = [{origin.port}]\n'
        f'networks = ["{scene.origin.addresses[0]}/32"]\nreason = "x"\n'
    )
    with proxy.connect() as sock:
        sock.sendall(f"CONNECT {scene.origin.addresses[0]}:{origin.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert status(read_until(sock, b"\r\n\r\n")) == 200
        assert read_all(sock) == b""
    assert proxy.closings()[0]["outcome"] == "idle"
    origin.close()
