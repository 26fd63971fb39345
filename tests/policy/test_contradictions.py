"""What no single key of a policy can see, and the policy's own tests: each problem with its key and the way out.

R9, R12, ATTACKS 2.16, 2.17, 7.5. What is said of clients and of listeners is in test_contradictions_on_….
"""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from netaddr import IPNetwork

from tests.policy.worlds import MINIMAL, TODAY, problems

OPEN = MINIMAL.replace('default = "deny"', 'default = "allow"')
INCLUDING = 'include = ["rows.toml"]\n' + MINIMAL
DENY = '[[deny]]\nname = "{0}"\nreason = "a test"\nhosts = ["{0}.example"]\n'
ALLOW = '[[allow]]\nreason = "a test"\nhosts = ["a.example"]\nports = {0}\n'
PERMIT = '[[permit]]\nreason = "a test"\nhost = "{host}"\nports = [443]\nnetworks = ["{network}"]\n{more}\n'


def toml(value: object) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


# What no single key can see


def test_names_of_rows_are_unique_across_kinds_and_files() -> None:
    main = INCLUDING + DENY.format("same") + DENY.format("other")
    (problem,) = problems(main, rows=DENY.format("same"))
    assert 'rows.toml: deny[0].name: "same" is the name of main.toml: deny[0] already' in problem
    assert problems(main, rows=DENY.format("third")) == []


def test_a_deny_row_refuses_something() -> None:
    (problem,) = problems(MINIMAL + '[[deny]]\nname = "x"\nreason = "x"')
    assert "deny[0]: refuses nothing" in problem
    assert problems(MINIMAL + '[[deny]]\nname = "x"\nreason = "x"\nnetworks = ["10.0.0.0/8"]') == []


def test_an_allow_row_has_no_place_where_everything_is_allowed() -> None:
    assert problems(MINIMAL + ALLOW.format("[443]")) == []
    (problem,) = problems(OPEN + ALLOW.format("[443]"))
    assert "allow[0]: has no effect where everything is allowed" in problem


@pytest.mark.parametrize(
    ("ports", "closed"),
    [
        ("[443]", None),
        ('["1-65535"]', None),
        ("[22]", "22"),
        ("[443, 22, 25]", "22, 25"),
        ('["21-23"]', "21"),
        ('["20-24"]', None),
    ],
)
def test_an_allow_row_for_closed_ports_is_an_error(ports: str, closed: str | None) -> None:
    found = problems(MINIMAL + ALLOW.format(ports))
    if closed is None:
        assert found == []
    else:
        assert f"allow[0].ports: {closed} is closed to everyone" in found[0]
        assert problems(MINIMAL.replace("[[client]]", 'ports = ["1-65535"]\n[[client]]') + ALLOW.format(ports)) == []


@pytest.mark.parametrize("host", ["metadata.google.internal", "metadata.goog", "metadata"])
def test_attack_2_16_a_permit_for_a_metadata_name_is_an_error(host: str) -> None:
    (problem,) = problems(MINIMAL + PERMIT.format(host=host, network="10.0.0.0/8", more=""))
    assert f'permit[0].host: "{host}" is a metadata service' in problem


@pytest.mark.parametrize("network", ["169.254.169.254/32", "168.63.129.16/32", "0.0.0.0/32", "fd00:ec2::254/128"])
def test_attack_2_16_a_permit_for_a_locked_address_is_an_error(network: str) -> None:
    (problem,) = problems(MINIMAL + PERMIT.format(host="nas.local", network=network, more=""))
    assert f'permit[0].networks[0]: "{network}" is locked' in problem
    wider = str(IPNetwork(network).supernet(IPNetwork(network).prefixlen - 1)[0])
    assert problems(MINIMAL + PERMIT.format(host="nas.local", network=wider, more="")) == []


def permitting(host: str, *networks: str, ports: str = "[443]", main: str = MINIMAL) -> list[str]:
    """What there is to say against a permit for this host."""
    row = PERMIT.replace("[443]", ports).replace('["{network}"]', toml(list(networks)))
    return problems(main + row.format(host=host, more=""))


HOLD_IT = "write networks that hold it, or remove the permit"


@pytest.mark.parametrize(
    ("host", "network", "said"),
    [
        ("10.0.0.5", "10.0.1.0/24", f"10.0.0.5:443 stays refused (address_denied, by private network); {HOLD_IT}"),
        ("::1", "fd00::/8", f"[::1]:443 stays refused (address_denied, by loopback); {HOLD_IT}"),
        ("10.0.0.5", "::ffff:0:0/96", f"10.0.0.5:443 stays refused (address_denied, by private network); {HOLD_IT}"),
        ("localhost", "10.0.0.0/8", f"localhost:443 stays refused (address_denied, by loopback); {HOLD_IT}"),
        ("a.localhost", "127.0.0.2/32", f"a.localhost:443 stays refused (address_denied, by loopback); {HOLD_IT}"),
        ("8.8.8.8", "10.0.0.0/8", f"8.8.8.8:443 stays refused (not_allowlisted, by allowlist); {HOLD_IT}"),
        # what such an address carries is never opened
        (
            "::ffff:10.0.0.5",
            "::ffff:0:0/96",
            f"[::ffff:10.0.0.5]:443 stays refused (address_denied, by private network); {HOLD_IT}",
        ),
    ],
)
def test_r9_a_permit_whose_networks_do_not_hold_its_host_is_an_error(host: str, network: str, said: str) -> None:
    """Where no DNS is needed it is known now."""
    assert permitting(host, network) == [f"main.toml: permit[0]: {said}"]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.5", "10.0.0.0/24"),
        ("::1", "::1/128"),
        ("localhost", "127.0.0.1/32"),
        ("localhost", "::1/128"),
        ("a.localhost", "127.0.0.0/8"),
        ("8.8.8.8", "8.8.8.8/32"),
        ("nas.example", "10.0.0.0/8"),
        ("localhost6", "127.0.0.2/32"),
    ],
)
def test_r9_a_permit_that_holds_its_host_or_whose_host_needs_dns_is_none(host: str, network: str) -> None:
    assert permitting(host, network) == []
    assert permitting(host, "198.18.0.0/15", network) == []


def test_r9_a_permit_for_an_address_that_is_reached_without_it_is_an_error() -> None:
    said = f"main.toml: permit[0]: 8.8.8.8:443 is reached without it; {HOLD_IT}"
    reporting = MINIMAL.replace("[[client]]", 'mode = "report"\n[[client]]')
    for main in (OPEN, reporting):
        assert permitting("8.8.8.8", "10.0.0.0/8", main=main) == [said]
        assert permitting("8.8.8.8", "8.8.8.0/24", main=main) == []


@pytest.mark.parametrize(
    ("host", "network", "rule"),
    [
        ("169.254.169.254", "169.254.0.0/16", "cloud metadata service"),
        ("192.80.8.124", "192.80.8.0/24", "cloud metadata service (Equinix), a public address"),
        ("0.0.0.0", "0.0.0.0/8", "unspecified address"),
    ],
)
def test_attack_2_16_a_permit_for_a_locked_host_is_an_error(host: str, network: str, rule: str) -> None:
    (problem,) = permitting(host, network)
    assert problem.endswith(
        f"{host}:443 stays refused (address_locked, by {rule}); nothing opens it, remove the permit"
    )


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("127.0.0.1:3128", "localhost"),
        ("127.0.0.1:3128", "127.0.0.1"),
        ("127.0.0.1:3128", "127.9.9.9"),
        ("[::1]:3128", "::1"),
        ("10.0.0.1:3128", "localhost"),
        ("10.0.0.1:3128", "10.0.0.1"),
    ],
)
def test_attack_2_17_a_permit_for_proxyds_own_listener_is_an_error(listen: str, host: str) -> None:
    main = MINIMAL.replace("127.0.0.1:3128", listen).replace('"::1/128"]', '"::1/128", "10.0.0.0/8"]')

    def said(ports: str) -> list[str]:
        return permitting(host, "127.0.0.0/8", "::1/128", "10.0.0.0/8", ports=ports, main=main)

    shown = f"[{host}]" if ":" in host else host
    own = (
        f"main.toml: permit[0]: {shown}:3128 stays refused (address_locked, by proxyd itself); "
        "nothing opens it, remove the permit"
    )
    assert said("[3128]") == said('["3128-3128"]') == said("[443, 3128]") == [own]
    for opened in ("[3127]", "[3129]", '["3127-3128"]', '["3128-3129"]', '["1-65535"]'):
        assert said(opened) == []


def test_attack_2_17_the_policys_tests_know_where_proxyd_listens() -> None:
    """On an address of its own too, which a permit for a name would open else."""
    main = MINIMAL.replace("127.0.0.1:3128", "10.0.0.1:3128").replace('"::1/128"]', '"10.0.0.0/8"]')
    main += PERMIT.replace("[443]", "[3128, 3129]").format(host="nas.local", network="10.0.0.0/8", more="")
    answer = 'addresses = ["10.0.0.1"]\n'
    assert asked(answer + 'expect = "deny"\nreason = "address_locked"', "http://nas.local:3128", main) == ""
    assert asked(answer + 'expect = "allow"', "http://nas.local:3129", main) == ""


def test_r9_a_permit_that_expired_is_judged_as_written() -> None:
    more = f"expires = {TODAY - timedelta(days=1)}"
    assert problems(MINIMAL + PERMIT.format(host="10.0.0.5", network="10.0.0.0/24", more=more)) == []
    assert len(problems(MINIMAL + PERMIT.format(host="10.0.0.5", network="10.0.1.0/24", more=more))) == 1


def translating(*prefixes: str) -> list[str]:
    """What there is to say against these NAT64 prefixes."""
    return problems(MINIMAL + f"[dns]\nnat64 = {toml(list(prefixes))}\n")


@pytest.mark.parametrize(
    "prefixes",
    [
        ("64:ff9b::/96",),
        ("64:ff9b:1::/48",),
        ("64:ff9b:1:2::/96",),
        ("64:ff9b::/96", "64:ff9b:1::/48", "2606:4700::/32", "2606:4701::/96"),
        ("2606:4700::/96", "2606:4700::1:0:0/96"),
    ],
)
def test_attack_2_8_translators_are_public_or_made_for_translation_and_lie_side_by_side(prefixes: tuple[str]) -> None:
    assert translating(*prefixes) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2606:4700::/32", "2606:4700::/96"),
        ("2606:4700::/96", "2606:4700::/32"),
        ("2606:4700::/32", "2606:4700:ffff::/48"),
        ("64:ff9b::/96", "64:ff9b::/96"),
    ],
)
def test_attack_2_8_two_translators_that_overlap_would_read_one_address_in_two_ways(first: str, second: str) -> None:
    said = f"main.toml: dns.nat64[1]: {second} overlaps another translator; declare one of them"
    assert translating(first, second) == [said]
    assert translating(first, "2a00:1098::/96", second) == [said.replace("[1]", "[2]")]


@pytest.mark.parametrize(
    ("prefix", "what"),
    [
        ("fd00:64::/96", "unique local"),
        ("fc00::/32", "unique local"),
        ("2001:db8:64::/96", "documentation"),
        ("2002:a00:1::/48", "6to4"),
        ("2001::/32", "Teredo"),
        ("fe80::/64", "link-local"),
        ("::/96", "unspecified address"),
        ("::ffff:0.0.0.0/96", "IPv4-mapped"),
        ("4000::/32", "not global unicast"),
        ("2606:4700::5efe:0:0/96", "ISATAP"),
    ],
)
def test_attack_2_8_nobody_translates_in_a_special_purpose_range(prefix: str, what: str) -> None:
    assert translating(prefix) == [f"main.toml: dns.nat64[0]: {prefix} is no translator's: {what}; remove it"]


@pytest.mark.parametrize("prefix", ["64:ff9b::/32", "64:ff9b::/40", "64:ff9b::/64"])
def test_attack_2_8_what_is_wider_than_the_well_known_prefix_lies_in_no_nat64_range(prefix: str) -> None:
    """That prefix is a /96; around it is what is not global unicast."""
    (problem,) = translating(prefix)
    assert problem.startswith(f"main.toml: dns.nat64[0]: {prefix} ")


def test_a_problem_names_its_file_once() -> None:
    for found in (
        problems(MINIMAL + '[[deny]]\nname = "x"\nreason = "x"'),
        problems(MINIMAL + '[[test]]\nurl = "https://a.example"\nexpect = "allow"'),
    ):
        (problem,) = found
        assert problem.count("main.toml") == 1


def test_a_problem_in_an_included_file_names_that_file() -> None:
    (problem,) = problems(INCLUDING, rows='[[deny]]\nname = "x"\nreason = "x"')
    assert problem.startswith("rows.toml: deny[0]: ")


# The policy's own tests


def asked(more: str, url: str = "https://a.example", main: str = OPEN, today: date = TODAY) -> str:
    """What comes of one [[test]]: its problem, or nothing."""
    found = problems(main + f'[[test]]\nurl = "{url}"\n{more}\n', today)
    assert len(found) <= 1
    return found[0] if found else ""


ANSWER = 'addresses = ["93.184.216.34"]\n'


def test_a_test_that_comes_out_as_expected_says_nothing() -> None:
    assert asked(ANSWER + 'expect = "allow"') == ""
    assert asked(ANSWER + 'expect = "allow"\nclient = "agent"') == ""
    assert asked('expect = "deny"', "http://127.0.0.1/") == ""
    assert asked('expect = "deny"\nreason = "address_denied"', "http://127.0.0.1/") == ""
    assert asked('expect = "deny"\naddresses = ["10.0.0.1"]') == ""
    assert asked(ANSWER + 'expect = "deny"\nreason = "name_reserved"\ncnames = ["x.internal"]') == ""


def test_r12_a_test_that_comes_out_otherwise_refuses_the_policy() -> None:
    assert "is allowed by default, but expected to be denied" in asked(ANSWER + 'expect = "deny"')
    assert "is denied (address_denied) by loopback, but expected to be allowed" in asked(
        'expect = "allow"', "http://127.0.0.1/"
    )
    wrong = asked('expect = "deny"\nreason = "port_denied"', "http://127.0.0.1/")
    assert "is denied because address_denied, but expected because port_denied" in wrong


def test_a_test_that_would_need_dns_is_an_error() -> None:
    for expect in ("allow", "deny"):
        assert "a.example:443 for agent: needs DNS, and a test asks nobody; write addresses" in asked(
            f'expect = "{expect}"'
        )


def test_a_test_asks_as_a_client_there_is() -> None:
    assert 'test[0].client: "other" is no client' in asked(ANSWER + 'expect = "allow"\nclient = "other"')


def test_a_test_that_names_no_client_is_run_for_each() -> None:
    two = OPEN + '[[client]]\nname = "second"\nnetworks = ["10.0.0.0/8"]\n'
    row = f'[[test]]\nurl = "https://a.example"\n{ANSWER}expect = "deny"\n'
    found = problems(two + row)
    assert [each.partition(" for ")[2].partition(":")[0] for each in found] == ["agent", "second"]
    (problem,) = problems(two + row + 'client = "second"')
    assert "for second: " in problem


@pytest.mark.parametrize(
    ("more", "url", "said"),
    [
        (ANSWER + 'expect = "deny"', "http://127.0.0.1", "test[0].addresses: 127.0.0.1:80 is never looked up"),
        (ANSWER + 'expect = "deny"', "http://localhost", "test[0].addresses: localhost:80 is never looked up"),
        ('cnames = ["x.internal"]\nexpect = "deny"', "http://127.0.0.1", "test[0].cnames: a chain ends in addresses"),
        (ANSWER + 'expect = "allow"\nreason = "name_denied"', "http://a.example", "test[0].reason: what is allowed"),
        (
            'expect = "deny"\nreason = "client_unknown"',
            "http://127.0.0.1",
            'test[0].reason: "client_unknown" denies no test; write one of port_denied, ',
        ),
        (
            'expect = "deny"\nreason = "dns_error"',
            "http://127.0.0.1",
            'test[0].reason: "dns_error" denies no test; write one of port_denied, ',
        ),
    ],
)
def test_a_key_of_a_test_that_has_no_effect_is_an_error(more: str, url: str, said: str) -> None:
    assert said in asked(more, url)


def test_what_shall_be_denied_is_judged_as_of_today_and_what_shall_be_allowed_as_written() -> None:
    main = OPEN + PERMIT.format(host="nas.local", network="10.0.0.0/8", more=f"expires = {TODAY}")
    answer, later = 'addresses = ["10.0.0.1"]\n', TODAY + timedelta(days=1)
    assert asked(answer + 'expect = "allow"', "https://nas.local", main) == ""
    assert asked(answer + 'expect = "allow"', "https://nas.local", main, later) == ""
    assert "is allowed by" in asked(answer + 'expect = "deny"', "https://nas.local", main)
    assert asked(answer + 'expect = "deny"', "https://nas.local", main, later) == ""


def test_the_tests_are_run_as_if_the_policy_were_enforced() -> None:
    main = MINIMAL.replace("[[client]]", 'mode = "report"\n[[client]]')
    assert asked(ANSWER + 'expect = "deny"\nreason = "not_allowlisted"', main=main) == ""


def test_report_mode_has_no_place_where_everything_is_allowed() -> None:
    (problem,) = problems(OPEN.replace("[[client]]", 'mode = "report"\n[[client]]'))
    assert problem.startswith('main.toml: destinations.mode: "report" has no effect')


def test_the_tests_are_run_only_on_a_policy_without_contradictions() -> None:
    (problem,) = problems(
        MINIMAL + '[[deny]]\nname = "x"\nreason = "x"\n[[test]]\nurl = "https://a.example"\nexpect = "allow"'
    )
    assert "refuses nothing" in problem


def test_attack_7_5_a_policy_without_allow_rows_allows_nothing() -> None:
    assert asked(ANSWER + 'expect = "deny"\nreason = "not_allowlisted"', main=MINIMAL) == ""


def test_an_address_among_denied_hosts_is_an_error_as_names_resolve_to_it_too() -> None:
    row = '[[deny]]\nname = "x"\nhosts = ["{0}"]\nreason = "a test"\n'
    for host in ("93.184.216.34", "2606:4700::1"):
        (problem,) = problems(MINIMAL + row.format(host))
        assert f'deny[0].hosts: "{host}" is an address' in problem
        assert "write it in networks" in problem
    assert problems(MINIMAL + row.format("*.example.com")) == []


@pytest.mark.parametrize(
    ("network", "prefix", "vain"),
    [
        ("2a00:1450::/36", "2a00:1450::/32", True),
        ("2a00:1450::/32", "2a00:1450::/32", True),
        ("64:ff9b::808:0/112", "64:ff9b::/96", True),
        ("2a00:1451::/36", "2a00:1450::/32", False),
        ("2a00:1400::/24", "2a00:1450::/32", False),
        ("64:ff9b::/96", "64:ff9b::/96", False),
    ],
)
def test_attack_2_8_a_network_behind_a_translator_is_denied_by_its_ipv4_address(
    network: str, prefix: str, *, vain: bool
) -> None:
    """Else the row refuses nothing any more. The documented denylist has the well-known prefix, and keeps it."""
    row = f'[[deny]]\nname = "x"\nreason = "x"\nnetworks = ["10.0.0.0/8", "{network}"]\n'
    found = problems(MINIMAL + row + f'[dns]\nnat64 = ["{prefix}"]\n')
    said = (
        f"main.toml: deny[0].networks[1]: {network} lies within the translator {prefix} (dns.nat64), "
        "whose addresses are judged by the IPv4 address inside; deny that, or remove the translator"
    )
    assert found == ([said] if vain else [])
