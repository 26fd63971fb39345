"""`proxyd audit`: what is told, to a person and to a program, and with which status. Real ones are in `end_to_end`.

ATTACKS 9: whatever a file or a proxy says reaches a terminal as text, and no secret is in it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from proxyd.cli import audit, main
from proxyd.cli.mend import Mended
from proxyd.net.probe import Proxy
from proxyd.policy.finding import Finding, critical, remark, warning
from tests.cli.looking_on import look_on
from tests.cli.policies import text, write

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["write"]

BAD: Final = critical("a.b", "what", "Why.", "how")
WEAK: Final = warning("c.d", "weak", "Since.", "so")
NOTE: Final = remark("e.f", "note", "As.", "thus")


class World:
    """What is found, by whom; what was asked for."""

    def __init__(self) -> None:
        self.of_policy: list[Finding] = []
        self.of_host: list[Finding] = []
        self.of_proxy: list[Finding] = []
        self.asked: list[Proxy | None] = []
        self.mended = Mended()

    def deeply(self, _: object, proxy: Proxy | None) -> list[Finding]:
        """What a proxy says."""
        self.asked.append(proxy)
        return self.of_proxy


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """The world, in which nothing is to be found but what a test says."""
    world = World()
    monkeypatch.setattr(audit, "findings", lambda *_: iter(world.of_policy))
    monkeypatch.setattr(audit, "host_findings", lambda *_: iter(world.of_host))
    monkeypatch.setattr(audit, "deep_findings", world.deeply)
    monkeypatch.setattr(audit, "mend", lambda _: world.mended)
    return world


@pytest.fixture
def policy(write: Callable[[str], str]) -> str:
    """A policy that loads."""
    return write(text())


def told(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status, and what a program is told."""
    status = main(["audit", "--json", *arguments])
    return status, json.loads(capfd.readouterr().out)


@pytest.mark.parametrize(
    ("found", "status", "summary"),
    [
        ([], 0, "0 critical, 0 warnings, 0 remarks"),
        ([NOTE], 0, "0 critical, 0 warnings, 1 remark"),
        ([WEAK], 1, "0 critical, 1 warning, 0 remarks"),
        ([BAD], 1, "1 critical, 0 warnings, 0 remarks"),
        ([NOTE, WEAK, BAD, remark("g.h", "n", "m", "o")], 1, "1 critical, 1 warning, 2 remarks"),
    ],
)
def test_the_status_says_whether_something_is_to_be_mended(
    world: World, policy: str, capfd: pytest.CaptureFixture[str], found: list[Finding], status: int, summary: str
) -> None:
    world.of_host = found
    assert main(["audit", "--policy", policy]) == status
    out, err = capfd.readouterr()
    assert (out.splitlines()[-1], err) == (summary, "")


def test_the_worst_is_told_first_and_each_thing_once(
    world: World, policy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    world.of_policy, world.of_host, world.of_proxy = [NOTE, BAD], [WEAK, BAD], [WEAK, critical("g.h", "z", "y", "x")]
    _, said = told(capfd, "--policy", policy, "--deep")
    assert [each["id"] for each in said["findings"]] == ["a.b", "g.h", "c.d", "e.f"]


def test_a_person_sees_what_and_why_and_how(world: World, policy: str, capfd: pytest.CaptureFixture[str]) -> None:
    world.of_policy, world.mended = [BAD, NOTE], Mended(["/p: mode 0666 -> 0644"])
    assert main(["audit", "--policy", policy, "--fix"]) == 1
    assert (
        capfd.readouterr().out
        == """\
mended    /p: mode 0666 -> 0644
critical  a.b
          what
          Why.
          -> how
remark    e.f
          note
          As.
          -> thus
1 critical, 0 warnings, 1 remark
"""
    )


def test_on_a_terminal_severities_have_colours(
    world: World, policy: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it comes to has that of the worst."""
    look_on(monkeypatch)
    for found, colour in ((BAD, 31), (WEAK, 33), (NOTE, 2)):
        world.of_policy = [found]
        main(["audit", "--policy", policy])
        first, *_, last = capfd.readouterr().out.splitlines()
        assert first == f"\x1b[{colour}m{found.severity:8}\x1b[0m  {found.id}"
        assert last.startswith(f"\x1b[{colour}m")
    world.of_policy = []
    main(["audit", "--policy", policy])
    assert capfd.readouterr().out == "\x1b[32m0 critical, 0 warnings, 0 remarks\x1b[0m\n"


def test_attack_9_what_is_found_reaches_a_terminal_as_text(
    world: World, policy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    world.of_host = [critical("a.b", "\x1b[2J\u202e", "\n", "\r")]
    world.mended = Mended(["\x1b[1m"], ["\x1b]0;x\x07"])
    main(["audit", "--policy", policy, "--fix"])
    main(["audit", "--policy", policy, "--fix", "--json"])
    out, err = capfd.readouterr()
    assert not {"\x1b", "\u202e", "\r", "\x07"} & set(out + err)


def test_a_program_is_told_everything_in_one_document(
    world: World, policy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    world.of_policy, world.of_host = [WEAK], [BAD]
    status, said = told(capfd, "--policy", policy)
    digest = said.pop("digest")
    assert (status, len(digest)) == (1, 64)
    keys = ("id", "severity", "what", "why", "mend")
    assert said == {
        "policy": "gateway",
        "file": policy,
        "counts": {"critical": 1, "warning": 1, "remark": 0},
        "findings": [
            dict(zip(keys, ("a.b", "critical", "what", "Why.", "how"), strict=True)),
            dict(zip(keys, ("c.d", "warning", "weak", "Since.", "so"), strict=True)),
        ],
        "mended": [],
        "left": [],
    }


def test_what_could_not_be_mended_is_said_beside_what_is_found(
    world: World, policy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a status of its own: who asked for it to be mended must not take it for done."""
    world.mended = Mended(["done"], ["left"])
    assert main(["audit", "--policy", policy, "--fix", "--json"]) == 78
    out, err = capfd.readouterr()
    said = json.loads(out)
    assert (said["mended"], said["left"], err) == (["done"], ["left"], "proxyd: left\n")


def test_only_fix_mends_and_only_deep_asks(world: World, policy: str, capfd: pytest.CaptureFixture[str]) -> None:
    world.mended, world.of_proxy = Mended(["done"]), [BAD]
    status, said = told(capfd, "--policy", policy)
    assert (status, said["findings"], said["mended"], world.asked) == (0, [], [], [])
    assert told(capfd, "--policy", policy, "--fix")[1]["mended"] == ["done"]
    assert told(capfd, "--policy", policy, "--deep")[1]["counts"]["critical"] == 1
    told(capfd, "--policy", policy, "--deep", "--proxy-url", "http://u:p@p.test:3128")
    assert world.asked == [None, Proxy("http", "p.test", 3128, "u:p")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--deep", "--proxy-url", "socks://u:s3cret@p.test"), "--proxy-url: its scheme is neither http nor https"),
        (("--deep", "--proxy-url", "http://u:s3cret@[p.test"), "--proxy-url: its host or port cannot be read"),
        (("--proxy-url", "http://u:s3cret@p.test"), "--proxy-url: is for --deep; write that, too"),
    ],
)
@pytest.mark.usefixtures("world")
def test_bad_usage_is_2_and_says_no_secret(
    policy: str, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    status, problems = told(capfd, "--policy", policy, *arguments)
    assert status == 2
    assert [each.startswith(said) for each in problems["problems"]] == [True]
    assert main(["audit", "--policy", policy, *arguments]) == 2
    out, err = capfd.readouterr()
    assert (out, "s3cret" in err, said in err) == ("", False, True)


def test_r12_a_bad_policy_is_78_with_every_problem(
    write: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    bad = write("schema = 1\nnme = 'x'\n")
    for more in ((), ("--fix",)):
        status, said = told(capfd, "--policy", bad, *more)
        assert status == 78
        assert any("nme: unknown key" in each for each in said["problems"])
        assert not any("names another policy" in each for each in said["problems"])


def test_where_there_is_no_policy_it_is_said_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "DEFAULT_POLICY", "/etc/proxyd/no-such-policy.toml")
    assert main(["audit"]) == 78
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[1:] == ["proxyd: --policy FILE names another policy"]
