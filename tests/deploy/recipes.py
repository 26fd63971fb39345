"""What the recipes under `deploy/` say, read as the programs read it that they are for."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from proxyd.cli.files import read_policy_file, today
from proxyd.policy.finding import Severity
from proxyd.policy.lint import findings
from proxyd.policy.load import load
from tests.tools import tool

if TYPE_CHECKING:
    from proxyd.policy.model import Policy

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"


def documents(path: Path) -> list[dict[Any, Any]]:
    """Every document of a YAML file; `on` is a boolean there (YAML 1.1)."""
    return list(yaml.safe_load_all(path.read_text()))


def policy(path: Path) -> Policy:
    """A policy, loaded, its tests run. Raises PolicyError."""
    return load(str(path), read_policy_file, today())


def unsound(path: Path) -> set[str]:
    """The ids of what `proxyd audit` would find, more than remarks, in a policy; nothing of this host."""
    found = findings(policy(path), today())
    return {each.id for each in found if each.severity is not Severity.REMARK}


def finds_good(program: str, *words: object) -> None:
    """A checker has nothing to say against a file."""
    checked = subprocess.run(  # noqa: S603 - a program that we looked up
        [tool(program), *map(str, words)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, f"{checked.stdout}{checked.stderr}"
