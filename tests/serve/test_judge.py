"""The judge with a memory: it says what `decide` says, always, and asks it once for what it has said before.

ATTACKS 3.12, 7.7: what is remembered belongs to one snapshot, one client and one answer of DNS.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress

from proxyd.policy.address import Destination, Resolution
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, Deny, Reason, decide
from proxyd.serve import judge as judge_module
from proxyd.serve.judge import MOST, Judge
from tests.serve.scene import NOW, PUBLIC, policy

if TYPE_CHECKING:
    from proxyd.policy.client import Client

POLICY: Final = policy(
    """
[[client]]
name = "other"
networks = ["10.0.0.0/8"]
[[deny]]
name = "corp"
hosts = ["denied.example"]
reason = "a test"
[[permit]]
host = "nas.local"
ports = [443]
networks = ["10.0.0.0/8"]
reason = "a test"
expires = 2026-08-01
"""
)
SNAPSHOT: Final = Snapshot.of(POLICY, NOW.date(), Own())
AGENT, OTHER = POLICY.client
EXAMPLE: Final = Destination("example.com", 443)
INNER: Final = Resolution((IPAddress("10.0.0.5"),))
OUTER: Final = Resolution((PUBLIC,))


class Counted:
    """`decide`, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str | None, bool]] = []

    def __call__(
        self, destination: Destination, client: Client | None, snapshot: Snapshot, found: Resolution | None = None
    ) -> object:
        self.asked.append((destination.host, destination.port, client.name if client else None, found is not None))
        return decide(destination, client, snapshot, found)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """How often it is decided."""
    counted = Counted()
    monkeypatch.setattr(judge_module, "decide", counted)
    return counted


def test_what_was_decided_is_not_decided_again(counted: Counted) -> None:
    """With the name and with the addresses: two decisions, however many requests."""
    judge = Judge()
    for _ in range(5):
        assert judge(EXAMPLE, AGENT, SNAPSHOT) is NEED_ADDRESSES
        assert isinstance(judge(EXAMPLE, AGENT, SNAPSHOT, OUTER), Allow)
    assert counted.asked == [("example.com", 443, "agent", False), ("example.com", 443, "agent", True)]


def test_a_denial_is_remembered_too(counted: Counted) -> None:
    """A client that tries again and again costs no more."""
    judge = Judge()
    denials = [judge(Destination("denied.example", 443), AGENT, SNAPSHOT) for _ in range(3)]
    assert [denial.reason for denial in denials if isinstance(denial, Deny)] == [Reason.NAME_DENIED] * 3
    assert len(counted.asked) == 1


def test_attack_3_1_another_answer_of_dns_is_judged_anew(counted: Counted) -> None:
    """Rebinding: the name is the same and the addresses are not; whatever order they come in."""
    judge = Judge()
    for found, kind in ((OUTER, Allow), (INNER, Deny), (OUTER, Allow), (INNER, Deny), (INNER, Deny)):
        assert isinstance(judge(EXAMPLE, AGENT, SNAPSHOT, found), kind)
    assert len(counted.asked) == 4


def test_attack_3_1_an_answer_counts_as_the_same_only_if_it_is_the_same_one(counted: Counted) -> None:
    """Nothing is compared that could be mistaken: an equal answer of a later lookup is judged."""
    judge = Judge()
    first = judge(EXAMPLE, AGENT, SNAPSHOT, OUTER)
    again = judge(EXAMPLE, AGENT, SNAPSHOT, Resolution((PUBLIC,)))
    assert first == again
    assert len(counted.asked) == 2


@pytest.mark.parametrize(
    ("destination", "client"),
    [
        pytest.param(replace(EXAMPLE, host="example.org"), AGENT, id="host"),
        pytest.param(replace(EXAMPLE, port=80), AGENT, id="port"),
        pytest.param(EXAMPLE, OTHER, id="client"),
    ],
)
def test_another_destination_or_client_is_another_decision(
    counted: Counted, destination: Destination, client: Client
) -> None:
    judge = Judge()
    for _ in range(2):
        judge(EXAMPLE, AGENT, SNAPSHOT)
        judge(destination, client, SNAPSHOT)
    assert len(counted.asked) == 2


def test_what_is_remembered_belongs_to_one_snapshot(counted: Counted) -> None:
    """ATTACKS 7.7: a permit ends with its day, an address that the host was given is ours, and at once."""
    judge, nas = Judge(), Destination("nas.local", 443)
    assert isinstance(judge(nas, AGENT, SNAPSHOT, INNER), Allow)
    later = Snapshot.of(POLICY, NOW.date() + timedelta(days=1), Own())
    assert isinstance(judge(nas, AGENT, later, INNER), Deny)
    assert isinstance(judge(nas, AGENT, SNAPSHOT, INNER), Allow)
    assert len(counted.asked) == 3


def test_an_equal_snapshot_is_another_one(counted: Counted) -> None:
    """It was installed because something changed: nothing of the old one is believed."""
    judge = Judge()
    judge(EXAMPLE, AGENT, SNAPSHOT)
    judge(EXAMPLE, AGENT, Snapshot.of(POLICY, NOW.date(), Own()))
    assert len(counted.asked) == 2


def test_nobody_is_not_remembered(counted: Counted) -> None:
    """R2: who is no client is refused by the first step of `decide`, and fills no memory."""
    judge = Judge()
    for _ in range(3):
        verdict = judge(EXAMPLE, None, SNAPSHOT)
        assert isinstance(verdict, Deny)
        assert verdict.reason is Reason.CLIENT_UNKNOWN
    assert len(counted.asked) == 3


def test_attack_8_a_flood_of_names_fills_no_memory(counted: Counted) -> None:
    """ATTACKS 8 (unique names): bounded, and what is forgotten is decided again, not refused or allowed."""
    judge = Judge()
    for number in range(MOST + 1):
        judge(Destination(f"n{number}.example", 443), AGENT, SNAPSHOT)
    assert len(judge._verdicts) == 1  # noqa: SLF001 - how much is remembered shows nowhere else
    assert judge(Destination("n0.example", 443), AGENT, SNAPSHOT) is NEED_ADDRESSES
    assert len(counted.asked) == MOST + 2


hosts = st.sampled_from(["example.com", "denied.example", "nas.local", "localhost", "metadata.google.internal"])
questions = st.tuples(
    st.builds(Destination, hosts, st.sampled_from([443, 22])),
    st.sampled_from([AGENT, OTHER, None]),
    st.sampled_from([SNAPSHOT, Snapshot.of(POLICY, NOW.date() + timedelta(days=1), Own())]),
    st.sampled_from([None, OUTER, INNER, Resolution((PUBLIC,), ("denied.example",))]),
)


@given(st.lists(questions, max_size=30))
def test_whatever_is_asked_in_whatever_order_it_says_what_decide_says(asked: list[tuple[object, ...]]) -> None:
    """DESIGN's first idea: there is one decision, and no memory may change it."""
    judge = Judge()
    for question in asked:
        assert judge(*question) == decide(*question)  # type: ignore[arg-type] # as they were drawn
