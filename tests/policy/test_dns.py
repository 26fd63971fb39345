"""How names are resolved, as a policy says it: servers, zones, translators, fake ranges.

R3, R7, R12, ATTACKS 2.8, 2.15, 3. Nobody is asked anything here.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress

from proxyd.policy.address import BadTarget, Endpoint
from proxyd.policy.dns import Dns, Routes, Server, Zone, parse_server
from tests.policy.worlds import MINIMAL, loaded, nets, problems


def dns(said: str) -> Dns:
    return loaded(MINIMAL + "[dns]\n" + said).dns


def problem_of(said: str) -> str:
    (problem,) = problems(MINIMAL + "[dns]\n" + said)
    return problem


def at(address: str, port: int) -> Endpoint:
    return Endpoint(IPAddress(address), port)


# Servers


@pytest.mark.parametrize(
    ("said", "server"),
    [
        ("9.9.9.9", Server(at("9.9.9.9", 53))),
        ("9.9.9.9:5353", Server(at("9.9.9.9", 5353))),
        ("[2620:fe::fe]", Server(at("2620:fe::fe", 53))),
        ("[2620:fe::fe]:5353", Server(at("2620:fe::fe", 5353))),
        ("tcp://9.9.9.9", Server(at("9.9.9.9", 53), "tcp")),
        ("tcp://[2620:fe::fe]:5353", Server(at("2620:fe::fe", 5353), "tcp")),
        ("tls://9.9.9.9", Server(at("9.9.9.9", 853), "tls")),
        ("tls://9.9.9.9#dns.quad9.net", Server(at("9.9.9.9", 853), "tls", "dns.quad9.net")),
        ("tls://[2620:fe::fe]:8853#dns.quad9.net", Server(at("2620:fe::fe", 8853), "tls", "dns.quad9.net")),
    ],
)
def test_r3_a_server_is_an_address_a_protocol_and_for_tls_a_name(said: str, server: Server) -> None:
    assert dns(f'servers = ["{said}"]').servers == (server,)
    assert parse_server(said) == server
    assert str(server) == said


@pytest.mark.parametrize(("said", "port"), [("9.9.9.9:53", 53), ("[2620:fe::fe]:53", 53)])
def test_the_port_of_a_server_may_be_said_where_it_is_the_usual_one(said: str, port: int) -> None:
    assert dns(f'servers = ["{said}"]').servers[0].endpoint.port == port


@pytest.mark.parametrize(
    ("said", "normal"),
    [
        ("udp://9.9.9.9", "9.9.9.9"),
        ("tcp://9.9.9.9:53", "tcp://9.9.9.9"),
        ("tls://9.9.9.9:853", "tls://9.9.9.9"),
        ("[2620:FE::fe]", "[2620:fe::fe]"),
        ("tls://9.9.9.9#DNS.example.", "tls://9.9.9.9#dns.example"),
    ],
)
def test_what_is_not_in_normal_form_is_told_its_normal_form(said: str, normal: str) -> None:
    (problem,) = problems(MINIMAL + f'[dns]\nservers = ["{said}"]')
    assert problem == f'main.toml: dns.servers[0]: it is not in normal form; write "{normal}"'


@pytest.mark.parametrize(
    "server",
    [
        *('""', '"dns.example"', '"9.9.9.9:0"', '"9.9.9.9:65536"', '"9.9.9"', '"2620:fe::fe"', "53", "[]", "true"),
        *('"https://9.9.9.9"', '"TLS://9.9.9.9"', '"tls://dns.example"', '"9.9.9.9#dns.example"', '"#dns.example"'),
        *('"tcp://9.9.9.9#dns.example"', '"tls://9.9.9.9#"', '"tls://9.9.9.9#a b"', '"tls://9.9.9.9#a#b"', '"tls://"'),
    ],
)
def test_r12_nothing_else_is_a_server(server: str) -> None:
    """A name of a server that is asked in the clear would be a promise that nobody keeps."""
    assert problem_of(f"servers = [{server}]").startswith("main.toml: dns.servers[0]: it is no server: ")


def test_r7_what_is_no_server_is_not_repeated() -> None:
    assert "TOKEN" not in problem_of('servers = ["tls://agent:TOKEN@9.9.9.9"]')


@given(
    st.sampled_from(["9.9.9.9", "2620:fe::fe", "127.0.0.1"]),
    st.sampled_from([53, 853, 1, 65535]),
    st.sampled_from([("udp", ""), ("tcp", ""), ("tls", ""), ("tls", "dns.example")]),
)
def test_a_server_is_read_as_it_is_spelt(address: str, port: int, spoken: tuple[str, str]) -> None:
    """Workers are told of servers so."""
    server = Server(at(address, port), *spoken)
    assert parse_server(str(server)) == server


def test_what_is_no_server_is_a_bad_target() -> None:
    with pytest.raises(BadTarget):
        parse_server("")


# Zones


def test_r3_a_zone_is_its_apex_and_all_below_and_nothing_beside() -> None:
    zone = dns('[[dns.zone]]\nsuffix = "corp.example"\nservers = ["10.0.0.53"]').zone[0]
    asked = ("corp.example", "a.corp.example", "a.b.corp.example", "notcorp.example", "example", "corp.example.com")
    assert [zone.holds(name) for name in asked] == [True, True, True, False, False, False]
    assert zone.servers == (Server(at("10.0.0.53", 53)),)


@pytest.mark.parametrize("suffix", ['"*.corp.example"', '"Corp.example"', '"corp.example."', '""', "1"])
def test_a_zones_apex_is_a_name_in_normal_form(suffix: str) -> None:
    problem = problem_of(f'[[dns.zone]]\nsuffix = {suffix}\nservers = ["10.0.0.53"]')
    assert problem.startswith("main.toml: dns.zone[0].suffix: ")


def test_r3_the_smallest_zone_that_holds_a_name_is_asked_and_no_other() -> None:
    everybody, corp, lab = (Server(at(each, 53)) for each in ("9.9.9.9", "10.0.0.53", "10.1.0.53"))
    zones = (Zone(suffix="corp.example", servers=(corp,)), Zone(suffix="lab.corp.example", servers=(lab,)))
    for given_in_order in (zones, zones[::-1]):
        routes = Routes((everybody,), given_in_order)
        assert routes.to("example.com") == (everybody,)
        assert routes.to("corp.example") == (corp,)
        assert routes.to("x.corp.example") == (corp,)
        assert routes.to("x.lab.corp.example") == (lab,)
    assert Routes((everybody,)).to("corp.example") == (everybody,)


# Ranges and files


@pytest.mark.parametrize("length", [32, 40, 48, 56, 64, 96])
def test_attack_2_8_a_translator_has_a_length_of_rfc_6052(length: int) -> None:
    assert dns(f'nat64 = ["2606:4700::/{length}"]').nat64 == nets(f"2606:4700::/{length}")


@pytest.mark.parametrize(
    "prefix", ["::/0", "2001:db8::/33", "64:ff9b::/95", "64:ff9b::/97", "64:ff9b::/128", "10.0.0.0/32"]
)
def test_attack_2_8_nothing_else_is_a_translator(prefix: str) -> None:
    assert problem_of(f'nat64 = ["{prefix}"]').startswith(f'main.toml: dns.nat64[0]: "{prefix}" is no NAT64 prefix; ')


@pytest.mark.parametrize(
    "fake", ["198.18.0.0/15", "198.19.0.0/16", "198.18.0.1/32", "fc00::/7", "fd00::/8", "fc00::/18"]
)
def test_attack_2_15_a_fake_range_lies_where_vpn_clients_answer_from(fake: str) -> None:
    assert dns(f'dangerously_allow_fake_ip = ["{fake}"]').dangerously_allow_fake_ip == nets(fake)


@pytest.mark.parametrize(
    "fake",
    [
        "0.0.0.0/0",
        "::/0",
        "198.16.0.0/14",
        "10.0.0.0/8",
        "28.0.0.0/8",
        "127.0.0.0/8",
        "fc00::/6",
        "fe80::/10",
        "::1/128",
    ],
)
def test_r12_attack_2_15_nothing_else_is_a_fake_range(fake: str) -> None:
    said = f'"{fake}" is no range of fake addresses; write one within 198.18.0.0/15 or fc00::/7'
    assert problem_of(f'dangerously_allow_fake_ip = ["{fake}"]') == (
        f"main.toml: dns.dangerously_allow_fake_ip[0]: {said}"
    )


@pytest.mark.parametrize("path", ['""', '"hosts"', '"/etc/ho\\u0000sts"', "1", "[]"])
def test_a_hosts_file_is_an_absolute_path(path: str) -> None:
    assert dns('hosts_file = "/etc/hosts"').hosts_file == "/etc/hosts"
    problem = problem_of(f"hosts_file = {path}")
    assert problem.startswith("main.toml: dns.hosts_file: ")
    assert problem.endswith('is no absolute path; write "/etc/hosts"')


def test_r12_nothing_is_trusted_that_is_not_named() -> None:
    """No hosts file, no zone, no translator, no fake range; and errors say what they are."""
    assert loaded().dns == Dns(
        servers=(), zone=(), hosts_file="", uniform_errors=False, nat64=(), dangerously_allow_fake_ip=()
    )
