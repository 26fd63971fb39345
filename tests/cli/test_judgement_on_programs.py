"""A judgement as `explain --json` tells it to a program: every key, always (R8)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.cli import main
from tests.cli.test_judgement import POLICY, TLS_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEYS = {"recorded", "verdict", "reason", "rule", "would", "steps", "conditions", "remedy", "hint"}


@pytest.fixture
def as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """What a program is told."""

    def as_json(*words: str, policy: str = POLICY) -> dict[str, Any]:
        path = tmp_path / "policy.toml"
        path.write_text(policy)
        status = main(["explain", *words, "--policy", str(path), "--json"])
        out, err = capfd.readouterr()
        told: dict[str, Any] = json.loads(out)
        assert (status, err) == (0 if told["verdict"] in ("allow", "undecided") else 1, "")
        assert told.keys() == KEYS
        return told

    return as_json


def test_r8_a_denial_for_a_program(as_json: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    told = as_json("https://evil.example/", "--address", "1.1.1.1")
    assert (told["verdict"], told["reason"], told["would"], told["recorded"], told["hint"]) == (
        *("deny", "name_denied"),
        *(None, None, None),
    )
    assert told["rule"] == {"name": "evil", "file": f"{tmp_path}/policy.toml", "where": "deny[0]", "line": 19}
    assert told["steps"][-2:] == [
        {"step": "port", "said": "passed", "looked_at": "443"},
        {"step": "name", "said": "refused", "looked_at": "evil.example"},
    ]
    assert told["remedy"]["beneath"] == "agent"
    assert told["remedy"]["toml"].startswith("[[client.permit]]\n")
    (change,) = told["remedy"]["changes"]
    assert (change["client"], change["opens"], change["severity"]) == ("agent", True, "medium")


def test_an_allowance_for_a_program(as_json: Callable[..., dict[str, Any]]) -> None:
    told = as_json("https://example.org/", "--address", "1.1.1.1", policy=POLICY.replace('"enforce"', '"report"'))
    assert (told["verdict"], told["reason"], told["would"]) == ("allow", None, "not_allowlisted")
    assert told["rule"] == {"name": "default", "file": None, "where": None, "line": None}
    assert (told["conditions"], told["remedy"]) == ([TLS_NAME.format("example.org")], None)


def test_r12_what_is_open_or_locked_or_no_target_for_a_program(as_json: Callable[..., dict[str, Any]]) -> None:
    assert as_json("https://example.com/")["verdict"] == "undecided"
    locked = as_json("http://169.254.169.254/")
    assert (locked["verdict"], locked["remedy"], locked["hint"]) == ("deny", None, "nothing opens it")
    assert as_json("http://\x7f/")["reason"] == "malformed_target"
