"""The README and the program say the same: every reason with its status, the commands, the policy by example."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Final

import pytest

from proxyd.http.refusal import status_of
from proxyd.policy.load import load
from proxyd.policy.password import new_hash
from proxyd.policy.verdict import Reason

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES: Final = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_stands_there_with_its_status(reason: Reason) -> None:
    assert f"| {status_of(reason)} | `{reason}` |" in README


def test_no_reason_stands_there_that_does_not_exist() -> None:
    told = re.findall(r"^\| \d{3} \| `([a-z_0-9]+)` \|", README, re.MULTILINE)
    assert sorted(told) == sorted(Reason)


def test_the_policy_by_example_is_a_good_one() -> None:
    example = EXAMPLES[0]
    files = {"example.toml": example.encode(), "denylist.toml": (ROOT / "policies" / "denylist.toml").read_bytes()}
    assert load("example.toml", lambda name, _beside, secret=False: (name, files[name]), date(2026, 11, 21)).test


@pytest.mark.parametrize("fragment", EXAMPLES[1:], ids=lambda text: text.split()[0])
def test_every_part_of_a_policy_is_good_beside_what_a_policy_needs(fragment: str) -> None:
    needed = {
        "[listen]": '[listen]\nhttp = ["127.0.0.1:3128"]\n',
        "[destinations]": '[destinations]\ndefault = "deny"\n',
        "[[client]]": '[[client]]\nname = "lan"\nnetworks = ["10.0.0.0/24"]\n'
        '[[client]]\nname = "agent"\nusers = ["openclaw"]\n',
    }
    beside = "".join(text for table, text in needed.items() if f"{table}\n" not in re.sub(" *#.*", "", fragment))
    secret = new_hash("a password of these tests", bytes(16))
    files = {"part.toml": f'schema = 1\nname = "part"\n{beside}{fragment}', "gateway.scrypt": f"{secret}\n"}
    files["parent.credential"] = "user:password\n"
    assert load(
        "part.toml", lambda name, _beside, secret=False: (name, files[name].encode()), date(2026, 11, 21)
    ).digest


def test_every_file_that_it_links_to_is_there() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_test_that_it_names_is_there() -> None:
    """A claim whose evidence has moved is no claim."""
    named = set(re.findall(r"`(tests/[\w/.*]+)`", README))
    assert len(named) > 20
    for path in named - {"tests/bench/results/"}:  # a run makes it
        assert any(ROOT.glob(path)), path
