"""What is to be said of a policy's rows: permits, allowlist entries and denials that are wider or vaguer than need be.

R6, R9, ATTACKS 1.10.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Final

import pytest

from proxyd.policy.learn import REASON
from proxyd.policy.lint import findings
from proxyd.policy.lint_rows import BY_PATH, CONTROL_PORTS, GATEWAY_PORT, SHARED
from tests.policy.linted import AGENT, OPEN, client, found, ids, text
from tests.policy.worlds import TODAY, loaded, problems

NEXT_YEAR: Final = "2027-08-01"


def permit(
    host: str = "nas.local",
    *networks: str,
    ports: str = "[443]",
    expires: str | None = NEXT_YEAR,
    reason: str = "its storage",
) -> str:
    """A [[permit]] that is sound, or what is told otherwise."""
    where = ", ".join(f'"{network}"' for network in networks or ("10.0.0.5/32",))
    end = f"expires = {expires}\n" if expires else ""
    return f'[[permit]]\nhost = "{host}"\nports = {ports}\nnetworks = [{where}]\nreason = "{reason}"\n{end}'


def allow(*hosts: str, ports: str = "[443]", reason: str = "a provider") -> str:
    """An [[allow]]."""
    names = ", ".join(f'"{host}"' for host in hosts or ("api.example.net",))
    return f'[[allow]]\nhosts = [{names}]\nports = {ports}\nreason = "{reason}"\n'


def deny(*hosts: str, name: str = "corp", reason: str = "ours") -> str:
    """A [[deny]] by name."""
    names = ", ".join(f'"{host}"' for host in hosts)
    return f'[[deny]]\nname = "{name}"\nhosts = [{names}]\nreason = "{reason}"\n'


# An id, how bad it is; a row that has it, and one that has not: nothing else differs.
CASES: Final = [
    ("permit.wide", "warning", permit("nas.local", "10.0.0.0/24"), permit("nas.local", "10.0.0.5/32")),
    ("permit.wide", "warning", permit("nas.local", "10.0.0.4/31"), permit("nas.local", "10.0.0.4/32", "10.0.0.5/32")),
    ("permit.wide", "warning", permit("nas.local", "fd00::/64"), permit("nas.local", "fd00::5/128", "10.0.0.5/32")),
    ("permit.wide", "warning", permit("nas.local", "127.0.0.0/8"), permit("localhost", "127.0.0.0/8", "::1/128")),
    ("permit.wide", "warning", permit("nas.local", "10.0.0.0/8", "fd00::/8"), permit("10.0.0.5", "10.0.0.0/8")),
    ("permit.wide", "warning", permit("nas.local", "fd00::/8"), permit("fd00::5", "fd00::/8")),
    ("permit.many_ports", "warning", permit(ports='["8000-8004"]'), permit(ports='["8000-8003"]')),
    ("permit.many_ports", "warning", permit(ports="[1, 2, 3, 4, 5]"), permit(ports="[1, 2, 3, 4]")),
    ("permit.gateway", "warning", permit(ports="[18789]"), permit(ports="[18788]")),
    ("permit.gateway", "warning", permit(ports='["18787-18789"]'), permit(ports='["18785-18788"]')),
    *(
        ("permit.control_port", "warning", permit(ports=f"[{port}]"), permit(ports=f"[{port + 100}]"))
        for port in CONTROL_PORTS
    ),
    ("permit.no_end", "remark", permit(expires=None), permit(expires="2026-10-30")),
    ("permit.expired", "warning", permit(expires="2026-07-31"), permit(expires=NEXT_YEAR)),
    ("permit.ends_soon", "remark", permit(expires="2026-08-01"), permit(expires="2026-08-16")),
    ("permit.ends_soon", "remark", permit(expires="2026-08-15"), permit(expires="2026-08-16")),
    ("allow.shared", "warning", allow("*.github.io"), allow("octocat.github.io")),
    ("allow.many_ports", "warning", allow(ports='["8000-8100"]'), allow(ports='["8000-8099"]')),
    ("allow.clear", "remark", allow(ports="[80, 443]"), allow(ports="[443, 8080]")),
    ("allow.clear", "remark", allow(ports='["79-81"]'), allow(ports='["81-83"]')),
    ("row.unexplained", "warning", permit(reason="say why"), permit(reason="they say whylah is here")),
    ("row.unexplained", "warning", allow(reason=REASON), allow(reason="learnt from the audit log; a provider")),
    (
        "row.unexplained",
        "warning",
        deny("a.corp.example", reason="TODO"),
        deny("a.corp.example", reason="TODO list app"),
    ),
    *(
        ("row.unexplained", "warning", allow(reason=reason), allow(reason="x1"))
        for reason in ("?", "tbd.", "FIXME", "...", "xxx", "-")
    ),
]


@pytest.mark.parametrize(("id_", "severity", "trouble", "sound"), CASES)
def test_what_is_wider_or_vaguer_than_need_be_is_found_and_its_neighbour_is_not(
    id_: str, severity: str, trouble: str, sound: str
) -> None:
    """R9: once, with the row, and nothing else with it. What a remedy says to write, the neighbour has."""
    (finding,) = found(text(more=trouble))
    assert ids(text(more=sound)) == []
    assert (finding.id, finding.severity, bool(finding.why)) == (id_, severity, True)
    assert finding.what.startswith(f"main.toml: {trouble[2:].partition(']')[0]}[")
    for key, value in re.findall(r"\b([a-z_]+) = ([^\s,]+)", finding.mend):
        assert f"{key} = {value}" in sound


@pytest.mark.parametrize("own", ["permit", "allow", "deny"])
def test_the_rows_of_a_client_are_looked_at_as_well(own: str) -> None:
    """They are rows like the others."""
    rows = {
        "permit": permit("nas.local", "10.0.0.0/24", expires="2026-08-03"),
        "allow": allow("*.github.io", ports='["1-443"]'),
        "deny": deny("corp.example", reason="say why"),
    }
    expected = {
        "permit": ["permit.wide", "permit.ends_soon"],
        "allow": ["allow.shared", "allow.many_ports", "allow.clear"],
        "deny": ["row.unexplained"],
    }
    policy = text(clients=AGENT + rows[own].replace("[[", "[[client."))
    assert ids(policy) == expected[own]


def test_a_permits_end_is_told_by_the_day_of_the_audit() -> None:
    """R9: up to two weeks before the last day, and from the day after it."""
    policy = loaded(text(more=permit(expires="2026-10-30")))
    told = {
        (date(2026, 10, 30) + timedelta(days)): [
            each.id for each in findings(policy, date(2026, 10, 30) + timedelta(days))
        ]
        for days in (-15, -14, 0, 1, 400)
    }
    assert list(told.values()) == [
        [],
        ["permit.ends_soon"],
        ["permit.ends_soon"],
        ["permit.expired"],
        ["permit.expired"],
    ]


@pytest.mark.parametrize("day", [TODAY, date(2024, 2, 29), date(1970, 1, 1)])
def test_the_end_that_is_proposed_is_far_enough_away(day: date) -> None:
    """What the remedy says, written as it says it, leaves nothing to say."""
    (finding,) = findings(loaded(text(more=permit(expires=None))), day)
    (proposed,) = re.findall(r"expires = (\S+),", finding.mend)
    assert list(findings(loaded(text(more=permit(expires=proposed))), day)) == []


# Hosts that are anybody's


@pytest.mark.parametrize(
    "host",
    [
        *(f"*.{suffix}" for suffix in sorted(SHARED)),
        *sorted(BY_PATH),
        # a whole top-level domain, and what stands for one
        *("*.com", "*.io", "*.xn--p1ai", "*.co.uk", "*.com.au", "*.or.jp", "*.org.br"),
        # what is above: the shared ones are below it
        *("*.googleapis.com", "*.amazonaws.com", "*.windows.net", "*.core.windows.net", "*.on.aws", "*.azure.com"),
        # a region of it
        *("*.s3.us-east-1.amazonaws.com", "*.us-east-1.elb.amazonaws.com", "*.execute-api.eu-west-3.amazonaws.com"),
        *("*.lambda-url.us-gov-west-1.on.aws", "s3.eu-central-1.amazonaws.com"),
    ],
)
def test_r6_below_some_names_anybody_can_have_a_host(host: str) -> None:
    """What an agent knows can be carried there, by an allowlist that was meant to keep it in (ATTACKS 1.10)."""
    (finding,) = found(text(more=allow("api.example.net", host)))
    assert (finding.id, f": {host} is open" in finding.what) == ("allow.shared", True)


@pytest.mark.parametrize(
    "host",
    [
        *("*.example.com", "*.anthropic.com", "*.discord.gg", "*.example.co.uk", "*.my.example.com", "*.t.co"),
        # one of the hosts below a shared name is somebody's, and so is what is below that
        *("octocat.github.io", "*.octocat.github.io", "bucket.s3.amazonaws.com", "mine.workers.dev"),
        *("bucket.s3.eu-west-1.amazonaws.com", "abc123.execute-api.us-east-1.amazonaws.com"),
        *("bedrock-runtime.us-east-1.amazonaws.com", "generativelanguage.googleapis.com", "mine.openai.azure.com"),
        # vendors' own
        *("github.io", "vercel.app", "api.github.com", "raw.githubusercontent.com", "ngrok.com", "93.184.216.34"),
        *("notgithub.io", "*.notgithub.io", "*.com.example.com"),
    ],
)
def test_a_host_that_is_in_one_hand_is_no_finding(host: str) -> None:
    assert ids(text(more=allow(host))) == []


def test_the_shared_names_are_in_normal_form() -> None:
    """As hosts of a policy are: else they would never be met."""
    for suffix in sorted(SHARED | BY_PATH):
        assert problems(text(more=allow(suffix, f"*.{suffix}"))) == []
    assert GATEWAY_PORT not in CONTROL_PORTS


# Names that are refused by half


@pytest.mark.parametrize(
    ("denied", "missing"),
    [
        (["corp.example"], ["*.corp.example"]),
        (["*.corp.example"], ["corp.example"]),
        (["corp.co.uk"], ["*.corp.co.uk"]),
        (["*.a.corp.example"], ["a.corp.example"]),
        (["corp.example", "*.other.example"], ["*.corp.example", "other.example"]),
        (["corp.example", "*.corp.example"], []),
        (["*.a.corp.example", "*.corp.example", "corp.example"], []),
        (["a.corp.example", "*.corp.example", "corp.example"], []),
        # one host among others is meant as such
        (["www.corp.example"], []),
        # a whole top-level domain has no host of that name; neither has what is refused anyway
        (["*.zip"], []),
        (["*.co.uk"], []),
        (["localhost.localdomain", "localhost"], []),
        (["*.internal", "*.corp.internal"], []),
        (["metadata.google.internal"], []),
        (["intranet"], []),
    ],
)
def test_attack_1_10_a_name_and_what_is_below_it_are_refused_together_or_it_is_said(
    denied: list[str], missing: list[str]
) -> None:
    """Where all else is allowed. What is missing, written beside it as it says, leaves nothing to say."""
    said = [each for each in found(text(destinations=OPEN, more=deny(*denied))) if each.id == "deny.half"]
    assert [re.findall(r'write "(\S+)" beside it', each.mend) for each in said] == [[each] for each in missing]
    assert all((each.severity, bool(each.what and each.why)) == ("remark", True) for each in said)
    mended = text(destinations=OPEN, more=deny(*denied, *missing))
    assert "deny.half" not in ids(mended)


def test_the_other_half_may_stand_in_another_row() -> None:
    rows = deny("corp.example", name="a") + deny("*.corp.example", name="b")
    assert "deny.half" not in ids(text(destinations=OPEN, more=rows))


def test_where_an_allowlist_decides_half_a_denial_is_enough() -> None:
    """Unless all is allowed to one of the clients."""
    everything = client('users = ["b"]', "b") + '[client.destinations]\ndefault = "allow"\n'
    assert ids(text(more=deny("corp.example"))) == []
    assert ids(text(clients=AGENT + everything, more=deny("corp.example"))) == [
        "destinations.default_allow",
        "deny.half",
    ]


# Rows of an allowlist that open nothing

LOCKED: Final = "; nothing opens it, remove it"


def vain(host: str, ports: str = "[443]", more: str = "") -> list[str]:
    """What is said of a row of the allowlist that opens nothing."""
    said = found(text(more=allow(host, ports=ports) + more))
    return [str(each).removeprefix("main.toml: allow[1]: ") for each in said if each.id == "allow.vain"]


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("10.0.0.5", "(address_denied, by private network); write a [[permit]] for it, or remove it"),
        ("fd00::5", "(address_denied, by unique local); write a [[permit]] for it, or remove it"),
        ("169.254.169.254", f"(address_locked, by cloud metadata service){LOCKED}"),
        (
            "168.63.129.16",
            "(address_locked, by platform services (Azure), a public address); nothing opens it, remove it",
        ),
        ("metadata.google.internal", "(name_locked, by cloud metadata service (Google)); nothing opens it, remove it"),
        (
            "*.metadata.google.internal",
            "(name_locked, by cloud metadata service (Google)); nothing opens it, remove it",
        ),
        ("localhost", "(name_reserved, by loopback name); write a [[permit]] for it, or remove it"),
        ("db.internal", "(name_reserved, by private-use name); write a [[permit]] for it, or remove it"),
        ("*.home.arpa", "(name_reserved, by home network name); write a [[permit]] for each host, or remove it"),
    ],
)
def test_r6_the_allowlist_does_not_open_what_is_special(host: str, why: str) -> None:
    assert vain(host) == [f"{host} stays refused {why}"]


def test_of_a_pattern_that_nobody_reaches_it_is_not_said_that_it_is_open_to_anybody() -> None:
    said = [each.id for each in found(text(more=allow("*.internal")))]
    assert ("allow.vain" in said, "allow.shared" in said) == (True, False)


def test_r6_nor_where_a_row_of_the_denylist_has_it_too() -> None:
    assert vain("localhost", more=deny("localhost", name="loopback")) == [
        "localhost stays refused (name_denied, by loopback); write a [[permit]] for it, or remove it"
    ]


@pytest.mark.parametrize("host", ["8.8.8.8", "2606:4700::1", "*.example", "a.example", "internal.example"])
def test_what_is_public_may_be_listed(host: str) -> None:
    assert vain(host) == []


def test_what_an_operator_denies_may_be_listed_all_the_same() -> None:
    """It may be taken out of an allowlist that is included."""
    assert vain("a.example", more=deny("a.example")) == []


def test_what_a_permit_opens_on_one_port_may_be_listed() -> None:
    assert vain("10.0.0.5", "[443, 8080]", permit("10.0.0.5", "10.0.0.5/32")) == []
    assert len(vain("10.0.0.5", "[8080]", permit("10.0.0.5", "10.0.0.5/32"))) == 1


def test_a_translator_may_open_it() -> None:
    """The address behind it is public."""
    assert vain("64:ff9b::808:808", more='[dns]\nnat64 = ["64:ff9b::/96"]\n') == []
    assert len(vain("64:ff9b::808:808")) == 1
