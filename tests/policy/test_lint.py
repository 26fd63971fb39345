"""What a policy says that its author may not have meant: told, and no error.

R1, R2, R3, R7, R12. What is an error is in test_contradictions; rows and clients are in test_lint_….
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given

from proxyd.cli.files import read_policy_file
from proxyd.policy.finding import Severity
from proxyd.policy.lint import findings, warnings
from proxyd.policy.load import load
from tests.policy.linted import AGENT, CREDENTIAL, DENY, OPEN, client, found, ids, text
from tests.policy.test_reach import snapshots
from tests.policy.worlds import BESIDE_FULL, FULL, HASH, SESAME, TODAY, loaded, problems

if TYPE_CHECKING:
    from proxyd.policy.snapshot import Snapshot

SHIPPED: Final = Path(__file__).parents[2] / "policies"

PUBLIC: Final = "dangerously_public_listener = true"
BY_PASSWORD: Final = client('networks = ["10.0.0.0/24"]', more=CREDENTIAL + "[client.limits]\ntunnels = 9\n")
LOCAL_PASSWORD: Final = client('networks = ["127.0.0.0/8"]', more=CREDENTIAL + "[client.limits]\ntunnels = 9\n")
TLS: Final = 'certificate = "/etc/cert"\nprivate_key = "/etc/key"'
PARENT: Final = '[parent]\naddress = "{}:8080"\n'
BY_FILE: Final = 'credential_file = "parent"\n'
REPORTING: Final = f'{DENY}\nmode = "report"'
OWN: Final = "[client.destinations]\n"
CORP: Final = '[[dns.zone]]\nsuffix = "corp.example"\nservers = ["{}"]\n'


def listening(*listeners: str, more: str = "", clients: str = BY_PASSWORD) -> str:
    """A policy for clients elsewhere, with these listeners."""
    return text(listen="\n".join((*listeners, more)), clients=clients)


# An id, how bad it is; a policy that has it, and one that has not, or no longer: nothing else differs.
CASES: Final = [
    (
        "listen.public",
        "critical",
        listening('https = ["203.0.114.7:3129"]', TLS, more=PUBLIC),
        listening('https = ["10.0.0.7:3129"]', TLS),
    ),
    (
        "listen.public",
        "critical",
        listening('https = ["0.0.0.0:3129"]', TLS, more=PUBLIC),
        listening('https = ["100.64.0.7:3129"]', TLS),
    ),
    (
        "listen.public",
        "critical",
        listening('https = ["[::]:3129"]', TLS, more=PUBLIC),
        listening('https = ["[fd00::7]:3129"]', TLS),
    ),
    (
        "listen.dangerously_public_listener",
        "warning",
        listening('https = ["10.0.0.7:3129"]', TLS, more=PUBLIC),
        listening('https = ["10.0.0.7:3129"]', TLS, more="dangerously_public_listener = false"),
    ),
    (
        "listen.dangerously_public_listener",
        "warning",
        text(listen=f'http = ["systemd"]\n{PUBLIC}'),
        text(listen='http = ["systemd"]'),
    ),
    (
        "listen.clear_credentials",
        "warning",
        listening('http = ["10.0.0.7:3128"]'),
        listening('https = ["10.0.0.7:3128"]', TLS),
    ),
    (
        "listen.clear_credentials",
        "warning",
        text(
            listen='http = ["10.0.0.7:3128"]', clients=client("", more=CREDENTIAL + "[client.limits]\nrequests = 9\n")
        ),
        text(
            listen='http = ["127.0.0.1:3128"]', clients=client("", more=CREDENTIAL + "[client.limits]\nrequests = 9\n")
        ),
    ),
    (
        "destinations.report_mode",
        "warning",
        text(destinations=REPORTING),
        text(destinations=f'{DENY}\nmode = "enforce"'),
    ),
    (
        "destinations.report_mode",
        "warning",
        text(clients=AGENT + OWN + 'mode = "report"\n'),
        text(clients=AGENT + OWN + 'mode = "enforce"\n'),
    ),
    (
        "destinations.default_allow",
        "remark",
        text(destinations=OPEN),
        text(),
    ),
    (
        "destinations.tls_name_off",
        "remark",
        text(destinations=f'{DENY}\ntls_name = "off"'),
        text(destinations=f'{DENY}\ntls_name = "match"'),
    ),
    (
        "dns.dangerously_allow_fake_ip",
        "critical",
        text(more='[dns]\ndangerously_allow_fake_ip = ["198.18.0.0/16"]'),
        text(more="[dns]"),
    ),
    ("dns.nat64", "remark", text(more='[dns]\nnat64 = ["64:ff9b::/96"]'), text(more="[dns]")),
    ("dns.hosts_file", "remark", text(more='[dns]\nhosts_file = "/etc/hosts"'), text(more="[dns]")),
    ("dns.zone", "remark", text(more=CORP.format("10.0.0.53")), text(more="[dns]")),
    ("dns.clear", "remark", text(more=CORP.format("9.9.9.9")), text(more=CORP.format("10.0.0.53"))),
    *(
        ("dns.clear", "remark", text(more=f'[dns]\nservers = ["{there}"]'), text(more=f'[dns]\nservers = ["{here}"]'))
        for there, here in (
            ("9.9.9.9", "tls://9.9.9.9#dns.quad9.net"),
            ("tcp://9.9.9.9", "tcp://10.0.0.53"),
            ("[2620:fe::fe]", "[fd00::53]"),
            ("1.1.1.1", "127.0.0.53"),
        )
    ),
    *(
        ("parent.clear_credential", "warning", text(more=there), text(more=here))
        for there, here in (
            (PARENT.format("192.0.2.7") + BY_FILE, PARENT.format("192.0.2.7")),
            (PARENT.format("10.0.0.7") + BY_FILE, PARENT.format("127.0.0.1") + BY_FILE),
        )
    ),
    (
        "audit.dangerously_prefer_availability",
        "warning",
        text(more="[audit]\ndangerously_prefer_availability = true"),
        text(more="[audit]\ndangerously_prefer_availability = false"),
    ),
    ("test.none", "remark", text(test=""), text()),
]


def test_of_a_sound_policy_there_is_nothing_to_say() -> None:
    """The loopback, a known account, limits, an allowlist, a test."""
    assert ids(text()) == []


@pytest.mark.parametrize(("id_", "severity", "trouble", "sound"), CASES)
def test_what_is_not_sound_is_found_and_its_neighbour_is_not(id_: str, severity: str, trouble: str, sound: str) -> None:
    """R1, R2, R3: once, and nothing else with it."""
    assert sorted(ids(trouble)) == sorted([*ids(sound), id_])
    (finding,) = [each for each in found(trouble) if each.id == id_][:1]
    assert (finding.severity, bool(finding.what and finding.why and finding.mend)) == (severity, True)
    for key, value in re.findall(r"\b([a-z_]+) = (\S+)", finding.mend):
        assert f"{key} = {value.rstrip(',')}" in sound


def test_a_password_that_is_never_shown_to_a_network_is_none_in_the_clear() -> None:
    """Who has it is on this host, by loopback or by account; who is elsewhere has none."""
    local = LOCAL_PASSWORD + client('users = ["b"]', "b", CREDENTIAL + "[client.limits]\ntunnels = 9\n")
    remote = client('networks = ["10.0.0.0/24"]', "c")
    assert ids(text(listen='http = ["10.0.0.7:3128"]', clients=local + remote)) == ["client.by_address"]


def test_each_public_listener_is_told() -> None:
    """With the key that names it."""
    policy = listening('https = ["0.0.0.0:3129", "10.0.0.7:3129", "203.0.114.7:3129"]', TLS, more=PUBLIC)
    assert [each.what.partition(" is open")[0] for each in found(policy)] == [
        "listen.https[0]: 0.0.0.0:3129",
        "listen.https[2]: 203.0.114.7:3129",
    ]


@pytest.mark.parametrize(
    ("destinations", "own", "told"),
    [
        (DENY, 'mode = "report"', ["client agent: destinations.mode: report mode: the allowlist refuses nothing"]),
        (REPORTING, 'mode = "report"', ["client agent: destinations.mode: report mode: the allowlist refuses nothing"]),
        (REPORTING, "", ["destinations.mode: report mode: the allowlist refuses nothing"]),
        (REPORTING, 'tls_name = "match"', ["destinations.mode: report mode: the allowlist refuses nothing"]),
    ],
)
def test_report_mode_is_told_where_it_is_written(destinations: str, own: str, told: list[str]) -> None:
    """For whoever it holds."""
    policy = text(destinations=destinations, clients=AGENT + OWN + own + "\n")
    assert [each.what for each in found(policy) if each.id == "destinations.report_mode"] == told


def test_a_report_mode_that_holds_for_nobody_is_no_finding() -> None:
    """Each client has its own; or all is allowed to it, and there is nothing to report."""
    enforcing = AGENT + OWN + 'mode = "enforce"\n'
    assert ids(text(destinations=REPORTING, clients=enforcing)) == []
    everything = client('users = ["b"]', "b") + OWN + 'default = "allow"\n'
    assert ids(text(destinations=REPORTING, clients=enforcing + everything)) == ["destinations.default_allow"]


def test_a_client_that_reports_beside_one_to_whom_all_is_allowed() -> None:
    second = client('users = ["b"]', "b") + OWN + 'default = "allow"\n'
    assert ids(text(destinations=REPORTING, clients=AGENT + second)) == [
        "destinations.report_mode",
        "destinations.default_allow",
    ]


# As the start and `check` say it


def test_the_start_says_what_is_more_than_a_remark() -> None:
    """In one line each: what, and how to mend it."""
    policy = text(destinations=REPORTING, more='[dns]\nhosts_file = "/etc/hosts"')
    assert [each.severity for each in found(policy)] == [Severity.WARNING, Severity.REMARK]
    assert list(warnings(loaded(policy), TODAY)) == [
        'destinations.mode: report mode: the allowlist refuses nothing; write mode = "enforce"'
    ]


def test_r7_no_finding_tells_a_secret() -> None:
    """Nor the hash of one."""
    said = "\n".join(map(repr, findings(loaded(FULL, **BESIDE_FULL), TODAY)))
    assert "parent.clear_credential" in said
    for secret in (HASH, HASH.split("$")[-1], HASH.split("$")[-2], SESAME, "a secret"):
        assert secret not in said


# What is shipped


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("default", ["client.every_account", "limits.none", "destinations.default_allow"]),
        ("allowlist", ["client.every_account", "limits.none", "allow.clear"]),
        (
            "local-models",
            ["client.every_account", "limits.none", "destinations.default_allow", *["permit.no_end"] * 4],
        ),
        ("team", ["destinations.default_allow"]),
    ],
)
def test_what_is_to_be_said_of_the_shipped_policies(name: str, expected: list[str]) -> None:
    """R8: one warning is meant, for a clone is tried before there is an account for the agent."""
    policy = load(str(SHIPPED / f"{name}.toml"), read_policy_file, TODAY)
    assert [each.id for each in findings(policy, TODAY)] == expected


def test_a_sound_policy_is_sound_on_any_day() -> None:
    policy = loaded(text())
    assert [list(findings(policy, TODAY.replace(year=year))) for year in (1970, 9999)] == [[], []]


# Any policy

CLIENTS: Final = (
    *(AGENT, BY_PASSWORD, LOCAL_PASSWORD, client('networks = ["::/0", "10.0.0.0/8"]', "wide", "")),
    *(
        client("users = [0, 7]", "b"),
        client(f'users = ["a"]\ncredential = {{user = "x", password = "{HASH}"}}', "c", ""),
    ),
)
LISTENERS: Final = (
    *('http = ["127.0.0.1:3128"]', 'http = ["0.0.0.0:0"]\n' + PUBLIC, 'http = ["systemd", "unix:/run/x"]'),
    *(f'https = ["[fd00::7]:3129"]\n{TLS}', f'http = ["[::1]:1"]\nunix_mode = "0666"\nhttps = ["unix:/x"]\n{TLS}'),
)


@given(snapshots())
def test_r12_of_any_rows_findings_are_told_and_always_the_same(snapshot: Snapshot) -> None:
    """Policies without end, as `diff` is tried with: no exception, and no word that hangs on the order of a set."""
    said = list(findings(snapshot.policy, TODAY))
    assert said == list(findings(snapshot.policy, TODAY))
    assert all(each.what and each.why and each.mend for each in said)


def test_r12_of_any_policy_that_loads_findings_are_told() -> None:
    """Whoever asks, wherever it listens; and none tells a secret (R7)."""
    mixed = product(LISTENERS, (DENY, REPORTING, OPEN), CLIENTS, CLIENTS)
    policies = [text(listen=a, destinations=b, clients=c + (d if d != c else "")) for a, b, c, d in mixed]
    loading = [policy for policy in policies if not problems(policy)]
    assert len(loading) > 100
    for policy in loading:
        said = found(policy)
        assert said == found(policy)
        assert HASH not in repr(said)
