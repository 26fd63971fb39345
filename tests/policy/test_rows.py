"""The rows of a policy: which ports, hosts and addresses a row means, what it is called, and what a test supposes.

R7, R9. Whether a row is found is `snapshot`'s, and what comes of it `verdict`'s.
"""

from __future__ import annotations

import pytest

from proxyd.policy.address import Destination, Resolution, parse_authority
from proxyd.policy.rows import AllowRow, DenyRow, Expectation, holds
from tests.policy.worlds import HUGE, MINIMAL, addresses, loaded, permit, problems


def at(host: str, port: int = 443) -> Destination:
    return Destination(host, port)


def test_a_span_holds_its_first_and_last_port_and_none_beside() -> None:
    asked = (7999, 8000, 8099, 8100)
    assert [holds((range(443, 444), range(8000, 8100)), port) for port in asked] == [False, True, True, False]
    assert not holds((), 443)


def test_a_row_is_called_by_its_name_and_else_by_where_it_is_written() -> None:
    assert DenyRow(name="corp", where="deny[0]", reason="x").label == "corp"
    assert AllowRow(where="allow[0]", reason="x", hosts=(), ports=()).label == "allow[0]"


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
    row = Expectation(url=at("example.com"), expect="deny", addresses=found, cnames=("x.internal",))
    assert row.answer() == Resolution(addresses("10.0.0.1"), ("x.internal",))
    assert Expectation(url=at("example.com"), expect="deny", cnames=("x.internal",)).answer() is None


# The scalars that only a row has


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
    "url",
    [
        *('"ftp://example.com"', '"example.com"', "443", '"https://[::1/64]/"', "[]", "07:32:00", "1.5"),
        HUGE,
        f"[{HUGE}]",
    ],
)
def test_no_other_url_is_one(url: str) -> None:
    (problem,) = problems(MINIMAL + f'[[test]]\nurl = {url}\nexpect = "deny"')
    assert problem.startswith("main.toml: test[0].url: ")
    assert "is no target: " in problem


@pytest.mark.parametrize(
    "address",
    [
        *('"10.0.0.0/8"', '"::1/128"', '"example.com"', '""', "1", "true"),
        *('"127.1"', '"::1%lo"', '"[::1]"', '" 1.1.1.1"', "1.5", HUGE, f"[{HUGE}]"),
    ],
)
def test_an_address_is_an_address(address: str) -> None:
    row = f'[[test]]\nurl = "https://example.com"\nexpect = "deny"\naddresses = ["1.1.1.1", {address}]'
    (problem,) = problems(MINIMAL + row)
    assert problem.startswith("main.toml: test[0].addresses[1]: ")
    assert problem.endswith('is no address; write it in quotes, as "192.0.2.1"')


@pytest.mark.parametrize(
    "key",
    [
        '[[test]]\nexpect = "deny"\nurl = "{0}"',
        '[[test]]\nexpect = "deny"\nurl = "https://example.com"\naddresses = ["{0}"]',
    ],
)
@pytest.mark.parametrize("url", ["ftp://example.com/bot123:TOKEN", "agent:TOKEN@example.com"])
def test_r7_what_looks_like_a_url_is_not_repeated_in_a_problem(key: str, url: str) -> None:
    """A problem goes to stderr, and that into logs."""
    (problem,) = problems(MINIMAL + key.format(url))
    assert "what is written there is no " in problem
    assert "TOKEN" not in problem
