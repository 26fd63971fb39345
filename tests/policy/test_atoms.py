"""Everything cut at the boundaries: the atoms lie side by side, leave nothing out, and end where a row does (R8)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from netaddr import IPAddress, IPNetwork

from proxyd.policy.address import Endpoint
from proxyd.policy.atoms import OTHER, OTHER_LABEL, Atoms
from proxyd.policy.client import Client, OwnDestinations
from proxyd.policy.dns import Dns
from proxyd.policy.model import Parent
from proxyd.policy.names import NameTable
from proxyd.policy.snapshot import Own, Snapshot
from tests.policy.worlds import CLIENT, TODAY, allow, deny, nets, permit, policy, spans, world

if TYPE_CHECKING:
    from proxyd.policy.model import Policy


def cut(**said: Any) -> Atoms:  # noqa: ANN401 - as `policy` has it
    """The atoms of one policy."""
    return Atoms((world(**said),))


def test_ports_are_all_there_once() -> None:
    atoms = cut(allow=(allow("a.com", ports=[443, 8000]),), ports=[80])
    assert (atoms.ports[0].start, atoms.ports[-1].stop) == (1, 65536)
    assert all(one.stop == other.start for one, other in pairwise(atoms.ports))
    assert {range(443, 444), range(8000, 8001), range(80, 81), range(22, 23)} <= set(atoms.ports)


@pytest.mark.parametrize("version", [4, 6])
def test_addresses_are_all_there_once(version: int) -> None:
    atoms = cut(deny=(deny(networks=["93.184.216.0/24"]),), permit=(permit("nas.local", "10.0.0.4/30"),))
    of_version = [(first, last) for first, last in atoms.addresses if first.version == version]
    assert int(of_version[0][0]) == 0
    assert int(of_version[-1][1]) == (1 << (32 if version == 4 else 128)) - 1
    assert all(int(one[1]) + 1 == int(other[0]) for one, other in pairwise(of_version))


def test_addresses_end_where_a_network_of_any_kind_does() -> None:
    said = policy(
        deny=(deny(networks=["93.184.216.0/24"], hosts=["10.9.9.9"]),),
        permit=(permit("nas.local", "10.0.0.4/30"),),
        dns=Dns(nat64=nets("2001:4860:4860::/96"), dangerously_allow_fake_ip=nets("198.18.5.0/24")),
        parent=Parent(address=Endpoint(IPAddress("192.0.2.7"), 3128)),
    )
    own = Own(frozenset({3128}), frozenset(nets("10.7.0.0/16")))
    firsts = {first for first, _ in Atoms((Snapshot.of(said, TODAY, own),)).addresses}
    for network in (
        *("93.184.216.0/24", "10.9.9.9/32", "10.0.0.4/30", "2001:4860:4860::/96", "198.18.5.0/24"),
        *("192.0.2.7/32", "10.7.0.0/16", "127.0.0.1/32", "::1/128"),
    ):
        span = IPNetwork(network)
        assert span.network in firsts, network
        assert IPAddress(span.last + 1, span.version) in firsts, network


def test_names_are_themselves_what_is_below_them_and_all_others() -> None:
    atoms = cut(deny=(deny(hosts=["a.com", "*.b.com", "10.0.0.1"]),), permit=(permit("x0.b.com", "10.0.0.0/8"),))
    names = dict(atoms.names)
    assert names["a.com"] == "a.com"
    assert (names["*.a.com"], names["*.b.com"]) == ("x0.a.com", "x1.b.com"), "x0.b.com is somebody"
    assert (names["*.x0.b.com"], names[OTHER_LABEL]) == ("x0.x0.b.com", "x0")
    assert names[OTHER] == "x0.x0"
    assert "10.0.0.1" not in names


def test_one_of_an_atom_matches_what_all_of_it_match() -> None:
    """The name that stands for `*.x` is below x, and not at or below anything else that is known."""
    atoms = cut(allow=(allow("a.com", "*.b.a.com", "*.com", "x0.com", "x1.com"),))
    table = NameTable((label, label) for label, _ in atoms.names if label not in (OTHER, OTHER_LABEL))
    for label, name in atoms.names:
        most_specific = next(iter(table.matches(name)), None)
        assert most_specific == (None if label in (OTHER, OTHER_LABEL) else label)


def test_permits_are_known_by_name_and_port_whoever_has_them() -> None:
    mine = Client(name="mine", networks=nets("10.0.0.0/8"), permit=(permit("own.local", "10.0.0.0/8", ports=[81]),))
    said = policy(permit=(permit("nas.local", "10.0.0.0/8"), permit("10.0.0.5", "10.0.0.0/8")))
    atoms = Atoms((Snapshot.of(said, TODAY), Snapshot.of(policy_of(mine), TODAY)))
    assert {(host, atoms.ports[port].start) for host, port in atoms.permitted} == {
        ("nas.local", 443),
        ("own.local", 81),
    }


def policy_of(*clients: Client) -> Policy:
    """A policy with these clients too."""
    return replace(policy(), client=(CLIENT, *clients))


def test_ports_of_clients_and_of_proxyd_itself_are_boundaries() -> None:
    mine = Client(name="mine", networks=nets("10.0.0.0/8"), destinations=OwnDestinations(ports=spans(8081)))
    atoms = Atoms((Snapshot.of(policy_of(mine), TODAY, Own(frozenset({3128}))),))
    assert {range(8081, 8082), range(3128, 3129)} <= set(atoms.ports)


def test_in_words_as_few_spans_as_will_do() -> None:
    atoms = cut(ports=[80, 81, 443])
    numbers = [number for number, span in enumerate(atoms.ports) if span.start in (80, 81, 443)]
    assert atoms.ports_in_words(numbers) == ("80-81", "443")
    everything = range(len(atoms.addresses))
    assert atoms.networks_in_words(everything) == ("0.0.0.0/0", "::/0")
    assert atoms.are_special(everything)
    assert not atoms.are_special(
        number for number, (first, _) in enumerate(atoms.addresses) if first == IPAddress("11.0.0.0")
    )
