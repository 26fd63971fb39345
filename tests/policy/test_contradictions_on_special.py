"""Rows that plainly open nothing, because special-purpose addresses and names are not theirs (R5, R6, R9, R12)."""

from __future__ import annotations

import pytest

from tests.policy.worlds import MINIMAL, problems

PERMIT = '[[permit]]\nreason = "a test"\nhost = "{host}"\nports = {ports}\nnetworks = {networks}\n'
ALLOW = '[[allow]]\nreason = "a test"\nhosts = ["{host}"]\nports = {ports}\n'


def permitted(networks: str, ports: str = "[443]", host: str = "a.example", main: str = MINIMAL) -> list[str]:
    """What is wrong with a permit."""
    return problems(main + PERMIT.format(host=host, ports=ports, networks=networks))


@pytest.mark.parametrize(
    ("network", "carried"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.5/128", "10.0.0.0/8"),
        ("::192.168.1.0/120", "192.168.0.0/16"),
        ("::ffff:0:7f00:0/112", "127.0.0.0/8"),
        ("64:ff9b::a00:0/104", "10.0.0.0/8"),
        ("2002:a00::/24", "10.0.0.0/8"),
        ("2002:a00::/32", "10.0.0.0/8"),
        ("2001:0:a00::/40", "10.0.0.0/8"),
        ("64:ff9b:1:a00:1:100::/128", "10.0.0.0/8"),
        ("2600::5efe:a00:0/104", "10.0.0.0/8"),
    ],
)
def test_r5_a_permit_for_what_carries_special_addresses_is_an_error(network: str, carried: str) -> None:
    (problem,) = permitted(f'["10.0.0.5/32", "{network}"]')
    assert problem.startswith("main.toml: permit[0].networks[1]: all of ")
    assert problem.endswith(
        f" carries {carried}, and no permit opens what an address carries; write the IPv4 network, or remove it"
    )


@pytest.mark.parametrize(
    "network",
    [
        *("10.0.0.0/8", "fd00::/8", "::1/128", "2600::/16"),
        *("::ffff:0:0/96", "::ffff:8.8.8.0/120", "::ffff:8.0.0.0/102", "::/96", "::/0"),
        *("64:ff9b::/96", "64:ff9b:1::/48", "64:ff9b:1::/96", "2002::/16", "2002:808::/32", "2001::/32"),
    ],
)
def test_what_may_open_something_is_none(network: str) -> None:
    """What lies between the ends is not all of one special-purpose network, or is no address's burden."""
    assert permitted(f'["{network}"]') == []


def test_what_a_declared_translator_makes_of_an_address_is_not_said_here() -> None:
    main = MINIMAL + '[dns]\nnat64 = ["64:ff9b::/96"]\n'
    assert not any("carries" in each for each in permitted('["64:ff9b::a00:0/104"]', main=main))


@pytest.mark.parametrize(
    ("ports", "networks", "said"),
    [
        ("[3128]", '["127.0.0.1/32"]', ["3128"]),
        ("[443, 3128]", '["127.0.0.0/8", "::1/128"]', ["3128"]),
        ("[3128]", '["127.0.0.1/32", "10.0.0.5/32"]', []),
        ('["3128-3129"]', '["127.0.0.1/32"]', []),
        ("[443]", '["127.0.0.1/32"]', []),
    ],
)
def test_2_17_a_permit_for_a_name_at_proxyd_itself_is_an_error(ports: str, networks: str, said: list[str]) -> None:
    assert permitted(networks, ports) == [
        f"main.toml: permit[0]: on port {port} proxyd itself listens there; nothing opens it, remove it"
        for port in said
    ]


def test_2_17_so_it_is_where_proxyd_listens_beyond_loopback() -> None:
    main = MINIMAL.replace('"127.0.0.1:3128"', '"10.0.0.5:3128"').replace('"127.0.0.0/8"', '"10.0.0.0/8"')
    (problem,) = permitted('["10.0.0.5/32"]', "[3128]", main=main)
    assert "permit[0]: on port 3128 proxyd itself listens there" in problem
    assert permitted('["10.0.0.6/32"]', "[3128]", main=main) == []


def allowed(host: str, ports: str = "[443]", more: str = "", main: str = MINIMAL) -> list[str]:
    """What is wrong with a row of the allowlist."""
    return problems(main + ALLOW.format(host=host, ports=ports) + more)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("10.0.0.5", "address_denied, by private network); write a [[permit]] for it, or remove it"),
        ("fd00::5", "address_denied, by unique local); write a [[permit]] for it, or remove it"),
        ("169.254.169.254", "address_locked, by cloud metadata service); nothing opens it, remove it"),
        (
            "168.63.129.16",
            "address_locked, by platform services (Azure), a public address); nothing opens it, remove it",
        ),
        ("metadata.google.internal", "name_locked, by cloud metadata service (Google)); nothing opens it, remove it"),
        ("*.metadata.google.internal", "name_locked, by cloud metadata service (Google)); nothing opens it, remove it"),
        ("localhost", "name_reserved, by loopback name); write a [[permit]] for it, or remove it"),
        ("db.internal", "name_reserved, by private-use name); write a [[permit]] for it, or remove it"),
        ("*.home.arpa", "name_reserved, by home network name); write a [[permit]] for it, or remove it"),
    ],
)
def test_r6_the_allowlist_does_not_open_what_is_special(host: str, why: str) -> None:
    assert allowed(host) == [f'main.toml: allow[0].hosts: "{host}" stays refused ({why}']


def test_r6_nor_where_a_row_of_the_denylist_has_it_too() -> None:
    deny = '[[deny]]\nname = "loopback"\nreason = "a test"\nhosts = ["localhost"]\n'
    (problem,) = allowed("localhost", more=deny)
    assert '"localhost" stays refused (name_denied, by loopback); write a [[permit]]' in problem


@pytest.mark.parametrize("host", ["8.8.8.8", "2606:4700::1", "*.example", "a.example", "internal.example"])
def test_what_is_public_may_be_listed(host: str) -> None:
    assert allowed(host) == []


def test_what_an_operator_denies_may_be_listed_all_the_same() -> None:
    """It may be taken out of an allowlist that is included."""
    deny = '[[deny]]\nname = "x"\nreason = "a test"\nhosts = ["a.example"]\nnetworks = ["8.8.8.0/24"]\n'
    assert allowed("a.example", more=deny) == allowed("8.8.8.8", more=deny) == []


def test_what_a_permit_opens_on_one_port_may_be_listed() -> None:
    permit = PERMIT.format(host="10.0.0.5", ports="[443]", networks='["10.0.0.5/32"]')
    assert allowed("10.0.0.5", "[80, 443]", permit) == []
    (problem,) = allowed("10.0.0.5", "[80]", permit)
    assert "stays refused" in problem


def test_a_translator_may_open_it() -> None:
    """The address behind it is public."""
    assert allowed("64:ff9b::808:808", more='[dns]\nnat64 = ["64:ff9b::/96"]\n') == []
    assert len(allowed("64:ff9b::808:808")) == 1


def test_a_closed_port_and_a_row_that_nobody_has_are_told_elsewhere_or_not_at_all() -> None:
    (problem,) = allowed("db.internal", "[22]")
    assert "allow[0].ports: 22 is closed to everyone" in problem
    own = '[[client.allow]]\nreason = "a test"\nhosts = ["a.example"]\nports = [443]\n'
    assert problems(MINIMAL + own + ALLOW.format(host="db.internal", ports="[443]")) == []
