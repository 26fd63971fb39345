"""What a policy lets its clients reach, and what a change opens or closes: exactly, and not by samples.

`decide` is asked once for each atom of names, ports and addresses, and the rest is set arithmetic. Nothing is judged
here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from netaddr import IPNetwork, IPSet

from proxyd.policy.address import Destination, Resolution
from proxyd.policy.atoms import OTHER, Atoms
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, decide

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxyd.policy.client import Client
    from proxyd.policy.snapshot import Snapshot


_EVERYWHERE: Final = (IPNetwork("0.0.0.0/0"), IPNetwork("::/0"))
K = TypeVar("K", int, tuple[str, int])


@dataclass(frozen=True, slots=True)
class Name:
    """A name may be asked for on a port; it still has to lead to an address that answers may have."""

    name: int
    port: int


@dataclass(frozen=True, slots=True)
class Answer:
    """An address to which names may lead."""

    address: int


@dataclass(frozen=True, slots=True)
class Literal:
    """An address may be asked for by itself."""

    address: int
    port: int


@dataclass(frozen=True, slots=True)
class Permitted:
    """A host of which a permit speaks may be reached at this address."""

    host: str
    port: int
    address: int


Reached = Name | Answer | Literal | Permitted
"""Something that a client reaches; the numbers are those of Atoms."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a client reaches after a change and did not before (`opens`), or the other way round.

    kind: "names" (where they lead to an address that answers may have), "answers", "literals", "permits", or "peers",
    who the client may be.
    hosts: names, `*.suffix` for what is below and not told by itself, OTHER; or networks; or accounts and credentials.
    at: where permitted hosts may be. special: whether special-purpose addresses are among it.
    """

    client: str
    opens: bool
    kind: str
    hosts: tuple[str, ...]
    ports: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    special: bool = False

    @property
    def severity(self) -> str:
        """How much a reviewer should care: what was closed, least; special-purpose addresses and everything, most."""
        if not self.opens:
            return "low"
        return "high" if self.special or self.kind == "peers" or OTHER in self.hosts else "medium"


def compare(old: Snapshot, new: Snapshot) -> Iterator[Change]:
    """Every change of what any client reaches. A client that there is not reaches nothing."""
    atoms = Atoms((old, new))
    for client in dict.fromkeys(each.name for snapshot in (old, new) for each in snapshot.policy.client):
        yield from _peers(client, old, new)
        before, after = (reach(client, snapshot, atoms) for snapshot in (old, new))
        for opens, reached in ((True, after - before), (False, before - after)):
            yield from _told(client, reached, atoms, opens=opens)


def reach(name: str, snapshot: Snapshot, atoms: Atoms) -> set[Reached]:
    """All that the client of that name reaches."""
    client = _named(name, snapshot)
    if client is None:
        return set()
    names = list(_names(client, snapshot, atoms))
    answers = _answers(names[0], client, snapshot, atoms) if names else ()
    return {*names, *answers, *_literals(client, snapshot, atoms), *_permitted(client, snapshot, atoms)}


def _named(name: str, snapshot: Snapshot) -> Client | None:
    return next((each for each in snapshot.policy.client if each.name == name), None)


def _peers(name: str, old: Snapshot, new: Snapshot) -> Iterator[Change]:
    """Who may be a client that there was before and still is: each condition by itself."""
    before, after = _named(name, old), _named(name, new)
    if before is None or after is None:
        return
    if before.networks != after.networks:
        now, then = (IPSet(each.networks or _EVERYWHERE) for each in (after, before))
        for opens, difference in ((True, now - then), (False, then - now)):
            if difference:
                yield Change(name, opens, "peers", tuple(map(str, difference.iter_cidrs())))
    if before.users != after.users:
        yield from _listed(name, "account", before.users, after.users)
    if before.credential != after.credential:
        opens = after.credential is None or before.credential is not None
        what = "no credential" if after.credential is None else f"credential of {after.credential.user}"
        yield Change(name, opens, "peers", (what,))


def _listed(name: str, what: str, before: tuple[str | int, ...], after: tuple[str | int, ...]) -> Iterator[Change]:
    """A condition that names who fulfils it; without it, everybody does."""
    if not before or not after:
        yield Change(name, not after, "peers", (f"any {what}",))
        return
    for opens, some in ((True, set(after) - set(before)), (False, set(before) - set(after))):
        if some:
            yield Change(name, opens, "peers", tuple(sorted(f"{what} {each}" for each in some)))


def _names(client: Client, snapshot: Snapshot, atoms: Atoms) -> Iterator[Name]:
    """Names that pass all that comes before their addresses; where a permit speaks of them, `_permitted` does."""
    for number, (label, name) in enumerate(atoms.names):
        for port, span in enumerate(atoms.ports):
            if (label, port) not in atoms.permitted:
                verdict = decide(Destination(name, span.start), client, snapshot)
                if verdict is NEED_ADDRESSES or isinstance(verdict, Allow):
                    yield Name(number, port)


def _answers(one: Name, client: Client, snapshot: Snapshot, atoms: Atoms) -> Iterator[Answer]:
    """Addresses to which names may lead: which of those that may be asked for makes no difference."""
    destination = Destination(atoms.names[one.name][1], atoms.ports[one.port].start)
    for number, (address, _) in enumerate(atoms.addresses):
        if isinstance(decide(destination, client, snapshot, Resolution((address,))), Allow):
            yield Answer(number)


def _literals(client: Client, snapshot: Snapshot, atoms: Atoms) -> Iterator[Literal]:
    for number, (address, _) in enumerate(atoms.addresses):
        for port, span in enumerate(atoms.ports):
            if isinstance(decide(Destination(str(address), span.start, address), client, snapshot), Allow):
                yield Literal(number, port)


def _permitted(client: Client, snapshot: Snapshot, atoms: Atoms) -> Iterator[Permitted]:
    for host, port in atoms.permitted:
        destination = Destination(host, atoms.ports[port].start)
        for number, (address, _) in enumerate(atoms.addresses):
            verdict = decide(destination, client, snapshot, Resolution((address,)))
            if isinstance(verdict, Allow) and address in verdict.addresses:  # localhost has its own, whatever is found
                yield Permitted(host, port, number)


def _told(client: str, reached: Iterable[Reached], atoms: Atoms, *, opens: bool) -> Iterator[Change]:
    """The same, put together as a person would say it: what has the same ports, or the same addresses, is one."""
    ports_of_name, ports_of_literal = defaultdict[int, set[int]](set), defaultdict[int, set[int]](set)
    at_of_permit, answers = defaultdict[tuple[str, int], set[int]](set), set[int]()
    for each in reached:
        if isinstance(each, Name):
            ports_of_name[each.name].add(each.port)
        elif isinstance(each, Literal):
            ports_of_literal[each.address].add(each.port)
        elif isinstance(each, Permitted):
            at_of_permit[each.host, each.port].add(each.address)
        else:
            answers.add(each.address)
    for names, ports in _alike(ports_of_name):
        hosts = tuple(atoms.names[name][0] for name in names)
        yield Change(client, opens, "names", hosts, atoms.ports_in_words(ports))
    for pairs, at in _alike(at_of_permit):
        for host in sorted({host for host, _ in pairs}):
            spans = atoms.ports_in_words(port for each, port in pairs if each == host)
            words = spans, atoms.networks_in_words(at)
            yield Change(client, opens, "permits", (host,), *words, special=atoms.are_special(at))
    if answers:
        yield Change(client, opens, "answers", atoms.networks_in_words(answers), special=atoms.are_special(answers))
    for literals, ports in _alike(ports_of_literal):
        words = atoms.networks_in_words(literals), atoms.ports_in_words(ports)
        yield Change(client, opens, "literals", *words, special=atoms.are_special(literals))


def _alike(values: dict[K, set[int]]) -> list[tuple[list[K], frozenset[int]]]:
    """The keys of a dict that have the same value, together."""
    alike: dict[frozenset[int], list[K]] = defaultdict(list)
    for key, value in sorted(values.items()):
        alike[frozenset(value)].append(key)
    return [(keys, value) for value, keys in alike.items()]
