"""What an allowlist would need, for what was asked for in report mode: as few rows as will do, and nothing special.

Each host and port is put to `decide` with the row that it would get: what is refused even then is left out, with the
reason. Nothing is made wider than it was asked for, but where a wildcard is wished in so many words.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from proxyd.policy.address import Destination, Resolution
from proxyd.policy.contradictions import enforced
from proxyd.policy.remedy import named, with_row
from proxyd.policy.rows import AllowRow
from proxyd.policy.snapshot import Snapshot
from proxyd.policy.verdict import Deny, decide

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date

    from netaddr import IPAddress

    from proxyd.policy.model import Policy

REASON: Final = "learnt from the audit log; say why"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asked for: how often, and what it led to, as far as that is known."""

    client: str
    destination: Destination
    times: int
    addresses: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A wish that is not granted, and why."""

    wish: Wish
    why: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """The rows to add, by client ("" for the policy's own), the policy that has them, and what is left out."""

    rows: tuple[tuple[str, AllowRow], ...]
    policy: Policy
    left_out: tuple[LeftOut, ...]


def learn(policy: Policy, wishes: Iterable[Wish], wildcards: Iterable[str], today: date) -> Lesson:
    """What the policy would need to allow these wishes, in enforce mode. wildcards: suffixes that are wished whole."""
    snapshot = Snapshot.of(enforced(policy), today)
    suffixes = tuple(wildcards)
    granted: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    left_out = []
    for wish in wishes:
        why = _refused(wish, snapshot, suffixes)
        if why is None:
            beneath = wish.client if named(wish.client, policy).allow else ""
            granted[beneath][_pattern(wish.destination.host, suffixes)].add(wish.destination.port)
        elif why:
            left_out.append(LeftOut(wish, why))
    rows = tuple((beneath, row) for beneath, hosts in sorted(granted.items()) for row in _rows(hosts))
    return Lesson(rows, _with(rows, policy), tuple(left_out))


def _refused(wish: Wish, snapshot: Snapshot, suffixes: tuple[str, ...]) -> str | None:
    """Why it cannot be granted; None if it can, and "" if it needs nothing."""
    client = next((each for each in snapshot.policy.client if each.name == wish.client), None)
    if client is None:
        return "the policy has no such client by now"
    found = Resolution(wish.addresses) if wish.addresses else None
    if not isinstance(decide(wish.destination, client, snapshot, found), Deny):
        return ""
    hosts, ports = (_pattern(wish.destination.host, suffixes),), (_span(wish.destination.port),)
    row = AllowRow(reason=REASON, hosts=hosts, ports=ports)
    beneath = wish.client if client.allow else ""
    helped = replace(snapshot, policy=with_row(row, snapshot.policy, beneath))
    verdict = decide(wish.destination, named(wish.client, helped.policy), helped, found)
    return f"{verdict.reason}, by {verdict.rule}" if isinstance(verdict, Deny) else None


def _pattern(host: str, suffixes: tuple[str, ...]) -> str:
    return next((f"*.{suffix}" for suffix in suffixes if host.endswith(f".{suffix}")), host)


def _span(port: int) -> range:
    return range(port, port + 1)


def _rows(hosts: dict[str, set[int]]) -> Iterator[AllowRow]:
    """Hosts that are asked for on the same ports share a row."""
    together: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for host, opened in hosts.items():
        together[tuple(sorted(opened))].append(host)
    for ports, names in sorted(together.items()):
        yield AllowRow(reason=REASON, hosts=tuple(sorted(names)), ports=tuple(map(_span, ports)))


def _with(rows: Iterable[tuple[str, AllowRow]], policy: Policy) -> Policy:
    for beneath, row in rows:
        policy = with_row(row, policy, beneath)
    return policy
