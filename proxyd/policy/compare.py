"""What a change of a policy opens and closes, for whom: for each client, and for each peer that becomes another one.

Limits, egress, the parent and where names are looked up are no part of it. Nothing is judged here:
`reach` asks `decide`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from netaddr import IPNetwork, IPSet

from proxyd.policy.atoms import OTHER, Atoms
from proxyd.policy.doors import beyond
from proxyd.policy.peers import Move, has_peers_without_address, moves
from proxyd.policy.reach import Answer, Literal, Name, Permitted, Via, bare, own_terms, reach
from proxyd.policy.rows import holds
from proxyd.policy.snapshot import Own, Snapshot

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy
    from proxyd.policy.reach import Reached
    from proxyd.policy.snapshot import Rules

_EVERYWHERE: Final = (IPNetwork("0.0.0.0/0"), IPNetwork("::/0"))
_TLS_PORT: Final = 443
EVERYBODY: Final = "everybody"
"""Whose change it is where a listener is another."""

FACELESS: Final = "peers of this host whose account cannot be told"
K = TypeVar("K", int, tuple[str, int])


@dataclass(frozen=True, slots=True)
class Change:
    """What a client reaches after a change and did not before (`opens`), or the other way round.

    kind: "names" (where they lead to an address that answers may have), "answers", "via" (names through which others
    may lead), "literals", "permits", "peers" (who the client may be), "tls_name" (which names TLS may have in a
    tunnel), "identity_headers" (which of those that a permitted destination is not to see), or "listeners" (where
    anybody may connect).
    hosts: names, `*.suffix` for what is below and not told by itself, OTHER; or networks, those that carry some IPv4
    network as `NETWORK carrying NETWORK`; or accounts and credentials; or headers.
    at: where permitted hosts may be. special: whether special-purpose addresses are among it.
    was: the client that these peers were before, where that is another one.
    since: the day from which on it is so, where it is not so yet.
    """

    client: str
    opens: bool
    kind: str
    hosts: tuple[str, ...]
    ports: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    special: bool = False
    was: str = ""
    since: str = ""

    @property
    def severity(self) -> str:
        """How much a reviewer should care: what was closed, least; special-purpose addresses and everything, most."""
        if not self.opens:
            return "low"
        return "high" if self.special or self.kind in {"peers", "listeners"} or OTHER in self.hosts else "medium"


def compare(old: Snapshot, new: Snapshot) -> Iterator[Change]:
    """Every change of what any peer reaches, and of who can be one. Who is no client reaches nothing."""
    for opens, more, less in ((True, new, old), (False, old, new)):
        if doors := tuple(beyond(more.policy.listen, less.policy.listen)):
            yield Change(EVERYBODY, opens, "listeners", doors)
    yield from _Comparison(old, new).changes()


def compare_from(old: Policy, new: Policy, today: date) -> Iterator[Change]:
    """Every change as of today, and what there is beside that once a permit of either has expired."""
    told: set[Change] = set()
    for day in (today, *_days_after(old, new, today)):
        before, after = (Snapshot.of(each, day, Own.of(each)) for each in (old, new))
        for change in compare(before, after):
            if change not in told:
                yield change if day == today else replace(change, since=day.isoformat())
            told.add(change)


def _days_after(old: Policy, new: Policy, today: date) -> list[date]:
    """Those on which a permit holds no longer: also one that both have, for what it opened may now be open without."""
    last_days = {row.expires for each in (old, new) for row in each.every_permit if row.expires is not None}
    return sorted(last + timedelta(days=1) for last in last_days if today <= last < date.max)


class _Comparison:
    """Of two snapshots; what clients with the same settings reach is asked once."""

    def __init__(self, old: Snapshot, new: Snapshot) -> None:
        self._old, self._new = old, new
        self._atoms = Atoms((old, new))
        self._known: dict[Hashable, frozenset[Reached]] = {}
        self._common = bare(old.policy, old.own) == bare(new.policy, new.own)
        self._terms: dict[tuple[str, bool], Hashable] = {}
        self._before, self._after = ({each.name: each for each in one.policy.client} for one in (old, new))

    def changes(self) -> Iterator[Change]:
        """Each client that stays one, and then each way from one to another."""
        ways = moves(self._old, self._new)
        for name in (name for name in self._before if name in self._after):
            yield from self._peers(name, admitted=Move(None, name) in ways)
            yield from self._changed(name, name)
        for way in ways:
            if way.before == way.after or (way.faceless and replace(way, faceless=False) in ways):
                continue
            if not self._is_told_by_its_peers(way):
                yield from self._changed(way.before, way.after)
            elif way.faceless:
                yield Change(way.after or way.before or "", way.before is None, "peers", (FACELESS,))

    def _is_told_by_its_peers(self, way: Move) -> bool:
        """Whether somebody is let in or turned away by a client that there was before and still is."""
        name = way.after if way.before is None else way.before if way.after is None else None
        return name in self._before and name in self._after

    def _changed(self, was: str | None, name: str | None) -> Iterator[Change]:
        """What is different for a peer that was one client and is the other."""
        if was is not None and name is not None and self._bearing(was, after=False) == self._bearing(name, after=True):
            return
        before, after = self._reached(was, after=False), self._reached(name, after=True)
        client = name or was or ""
        found = list(_told(client, before, after, self._atoms))
        if was is not None and name is not None:
            found += self._kept_back(was, name, before, after)
        for each in found:
            yield replace(each, was=was) if was is not None and name is not None and was != name else each

    def _reached(self, name: str | None, *, after: bool) -> frozenset[Reached]:
        if name is None:
            return frozenset()
        bearing = self._bearing(name, after=after)
        if bearing not in self._known:
            self._known[bearing] = reach(name, self._new if after else self._old, self._atoms)
        return self._known[bearing]

    def _bearing(self, name: str, *, after: bool) -> Hashable:
        """What it depends on what a client reaches: of whom it is the same, he reaches the same."""
        if (name, after) not in self._terms:
            client = (self._after if after else self._before)[name]
            self._terms[name, after] = own_terms(client), after and not self._common
        return self._terms[name, after]

    def _kept_back(
        self, was: str, name: str, reached_before: frozenset[Reached], reached_after: frozenset[Reached]
    ) -> Iterator[Change]:
        """What is kept from a destination that is reached: names inside TLS, and headers."""
        before, after = self._before[was], self._after[name]
        old, new = (self._old.rules(before), self._new.rules(after))
        held_before, held_after = (each.destinations.holds_to_tls_name(_TLS_PORT) for each in (old, new))
        if held_before != held_after and _has_tls(reached_after if held_before else reached_before, self._atoms):
            yield Change(name, held_before, "tls_name", ("any",), (str(_TLS_PORT),))
        for opens, more, less in ((True, new, old), (False, old, new)):
            headers = _identity_headers(less) - _identity_headers(more)
            if more.permit and headers:
                yield Change(name, opens, "identity_headers", tuple(sorted(headers)))

    def _peers(self, name: str, *, admitted: bool) -> Iterator[Change]:
        """Who may be a client that there was before and still is; it opens nothing to those who were another client."""
        before, after = self._before[name], self._after[name]
        found = [*self._networks(before, after), *_accounts(before, after), *_credentials(before, after)]
        yield from (each for each in found if admitted or not each.opens)

    def _networks(self, before: Client, after: Client) -> Iterator[Change]:
        then, now = _Networks.of(before, self._old), _Networks.of(after, self._new)
        for opens, more, less in ((True, now, then), (False, then, now)):
            if hosts := more.beyond(less):
                yield Change(after.name, opens, "peers", hosts)


@dataclass(frozen=True, slots=True)
class _Networks:
    """Where a client may connect from. without: also from where there are no addresses."""

    networks: tuple[IPNetwork, ...]
    without: bool

    @classmethod
    def of(cls, client: Client, snapshot: Snapshot) -> _Networks:
        return cls(client.networks or _EVERYWHERE, not client.networks and has_peers_without_address(snapshot))

    def beyond(self, other: _Networks) -> tuple[str, ...]:
        """What is not the other's."""
        more = () if self.networks == other.networks else (IPSet(self.networks) - IPSet(other.networks)).iter_cidrs()
        return (*map(str, more), *(("peers of Unix sockets",) if self.without and not other.without else ()))


def _accounts(before: Client, after: Client) -> Iterator[Change]:
    """A condition that names who fulfils it; without it, everybody does."""
    if set(before.users) == set(after.users):
        return
    if not before.users or not after.users:
        yield Change(after.name, not after.users, "peers", ("any account",))
        return
    for opens, more, less in ((True, after, before), (False, before, after)):
        if some := set(more.users) - set(less.users):
            yield Change(after.name, opens, "peers", tuple(sorted(f"account {each}" for each in some)))


def _credentials(before: Client, after: Client) -> Iterator[Change]:
    if before.credential != after.credential:
        opens = after.credential is None or before.credential is not None
        what = "no credential" if after.credential is None else f"credential of {after.credential.user}"
        yield Change(after.name, opens, "peers", (what,))


def _identity_headers(rules: Rules) -> set[str]:
    return {each.lower() for each in rules.destinations.identity_headers}


def _told(client: str, before: frozenset[Reached], after: frozenset[Reached], atoms: Atoms) -> Iterator[Change]:
    """Both ways."""
    both = _asked(before, atoms) & _asked(after, atoms)
    for opens, reached in ((True, after - before), (False, before - after)):
        yield from _names(client, reached, atoms, opens=opens)
        yield from _permits(client, reached, atoms, opens=opens)
        yield from _answers(client, reached, both, atoms, opens=opens)
        yield from _via(client, reached if both else frozenset(), atoms, opens=opens)
        yield from _literals(client, reached, atoms, opens=opens)


def _asked(reached: frozenset[Reached], atoms: Atoms) -> set[tuple[bool, ...]]:
    """The kinds of ports on which there are names: of those that are new or gone it is told that they are."""
    return {atoms.ports[each.port].own for each in reached if isinstance(each, Name)}


def _has_tls(reached: frozenset[Reached], atoms: Atoms) -> bool:
    """Whether anything is reached on the port of TLS."""
    tls = {number for number, each in enumerate(atoms.ports) if holds(each.spans, _TLS_PORT)}
    return any(isinstance(each, Name | Literal | Permitted) and each.port in tls for each in reached)


# The same, put together as a person would say it: what has the same ports, or the same addresses, is one


def _names(client: str, reached: frozenset[Reached], atoms: Atoms, *, opens: bool) -> Iterator[Change]:
    ports_of = defaultdict[int, set[int]](set)
    for each in reached:
        if isinstance(each, Name):
            ports_of[each.name].add(each.port)
    for names, ports in _alike(ports_of):
        yield Change(client, opens, "names", atoms.names_in_words(names), atoms.ports_in_words(ports))


def _permits(client: str, reached: frozenset[Reached], atoms: Atoms, *, opens: bool) -> Iterator[Change]:
    at_of = defaultdict[tuple[str, int], set[int]](set)
    for each in reached:
        if isinstance(each, Permitted):
            at_of[each.host, each.port].add(each.address)
    for pairs, at in _alike(at_of):
        for host in sorted({host for host, _ in pairs}):
            spans = atoms.ports_in_words(port for each, port in pairs if each == host)
            words = spans, atoms.networks_in_words(at)
            yield Change(client, opens, "permits", (host,), *words, special=atoms.are_special(at))


def _answers(
    client: str, reached: frozenset[Reached], both: set[tuple[bool, ...]], atoms: Atoms, *, opens: bool
) -> Iterator[Change]:
    """Compared where names were reached, and are. Ports are told where it is not the same on all of these."""
    ports_of = defaultdict[int, set[int]](set)
    of_own = {own: {number for number, each in enumerate(atoms.ports) if each.own == own} for own in both}
    for each in reached:
        if isinstance(each, Answer) and each.own in both:
            ports_of[each.address] |= of_own[each.own]
    every = set().union(*of_own.values())
    for answers, ports in _alike(ports_of):
        words = atoms.networks_in_words(answers), () if ports == every else atoms.ports_in_words(ports)
        yield Change(client, opens, "answers", *words, special=atoms.are_special(answers))


def _via(client: str, reached: frozenset[Reached], atoms: Atoms, *, opens: bool) -> Iterator[Change]:
    """But for those of which is told already that they are names to ask for, or are none."""
    told = {each.name for each in reached if isinstance(each, Name)}
    if via := {each.name for each in reached if isinstance(each, Via)} - told:
        yield Change(client, opens, "via", atoms.names_in_words(via))


def _literals(client: str, reached: frozenset[Reached], atoms: Atoms, *, opens: bool) -> Iterator[Change]:
    ports_of = defaultdict[int, set[int]](set)
    for each in reached:
        if isinstance(each, Literal):
            ports_of[each.address].add(each.port)
    for literals, ports in _alike(ports_of):
        words = atoms.networks_in_words(literals), atoms.ports_in_words(ports)
        yield Change(client, opens, "literals", *words, special=atoms.are_special(literals))


def _alike(values: dict[K, set[int]]) -> list[tuple[list[K], frozenset[int]]]:
    """The keys of a dict that have the same value, together."""
    alike: dict[frozenset[int], list[K]] = defaultdict(list)
    for key, value in sorted(values.items()):
        alike[frozenset(value)].append(key)
    return [(keys, value) for value, keys in alike.items()]
