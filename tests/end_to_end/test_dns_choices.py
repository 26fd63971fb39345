"""Whom proxyd asks for names, and what becomes of the answers: the keys of [dns] (R3, R6, R12; ATTACKS 3)."""

from __future__ import annotations

import os
import re
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net.resolver import IN_FLIGHT, MOST_OF_ONE, TOTAL_SECONDS
from tests import namespace
from tests.adversarial.tls import certificates
from tests.end_to_end.asking import connect, get
from tests.end_to_end.daemon import ticks
from tests.end_to_end.nameserver import Nameserver, Says
from tests.end_to_end.origin import HttpOrigin, Listener

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

PRIVATE: Final = "10.0.0.5"
FAKE: Final = "198.18.0.1"
own_network = pytest.mark.skipif(not namespace.isolated, reason="no network of our own: there is no such address here")


@pytest.fixture
def inside() -> Iterator[Nameserver]:
    """The nameserver of a private network."""
    server = Nameserver()
    yield server
    server.close()


def ask(proxy: Daemon, url: str) -> tuple[int, str]:
    """Ask for a URL: the status, and the reason of a refusal."""
    with proxy.connect() as client:
        answer = get(client, url)
        return answer.status, answer.reason


def names(nameserver: Nameserver) -> set[str]:
    """The names it was asked for."""
    return {name for name, _ in nameserver.asked}


# Which servers are asked


@own_network
def test_r9_split_horizon_private_names_are_asked_inside_and_judged_all_the_same(
    scene: Scene, inside: Nameserver
) -> None:
    """And each side is asked for its own names only: an inner name never leaves the house."""
    origin = HttpOrigin((PRIVATE,))
    inside.zone["app.corp.test"] = inside.zone["other.corp.test"] = Says(a=(PRIVATE,))
    inside.zone["corp.test"] = Says(a=("169.254.169.254",))
    scene.nameserver.zone["app.corp.test"] = scene.nameserver.zone["xcorp.test"] = Says(a=(namespace.origin_4(),))
    proxy = scene.start(f"""
[dns]
servers = ["127.0.0.1:{scene.nameserver.port}"]
[[dns.zone]]
suffix = "corp.test"
servers = ["127.0.0.1:{inside.port}"]
[[permit]]
host = "app.corp.test"
ports = [{origin.port}]
networks = ["10.0.0.0/24"]
reason = "an application of ours"
""")
    port = origin.port
    assert ask(proxy, f"http://app.corp.test:{port}/") == (200, "OK")
    assert ask(proxy, f"http://app.corp.test:{scene.origin.port}/") == (403, "address_denied")
    assert ask(proxy, f"http://other.corp.test:{port}/") == (403, "address_denied")
    assert ask(proxy, f"http://corp.test:{port}/") == (403, "address_locked")
    assert ask(proxy, f"http://missing.corp.test:{port}/") == (502, "dns_error")
    assert ask(proxy, f"http://xcorp.test:{scene.origin.port}/") == (200, "OK")
    assert (origin.connections, scene.origin.connections) == (1, 1)
    assert names(inside) == {"app.corp.test", "other.corp.test", "corp.test", "missing.corp.test"}
    assert names(scene.nameserver) == {"xcorp.test"}
    origin.close()


def test_r12_a_zone_whose_servers_are_gone_is_asked_for_nowhere_else(scene: Scene, inside: Nameserver) -> None:
    scene.nameserver.zone["app.corp.test"] = Says(a=(namespace.origin_4(),))
    zone = f'[[dns.zone]]\nsuffix = "corp.test"\nservers = ["127.0.0.1:{inside.port}"]\n'
    proxy = scene.start(f'[dns]\nservers = ["127.0.0.1:{scene.nameserver.port}"]\n{zone}')
    inside.close()
    assert ask(proxy, "http://app.corp.test/") == (502, "dns_error")
    assert (names(scene.nameserver), scene.origin.connections) == (set(), 0)


def test_tcp_servers_are_asked_over_tcp_alone(scene: Scene) -> None:
    proxy = scene.start(f'[dns]\nservers = ["tcp://127.0.0.1:{scene.nameserver.port}"]\n')
    assert ask(proxy, f"{scene.url}/") == (200, "OK")
    assert ask(proxy, "http://missing.test/") == (502, "dns_error")
    assert scene.nameserver.over_tcp == len(scene.nameserver.asked) > 0


# Over TLS


class Secret:
    """A name server over TLS (RFC 7858) in front of a plain one; certified for dns.test and 127.0.0.1."""

    def __init__(self, behind: Nameserver, folder: Path) -> None:
        folder.mkdir()
        made = certificates(folder, ["dns.test"], ["127.0.0.1"])
        self.authority, self._context, self._behind = made.authority, made.context, behind
        self.asked = 0
        self._listener = Listener(self._serve, ("127.0.0.1",))
        self.port, self.close = self._listener.port, self._listener.close

    @property
    def connections(self) -> int:
        """How many came."""
        return self._listener.connections

    def _serve(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) as inner:
            assert inner.version() in ("TLSv1.2", "TLSv1.3")
            data = inner.recv(2 + 512)
            self.asked += 1
            reply = self._behind.answer(data[2:], tcp=True)
            if reply is not None:
                inner.sendall(struct.pack("!H", len(reply)) + reply)


@pytest.fixture
def secret(scene: Scene, tmp_path: Path) -> Iterator[Secret]:
    """It knows what the plain one knows."""
    server = Secret(scene.nameserver, tmp_path / "dns")
    yield server
    server.close()


def over_tls(scene: Scene, server: str, trust: Path | None) -> Daemon:
    """A daemon that asks there, on a host that trusts one authority."""
    env = os.environ | ({} if trust is None else {"SSL_CERT_FILE": str(trust)})
    return scene.start(f'[dns]\nservers = ["{server}"]\n', env=env)


@pytest.mark.parametrize("name", ["#dns.test", ""])
def test_tls_servers_are_asked_when_their_certificate_is_right(scene: Scene, secret: Secret, name: str) -> None:
    proxy = over_tls(scene, f"tls://127.0.0.1:{secret.port}{name}", secret.authority)
    assert ask(proxy, f"{scene.url}/") == (200, "OK")
    assert ask(proxy, "http://missing.test/") == (502, "dns_error")
    assert secret.asked == len(scene.nameserver.asked) == scene.nameserver.over_tcp + secret.asked > 0


@pytest.mark.parametrize("wrong", ["name", "authority", "nobody trusted", "no TLS"])
def test_r12_tls_servers_that_cannot_prove_themselves_are_not_asked_and_nothing_else_is(
    scene: Scene, secret: Secret, tmp_path: Path, wrong: str
) -> None:
    """RFC 8310 §5, the strict profile: no question goes to them, and none goes in the clear."""
    trust: Path | None = secret.authority
    server = f"tls://127.0.0.1:{secret.port}#dns.test"
    if wrong == "name":
        server = server.replace("dns.test", "other.test")
    elif wrong == "authority":
        (tmp_path / "another").mkdir()
        trust = certificates(tmp_path / "another", ["dns.test"], []).authority
    elif wrong == "nobody trusted":
        trust = None
    else:
        server = f"tls://127.0.0.1:{scene.nameserver.port}#dns.test"
    with_trust = over_tls(scene, server, trust)
    try:
        status, reason = ask(with_trust, f"{scene.url}/")
    finally:
        scene.nameserver.asked, asked = [], list(scene.nameserver.asked)
    assert (status, reason) in ((502, "dns_error"), (504, "dns_timeout"))
    assert status == (504 if wrong == "no TLS" else 502)
    assert (asked, secret.asked, scene.origin.connections) == ([], 0, 0)
    assert (secret.connections > 0) == (wrong != "no TLS")


# Errors that tell nothing

ANSWERS: Final = {
    "missing.test": Says(rcode="NXDOMAIN"),
    "empty.test": Says(),
    "failing.test": Says(rcode="SERVFAIL"),
    "inner.test": Says(a=(PRIVATE,)),
    "six.inner.test": Says(aaaa=("fd00::7",)),
    "mixed.test": Says(a=("93.184.216.34", "10.0.0.6")),
    "metadata.test": Says(a=("169.254.169.254",)),
    "loopback.test": Says(a=("127.0.0.1",)),
    "alias-inside.test": Says(cname="host.corp.internal"),
    "host.corp.internal": Says(a=("93.184.216.34",)),
}
TRUE_REASONS: Final = {
    **dict.fromkeys(("missing.test", "empty.test", "failing.test"), ("error", "dns_error")),
    **dict.fromkeys(("inner.test", "six.inner.test", "mixed.test", "loopback.test"), ("deny", "address_denied")),
    "metadata.test": ("deny", "address_locked"),
    "alias-inside.test": ("deny", "name_reserved"),
}
UNIFORM: Final = "uniform_errors = true\n"


def exchanges(proxy: Daemon, host: str) -> list[bytes]:
    """What is said of a host that cannot be had, in three ways and once more, without what differs by design."""
    tail = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    requests = (f"GET http://{host}/ {tail}", f"HEAD http://{host}:8080/ {tail}", f"CONNECT {host}:443 {tail}")
    said = [proxy.ask(request.encode()) for request in (*requests, requests[0])]
    return [re.sub(rb'"decision": "[0-9a-f]{16}"', b"", each) for each in said]


def dns_with(scene: Scene, more: str) -> Daemon:
    """A daemon with another key of [dns]."""
    scene.nameserver.zone |= ANSWERS
    return scene.start(f'[dns]\nservers = ["127.0.0.1:{scene.nameserver.port}"]\n{more}')


def test_attack_9_refused_by_address_looks_as_a_name_that_does_not_exist(scene: Scene) -> None:
    """Byte for byte; the log tells them apart."""
    proxy = dns_with(scene, UNIFORM)
    said = {host: exchanges(proxy, host) for host in TRUE_REASONS}
    for host, answers in said.items():
        assert answers == said["missing.test"], host
    assert said["missing.test"][0].startswith(b"HTTP/1.1 502 Bad Gateway: dns_error\r\n")
    logged = {each["host"]: (each["verdict"], each["reason"]) for each in proxy.decisions()}
    assert logged == TRUE_REASONS
    assert {each["status"] for each in proxy.records()} == {502}


def test_attack_9_without_the_key_a_refusal_says_what_it_is(scene: Scene) -> None:
    proxy = dns_with(scene, "")
    missing = exchanges(proxy, "missing.test")
    for host, (_, reason) in TRUE_REASONS.items():
        answers = exchanges(proxy, host)
        assert all(reason.encode() in each for each in answers), host
        assert (answers == missing) == (reason == "dns_error"), host


def test_attack_9_what_needs_no_lookup_is_refused_in_so_many_words(scene: Scene) -> None:
    """It tells nobody what a name resolves to; and what may be had is to be had."""
    proxy = dns_with(scene, UNIFORM)
    for url, expected in (
        (f"{scene.url}/", (200, "OK")),
        ("http://10.0.0.5/", (403, "address_denied")),
        ("http://localhost/", (403, "name_denied")),
        ("http://metadata.google.internal/", (403, "name_locked")),
        ("http://origin.test:22/", (403, "port_denied")),
    ):
        assert ask(proxy, url) == expected, url


# Names that are known without asking


def test_attack_3_9_a_hosts_file_is_read_if_the_policy_wants_it_and_judged(scene: Scene, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        f"{namespace.origin_4()} second.test alias # ours\n10.0.0.5 inner.test\n169.254.169.254 meta.test\n"
    )
    key = f'hosts_file = "{hosts}"\n'
    proxy = dns_with(scene, key)
    for url, expected in (
        (f"http://second.test:{scene.origin.port}/", (200, "OK")),
        ("http://inner.test/", (403, "address_denied")),
        ("http://meta.test/", (403, "address_locked")),
        ("http://localhost/", (403, "name_denied")),
    ):
        assert ask(proxy, url) == expected, url
    assert scene.nameserver.asked == []
    assert ask(proxy, f"{scene.url}/") == (200, "OK")  # who is not in it is asked for
    hosts.write_text("10.0.0.7 second.test\n")
    assert ask(proxy, f"http://second.test:{scene.origin.port}/") == (200, "OK")  # until a reload
    proxy.reload()
    assert ask(proxy, f"http://second.test:{scene.origin.port}/") == (403, "address_denied")
    hosts.unlink()
    assert proxy.reload()["outcome"] == "refused"
    proxy.reload(proxy.policy.read_text().replace(key, ""))
    assert ask(proxy, f"http://second.test:{scene.origin.port}/") == (502, "dns_error")


@own_network
def test_fake_addresses_connect_where_the_policy_says_so_and_the_same_literal_does_not(scene: Scene) -> None:
    origin = HttpOrigin((FAKE, "fc00::1"))
    scene.nameserver.zone["faked.test"] = Says(a=(FAKE,), aaaa=("fc00::1",))
    scene.nameserver.zone["mixed-fake.test"] = Says(a=(FAKE, PRIVATE))
    scene.nameserver.zone["metadata.test"] = Says(aaaa=("fc00::2", "fd00:ec2::254"))
    scene.nameserver.zone["outside.test"] = Says(a=("198.19.0.1",))
    plain = scene.start()
    assert ask(plain, f"http://faked.test:{origin.port}/") == (403, "address_denied")
    proxy = dns_with(scene, 'dangerously_allow_fake_ip = ["198.18.0.0/16", "fc00::/16"]\n')
    scene.nameserver.zone["metadata.test"] = Says(aaaa=("fc00::2", "fd00:ec2::254"))
    with proxy.connect() as client:
        assert get(client, f"http://faked.test:{origin.port}/").status == 200
    with proxy.connect() as client:
        assert connect(client, f"faked.test:{origin.port}").status == 200
    so_far = origin.connections
    assert so_far >= 2  # a second address may be tried meanwhile
    for url, expected in (
        (f"http://{FAKE}:{origin.port}/", (403, "address_denied")),
        (f"http://[fc00::1]:{origin.port}/", (403, "address_denied")),
        (f"http://mixed-fake.test:{origin.port}/", (403, "address_denied")),
        ("http://outside.test/", (403, "address_denied")),
        ("http://metadata.test/", (403, "address_locked")),
        ("http://[fd00:ec2::254]/", (403, "address_locked")),
        ("http://metadata.google.internal/", (403, "name_locked")),
        ("http://router.local/", (403, "name_reserved")),
    ):
        assert ask(proxy, url) == expected, url
    assert origin.connections == so_far
    origin.close()


# A flood

CLIENTS: Final = """
[[client]]
name = "flood"
networks = ["127.0.0.2/32"]
[[client]]
name = "other"
networks = ["127.0.0.3/32"]
"""


def _served(proxy: Daemon, url: str) -> bool:
    """Whether the other client is: where this machine is slow, its own server may be too late for it."""
    with proxy.connect("127.0.0.3") as client:
        return get(client, url).status == 200


def test_attack_8_a_flood_of_silent_names_of_one_client_leaves_anothers_lookups_answered(scene: Scene) -> None:
    """And even its own share is bounded: some turns are always left to the others, until the first are given back."""
    silent = [f"silent{number}.test" for number in range(2 * IN_FLIGHT)]
    scene.nameserver.zone |= dict.fromkeys(silent, Says(silent=True))
    proxy = scene.start(CLIENTS)
    given_back = time.monotonic() + TOTAL_SECONDS
    with ExitStack() as stack:
        for name in silent:
            client = stack.enter_context(proxy.connect("127.0.0.2"))
            client.sendall(f"CONNECT {name}:443 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        next(None for _ in ticks() if len(names(scene.nameserver)) >= MOST_OF_ONE)
        for _ in range(3):
            next(None for _ in ticks() if _served(proxy, f"{scene.url}/"))
    assert scene.origin.connections == 3
    asked = zip(scene.nameserver.asked, scene.nameserver.times, strict=False)
    early = {name for (name, _), when in asked if when < given_back}
    assert len({name for name in early if name.startswith("silent")}) <= MOST_OF_ONE
    assert {each["client"] for each in proxy.decisions() if each["verdict"] == "allow"} == {"other"}
