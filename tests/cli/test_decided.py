"""`proxyd explain --log FILE ID`: what stands in the log, and how the policy of now judges it."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.cli import main
from proxyd.policy.load import load
from tests.cli.test_judgement import POLICY
from tests.policy.worlds import TODAY, files

if TYPE_CHECKING:
    from pathlib import Path

ID = "a45b8e2c6b459fdf"
DIGEST = load("main.toml", files(main=POLICY), TODAY).digest[:16]
DECISION: dict[str, Any] = {
    "event": "decision",
    "id": ID,
    "time": "2026-11-21T10:00:00.000Z",
    "client": "agent",
    "host": "example.com",
    "port": 443,
    "addresses": ["93.184.216.34"],
    "verdict": "allow",
    "reason": None,
    "rule": "listed",
    "digest": DIGEST,
}


class Decided:
    """Explains a decision of a log that has it."""

    def __init__(self, folder: Path, said: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._said = said

    def __call__(self, *more: str, **facts: Any) -> tuple[int, list[str], str]:  # noqa: ANN401 - fields of a record
        """The status, the lines, and what is wrong. more: what else the user types."""
        (self._folder / "policy.toml").write_text(POLICY)
        entries = [{"event": "close", "id": ID, "host": "not.this"}, DECISION | {"id": "other"}, DECISION | facts]
        (self._folder / "log").write_text("".join(f"{json.dumps(each)}\n" for each in entries))
        log, policy = f"{self._folder}/log", f"{self._folder}/policy.toml"
        status = main(["explain", ID, "--log", log, "--policy", policy, *more])
        out, err = self._said.readouterr()
        return status, out.replace(f"({policy}:", "(").splitlines(), err


@pytest.fixture
def decided(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Decided:
    """Explains decisions."""
    return Decided(tmp_path, capfd)


def test_a_decision_is_told_and_judged_again_with_the_addresses_of_then(decided: Decided) -> None:
    status, lines, _ = decided()
    assert status == 0
    assert lines[0] == "2026-11-21T10:00:00.000Z: agent asked for example.com:443: allow"
    assert lines[-2] == "allow: by listed (14: allow[0])"
    assert not any("changed" in line for line in lines)


def test_it_says_when_the_policy_has_changed_since(decided: Decided) -> None:
    status, lines, _ = decided(digest="0123456789abcdef", host="evil.example", verdict="deny", reason="x", rule="y")
    assert status == 1
    assert lines[0].endswith("agent asked for evil.example:443: deny, x by y")
    assert lines[1] == f"the policy has changed since: 0123456789abcdef then, {DIGEST} now; by the one of now:"
    assert "deny: name_denied, by evil (19: deny[0])" in lines


@pytest.mark.parametrize("addresses", [None, []])
def test_what_was_never_looked_up_is_not_made_up(decided: Decided, addresses: list[str] | None) -> None:
    status, lines, _ = decided(addresses=addresses)
    assert (status, lines[-1].partition(":")[0]) == (0, "undecided")


def test_an_address_is_judged_as_one(decided: Decided) -> None:
    status, lines, _ = decided(host="fd00::5", addresses=["fd00::5"])
    assert status == 1
    assert lines[0].endswith("fd00::5:443: allow")
    assert "deny: not_allowlisted, by allowlist" in lines
    assert '  networks = ["fd00::5/128"]' in lines


@pytest.mark.parametrize(
    ("refused", "verdict"),
    [
        ("evil.example", "deny: name_denied, by evil (19: deny[0])"),
        ("Evil.Example.", "deny: name_denied, by evil (19: deny[0])"),
        ("example.com", "allow: by listed (14: allow[0])"),
        ("93.184.216.34", "allow: by listed (14: allow[0])"),
        ("2606::1", "allow: by listed (14: allow[0])"),
    ],
)
def test_r6_a_name_of_the_chain_that_was_refused_is_judged_again(decided: Decided, refused: str, verdict: str) -> None:
    """The record has no more of the chain than that: without it, it would be an allow."""
    _, lines, _ = decided(refused=refused, verdict="deny")
    assert verdict in lines


DIFFERS = "the policy is the same, and the verdict was {}: a permit has ended since, or proxyd knew ports of its "


@pytest.mark.parametrize(
    ("facts", "then"),
    [
        ({"verdict": "deny"}, "deny"),
        ({"host": "evil.example"}, "allow"),
        ({}, None),
        ({"verdict": "error"}, None),
        ({"verdict": "deny", "client": "gone"}, None),
        ({"verdict": "deny", "digest": "0123456789abcdef"}, None),
    ],
)
def test_another_verdict_of_the_same_policy_is_said(decided: Decided, facts: dict[str, str], then: str | None) -> None:
    """ATTACKS 2.17: the daemon knows more than the policy, such as the ports that systemd hands over."""
    _, lines, _ = decided("--json", **facts)
    said = [line for line in json.loads("\n".join(lines))["conditions"] if line.startswith("the policy is the same")]
    assert [line[: len(DIFFERS.format(then))] for line in said] == ([DIFFERS.format(then)] if then else [])


@pytest.mark.parametrize("facts", [{"host": None, "port": None}, {"client": None}, {"client": "gone"}])
def test_where_there_is_nothing_to_judge_that_is_said(decided: Decided, facts: dict[str, Any]) -> None:
    status, lines, _ = decided(**facts)
    assert (status, lines[-1]) == (
        1,
        "there is nothing to judge: the request could not be read, or its client is none by now",
    )


@pytest.mark.parametrize(
    "facts",
    [
        {"host": "a b"},
        {"port": "x"},
        {"port": None},
        {"addresses": ["10.0.0.1/8"]},
        {"host": 5, "port": []},
        {"refused": "a b"},
        {"refused": [1]},
    ],
)
def test_attack_9_a_record_that_somebody_spoilt_is_damaged_and_no_traceback(
    decided: Decided, facts: dict[str, Any]
) -> None:
    status, _, err = decided(**facts)
    assert status == 66
    assert f"the decision {ID} is damaged; ask for its URL" in err


def test_nothing_that_stands_there_moves_the_cursor(decided: Decided) -> None:
    _, lines, _ = decided(digest="\x1b[2J", rule="\x1b", reason="\x1b")
    assert all(line.isprintable() for line in lines)


def test_a_decision_that_is_not_there_is_66(decided: Decided) -> None:
    status, _, err = decided(id="another")
    assert status == 66
    assert f"has no decision {ID}; the id is in the refusal, and in every record" in err


def test_a_log_that_cannot_be_read_to_its_end_is_66_and_that_is_the_reason(
    decided: Decided, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The decision may be in it; in what can be read of it, it is found all the same."""
    decided()
    whole = gzip.compress((tmp_path / "log").read_bytes())
    (tmp_path / "log").write_bytes(whole[:-8])
    words = ["--log", str(tmp_path / "log"), "--policy", str(tmp_path / "policy.toml")]
    assert main(["explain", ID, *words]) == 0
    capfd.readouterr()
    assert main(["explain", "another", *words]) == 66
    assert capfd.readouterr() == ("", f"proxyd: {tmp_path}/log: it breaks off, or is damaged\n")


def test_a_program_is_told_what_stands_there_and_how_it_is_judged_now(decided: Decided) -> None:
    status, lines, err = decided("--json", digest="0123456789abcdef", reason="\x7f")
    told = json.loads("\n".join(lines))
    assert (status, err, told["verdict"]) == (0, "", "allow")
    recorded = {name: DECISION[name] for name in ("id", "time", "client", "host", "port", "verdict", "rule")}
    assert told["recorded"] == recorded | {"digest": "0123456789abcdef", "reason": "\x7f", "policy_has_changed": True}
    status, lines, _ = decided("--json", host=None)
    told = json.loads("\n".join(lines))
    assert (status, told["verdict"], told["steps"], told["remedy"]) == (1, None, [], None)
    assert told["hint"].startswith("there is nothing to judge")
    assert told["recorded"]["policy_has_changed"] is False


@pytest.mark.parametrize(("facts", "said"), [({"id": "another"}, "has no decision"), ({"port": "x"}, "is damaged")])
def test_a_program_is_told_why_there_is_nothing(decided: Decided, facts: dict[str, Any], said: str) -> None:
    status, lines, err = decided("--json", **facts)
    (problem,) = json.loads("\n".join(lines))["problems"]
    assert (status, said in problem, err) == (66, True, f"proxyd: {problem}\n")
