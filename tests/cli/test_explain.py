"""`proxyd explain`: what the user types. What is told is in test_judgement and test_decided."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import main
from tests.cli.test_judgement import POLICY

if TYPE_CHECKING:
    from pathlib import Path

    from netaddr import IPNetwork


def test_own_addresses_that_cannot_be_read_are_78_and_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: as at the start of the daemon; 1 would be a denial."""

    def unreadable() -> frozenset[IPNetwork]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("proxyd.cli.explain.own_addresses", unreadable)
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    assert main(["explain", "1.1.1.1:443", "--policy", str(path)]) == 78
    assert "Permission denied" in capfd.readouterr().err


def test_a_client_is_chosen_by_name_and_is_the_first_otherwise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    for words, name in (((), "agent"), (("--client", "other"), "other")):
        assert main(["explain", "example.com:443", "--policy", str(path), *words]) == 0
        assert capfd.readouterr().out.splitlines()[0].split() == ["passed", "client", name]


def test_a_chain_and_its_addresses_are_judged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    words = ("--address", "93.184.216.34", "--cname", "evil.example")
    assert main(["explain", "example.com:443", "--policy", str(path), *words]) == 1
    assert "deny: name_denied, by evil" in capfd.readouterr().out


def test_a_decision_is_looked_up_in_a_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    (tmp_path / "log").touch()
    assert main(["explain", "cafe", "--log", str(tmp_path / "log"), "--policy", str(path)]) == 66
    assert "has no decision cafe" in capfd.readouterr().err


def test_a_client_that_the_policy_has_not_is_bad_usage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    assert main(["explain", "1.1.1.1:443", "--policy", str(path), "--client", "no\x1bbody"]) == 2
    assert capfd.readouterr() == (
        "",
        "proxyd: --client no\\x1bbody: the policy has no such client; it has: agent, other\n",
    )


def test_a_chain_without_addresses_is_bad_usage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    assert main(["explain", "example.com:443", "--policy", str(path), "--cname", "cdn.example"]) == 2
    assert capfd.readouterr() == ("", "proxyd: --cname: a chain ends in addresses; add --address IP\n")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--address", "127.1", "'127.1' is no IP address"),
        ("--address", "\x1b[2J", "'\\\\x1b[2J' is no IP address"),
        ("--address", "example.com", "'example.com' is no IP address"),
        ("--address", "10.0.0.1/8", "'10.0.0.1/8' is no IP address"),
        ("--cname", "a b", "'a b': a host is letters, digits, hyphens and dots"),
        ("--cname", "\x1b", "'\\\\x1b': a host is letters, digits, hyphens and dots"),
    ],
)
def test_what_is_no_address_or_name_is_bad_usage(
    option: str, value: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """ATTACKS 9: and is not echoed raw."""
    with pytest.raises(SystemExit) as ended:
        main(["explain", "example.com:443", "--policy", "none", option, value])
    assert ended.value.code == 2
    err = capfd.readouterr().err
    assert said in err
    assert "\x1b" not in err


def test_a_bad_policy_is_78(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "1.1.1.1:443", "--policy", str(tmp_path / "none.toml")]) == 78
    assert "cannot be read" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--policy", "nowhere.toml"], 78, "nowhere.toml: cannot be read: No such file or directory"),
        (["--client", "nobody"], 2, "--client nobody: the policy has no such client; it has: agent, other"),
        (["--cname", "cdn.example"], 2, "--cname: a chain ends in addresses; add --address IP"),
        (["--log", "nowhere.jsonl"], 66, "nowhere.jsonl: No such file or directory"),
    ],
)
def test_a_program_is_told_why_nothing_was_explained(
    words: list[str], status: int, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On stdout as JSON, and on stderr as everybody is."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    assert main(["explain", "example.com:443", "--policy", str(path), *words, "--json"]) == status
    out, err = capfd.readouterr()
    (problem,) = json.loads(out)["problems"]
    assert (problem.startswith(said), err) == (True, f"proxyd: {problem}\n")
