"""Who is which client before a change and after it: asked of `identify`, for each kind of peer that it can tell apart.

Nothing is judged here, and no peer is asked for: they are made up of what the policies name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise, product
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from netaddr import IPAddress, IPNetwork

from proxyd.policy.address import Endpoint
from proxyd.policy.ranges import RangeTable
from proxyd.policy.snapshot import Own, Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from proxyd.policy.client import Client, Credential
    from proxyd.policy.snapshot import Snapshot

_ELSE: Final = -1  # the number of an account that no policy names by its number
_ANY_HOST: Final = Own(addresses=frozenset({IPNetwork("0.0.0.0/0"), IPNetwork("::/0")}))
_LAST: Final[dict[Literal[4, 6], int]] = {4: (1 << 32) - 1, 6: (1 << 128) - 1}

T = TypeVar("T")
Account = tuple[str | int, ...] | None
"""What a policy may call one account: a name, a number, or both. None is one that cannot be told."""


@dataclass(frozen=True, slots=True)
class Move:
    """A peer was one client and is another; None is nobody.

    faceless: only one of this host whose account cannot be told goes this way; who comes from there otherwise does not.
    """

    before: str | None
    after: str | None
    faceless: bool = False


def moves(old: Snapshot, new: Snapshot) -> tuple[Move, ...]:
    """Every way from a client of the old policy to one of the new that some peer goes: each once, in their order."""
    if conditions(old) == conditions(new):
        return tuple(Move(client.name, client.name) for client in old.policy.client)
    clients = (*old.policy.client, *new.policy.client)
    addresses = tuple(_addresses(old, new, clients))
    found = {
        *_plain_moves(old, new, clients, addresses),
        *_faceless_moves(replace(old, own=_ANY_HOST), replace(new, own=_ANY_HOST), clients, addresses),
    }
    order = [None, *(client.name for client in clients)]
    return tuple(sorted(found, key=lambda move: (order.index(move.before), order.index(move.after), move.faceless)))


def _plain_moves(
    old: Snapshot, new: Snapshot, clients: Sequence[Client], addresses: Iterable[IPAddress | None]
) -> Iterator[Move]:
    at_home = [_at_home(client, snapshot) for snapshot in (old, new) for client in snapshot.policy.client]
    accounts = _distinct(_accounts(clients), [partial(_owns, client) for client in clients])
    for peer in _together(_distinct(addresses, at_home), accounts, _known(clients)):
        yield _move(old, new, *peer)


def _faceless_moves(
    old: Snapshot, new: Snapshot, clients: Sequence[Client], addresses: Iterable[IPAddress | None]
) -> Iterator[Move]:
    """Those that nobody goes who comes from there and whose account is known, and is nobody's in the policies.

    On a host that has any address: a policy does not say which.
    """
    every: dict[frozenset[int], Account] = {frozenset(range(len(clients))): None}
    for address, account, proven in _together(_faceless(old, new, addresses), every, _known(clients)):
        move = _move(old, new, address, account, proven)
        if move != _move(old, new, address, (), proven):
            yield replace(move, faceless=True)


def _known(clients: Sequence[Client]) -> dict[frozenset[int], tuple[Credential, ...]]:
    return _distinct(_credentials(clients), [partial(_knows, client) for client in clients])


def conditions(snapshot: Snapshot) -> tuple[object, ...]:
    """All that it depends on who is which client."""
    clients = tuple((each.name, each.networks, each.users, each.credential) for each in snapshot.policy.client)
    return (*clients, has_peers_without_address(snapshot))


def has_peers_without_address(snapshot: Snapshot) -> bool:
    """Whether it listens where peers have no address: at a Unix socket, which may be an inherited one."""
    return any(not isinstance(place, Endpoint) for _, place in snapshot.policy.listen.places())


def _move(
    old: Snapshot, new: Snapshot, address: IPAddress | None, account: Account, proven: tuple[Credential, ...]
) -> Move:
    return Move(_named(old, address, account, proven), _named(new, address, account, proven))


def _named(
    snapshot: Snapshot, address: IPAddress | None, account: Account, proven: tuple[Credential, ...]
) -> str | None:
    """Who such a peer is, on a host where the account is called that."""
    if address is None and not has_peers_without_address(snapshot):
        return None
    if account is None:
        client = snapshot.identify(Peer(address), proven)
    else:
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


def _faceless(
    old: Snapshot, new: Snapshot, addresses: Iterable[IPAddress | None]
) -> dict[frozenset[int], IPAddress | None]:
    """Where one of this host whose account cannot be told is from, for each set of clients that he may be.

    Asked of the snapshots: who comes into question depends on who stands before.
    """
    sides = [(each is new, client.name) for each in (old, new) for client in each.policy.client]
    number_of = {side: number for number, side in enumerate(sides)}
    found: dict[frozenset[int], IPAddress | None] = {}
    for address in addresses:
        peer = Peer(address)
        may_be = ((each is new, client.name) for each in (old, new) for client in each.candidates(peer))
        found[frozenset(map(number_of.__getitem__, may_be))] = address
    return found


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
    return not client.users or not set(client.users).isdisjoint(account or ())


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
