"""`proxyd diff OLD NEW`: what a reviewer is told, a program, and the check of a pull request."""

from __future__ import annotations

import json
import re
from datetime import date
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import main
from proxyd.cli.diff import SHOWN
from tests.cli.looking_on import look_on

if TYPE_CHECKING:
    from pathlib import Path

BASE = """\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "deny"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
[[allow]]
name = "models"
hosts = ["api.example.com"]
ports = [443]
reason = "a | b"
"""
NAS = '[[permit]]\nhost = "nas.local"\nports = [443]\nnetworks = ["10.0.0.0/30"]\nreason = "ours"\n'
MANY = ", ".join(f'"h{number}.example.com"' for number in range(9))


@pytest.fixture
def compare(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Compare:
    """Compares two texts."""
    return Compare(tmp_path, capfd)


class Compare:
    """Call it with two policies, and what else the user types: the status, and what was said."""

    def __init__(self, folder: Path, said: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._said = said

    def __call__(self, old: str, new: str, *more: str) -> tuple[int, str]:
        """Run it."""
        for name, text in (("old.toml", old), ("new.toml", new)):
            (self._folder / name).write_text(text)
        status = main(["diff", f"{self._folder}/old.toml", f"{self._folder}/new.toml", *more])
        return status, self._said.readouterr().out


def test_without_a_change_nobody_reaches_more_or_less(compare: Compare) -> None:
    assert compare(BASE, BASE + "# a remark\n") == (0, "nobody reaches more or less than before\n")
    assert compare(BASE, BASE, "--markdown") == (0, "Nobody reaches more or less than before.\n")


def test_what_opens_comes_first_the_worst_of_it_before_all(compare: Compare) -> None:
    new = BASE.replace("api.example.com", "other.example.com") + NAS
    status, said = compare(BASE, new)
    assert status == 1
    assert said.splitlines() == [
        "high    agent  opens   permitted host nas.local, port 443, at 10.0.0.0/30 (special-purpose)",
        "medium  agent  opens   names other.example.com, port 443",
        "low     agent  closes  names api.example.com, port 443",
        "in the words of the files:",
        "  allow: models changed",
        "  permit: +nas.local",
    ]


@pytest.mark.parametrize(
    ("fails_on", "opening", "closing"), [("opens", 1, 0), ("closes", 0, 1), ("any", 1, 1), ("never", 0, 0)]
)
def test_what_fails_the_check_is_the_operators_choice(
    compare: Compare, fails_on: str, opening: int, closing: int
) -> None:
    assert compare(BASE, BASE + NAS, "--fail-on", fails_on)[0] == opening
    assert compare(BASE + NAS, BASE, "--fail-on", fails_on)[0] == closing


def test_a_change_that_opens_nothing_passes_and_is_told(compare: Compare) -> None:
    """R8: a deny row that repeats the built-in table changes the text only."""
    row = '[[deny]]\nname = "x"\nreason = "y"\nnetworks = ["10.0.0.0/8"]\n'
    assert compare(BASE, BASE + row) == (
        0,
        "nobody reaches more or less than before\nin the words of the files:\n  deny: +x\n",
    )


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of August."""
    monkeypatch.setattr("proxyd.cli.diff.today", lambda: date(2026, 8, 1))


@pytest.mark.usefixtures("today")
def test_r9_a_permit_that_is_to_last_longer_opens_from_the_day_on_which_it_was_to_end(compare: Compare) -> None:
    ending = NAS + "expires = 2026-08-09\n"
    words = "permitted host nas.local, port 443, at 10.0.0.0/30 (special-purpose), from 2026-08-10 on"
    status, said = compare(BASE + ending, BASE + NAS)
    assert (status, said.splitlines()[0]) == (1, f"high    agent  opens   {words}")
    status, said = compare(BASE + NAS, BASE + ending)
    assert (status, said.splitlines()[0]) == (0, f"low     agent  closes  {words}")
    assert f"| high | agent | **opens** | {words} |" in compare(BASE + ending, BASE + NAS, "--markdown")[1]
    (change,) = json.loads(compare(BASE + ending, BASE + NAS, "--json")[1])["changes"]
    assert change["since"] == "2026-08-10"
    (change,) = json.loads(compare(BASE, BASE + NAS, "--json")[1])["changes"]
    assert change["since"] == ""


def test_r2_a_listener_beyond_loopback_fails_the_check(compare: Compare) -> None:
    base = BASE.replace("127.0.0.0/8", "10.0.0.0/8").replace("127.0.0.1:3128", "10.0.0.5:3128")
    status, said = compare(base, base.replace('["10.0.0.5:3128"]', '["10.0.0.5:3128", "10.0.0.6:3128"]'))
    assert (status, said.splitlines()[0]) == (1, "high    everybody  opens   may connect: 10.0.0.6:3128")


def test_attack_2_17_a_listener_beyond_loopback_is_reached_by_nobody(compare: Compare) -> None:
    """To permit its own address and port opens nothing, as `check` and the daemon have it."""
    base = BASE.replace("127.0.0.1:3128", "10.0.0.5:3128").replace("127.0.0.0/8", "10.0.0.0/8")
    row = '[[permit]]\nhost = "nas.local"\nports = [3128]\nnetworks = ["10.0.0.4/31"]\nreason = "ours"\n'
    _, said = compare(base, base + row)
    assert said.splitlines()[0].endswith("permitted host nas.local, port 3128, at 10.0.0.4/32 (special-purpose)")


NARROW = """\
[[client]]
name = "narrow"
networks = ["127.0.0.1/32"]
[[client.allow]]
hosts = ["only.example"]
ports = [443]
reason = "strict"
"""


def test_r8_who_becomes_another_client_is_told_with_who_he_was(compare: Compare) -> None:
    old = BASE.replace("[[client]]", NARROW + "[[client]]", 1)
    status, said = compare(old, BASE)
    assert (status, said.splitlines()[:2]) == (
        1,
        [
            "medium  agent (was narrow)  opens   names api.example.com, port 443",
            "low     agent (was narrow)  closes  names only.example, port 443",
        ],
    )
    _, said = compare(old, BASE, "--markdown")
    assert "| medium | agent (was narrow) | **opens** | names api.example.com, port 443 |" in said
    changes = json.loads(compare(old, BASE, "--json")[1])["changes"]
    assert {(each["client"], each["was"]) for each in changes} == {("agent", "narrow")}


def test_attack_4_2_a_tls_name_that_is_no_longer_held_to_fails_the_check(compare: Compare) -> None:
    status, said = compare(BASE, BASE.replace('default = "deny"', 'default = "deny"\ntls_name = "off"'))
    assert (status, said.splitlines()[0]) == (
        1,
        "medium  agent  opens   names that TLS in a tunnel may have: any, port 443",
    )


def test_headers_and_names_to_lead_through_are_told_as_what_they_are(compare: Compare) -> None:
    old = BASE.replace('default = "deny"', 'default = "deny"\nidentity_headers = ["X-Team"]') + NAS
    row = '[[deny]]\nname = "x"\nreason = "y"\nhosts = ["bad.example"]\n'
    assert compare(old + row, BASE + NAS)[1].splitlines()[:2] == [
        "medium  agent  opens   names that lead through bad.example",
        "medium  agent  opens   to permitted hosts, headers x-team",
    ]


def test_a_comment_on_a_pull_request_is_a_table(compare: Compare) -> None:
    status, said = compare(BASE, BASE + NAS, "--markdown")
    assert status == 1
    assert said.splitlines() == [
        "| severity | client | | what |",
        "| --- | --- | --- | --- |",
        "| high | agent | **opens** | permitted host nas.local, port 443, at 10.0.0.0/30 (special-purpose) |",
        "",
        "<details><summary>in the words of the files</summary>",
        "",
        "- `permit: +nas.local`",
        "",
        "</details>",
    ]


def test_a_program_gets_all_of_it(compare: Compare) -> None:
    status, said = compare(BASE, BASE.replace('"api.example.com"', MANY), "--json")
    told = json.loads(said)
    (opens,) = (each for each in told["changes"] if each["opens"])
    assert (status, opens["kind"], len(opens["hosts"]), opens["severity"]) == (1, "names", 9, "medium")
    assert told["text"] == ["allow: models changed"]


def test_a_person_gets_a_few_and_how_many_more(compare: Compare) -> None:
    _, said = compare(BASE, BASE.replace('"api.example.com"', MANY))
    shown = ", ".join(f"h{number}.example.com" for number in range(SHOWN))
    assert f"names {shown} and {9 - SHOWN} more" in said


def test_everything_is_told_as_that(compare: Compare) -> None:
    _, said = compare(BASE, BASE.replace('default = "deny"', 'default = "allow"')[: BASE.index("[[allow]]") + 1])
    assert "names every other name, every other name without a dot, " in said


def test_clients_stand_under_each_other_and_severities_have_colours(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)
    other = '[[client]]\nname = "a-longer-name"\nnetworks = ["10.0.0.0/8"]\n'
    _, said = compare(BASE + other, BASE.replace("api.example.com", "b.com") + NAS + other)
    lines = [line for line in said.splitlines() if "port" in line]
    assert [re.sub(r"\S*$", "", line.partition("port")[0]) for line in lines[:3]] == [
        "\x1b[31mhigh\x1b[0m    a-longer-name  opens   permitted host nas.local, ",
        "\x1b[31mhigh\x1b[0m    agent          opens   permitted host nas.local, ",
        "\x1b[33mmedium\x1b[0m  a-longer-name  opens   names b.com, ",
    ]
    assert lines[-1].startswith("\x1b[2mlow\x1b[0m     agent          closes  names api.example.com")


def test_a_bad_policy_is_told_to_a_program(compare: Compare) -> None:
    status, said = compare("x = 1", "x = 1", "--json")
    problems = json.loads(said)["problems"]
    assert (status, [problem.partition(": ")[0].rpartition("/")[2] for problem in problems]) == (
        78,
        sorted((["old.toml", "new.toml"] * (len(problems) // 2)), reverse=True),
    )


def test_a_bad_policy_is_78_and_both_are_told(compare: Compare, capfd: pytest.CaptureFixture[str]) -> None:
    for old, new in (("x = 1", BASE), (BASE, "x = 1")):
        assert compare(old, new)[0] == 78
    assert capfd.readouterr().out == ""
