"""Spellings of a destination, through the real daemon: one reading each, or 400 (ATTACKS 1, 2 and 4)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests import namespace
from tests.end_to_end.daemon import Daemon, status
from tests.end_to_end.origin import Listener

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Scene

MALFORMED_HOSTS = {
    "1.1 two dots": "origin.test..",
    "1.3 brackets round a name": "[origin.test]",
    "1.3 double brackets": "[[origin.test]]",
    "1.5 percent": "origin%2etest",
    "1.5 backslash": "origin.test\\x",
    "1.5 semicolon": "origin.test;x",
    "1.6 userinfo": "good.test@origin.test",
    "1.6 userinfo with a port": "good.test:80@origin.test",
    "1.9 empty label": "origin..test",
    "1.9 label of 64": "a" * 64 + ".test",
    "1.9 name of 254": ".".join(["a" * 63] * 4)[:-1] + "aa",
    "1.9 hyphen first": "-origin.test",
    "1.9 hyphen last": "origin-.test",
    "2.1 decimal": "2130706433",
    "2.1 hexadecimal": "0x7f000001",
    "2.1 hexadecimal and short": "0x7f.1",
    "2.1 octal": "0177.0.0.1",
    "2.1 short": "127.1",
    "2.1 shorter": "127.0.1",
    "2.1 zero": "0",
    "2.1 trailing dot": "127.0.0.1.",
    "2.1 name that ends in a number": "origin.1",
    "2.2 zone": "[fe80::1%25lo]",
    "2.2 zone without escape": "[fe80::1%lo]",
    "4.6 asterisk": "*",
    "no host": "",
}

MALFORMED_PORTS = ("0", "65536", "65558", "-1", "+443", "443x", "0443", "\uff14\uff14\uff13", "443:443", "")

MALFORMED_TARGETS = {
    "4.7 origin-form": "GET /",
    "4.7 asterisk-form": "OPTIONS *",
    "4.7 https": "GET https://origin.test/",
    "4.7 ftp": "GET ftp://origin.test/",
    "4.7 file": "GET file:///etc/passwd",
    "4.7 gopher": "GET gopher://origin.test/",
    "4.7 urn": "GET urn:x:y",
    "4.7 no authority": "GET http:///origin.test/",
    "4.7 no slashes": "GET http:origin.test",
    "4.7 network-path": "GET //origin.test/",
    "4.7 authority-form": "GET origin.test:80",
    "1.5 fragment": "GET http://origin.test/#x",
    "4.6 CONNECT with a scheme": "CONNECT http://origin.test:443",
    "4.6 CONNECT to a path": "CONNECT origin.test:443/x",
    "4.6 CONNECT to /": "CONNECT /",
    "4.5 CONNECT without a port": "CONNECT origin.test",
    "4.5 unbracketed IPv6": "CONNECT ::1:443",
}

HIDDEN_LOOPBACK = (
    "127.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "[::127.0.0.1]",
)


def refused_as_malformed(scene: Scene, proxy: Daemon, answer: bytes) -> bool:
    """400, the connection closed, on record without its host, and neither looked up nor dialled."""
    return (
        status(answer) == 400
        and b"\r\nConnection: close\r\n" in answer
        and [record["host"] for record in proxy.decisions()] == [None]
        and not scene.nameserver.asked
        and not scene.origin.connections
    )


@pytest.mark.parametrize("case", MALFORMED_HOSTS)
def test_attack_1_and_2_a_host_with_two_readings_is_400(scene: Scene, proxy: Daemon, case: str) -> None:
    host = MALFORMED_HOSTS[case].encode("latin-1")
    assert refused_as_malformed(scene, proxy, proxy.ask(b"GET http://%b/ HTTP/1.1\r\nHost: x\r\n\r\n" % host))
    assert status(proxy.ask(b"CONNECT %b:443 HTTP/1.1\r\nHost: x\r\n\r\n" % host)) == 400


@pytest.mark.parametrize(
    "raw", [b"origin.test\x00.good.test", b"origin.test\t", b"\xe2\x93\x94vil.test", b"evil\xe3\x80\x82test"]
)
def test_attack_1_4_and_1_7_bytes_that_no_name_has_are_400(scene: Scene, proxy: Daemon, raw: bytes) -> None:
    assert refused_as_malformed(scene, proxy, proxy.ask(b"GET http://%b/ HTTP/1.1\r\nHost: x\r\n\r\n" % raw))


@pytest.mark.parametrize("port", MALFORMED_PORTS)
def test_attack_4_5_a_port_that_is_no_port_is_400(scene: Scene, proxy: Daemon, port: str) -> None:
    request = f"CONNECT origin.test:{port} HTTP/1.1\r\nHost: x\r\n\r\n"
    assert refused_as_malformed(scene, proxy, proxy.ask(request.encode()))


@pytest.mark.parametrize("case", MALFORMED_TARGETS)
def test_attack_4_6_and_4_7_only_absolute_form_http_and_host_port(scene: Scene, proxy: Daemon, case: str) -> None:
    request = f"{MALFORMED_TARGETS[case]} HTTP/1.1\r\nHost: origin.test\r\n\r\n"
    assert refused_as_malformed(scene, proxy, proxy.ask(request.encode()))


@pytest.mark.parametrize("way", ["GET http://{}:{}/ HTTP/1.1", "CONNECT {}:{} HTTP/1.1", "CONNECT {}:{} HTTP/1.0"])
@pytest.mark.parametrize("host", HIDDEN_LOOPBACK)
def test_attack_2_3_and_4_11_no_spelling_of_loopback_gets_through_by_any_way(
    proxy: Daemon, host: str, way: str
) -> None:
    canary = Listener(lambda connection: connection.sendall(b"reached"), ("127.0.0.1", "::1"))
    answer = proxy.ask(f"{way.format(host, canary.port)}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    canary.close()
    assert (status(answer), canary.connections) == (403, 0)


@pytest.mark.parametrize("address", namespace.PROTECTED)
def test_attack_2_no_protected_address_is_reached(proxy: Daemon, address: str) -> None:
    canary = Listener(
        lambda connection: connection.sendall(b"reached"), (address,) if namespace.isolated else ("127.0.0.1",)
    )
    host = f"[{address}]" if ":" in address else address
    for request in (f"GET http://{host}:{canary.port}/ HTTP/1.1", f"CONNECT {host}:{canary.port} HTTP/1.1"):
        assert status(proxy.ask(f"{request}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())) == 403
    canary.close()
    assert canary.connections == 0


def test_attack_2_17_proxyd_itself_is_reached_by_nobody(scene: Scene) -> None:
    proxy = scene.start(
        '[[permit]]\nhost = "127.0.0.1"\nports = ["1024-65535"]\nnetworks = ["127.0.0.0/8"]\nreason = "x"\n'
    )
    answer = proxy.ask(f"CONNECT 127.0.0.1:{proxy.port} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert b"403 Forbidden: address_locked" in answer


def test_attack_4_1_the_target_says_where_and_host_says_nothing(scene: Scene, proxy: Daemon) -> None:
    host = f"origin.test:{scene.origin.port}"
    answer = proxy.ask(f"GET http://{host}/ HTTP/1.1\r\nHost: 10.0.0.5\r\nConnection: close\r\n\r\n".encode())
    assert status(answer) == 200
    assert f"\r\nHost: {host}\r\n".encode() in scene.origin.heads[0]
    assert b"10.0.0.5" not in scene.origin.heads[0]


def test_attack_4_1_two_hosts_are_400(scene: Scene, proxy: Daemon) -> None:
    request = f"GET http://origin.test:{scene.origin.port}/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"
    assert refused_as_malformed(scene, proxy, proxy.ask(request.encode()))


@pytest.mark.parametrize("port", [22, 25, 6667, 110])
def test_attack_4_9_ports_of_other_services_are_refused(scene: Scene, proxy: Daemon, port: int) -> None:
    answer = proxy.ask(f"CONNECT origin.test:{port} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert b"403 Forbidden: port_denied" in answer
    assert scene.nameserver.asked == []


def test_attack_4_10_each_pipelined_request_is_judged(scene: Scene, proxy: Daemon) -> None:
    good = f"GET {scene.url}/1 HTTP/1.1\r\nHost: x\r\n\r\n"
    bad = "GET http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\n\r\n"
    last = f"GET {scene.url}/2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = proxy.ask((good + bad + last).encode())
    assert re.findall(rb"HTTP/1\.1 (\d+) ", answer.replace(b"HTTP/1.1 and", b"")) == [b"200", b"403", b"200"]
    assert [record["verdict"] for record in proxy.decisions()] == ["allow", "deny", "allow"]


def test_attack_4_13_a_request_that_was_here_before_is_refused(scene: Scene, proxy: Daemon) -> None:
    proxy.ask(f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    via = scene.origin.heads[0].partition(b"\r\nVia: ")[2].partition(b"\r\n")[0]
    answer = proxy.ask(b"GET %b/ HTTP/1.1\r\nHost: x\r\nVia: %b\r\n\r\n" % (scene.url.encode(), via))
    assert b"502 Bad Gateway: loop_detected" in answer
    assert scene.origin.connections == 1


def test_attack_4_13_trace_is_refused(scene: Scene, proxy: Daemon) -> None:
    assert status(proxy.ask(f"TRACE {scene.url}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())) == 405


def test_attack_4_14_the_200_comes_after_the_connection(scene: Scene, proxy: Daemon) -> None:
    port = scene.origin.port
    scene.origin.close()
    answer = proxy.ask(f"CONNECT origin.test:{port} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nsecret".encode())
    assert b"502 Bad Gateway: connect_refused" in answer
    assert (proxy.decisions()[0]["verdict"], proxy.closings()[0]["verdict"]) == ("allow", "error")
