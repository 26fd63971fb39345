"""The policy, frozen: the keys that only a whole policy has. Rows are in test_rows, clients in test_client.

R1, R7, R12; what the loader makes of a file is in test_load.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from netaddr import IPAddress

from proxyd.policy.address import Endpoint
from proxyd.policy.model import Limits, Parent
from tests.policy.worlds import MINIMAL, loaded, policy, problems


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        policy().name = "other"  # type: ignore[misc]


def test_the_ports_of_a_policy_are_those_that_it_names() -> None:
    """Port 0 is any free one, and which that is only the system says."""
    listen = 'http = ["127.0.0.1:3128", "[::1]:3128", "127.0.0.2:0", "127.0.0.2:9128"]'
    assert loaded(MINIMAL.replace('http = ["127.0.0.1:3128"]', listen)).ports == {3128, 9128}
    assert policy().ports == frozenset()


@pytest.mark.parametrize(("place", "ports"), [("127.0.0.1:9128", {3128, 9128}), ("unix:/run/admin", {3128})])
def test_attack_7_1_the_admin_listeners_port_is_one_of_them(place: str, ports: set[int]) -> None:
    token = 'token_file = "/t"\n' if len(ports) > 1 else ""
    assert loaded(f'{MINIMAL}[admin]\nlisten = "{place}"\n{token}').ports == ports


@pytest.mark.parametrize("sink", ["stdout", "/var/log/proxyd.jsonl"])
def test_records_go_to_stdout_or_an_absolute_path(sink: str) -> None:
    assert loaded(MINIMAL + f'[audit]\nto = "{sink}"').audit.to == sink


@pytest.mark.parametrize("sink", ['"stderr"', '""', '"audit.jsonl"', "1", "true", '["stdout"]', '"/var/a\\u0000"'])
def test_records_go_nowhere_else(sink: str) -> None:
    (problem,) = problems(MINIMAL + f"[audit]\nto = {sink}")
    assert problem.endswith('is no sink; write "stdout" or the absolute path of a file')


@pytest.mark.parametrize("url", ["ftp://example.com/bot123:TOKEN", "agent:TOKEN@example.com"])
@pytest.mark.parametrize("key", ['[audit]\nto = "{0}"', '[parent]\naddress = "{0}"'])
def test_r7_what_looks_like_a_url_is_not_repeated_in_a_problem(key: str, url: str) -> None:
    """A problem goes to stderr, and that into logs."""
    (problem,) = problems(MINIMAL + key.format(url))
    assert "what is written there " in problem
    assert "TOKEN" not in problem


@pytest.mark.parametrize(("said", "workers"), [("", 1), ("workers = 64\n", 64), ('workers = "auto"\n', "auto")])
def test_workers_are_a_number_or_one_for_each_core(said: str, workers: object) -> None:
    assert loaded(said + MINIMAL).workers == workers


@pytest.mark.parametrize("workers", ["0", "65", "-1", '"all"', '"2"', "true", "1.0", "[1]"])
def test_no_other_workers_are(workers: str) -> None:
    (problem,) = problems(f"workers = {workers}\n" + MINIMAL)
    assert problem.startswith("main.toml: workers: ")
    assert problem.endswith(' is no whole number from 1 to 64, nor "auto"')


def test_r12_what_is_dangerous_is_off_where_it_is_not_said() -> None:
    said = loaded()
    assert not said.listen.dangerously_public_listener
    assert not said.audit.dangerously_prefer_availability
    assert said.dns.dangerously_allow_fake_ip == ()
    assert said.destinations.mode == "enforce"


def test_the_limits_of_all_clients_together_are_those_of_one_and_three_more() -> None:
    said = "[limits]\nconnections = 7\nrequests_per_second = 8\nrequests = 9\n"
    assert loaded(MINIMAL + said).limits == Limits(connections=7, requests_per_second=8, requests=9)
    assert (Limits().connections, Limits().idle_seconds, Limits().drain_seconds) == (4096, 3600, 10)
    assert Limits().unlimited


def test_r7_a_parents_credential_is_not_shown() -> None:
    parent = Parent(address=Endpoint(IPAddress("192.0.2.7"), 3128), credential_file="parent", credential="me:SECRET")
    assert "SECRET" not in repr(parent)
    assert "SECRET" not in repr(policy(parent=parent))


def test_every_row_of_a_policy_is_its_own_and_its_clients() -> None:
    """In this order; what looks for all of them must not forget those of clients."""
    rows = (
        '[[{0}deny]]\nname = "{1}"\nreason = "x"\nhosts = ["x.example"]\n',
        '[[{0}allow]]\nname = "{1}-allow"\nreason = "x"\nhosts = ["x.example"]\nports = [443]\n',
        '[[{0}permit]]\nname = "{1}-permit"\nreason = "x"\nhost = "a.local"\nports = [1]\nnetworks = ["10.0.0.0/8"]\n',
    )
    text = "".join(row.format(*whose) for whose in (("client.", "theirs"), ("", "ours")) for row in rows)
    found = loaded(MINIMAL + text)
    assert [each.label for each in found.every_deny] == ["ours", "theirs"]
    assert [each.label for each in found.every_allow] == ["ours-allow", "theirs-allow"]
    assert [each.label for each in found.every_permit] == ["ours-permit", "theirs-permit"]
