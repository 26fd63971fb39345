"""What a policy says that its author may not have meant: told, and no error.

R2. What is an error is in test_contradictions.
"""

from __future__ import annotations

import pytest

from proxyd.policy.lint import warnings
from tests.policy.worlds import BESIDE_FULL, FULL, HASH, MINIMAL, loaded


def warned(said: str) -> list[str]:
    """What is said of a policy."""
    return list(warnings(loaded(said, hash=HASH)))


def client(conditions: str) -> str:
    """A policy whose one client has these conditions."""
    return MINIMAL.replace('networks = ["127.0.0.0/8", "::1/128"]', conditions)


EVERYBODY = (
    "client agent is every account on this host; write users = [ … ] or [client.credential], "
    "if others than the agent work here"
)


@pytest.mark.parametrize(
    "networks",
    [
        *('["127.0.0.0/8"]', '["::1/128"]', '["127.0.0.1/32"]', '["127.0.0.2/32"]', '["0.0.0.0/0"]', '["::/0"]'),
        *('["126.0.0.0/7"]', '["10.0.0.0/8", "127.0.0.0/8"]'),
    ],
)
def test_r2_a_client_by_loopback_addresses_alone_is_every_account(networks: str) -> None:
    """Whoever is on this host may choose any of them to come from."""
    assert warned(client(f"networks = {networks}")) == [EVERYBODY]


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
    assert warned(client(conditions)) == []


def test_each_client_is_warned_of() -> None:
    second = '[[client]]\nname = "second"\nnetworks = ["127.0.0.9/32"]\n'
    assert [each.partition(" is ")[0] for each in warned(MINIMAL + second)] == ["client agent", "client second"]


@pytest.mark.parametrize(
    ("said", "warning"),
    [
        (
            '[dns]\ndangerously_allow_fake_ip = ["198.18.0.0/16"]',
            (
                "dns.dangerously_allow_fake_ip: 198.18.0.0/16: where names resolve into it, the VPN client decides "
                "where connections lead, and nothing here judges that"
            ),
        ),
        (
            '[dns]\nnat64 = ["64:ff9b::/96"]',
            "dns.nat64: 64:ff9b::/96 is judged by the IPv4 address inside; that must be how this network translates it",
        ),
        (
            '[dns]\nhosts_file = "/etc/hosts"',
            "dns.hosts_file: who may write /etc/hosts decides what its names resolve to",
        ),
        (
            '[[dns.zone]]\nsuffix = "corp.example"\nservers = ["10.0.0.53", "tls://10.0.0.54#dns.example"]',
            "dns.zone corp.example: 10.0.0.53, tls://10.0.0.54#dns.example decide what names below it resolve to",
        ),
    ],
)
def test_what_weakens_the_judgement_or_changes_whom_it_believes_is_said_aloud(said: str, warning: str) -> None:
    assert warned(client('users = ["openclaw"]') + said) == [warning]


def test_r7_no_warning_tells_a_secret() -> None:
    said = "\n".join(warnings(loaded(FULL, **BESIDE_FULL)))
    assert said
    for secret in (HASH.split("$")[-1], "a secret"):
        assert secret not in said
