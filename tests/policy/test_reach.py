"""What is reached: exactly what `decide` allows, for any destination (R8)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.policy.address import Destination, Resolution
from proxyd.policy.atoms import OTHER, OTHER_LABEL, Atoms
from proxyd.policy.client import OwnDestinations
from proxyd.policy.reach import Answer, Literal, Name, Permitted, Reached, Via, bare, own_terms, reach
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.verdict import Allow, decide
from tests.policy.worlds import CLIENT, TODAY, addresses, allow, deny, permit, policy, world

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
    atom = {label: number for number, each in enumerate(atoms.names) for label in each.labels}
    parts = name.split(".")
    above = [".".join(("*", *parts[cut:])) for cut in range(1, len(parts))]
    return next(atom[each] for each in (name, *above, OTHER if len(parts) > 1 else OTHER_LABEL) if each in atom)


def span_of(port: int, atoms: Atoms) -> int:
    """The atom of a port."""
    return next(number for number, each in enumerate(atoms.ports) if any(port in span for span in each.spans))


def place_of(address: IPAddress, atoms: Atoms) -> int:
    """The atom of an address that carries no other."""
    return next(
        number
        for number, place in enumerate(atoms.addresses)
        for span in place.spans
        if span.version == address.version and span.first <= int(address) <= span.last and not span.carried
    )


def reaches(reached: frozenset[Reached], name: str, port: int, address: IPAddress, atoms: Atoms) -> bool:
    """Whether a request for that name and port is among it, if the name leads to that address."""
    span, place = span_of(port, atoms), place_of(address, atoms)
    plain = {Name(atom_of(name, atoms), span), Answer(place, atoms.ports[span].own)} <= reached
    return plain or Permitted(name, span, place) in reached


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


def test_a_chain_leads_through_what_is_not_denied_by_name() -> None:
    snapshot = world(deny=(deny(hosts=["a.com"]),))
    atoms = Atoms((snapshot,))
    via = {each.name for each in reach(CLIENT.name, snapshot, atoms) if isinstance(each, Via)}
    assert {atom_of("else.org", atoms), atom_of("short", atoms)} <= via
    assert not {atom_of("a.com", atoms), atom_of("nas.local", atoms)} & via


def test_where_no_name_is_reached_or_leads_anywhere_there_is_no_chain() -> None:
    for snapshot in (world(default="deny"), world(deny=(deny(networks=["0.0.0.0/0", "::/0"]),))):
        reached = reach(CLIENT.name, snapshot, Atoms((snapshot,)))
        assert not [each for each in reached if isinstance(each, Via | Answer)]


def test_a_client_that_there_is_not_reaches_nothing() -> None:
    assert reach("nobody", world(), Atoms((world(),))) == frozenset()


def test_reach_depends_neither_on_who_a_client_is_nor_on_where_a_rule_is_written() -> None:
    rows = (allow("a.com"), replace(allow("a.com"), where="new.toml: allow[3]", name="other", reason="another"))
    one, same = (replace(CLIENT, name=each.name, allow=(each,)) for each in rows)
    assert own_terms(one) == own_terms(same) != own_terms(replace(CLIENT, allow=(allow("b.com"),)))
    plain, moved = (policy(allow=(each,)) for each in rows)
    own = Own(frozenset({8443}))
    assert bare(plain, own) == bare(moved, own)
    assert bare(plain, own) != bare(plain, Own())
    assert bare(plain, own) != bare(policy(), own)
