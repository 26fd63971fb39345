"""The alert rules and the example of a configuration: promtool finds them good, and they ask for what there is."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.cli import new_parser
from tests.deploy.exposed import DASHBOARD, RULES, exposed, metrics_in, misspelt, promtool

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION: Final = RULES.with_name("prometheus.yml")
TESTS: Final = RULES.with_name("proxyd.rules.test.yml")
BLOCKS: Final = dict(re.findall(r"(?ms)^      - alert: (\w+)\n(.*?)(?=^      - alert|^  - name|\Z)", RULES.read_text()))

NOT_SHOWN: Final = {
    "proxyd_process_virtual_memory_bytes": "address space that nobody touches: the resident memory is shown",
    "proxyd_tasks": "how many there should be depends on who is there: for whoever looks for a leak",
}
"""Families that neither a panel nor an alert uses, and why."""


def test_promtool_finds_the_rules_good() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_each_alert_fires_in_trouble_and_not_beside_it() -> None:
    promtool("test", "rules", TESTS)


def test_the_rules_were_found() -> None:
    """Or the tests below would hold nothing to account."""
    assert len(BLOCKS) == RULES.read_text().count("alert: ") > 20


@pytest.mark.parametrize("alert", BLOCKS)
def test_every_alert_has_a_case_that_fires_and_a_quiet_neighbour(alert: str) -> None:
    groups = re.findall(rf"(?ms)^  - name: {alert}\n(.*?)(?=^  - name|\Z)", TESTS.read_text())
    told = "".join(groups)
    assert f'alertname="{alert}"' in told
    assert "exp_samples: [{labels:" in told
    assert 'instance="quiet' in told or "exp_samples: []" in told


@pytest.mark.parametrize("alert", BLOCKS)
def test_every_alert_says_how_bad_it_is_what_it_means_and_what_to_do(alert: str) -> None:
    block = BLOCKS[alert]
    assert re.search(r"severity: (critical|warning|info)\n", block)
    assert re.search(r"summary: \S", block)
    assert len(re.findall(r"description: \S.*", block, re.DOTALL)[0]) > 80
    before = RULES.read_text().partition(f"      - alert: {alert}\n")[0].splitlines()[-1]
    assert before.startswith("      # "), "say why the threshold is where it is"


def test_every_command_that_an_alert_names_exists() -> None:
    """As it is written there, as far as that goes."""
    named = set(re.findall(r"`proxyd ([^`]+)`", RULES.read_text()))
    assert len(named) > 5
    parser = new_parser()
    for command in named:
        words = command.replace("FILE DECISION-ID --policy FILE", "a 0123456789abcdef --policy b").split()
        needed = {"audit": ["--policy", "f"], "learn": ["f", "--policy", "f"], "reload": ["--policy", "f"]}
        needed |= {"check": ["f"], "log": ["f"], "diff": ["f", "f"], "report": ["f"]}
        assert parser.parse_args([*words, *needed.get(words[0], [])]).command == words[0]


def test_everything_that_the_rules_ask_for_is_exposed() -> None:
    assert misspelt(RULES.read_text()) == []


def test_everything_that_the_cases_feed_them_is_exposed() -> None:
    assert misspelt(TESTS.read_text()) == []


def test_what_is_not_exposed_is_found() -> None:
    """Or the tests above could not fail."""
    text = 'proxyd_opne + proxyd_open{clinet="a"} + proxyd_requests_total{reason=~"dns_.*|dsn_error"}'
    assert misspelt(text) == ["proxyd_opne", "proxyd_open{clinet}", "dsn_error"]


def test_everything_that_is_exposed_is_used_or_there_is_a_reason() -> None:
    used = metrics_in(RULES.read_text() + DASHBOARD.read_text())
    unused = {family for family, samples in exposed().items() if not used & samples.keys()}
    assert unused == NOT_SHOWN.keys()


def test_the_example_of_a_configuration_is_good(tmp_path: Path) -> None:
    """With the token where it says: promtool looks for that file, too."""
    text, token = CONFIGURATION.read_text(), tmp_path / "admin.token"
    token.write_text("a token\n")
    (tmp_path / RULES.name).write_text(RULES.read_text())
    example = tmp_path / CONFIGURATION.name
    example.write_text(text.replace("/etc/proxyd/admin.token", str(token)))
    assert f"{len(BLOCKS)} rules found" in promtool("check", "config", example)


def test_the_configuration_and_the_policy_in_its_comment_are_of_one_mind() -> None:
    text = CONFIGURATION.read_text()
    (table,) = re.findall(r"(?m)^#   \[admin\]\n(?:#   .*\n)+", text)
    policy = tomllib.loads(re.sub(r"(?m)^# *", "", table))
    assert f'targets: ["{policy["admin"]["listen"]}"]' in text
    assert f"credentials_file: {policy['admin']['token_file']}\n" in text


def test_the_job_is_the_one_that_rules_and_dashboard_ask_for() -> None:
    (job,) = re.findall(r"job_name: (\w+)", CONFIGURATION.read_text())
    asked = re.findall(r'job=\\?"(\w+)\\?"', RULES.read_text() + DASHBOARD.read_text())
    assert set(asked) == {job}
