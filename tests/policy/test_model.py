"""The frozen policy: the lookups that `decide` makes in it, and what a permit, a client and a day mean.

R2, R9, ATTACKS 2.17; what the loader makes of a file is in test_load.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import timedelta

import pytest
from netaddr import IPAddress

from proxyd.policy import model
from proxyd.policy.address import Destination, Resolution, parse_authority
from proxyd.policy.model import Client, Destinations, Own, Snapshot, holds
from tests.policy.worlds import (
    CLIENT,
    MINIMAL,
    TODAY,
    addresses,
    allow,
    deny,
    loaded,
    nets,
    permit,
    policy,
    problems,
    spans,
    world,
)


def at(host: str, port: int = 443) -> Destination:
    return Destination(host, port)


def test_a_span_holds_its_first_and_last_port_and_none_beside() -> None:
    asked = (7999, 8000, 8099, 8100)
    assert [holds((range(443, 444), range(8000, 8100)), port) for port in asked] == [False, True, True, False]
    assert not holds((), 443)


def test_a_row_is_called_by_its_name_and_else_by_where_it_is_written() -> None:
    assert model.DenyRow(name="corp", where="deny[0]", reason="x").label == "corp"
    assert model.AllowRow(where="allow[0]", reason="x", hosts=(), ports=()).label == "allow[0]"


def test_r9_a_permit_names_one_host_and_its_ports() -> None:
    row = permit("nas.local", "10.0.0.0/30", ports=[443, 8443])
    assert row.names(at("nas.local"))
    assert row.names(at("nas.local", 8443))
    assert not row.names(at("nas.local", 444))
    assert not row.names(at("a.nas.local"))
    assert not row.names(at("nas.locals"))


def test_r9_a_permit_opens_the_addresses_of_its_networks() -> None:
    row = permit("nas.local", "10.0.0.4/30", "fd00::/64")
    asked = addresses(
        "10.0.0.3", "10.0.0.4", "10.0.0.7", "10.0.0.8", "fd00::", "fd00:0:0:1::", "::ffff:10.0.0.4", "::10.0.0.4"
    )
    assert [row.opens(each) for each in asked] == [False, True, True, False, True, False, False, False]


def test_a_policy_test_supposes_an_answer_only_if_it_gives_addresses() -> None:
    found = addresses("10.0.0.1")
    row = model.Expectation(url=at("example.com"), expect="deny", addresses=found, cnames=("x.internal",))
    assert row.answer() == Resolution(addresses("10.0.0.1"), ("x.internal",))
    assert model.Expectation(url=at("example.com"), expect="deny", cnames=("x.internal",)).answer() is None


def test_without_a_list_of_ports_the_bad_ports_are_closed_and_with_one_all_others() -> None:
    assert [Destinations(default="deny").port_is_open(port) for port in (443, 8080, 22)] == [True, True, False]
    listed = Destinations(default="deny", ports=spans(443, 22))
    assert [listed.port_is_open(port) for port in (443, 8080, 22)] == [True, False, True]


def test_attack_2_17_own_ports_are_ours_on_loopback_and_on_the_addresses_of_this_host() -> None:
    own = Own(frozenset({3128}), frozenset(nets("10.0.0.9/32", "2001:db8::9/128")))
    ours = addresses("127.0.0.0", "127.255.255.255", "::1", "10.0.0.9", "2001:db8::9")
    assert all(own.holds(each, 3128) for each in ours)
    assert not any(own.holds(each, 3129) for each in ours)
    assert not any(
        own.holds(each, 3128) for each in addresses("126.255.255.255", "128.0.0.0", "::2", "10.0.0.8", "10.0.0.10")
    )


def test_attack_2_17_a_whole_network_that_is_local_is_ours_from_its_first_address_to_its_last() -> None:
    """A local route ("AnyIP") makes it so, and no interface has any of its addresses."""
    own = Own(frozenset({3128}), frozenset(nets("93.184.216.0/24", "2606:2800::/64")))
    ours = addresses("93.184.216.0", "93.184.216.255", "2606:2800::", "2606:2800::ffff:ffff:ffff:ffff")
    others = addresses("93.184.215.255", "93.184.217.0", "2606:27ff:ffff:ffff::", "2606:2800:0:1::", "::93.184.216.7")
    assert all(own.holds(each, 3128) for each in ours)
    assert not any(own.holds(each, 3129) for each in ours)
    assert not any(own.holds(each, 3128) for each in others)


def test_without_listeners_nothing_is_ours() -> None:
    assert not Own().holds(IPAddress("127.0.0.1"), 3128)


def test_a_permit_is_live_through_the_day_on_which_it_expires() -> None:
    rows = (permit("a.local", "10.0.0.0/8", expires=TODAY), permit("b.local", "10.0.0.0/8"))
    written = policy(permit=rows)
    assert written.at(TODAY - timedelta(days=400)).permits(at("a.local")) == rows[:1]
    assert written.at(TODAY).permits(at("a.local")) == rows[:1]
    assert written.at(TODAY + timedelta(days=1)).permits(at("a.local")) == ()
    assert written.at(TODAY + timedelta(days=1)).permits(at("b.local")) == rows[1:]
    assert written.permit == rows


def test_every_permit_for_the_host_and_port_counts() -> None:
    rows = (permit("nas.local", "10.0.0.0/8"), permit("nas.local", "fd00::/8"), permit("nas.local", "::/0", ports=[80]))
    assert world(permit=rows).permits(at("nas.local")) == rows[:2]


def test_attack_8_only_the_permits_of_the_host_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request takes as long with ten thousand permits for other hosts as with none."""
    asked: list[str] = []
    names = model.PermitRow.names

    def noted(row: model.PermitRow, destination: Destination) -> bool:
        asked.append(row.host)
        return names(row, destination)

    monkeypatch.setattr(model.PermitRow, "names", noted)
    hosts = ("a.local", "nas.local", "b.local", "nas.local")
    said = world(permit=tuple(permit(host, "10.0.0.0/8", ports=[443 + n]) for n, host in enumerate(hosts)))
    assert [row.ports for row in said.permits(at("nas.local", 446))] == [spans(446)]
    assert said.permits(at("c.local")) == ()
    assert asked == ["nas.local", "nas.local"]


def test_r2_the_first_client_whose_networks_hold_the_peer_is_the_client() -> None:
    narrow = Client(name="narrow", networks=nets("127.0.0.1/32"))
    clients = (narrow, CLIENT, Client(name="six", networks=nets("::1/128")))
    said = Snapshot(replace(policy(), client=clients), Own())
    found = [said.identify(each) for each in addresses("127.0.0.1", "127.0.0.2", "::1")]
    assert [each.name if each else None for each in found] == ["narrow", "agent", "six"]


@pytest.mark.parametrize("peer", ["126.255.255.255", "128.0.0.0", "10.0.0.1", "::1", "::ffff:127.0.0.1", "::7f00:1"])
def test_r2_anybody_else_is_nobody(peer: str) -> None:
    assert world().identify(IPAddress(peer)) is None


def test_the_lookups_find_the_most_specific_row() -> None:
    wide, narrow = deny(hosts=["*.com"], networks=["10.0.0.0/8"]), deny(hosts=["*.a.com"], networks=["10.1.0.0/16"])
    said = world(deny=(wide, narrow))
    assert said.denied_name("x.a.com") is narrow
    assert said.denied_name("a.com") is wide
    assert said.denied_name("com") is None
    assert said.denied_address(IPAddress("10.1.0.0")) is narrow
    assert said.denied_address(IPAddress("10.2.0.0")) is wide
    assert said.denied_address(IPAddress("11.0.0.0")) is None


def test_an_allow_row_counts_where_both_host_and_port_are_its_own() -> None:
    exact, below = allow("a.com", ports=[80]), allow("*.com", ports=[443])
    said = world(allow=(below, exact))
    assert said.allowed(at("a.com", 80)) is exact
    assert said.allowed(at("a.com", 443)) is below
    assert said.allowed(at("a.com", 8080)) is None
    assert said.allowed(at("a.org", 443)) is None


def test_a_policy_and_its_snapshot_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        policy().name = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        world().policy = policy()  # type: ignore[misc]


# The scalars that only a policy has


@pytest.mark.parametrize(
    ("url", "to"),
    [
        ("https://example.com/x", "example.com:443"),
        ("ws://example.com", "example.com:80"),
        ("example.com:8443", "example.com:8443"),
    ],
)
def test_a_tests_url_is_a_url_or_host_and_port(url: str, to: str) -> None:
    said = MINIMAL.replace('default = "deny"', 'default = "allow"')
    (test,) = loaded(said + f'[[test]]\nurl = "{url}"\nexpect = "allow"\naddresses = ["93.184.216.34"]').test
    assert test.url == parse_authority(to)


@pytest.mark.parametrize(
    "url", ['"ftp://example.com"', '"example.com"', "443", '"https://[::1/64]/"', "[]", "07:32:00", "1.5"]
)
def test_no_other_url_is_one(url: str) -> None:
    (problem,) = problems(MINIMAL + f'[[test]]\nurl = {url}\nexpect = "deny"')
    assert problem.startswith("main.toml: test[0].url: ")
    assert "is no target: " in problem


@pytest.mark.parametrize(
    "address",
    [
        '"10.0.0.0/8"',
        '"::1/128"',
        '"example.com"',
        '""',
        "1",
        "true",
        '"127.1"',
        '"::1%lo"',
        '"[::1]"',
        '" 1.1.1.1"',
        "1.5",
    ],
)
def test_an_address_is_an_address(address: str) -> None:
    row = f'[[test]]\nurl = "https://example.com"\nexpect = "deny"\naddresses = ["1.1.1.1", {address}]'
    (problem,) = problems(MINIMAL + row)
    assert problem.startswith("main.toml: test[0].addresses[1]: ")
    assert problem.endswith('is no address; write it in quotes, as "192.0.2.1"')


@pytest.mark.parametrize("sink", ["stdout", "/var/log/proxyd.jsonl"])
def test_records_go_to_stdout_or_an_absolute_path(sink: str) -> None:
    assert loaded(MINIMAL + f'[audit]\nto = "{sink}"').audit.to == sink


@pytest.mark.parametrize("sink", ['"stderr"', '""', '"audit.jsonl"', "1", "true", '["stdout"]'])
def test_records_go_nowhere_else(sink: str) -> None:
    (problem,) = problems(MINIMAL + f"[audit]\nto = {sink}")
    assert problem.endswith('is no sink; write "stdout" or the absolute path of a file')


@pytest.mark.parametrize(
    "key",
    [
        '[[test]]\nexpect = "deny"\nurl = "{0}"',
        '[[test]]\nexpect = "deny"\nurl = "https://example.com"\naddresses = ["{0}"]',
        '[audit]\nto = "{0}"',
        '[dns]\nnat64 = ["{0}"]',
    ],
)
@pytest.mark.parametrize("url", ["ftp://example.com/bot123:TOKEN", "agent:TOKEN@example.com"])
def test_r7_what_looks_like_a_url_is_not_repeated_in_a_problem(key: str, url: str) -> None:
    """A problem goes to stderr, and that into logs."""
    (problem,) = problems(MINIMAL + key.format(url))
    assert "what is written there is no " in problem
    assert "TOKEN" not in problem


@pytest.mark.parametrize(("said", "workers"), [("", 1), ("workers = 64\n", 64), ('workers = "auto"\n', "auto")])
def test_workers_are_a_number_or_one_for_each_core(said: str, workers: object) -> None:
    assert loaded(said + MINIMAL).workers == workers


@pytest.mark.parametrize("workers", ["0", "65", "-1", '"all"', '"2"', "true", "1.0", "[1]"])
def test_no_other_workers_are(workers: str) -> None:
    (problem,) = problems(f"workers = {workers}\n" + MINIMAL)
    assert problem.startswith("main.toml: workers: ")
    assert problem.endswith(' is no whole number from 1 to 64, nor "auto"')


@pytest.mark.parametrize("length", [32, 40, 48, 56, 64, 96])
def test_attack_2_8_a_translator_has_a_length_of_rfc_6052(length: int) -> None:
    assert loaded(MINIMAL + f'[dns]\nnat64 = ["2606:4700::/{length}"]').dns.nat64 == nets(f"2606:4700::/{length}")


@pytest.mark.parametrize(
    "prefix", ["::/0", "2001:db8::/33", "64:ff9b::/95", "64:ff9b::/97", "64:ff9b::/128", "10.0.0.0/32"]
)
def test_attack_2_8_nothing_else_is_a_translator(prefix: str) -> None:
    (problem,) = problems(MINIMAL + f'[dns]\nnat64 = ["{prefix}"]')
    assert problem.startswith(f'main.toml: dns.nat64[0]: "{prefix}" is no NAT64 prefix; ')
