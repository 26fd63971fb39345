"""What is to be said of a policy's clients: whether it is known who asks, and whether others are taken for them.

R2, R10.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from proxyd.policy.client import Client
from proxyd.policy.lint import warnings
from proxyd.policy.lint_clients import comes_from_beyond
from tests.policy.linted import AGENT, CREDENTIAL, LIMITS, client, found, ids, text
from tests.policy.worlds import HASH, MINIMAL, TODAY, loaded, nets

EVERYBODY: Final = (
    "client agent is every account on this host; write users = [ … ] or [client.credential], "
    "if others than the agent work here"
)
BEYOND: Final = 'http = ["10.0.0.7:3128"]'
OTHER_PASSWORD: Final = CREDENTIAL.replace('user = "agent"', 'user = "other"')


def warned(conditions: str) -> list[str]:
    """What the start says of the smallest policy whose one client has these conditions."""
    policy = MINIMAL.replace('networks = ["127.0.0.0/8", "::1/128"]', conditions)
    return list(warnings(loaded(policy, hash=HASH), TODAY))


@pytest.mark.parametrize(
    "networks",
    [
        *('["127.0.0.0/8"]', '["::1/128"]', '["127.0.0.1/32"]', '["127.0.0.2/32"]', '["0.0.0.0/0"]', '["::/0"]'),
        *('["126.0.0.0/7"]', '["10.0.0.0/8", "127.0.0.0/8"]'),
    ],
)
def test_r2_a_client_by_loopback_addresses_alone_is_every_account(networks: str) -> None:
    """Whoever is on this host may choose any of them to come from."""
    assert warned(f"networks = {networks}") == [EVERYBODY]


@pytest.mark.parametrize(
    "conditions",
    [
        'networks = ["10.0.0.0/8", "fd00::/8"]',
        'networks = ["::ffff:127.0.0.0/104"]',
        'networks = ["127.0.0.0/8"]\nusers = ["openclaw"]',
        'networks = ["127.0.0.0/8"]\nusers = [0]',
        f'networks = ["127.0.0.0/8"]\ncredential = {{user = "agent", password = "{HASH}"}}',
        'networks = ["127.0.0.0/8"]\ncredential = {user = "agent", file = "hash"}',
        'users = ["openclaw"]',
        'credential = {user = "agent", file = "hash"}',
    ],
)
def test_r2_other_conditions_tell_accounts_apart(conditions: str) -> None:
    assert warned(conditions) == []


def test_each_client_is_told_of() -> None:
    second = client('networks = ["127.0.0.9/32"]', "second")
    policy = text(clients=client('networks = ["127.0.0.0/9"]') + second.replace("127.0.0.9", "127.128.0.9"))
    assert [each.what.partition(" is ")[0] for each in found(policy)] == ["client agent", "client second"]


# Where they come from


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ('networks = ["10.0.0.0/24"]', ["client.by_address"]),
        ('networks = ["10.0.0.9/32", "fd00::/64"]', ["client.by_address"]),
        ('networks = ["10.1.0.0/16"]', ["client.by_address"]),
        ('networks = ["fd00::/48"]', ["client.by_address"]),
        ('networks = ["10.0.0.0/15"]', ["client.by_address", "client.wide"]),
        ('networks = ["fd00::/47"]', ["client.by_address", "client.wide"]),
        ('networks = ["10.0.0.0/8", "172.16.0.0/12"]', ["client.by_address", "client.wide", "client.wide"]),
        ('networks = ["10.0.0.0/8", "127.0.0.0/8"]', ["client.every_account", "client.by_address", "client.wide"]),
    ],
)
def test_r2_whoever_has_an_address_is_a_client_that_has_nothing_else(conditions: str, expected: list[str]) -> None:
    """A prefix of a site is one that somebody runs; more are strangers."""
    assert ids(text(listen=BEYOND, clients=client(conditions))) == expected


@pytest.mark.parametrize(
    ("listen", "clients"),
    [
        # a user of this host, whichever of its addresses is called from
        (BEYOND, client('networks = ["0.0.0.0/0"]\nusers = ["openclaw"]') + client('networks = ["10.0.0.9/32"]', "b")),
        # nobody comes from there
        ('http = ["127.0.0.1:3128"]', client('networks = ["10.0.0.0/8"]')),
        ('http = ["unix:/run/x"]', client('networks = ["10.0.0.0/8"]') + client('users = ["openclaw"]', "b")),
        # it has a password, and it is not shown in the clear
        (
            'https = ["10.0.0.7:3129"]\ncertificate = "/c"\nprivate_key = "/k"',
            client('networks = ["10.0.0.0/8"]', more=CREDENTIAL + LIMITS),
        ),
    ],
)
def test_r2_a_wide_network_is_nothing_where_it_does_not_say_who_comes(listen: str, clients: str) -> None:
    """R1: loopback has no strangers."""
    assert [each for each in ids(text(listen=listen, clients=clients)) if each != "client.by_address"] == []
    assert all(each.what.startswith("client b ") for each in found(text(listen=listen, clients=clients)))


def test_r2_what_systemd_hands_over_may_be_reached_from_anywhere() -> None:
    wide = client('networks = ["10.0.0.0/8"]')
    assert ids(text(listen='http = ["systemd"]', clients=wide)) == ["client.by_address", "client.wide"]
    local = client('networks = ["127.0.0.0/8", "::1/128"]')
    assert ids(text(listen='http = ["systemd"]', clients=local)) == ["client.every_account"]


@pytest.mark.parametrize(
    ("conditions", "beyond"),
    [
        ({"networks": ["10.0.0.0/24"]}, True),
        ({"networks": ["127.0.0.0/8", "10.0.0.0/24"]}, True),
        ({"networks": ["127.0.0.0/8", "::1/128"]}, False),
        ({"networks": []}, True),
        ({"networks": [], "users": ("openclaw",)}, False),
        ({"networks": ["10.0.0.0/24"], "users": ("openclaw",)}, False),
    ],
)
def test_r2_a_client_is_of_this_host_by_loopback_or_by_account(conditions: dict[str, Any], *, beyond: bool) -> None:
    """By a password alone it may be anywhere."""
    networks = nets(*conditions["networks"])
    assert comes_from_beyond(Client(name="agent", networks=networks, users=conditions.get("users", ()))) is beyond


# Which is met first

HOME: Final = 'networks = ["127.0.0.0/8"]'
USER: Final = 'users = ["openclaw"]'


@pytest.mark.parametrize(
    ("first", "second", "swallowed"),
    [
        (HOME, 'networks = ["127.0.0.9/32"]', True),
        (HOME, f"{HOME}\n{USER}", True),
        (HOME, f"{HOME}\n{CREDENTIAL}", True),
        (USER, f"{HOME}\n{USER}", True),
        ('users = ["a", "openclaw"]', USER, True),
        ('networks = ["127.0.0.0/9", "127.128.0.0/9", "::1/128"]', HOME, True),
        ('networks = ["0.0.0.0/0", "::/0"]', 'networks = ["10.0.0.0/8", "fd00::/8"]', True),
        (CREDENTIAL, f"{HOME}\n{CREDENTIAL}", True),
        # and the other way round
        ('networks = ["127.0.0.9/32"]', HOME, False),
        (f"{HOME}\n{USER}", HOME, False),
        (f"{HOME}\n{CREDENTIAL}", HOME, False),
        (f"{HOME}\n{USER}", USER, False),
        (USER, 'users = ["a", "openclaw"]', False),
        ('networks = ["127.0.0.0/9"]', HOME, False),
        # over a Unix socket there is no address
        (HOME, USER, False),
        (HOME, CREDENTIAL, False),
        # a name and a number may be the same account, or not
        ('users = ["openclaw"]', "users = [1001]", False),
        # each asks for what the other does not
        (USER, HOME, False),
        (CREDENTIAL, OTHER_PASSWORD, False),
        (f"{HOME}\n{CREDENTIAL}", f"{HOME}\n{USER}", False),
        ('networks = ["10.0.0.0/8"]', HOME, False),
    ],
)
def test_r2_a_client_that_a_wider_one_comes_before_is_never_met(first: str, second: str, *, swallowed: bool) -> None:
    """Whoever it is meets the conditions of the other one, and has its rights. Once turned round, it is met."""
    policy = text(clients=client(first, "first") + client(second, "second"))
    said = [each for each in found(policy) if each.id == "client.never"]
    assert bool(said) is swallowed
    if swallowed:
        (only,) = said
        assert only.what == "client second is never met: whoever it is, is first first"
        assert "write it before the wider one" in only.mend
        turned = text(clients=client(second, "second") + client(first, "first"))
        assert "client.never" not in ids(turned)


@pytest.mark.parametrize(
    ("third", "swallowed"),
    [
        ('networks = ["127.0.0.0/8"]', True),
        ('networks = ["127.0.0.0/8"]\nusers = ["openclaw"]', True),
        ('networks = ["127.0.0.0/8", "::1/128"]', False),
    ],
)
def test_r2_several_wider_ones_leave_nothing_over_together(third: str, *, swallowed: bool) -> None:
    halves = client('networks = ["127.0.0.0/9"]', "a") + client('networks = ["127.128.0.0/9"]', "b")
    said = [each.what for each in found(text(clients=halves + client(third, "c"))) if each.id == "client.never"]
    assert said == (["client c is never met: whoever it is, is a or b first"] if swallowed else [])


# How much


@pytest.mark.parametrize(
    ("own", "common", "told"),
    [
        ("", "", True),
        ("[client.limits]\nrequests_per_second = 50\ntunnels = 100\n", "", False),
        ("[client.limits]\ntunnels_per_second = 1\n", "", False),
        ("", "[limits]\nrequests = 100\n", False),
        ("", "[limits]\nconnections = 100\n", True),
    ],
)
def test_r10_a_client_has_limits_of_its_own_or_those_of_all(own: str, common: str, *, told: bool) -> None:
    """A bound on connections alone counts no requests."""
    policy = text(clients=AGENT.replace(LIMITS, own), more=common)
    assert ids(policy) == (["limits.none"] if told else [])


@pytest.mark.parametrize(
    ("id_", "severity", "policy"),
    [
        ("client.every_account", "warning", text(clients=client(HOME))),
        ("client.by_address", "remark", text(listen=BEYOND, clients=client('networks = ["10.0.0.0/24"]'))),
        ("client.wide", "warning", text(listen=BEYOND, clients=client('networks = ["10.0.0.0/8"]'))),
        ("client.never", "warning", text(clients=AGENT + AGENT.replace("agent", "b"))),
        ("limits.none", "remark", text(clients=client(USER, more=""))),
    ],
)
def test_each_finding_says_how_bad_it_is_and_why_and_what_to_do(id_: str, severity: str, policy: str) -> None:
    (finding,) = [each for each in found(policy) if each.id == id_]
    assert (finding.severity, bool(finding.what and finding.why and finding.mend)) == (severity, True)
