"""What would allow a denied request: it does, it is as small as can be, and what is locked has none (R8, R9, R12)."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import date
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.policy.address import Destination, Resolution, parse_authority
from proxyd.policy.client import Client
from proxyd.policy.remedy import Remedy, remedy
from proxyd.policy.snapshot import Snapshot
from proxyd.policy.special import locked_address
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, Deny, decide
from tests.policy.test_reach import ADDRESSES, NAMES, PORTS, snapshots
from tests.policy.worlds import CLIENT, MINIMAL, TODAY, addresses, allow, loaded, nets, policy, world

OTHER: Final = Client(name="other", networks=nets("10.0.0.0/8"))


def helped(authority: str, *found: str, snapshot: Snapshot | None = None, client: Client = CLIENT) -> Remedy | None:
    """What would allow it."""
    snapshot = snapshot or world()
    answer = Resolution(addresses(*found)) if found else None
    destination = parse_authority(authority)
    verdict = decide(destination, client, snapshot, answer)
    assert isinstance(verdict, Deny)
    return remedy(destination, client, snapshot, answer, verdict)


def row(help_: Remedy | None) -> dict[str, Any]:
    """The one row of it."""
    assert help_ is not None
    return tomllib.loads(help_.toml)


@settings(max_examples=100, deadline=None)
@given(snapshots(), st.sampled_from(NAMES), st.sampled_from(PORTS), st.sets(st.sampled_from(ADDRESSES), min_size=1))
def test_what_is_said_to_allow_it_does_and_nothing_opens_what_is_locked(
    snapshot: Snapshot, name: str, port: int, found: set[Any]
) -> None:
    destination, answer = Destination(name, port), Resolution(tuple(found))
    client = snapshot.policy.client[0]
    verdict = decide(destination, client, snapshot, answer)
    if not isinstance(verdict, Deny):
        return
    help_ = remedy(destination, client, snapshot, answer, verdict)
    if any(locked_address(address) for address in found):
        assert help_ is None
    if help_ is not None:
        changed = help_.snapshot.policy.client[0]
        assert isinstance(decide(destination, changed, help_.snapshot, answer), Allow)


def test_a_miss_of_the_allowlist_takes_one_host_and_port_more() -> None:
    help_ = helped("api.example.com:443", snapshot=world(default="deny"))
    assert row(help_) == {"allow": [{"hosts": ["api.example.com"], "ports": [443], "reason": "say why"}]}


@pytest.mark.parametrize(
    ("authority", "found", "networks"),
    [
        ("10.0.0.5:80", (), ["10.0.0.5/32"]),
        ("[fd00::5]:80", (), ["fd00::5/128"]),
        ("localhost:80", (), ["127.0.0.1/32", "::1/128"]),
        ("nas.local:80", ("10.0.0.5", "fd00::5"), ["10.0.0.5/32", "fd00::5/128"]),
        ("example.com:22", ("93.184.216.34",), ["93.184.216.34/32"]),
    ],
)
def test_r9_what_is_refused_by_port_name_or_address_takes_a_permit_for_just_that(
    authority: str, found: tuple[str, ...], networks: list[str]
) -> None:
    host, _, port = authority.rpartition(":")
    permit = {"host": host.strip("[]"), "ports": [int(port)], "networks": networks, "reason": "say why"}
    assert row(helped(authority, *found)) == {"permit": [permit]}


@pytest.mark.parametrize("authority", ["169.254.169.254:80", "metadata.google.internal:80", "0.0.0.0:80"])
def test_attack_2_16_what_is_locked_has_none(authority: str) -> None:
    assert helped(authority) is None
    assert helped("nas.local:80", "169.254.169.254") is None


def test_what_depends_on_its_addresses_has_none_before_they_are_known() -> None:
    assert helped("nas.local:80") is None


def test_where_the_address_of_what_is_not_listed_is_refused_too_it_takes_a_permit() -> None:
    help_ = helped("api.example.com:443", "10.0.0.5", snapshot=world(default="deny"))
    assert list(row(help_)) == ["permit"]


def test_of_several_clients_only_this_one_is_helped() -> None:
    both = Snapshot.of(replace(policy(), client=(CLIENT, OTHER)), TODAY)
    help_ = helped("10.0.0.5:80", snapshot=both)
    assert help_ is not None
    assert (help_.beneath, list(row(help_)), list(row(help_)["client"])) == ("agent", ["client"], ["permit"])
    destination = parse_authority("10.0.0.5:80")
    agent, other = help_.snapshot.policy.client
    assert isinstance(decide(destination, agent, help_.snapshot), Allow)
    assert isinstance(decide(destination, other, help_.snapshot), Deny)


def test_an_allowlist_of_its_own_is_the_one_that_counts() -> None:
    own = replace(CLIENT, allow=(allow("a.com"),))
    snapshot = Snapshot.of(replace(policy(default="deny"), client=(own,)), TODAY)
    help_ = helped("b.com:443", snapshot=snapshot, client=own)
    assert help_ is not None
    assert (help_.beneath, row(help_)["client"]["allow"][0]["hosts"]) == ("agent", ["b.com"])
    (changed,) = help_.snapshot.policy.client
    assert decide(parse_authority("b.com:443"), changed, help_.snapshot) is NEED_ADDRESSES


@pytest.mark.parametrize("authority", ["10.0.0.5:80", "localhost:8080", "api.example.com:443"])
def test_it_can_be_pasted(authority: str) -> None:
    """R8: what `explain` prints is a good policy, put at the end of the file."""
    help_ = helped(authority, snapshot=Snapshot.of(loaded(MINIMAL), date(2026, 8, 1)))
    assert help_ is not None
    assert loaded(f"{MINIMAL}{help_.toml}\n").digest
