"""Whether an agent that ignores its proxy settings gets out: the rules of nftables and iptables, as they really are.

R2. Each case is set in a network of its own, by nft and iptables themselves; what they say is what is read.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net import firewall
from proxyd.net.firewall import lets_out_by_account
from tests import namespace
from tests.tools import give_up, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AGENT: Final = "1001"
PROXYD: Final = "990"
NOBODY: Final = 65534
DEFAULT_6: Final = f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00000003     eth0\n"
REFUSED_6: Final = f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n"
LINK_6: Final = f"fe80{'0' * 28} 40 {'0' * 32} 00 {'0' * 32} 00000100 00000001 00000000 00000001     eth0\n"


@pytest.fixture
def network() -> Iterator[None]:
    """A network without rules, and not the one that other tests are in."""
    if not namespace.isolated:
        give_up("no network namespace can be had, and the rules of this machine are not to be touched")
    with namespace.everywhere():
        yield


@pytest.fixture(autouse=True)
def routes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The kernel's table of IPv6 routes: none leads out, unless a test says so."""
    path = tmp_path / "ipv6_route"
    path.write_text(REFUSED_6)
    monkeypatch.setattr(firewall, "_IPV6_ROUTES", path)
    monkeypatch.setattr(firewall, "_SECONDS", 60)  # a slow machine decides nothing
    return path


def run(name: str, *words: str, given: str = "") -> None:
    """A command that must do."""
    subprocess.run([tool(name), *words], input=given, text=True, check=True, capture_output=True)  # noqa: S603 - as it is written below


def nft(rules: str, *, hook: str = "output", policy: str = "accept", family: str = "inet") -> None:
    """A base chain with these rules. `lone` is a chain that others may jump to: whatever stands before a `---`."""
    lone, _, rules = rules.rpartition("---")
    kind = f"type filter hook {hook} priority 0; policy {policy};"
    table = f"table {family} egress {{\nchain lone {{\n{lone}\n}}\nchain leaving {{\n{kind}\n{rules}\n}}\n}}\n"
    run("nft", "-f", "-", given=table)


HOLDING: Final = [
    f"meta skuid {AGENT} drop",
    f"meta skuid {AGENT} reject",
    f"meta skuid {AGENT} counter log drop",
    f"meta skuid != {PROXYD} reject",
    f"meta skgid != {PROXYD} reject",
    f"meta skuid {{ {AGENT}, 1002 }} reject",
    f"oifname != lo meta skuid {AGENT} reject",
    f"oifname eth0 meta l4proto tcp ct state new meta skuid {AGENT} reject",
    f"ip daddr != 127.0.0.0/8 meta skuid {AGENT} reject",
    f"oif lo accept\nmeta skuid {PROXYD} accept\ndrop",
    f"ct state established accept\nmeta skuid {{ 0, {PROXYD} }} accept\nreject with icmpx admin-prohibited",
    f"meta skuid {PROXYD} return\ndrop",
    f"meta skuid {PROXYD} accept\nct state invalid drop\ndrop",
    f"meta skuid vmap {{ {PROXYD} : accept, {AGENT} : drop }}",
    f"meta skuid . tcp dport vmap {{ {PROXYD} . 443 : accept, {AGENT} . 443 : drop }}",
    f"drop\n---\nmeta skuid vmap {{ {PROXYD} : accept, {AGENT} : goto lone }}",
    f"drop\n---\nmeta skuid {AGENT} jump lone",
    f"ct state new reject\n---\nmeta skuid != {PROXYD} goto lone",
    f"meta skuid {PROXYD} accept\ndrop\n---\njump lone",
    f"meta skuid {PROXYD} accept\n---\njump lone\ndrop",
    f"meta cgroup {AGENT} reject",
]
OPEN: Final = [
    "",
    "drop",
    "ip daddr 10.0.0.0/8 drop",
    f"meta skuid {AGENT} counter",
    f"meta skuid {AGENT} log",
    f"meta skuid {AGENT} accept",
    f"meta skuid {AGENT} accept\nct state invalid drop",
    f"meta mark set meta skuid map {{ {AGENT} : 7 }}\ndrop",
    f"ip daddr 169.254.169.254 meta skuid {AGENT} reject",
    f"ip daddr 169.254.169.254 meta skuid {AGENT} drop\nmeta l4proto udp drop",
    f"ip6 daddr fd00:ec2::254 meta skuid {AGENT} reject",
    f"tcp dport 25 meta skuid {AGENT} reject",
    f"th dport {{ 25, 465 }} meta skuid {AGENT} reject",
    f"meta skuid {AGENT} counter\n---\nmeta skuid {AGENT} jump lone",
    f"meta skuid {AGENT} drop\n---\n",
    f"meta skuid {AGENT} drop\n---\nip daddr 10.0.0.5 jump lone",
    "tcp dport vmap { 25 : drop }",
]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("rules", HOLDING)
def test_r2_nftables_that_refuse_by_account_hold_an_agent_back(rules: str) -> None:
    """Whoever it is: the agent, or all but proxyd."""
    nft(rules)
    assert lets_out_by_account() is True


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("rules", OPEN)
def test_r2_nftables_that_only_count_or_refuse_something_else_hold_nobody_back(rules: str) -> None:
    """Nor does a rule for single destinations: there are others."""
    nft(rules)
    assert lets_out_by_account() is False


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("rules", "policy", "held"),
    [
        (f"oif lo accept\nmeta skuid {PROXYD} accept", "drop", True),
        (f"meta skuid {PROXYD} accept\n---\nct state established accept\njump lone", "drop", True),
        (f"meta skuid {PROXYD} accept\n---\nip daddr 10.0.0.5 jump lone", "drop", True),
        (f"meta skuid {PROXYD} accept", "accept", False),
        ("oif lo accept\ntcp dport 443 accept", "drop", False),
        ("", "drop", False),
    ],
)
def test_r2_what_is_dropped_by_default_holds_all_back_but_the_account_that_is_let_through(
    rules: str, policy: str, *, held: bool
) -> None:
    """A default alone does not say who gets out all the same."""
    nft(rules, policy=policy)
    assert lets_out_by_account() is held


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("hook", ["input", "forward", "postrouting"])
def test_r2_rules_for_packets_that_do_not_leave_here_hold_nobody_back(hook: str) -> None:
    nft(f"meta skuid {AGENT} drop", hook=hook, policy="drop" if hook == "input" else "accept")
    assert lets_out_by_account() is False


IPTABLES: Final = [
    (f"-A OUTPUT -m owner --uid-owner {AGENT} -j REJECT", True),
    (f"-A OUTPUT ! -o lo -m owner ! --uid-owner {PROXYD} -j DROP", True),
    (f"-A OUTPUT ! -d 127.0.0.0/8 -m owner --gid-owner {AGENT} -j DROP", True),
    (f'-A OUTPUT -m owner --uid-owner {AGENT} -m comment --comment "it has -j ACCEPT in it" -j DROP', True),
    (f"-A OUTPUT -o lo -j ACCEPT\n-A OUTPUT -m owner --uid-owner {PROXYD} -j ACCEPT\n-A OUTPUT -j REJECT", True),
    (f"-P OUTPUT DROP\n-A OUTPUT -m owner --uid-owner {PROXYD} -j ACCEPT", True),
    (f"-N LEAVING\n-A OUTPUT -j LEAVING\n-A LEAVING -m owner ! --uid-owner {PROXYD} -j DROP", True),
    (f"-N LEAVING\n-A OUTPUT -g LEAVING\n-A LEAVING -m owner --uid-owner {AGENT} -j DROP", True),
    (
        f"-A OUTPUT -m owner --uid-owner {AGENT} -j DROP\n-t mangle -A OUTPUT -j ACCEPT\n-t raw -A OUTPUT -j ACCEPT",
        True,
    ),
    (f"-t mangle -A OUTPUT -m owner --uid-owner {AGENT} -j DROP\n-A OUTPUT -j ACCEPT\n-t raw -P OUTPUT ACCEPT", True),
    ("", False),
    ("-P OUTPUT DROP", False),
    ("-A OUTPUT -j DROP", False),
    (f"-A OUTPUT -m owner --uid-owner {AGENT}", False),
    (f"-A OUTPUT -m owner --uid-owner {AGENT} -j ACCEPT", False),
    (f"-A OUTPUT -m owner --uid-owner {AGENT} -j LOG", False),
    (f"-A OUTPUT -d 169.254.169.254 -m owner --uid-owner {AGENT} -j DROP", False),
    (f"-A OUTPUT -p tcp --dport 25 -m owner --uid-owner {AGENT} -j DROP", False),
    (f"-A OUTPUT -p tcp -m multiport --dports 25,465 -m owner --uid-owner {AGENT} -j DROP", False),
    (f"-A OUTPUT -m owner --uid-owner {AGENT} -j ACCEPT\n-A OUTPUT -m conntrack --ctstate INVALID -j DROP", False),
    (f"-N LEAVING\n-A LEAVING -m owner --uid-owner {AGENT} -j DROP", False),
    (f"-P INPUT DROP\n-A OUTPUT -m owner --uid-owner {PROXYD} -j ACCEPT", False),
]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("commands", "held"), IPTABLES)
def test_r2_rules_of_iptables_hold_an_agent_back_as_those_of_nftables_do(commands: str, *, held: bool) -> None:
    for command in commands.splitlines():
        run("iptables", *shlex.split(command))
    assert lets_out_by_account() is held


# IPv6


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("table", "held"), [(None, True), ("", True), (REFUSED_6 + LINK_6, True), (REFUSED_6 + LINK_6 + DEFAULT_6, False)]
)
def test_r2_where_there_is_a_way_out_by_ipv6_it_must_be_held_too(
    routes: Path, table: str | None, *, held: bool
) -> None:
    """The usual gap: iptables is told, and ip6tables is not. A host without IPv6 need not be told."""
    if table is None:
        routes.unlink()
    else:
        routes.write_text(table)
    rule = ("-A", "OUTPUT", "-m", "owner", "--uid-owner", AGENT, "-j", "REJECT")
    run("iptables", *rule)
    assert lets_out_by_account() is held
    run("ip6tables", *rule)
    assert lets_out_by_account() is True


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("family", "held"), [("inet", True), ("ip", False), ("ip6", False)])
def test_r2_a_table_holds_the_family_that_it_is_for(routes: Path, family: str, *, held: bool) -> None:
    routes.write_text(DEFAULT_6)
    nft(f"meta skuid {AGENT} drop", family=family)
    assert lets_out_by_account() is held


# Who may ask


@pytest.mark.usefixtures("network")
def test_another_account_than_root_cannot_say() -> None:
    """It is told nothing, and that is not the same as no rules. The child says what it found by its status."""
    nft(f"meta skuid {AGENT} drop")
    child = os.fork()
    if child == 0:
        try:  # nothing of pytest's may run here
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os._exit({None: 7, False: 8, True: 9}[lets_out_by_account()])
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Put a program of ours in the place of the system's; without any, there are none."""
    folder = tmp_path / "sbin"
    folder.mkdir()
    monkeypatch.setattr(firewall, "_FOLDERS", str(folder))

    def put(name: str, says: str = "", *, status: int = 0, script: str = "#!/bin/sh\n") -> None:
        (folder / f"{name}.says").write_text(says)
        (folder / name).write_text(f"{script}cat {folder}/{name}.says\nexit {status}\n")
        (folder / name).chmod(0o755)

    return put


def ruleset(*statements: object) -> str:
    """As nft spells a chain of the output hook with one rule."""
    table = {"family": "inet", "table": "egress"}
    chain = {"chain": {**table, "name": "leaving", "hook": "output", "policy": "accept"}}
    return json.dumps({"nftables": [chain, {"rule": {**table, "chain": "leaving", "expr": statements}}]})


BY_ACCOUNT: Final = {"op": "!=", "left": {"meta": {"key": "skuid"}}, "right": 990}
BY_GROUP: Final = {"op": "==", "left": {"socket": {"key": "cgroupv2", "level": 2}}, "right": "system.slice/agent"}


@pytest.mark.usefixtures("programs")
def test_without_a_firewall_nobody_can_say() -> None:
    assert lets_out_by_account() is None


def test_a_program_that_fails_says_nothing(programs: Callable[..., None]) -> None:
    """Its own failure, one to start it, one to end: each is as good as none."""
    programs("nft", ruleset({"match": BY_ACCOUNT}, {"drop": None}), status=1)
    programs("iptables-save", script="#!/no/such/interpreter\n")
    assert lets_out_by_account() is None


def test_one_that_never_answers_says_nothing(programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a pipe that nobody writes."""
    monkeypatch.setattr(firewall, "_SECONDS", 0.1)
    reading, writing = os.pipe()
    try:
        programs("nft", script=f"#!/bin/sh\nexec cat /proc/{os.getpid()}/fd/{reading}\n")
        assert lets_out_by_account() is None
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("name", ["iptables-save", "ip6tables-save"])
def test_one_that_answers_is_enough_to_say_that_there_is_no_rule(programs: Callable[..., None], name: str) -> None:
    programs(name, "*filter\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    assert lets_out_by_account() is False


@pytest.mark.parametrize(
    ("statements", "held"),
    [
        ([{"match": BY_ACCOUNT}, {"drop": None}], True),
        ([{"match": BY_GROUP}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}], True),
        ([{"match": BY_ACCOUNT}, {"xt": None}], False),
        ([{"vmap": {"key": BY_ACCOUNT["left"], "data": "@verdicts"}}], False),
    ],
)
def test_what_this_kernel_may_not_know_is_read_as_nft_spells_it(
    programs: Callable[..., None], statements: list[object], *, held: bool
) -> None:
    """Control groups of systemd; what iptables made; and a map that is written elsewhere, of which nothing is known."""
    programs("nft", ruleset(*statements))
    assert lets_out_by_account() is held
