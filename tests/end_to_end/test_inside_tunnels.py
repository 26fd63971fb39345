"""What is inside a tunnel is carried as it is, to the judged address and nowhere else.

The one thing that is looked at is the name in a TLS client's first message, on port 443, and where the policy wants it:
that is `test_tls_name.py`. Here are other ports, and a policy that does not want it (ATTACKS 4.2 to 4.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.daemon import read_until, status
from tests.end_to_end.origin import Listener, echo

if TYPE_CHECKING:
    import socket

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

# A TLS record with the beginning of a ClientHello, in which a name stands that nobody asked for.
HELLO = b"\x16\x03\x01\x00\x2a\x01\x00\x00\x26\x03\x03" + b"r" * 20 + b"evil.example.org"


def opened(proxy: Daemon, host: str, port: int) -> socket.socket:
    """A tunnel that stands."""
    client = proxy.connect()
    client.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert status(read_until(client, b"\r\n\r\n")) == 200
    return client


def started(scene: Scene, origin: Listener) -> Daemon:
    """A daemon that lets clients reach this origin, by a permit where it is no public address."""
    address = scene.origin.addresses[0]
    row = f'[[permit]]\nhost = "{address}"\nports = [{origin.port}]\nnetworks = ["{address}/32"]\nreason = "x"\n'
    return scene.start(row)


@pytest.mark.parametrize("size", [len(HELLO), 1], ids=["whole", "octet by octet"])
def test_attack_4_2_and_4_3_a_client_hello_is_carried_whatever_name_it_has(scene: Scene, size: int) -> None:
    origin = Listener(echo, scene.origin.addresses[:1])
    proxy = started(scene, origin)
    with opened(proxy, origin.addresses[0], origin.port) as client:
        for at in range(0, len(HELLO), size):
            client.sendall(HELLO[at : at + size])
        assert read_until(client, HELLO) == HELLO
    assert proxy.closings()[0]["address"] == origin.addresses[0]
    origin.close()


def test_attack_4_3_an_origin_that_speaks_first_is_heard(scene: Scene) -> None:
    origin = Listener(lambda connection: connection.sendall(b"220 hello\r\n"), scene.origin.addresses[:1])
    with opened(started(scene, origin), origin.addresses[0], origin.port) as client:
        assert read_until(client, b"\r\n") == b"220 hello\r\n"
    origin.close()


def test_attack_4_4_a_host_inside_a_tunnel_changes_nothing_about_where_it_leads(scene: Scene, proxy: Daemon) -> None:
    with opened(proxy, "origin.test", scene.origin.port) as client:
        client.sendall(b"GET http://10.0.0.5/ HTTP/1.1\r\nHost: 10.0.0.5\r\n\r\n")
        read_until(client, b"octets")
    assert scene.origin.heads == [b"GET http://10.0.0.5/ HTTP/1.1\r\nHost: 10.0.0.5\r\n\r\n"]
    assert [record["host"] for record in proxy.decisions()] == ["origin.test"]
