"""`proxyd check`: 0 if every policy is good, 78 if not, and every problem of every file with its way out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

POLICY = """\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "deny"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
users = [4711]
"""
SHIPPED = Path(__file__).parents[2] / "policies"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Writes a policy, and says where."""

    def write(text: str) -> str:
        path = tmp_path / f"policy{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(text)
        return str(path)

    return write


def test_a_good_policy_is_0_and_one_line_that_says_what_it_is(
    write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """R8: the digest is what a reviewer compares with the log."""
    name = write(
        POLICY
        + '[[allow]]\nreason = "a"\nhosts = ["example.com"]\nports = [443]\n'
        + '[[deny]]\nname = "evil"\nreason = "a"\nhosts = ["evil.example"]\n'
        + '[[test]]\nurl = "https://evil.example/"\nexpect = "deny"\n'
    )
    assert main(["check", name]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    said, _, digest = out.rpartition(" ")
    assert said == (
        f"{name}: good: policy gateway, default deny, mode enforce; 1 deny, 1 allow, 0 permit, 1 client; "
        "1 tests passed; digest"
    )
    assert len(digest.strip()) == 64


def test_r2_what_an_author_may_not_have_meant_is_told_and_is_no_error(
    write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """As at the start of the daemon: on loopback, networks alone are every account of the host."""
    name = write(POLICY.replace("users = [4711]\n", ""))
    assert main(["check", name]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"{name}: good: ")
    assert err.startswith(f"proxyd: {name}: warning: client agent is every account on this host; ")


def test_one_bad_policy_among_good_ones_is_78_and_all_of_them_are_read(
    write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """R12."""
    good, bad, also_good = write(POLICY), write(POLICY.replace("schema = 1", "schema = 2")), write(POLICY)
    assert main(["check", good, bad, also_good]) == 78
    out, err = capfd.readouterr()
    assert [line.partition(": ")[0] for line in out.splitlines()] == [good, also_good]
    assert err == f"proxyd: {bad}: schema: 2 is no whole number from 1 to 1\n"


def test_a_test_of_the_policy_that_fails_is_78(write: Callable[[str], str], capfd: pytest.CaptureFixture[str]) -> None:
    """R8: check runs them as the daemon would (ATTACKS 7.8)."""
    name = write(POLICY + '[[test]]\nurl = "https://example.com/"\nexpect = "allow"\naddresses = ["1.1.1.1"]\n')
    assert main(["check", name]) == 78
    assert capfd.readouterr().err == (
        f"proxyd: {name}: test[0]: example.com:443 for agent: is denied (not_allowlisted) by allowlist, "
        "but expected to be allowed\n"
    )


@pytest.mark.parametrize(
    ("row", "key"),
    [
        (
            '[[test]]\nurl = "https://example.com/"\nexpect = "deny"\naddresses = ["10.0.0.1/24"]\n',
            "test[0].addresses[0]",
        ),
        ('[[deny]]\nname = "a"\nreason = "a"\nnetworks = ["10.0.0.1/99"]\n', "deny[0].networks[0]"),
        ('[audit]\nto = "/var/log/a\\u0000b"\n', "audit.to"),
    ],
)
def test_a_value_that_a_library_chokes_on_is_a_problem_that_names_its_key(
    row: str, key: str, write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    """R12: nothing the user typed yields a traceback."""
    name = write(POLICY + row)
    assert main(["check", name]) == 78
    assert capfd.readouterr().err.startswith(f"proxyd: {name}: {key}: ")


def test_a_deny_row_without_a_name_is_78(write: Callable[[str], str], capfd: pytest.CaptureFixture[str]) -> None:
    """ATTACKS 9: a refusal would else tell the client the path of the policy file."""
    name = write(POLICY + '[[deny]]\nreason = "a"\nhosts = ["evil.example"]\n')
    assert main(["check", name]) == 78
    assert capfd.readouterr().err.startswith(f"proxyd: {name}: deny[0].name: is missing; ")


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ATTACKS 9: stdout no less than stderr."""
    path = tmp_path / "policy\x1b[2J.toml"
    path.write_text(POLICY)
    assert main(["check", str(path)]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "policy\\x1b[2J.toml: good" in out


@pytest.mark.parametrize(
    ("name", "everybodys"),
    [
        ("default.toml", ["local"]),
        ("allowlist.toml", ["openclaw"]),
        ("local-models.toml", ["local"]),
        ("team.toml", []),
    ],
)
def test_the_shipped_policies_are_good(name: str, everybodys: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """R8. Those that are for a host with one user say so."""
    assert main(["check", str(SHIPPED / name)]) == 0
    err = capfd.readouterr().err
    assert re.findall(r"warning: client (\w+) is every account on this host; ", err) == everybodys
    assert err.count("\n") == len(everybodys)


def test_r8_a_program_is_told_of_each_file(write: Callable[[str], str], capfd: pytest.CaptureFixture[str]) -> None:
    """The shape of a bad one is that of a good one; its problems are on stderr, too."""
    rows = '[[deny]]\nname = "evil"\nreason = "a"\nhosts = ["evil.example"]\n'
    good, bad = write(POLICY.replace("users = [4711]\n", rows)), write(POLICY.replace("schema = 1", "schema = 2"))
    assert main(["check", "--json", good, bad]) == 78
    out, err = capfd.readouterr()
    one, other = json.loads(out)
    counts = {"deny": 1, "allow": 0, "permit": 0, "client": 1, "test": 0}
    (warning,) = one.pop("warnings")
    assert warning.startswith("client agent is every account on this host; ")
    assert len(one.pop("digest")) == 64
    assert one == {
        "file": good,
        "good": True,
        "policy": "gateway",
        "default": "deny",
        "mode": "enforce",
        "counts": counts,
        "problems": [],
    }
    problem = f"{bad}: schema: 2 is no whole number from 1 to 1"
    assert (other["good"], other["problems"], err) == (False, [problem], f"proxyd: {problem}\n")
    assert other.keys() == {*one, "digest", "warnings"}


def test_check_wants_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check"])
    assert ended.value.code == 2
    assert "FILE" in capfd.readouterr().err
