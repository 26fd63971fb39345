"""All addresses, cut at the boundaries: each in one place, what it carries told apart where it matters (R8)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from proxyd.policy.address import Endpoint
from proxyd.policy.dns import Dns
from proxyd.policy.embedded import embedded_ipv4, is_isatap
from proxyd.policy.model import Parent
from proxyd.policy.places import Ground, Place, Span, in_words
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.special import special_address
from tests.policy.worlds import TODAY, deny, nets, permit, policy, world


def cut(*snapshots: Snapshot, **said: Any) -> tuple[Place, ...]:  # noqa: ANN401 - as `policy` has it
    """The places of one policy, or of these."""
    return Ground(snapshots or (world(**said),), {}).places


def spans(places: tuple[Place, ...]) -> list[Span]:
    """All of them, in order."""
    every = [span for place in places for span in place.spans]
    return sorted(every, key=lambda span: (span.version, span.first))


@pytest.mark.parametrize("version", [4, 6])
def test_addresses_are_all_there_once(version: int) -> None:
    found = [span for span in spans(cut(deny=(deny(networks=["93.184.216.0/24"]),))) if span.version == version]
    assert found[0].first == 0
    assert found[-1].last == (1 << (32 if version == 4 else 128)) - 1
    assert all(one.last + 1 == other.first for one, other in pairwise(found))


def test_addresses_end_where_a_network_of_any_kind_does() -> None:
    said = policy(
        deny=(deny(networks=["93.184.216.0/24"]),),
        permit=(permit("nas.local", "10.0.0.4/30"),),
        dns=Dns(nat64=nets("2001:4860:4860::/96"), dangerously_allow_fake_ip=nets("198.18.5.0/24")),
        parent=Parent(address=Endpoint(IPAddress("192.0.2.7"), 3128)),
    )
    own = Own(frozenset({3128}), frozenset(nets("10.7.0.0/16")))
    literals = {IPAddress("10.9.9.9"): "a host"}
    firsts = {(span.version, span.first) for span in spans(Ground((Snapshot.of(said, TODAY, own),), literals).places)}
    for network in (
        *("93.184.216.0/24", "10.9.9.9/32", "10.0.0.4/30", "2001:4860:4860::/96", "198.18.5.0/24"),
        *("192.0.2.7/32", "10.7.0.0/16", "127.0.0.1/32", "::1/128"),
    ):
        span = IPNetwork(network)
        assert (span.version, span.first) in firsts, network
        assert (span.version, span.last + 1) in firsts, network


def test_of_many_networks_that_one_row_denies_one_address_is_asked() -> None:
    some = cut(deny=(deny(networks=[f"20.0.{number}.0/24" for number in range(200)]),))
    assert len(some) == len(cut()) + 1


def carried_by(places: tuple[Place, ...], network: str) -> set[str]:
    """What is carried by those that stand for a part of that network; nothing, where one carries nothing."""
    within = IPNetwork(network)
    found = [place.address for place in places if place.address in within]
    return {str(each) for address in found for each in embedded_ipv4(address)} | {
        "nothing" for address in found if not list(embedded_ipv4(address))
    }


@pytest.mark.parametrize(
    "network",
    [
        *("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"),
        *("2002:800::/24", "2001:0:808:808::/64", "64:ff9b:1:800::/56"),
    ],
)
def test_attack_2_under_a_permit_a_carrier_is_asked_with_all_that_can_be_told_apart(network: str) -> None:
    """One that carries nothing but public addresses is among them, and one that carries another."""
    said = permit("x.example", network)
    kinds = [
        {special_address(each) is None for each in embedded_ipv4(place.address)}
        for place in cut(permit=(said,), deny=(deny(networks=["8.8.8.0/24"]),))
        if place.address in said.networks[0] and place.address not in nets("::/127")
    ]
    assert {True} in kinds
    assert any(False in each for each in kinds)


def test_attack_2_11_isatap_is_asked_beside_what_is_none() -> None:
    carried = carried_by(cut(permit=(permit("x.example", "2606::/32"),)), "2606::/32")
    assert "nothing" in carried
    assert len(carried) > 2


def test_attack_2_11_an_isatap_address_stands_for_isatap_addresses_only() -> None:
    """The network behind one of them begins with an ISATAP address."""
    rows = (deny(networks=["2606::5efd:0:0/96"]),)
    for place in cut(deny=rows):
        for span in place.spans:
            all_are = span.first >> 32 == span.last >> 32
            assert all_are or not is_isatap(place.address)
    (only,) = {place.address for place in cut(deny=(deny(networks=["2606::5efe:0:0/96"]),)) if is_isatap(place.address)}
    assert str(only) == "2606::5efe:0:0"


def test_what_fills_the_rest_is_an_address_that_no_row_denies() -> None:
    """Else nothing would be seen of a permit for what carries two."""
    rows = (deny(networks=["4.0.0.0/8", "5.5.5.0/24", "6.6.6.6/32"]),)
    places = cut(permit=(permit("x.example", "2001::/32"),), deny=rows)
    assert "7.7.7.7" in carried_by(places, "2001::/32")
    everything = cut(permit=(permit("x.example", "2001::/32"),), deny=(deny(networks=["0.0.0.0/0"]),))
    assert "223.223.223.223" in carried_by(everything, "2001::/32")


def test_a_place_is_special_if_its_addresses_are() -> None:
    for place in cut():
        assert place.special is (special_address(place.address) is not None)
    assert {place.special for place in cut()} == {True, False}


def test_in_words_as_few_networks_as_will_do() -> None:
    ten, eleven = (Span(4, number << 24, (number + 1 << 24) - 1) for number in (10, 11))
    assert in_words((eleven, ten)) == ("10.0.0.0/7",)
    first, last = int(IPAddress("2002::")), int(IPAddress("2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
    low, high = (
        Span(6, first, last, ((start, stop),)) for start, stop in ((0, (1 << 31) - 1), (1 << 31, (1 << 32) - 1))
    )
    assert in_words((low,)) == ("2002::/16 carrying 0.0.0.0/1",)
    assert in_words((low, high, low)) == ("2002::/16",)
    assert in_words((low, Span(6, first, last))) == ("2002::/16", "2002::/16 carrying 0.0.0.0/1")
    assert in_words((Span(6, first, last, ((0, (1 << 32) - 1),)),)) == ("2002::/16",)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, unique=True))
def test_in_words_nothing_is_lost(numbers: list[int]) -> None:
    words = in_words(Span(4, number << 8, (number << 8) + 255) for number in numbers)
    assert sum(IPNetwork(word).size for word in words) == 256 * len(numbers)
