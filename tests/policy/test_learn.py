"""What an allowlist would need: what was asked for, never a special-purpose address, the rest with its reason (R6)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.policy.address import Resolution, parse_authority
from proxyd.policy.client import Client
from proxyd.policy.contradictions import enforced
from proxyd.policy.learn import Lesson, Wish, learn
from proxyd.policy.snapshot import Snapshot
from proxyd.policy.special import special_address
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, decide
from tests.policy.test_reach import ADDRESSES, NAMES, PORTS
from tests.policy.worlds import CLIENT, TODAY, addresses, allow, deny, nets, permit, policy

if TYPE_CHECKING:
    from proxyd.policy.model import Policy

OTHER: Final = Client(name="other", networks=nets("10.0.0.0/8"), allow=(allow("own.com"),))
REPORTING: Final = replace(policy(default="deny", mode="report", allow=(allow("a.com"),)), client=(CLIENT, OTHER))


def wish(authority: str, *found: str, client: str = "agent", times: int = 1) -> Wish:
    """Somebody asked for that, and it led there."""
    return Wish(client, parse_authority(authority), times, addresses(*found))


def learnt(*wishes: Wish, wildcards: tuple[str, ...] = (), of: Policy = REPORTING) -> Lesson:
    """What comes of it."""
    return learn(of, wishes, wildcards, TODAY)


def rows(lesson: Lesson) -> list[tuple[str, tuple[str, ...], list[int]]]:
    """Whose, which hosts, which ports."""
    return [(beneath, row.hosts, [span.start for span in row.ports]) for beneath, row in lesson.rows]


def test_hosts_that_are_asked_for_on_the_same_ports_share_a_row() -> None:
    lesson = learnt(wish("c.com:443"), wish("b.com:443"), wish("d.com:80"), wish("d.com:443"), wish("1.1.1.1:443"))
    assert rows(lesson) == [("", ("d.com",), [80, 443]), ("", ("1.1.1.1", "b.com", "c.com"), [443])]
    assert lesson.left_out == ()


def test_what_is_allowed_already_needs_nothing() -> None:
    assert rows(learnt(wish("a.com:443"), wish("own.com:443", client="other"))) == []


def test_a_client_with_an_allowlist_of_its_own_gets_its_own_rows() -> None:
    lesson = learnt(wish("b.com:443", client="other"), wish("b.com:443"))
    assert rows(lesson) == [("", ("b.com",), [443]), ("other", ("b.com",), [443])]
    assert lesson.policy.client[1].allow[-1].hosts == ("b.com",)


def test_a_wildcard_is_written_only_where_it_is_asked_for() -> None:
    wishes = (wish("x.cdn.com:443"), wish("y.cdn.com:443"), wish("cdn.com:443"), wish("notcdn.com:443"))
    assert rows(learnt(*wishes))[0][1] == ("cdn.com", "notcdn.com", "x.cdn.com", "y.cdn.com")
    assert rows(learnt(*wishes, wildcards=("cdn.com",)))[0][1] == ("*.cdn.com", "cdn.com", "notcdn.com")


def test_r6_what_led_to_a_special_purpose_address_is_left_out_with_the_reason() -> None:
    bad = wish("evil.com:443", "93.184.216.34", "10.0.0.5", times=7)
    lesson = learnt(bad, wish("10.0.0.5:443"), wish("metadata.google.internal:80"), wish("b.com:25"))
    assert rows(lesson) == []
    assert [(str(each.wish.destination), each.why.partition(",")[0]) for each in lesson.left_out] == [
        ("evil.com:443", "address_denied"),
        ("10.0.0.5:443", "address_denied"),
        ("metadata.google.internal:80", "name_locked"),
        ("b.com:25", "port_denied"),
    ]


def test_what_a_deny_row_has_is_left_out() -> None:
    denying = replace(REPORTING, deny=(deny(hosts=["*.evil.com"]),))
    (left,) = learnt(wish("x.evil.com:443"), of=denying).left_out
    assert left.why == "name_denied, by denied"


def test_a_client_that_is_gone_is_left_out() -> None:
    (left,) = learnt(wish("b.com:443", client="gone")).left_out
    assert left.why == "the policy has no such client by now"


def test_a_permit_stays_what_it_is() -> None:
    """Report mode never needed one; what a permit opens is opened already."""
    permitting = replace(REPORTING, permit=(permit("nas.local", "10.0.0.0/8"),))
    assert rows(learnt(wish("nas.local:443", "10.0.0.5"), of=permitting)) == []


wishes = st.builds(
    lambda name, port, found: Wish("agent", parse_authority(f"{name}:{port}"), 1, tuple(found)),
    st.sampled_from([name for name in NAMES if name != "localhost"]),
    st.sampled_from(PORTS),
    st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(wishes, max_size=6))
def test_each_wish_is_allowed_afterwards_or_left_out_and_nothing_special_is_opened(asked: list[Wish]) -> None:
    lesson = learn(REPORTING, asked, (), TODAY)
    after = Snapshot.of(enforced(lesson.policy), TODAY)
    left = {id(each.wish) for each in lesson.left_out}
    for each in asked:
        found = Resolution(each.addresses) if each.addresses else None
        verdict = decide(each.destination, after.policy.client[0], after, found)
        if id(each) not in left:
            assert verdict is NEED_ADDRESSES or isinstance(verdict, Allow)
        if any(special_address(address) is not None for address in each.addresses):
            assert id(each) in left
