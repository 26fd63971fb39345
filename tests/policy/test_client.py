"""What a policy says of its clients: how each condition is spelt, what is left out, and what stands over what.

R2, R7, R10. Whether a condition holds is in test_snapshot; what must hold between keys, in test_contradictions.
"""

from __future__ import annotations

from dataclasses import fields

import pytest

from proxyd.policy.client import Client, Credential, Destinations, Egress, OwnDestinations, Rates
from proxyd.policy.password import parse_hash
from tests.policy.worlds import HASH, HUGE, MINIMAL, addresses, loaded, problems, spans


def client_of(said: str) -> Client:
    """The one client of a policy that says this of it."""
    (client,) = loaded(MINIMAL + said).client
    return client


def problem_of(said: str) -> str:
    """The one thing to mend in a policy that says this of its client."""
    (problem,) = problems(MINIMAL + said)
    assert problem.startswith("main.toml: client[0].")
    return problem


# Accounts


def test_r2_an_account_is_a_name_or_a_number() -> None:
    users = client_of('users = ["openclaw", 0, 1001, 4294967294, "büro", "1001"]').users
    assert users == ("openclaw", 0, 1001, 4294967294, "büro", "1001")


@pytest.mark.parametrize(
    "user", ["-1", "4294967295", "true", "1.5", '""', '"a:b"', '"/bin/sh"', '"a b"', '"a\\u0000"', "[]", "2027-01-31"]
)
def test_r2_nothing_else_is_an_account(user: str) -> None:
    """4294967295 is (uid_t) -1, which the kernel says where there is none (credentials(7))."""
    problem = problem_of(f"users = [1001, {user}]")
    assert problem.startswith("main.toml: client[0].users[1]: it is no account; write its name in quotes")


def test_the_accounts_that_are_named_by_name_are_to_be_looked_up() -> None:
    assert client_of('users = ["openclaw", 0, "openclaw"]').accounts == frozenset({"openclaw"})
    assert client_of("").accounts == frozenset()


# Credentials


def test_a_credential_has_a_user_name_and_a_hash() -> None:
    credential = client_of(f'[client.credential]\nuser = "{"ü" * 64}"\npassword = "{HASH}"').credential
    assert credential == Credential(user="ü" * 64, password=parse_hash(HASH))


@pytest.mark.parametrize("user", ['""', '"a:b"', f'"{"a" * 65}"', '"a\\nb"', "1001", "[]", "true"])
def test_no_other_user_name_can_be_sent(user: str) -> None:
    """A colon ends it in the header (RFC 7617 §2)."""
    problem = problem_of(f'[client.credential]\nuser = {user}\npassword = "{HASH}"')
    assert "client[0].credential.user: it is no user name of a credential; write up to 64 characters" in problem


@pytest.mark.parametrize(
    "written", ['"SECRET"', '"$scrypt$ln=20,r=8,p=1$SECRET$SECRET"', "7357", '["SECRET"]', '""', HUGE, f"[{HUGE}]"]
)
def test_r7_what_is_no_hash_is_an_error_and_is_not_repeated(written: str) -> None:
    """It may be the password itself."""
    problem = problem_of(f'[client.credential]\nuser = "agent"\npassword = {written}')
    assert problem.startswith("main.toml: client[0].credential.password: it is no hash: ")
    assert problem.endswith("`proxyd password` makes one")
    assert "SECRET" not in problem
    assert "7357" not in problem


@pytest.mark.parametrize("written", ['credential = "agent:SECRET"', 'credential = ["SECRET"]'])
def test_r7_a_credential_that_is_no_table_is_not_repeated(written: str) -> None:
    problem = problem_of(written)
    assert problem == "main.toml: client[0].credential: what is written there is no table"


def test_r7_a_misspelt_key_of_a_credential_is_named_without_its_value() -> None:
    problem = problem_of('[client.credential]\nuser = "agent"\npasswort = "SECRET"')
    assert problem == 'main.toml: client[0].credential.passwort: unknown key; did you mean "password"?'


def test_r7_no_hash_is_shown_with_its_credential() -> None:
    credential = Credential(user="agent", password=parse_hash(HASH))
    for shown in (repr(credential), str(credential), repr(Client(name="agent", credential=credential))):
        assert "scrypt" not in shown
        assert HASH.split("$")[-1] not in shown
        assert "digest" not in shown
        assert "agent" in shown


# Header names


def test_a_header_is_named_as_rfc_9110_spells_it() -> None:
    names = '["X-Team", "x_user", "!#$%&\'*+-.^_`|~09"]'
    own = client_of(f"[client.destinations]\nidentity_headers = {names}").destinations
    assert own.identity_headers == ("X-Team", "x_user", "!#$%&'*+-.^_`|~09")


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Via", "Connection"])
def test_a_header_that_a_request_needs_is_no_identity(name: str) -> None:
    problem = problem_of(f'[client.destinations]\nidentity_headers = ["{name}"]')
    assert f"client[0].destinations.identity_headers[0]: {name} is needed by every request; remove it" in problem


@pytest.mark.parametrize("name", ['""', '"X Team"', '"X-Team:"', '"X-Tëam"', '"X-Team\\r\\n"', '"X(Team)"', "1", "[]"])
def test_nothing_else_is_the_name_of_a_header(name: str) -> None:
    problem = problem_of(f"[client.destinations]\nidentity_headers = [{name}]")
    assert "client[0].destinations.identity_headers[0]: it is no name of a header" in problem


# Limits


def test_r10_what_is_left_out_of_the_limits_is_unlimited_and_a_burst_alone_limits_nothing() -> None:
    assert client_of("").limits == Rates()
    assert Rates().unlimited
    assert Rates(burst=7).unlimited


@pytest.mark.parametrize("name", ["requests_per_second", "tunnels_per_second", "tunnels", "requests"])
def test_r10_each_limit_is_one(name: str) -> None:
    limits = client_of(f"[client.limits]\n{name} = 7").limits
    assert limits == Rates(**{name: 7})
    assert not limits.unlimited


@pytest.mark.parametrize("name", [each.name for each in fields(Rates)])
@pytest.mark.parametrize("count", ["0", "-1", "1000001", "true", "1.5", '"7"'])
def test_r12_no_limit_is_zero_as_zero_would_be_none(name: str, count: str) -> None:
    assert problem_of(f"[client.limits]\n{name} = {count}").endswith("is no whole number from 1 to 1000000")


def test_limits_are_told_in_words_as_far_as_there_are_any() -> None:
    said = Rates(requests_per_second=5, burst=7, tunnels_per_second=1, tunnels=2, requests=3)
    words = {"requests_per_second": "5", "burst": "7", "tunnels_per_second": "1", "tunnels": "2", "requests": "3"}
    assert list(said.in_words()) == list(words.items())
    assert list(Rates(tunnels=2).in_words()) == [("tunnels", "2")]
    assert list(Rates().in_words()) == []


# Egress


def test_r10_egress_is_addresses_an_interface_and_a_mark() -> None:
    said = '[client.egress]\naddresses = ["10.0.0.7", "fd00::7"]\ninterface = "eth0.100"\nmark = 2147483647'
    egress = client_of(said).egress
    assert egress == Egress(addresses=addresses("10.0.0.7", "fd00::7"), interface="eth0.100", mark=(1 << 31) - 1)


@pytest.mark.parametrize(
    "said", ["mark = 0", "mark = 2147483648", 'interface = ""', 'interface = "a b"', 'interface = "a/b"']
)
def test_r12_egress_that_cannot_be_is_an_error(said: str) -> None:
    assert problem_of(f"[client.egress]\n{said}").startswith("main.toml: client[0].egress.")
    assert problem_of(f'[client.egress]\ninterface = "{"a" * 16}"').startswith("main.toml: client[0].egress.interface")


def test_egress_is_told_in_words_as_far_as_it_is_given() -> None:
    said = Egress(addresses=addresses("10.0.0.7", "fd00::7"), interface="eth0", mark=7)
    words = [("address", "10.0.0.7"), ("address", "fd00::7"), ("interface", "eth0"), ("mark", "7")]
    assert list(said.in_words()) == words
    assert list(Egress().in_words()) == []


def test_egress_is_given_if_anything_of_it_is() -> None:
    assert not Egress().given
    assert Egress(addresses=addresses("10.0.0.7")).given
    assert Egress(interface="eth0").given
    assert Egress(mark=1).given


# Destinations


def test_without_a_list_of_ports_the_bad_ports_are_closed_and_with_one_all_others() -> None:
    assert [Destinations(default="deny").port_is_open(port) for port in (443, 8080, 22)] == [True, True, False]
    listed = Destinations(default="deny", ports=spans(443, 22))
    assert [listed.port_is_open(port) for port in (443, 8080, 22)] == [True, False, True]


@pytest.mark.parametrize(
    ("default", "said", "must"),
    [
        ("deny", "", True),
        ("allow", "", False),
        ("deny", "off", False),
        ("allow", "off", False),
        ("deny", "match", True),
        ("allow", "match", True),
    ],
)
def test_the_name_inside_tls_must_match_where_the_default_is_deny_or_where_it_is_said(
    default: str, said: str, *, must: bool
) -> None:
    assert Destinations(default=default, tls_name=said).holds_to_tls_name(443) is must


COMMON = Destinations(
    default="deny", mode="report", ports=spans(443), tls_name="off", identity_headers=("X-Team",)
)  # each unlike its default


def test_what_a_client_leaves_out_is_as_for_everybody() -> None:
    assert OwnDestinations().over(COMMON) == COMMON
    assert client_of("").destinations.over(COMMON) == COMMON


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ('default = "allow"', {"default": "allow"}),
        ('mode = "enforce"', {"mode": "enforce"}),
        ("ports = [8443]", {"ports": spans(8443)}),
        ('tls_name = "match"', {"tls_name": "match"}),
        ('identity_headers = ["X-Agent"]', {"identity_headers": ("X-Team", "X-Agent")}),  # these add up
    ],
)
def test_what_a_client_says_stands_in_the_place_of_what_holds_for_everybody(said: str, own: dict[str, object]) -> None:
    found = client_of(f"[client.destinations]\n{said}").destinations.over(COMMON)
    assert {each.name: getattr(found, each.name) for each in fields(COMMON)} == {**vars(COMMON), **own}


def test_a_client_can_say_all_that_can_be_said_of_destinations() -> None:
    assert [each.name for each in fields(OwnDestinations)] == [each.name for each in fields(Destinations)]


def test_a_client_with_a_default_of_its_own_is_held_to_the_tls_name_by_that_default() -> None:
    common = Destinations(default="allow")
    assert OwnDestinations(default="deny").over(common).holds_to_tls_name(443)
    assert not OwnDestinations(default="allow").over(Destinations(default="deny")).holds_to_tls_name(443)
