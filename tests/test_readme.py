"""The README and the program say the same: every reason with its status, the commands, the policy by example."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from proxyd.http.refusal import status_of
from proxyd.policy.load import load
from proxyd.policy.verdict import Reason

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_stands_there_with_its_status(reason: Reason) -> None:
    assert f"| {status_of(reason)} | `{reason}` |" in README


def test_no_reason_stands_there_that_does_not_exist() -> None:
    told = re.findall(r"^\| \d{3} \| `([a-z_0-9]+)` \|", README, re.MULTILINE)
    assert sorted(told) == sorted(Reason)


def test_the_policy_by_example_is_a_good_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    files = {"example.toml": example.encode(), "denylist.toml": (ROOT / "policies" / "denylist.toml").read_bytes()}
    assert load("example.toml", lambda name, _: (name, files[name]), date(2026, 11, 21)).test


def test_every_file_that_it_links_to_is_there() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
