"""The judge, asked by clients that differ: what is a client's own, what is everybody's, and where each leaves from.

R2, R6, R9, R10, R12, ATTACKS 2.16, 7.5, 7.6. Who a client is, is in test_snapshot.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.policy.address import Resolution, parse_authority
from proxyd.policy.client import Client, Egress, OwnDestinations
from proxyd.policy.snapshot import Own
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, Deny, NeedAddresses, Reason, decide
from tests.policy.worlds import CLIENT, PUBLIC_4, TODAY, addresses, allow, deny, nets, permit, spans, world

if TYPE_CHECKING:
    from proxyd.policy.snapshot import Snapshot

OTHER = Client(name="other", networks=nets("10.0.0.0/8"))


def beside(client: Client, /, **said: Any) -> Snapshot:  # noqa: ANN401
    """A world in which there is this client, and one that is like everybody."""
    return world(client=[client, OTHER], **said)


def judge(target: str, client: Client, snapshot: Snapshot, *answer: str) -> Allow | Deny | NeedAddresses:
    found = Resolution(addresses(*answer)) if answer else None
    return decide(parse_authority(target), client, snapshot, found)


def granted(target: str, client: Client, snapshot: Snapshot, *answer: str) -> Allow:
    verdict = judge(target, client, snapshot, *answer)
    assert isinstance(verdict, Allow)
    return verdict


def reason(target: str, client: Client, snapshot: Snapshot, *answer: str) -> Reason:
    verdict = judge(target, client, snapshot, *answer)
    assert isinstance(verdict, Deny)
    return verdict.reason


# Its own destinations


@pytest.mark.parametrize(("everybodys", "its"), [("allow", "deny"), ("deny", "allow")])
def test_r10_a_clients_own_default_stands_in_the_place_of_everybodys(everybodys: str, its: str) -> None:
    own = replace(CLIENT, destinations=OwnDestinations(default=its))
    said = beside(own, default=everybodys)
    denied, allowed = (own, OTHER) if its == "deny" else (OTHER, own)
    assert reason("example.com:443", denied, said) is Reason.NOT_ALLOWLISTED
    assert granted("example.com:443", allowed, said, str(PUBLIC_4)).rule == "default"


def test_r5_r6_a_client_to_which_all_is_allowed_is_judged_by_addresses_like_anybody() -> None:
    own = replace(CLIENT, destinations=OwnDestinations(default="allow", ports=(range(1, 65536),)))
    said = beside(own, default="deny")
    for answer in ("10.0.0.1", "127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1"):
        assert reason("example.com:443", own, said, answer) is Reason.ADDRESS_DENIED
    assert reason("example.com:443", own, said, "169.254.169.254") is Reason.ADDRESS_LOCKED
    assert reason("metadata.goog:443", own, said) is Reason.NAME_LOCKED
    assert reason("printer.local:443", own, said) is Reason.NAME_RESERVED


def test_r10_a_client_may_report_where_others_are_enforced_and_the_other_way_round() -> None:
    for its, everybodys in (("report", "enforce"), ("enforce", "report")):
        own = replace(CLIENT, destinations=OwnDestinations(mode=its))
        said = beside(own, default="deny", mode=everybodys)
        enforced, reported = (OTHER, own) if its == "report" else (own, OTHER)
        assert reason("example.com:443", enforced, said, str(PUBLIC_4)) is Reason.NOT_ALLOWLISTED
        verdict = granted("example.com:443", reported, said, str(PUBLIC_4))
        assert verdict.would == Deny(Reason.NOT_ALLOWLISTED, "allowlist")


def test_r10_a_clients_own_ports_are_its_only_ones() -> None:
    own = replace(CLIENT, destinations=OwnDestinations(ports=spans(22)))
    said = beside(own, ports=[443])
    assert reason("example.com:443", own, said) is Reason.PORT_DENIED
    assert judge("example.com:22", own, said) is NEED_ADDRESSES
    assert reason("example.com:22", OTHER, said) is Reason.PORT_DENIED
    assert judge("example.com:443", OTHER, said) is NEED_ADDRESSES


# Its own rows


def test_attack_7_5_a_clients_allow_rows_stand_in_the_place_of_everybodys() -> None:
    own = replace(CLIENT, allow=(allow("own.example", name="its"),))
    said = beside(own, default="deny", allow=(allow("a.example", name="everybodys"),))
    assert granted("own.example:443", own, said, str(PUBLIC_4)).rule == "its"
    assert reason("a.example:443", own, said) is Reason.NOT_ALLOWLISTED
    assert granted("a.example:443", OTHER, said, str(PUBLIC_4)).rule == "everybodys"
    assert reason("own.example:443", OTHER, said) is Reason.NOT_ALLOWLISTED


def test_a_client_with_a_default_of_its_own_and_no_rows_has_everybodys_rows() -> None:
    own = replace(CLIENT, destinations=OwnDestinations(default="deny"))
    said = beside(own, allow=(allow("a.example"),))
    assert granted("a.example:443", own, said, str(PUBLIC_4)).rule == "allowed"
    assert reason("b.example:443", own, said) is Reason.NOT_ALLOWLISTED


def test_attack_7_6_denies_add_up_and_no_row_of_a_client_takes_one_away() -> None:
    own = replace(
        CLIENT,
        deny=(deny(hosts=["b.example"], networks=["8.8.8.0/24"], name="its"),),
        allow=(allow("a.example", "b.example", "c.example"),),
        destinations=OwnDestinations(default="deny"),
    )
    said = beside(own, deny=(deny(hosts=["a.example"], networks=["1.1.1.0/24"], name="everybodys"),))
    for target, answer, rule in (
        ("a.example:443", (), "everybodys"),
        ("b.example:443", (), "its"),
        ("c.example:443", ("1.1.1.1",), "everybodys"),
        ("c.example:443", ("8.8.8.8",), "its"),
    ):
        verdict = judge(target, own, said, *answer)
        assert isinstance(verdict, Deny)
        assert verdict.rule == rule
    assert reason("a.example:443", OTHER, said) is Reason.NAME_DENIED
    assert judge("b.example:443", OTHER, said) is NEED_ADDRESSES
    granted("c.example:443", OTHER, said, "8.8.8.8")


def test_r9_a_permit_of_one_client_opens_nothing_to_another() -> None:
    own = replace(CLIENT, permit=(permit("nas.local", "10.0.0.0/8", name="its"),))
    said = beside(own, permit=(permit("tv.local", "10.0.0.0/8", name="everybodys"),))
    for client, target, rule in (
        (own, "nas.local:443", "its"),
        (own, "tv.local:443", "everybodys"),
        (OTHER, "tv.local:443", "everybodys"),
    ):
        verdict = granted(target, client, said, "10.0.0.1")
        assert (verdict.rule, verdict.permitted) == (rule, True)
    assert reason("nas.local:443", OTHER, said, "10.0.0.1") is Reason.NAME_RESERVED


def test_r9_a_permit_of_a_client_is_an_exception_to_everybodys_denies_too() -> None:
    own = replace(CLIENT, permit=(permit("nas.example", "93.184.216.34/32"),))
    said = beside(own, deny=(deny(hosts=["nas.example"], networks=["93.184.216.0/24"]),))
    granted("nas.example:443", own, said, str(PUBLIC_4))
    assert reason("nas.example:443", OTHER, said, str(PUBLIC_4)) is Reason.NAME_DENIED


@pytest.mark.parametrize("locked", ["169.254.169.254", "168.63.129.16", "0.0.0.0", "::", "127.0.0.1"])
def test_attack_2_16_2_17_no_permit_of_a_client_opens_what_is_locked(locked: str) -> None:
    """127.0.0.1:3128 is proxyd itself."""
    own = replace(CLIENT, permit=(permit("nas.local", "0.0.0.0/0", "::/0", ports=[3128]),))
    said = beside(own, own=Own(frozenset({3128})))
    assert reason("nas.local:3128", own, said, locked) is Reason.ADDRESS_LOCKED
    granted("nas.local:3128", own, said, "10.0.0.1")


def test_a_permit_of_a_client_holds_through_its_last_day_whichever_client_is_asked_for() -> None:
    """The client may be the policy's own, with all its permits: which of them live is the snapshot's to know."""
    own = replace(CLIENT, permit=(permit("nas.local", "10.0.0.0/8", expires=TODAY),))
    granted("nas.local:443", own, beside(own), "10.0.0.1")
    later = beside(own, today=TODAY + timedelta(days=1))
    assert reason("nas.local:443", own, later, "10.0.0.1") is Reason.NAME_RESERVED
    assert reason("nas.local:443", later.policy.client[0], later, "10.0.0.1") is Reason.NAME_RESERVED


def test_r12_a_client_of_another_policy_brings_nothing_with_it() -> None:
    before = replace(
        CLIENT,
        destinations=OwnDestinations(default="allow", mode="report"),
        permit=(permit("nas.local", "10.0.0.0/8"),),
    )
    said = world(default="deny")
    assert reason("nas.local:443", before, said, "10.0.0.1") is Reason.NAME_RESERVED
    assert reason("example.com:443", before, said) is Reason.NOT_ALLOWLISTED
    with pytest.raises(KeyError):
        judge("example.com:443", replace(before, name="gone"), said)


# Where it leaves from


def test_r10_an_allow_says_where_the_connection_leaves_from() -> None:
    egress = Egress(addresses=addresses("10.0.0.7"), interface="eth0", mark=7)
    own = replace(CLIENT, egress=egress)
    said = beside(own)
    for target, answer in (("8.8.8.8:443", ()), ("example.com:443", (str(PUBLIC_4),))):
        assert granted(target, own, said, *answer).egress == egress
        assert granted(target, OTHER, said, *answer).egress == Egress()


# A property


TARGETS = ("nas.local:443", "a.example:443", "a.example:22", "metadata.goog:443", "10.0.0.1:443", "8.8.8.8:443")
ANSWERS = ("10.0.0.1", "8.8.8.8", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1")


@given(
    st.sampled_from(TARGETS),
    st.sampled_from(ANSWERS),
    st.lists(st.sampled_from([permit("nas.local", "10.0.0.0/8"), permit("a.example", "0.0.0.0/0")]), max_size=1),
    st.lists(st.sampled_from([deny(hosts=["a.example"]), deny(networks=["8.8.8.0/24"])]), max_size=1),
    st.sampled_from(["allow", "deny"]),
)
def test_r12_what_is_said_of_one_client_alone_changes_no_verdict_of_another(
    target: str, answer: str, permits: list[Any], denies: list[Any], default: str
) -> None:
    own = replace(
        CLIENT,
        permit=tuple(permits),
        deny=tuple(denies),
        allow=(allow("a.example"),),
        destinations=OwnDestinations(default="allow", mode="report", ports=spans(22, 443)),
    )
    for found in ((), (answer,)):
        assert judge(target, OTHER, beside(own, default=default), *found) == judge(
            target, OTHER, beside(CLIENT, default=default), *found
        )
