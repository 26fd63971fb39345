"""The name inside TLS, on port 443, is the host that was asked for, or the origin hears nothing (ATTACKS 4.2 to 4.4).

Held where the default is deny, and where the policy says so. An allowed host of a shared address is otherwise a door to
all its neighbours there.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.http.client_hello import ALERT_UNRECOGNIZED_NAME
from tests import namespace
from tests.adversarial.tls import certificates
from tests.end_to_end.asking import connect
from tests.end_to_end.daemon import read_all, read_until
from tests.end_to_end.nameserver import Says
from tests.end_to_end.origin import Listener, more
from tests.end_to_end.test_workers import until
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

pytestmark = pytest.mark.skipif(
    not namespace.isolated, reason="no network of our own: port 443 may be somebody's here, or not ours to bind"
)

ALLOWED: Final = '[[allow]]\nhosts = ["origin.test", "93.184.216.34"]\nports = [443, 8443]\nreason = "x"\n'


def hello(name: str | None) -> bytes:
    """What a real TLS client begins with."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def in_records(octets: bytes, size: int) -> bytes:
    """The same handshake, cut into more TLS records (RFC 8446 §5.1)."""
    message = octets[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(octets[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@dataclass
class Listening:
    """An origin at port 443 that keeps what it hears, and says nothing but at the end."""

    addresses: tuple[str, ...]
    port: int = 443
    heard: list[bytes] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        listener = Listener(self._serve, self.addresses, self.port)
        self.close = listener.close

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            place = len(self.heard)
            self.heard.append(b"")
        try:
            while piece := connection.recv(65536):
                self.heard[place] += piece
            connection.sendall(b"heard")
        finally:
            self._ended.release()

    def heard_in(self, count: int) -> list[bytes]:
        """What it heard in so many connections, once they have ended."""
        assert all(self._ended.acquire(timeout=60) for _ in range(count))
        return self.heard


@pytest.fixture
def origin_443(scene: Scene) -> Iterator[Listening]:
    """The origin at its TLS port."""
    origin = Listening(scene.origin.addresses)
    yield origin
    origin.close()


def spoken(proxy: Daemon, target: str, pieces: Sequence[bytes]) -> bytes:
    """Send this through a tunnel, a segment each, then end it: all that comes back."""
    with proxy.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert connect(client, target).status == 200
        with suppress(BrokenPipeError, ConnectionResetError):  # it was refused before it was complete
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        return read_all(client)


def octet_by_octet(octets: bytes) -> list[bytes]:
    """Each in a segment of its own."""
    return [octets[at : at + 1] for at in range(len(octets))]


EQUAL, OTHER, ABSENT = hello("origin.test"), hello("other.test"), hello(None)
REFUSED: Final = {
    "another name": [OTHER],
    "another name, octet by octet": octet_by_octet(OTHER),
    "another name, in records of 7 octets": [in_records(OTHER, 7)],
    "a name below": [hello("www.origin.test")],
    "a name above": [hello("test.example")],
    "no name": [ABSENT],
    "no name, octet by octet": octet_by_octet(ABSENT),
    "plain HTTP": [b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n"],
    "plain HTTP, octet by octet": octet_by_octet(b"GET / HTTP/1.1\r\n\r\n"),
    "SSH": [b"SSH-2.0-OpenSSH_9.2\r\n"],
    "SSLv2": [b"\x80\x2e\x01\x03\x03\x00\x15\x00\x00\x00\x10" + b"x" * 37],
    "half of the right one": [EQUAL[: len(EQUAL) // 2]],
    "records of nothing": [b"\x16\x03\x01\x00\x00" * 9 + EQUAL],
    "too long": [b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + b"x" * 20_000],
    "nothing": [],
}
CARRIED: Final = {
    "the name": [EQUAL],
    "the name, octet by octet": octet_by_octet(EQUAL),
    "the name, in records of 7 octets": [in_records(EQUAL, 7)],
    "the name, and more at once": [EQUAL + b"\x17\x03\x03\x00\x02xx"],
    "the name in capitals": [EQUAL.replace(b"origin.test", b"ORIGIN.tesT")],
}


def test_attack_4_2_of_a_refused_one_not_an_octet_reaches_the_origin(scene: Scene, origin_443: Listening) -> None:
    proxy = scene.start(ALLOWED)
    for case, pieces in REFUSED.items():
        assert spoken(proxy, "origin.test:443", pieces) == ALERT_UNRECOGNIZED_NAME, case
    until(lambda: len(origin_443.heard) == len(REFUSED), "they were not connected to")
    assert set(origin_443.heard) == {b""}
    closings = proxy.closings()
    assert len(closings) == len(REFUSED)
    for closing in closings:
        told = {name: closing[name] for name in ("verdict", "reason", "rule", "outcome", "bytes_up", "bytes_down")}
        assert told == dict.fromkeys(("reason", "rule", "outcome"), "tls_name") | {
            "verdict": "deny",
            "bytes_up": 0,
            "bytes_down": 0,
        }
    assert {each["verdict"] for each in proxy.decisions()} == {"allow"}  # of the host that was asked for


def test_attack_4_3_the_right_name_is_carried_as_it_came(scene: Scene, origin_443: Listening) -> None:
    proxy = scene.start(ALLOWED)
    for case, pieces in CARRIED.items():
        assert spoken(proxy, "origin.test:443", pieces) == b"heard", case
    assert spoken(proxy, "Origin.Test.:443", [EQUAL]) == b"heard"
    expected = [*(b"".join(pieces) for pieces in CARRIED.values()), EQUAL]
    assert sorted(origin_443.heard_in(len(expected))) == sorted(expected)
    assert {each["outcome"] for each in proxy.closings()} == {"closed"}


def test_attack_4_10_a_hello_in_one_segment_with_its_connect_is_held_to_the_same(
    scene: Scene, origin_443: Listening
) -> None:
    proxy = scene.start(ALLOWED)
    for early, expected in ((EQUAL, b"heard"), (OTHER, ALERT_UNRECOGNIZED_NAME)):
        with proxy.connect() as client:
            client.sendall(b"CONNECT origin.test:443 HTTP/1.1\r\nHost: x\r\n\r\n" + early)
            read_until(client, b"\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == expected
    assert sorted(origin_443.heard_in(2)) == [b"", EQUAL]


def test_an_address_is_asked_for_without_a_name_or_not_at_all(scene: Scene, origin_443: Listening) -> None:
    """RFC 6066 §3: no name is sent for an address."""
    proxy = scene.start(ALLOWED)
    assert spoken(proxy, "93.184.216.34:443", [ABSENT]) == b"heard"
    assert spoken(proxy, "93.184.216.34:443", [EQUAL]) == ALERT_UNRECOGNIZED_NAME
    assert sorted(origin_443.heard_in(2)) == [b"", ABSENT]


OFF: Final = {
    "default allow": "",
    "off": ALLOWED + '[destinations]\ndefault = "deny"\ntls_name = "off"\n',
    "off for this client": ALLOWED
    + '[[client]]\nname = "tester"\nnetworks = ["127.0.0.0/8"]\n[client.destinations]\ntls_name = "off"\n',
}


@pytest.mark.parametrize("policy", OFF)
def test_where_it_is_off_anything_is_carried(scene: Scene, origin_443: Listening, policy: str) -> None:
    proxy = scene.start(OFF[policy])
    cases = [OTHER, ABSENT, b"GET / HTTP/1.1\r\n\r\n", b""]
    for case in cases:
        assert spoken(proxy, "origin.test:443", [case]) == b"heard"
    assert origin_443.heard_in(len(cases)) == cases
    assert {each["reason"] for each in proxy.closings()} == {None}


ON: Final = {
    "default allow": '[destinations]\ndefault = "allow"\ntls_name = "match"\n',
    "for this client": (
        '[[client]]\nname = "tester"\nnetworks = ["127.0.0.0/8"]\n[client.destinations]\ntls_name = "match"\n'
    ),
    "a client's own default": (
        '[[client]]\nname = "tester"\nnetworks = ["127.0.0.0/8"]\n[client.destinations]\ndefault = "deny"\n'
        '[[client.allow]]\nhosts = ["origin.test"]\nports = [443]\nreason = "x"\n'
    ),
    "report mode": '[destinations]\ndefault = "deny"\nmode = "report"\n',
}


@pytest.mark.parametrize("policy", ON)
def test_where_it_is_on_it_holds(scene: Scene, origin_443: Listening, policy: str) -> None:
    proxy = scene.start(ON[policy])
    assert spoken(proxy, "origin.test:443", [OTHER]) == ALERT_UNRECOGNIZED_NAME
    assert spoken(proxy, "origin.test:443", [EQUAL]) == b"heard"
    assert sorted(origin_443.heard_in(2)) == [b"", EQUAL]


def test_other_ports_are_not_held_to_it(scene: Scene) -> None:
    origin = Listening(scene.origin.addresses, 8443)
    assert spoken(scene.start(ALLOWED), "origin.test:8443", [OTHER]) == b"heard"
    assert origin.heard_in(1) == [OTHER]
    origin.close()


def test_curl_is_served_and_a_neighbour_of_the_allowed_host_is_not_reached(scene: Scene, tmp_path: Path) -> None:
    """--connect-to asks the proxy for the allowed host, and inside TLS for its neighbour."""
    scene.nameserver.zone["neighbour.test"] = Says(a=(namespace.origin_4(),))
    made = certificates(tmp_path, ["origin.test", "neighbour.test"], [])
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with made.context.wrap_socket(connection, server_side=True) as inner:
            heads.append(more(inner))
            inner.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    origin = Listener(serve, scene.origin.addresses, 443)
    proxy = scene.start(ALLOWED)
    base = [
        tool("curl"),
        "-q",
        "-sS",
        "-m",
        "60",
        "--cacert",
        str(made.authority),
        "-x",
        f"http://127.0.0.1:{proxy.port}",
    ]
    tricks = ("--connect-to", "neighbour.test:443:origin.test:443", "https://neighbour.test/")
    said = [
        subprocess.run([*base, *arguments], capture_output=True, check=False)  # noqa: S603 - a fixed program
        for arguments in (("https://origin.test/",), tricks, ("https://neighbour.test/",))
    ]
    assert (said[0].returncode, said[0].stdout) == (0, b"ok")
    assert said[1].returncode == 35  # CURLE_SSL_CONNECT_ERROR
    assert b"unrecognized name" in said[1].stderr
    assert said[2].returncode == 56  # CURLE_RECV_ERROR: the CONNECT was refused
    assert [head.partition(b"Host: ")[2].partition(b"\r")[0] for head in heads] == [b"origin.test"]
    assert {each["reason"] for each in proxy.closings()} == {None, "tls_name", "not_allowlisted"}
    origin.close()
