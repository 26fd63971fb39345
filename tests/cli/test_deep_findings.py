"""What --deep makes of what a proxy answers, and of what its control socket says. Real ones are in `end_to_end`.

R5, R11 and R12; ATTACKS 7.1 and 7.8. The proxy is a fake, and so are the accounts in whose names it is asked.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from proxyd.cli.deep_findings import deep_findings
from proxyd.cli.files import read_policy_file, today
from proxyd.net.probe import Answer, Proxy
from proxyd.policy.load import load
from proxyd.serve import control

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxyd.policy.model import Policy

AGENT: Final = 40_002
DENIED: Final = Answer(403, "Forbidden: address_denied", "proxyd; error=destination_ip_prohibited")
UNKNOWN: Final = Answer(403, "Forbidden: client_unknown", "proxyd; error=http_request_denied")
WANTED: Final = Answer(407, "Proxy Authentication Required: credential_required", "proxyd; error=http_request_denied")
TOO_MANY: Final = Answer(429, "Too Many Requests: rate_limit", "proxyd; error=http_request_denied")
FULL: Final = Answer(503, "Service Unavailable: audit_unwritable", "proxyd; error=proxy_internal_error")
OTHERS: Final = Answer(404, "Not Found")
WELCOME: Final = Answer(200, "OK")
OWN: Final = Proxy("http", "127.0.0.1", 3128)
SHOWN: Final = "127.0.0.1:1"

TEXT: Final = """\
schema = 1
name = "x"
[listen]
{listen}
[destinations]
default = "allow"
[[client]]
name = "agent"
{client}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., Policy]:
    """A policy that says so."""

    def policy(listen: str = 'http = ["127.0.0.1:3128"]', client: str = f"users = [{AGENT}]") -> Policy:
        path = tmp_path / "policy.toml"
        path.write_text(TEXT.format(listen=listen, client=client))
        return load(str(path), read_policy_file, today())

    return policy


class Answering:
    """A proxy that answers by who asks, and for what; what it was asked, and by whom."""

    def __init__(self) -> None:
        self.uid = 0
        self.asked: list[tuple[int, str, str]] = []
        self.says: Callable[[int, str], Answer] = lambda uid, target: DENIED

    def become(self, uid: int) -> None:
        """Whoever asks from now on."""
        self.uid = uid

    def ask(self, proxy: Proxy, target: str, _host: str = "") -> Answer:
        """A CONNECT, or a GET."""
        self.asked.append((self.uid, str(proxy), target))
        return self.says(self.uid, target)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """The proxy, asked by root; nobody waits."""
    proxy = Answering()
    monkeypatch.setattr(os, "geteuid", lambda: proxy.uid)
    monkeypatch.setattr(os, "seteuid", proxy.become)
    for name in ("connect", "get"):
        monkeypatch.setattr(Proxy, name, lambda *asked: proxy.ask(*asked))  # noqa: PLW0108 - with its self
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return proxy


def found(policy: Policy, proxy: Proxy | None = OWN) -> dict[str, str]:
    """What is found, without what is said of a policy that has no control socket."""
    findings = {each.id: each.what for each in deep_findings(policy, proxy)}
    findings.pop("daemon.no_control", None)
    return findings


# The proxy


def test_r5_it_is_asked_in_the_name_of_each_account_and_root_is_root_again(
    policy: Callable[..., Policy], proxy: Answering
) -> None:
    assert found(policy(client=f"users = [{AGENT}, {AGENT + 1}, {AGENT}]")) == {}
    assert {uid for uid, _, _ in proxy.asked} == {0, AGENT, AGENT + 1}
    assert len({sum(uid == each for uid, _, _ in proxy.asked) for each in (0, AGENT, AGENT + 1)}) == 1
    assert proxy.uid == 0


def test_r5_what_one_account_gets_through_is_found(policy: Callable[..., Policy], proxy: Answering) -> None:
    through = ("10.0.0.0:80", "http://10.0.0.0:80/", "100.64.0.0:80")
    proxy.says = lambda uid, target: UNKNOWN if uid == 0 else WELCOME if target in through else DENIED
    assert found(policy()) == {"daemon.reaches": f"{OWN}: does not refuse 10.0.0.0:80, 100.64.0.0:80"}


def test_of_many_some_are_named(policy: Callable[..., Policy], proxy: Answering) -> None:
    proxy.says = lambda _, target: DENIED if target == "10.0.0.0:80" else WELCOME
    said = found(policy())["daemon.reaches"]
    assert said.count(":80,") == 0
    assert said.count(", ") == 4
    assert " more" in said


def test_who_is_not_root_asks_as_himself(policy: Callable[..., Policy], proxy: Answering) -> None:
    proxy.uid = AGENT + 1
    proxy.says = lambda _, __: UNKNOWN
    assert found(policy()) == {"daemon.unasked": f"{OWN}: knows no client here"}
    assert {uid for uid, _, _ in proxy.asked} == {AGENT + 1}


@pytest.mark.parametrize(
    ("answer", "findings"),
    [
        (Answer(failure="Connection refused"), {"daemon.down": f"{OWN}: Connection refused"}),
        (Answer(failure="TLS: WRONG_VERSION_NUMBER"), {"daemon.down": f"{OWN}: TLS: WRONG_VERSION_NUMBER"}),
        (
            Answer(failure="TLS: CERTIFICATE_VERIFY_FAILED"),
            {"daemon.unasked": f"{OWN}: TLS: CERTIFICATE_VERIFY_FAILED"},
        ),
        (UNKNOWN, {"daemon.unasked": f"{OWN}: knows no client here"}),
        (WANTED, {"daemon.unasked": f"{OWN}: wants a credential"}),
        (FULL, {"daemon.unasked": f"{OWN}: 503 Service Unavailable: audit_unwritable"}),
        (OTHERS, {"daemon.unproven": f"{OWN}: answers, and never says that it refuses"}),
        (WELCOME, {"daemon.unproven": f"{OWN}: answers, and never says that it refuses"}),
        (
            Answer(403, "Forbidden: client_unknown"),
            {"daemon.unproven": f"{OWN}: answers, and never says that it refuses"},
        ),
        (DENIED, {}),
    ],
)
def test_r11_who_says_the_same_to_everything(
    policy: Callable[..., Policy], proxy: Answering, answer: Answer, findings: dict[str, str]
) -> None:
    proxy.says = lambda _, __: answer
    assert found(policy()) == findings


def test_one_client_with_a_credential_hides_no_other(policy: Callable[..., Policy], proxy: Answering) -> None:
    """The account is asked for; that the credential was not is said."""
    proxy.says = lambda uid, target: WANTED if uid == 0 else WELCOME if target == "10.0.0.0:80" else DENIED
    assert found(policy()).keys() == {"daemon.reaches", "daemon.unasked"}


def test_r7_a_credential_is_shown_to_the_proxy_and_to_nobody_else(
    policy: Callable[..., Policy], proxy: Answering
) -> None:
    proxy.says = lambda _, __: WANTED
    shown = Proxy("http", "p.test", 80, "user:s3cret")
    assert found(policy(), shown) == {"daemon.unasked": "http://…@p.test:80: does not take this credential"}
    assert "s3cret" not in str([str(each) for each in deep_findings(policy(), shown)])


def test_who_asks_too_much_waits_and_asks_again(policy: Callable[..., Policy], proxy: Answering) -> None:
    """A limit is no hole."""
    refused: list[str] = []

    def says(_: int, target: str) -> Answer:
        if len(refused) < 20 and target not in refused:
            refused.append(target)
            return TOO_MANY
        return DENIED

    proxy.says = says
    assert found(policy(), OWN) == {}
    assert len(refused) == 20


def test_whoever_is_never_let_is_asked_no_more(policy: Callable[..., Policy], proxy: Answering) -> None:
    proxy.says = lambda _, target: DENIED if target == SHOWN else TOO_MANY
    assert found(policy()) == {"daemon.unasked": f"{OWN}: 429 Too Many Requests: rate_limit"}
    assert len(proxy.asked) < 100


@pytest.mark.parametrize(
    ("listen", "asked"),
    [
        ('http = ["127.0.0.1:3128", "[::1]:3128", "unix:/x"]', {"http://127.0.0.1:3128", "http://[::1]:3128"}),
        ('http = ["127.0.0.1:0", "127.0.0.2:1"]', {"http://127.0.0.2:1"}),
        (
            'http = ["0.0.0.0:1", "[::]:2"]\ndangerously_public_listener = true',
            {"http://127.0.0.1:1", "http://[::1]:2"},
        ),
        (
            'https = ["127.0.0.1:1"]\nhttp = ["127.0.0.1:2"]\ncertificate = "/c"\nprivate_key = "/k"',
            {"https://127.0.0.1:1", "http://127.0.0.1:2"},
        ),
    ],
)
def test_it_is_asked_where_clients_find_it(
    policy: Callable[..., Policy], proxy: Answering, listen: str, asked: set[str]
) -> None:
    client = f'users = [{AGENT}]\n[[client]]\nname = "far"\nnetworks = ["10.0.0.0/24"]'
    assert found(policy(listen, client), None) == {}
    assert {proxy for _, proxy, _ in proxy.asked} == asked


def test_where_there_is_no_address_nobody_is_asked(policy: Callable[..., Policy], proxy: Answering) -> None:
    said = found(policy('http = ["unix:/x", "systemd"]'), None)
    assert said == {"daemon.unasked": "unix:/x, systemd: is no address to ask at"}
    assert proxy.asked == []


# What it says of itself


def status(digest: str) -> control.Status:
    """What a sound daemon says of itself."""
    return control.Status(version="1", pid=1, uid=7, policy="x", file="/p", digest=digest, workers=2, serving=2)


@pytest.mark.parametrize(
    ("different", "findings"),
    [
        ({}, {}),
        ({"uid": 0}, {"daemon.root": "proxyd runs as root"}),
        ({"uid": AGENT}, {"daemon.same_account": f"proxyd runs as account {AGENT}, as the agent does"}),
        ({"serving": 1}, {"daemon.not_ready": "1 of 2 workers serve"}),
        (
            {"digest": "d" * 64, "policy": "other"},
            {"daemon.other_policy": "what runs is other, digest dddddddddddddddd, and this file is "},
        ),
    ],
)
def test_attack_7_8_what_runs_is_held_against_the_file(
    policy: Callable[..., Policy],
    proxy: Answering,
    monkeypatch: pytest.MonkeyPatch,
    different: dict[str, Any],
    findings: dict[str, str],
) -> None:
    assert proxy.asked == []
    ours = policy('http = ["127.0.0.1:1"]\ncontrol = "/run/control"')
    monkeypatch.setattr(control, "ask_status", lambda _: replace(status(ours.digest), **different))
    said = found(ours)
    assert said.keys() == findings.keys()
    assert all(said[each].startswith(findings[each]) for each in findings)


@pytest.mark.parametrize(
    ("error", "findings"),
    [
        (FileNotFoundError(2, "No such file or directory"), {"daemon.silent": "/c: No such file or directory"}),
        (ConnectionRefusedError(111, "Connection refused"), {"daemon.silent": "/c: Connection refused"}),
        (TimeoutError("timed out"), {"daemon.silent": "/c: no answer"}),
        (ValueError("that is somebody else"), {"daemon.silent": "/c: what answers there is not proxyd"}),
        (PermissionError(13, "Permission denied"), {"daemon.unasked": "/c: is not for this account"}),
    ],
)
def test_r12_a_daemon_that_says_nothing_is_found(
    policy: Callable[..., Policy],
    proxy: Answering,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    findings: dict[str, str],
) -> None:
    def refuse(_: str) -> control.Status:
        raise error

    assert proxy.asked == []
    monkeypatch.setattr(control, "ask_status", refuse)
    assert found(policy('http = ["127.0.0.1:1"]\ncontrol = "/c"')) == findings


def test_without_a_control_socket_that_is_said(policy: Callable[..., Policy], proxy: Answering) -> None:
    assert [each.id for each in deep_findings(policy(), OWN)] == ["daemon.no_control"]
    assert proxy.asked
