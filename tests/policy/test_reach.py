"""What a change opens and closes: exactly where `decide` says otherwise than before, for any destination (R8)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.policy.address import Destination, Resolution
from proxyd.policy.atoms import OTHER, OTHER_LABEL, Atoms
from proxyd.policy.client import Client, Credential, OwnDestinations
from proxyd.policy.reach import Answer, Change, Literal, Name, Permitted, Reached, compare, reach
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.verdict import Allow, decide
from tests.policy.worlds import CLIENT, TODAY, addresses, allow, deny, nets, permit, policy, world

if TYPE_CHECKING:
    from netaddr import IPAddress

HOSTS: Final = ("a.com", "*.a.com", "b.a.com", "*.b.a.com", "nas.local", "*.net", "x0.net", "localhost", "10.0.0.5")
NAMES: Final = ("a.com", "c.a.com", "b.a.com", "y.b.a.com", "nas.local", "net", "x0.net", "z.net", "else.org", "short")
NETWORKS: Final = ("10.0.0.0/8", "10.0.0.4/30", "93.184.216.0/24", "93.184.216.34/32", "fd00::/8", "2606::/16")
ADDRESSES: Final = addresses(
    *("10.0.0.5", "10.0.0.8", "11.0.0.1", "93.184.216.34", "93.184.216.35", "127.0.0.1"),
    *("169.254.169.254", "fd00::1", "2606::1"),
)
PORTS: Final = (22, 80, 443, 8443)

hosts = st.lists(st.sampled_from(HOSTS), min_size=1, max_size=3, unique=True)
ports = st.lists(st.sampled_from(PORTS), min_size=1, max_size=3, unique=True)
networks = st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=3, unique=True)
denies = st.builds(lambda names, where: deny(hosts=names, networks=where), hosts, networks)
allows = st.builds(lambda names, opened: allow(*names, ports=opened), hosts, ports)
permits = st.builds(
    lambda host, where, opened: permit(host, *where, ports=opened),
    st.sampled_from([host for host in HOSTS if not host.startswith("*.")]),
    networks,
    ports,
)
clients = st.builds(
    lambda destinations, denied, allowed, permitted: replace(
        CLIENT, destinations=destinations, deny=denied, allow=allowed, permit=permitted
    ),
    st.builds(OwnDestinations, default=st.sampled_from([None, "allow"]), mode=st.sampled_from([None, "report"])),
    st.lists(denies, max_size=1).map(tuple),
    st.lists(allows, max_size=1).map(tuple),
    st.lists(permits, max_size=1).map(tuple),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A policy of one client, on a day."""
    rows: dict[str, Any] = {
        "deny": tuple(draw(st.lists(denies, max_size=2))),
        "allow": tuple(draw(st.lists(allows, max_size=2))),
        "permit": tuple(draw(st.lists(permits, max_size=2))),
    }
    said = policy(default=draw(st.sampled_from(["allow", "deny"])), ports=draw(st.one_of(st.just([]), ports)), **rows)
    return Snapshot.of(replace(said, client=(draw(clients),)), TODAY, Own(frozenset({8443})))


def atom_of(name: str, atoms: Atoms) -> int:
    """The atom that a name is in: itself, what is below the longest that is known, or all others."""
    labels = [label for label, _ in atoms.names]
    parts = name.split(".")
    above = [".".join(("*", *parts[cut:])) for cut in range(1, len(parts))]
    return labels.index(
        next(each for each in (name, *above, OTHER if len(parts) > 1 else OTHER_LABEL) if each in labels)
    )


def span_of(port: int, atoms: Atoms) -> int:
    """The atom of a port."""
    return next(number for number, each in enumerate(atoms.ports) if port in each)


def place_of(address: IPAddress, atoms: Atoms) -> int:
    """The atom of an address."""
    return next(number for number, (first, last) in enumerate(atoms.addresses) if first <= address <= last)


def reaches(reached: set[Reached], name: str, port: int, address: IPAddress, atoms: Atoms) -> bool:
    """Whether a request for that name and port is among it, if the name leads to that address."""
    span, place = span_of(port, atoms), place_of(address, atoms)
    if (name, span) in atoms.permitted:
        return Permitted(name, span, place) in reached
    return Name(atom_of(name, atoms), span) in reached and Answer(place) in reached


@settings(max_examples=20, deadline=None)
@given(snapshots(), snapshots(), st.data())
def test_it_says_that_something_is_reached_exactly_where_the_judge_allows_it(
    old: Snapshot, new: Snapshot, data: st.DataObject
) -> None:
    """So that what a change opens is exactly where `decide` changes from Deny to Allow: the rest is set arithmetic."""
    atoms = Atoms((old, new))
    for snapshot in (old, new):
        reached, client = reach(CLIENT.name, snapshot, atoms), snapshot.policy.client[0]
        for _ in range(40):
            name, port = data.draw(st.sampled_from(NAMES)), data.draw(st.sampled_from(PORTS))
            address = data.draw(st.sampled_from(ADDRESSES))
            verdict = decide(Destination(name, port), client, snapshot, Resolution((address,)))
            assert reaches(reached, name, port, address, atoms) == isinstance(verdict, Allow), (name, port, address)
            literal = Destination(str(address), port, address)
            among = Literal(place_of(address, atoms), span_of(port, atoms)) in reached
            assert among == isinstance(decide(literal, client, snapshot), Allow), literal


def told(old: Snapshot, new: Snapshot) -> list[Change]:
    """Every change."""
    return list(compare(old, new))


def has(change: Change, port: int) -> bool:
    """Whether a port is among those that are told."""
    spans = [tuple(map(int, each.split("-"))) for each in change.ports]
    return any(span[0] <= port <= span[-1] for span in spans)


def test_of_a_policy_and_itself_there_is_nothing_to_tell() -> None:
    said = world(deny=(deny(hosts=["a.com"]),), permit=(permit("nas.local", "10.0.0.0/8"),))
    assert told(said, said) == []


def test_a_permit_opens_its_host_at_its_networks_and_is_of_the_highest_severity() -> None:
    (change,) = told(world(default="deny"), world(default="deny", permit=(permit("nas.local", "10.0.0.0/30"),)))
    assert (change.client, change.opens, change.kind, change.hosts) == ("agent", True, "permits", ("nas.local",))
    assert (change.ports, change.at, change.special, change.severity) == (("443",), ("10.0.0.0/30",), True, "high")


def test_a_permit_for_localhost_is_told_with_the_addresses_that_localhost_has() -> None:
    new = world(permit=(permit("localhost", "127.0.0.0/8", ports=[11434]),))
    assert [(each.kind, each.hosts, each.at) for each in told(world(), new)] == [
        ("permits", ("localhost",), ("127.0.0.1/32",))
    ]


def test_a_permit_for_a_literal_opens_that_literal_and_no_name() -> None:
    (change,) = told(world(), world(permit=(permit("10.0.0.5", "10.0.0.0/8", ports=[80]),)))
    assert (change.kind, change.hosts, change.ports, change.special) == ("literals", ("10.0.0.5/32",), ("80",), True)


def test_from_an_allowlist_to_everything_is_told_in_a_few_lines() -> None:
    changes = told(world(default="deny", allow=(allow("a.com"),)), world())
    assert all(each.opens for each in changes)
    assert {each.kind for each in changes} == {"names", "literals"}
    everything = next(each for each in changes if OTHER in each.hosts)
    assert (everything.severity, has(everything, 443), has(everything, 22)) == ("high", True, False)
    assert not any(has(each, 443) for each in changes if "a.com" in each.hosts)


def test_a_wider_deny_closes_addresses_for_names_and_literals() -> None:
    changes = told(world(), world(deny=(deny(networks=["93.184.216.0/24"]),)))
    assert {(each.kind, each.opens, each.hosts, each.severity) for each in changes} == {
        ("answers", False, ("93.184.216.0/24",), "low"),
        ("literals", False, ("93.184.216.0/24",), "low"),
    }


def test_what_is_of_no_consequence_is_not_told() -> None:
    """A row that repeats what the built-in table says changes the text, and nobody's reach."""
    assert told(world(), world(deny=(deny(networks=["10.0.0.0/8"]),))) == []


def test_a_client_that_is_new_opens_all_that_it_reaches() -> None:
    before = policy(default="deny", allow=(allow("a.com"),))
    after = replace(before, client=(CLIENT, Client(name="other", networks=nets("10.0.0.0/8"))))
    changes = told(Snapshot.of(before, TODAY), Snapshot.of(after, TODAY))
    assert {each.client for each in changes} == {"other"}
    assert ("names", ("a.com",)) in {(each.kind, each.hosts) for each in changes}


SECRET: Final = Credential(user="bob", file="x")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"networks": nets("10.0.0.0/24")}, {"networks": nets("10.0.0.0/23")}, [(True, "10.0.1.0/24")]),
        ({"networks": nets("10.0.0.0/24")}, {"networks": nets("10.0.0.0/25")}, [(False, "10.0.0.128/25")]),
        ({"users": (1,)}, {"users": (1, "bob")}, [(True, "account bob")]),
        ({"users": (1, "bob")}, {"users": (1,)}, [(False, "account bob")]),
        ({"users": (1,)}, {"networks": nets("0.0.0.0/0", "::/0")}, [(True, "any account")]),
        ({"networks": nets("0.0.0.0/0", "::/0")}, {"users": (1,)}, [(False, "any account")]),
        ({"users": (1,), "credential": SECRET}, {"users": (1,)}, [(True, "no credential")]),
        ({"users": (1,)}, {"users": (1,), "credential": SECRET}, [(False, "credential of bob")]),
        ({"credential": SECRET}, {"credential": replace(SECRET, file="y")}, [(True, "credential of bob")]),
    ],
)
def test_r2_who_may_be_a_client_is_told_too(
    before: dict[str, Any], after: dict[str, Any], expected: list[tuple[bool, str]]
) -> None:
    """Somebody else being let in opens everything to them."""
    old, new = (
        Snapshot.of(replace(policy(), client=(Client(name="agent", **some),)), TODAY) for some in (before, after)
    )
    changes = told(old, new)
    assert [(each.opens, *each.hosts) for each in changes] == expected
    assert all((each.kind, each.severity) == ("peers", "high" if each.opens else "low") for each in changes)
