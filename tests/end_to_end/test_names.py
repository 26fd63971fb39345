"""Names and what DNS says of them, through the real daemon and a scripted nameserver (R3, R6, R12; ATTACKS 1, 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespace
from tests.end_to_end.daemon import Daemon, status
from tests.end_to_end.nameserver import Nameserver, Says
from tests.end_to_end.patient import patient

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import Scene

WAYS = ("absolute-form", "connect")


def ask(proxy: Daemon, way: str, host: str, port: int) -> bytes:
    """Ask for a host by one way or the other; the connection ends with the answer."""
    if way == "connect":
        return proxy.ask(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return proxy.ask(f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())


HOSTILE = {
    "3.2 mixed answer": (Says(a=(namespace.OTHER_4, "10.0.0.5")), "address_denied"),
    "3.3 good A, bad AAAA": (Says(a=(namespace.OTHER_4,), aaaa=("fc00::1",)), "address_denied"),
    "3.1 rebinding, second answer first": (Says(a=("127.0.0.1",), ttl=0), "address_denied"),
    "metadata": (Says(a=("169.254.169.254",)), "address_locked"),
    "metadata at a public address": (Says(a=("168.63.129.16",)), "address_locked"),
    "unspecified": (Says(a=("0.0.0.0",)), "address_locked"),
    "IPv4-mapped": (Says(aaaa=("::ffff:10.0.0.5",)), "address_denied"),
    "2.4 IPv4-compatible": (Says(aaaa=("::7f00:1",)), "address_denied"),
    "2.5 SIIT": (Says(aaaa=("::ffff:0:7f00:1",)), "address_denied"),
    "2.6 NAT64": (Says(aaaa=("64:ff9b::a9fe:a9fe",)), "address_locked"),
    "2.7 NAT64 local use": (Says(aaaa=("64:ff9b:1:808:808:808:a9fe:a9fe",)), "address_locked"),
    "2.9 6to4": (Says(aaaa=("2002:7f00:1::1",)), "address_denied"),
    "2.10 Teredo": (Says(aaaa=("2001:0:4136:e378:8000:63bf:f5ff:fffa",)), "address_denied"),
    "2.11 ISATAP": (Says(aaaa=("2606:4700::5efe:a00:5",)), "address_denied"),
    "2.12 documentation": (Says(aaaa=("3fff::1",)), "address_denied"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", HOSTILE)
def test_attack_3_hostile_answers_are_refused(scene: Scene, proxy: Daemon, case: str, way: str) -> None:
    scene.nameserver.zone["hostile.test"], reason = HOSTILE[case]
    answer = ask(proxy, way, "hostile.test", scene.origin.port)
    assert status(answer) == 403
    assert f"403 Forbidden: {reason}".encode() in answer
    assert proxy.decisions()[0]["reason"] == reason
    assert scene.origin.connections == 0


@pytest.mark.parametrize("way", WAYS)
def test_attack_3_1_rebinding_is_judged_on_every_answer(scene: Scene, proxy: Daemon, way: str) -> None:
    scene.nameserver.zone["both.test"] = Says(a=(namespace.origin_4(),), ttl=0)
    if way == "connect":
        with proxy.connect() as client:
            client.sendall(f"CONNECT both.test:{scene.origin.port} HTTP/1.1\r\n\r\n".replace("1.1", "1.0").encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    else:
        assert status(ask(proxy, way, "both.test", scene.origin.port)) == 200
    scene.nameserver.zone["both.test"] = Says(a=("127.0.0.1" if namespace.isolated else "127.0.0.2",), ttl=0)
    assert status(ask(proxy, way, "both.test", scene.origin.port)) == 403
    assert scene.origin.connections == 1


def test_attack_3_1_what_is_dialled_is_what_was_judged(scene: Scene, tmp_path: Path) -> None:
    proxy = scene.start(env=patient(tmp_path / "patient"))
    scene.nameserver.zone["both.test"] = Says(a=(namespace.origin_4(),), ttl=0, then=Says(a=("127.0.0.1",), ttl=0))
    ask(proxy, "absolute-form", "both.test", scene.origin.port)
    assert scene.nameserver.asked.count(("both.test", "A")) == 1
    assert proxy.closings()[0]["address"] in proxy.decisions()[0]["addresses"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("alias", ["metadata.google.internal", "metadata.goog", "printer.local", "db.internal"])
def test_attack_3_4_every_name_of_a_cname_chain_is_judged(scene: Scene, proxy: Daemon, alias: str, way: str) -> None:
    scene.nameserver.zone["chained.test"] = Says(cname="middle.test")
    scene.nameserver.zone["middle.test"] = Says(cname=alias)
    scene.nameserver.zone[alias] = Says(a=(namespace.OTHER_4,))
    assert status(ask(proxy, way, "chained.test", scene.origin.port)) == 403
    assert proxy.decisions()[0]["refused"] == alias


BROKEN = {
    "NXDOMAIN": (Says(rcode="NXDOMAIN"), 502, "dns_error"),
    "SERVFAIL": (Says(rcode="SERVFAIL"), 502, "dns_error"),
    "REFUSED": (Says(rcode="REFUSED"), 502, "dns_error"),
    "no address": (Says(), 502, "dns_error"),
    "CNAME loop": (Says(cname="broken.test"), 502, "dns_error"),
    "silence": (Says(silent=True), 504, "dns_timeout"),
    "garbage": (Says(garbage=b"\x00\x01 not dns"), 504, "dns_timeout"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", BROKEN)
def test_attack_3_5_a_failed_lookup_is_an_error_and_never_a_way(
    scene: Scene, proxy: Daemon, case: str, way: str
) -> None:
    scene.nameserver.zone["broken.test"], code, reason = BROKEN[case]
    if case == "CNAME loop":
        scene.nameserver.zone["broken.test"] = Says(cname="turn.test")
        scene.nameserver.zone["turn.test"] = Says(a=())
    answer = ask(proxy, way, "broken.test", scene.origin.port)
    assert (status(answer), f": {reason}".encode() in answer) == (code, True)
    [decision] = proxy.decisions()
    assert (decision["verdict"], decision["reason"]) == ("error", reason)


def test_attack_3_5_nxdomain_of_the_first_server_is_final(scene: Scene, tmp_path: Path) -> None:
    """A resolver that filters says so of what it filters; the next one, which does not, is no way around it."""
    lenient = Nameserver({name: Says(a=(namespace.origin_4(),)) for name in ("origin.test", "second.test")})
    proxy = scene.start()
    proxy.stop()
    first = f'"127.0.0.1:{scene.nameserver.port}"'
    proxy.policy.write_text(proxy.policy.read_text().replace(first, f'{first}, "127.0.0.1:{lenient.port}"'))
    proxy.errors.write_text("")
    both = Daemon(proxy.policy, proxy.audit, proxy.errors, patient(tmp_path / "patient"))
    try:
        assert b"502 Bad Gateway: dns_error" in ask(both, "absolute-form", "second.test", scene.origin.port)
        assert lenient.asked == []
        scene.nameserver.zone["origin.test"] = Says(rcode="SERVFAIL")
        assert status(ask(both, "absolute-form", "origin.test", scene.origin.port)) == 200
    finally:
        both.stop()
        lenient.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    [
        *("localhost", "foo.localhost", "localhost.localdomain", "printer.local", "x.internal", "a.home.arpa"),
        *(
            "metadata.google.internal",
            "METADATA.GOOGLE.INTERNAL.",
            "hidden.onion",
            "denied.test",
            "deep.under.denied.test",
        ),
    ],
)
def test_attack_3_6_a_refused_name_is_never_looked_up(scene: Scene, name: str, way: str) -> None:
    row = '[[deny]]\nname = "exfiltration"\nhosts = ["denied.test", "*.denied.test"]\nreason = "x"\n'
    proxy = scene.start(row)
    assert status(ask(proxy, way, name, 80)) == 403
    assert scene.nameserver.asked == []


def test_attack_3_8_a_truncated_answer_is_asked_again_over_tcp(scene: Scene, proxy: Daemon) -> None:
    scene.nameserver.zone["big.test"] = Says(a=(namespace.origin_4(),), truncated=True)
    assert status(ask(proxy, "absolute-form", "big.test", scene.origin.port)) == 200
    assert scene.nameserver.over_tcp >= 1


def test_attack_3_9_the_hosts_file_and_the_search_list_are_not_asked(scene: Scene, proxy: Daemon) -> None:
    assert status(ask(proxy, "connect", "ip6-allnodes", 80)) == 502
    assert {name for name, _ in scene.nameserver.asked} == {"ip6-allnodes"}


def test_attack_3_11_a_name_on_the_allowlist_is_judged_by_its_address(scene: Scene) -> None:
    proxy = scene.start(f'[[allow]]\nhosts = ["inner.test"]\nports = [{scene.origin.port}]\nreason = "trusted"\n')
    scene.nameserver.zone["inner.test"] = Says(a=("10.0.0.5",))
    assert status(ask(proxy, "connect", "inner.test", scene.origin.port)) == 403
    assert proxy.decisions()[0]["reason"] == "address_denied"


@pytest.mark.parametrize("name", ["origin.test", "six.test", "both.test", "ORIGIN.Test", "origin.test."])
def test_good_names_get_through(scene: Scene, proxy: Daemon, name: str) -> None:
    assert status(ask(proxy, "absolute-form", name, scene.origin.port)) == 200
    assert proxy.decisions()[0]["host"] == name.lower().removesuffix(".")


def test_an_answer_is_remembered_for_its_ttl(scene: Scene, tmp_path: Path) -> None:
    proxy = scene.start(env=patient(tmp_path / "patient"))
    for _ in range(3):
        assert status(ask(proxy, "absolute-form", "origin.test", scene.origin.port)) == 200
    assert sorted(scene.nameserver.asked) == [("origin.test", "A"), ("origin.test", "AAAA")]


@pytest.mark.parametrize("way", WAYS)
def test_r9_a_permit_is_no_way_to_the_rest_of_the_world(scene: Scene, way: str) -> None:
    """Its host is under somebody's control: what it resolves to outside the permit is judged as anybody's."""
    proxy = scene.start('[[permit]]\nhost = "nas.internal"\nports = [22]\nnetworks = ["10.0.0.5/32"]\nreason = "x"\n')
    scene.nameserver.zone["nas.internal"] = Says(a=(namespace.OTHER_4,))
    assert b"403 Forbidden: port_denied" in ask(proxy, way, "nas.internal", 22)


def test_attack_3_7_names_under_an_allowed_wildcard_are_on_record(scene: Scene) -> None:
    """They are looked up, which can carry data out (the README says so): what can be had is that each is logged."""
    proxy = scene.start('[[allow]]\nhosts = ["*.wild.test"]\nports = [443]\nreason = "x"\n')
    ask(proxy, "connect", "c2vjcmv0.wild.test", 443)
    assert [record["host"] for record in proxy.decisions()] == ["c2vjcmv0.wild.test"]


@pytest.mark.parametrize("way", WAYS)
def test_attack_3_10_our_own_resolver_is_no_destination(scene: Scene, proxy: Daemon, way: str) -> None:
    assert b"403 Forbidden: address_denied" in ask(proxy, way, "127.0.0.1", scene.nameserver.port)


def test_attack_3_12_no_origin_connection_outlives_its_request(scene: Scene, proxy: Daemon) -> None:
    """Requests of one client connection each have an origin connection that was judged for them alone."""
    first = f"GET {scene.url}/1 HTTP/1.1\r\nHost: x\r\n\r\n"
    last = f"GET {scene.url}/2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert proxy.ask((first + last).encode()).count(b"HTTP/1.1 200 OK") == 2
    assert scene.origin.connections == 2
