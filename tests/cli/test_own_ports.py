"""What `explain` says of ports that only the daemon knows to be its own (R9, ATTACKS 2.17)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from netaddr import IPAddress, IPNetwork

from proxyd.cli import main
from proxyd.cli.own_ports import judged_but_for_unknown_ports
from proxyd.policy.address import Resolution
from proxyd.policy.load import load
from proxyd.policy.snapshot import Own, Snapshot
from tests.policy.worlds import TODAY, files

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """\
schema = 1
name = "gateway"
[listen]
http = [{}]
[destinations]
default = "allow"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
[[permit]]
reason = "a test"
host = "localhost"
ports = [23143]
networks = ["127.0.0.1/32"]
[[permit]]
reason = "a test"
host = "nas.example"
ports = [23143]
networks = ["10.0.0.5/32"]
"""
SYSTEMD = "unless systemd hands over port {} (listen.http[0]): then it is proxyd itself, which nothing opens"
CHOSEN = "unless the system chooses port 23143 (listen.http[1]): then it is proxyd itself, which nothing opens"
HERE = IPAddress("10.0.0.5")


def conditions(url: str, listen: str, *addresses: IPAddress) -> tuple[str | None, list[str]]:
    """The verdict, and what is said of ports, on a host that has the address 10.0.0.5."""
    policy = load("main.toml", files(main=POLICY.format(listen)), TODAY)
    snapshot = Snapshot.of(policy, TODAY, Own(policy.ports, frozenset([IPNetwork("10.0.0.5/32")])))
    found = Resolution(addresses) if addresses else None
    judgement = judged_but_for_unknown_ports(url, policy.client[0], snapshot, found)
    return judgement.verdict, [line for line in judgement.conditions if "proxyd itself" in line]


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ('"systemd"', [SYSTEMD.format(23143)]),
        ('"systemd:http"', [SYSTEMD.format(23143)]),
        ('"systemd", "127.0.0.1:0"', [SYSTEMD.format(23143), CHOSEN]),
        ('"127.0.0.1:3128"', []),
    ],
)
def test_2_17_a_permit_that_only_the_daemon_may_refuse_is_told_with_its_condition(listen: str, said: list[str]) -> None:
    assert conditions("http://localhost:23143/", listen) == ("allow", said)


def test_2_17_so_it_is_at_every_address_of_this_host_and_nowhere_else() -> None:
    assert conditions("nas.example:23143", '"systemd"', HERE) == ("allow", [SYSTEMD.format(23143)])
    elsewhere = IPAddress("93.184.216.34")
    assert conditions("other.example:23143", '"systemd"', elsewhere) == ("allow", [])


@pytest.mark.parametrize(
    ("url", "verdict"),
    [("http://127.0.0.1:23144/", "deny"), ("nas.example:23143", "undecided"), ("http://a b/", "deny")],
)
def test_what_is_not_allowed_has_no_conditions(url: str, verdict: str) -> None:
    assert conditions(url, '"systemd"') == (verdict, [])


def test_explain_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """To a program, too, and of a decision in a log."""
    policy, log = tmp_path / "policy.toml", tmp_path / "log"
    policy.write_text(POLICY.format('"systemd"'))
    entry = {"event": "decision", "id": "cafe", "client": "agent", "host": "localhost", "port": 23143}
    log.write_text(json.dumps(entry | {"verdict": "deny", "addresses": ["127.0.0.1"]}))
    for words in (["http://localhost:23143/"], ["cafe", "--log", str(log)]):
        assert main(["explain", *words, "--policy", str(policy)]) == 0
        assert SYSTEMD.format(23143) in capfd.readouterr().out.splitlines()
        assert main(["explain", *words, "--policy", str(policy), "--json"]) == 0
        assert SYSTEMD.format(23143) in json.loads(capfd.readouterr().out)["conditions"]
