"""`proxyd learn LOG --policy P`: a row to paste, what it opens, and what is left out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.cli import learn as learn_module
from proxyd.cli import main
from proxyd.policy.learn import Lesson
from proxyd.policy.load import load
from tests.policy.worlds import TODAY, files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from proxyd.policy.learn import Wish
    from proxyd.policy.model import Policy

POLICY = """\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "deny"
mode = "report"
[[allow]]
hosts = ["a.com"]
ports = [443]
reason = "x"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
[[client]]
name = "other"
networks = ["10.0.0.0/8"]
[[client.allow]]
hosts = ["own.com"]
ports = [443]
reason = "x"
"""


def asked(host: str, port: object = 443, client: str = "agent", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - fields
    """A decision that enforcing would have denied."""
    wish = {"event": "decision", "would": "deny", "client": client, "host": host, "port": port}
    return wish | {"addresses": ["93.184.216.34"]} | more


class Learn:
    """Learns from some records."""

    def __init__(self, folder: Path, said: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._said = said

    def __call__(self, entries: list[Any], *more: str) -> tuple[int, str, list[str]]:
        """The status, the TOML, and the remarks."""
        (self._folder / "policy.toml").write_text(POLICY)
        (self._folder / "log").write_text("".join(f"{json.dumps(each)}\n" for each in entries))
        status = main(["learn", f"{self._folder}/log", "--policy", f"{self._folder}/policy.toml", *more])
        out, err = self._said.readouterr()
        return status, out, [line.removeprefix("proxyd: ") for line in err.splitlines()]


@pytest.fixture
def learn(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Learn:
    """Learns from logs."""
    return Learn(tmp_path, capfd)


def test_what_was_asked_for_is_a_row_to_paste_and_what_that_opens_is_said(learn: Learn) -> None:
    status, toml, remarks = learn([asked("b.com"), asked("c.com"), asked("b.com"), asked("d.com", client="other")])
    assert status == 0
    assert toml.splitlines() == [
        "[[allow]]",
        'hosts = ["b.com", "c.com"]',
        "ports = [443]",
        'reason = "learnt from the audit log; say why"',
        "",
        "# below [[client]] other",
        "[[client.allow]]",
        'hosts = ["d.com"]',
        "ports = [443]",
        'reason = "learnt from the audit log; say why"',
        "",
    ]
    assert remarks == [
        "opens, for agent: names b.com, c.com, port 443",
        "opens, for other: names d.com, port 443",
    ]
    assert load(
        "p.toml", files(p=f"{POLICY}{toml[toml.index('# below') :]}{toml[: toml.index('# below')]}"), TODAY
    ).allow


def test_what_is_left_out_is_said_with_its_reason(learn: Learn) -> None:
    status, toml, remarks = learn([asked("evil.com", addresses=["10.0.0.5"]), asked("evil.com")])
    assert (status, toml) == (0, "")
    assert remarks == [
        "left out, for agent: evil.com:443, 2 times: address_denied, by private network",
        "there is nothing to add; only report mode (destinations.mode) logs what would be denied",
    ]


def test_a_wildcard_where_it_is_asked_for(learn: Learn) -> None:
    assert 'hosts = ["*.b.com"]' in learn([asked("x.b.com"), asked("y.b.com")], "--wildcard", "b.com")[1]


@pytest.mark.parametrize(
    "entry",
    [
        asked("a b"),
        asked("b.com", "x"),
        asked("b.com", None),
        asked("b.com", addresses=["x"]),
        asked("b.com", addresses=5),
        asked("b.com", would=None),
        asked("b.com", event="close"),
    ],
)
def test_attack_9_what_is_no_wish_is_not_learnt(learn: Learn, entry: dict[str, Any]) -> None:
    """The log is not ours alone to write: a damaged record is none."""
    status, toml, _ = learn([entry])
    assert (status, toml) == (0, "")


def test_attack_8_an_agent_that_makes_names_up_fills_nothing(learn: Learn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn_module, "MOST", 3)
    _, toml, _ = learn([asked(f"h{number}.com") for number in range(9)] + [asked("h0.com")])
    assert 'hosts = ["h0.com", "h1.com", "h2.com"]' in toml


def test_attack_8_nor_does_who_makes_addresses_or_clients_up(learn: Learn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers for a name can give it other ones with each lookup."""
    wishes: list[Wish] = []

    def remember(policy: Policy, wished: Iterable[Wish], *_: object) -> Lesson:
        wishes.extend(wished)
        return Lesson((), policy, ())

    monkeypatch.setattr(learn_module, "learn", remember)
    learn([asked("b.com", addresses=[f"192.0.2.{last}", "::1"], client="x" * 9999) for last in range(200)])
    (wish,) = wishes
    assert (len(wish.addresses), len(wish.client), wish.times) == (learn_module.MOST_ADDRESSES, 255, 200)


def test_r8_a_program_is_told_all_of_it(learn: Learn) -> None:
    told = [asked("b.com"), asked("d.com", client="other"), asked("evil.com", addresses=["10.0.0.5"]), "torn"]
    status, out, remarks = learn(told, "--json")
    document = json.loads(out)
    reason = "learnt from the audit log; say why"
    assert (status, remarks, document["unread"], document["problems"]) == (0, [], 1, [])
    assert document["rows"] == [
        {"beneath": "", "hosts": ["b.com"], "ports": [443], "reason": reason},
        {"beneath": "other", "hosts": ["d.com"], "ports": [443], "reason": reason},
    ]
    assert document["toml"] + "\n" == learn(told)[1]
    assert [(each["client"], each["opens"], each["hosts"]) for each in document["changes"]] == [
        ("agent", True, ["b.com"]),
        ("other", True, ["d.com"]),
    ]
    why = "address_denied, by private network"
    assert document["left_out"] == [{"client": "agent", "host": "evil.com", "port": 443, "times": 1, "why": why}]


def test_a_program_is_told_what_went_wrong(learn: Learn, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The log that is missing beside what was learnt from the others; bad usage and a bad policy alone."""
    learn([])
    log, policy = f"{tmp_path}/log", f"{tmp_path}/policy.toml"
    for words, status, said in (
        ([f"{tmp_path}/nowhere", "--policy", policy], 66, f"{tmp_path}/nowhere: No such file or directory"),
        ([log, "--policy", f"{tmp_path}/none"], 78, f"{tmp_path}/none: cannot be read: No such file or directory"),
        ([log, "--policy", policy, "--wildcard", "*.b.com"], 2, "--wildcard: "),
    ):
        assert main(["learn", *words, "--json"]) == status
        out, err = capfd.readouterr()
        (problem,) = json.loads(out)["problems"]
        assert problem.startswith(said)
        assert err == f"proxyd: {problem}\n"


def test_torn_lines_and_missing_logs_are_told(learn: Learn, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "1 lines are no records, and were passed over" in learn([asked("b.com"), "torn"])[2]
    assert main(["learn", f"{tmp_path}/nowhere", "--policy", f"{tmp_path}/policy.toml"]) == 66
    assert f"{tmp_path}/nowhere: No such file or directory" in capfd.readouterr().err


def test_bad_usage_and_bad_policies(learn: Learn, tmp_path: Path) -> None:
    assert learn([], "--wildcard", "*.b.com")[0] == 2
    assert main(["learn", f"{tmp_path}/log", "--policy", f"{tmp_path}/nowhere.toml"]) == 78
