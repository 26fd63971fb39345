"""Who is which client before a change and after it: asked of `identify`, for each kind of peer that it can tell apart.

Nothing is judged here, and no peer is asked for: they are made up of what the policies name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise, product
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from netaddr import IPAddress

from proxyd.policy.address import Endpoint
from proxyd.policy.ranges import RangeTable
from proxyd.policy.snapshot import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from proxyd.policy.client import Client, Credential
    from proxyd.policy.snapshot import Snapshot

_ELSE: Final = -1  # the number of an account that no policy names by its number
_LAST: Final[dict[Literal[4, 6], int]] = {4: (1 << 32) - 1, 6: (1 << 128) - 1}

T = TypeVar("T")
Account = tuple[str | int, ...]
"""What a policy may call one account: a name, a number, or both."""


@dataclass(frozen=True, slots=True)
class Move:
    """A peer was one client and is another; None is nobody."""

    before: str | None
    after: str | None


def moves(old: Snapshot, new: Snapshot) -> tuple[Move, ...]:
    """Every way from a client of the old policy to one of the new that some peer goes: each once, in their order."""
    if conditions(old) == conditions(new):
        return tuple(Move(client.name, client.name) for client in old.policy.client)
    clients = (*old.policy.client, *new.policy.client)
    at_home = [_at_home(client, snapshot) for snapshot in (old, new) for client in snapshot.policy.client]
    addresses = _distinct(_addresses(old, new, clients), at_home)
    accounts = _distinct(_accounts(clients), [partial(_owns, client) for client in clients])
    credentials = _distinct(_credentials(clients), [partial(_knows, client) for client in clients])
    found = {
        (_named(old, peer, account, proven), _named(new, peer, account, proven))
        for peer, account, proven in _together(addresses, accounts, credentials)
    }
    order = [None, *(client.name for client in clients)]
    ordered = sorted(found, key=lambda move: (order.index(move[0]), order.index(move[1])))
    return tuple(Move(*names) for names in ordered)


def conditions(snapshot: Snapshot) -> tuple[object, ...]:
    """All that it depends on who is which client."""
    clients = tuple((each.name, each.networks, each.users, each.credential) for each in snapshot.policy.client)
    return (*clients, has_peers_without_address(snapshot))


def has_peers_without_address(snapshot: Snapshot) -> bool:
    """Whether it listens where peers have no address: at a Unix socket, which may be an inherited one."""
    return any(not isinstance(place, Endpoint) for _, place in snapshot.policy.listen.places())


def _named(
    snapshot: Snapshot, address: IPAddress | None, account: Account, proven: tuple[Credential, ...]
) -> str | None:
    """Who such a peer is, on a host where the account is called that."""
    if address is None and not has_peers_without_address(snapshot):
        return None
    number = next((each for each in account if isinstance(each, int)), _ELSE)
    names = {each: number for each in account if isinstance(each, str)}
    client = replace(snapshot, accounts=names).identify(Peer(address, number), proven)
    return None if client is None else client.name


def _addresses(old: Snapshot, new: Snapshot, clients: Iterable[Client]) -> Iterator[IPAddress | None]:
    """One between every two boundaries, and none."""
    if has_peers_without_address(old) or has_peers_without_address(new):
        yield None
    networks = list(chain.from_iterable(client.networks for client in clients))
    for version, last in _LAST.items():
        edges = {0, last + 1}
        for network in networks:
            if network.version == version:
                edges |= {network.first, network.last + 1}
        yield from (IPAddress(first, version) for first, _ in pairwise(sorted(edges)))


def _accounts(clients: Iterable[Client]) -> Iterator[Account]:
    """Every account that is named, and any other; what is named by name may be what is named by number."""
    users = set(chain.from_iterable(client.users for client in clients))
    names, numbers = ([each for each in users if isinstance(each, kind)] for kind in (str, int))
    yield from ((), *((name,) for name in names), *((number,) for number in numbers))
    yield from product(names, numbers)


def _credentials(clients: Iterable[Client]) -> Iterator[tuple[Credential, ...]]:
    """Nothing is known, one is, or two of one user: two hashes can be of one password."""
    known = list(dict.fromkeys(client.credential for client in clients if client.credential is not None))
    yield from ((), *((each,) for each in known))
    yield from ((one, other) for one, other in product(known, known) if one != other and one.user == other.user)


# Which clients a peer may be, as far as one thing can say


def _at_home(client: Client, snapshot: Snapshot) -> Callable[[IPAddress | None], bool]:
    table = RangeTable((network, True) for network in client.networks)
    without = not client.networks and has_peers_without_address(snapshot)
    return lambda address: without if address is None else not client.networks or table.find(address) is not None


def _owns(client: Client, account: Account) -> bool:
    return not client.users or not set(client.users).isdisjoint(account)


def _knows(client: Client, proven: tuple[Credential, ...]) -> bool:
    return client.credential is None or client.credential in proven


def _distinct(items: Iterable[T], may_be: Sequence[Callable[[T], bool]]) -> dict[frozenset[int], T]:
    """One for each set of clients that it leaves."""
    return {frozenset(number for number, holds in enumerate(may_be) if holds(each)): each for each in items}


def _together(
    addresses: dict[frozenset[int], IPAddress | None],
    accounts: dict[frozenset[int], Account],
    credentials: dict[frozenset[int], tuple[Credential, ...]],
) -> Iterable[tuple[IPAddress | None, Account, tuple[Credential, ...]]]:
    """One peer for each set of clients that it may be."""
    seen = {
        (some & more): (address, account)
        for (some, address), (more, account) in product(addresses.items(), accounts.items())
    }
    return {
        (some & more): (*peer, proven) for (some, peer), (more, proven) in product(seen.items(), credentials.items())
    }.values()
