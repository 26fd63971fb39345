"""The judge where the network is not what it seems: a VPN client that answers for every name, and a parent proxy.

R3, R5, R12, ATTACKS 2.6, 2.15, 2.16, 2.17. Translators are in test_verdict.
"""

from __future__ import annotations

from typing import Any

import pytest
from netaddr import IPAddress

from proxyd.policy.address import Endpoint, Resolution, parse_authority
from proxyd.policy.dns import Dns
from proxyd.policy.model import Parent
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.verdict import Allow, Deny, NeedAddresses, Reason, decide
from tests.policy.worlds import CLIENT, PUBLIC_4, addresses, allow, deny, nets, permit, world


def judge(target: str, snapshot: Snapshot, *answer: str, chain: tuple[str, ...] = ()) -> Allow | Deny | NeedAddresses:
    found = Resolution(addresses(*answer), chain) if answer else None
    return decide(parse_authority(target), CLIENT, snapshot, found)


def reason(target: str, snapshot: Snapshot, *answer: str, chain: tuple[str, ...] = ()) -> Reason:
    verdict = judge(target, snapshot, *answer, chain=chain)
    assert isinstance(verdict, Deny)
    return verdict.reason


def faking(*ranges: str, **said: Any) -> Snapshot:  # noqa: ANN401
    """A world in which a VPN client answers from these ranges."""
    return world(dns=Dns(dangerously_allow_fake_ip=nets(*ranges)), **said)


# A VPN client that answers for every name


@pytest.mark.parametrize(("fake", "answer"), [("198.18.0.0/15", "198.18.0.7"), ("fc00::/18", "fc00::7")])
def test_attack_2_15_a_name_that_resolves_into_a_declared_fake_range_is_reached(fake: str, answer: str) -> None:
    verdict = judge("example.com:443", faking(fake), answer)
    assert isinstance(verdict, Allow)
    assert (verdict.addresses, verdict.permitted) == (addresses(answer), False)
    assert reason("example.com:443", world(), answer) is Reason.ADDRESS_DENIED


def test_the_shipped_row_for_that_range_has_no_say_then() -> None:
    """Each shipped policy names these ranges in its denylist."""
    said = faking("198.18.0.0/15", deny=(deny(networks=["198.18.0.0/15"]),))
    assert isinstance(judge("example.com:443", said, "198.18.0.7"), Allow)


def test_r12_a_fake_range_opens_what_is_declared_and_no_more() -> None:
    said = faking("198.18.0.0/16")
    for answer in ("198.19.0.1", "10.0.0.1", "127.0.0.1", "fc00::1", "::ffff:198.18.0.7"):
        assert reason("example.com:443", said, answer) is Reason.ADDRESS_DENIED
    assert reason("example.com:443", said, "198.18.0.7", "10.0.0.1") is Reason.ADDRESS_DENIED
    assert reason("example.com:443", said, "10.0.0.1", "198.18.0.7") is Reason.ADDRESS_DENIED


def test_r5_a_fake_address_that_is_asked_for_as_such_is_refused() -> None:
    """A VPN client answers for names; who asks for the address itself was told it by somebody."""
    said = faking("198.18.0.0/15", "fc00::/18")
    assert reason("198.18.0.7:443", said) is Reason.ADDRESS_DENIED
    assert reason("[fc00::7]:443", said) is Reason.ADDRESS_DENIED


@pytest.mark.parametrize("locked", ["fd00:ec2::254", "fd20:ce::254", "fd00::5efe:a9fe:a9fe", "fd00:c1::a9fe:a9fe"])
def test_attack_2_16_no_fake_range_opens_what_is_locked(locked: str) -> None:
    assert reason("example.com:443", faking("fc00::/7"), locked) is Reason.ADDRESS_LOCKED


def test_attack_2_17_no_fake_range_opens_proxyd_itself() -> None:
    own = Own(frozenset({8080}), frozenset(nets("198.18.0.0/16")))
    assert reason("example.com:8080", faking("198.18.0.0/15", own=own), "198.18.0.7") is Reason.ADDRESS_LOCKED
    assert isinstance(judge("example.com:8080", faking("198.18.0.0/15", own=own), "198.19.0.7"), Allow)


@pytest.mark.parametrize(
    ("target", "chain", "why"),
    [
        ("example.com:22", (), Reason.PORT_DENIED),
        ("metadata.goog:443", (), Reason.NAME_LOCKED),
        ("denied.example:443", (), Reason.NAME_DENIED),
        ("printer.local:443", (), Reason.NAME_RESERVED),
        ("missed.example:443", (), Reason.NOT_ALLOWLISTED),
        ("good.example:443", ("metadata.goog",), Reason.NAME_LOCKED),
        ("good.example:443", ("denied.example",), Reason.NAME_DENIED),
        ("good.example:443", ("x.internal",), Reason.NAME_RESERVED),
    ],
)
def test_r6_names_are_judged_as_ever_where_addresses_are_fake(target: str, chain: tuple[str, ...], why: Reason) -> None:
    said = faking(
        "198.18.0.0/15", default="deny", deny=(deny(hosts=["denied.example"]),), allow=(allow("good.example"),)
    )
    assert reason(target, said, "198.18.0.7", chain=chain) is why
    assert isinstance(judge("good.example:443", said, "198.18.0.7"), Allow)


# A parent proxy


def behind(parent: str, **said: Any) -> Snapshot:  # noqa: ANN401
    """A world whose connections leave through a parent at this address, port 3128."""
    return world(parent=Parent(address=Endpoint(IPAddress(parent), 3128)), **said)


@pytest.mark.parametrize(
    ("parent", "answer"),
    [("93.184.216.34", "93.184.216.34"), ("10.0.0.7", "10.0.0.7"), ("fd00::7", "fd00::7"), ("::1", "::1")],
)
def test_attack_2_17_nobody_reaches_the_parent_as_a_destination(parent: str, answer: str) -> None:
    """It would connect to whatever it is asked for, and nothing of that would be judged."""
    said = behind(parent, permit=(permit("parent.example", "0.0.0.0/0", "::/0", ports=[3128, 3129]),))
    verdict = judge("parent.example:3128", said, answer)
    assert verdict == Deny(Reason.ADDRESS_LOCKED, "the parent proxy", address=IPAddress(answer))
    assert isinstance(judge("parent.example:3129", said, answer), Allow)


def test_attack_2_6_nor_by_an_address_that_carries_the_parents() -> None:
    said = behind("10.0.0.7", permit=(permit("parent.example", "0.0.0.0/0", "::/0", ports=[3128]),))
    for carrier in ("::ffff:10.0.0.7", "64:ff9b::a00:7", "2002:a00:7::1"):
        verdict = judge("parent.example:3128", said, carrier)
        assert verdict == Deny(Reason.ADDRESS_LOCKED, "the parent proxy", address=IPAddress(carrier))


def test_r3_through_a_parent_destinations_are_judged_as_ever() -> None:
    said = behind("192.0.2.7")
    assert reason("example.com:443", said, "10.0.0.1") is Reason.ADDRESS_DENIED
    assert reason("metadata.goog:443", said) is Reason.NAME_LOCKED
    verdict = judge("example.com:443", said, str(PUBLIC_4))
    assert isinstance(verdict, Allow)
    assert verdict.addresses == (PUBLIC_4,)
