"""Rows that plainly open nothing, because special-purpose addresses and names are not theirs (R5, R6, R9, R12)."""

from __future__ import annotations

import pytest

from tests.policy.worlds import MINIMAL, problems

PERMIT = '[[permit]]\nreason = "a test"\nhost = "{host}"\nports = {ports}\nnetworks = {networks}\n'


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
        f"main.toml: permit[0].ports: on {port} proxyd itself listens there; nothing opens that; remove it"
        for port in said
    ]


def test_2_17_so_it_is_where_proxyd_listens_beyond_loopback() -> None:
    main = MINIMAL.replace('"127.0.0.1:3128"', '"10.0.0.5:3128"').replace('"127.0.0.0/8"', '"10.0.0.0/8"')
    (problem,) = permitted('["10.0.0.5/32"]', "[3128]", main=main)
    assert "permit[0].ports: on 3128 proxyd itself listens there" in problem
    assert permitted('["10.0.0.6/32"]', "[3128]", main=main) == []
