"""Clients, and what is different for them: each contradiction with the way out, and the policy's tests for each.

R2, R9, R10, R12, ATTACKS 2.16, 2.17, 7.5.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.policy.worlds import HASH, MINIMAL, TODAY, problems

OPEN = MINIMAL.replace('default = "deny"', 'default = "allow"')
NETWORKS = 'networks = ["127.0.0.0/8", "::1/128"]'
SECOND = '[[client]]\nname = "second"\nnetworks = ["10.0.0.0/8"]\n'
OWN_ALLOW = '[[client.allow]]\nname = "own"\nreason = "a test"\nhosts = ["own.example"]\nports = {0}\n'
COMMON_ALLOW = '[[allow]]\nname = "common"\nreason = "a test"\nhosts = ["a.example"]\nports = {0}\n'
OWN_PERMIT = '[[client.permit]]\nreason = "a test"\nhost = "{0}"\nports = [443]\nnetworks = ["{1}"]\n'
OWN_DENY = '[[client.deny]]\nname = "{0}"\nreason = "a test"\n'
ANSWER = 'addresses = ["93.184.216.34"]\n'


def own(said: str) -> str:
    """[client.destinations] of the client before it."""
    return f"[client.destinations]\n{said}\n"


# Who it is


def test_names_of_clients_are_unique() -> None:
    (problem,) = problems(MINIMAL + '[[client]]\nname = "agent"\nnetworks = ["10.0.0.0/8"]')
    assert problem == 'main.toml: client: "agent" is the name of two clients; choose another'
    third = SECOND.replace("second", "agent").replace("10.", "11.")
    assert problems(MINIMAL + SECOND + SECOND.replace("10.", "11.") + third) == [
        'main.toml: client: "agent" is the name of two clients; choose another',
        'main.toml: client: "second" is the name of two clients; choose another',
    ]


def test_r12_two_clients_of_one_name_with_permits_are_an_error_and_no_crash() -> None:
    """It is not known then whose permit it is that would be judged."""
    twice = MINIMAL + SECOND.replace("second", "agent") + OWN_PERMIT.format("localhost", "127.0.0.0/8")
    (problem,) = problems(twice)
    assert "is the name of two clients" in problem


def test_r2_r12_a_client_without_conditions_is_an_error() -> None:
    (problem,) = problems(MINIMAL.replace(NETWORKS, ""))
    assert problem == (
        "main.toml: client agent: anybody would be this client; write networks, users or [client.credential]"
    )


@pytest.mark.parametrize(
    "conditions",
    [NETWORKS, "users = [0]", 'users = ["openclaw"]', f'credential = {{user = "agent", password = "{HASH}"}}'],
)
def test_r2_one_condition_is_enough(conditions: str) -> None:
    assert problems(MINIMAL.replace(NETWORKS, conditions)) == []


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ("", False),
        (f'password = "{HASH}"\n', True),
        ('file = "hash"\n', True),
        (f'password = "{HASH}"\nfile = "hash"\n', False),
    ],
    ids=["neither", "password", "file", "both"],
)
def test_r2_r12_the_hash_is_in_the_policy_or_in_a_file(said: str, *, good: bool) -> None:
    found = problems(MINIMAL + f'[client.credential]\nuser = "agent"\n{said}', hash=HASH)
    wrong = "main.toml: client agent: credential: the hash is in the policy or in a file; write password or file"
    assert found == ([] if good else [wrong])


@pytest.mark.parametrize(
    ("addresses", "good"),
    [
        ('["10.0.0.7"]', True),
        ('["10.0.0.7", "fd00::7"]', True),
        ('["10.0.0.7", "10.0.0.8"]', False),
        ('["fd00::7", "10.0.0.7", "fd00::8"]', False),
        ('["10.0.0.7", "10.0.0.7"]', False),
    ],
)
def test_r10_a_connection_leaves_from_one_address_of_a_family(addresses: str, *, good: bool) -> None:
    found = problems(MINIMAL + f"[client.egress]\naddresses = {addresses}")
    wrong = (
        "main.toml: client agent: egress.addresses: two of one family; a connection leaves from one, remove the other"
    )
    assert found == ([] if good else [wrong])


# Limits


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ("burst = 7", False),
        ("burst = 7\ntunnels = 7\nrequests = 7", False),
        ("burst = 7\nrequests_per_second = 1", True),
        ("burst = 7\ntunnels_per_second = 1", True),
        ("tunnels = 7", True),
    ],
)
@pytest.mark.parametrize(("table", "where"), [("[limits]", "limits"), ("[client.limits]", "client agent: limits")])
def test_r10_a_burst_of_what_is_unlimited_is_an_error(limits: str, table: str, where: str, *, good: bool) -> None:
    wrong = (
        f"main.toml: {where}.burst: of what is unlimited; write requests_per_second or tunnels_per_second, or remove it"
    )
    assert problems(f"{MINIMAL}{table}\n{limits}") == ([] if good else [wrong])


def test_r10_a_clients_burst_is_not_of_the_rate_of_all_together() -> None:
    (problem,) = problems(MINIMAL + "[client.limits]\nburst = 7\n[limits]\nrequests_per_second = 7\n")
    assert problem.startswith("main.toml: client agent: limits.burst: ")


# Report mode


REPORT = MINIMAL.replace("[[client]]", 'mode = "report"\n[[client]]')


@pytest.mark.parametrize(
    ("main", "idle"),
    [
        pytest.param(MINIMAL + own('mode = "report"'), [], id="a client of its own accord"),
        pytest.param(OPEN + own('mode = "report"'), ["client agent: destinations"], id="where all is allowed"),
        pytest.param(OPEN + own('mode = "report"\ndefault = "deny"'), [], id="but not to it"),
        pytest.param(MINIMAL + own('mode = "report"\ndefault = "allow"'), ["client agent: destinations"], id="to it"),
        pytest.param(REPORT, [], id="everybody"),
        pytest.param(REPORT.replace('"deny"', '"allow"'), ["destinations"], id="everybody, where all is allowed"),
        pytest.param(REPORT + own('default = "allow"'), ["destinations"], id="everybody, and each is allowed all"),
        pytest.param(REPORT + own('default = "allow"') + SECOND, [], id="everybody, and one is allowed all"),
        pytest.param(REPORT.replace('"deny"', '"allow"') + own('default = "deny"'), [], id="one is not allowed all"),
    ],
)
def test_r12_report_mode_where_nothing_is_missed_is_an_error_where_it_is_written(main: str, idle: list[str]) -> None:
    said = '{}.mode: "report" has no effect where all is allowed; write default = "deny", or remove it'
    assert problems(main) == [f"main.toml: {said.format(where)}" for where in idle]


# Rows of its own


@pytest.mark.parametrize("kind", ["deny", "allow", "permit"])
def test_names_of_rows_are_unique_across_clients_and_kinds(kind: str) -> None:
    common = '[[deny]]\nname = "same"\nreason = "a test"\nhosts = ["a.example"]\n'
    row = {
        "deny": OWN_DENY.format("same") + 'hosts = ["b.example"]\n',
        "allow": OWN_ALLOW.format("[443]").replace('"own"', '"same"'),
        "permit": OWN_PERMIT.format("nas.local", "10.0.0.0/8") + 'name = "same"\n',
    }[kind]
    (problem,) = problems(MINIMAL + row + common)
    first, second = ("deny[0]", f"client[0].{kind}[0]")
    assert problem == f'main.toml: {second}.name: "same" is the name of main.toml: {first} already; choose another'


def test_a_deny_row_of_a_client_refuses_something_too() -> None:
    (problem,) = problems(MINIMAL + OWN_DENY.format("x"))
    assert problem.startswith("main.toml: client[0].deny[0]: refuses nothing; ")
    (problem,) = problems(MINIMAL + OWN_DENY.format("x") + 'hosts = ["93.184.216.34"]')
    assert problem.startswith('main.toml: client[0].deny[0].hosts: "93.184.216.34" is an address')


@pytest.mark.parametrize(
    ("main", "idle"),
    [
        pytest.param(MINIMAL + OWN_ALLOW, [], id="its own"),
        pytest.param(OPEN + OWN_ALLOW, ["client[0].allow[0]"], id="where all is allowed"),
        pytest.param(OPEN + own('default = "deny"') + OWN_ALLOW, [], id="but not to it"),
        pytest.param(MINIMAL + own('default = "allow"') + OWN_ALLOW, ["client[0].allow[0]"], id="to it"),
        pytest.param(OPEN + own('default = "deny"') + COMMON_ALLOW, [], id="everybody's, for one"),
        pytest.param(MINIMAL + own('default = "allow"') + COMMON_ALLOW, ["allow[0]"], id="everybody's, for none"),
        pytest.param(MINIMAL + own('default = "allow"') + SECOND + COMMON_ALLOW, [], id="everybody's, for another"),
        pytest.param(OPEN + SECOND + own('default = "deny"') + OWN_ALLOW + COMMON_ALLOW, ["allow[0]"], id="replaced"),
        pytest.param(MINIMAL + OWN_ALLOW + COMMON_ALLOW, [], id="both"),
    ],
)
def test_r12_an_allow_row_has_no_place_where_all_is_allowed_to_whom_it_is_for(main: str, idle: list[str]) -> None:
    """It would look like a restriction that is not there."""
    said = 'has no effect where everything is allowed; write destinations.default = "deny"'
    assert problems(main.replace("{0}", "[443]")) == [f"main.toml: {where}: {said}" for where in idle]


def test_an_allow_row_for_ports_that_are_closed_to_its_client_is_an_error() -> None:
    own_ports = MINIMAL + own("ports = [8443]")
    assert problems(own_ports + OWN_ALLOW.format("[8443]")) == []
    (problem,) = problems(own_ports + OWN_ALLOW.format("[443, 8443]"))
    assert problem.startswith("main.toml: client[0].allow[0].ports: 443 is closed to everyone")
    (problem,) = problems(own_ports + COMMON_ALLOW.format("[443]"))
    assert problem.startswith("main.toml: allow[0].ports: 443 is closed to everyone")
    assert problems(own_ports + SECOND + COMMON_ALLOW.format("[443]")) == []


# Permits of its own


@pytest.mark.parametrize(
    ("host", "network", "said"),
    [
        ("nas.local", "10.0.0.0/8", None),
        ("localhost", "127.0.0.1/32", None),
        ("localhost", "10.0.0.0/8", ": localhost:443 stays refused (address_denied, by loopback); "),
        ("metadata.goog", "10.0.0.0/8", '.host: "metadata.goog" is a metadata service, which nothing opens; '),
        ("nas.local", "169.254.169.254/32", '.networks[0]: "169.254.169.254/32" is locked, and nothing opens it; '),
        ("8.8.8.8", "10.0.0.0/8", ": 8.8.8.8:443 stays refused (not_allowlisted, by allowlist); "),
    ],
)
def test_r9_a_permit_of_one_client_is_judged_as_anybodys(host: str, network: str, said: str | None) -> None:
    found = problems(MINIMAL + OWN_PERMIT.format(host, network))
    if said is None:
        assert found == []
    else:
        (problem,) = found
        assert problem.startswith(f"main.toml: client[0].permit[0]{said}")


def test_r9_a_permit_of_one_client_that_it_can_do_without_is_an_error_whatever_others_need() -> None:
    permit = OWN_PERMIT.format("8.8.8.8", "10.0.0.0/8")
    said = "8.8.8.8:443 is reached without it; write networks that hold it, or remove the permit"
    assert problems(OPEN + permit) == [f"main.toml: client[0].permit[0]: {said}"]
    assert problems(MINIMAL + own('default = "allow"') + permit + SECOND) == [f"main.toml: client[0].permit[0]: {said}"]


def test_r9_a_permit_for_all_that_one_client_needs_is_none_in_vain() -> None:
    permit = OWN_PERMIT.replace("client.", "").format("8.8.8.8", "8.8.8.0/24")
    assert problems(MINIMAL + permit + SECOND + own('default = "allow"')) == []


def test_attack_2_17_no_client_may_be_permitted_to_reach_proxyd() -> None:
    (problem,) = problems(MINIMAL + OWN_PERMIT.replace("[443]", "[3128]").format("localhost", "127.0.0.0/8"))
    assert "client[0].permit[0]: localhost:3128 stays refused (address_locked, by proxyd itself)" in problem


# The policy's tests


def asked(main: str, url: str, more: str, today: timedelta = timedelta(0)) -> list[str]:
    """For which clients a test comes out otherwise than expected."""
    found = problems(main + f'[[test]]\nurl = "{url}"\n{more}\n', TODAY + today)
    return [each.partition(" for ")[2].partition(":")[0] for each in found]


def test_a_test_is_run_for_each_client_by_its_own_rules() -> None:
    main = MINIMAL + OWN_ALLOW.format("[443]") + SECOND + COMMON_ALLOW.format("[443]")
    assert asked(main, "https://own.example", ANSWER + 'expect = "allow"') == ["second"]
    assert asked(main, "https://a.example", ANSWER + 'expect = "allow"') == ["agent"]
    assert asked(main, "https://own.example", ANSWER + 'expect = "allow"\nclient = "agent"') == []
    assert asked(main, "https://own.example", ANSWER + 'expect = "deny"\nclient = "second"') == []


def test_the_tests_are_run_as_if_a_client_that_only_reports_were_enforced() -> None:
    main = MINIMAL + own('mode = "report"')
    assert asked(main, "https://a.example", ANSWER + 'expect = "deny"\nreason = "not_allowlisted"') == []
    assert asked(main, "https://a.example", ANSWER + 'expect = "allow"') == ["agent"]


def test_a_permit_of_one_client_that_ended_opens_nothing_to_what_shall_be_denied() -> None:
    main = MINIMAL + OWN_PERMIT.format("nas.local", "10.0.0.0/8") + f"expires = {TODAY}\n"
    answer, tomorrow = 'addresses = ["10.0.0.1"]\n', timedelta(days=1)
    assert asked(main, "https://nas.local", answer + 'expect = "deny"') == ["agent"]
    assert asked(main, "https://nas.local", answer + 'expect = "deny"', tomorrow) == []
    assert asked(main, "https://nas.local", answer + 'expect = "allow"', tomorrow) == []
    assert asked(main + SECOND, "https://nas.local", answer + 'expect = "allow"') == ["second"]
