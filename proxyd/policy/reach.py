"""What a policy lets its clients reach: exactly, and not by samples.

`decide` is asked once for each atom of names, ports and addresses, and the rest is set arithmetic (`compare`'s).
Nothing is judged here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxyd.policy.address import Destination, Resolution
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, decide

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from proxyd.policy.atoms import Atoms
    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy
    from proxyd.policy.rows import AllowRow, DenyRow, PermitRow
    from proxyd.policy.snapshot import Own, Snapshot


@dataclass(frozen=True, slots=True)
class Name:
    """A name may be asked for on a port; it still has to lead to an address that answers may have."""

    name: int
    port: int


@dataclass(frozen=True, slots=True)
class Answer:
    """An address to which names may lead, on ports that are as much proxyd's own as these are."""

    address: int
    own: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Via:
    """A name that may stand in the CNAME chain of a name."""

    name: int


@dataclass(frozen=True, slots=True)
class Literal:
    """An address may be asked for by itself."""

    address: int
    port: int


@dataclass(frozen=True, slots=True)
class Permitted:
    """A permit opens its host at this address, through whatever CNAME chain."""

    host: str
    port: int
    address: int


Reached = Name | Answer | Via | Literal | Permitted
"""Something that a client reaches; the numbers are those of Atoms."""


def own_terms(client: Client) -> Hashable:
    """All of a client that its reach may depend on: not who it is, and how much it may do."""
    rows = (_unsigned(each) for each in (client.deny, client.allow, client.permit))
    return (client.destinations, client.egress, *rows)


def bare(policy: Policy, own: Own) -> Hashable:
    """All that the reach of every client may depend on."""
    rows = (_unsigned(each) for each in (policy.deny, policy.allow, policy.permit))
    return (policy.destinations, policy.dns, policy.parent and policy.parent.address, own, *rows)


def _unsigned(rows: Iterable[DenyRow | AllowRow | PermitRow]) -> Hashable:
    """Rows without where they are written, and why: the same rule may stand in another file."""
    return tuple(replace(row, where="", name="", reason="") for row in rows)


def reach(name: str, snapshot: Snapshot, atoms: Atoms) -> frozenset[Reached]:
    """All that the client of that name reaches; nothing if there is none.

    A name is reached by way of a permit, if all its addresses are Permitted, or like any other: if it is a Name on that
    port, all its addresses are Answers, and all of its chain is Via.
    """
    client = next((each for each in snapshot.policy.client if each.name == name), None)
    if client is None:
        return frozenset()
    plain = _without_permits(snapshot)
    names = list(_names(client, plain, atoms))
    answers = list(_answers(names, client, plain, atoms))
    via = _via(names, answers, client, plain, atoms)
    return frozenset(
        (*names, *answers, *via, *_literals(client, snapshot, atoms), *_permitted(client, snapshot, atoms))
    )


def _without_permits(snapshot: Snapshot) -> Snapshot:
    """By which a host is judged that resolves to where no permit of it holds."""
    clients = tuple(replace(client, permit=()) for client in snapshot.policy.client)
    return replace(snapshot, policy=replace(snapshot.policy, permit=(), client=clients))


def _names(client: Client, plain: Snapshot, atoms: Atoms) -> Iterator[Name]:
    """Names that pass all that comes before their addresses."""
    for number, names in enumerate(atoms.names):
        for port, ports in enumerate(atoms.ports):
            verdict = decide(Destination(names.name, ports.port), client, plain)
            if verdict is NEED_ADDRESSES or isinstance(verdict, Allow):
                yield Name(number, port)


def _answers(names: list[Name], client: Client, plain: Snapshot, atoms: Atoms) -> Iterator[Answer]:
    """Which of the names makes no difference, and of the ports only whether one is proxyd's own."""
    one_each = {atoms.ports[each.port].own: each for each in names}
    for own, one in one_each.items():
        destination = Destination(atoms.names[one.name].name, atoms.ports[one.port].port)
        for number, place in enumerate(atoms.addresses):
            if isinstance(decide(destination, client, plain, Resolution((place.address,))), Allow):
                yield Answer(number, own)


def _via(names: list[Name], answers: list[Answer], client: Client, plain: Snapshot, atoms: Atoms) -> Iterator[Via]:
    """Which name leads there, and where it ends, makes no difference."""
    at = {each.own: atoms.addresses[each.address].address for each in answers}
    one = next((each for each in names if atoms.ports[each.port].own in at), None)
    if one is None:
        return
    ports = atoms.ports[one.port]
    destination = Destination(atoms.names[one.name].name, ports.port)
    for number, each in enumerate(atoms.names):
        if isinstance(decide(destination, client, plain, Resolution((at[ports.own],), (each.name,))), Allow):
            yield Via(number)


def _literals(client: Client, snapshot: Snapshot, atoms: Atoms) -> Iterator[Literal]:
    for number, place in enumerate(atoms.addresses):
        for port, ports in enumerate(atoms.ports):
            if isinstance(decide(Destination(str(place.address), ports.port, place.address), client, snapshot), Allow):
                yield Literal(number, port)


def _permitted(client: Client, snapshot: Snapshot, atoms: Atoms) -> Iterator[Permitted]:
    for host, port in atoms.permitted:
        destination = Destination(host, atoms.ports[port].port)
        # elsewhere no permit of it holds, and it is a host like any other
        permits = snapshot.rules(client).permits(destination)
        for number in sorted(set().union(*(atoms.within(each.networks) for each in permits))):
            place = atoms.addresses[number]
            verdict = decide(destination, client, snapshot, Resolution((place.address,)))
            # localhost has its own addresses, whatever is found
            if isinstance(verdict, Allow) and verdict.permitted and place.address in verdict.addresses:
                yield Permitted(host, port, number)
