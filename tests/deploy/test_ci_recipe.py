"""deploy/ci: what a pull request opens and closes, told for real in a git repository; the workflow runs that script.

R8, R10: a policy is reviewed as code, by what a change means.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.deploy.recipes import DEPLOY, ROOT, documents, finds_good
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCRIPT: Final = DEPLOY / "ci" / "check-policy.sh"
WORKFLOW: Final = DEPLOY / "ci" / "github-workflow.yml"
POLICY: Final = """\
schema = 1
name = "agents"
include = ["rows/deny.toml"]
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "deny"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
[[allow]]
hosts = ["api.example.com", "chat.example.com"]
ports = [443]
reason = "its model"
"""
ROWS: Final = """\
[[deny]]
name = "corp"
hosts = ["*.corp.example"]
reason = "our own"
"""
CREDENTIAL: Final = '[client.credential]\nuser = "agent"\nfile = "agent.scrypt"\n'
OPENS: Final = POLICY.replace('"chat.example.com"', '"chat.example.com", "paste.example.com"')
CLOSES: Final = POLICY.replace(', "chat.example.com"', "")
BROKEN: Final = POLICY.replace("reason =", "raeson =")
FAILING: Final = POLICY + '[[test]]\nurl = "https://paste.example.com/"\naddresses = ["1.1.1.1"]\nexpect = "allow"\n'


@dataclass
class Repository:
    """A repository whose `main` has the policy, and whose branch changes it."""

    folder: Path
    environment: dict[str, str]

    def write(self, policy: str | None, rows: str = ROWS) -> None:
        """The files as they are to be committed next."""
        (self.folder / "rows").mkdir(exist_ok=True)
        (self.folder / "rows/deny.toml").write_text(rows)
        if policy is None:
            (self.folder / "policy.toml").unlink(missing_ok=True)
        else:
            (self.folder / "policy.toml").write_text(policy)

    def commit(self) -> None:
        """Everything."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "x")

    def git(self, *words: str) -> None:
        """Run git, as nobody in particular."""
        command = [tool("git"), "-c", "user.name=x", "-c", "user.email=x@test", *words]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True)  # noqa: S603 - a program that we looked up

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run something in it."""
        return subprocess.run(  # noqa: S603 - our own script
            [*map(str, command)],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def checked(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What the script says of the branch."""
        return self.run(tool("sh"), SCRIPT, *words)


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Repository]:
    """Makes a repository: the policy on main, and what a branch makes of it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "proxyd").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m proxyd "$@"\n')
    (programs / "proxyd").chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    (tmp_path / "tmp").mkdir()

    def make(old: str | None, new: str | None, rows: str = ROWS) -> Repository:
        made = Repository(tmp_path / "repository", environment)
        made.folder.mkdir()
        made.git("init", "--quiet", "--initial-branch=main")
        made.write(old)
        made.commit()
        made.git("switch", "--quiet", "--create", "change")
        made.write(new, rows)
        made.commit()
        return made

    return make


@pytest.mark.parametrize(
    ("old", "new", "status", "told", "complained"),
    [
        (POLICY, OPENS, 1, "**opens** | names paste.example.com, port 443", ""),
        (POLICY, CLOSES, 0, "closes | names chat.example.com, port 443", ""),
        (POLICY, POLICY, 0, "### policy.toml", ""),
        (POLICY, BROKEN, 78, "", "allow[0].raeson"),
        (POLICY, FAILING, 78, "", "test[0]"),
        (POLICY, None, 78, "", "policy.toml"),
        (None, POLICY, 1, "there was no good one to compare it with", ""),
        (BROKEN, POLICY, 1, "there was no good one to compare it with", ""),
    ],
    ids=["opens", "closes", "the-same", "broken", "its-test-fails", "removed", "new", "mended"],
)
def test_r8_a_change_is_told_by_what_it_means(
    old: str | None,
    new: str | None,
    status: int,
    told: str,
    complained: str,
    repository: Callable[..., Repository],
) -> None:
    """0: nothing opens. 1: something does. 78: it is bad (R12), and no verdict is given."""
    made = repository(old, new)
    checked = made.checked("main", "policy.toml")
    assert checked.returncode == status, checked.stderr
    assert told in checked.stdout
    assert (checked.stdout == "") == (status == 78)
    assert complained in checked.stderr
    assert list((made.folder.parent / "tmp").iterdir()) == []


def test_a_row_of_an_included_file_counts(repository: Callable[..., Repository]) -> None:
    """What a reviewer of the policy's own file would not see."""
    default = POLICY.replace('"deny"', '"allow"').partition("[[allow]]")[0]
    checked = repository(default, default, ROWS.replace("*.corp", "*.not-corp")).checked("main", "policy.toml")
    assert checked.returncode == 1
    assert "corp.example" in checked.stdout


def test_what_was_merged_beside_it_since_is_no_change_of_the_branch(repository: Callable[..., Repository]) -> None:
    """Main closes a host meanwhile: the branch, which still has it, does not open it."""
    made = repository(POLICY, POLICY)
    made.git("switch", "--quiet", "main")
    made.write(CLOSES)
    made.commit()
    made.git("switch", "--quiet", "change")
    assert made.checked("main", "policy.toml").returncode == 0


def test_what_is_not_committed_does_not_count(repository: Callable[..., Repository]) -> None:
    """It is the commit that is reviewed."""
    made = repository(POLICY, OPENS)
    made.write(POLICY)
    assert made.checked("main", "policy.toml").returncode == 1


@pytest.mark.parametrize(
    ("committed", "words", "status"),
    [(False, (), 78), (False, ("agent.scrypt",), 0), (True, (), 0), (True, ("agent.scrypt",), 0)],
)
def test_r7_a_credential_need_not_be_in_the_repository(
    committed: bool,  # noqa: FBT001 - a table
    words: tuple[str, ...],
    status: int,
    repository: Callable[..., Repository],
) -> None:
    """A stand-in will do. One that is there is taken, though git makes it everybody's to read."""
    secret = POLICY.replace("[[allow]]", f"{CREDENTIAL}[[allow]]", 1)
    made = repository(secret, secret)
    if committed:
        made.git("switch", "--quiet", "main")
        (made.folder / "agent.scrypt").write_text(made.run("proxyd", "password", "--generate").stdout)
        made.commit()
        made.git("switch", "--quiet", "-C", "change")
    checked = made.checked("main", "policy.toml", *words)
    assert checked.returncode == status, checked.stderr


@pytest.mark.parametrize("words", [(), ("main",), ("no-such-branch", "policy.toml")])
def test_bad_usage_is_2(words: tuple[str, ...], repository: Callable[..., Repository]) -> None:
    checked = repository(POLICY, POLICY).checked(*words)
    assert (checked.returncode, checked.stdout) == (2, "")


def test_shellcheck_finds_the_script_good() -> None:
    finds_good("shellcheck", SCRIPT)


def test_the_workflow_is_one() -> None:
    finds_good("check-jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOW)


def test_r2_the_workflow_has_no_rights_but_to_comment() -> None:
    """It runs what a stranger's pull request brings."""
    (workflow,) = documents(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert list(workflow[True]) == ["pull_request"]  # and never pull_request_target
    assert "${{" not in "".join(step.get("run", "") for step in _steps()), "what others name must not become a script"


def _steps() -> list[dict[str, Any]]:
    (workflow,) = documents(WORKFLOW)
    return list(workflow["jobs"]["policy"]["steps"])


@pytest.mark.parametrize(
    ("new", "labelled", "status", "annotated", "summed_up"),
    [
        (CLOSES, "false", 0, "", "closes"),
        (OPENS, "false", 1, "::error file=policy.toml::it opens something", "**opens**"),
        (OPENS, "true", 0, "::notice file=policy.toml::it opens something", "**opens**"),
        (BROKEN, "true", 78, "::error file=policy.toml::proxyd: ", "raeson"),
    ],
)
def test_r10_the_workflow_fails_where_something_opens_unless_it_is_meant(
    new: str,
    labelled: str,
    status: int,
    annotated: str,
    summed_up: str,
    repository: Callable[..., Repository],
) -> None:
    """Its own steps, run as the runner would; a policy that is bad is never let through."""
    made = repository(POLICY, new)
    (made.folder / ".github").mkdir()
    shutil.copy(SCRIPT, made.folder / ".github")
    (workflow,) = documents(WORKFLOW)
    summary, output = made.folder / "summary", made.folder / "output"
    told = {**workflow["env"], "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output)}
    bash = [tool("bash"), "--noprofile", "--norc", "-eo", "pipefail", "-c"]
    check = next(step["run"] for step in _steps() if step.get("id") == "policy")
    checked = made.run(*bash, check, BASE="main", **told)
    assert checked.returncode == 0, checked.stderr
    found = output.read_text().strip().removeprefix("status=")
    verdict = made.run(*bash, _steps()[-1]["run"], STATUS=found, MEANT=labelled, **told)
    assert verdict.returncode == status
    assert annotated in checked.stdout + verdict.stdout
    assert summed_up in summary.read_text()
