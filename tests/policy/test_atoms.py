"""Everything cut at the boundaries: the atoms lie side by side, leave nothing out, and end where a row does (R8)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from netaddr import IPAddress

from proxyd.policy.address import Endpoint
from proxyd.policy.atoms import OTHER, Atoms
from proxyd.policy.client import Client, OwnDestinations
from proxyd.policy.model import Parent
from proxyd.policy.names import NameTable
from proxyd.policy.snapshot import Own, Snapshot
from tests.policy.worlds import CLIENT, TODAY, allow, deny, nets, permit, policy, spans, world

if TYPE_CHECKING:
    from proxyd.policy.model import Policy


def cut(**said: Any) -> Atoms:  # noqa: ANN401 - as `policy` has it
    """The atoms of one policy."""
    return Atoms((world(**said),))


def test_ports_are_all_there_once_those_together_that_nothing_tells_apart() -> None:
    atoms = cut(allow=(allow("a.com", ports=[443, 8000]),), ports=[80])
    spans = sorted((span for each in atoms.ports for span in each.spans), key=lambda span: span.start)
    assert (spans[0].start, spans[-1].stop) == (1, 65536)
    assert all(one.stop == other.start for one, other in pairwise(spans))
    found = [each.spans for each in atoms.ports]
    assert {(range(443, 444), range(8000, 8001)), (range(80, 81),)} <= set(found)
    assert len(found) == 4, "the bad ports are one atom, and all others"
    assert all(each.port == each.spans[0].start for each in atoms.ports)


def test_addresses_that_stand_among_the_hosts_are_told_apart() -> None:
    atoms = cut(
        deny=(deny(hosts=["93.184.216.9"]),),
        permit=(permit("93.184.216.7", "93.184.216.0/24"), permit("a.com", "::/0")),
    )
    places = {place.spans[0].first: place for place in atoms.addresses}
    for literal in ("93.184.216.7", "93.184.216.9"):
        assert len(places[int(IPAddress(literal))].spans) == 1


def test_names_are_themselves_what_is_below_them_and_all_others() -> None:
    atoms = cut(deny=(deny(hosts=["a.com", "*.b.com", "10.0.0.1"]),), permit=(permit("x0.b.com", "10.0.0.0/8"),))
    names = {label: each.name for each in atoms.names for label in each.labels}
    assert names["a.com"] == "a.com"
    assert names["*.b.com"] == names["*.x0.b.com"] == "a.com", "the same row denies them"
    assert names[OTHER] == names["*.a.com"] == names["b.com"] == "b.com"
    alone = cut(allow=(allow("*.b.com", "x0.b.com", ports=[1]), allow("x0.b.com", ports=[2])))
    assert {"x0.b.com", "x1.b.com"} <= {each.name for each in alone.names}, "x0.b.com is somebody"
    assert len({each.name for each in atoms.names}) == len(atoms.names)
    assert "10.0.0.1" not in names


def test_of_many_names_that_one_row_denies_one_is_asked() -> None:
    """A blocklist of thousands of names is one atom more than an empty one."""
    some = cut(deny=(deny(hosts=[f"h{number}.a.com" for number in range(500)]),))
    assert len(some.names) == len(cut().names) + 1
    assert some.names_in_words(range(len(some.names))).count("h499.a.com") == 1


def test_one_of_an_atom_matches_what_all_of_it_match() -> None:
    """The name that stands for `*.x` is below x, and not at or below anything else that is known."""
    patterns = ("a.com", "*.b.a.com", "*.com", "x0.com", "x1.com")
    atoms = cut(allow=tuple(allow(pattern, ports=[port]) for port, pattern in enumerate(patterns, 100)))
    table = NameTable((pattern, pattern) for pattern in patterns)
    for each in atoms.names:
        for label in each.labels:
            if label in patterns:
                assert next(table.matches(each.name)) == label


def test_permits_are_known_by_name_and_port_whoever_has_them() -> None:
    mine = Client(name="mine", networks=nets("10.0.0.0/8"), permit=(permit("own.local", "10.0.0.0/8", ports=[81]),))
    said = policy(permit=(permit("nas.local", "10.0.0.0/8"), permit("10.0.0.5", "10.0.0.0/8")))
    atoms = Atoms((Snapshot.of(said, TODAY), Snapshot.of(policy_of(mine), TODAY)))
    assert {(host, atoms.ports[port].port) for host, port in atoms.permitted} == {
        ("nas.local", 443),
        ("own.local", 81),
    }


def policy_of(*clients: Client) -> Policy:
    """A policy with these clients too."""
    return replace(policy(), client=(CLIENT, *clients))


def test_ports_of_clients_and_of_proxyd_itself_are_boundaries() -> None:
    mine = Client(name="mine", networks=nets("10.0.0.0/8"), destinations=OwnDestinations(ports=spans(8081)))
    atoms = Atoms((Snapshot.of(policy_of(mine), TODAY, Own(frozenset({3128}))),))
    found = {each.spans: each.own for each in atoms.ports}
    assert (found[range(8081, 8082),], found[range(3128, 3129),]) == ((False,), (True,))


def test_a_parents_port_is_one_at_which_addresses_are_another_matter() -> None:
    (own,) = (
        each for each in cut(parent=Parent(address=Endpoint(IPAddress("192.0.2.7"), 8080))).ports if any(each.own)
    )
    assert own.spans == (range(8080, 8081),)


def test_in_words_as_few_spans_as_will_do() -> None:
    atoms = cut(ports=[80, 81, 443], allow=(allow("a.com", ports=[81]),))
    numbers = [number for number, each in enumerate(atoms.ports) if each.port in (80, 81)]
    assert len(numbers) == 2
    assert atoms.ports_in_words(numbers) == ("80-81", "443")
    everything = range(len(atoms.addresses))
    assert atoms.networks_in_words(everything) == ("0.0.0.0/0", "::/0")
    assert atoms.are_special(everything)
    assert not atoms.are_special(
        number for number, place in enumerate(atoms.addresses) if place.spans[0].first == int(IPAddress("1.0.0.0"))
    )


def test_the_atoms_within_the_networks_of_a_permit_are_those_that_it_opens() -> None:
    row = permit("a.com", "93.184.216.0/24", "fd00::/8")
    atoms = cut(permit=(row, permit("b.com", "93.184.216.0/30")))
    opened = {number for number, place in enumerate(atoms.addresses) if row.opens(place.address)}
    assert len(opened) > 2
    assert atoms.within(row.networks) == opened == atoms.within(row.networks)
