"""A judgement told step by step, the daemon's own: 0 if allowed or undecided, 1 if denied; and what would help (R8)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.cli import judgement, main
from proxyd.cli.judgement import Judgement, tell
from proxyd.policy import reach
from proxyd.policy.verdict import decide
from tests.cli.looking_on import look_on

if TYPE_CHECKING:
    from pathlib import Path


POLICY = """\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "deny"
mode = "enforce"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
[[client]]
name = "other"
networks = ["::1/128"]
[[allow]]
name = "listed"
reason = "a test"
hosts = ["example.com", "*.example.net"]
ports = [80, 443]
[[deny]]
name = "evil"
reason = "a test"
hosts = ["evil.example"]
[[permit]]
name = "ollama"
reason = "a test"
host = "localhost"
ports = [11434]
networks = ["127.0.0.1/32"]
[[permit]]
name = "ourselves"
reason = "a test"
host = "127.0.0.1"
ports = ["3000-4000"]
networks = ["127.0.0.1/32"]
"""
TLS_NAME = "in a tunnel, TLS must name {} (tls_name)"
HELPS = ("to allow it", "nothing opens it", "what would allow it")
STEPS = ("client", "form", "port", "name", "allowlist", "addresses")


@dataclass(frozen=True)
class Said:
    """What was printed: the steps as (word, step, what it looked at), the verdict's lines, and what would help.

    places: where the rule is written, which is taken out of the lines.
    """

    status: int
    steps: list[tuple[str, str, str]]
    verdict: list[str]
    help: list[str]
    places: list[str]

    @property
    def words(self) -> list[tuple[str, str]]:
        """Each step's word and name."""
        return [(word, step) for word, step, _ in self.steps]


Explain = Callable[..., Said]


@pytest.fixture
def explain(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Explain:
    """Runs the command on a policy."""

    def explain(*words: str, policy: str = POLICY) -> Said:
        path = tmp_path / "policy.toml"
        path.write_text(policy)
        status = main(["explain", *words, "--policy", str(path)])
        out, err = capfd.readouterr()
        assert err == ""
        assert all(line.isprintable() for line in out.splitlines())
        place = re.compile(rf" \({path}:(.*)\)$", re.MULTILINE)
        lines = place.sub("", out).splitlines()
        helps = next((number for number, line in enumerate(lines) if line.startswith(HELPS)), len(lines))
        steps = [line.split(maxsplit=2) for line in lines[:helps] if line.startswith("  ")]
        verdict = [line for line in lines[:helps] if not line.startswith("  ")]
        taken = [(word, step, what) for word, step, what in steps]
        return Said(status, taken, verdict, lines[helps:], place.findall(out))

    return explain


def passed(count: int) -> list[tuple[str, str]]:
    """The first so many steps, passed."""
    return [("passed", step) for step in STEPS[:count]]


def test_an_allowed_destination_passed_every_step(explain: Explain) -> None:
    said = explain("https://example.com/", "--address", "1.1.1.1", "--address", "2606:4700::1111")
    assert (said.status, said.words) == (0, passed(6))
    assert [what for _, _, what in said.steps[:2]] == ["agent", "example.com:443"]
    assert "listed" in said.steps[4][2]
    assert said.steps[5][2] == "1.1.1.1, 2606:4700::1111"
    assert said.verdict == ["allow: by listed", TLS_NAME.format("example.com")]


def test_what_else_holds_for_what_is_allowed_is_said_behind_the_verdict(explain: Explain) -> None:
    """R10: it is no part of the verdict; whose limit it is, and by which way it leaves. A denial has none of it."""
    own = (
        '[client.limits]\ntunnels = 5\n[client.egress]\naddresses = ["127.0.0.1"]\nmark = 7\n'
        "[limits]\nrequests_per_second = 50\nburst = 9\n"
        '[parent]\naddress = "192.0.2.7:3128"\n'
    )
    policy = POLICY.replace('networks = ["127.0.0.0/8"]\n', 'networks = ["127.0.0.0/8"]\n' + own, 1)
    said = explain("http://example.com/", "--address", "1.1.1.1", policy=policy)
    assert said.verdict == [
        "allow: by listed",
        "tunnels of client agent: 5",
        "requests_per_second of all clients: 50",
        "burst of all clients: 9",
        "it leaves by address 127.0.0.1",
        "it leaves by mark 7",
        "it leaves through the parent 192.0.2.7:3128",
    ]
    assert len(explain("http://evil.example/", policy=policy).verdict) == 1


@pytest.mark.parametrize(
    ("mode", "port", "held"),
    [
        ('mode = "enforce"', 443, True),
        ('mode = "enforce"', 80, False),
        ('tls_name = "off"', 443, False),
        ('tls_name = "match"', 443, True),
    ],
)
def test_whether_tls_must_name_the_host_is_said(
    explain: Explain,
    mode: str,
    port: int,
    held: bool,  # noqa: FBT001 - a table's column
) -> None:
    """On port 443, where the default is deny: as the daemon holds it (ATTACKS 4.2)."""
    said = explain(f"example.com:{port}", "--address", "1.1.1.1", policy=POLICY.replace('mode = "enforce"', mode))
    assert (TLS_NAME.format("example.com") in said.verdict) is held


@pytest.mark.parametrize(
    ("words", "step", "culprit", "verdict"),
    [
        (["http://2130706433/"], 1, "leading zeros", "malformed_target, by an IPv4 address is four decimal numbers"),
        (["example.com:25"], 2, "port 25", "port_denied, by port 25"),
        (["https://evil.example/"], 3, "evil.example", "name_denied, by evil"),
        (["https://example.org/"], 4, "allowlist", "not_allowlisted, by allowlist"),
        (
            ["https://example.com/", "--address", "1.1.1.1", "--address", "10.0.0.1"],
            5,
            "10.0.0.1",
            "address_denied, by private network",
        ),
    ],
)
def test_a_denial_is_shown_at_its_step_with_its_rule_and_is_1(
    explain: Explain, words: list[str], step: int, culprit: str, verdict: str
) -> None:
    """R11: each step that can refuse, and what was passed before it."""
    said = explain(*words)
    assert (said.status, said.words) == (1, [*passed(step), ("refused", STEPS[step])])
    assert culprit in said.steps[-1][2]
    (line,) = said.verdict
    assert line.startswith(f"deny: {verdict}")


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (["https://evil.example/"], ["19: deny[0]"]),
        (["https://example.com/", "--address", "1.1.1.1"], ["14: allow[0]"]),
        (["http://localhost:11434/"], ["23: permit[0]"]),
        (["http://10.0.0.5/", "--address", "1.1.1.1"], []),
    ],
)
def test_a_rule_of_the_policy_is_told_with_where_it_is_written(
    explain: Explain, words: list[str], places: list[str]
) -> None:
    """R8: for who has to find it; a built-in row is in no file."""
    assert explain(*words).places == places


def test_a_row_without_a_name_is_called_by_its_place_once(explain: Explain, tmp_path: Path) -> None:
    said = explain("https://example.com/", "--address", "1.1.1.1", policy=POLICY.replace('name = "listed"\n', ""))
    assert (said.places, said.verdict[0]) == ([], f"allow: by {tmp_path}/policy.toml:14: allow[0]")


def test_a_row_without_a_header_is_told_without_a_line(explain: Explain) -> None:
    rows = 'deny = [{name = "evil", reason = "a test", hosts = ["evil.example"]}]\n'
    policy = rows + POLICY.replace('[[deny]]\nname = "evil"\nreason = "a test"\nhosts = ["evil.example"]\n', "")
    assert explain("https://evil.example/", policy=policy).places == [" deny[0]"]


def test_a_row_whose_file_is_gone_by_now_is_told_without_a_line(
    explain: Explain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(judgement, "line_of", gone)
    assert explain("https://evil.example/").places == [" deny[0]"]


def test_a_chain_is_judged_name_by_name(explain: Explain) -> None:
    """ATTACKS 3.4: and the name that may not be had is named, here where an operator reads."""
    said = explain("https://example.com/", "--address", "1.1.1.1", "--cname", "Metadata.Google.Internal.")
    assert (said.status, said.steps[-1]) == (1, ("refused", "name", "metadata.google.internal"))
    assert said.verdict[0].startswith("deny: name_locked, by ")


def test_a_name_whose_addresses_are_unknown_is_undecided_and_asks_no_dns(explain: Explain) -> None:
    """It has no resolver to ask; what DNS would answer is given with --address."""
    said = explain("https://www.example.net/")
    assert (said.status, said.words) == (0, [*passed(5), ("open", "addresses")])
    assert "--address IP" in said.steps[-1][2]
    assert said.verdict[0].startswith("undecided: ")


def test_a_permit_is_named_wherever_it_is_what_lets_through(explain: Explain) -> None:
    """R9."""
    said = explain("http://localhost:11434/")
    assert (said.status, said.words, said.verdict) == (0, passed(6), ["allow: by ollama"])
    assert said.steps[5][2] == "127.0.0.1"
    assert all("ollama" in what for _, step, what in said.steps if step in ("port", "name", "allowlist"))


UI = """
[[permit]]
name = "ui"
reason = "a test"
host = "ui.example"
ports = [443, 25]
networks = ["10.0.0.0/8"]
"""


def test_a_permit_has_effect_only_if_it_holds_every_address_found(explain: Explain) -> None:
    """R9: else the destination is judged as if it were not there, and its port, too."""
    inside = explain("http://ui.example:25/", "--address", "10.1.2.3", "--address", "10.9.9.9", policy=POLICY + UI)
    assert (inside.status, inside.verdict) == (0, ["allow: by ui"])
    for addresses, verdict in (
        (["1.1.1.1"], "deny: port_denied, by port 25"),
        (["10.1.2.3", "1.1.1.1"], "deny: port_denied, by port 25"),
        (["10.1.2.3", "192.168.0.1"], "deny: address_denied, by private network"),
    ):
        words = [word for address in addresses for word in ("--address", address)]
        said = explain("http://ui.example:25/", *words, policy=POLICY + UI)
        assert (said.status, said.verdict[0]) == (1, verdict)


def test_a_permit_that_has_no_effect_is_not_named_as_what_let_through(explain: Explain) -> None:
    """R9: the default allows it, and the permit nothing."""
    listed = UI + '[[allow]]\nname = "wide"\nreason = "a test"\nhosts = ["ui.example"]\nports = [443]\n'
    said = explain("https://ui.example/", "--address", "1.1.1.1", policy=POLICY + listed)
    assert (said.status, said.verdict) == (0, ["allow: by wide", TLS_NAME.format("ui.example")])
    assert not any("permitted by" in what for _, _, what in said.steps)


def test_a_permit_of_another_port_is_none(explain: Explain) -> None:
    """R9: the neighbour of the one before."""
    assert explain("http://localhost:11435/").verdict[0].startswith("deny: name_reserved, by ")


def test_report_mode_shows_what_was_missed_and_what_enforcing_would_say(explain: Explain) -> None:
    """R10."""
    said = explain("https://example.org/", "--address", "1.1.1.1", policy=POLICY.replace('"enforce"', '"report"'))
    assert (said.status, said.words) == (0, [*passed(4), ("missed", "allowlist"), ("passed", "addresses")])
    assert said.verdict == [
        "allow: by default",
        "report mode: enforcing would say deny: not_allowlisted",
        TLS_NAME.format("example.org"),
    ]


def test_report_mode_shows_what_is_missed_before_its_addresses_are_known(explain: Explain) -> None:
    """R10: and what is listed, or permitted, is passed."""
    report = POLICY.replace('"enforce"', '"report"')
    assert explain("https://example.org/", policy=report).words == [
        *passed(4),
        ("missed", "allowlist"),
        ("open", "addresses"),
    ]
    for url in ("https://example.com/", "https://ui.example/"):
        assert explain(url, policy=report + UI).words == [*passed(5), ("open", "addresses")]


def test_report_mode_missed_nothing_where_the_allowlist_has_it(explain: Explain) -> None:
    said = explain("https://example.com/", "--address", "1.1.1.1", policy=POLICY.replace('"enforce"', '"report"'))
    assert (said.status, said.words, said.verdict) == (
        0,
        passed(6),
        ["allow: by listed", TLS_NAME.format("example.com")],
    )


def test_where_everything_is_allowed_the_default_says_so(explain: Explain) -> None:
    policy = POLICY.replace('"deny"', '"allow"').replace(
        POLICY[POLICY.index("[[allow]]") : POLICY.index("[[deny]]")], ""
    )
    said = explain("1.1.1.1:443", policy=policy)
    assert (said.words, said.verdict) == (passed(6), ["allow: by default"])
    assert "allow" in said.steps[4][2]


def test_proxyds_own_listener_is_refused_as_the_daemon_refuses_it(explain: Explain) -> None:
    """ATTACKS 7.8, 2.17: `listen` says which port it is; the neighbouring port is the permit's."""
    assert explain("127.0.0.1:3129").status == 0
    said = explain("127.0.0.1:3128")
    assert (said.status, said.verdict) == (1, ["deny: address_locked, by proxyd itself"])


def test_control_characters_of_a_url_do_not_reach_the_terminal(explain: Explain) -> None:
    """ATTACKS 9: `explain` above holds every line to it."""
    said = explain("http://\x1b[2J.example/")
    assert (said.status, said.words[-1]) == (1, ("refused", "form"))


def test_what_would_allow_it_is_said_as_toml_with_what_else_that_opens(explain: Explain) -> None:
    """The policy has two clients: the row is for the one that asks."""
    said = explain("https://api.example.org/")
    assert said.help == [
        "to allow it, and if that is meant, add:",
        "  [[allow]]",
        '  hosts = ["api.example.org"]',
        "  ports = [443]",
        '  reason = "say why"',
        "which opens, for agent: names api.example.org, port 443",
        "which opens, for other: names api.example.org, port 443",
    ]
    said = explain("http://10.0.0.5/", "--client", "other")
    assert said.help == [
        "to allow it, and if that is meant, add, below [[client]] other:",
        "  [[client.permit]]",
        '  host = "10.0.0.5"',
        "  ports = [80]",
        '  networks = ["10.0.0.5/32"]',
        '  reason = "say why"',
        "which opens, for other: addresses 10.0.0.5/32, port 80 (special-purpose)",
    ]


def test_r12_what_is_locked_is_never_opened_by_a_hint(explain: Explain) -> None:
    for url in (
        *("http://169.254.169.254/", "http://metadata.google.internal/", "http://127.0.0.1:3128/"),
        "http://localhost:3128/",  # whose addresses are known
    ):
        assert explain(url).help == ["nothing opens it"]


def test_what_depends_on_its_addresses_asks_for_them(explain: Explain) -> None:
    assert explain("http://evil.example/").help == ["what would allow it depends on its addresses; give --address IP"]
    assert explain("http://evil.example/", "--address", "93.184.216.34").help[1] == "  [[client.permit]]"


def test_what_is_allowed_or_no_target_needs_no_help(explain: Explain) -> None:
    assert explain("https://example.com/", "--address", "93.184.216.34").help == []
    assert explain("https://example.com/").help == []
    assert explain("http://user@example.com/").help == []


def test_what_cannot_be_judged_has_no_verdict_and_is_1(capfd: pytest.CaptureFixture[str]) -> None:
    """R12: nobody who asks for the exit status takes it for an allowance."""
    assert tell(Judgement(verdict=None, hint="why"), None, as_json=False) == 1
    assert capfd.readouterr().out == "why\n"


def test_on_a_terminal_verdicts_and_steps_have_colours(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    main(["explain", "https://evil.example/", "--policy", str(path)])
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "\x1b[32m  passed  \x1b[0m client     agent"
    assert lines[3] == "\x1b[31m  refused \x1b[0m name       evil.example"
    assert lines[4].startswith("\x1b[31mdeny\x1b[0m: name_denied, by evil")


def test_a_blocklist_of_thousands_of_hosts_is_no_reason_to_wait(
    explain: Explain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the row would open is asked of one name for all that one row denies."""
    asked = []

    def counted(*question: Any) -> Any:  # noqa: ANN401 - as `decide` has it
        asked.append(question)
        return decide(*question)

    monkeypatch.setattr(reach, "decide", counted)
    hosts = ",\n".join(f'"h{number}.example"' for number in range(3000))
    said = explain("http://10.0.0.1/", policy=POLICY.replace('"evil.example"', f'"evil.example",\n{hosts}'))
    assert said.help[-1] == "which opens, for agent: addresses 10.0.0.1/32, port 80 (special-purpose)"
    assert len(asked) < 3000
