"""The oracle of `compare`: no request of any peer is allowed after a change, and was not before, without a word (R8).

Random pairs of small policies, each a mutation of the other, and random requests near their edges, put to `identify`
and `decide`: what is compared is what the daemon would do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from proxyd.policy.address import Destination, Endpoint, Resolution, parse_host
from proxyd.policy.client import Client, Credential, Destinations, OwnDestinations
from proxyd.policy.compare import Change, compare_from
from proxyd.policy.dns import Dns
from proxyd.policy.listen import Listen, UnixPath
from proxyd.policy.model import Parent, Policy
from proxyd.policy.snapshot import Own, Peer, Snapshot
from proxyd.policy.verdict import Allow, decide
from tests.policy.test_embedded import embed
from tests.policy.worlds import TODAY, allow, deny, nets, permit, spans

if TYPE_CHECKING:
    from collections.abc import Iterator

PATTERNS: Final = ("x.example", "*.x.example", "y.x.example", "bad.example", "nas.local", "*.example", "8.8.8.8")
HOSTS: Final = ("x.example", "y.x.example", "bad.example", "nas.local", "localhost", "8.8.8.8", "2002:808:808::1")
NAMES: Final = (*HOSTS[:5], "z.y.x.example", "else.org", "short", "nas2.local", "metadata.goog")
PORTS: Final = (22, 80, 443, 3128)
NETWORKS: Final = (
    *("8.8.8.0/24", "8.8.8.8/32", "10.0.0.0/8", "0.0.0.0/0", "1.1.1.1/32", "127.0.0.0/8"),
    *("2002::/16", "2002:808::/32", "2001::/32", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2606::/16"),
    *("2a00:1450::/32", "2a00:1450::/36", "fd00::/8", "::/0", "2001:0:808:808::/64", "2a00:1450:808:800::/56"),
)
TRANSLATORS: Final = (
    *("64:ff9b::/96", "2a00:1450::/32", "2a00:1450::/40", "2a00:1450::/48", "2a00:1450:808:800::/56"),
    *("2a00:1450:8:8::/64", "64:ff9b:1::/48"),
)
IPV4: Final = (
    *("8.8.7.255", "8.8.8.0", "8.8.8.8", "8.8.8.255", "8.8.9.0", "1.1.1.1", "1.1.1.2", "10.0.0.1", "11.0.0.0"),
    *("127.0.0.1", "169.254.169.254", "93.184.216.34", "192.0.2.7", "0.0.0.0"),
)
LOOPBACK: Final = Listen(http=(Endpoint(IPAddress("127.0.0.1"), 3128),))
FILLED: Final = 0x08080808
SECRETS: Final = (Credential(user="bob", file="x"), Credential(user="bob", file="y"), Credential(user="eve", file="x"))
PROVEN: Final = ((), (), *((each,) for each in SECRETS), SECRETS[:2])
PEERS: Final = (None, *map(IPAddress, ("127.0.0.1", "127.0.0.2", "::1")))
LAST_DAYS: Final = (TODAY, TODAY + timedelta(days=7))
DAYS: Final = tuple(TODAY + timedelta(days=number) for number in (0, 1, 7, 8))
ACCOUNTS: Final = ({"daemon": 1, "bin": 2}, {"daemon": 1001, "bin": 2})


def carriers(value: int) -> Iterator[int]:
    """IPv6 addresses that carry this IPv4 address, alone or beside another."""
    for low in ("::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::"):
        yield int(IPAddress(low)) | value
    yield 0x2002 << 112 | value << 80 | 1
    for server, client in ((value, FILLED), (FILLED, value)):
        yield 0x20010000 << 96 | server << 64 | client ^ 0xFFFFFFFF
    for text in TRANSLATORS:
        prefix = IPNetwork(text)
        yield from (embed(prefix.first, prefix.prefixlen, value, rest) for rest in (0, 8))
    yield from (embed(int(IPAddress("64:ff9b:1::")), length, value, 8) for length in (48, 56, 64, 96))
    for above in ("2606::", "fd00::", "2002:808:808::", "2002:101:101::"):
        yield int(IPAddress(above)) | 0x5EFE << 32 | value


ADDRESSES: Final = (
    *map(IPAddress, IPV4),
    *(IPAddress(each, 6) for text in IPV4 for each in carriers(int(IPAddress(text)))),
    *map(IPAddress, ("2606::1", "fd00::1", "2a00:1450::1", "2a00:1450:1000::1", "::1", "::", "2001:4860::8888")),
)

networks = st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=2, unique=True)
ports = st.lists(st.sampled_from(PORTS), min_size=1, max_size=2, unique=True)
denies = st.lists(
    st.builds(
        lambda hosts, where: deny(hosts=hosts, networks=where),
        st.lists(st.sampled_from(PATTERNS), max_size=2),
        st.lists(st.sampled_from(NETWORKS[:2] + NETWORKS[3:]), max_size=1),
    ),
    max_size=2,
).map(tuple)
allows = st.lists(
    st.builds(lambda host, opened: allow(host, ports=opened), st.sampled_from(PATTERNS), ports), max_size=2
).map(tuple)
permits = st.lists(
    st.builds(
        lambda host, where, opened, last: permit(host, *where, ports=opened, expires=last),
        *(st.sampled_from(HOSTS), networks, ports, st.sampled_from((None, *LAST_DAYS))),
    ),
    max_size=2,
).map(tuple)
defaults = st.sampled_from(["allow", "deny"])
some_ports = st.one_of(st.just(()), ports.map(lambda opened: spans(*opened)))
CONDITIONS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "networks": st.sampled_from([(), *map(nets, ("127.0.0.0/8", "127.0.0.1/32", "127.0.0.0/24", "::/0"))]),
    "users": st.sampled_from([(), ("daemon",), ("daemon", "bin"), (1001,), (2, "daemon")]),
    "credential": st.sampled_from([None, None, *SECRETS]),
    "destinations": st.builds(
        OwnDestinations, default=st.sampled_from([None, "deny", "allow"]), mode=st.sampled_from([None, "report"])
    ),
    "deny": denies,
    "allow": allows,
    "permit": permits,
}
KEYS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "destinations": st.builds(
        Destinations, default=defaults, ports=some_ports, tls_name=st.sampled_from(["", "off", "match"])
    ),
    "deny": denies,
    "allow": allows,
    "permit": permits,
    "dns": st.builds(
        lambda translators, fake: Dns(nat64=nets(*translators), dangerously_allow_fake_ip=nets(*fake)),
        st.lists(st.sampled_from(TRANSLATORS), max_size=1),
        st.lists(st.sampled_from(["198.18.0.0/15", "fd00::/8"]), max_size=1),
    ),
    "parent": st.sampled_from([None, None, Parent(address=Endpoint(IPAddress("8.8.8.8"), 80))]),
    "listen": st.sampled_from([LOOPBACK, replace(LOOPBACK, https=(UnixPath("/run/p.sock"),))]),
}


@st.composite
def changed(
    draw: st.DrawFn, strategies: dict[str, st.SearchStrategy[Any]], of: dict[str, Any], least: int
) -> dict[str, Any]:
    """The same with some keys drawn anew: as many as `least`, or only one."""
    names = draw(st.sets(st.sampled_from(sorted(strategies)), min_size=least, max_size=max(least, 1)))
    return of | {name: draw(strategies[name]) for name in sorted(names)}


def somebody(of: dict[str, Any]) -> Client:
    """A client; the loader refuses one without conditions."""
    client = Client(**of)
    return client if client.networks or client.users or client.credential else replace(client, users=("daemon",))


@st.composite
def clients(draw: st.DrawFn, of: tuple[Client, ...]) -> tuple[Client, ...]:
    """The same clients, but for one thing: one is gone, they change places, or one is another."""
    first, *others = of
    if draw(st.booleans()) and others:
        one_of: list[tuple[Client, ...]] = [(first,), tuple(others), (*others, first)]
        return draw(st.sampled_from(one_of))
    place = draw(st.integers(0, len(of) - 1))
    another = somebody(draw(changed(CONDITIONS, vars(of[place]), 1)))
    return (*of[:place], another, *of[place + 1 :])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """A policy, and what became of it by one change."""
    all_ = {"networks": nets("127.0.0.0/8")}
    before = tuple(
        somebody(draw(changed(CONDITIONS, {"name": name} | all_, draw(st.integers(0, 3)))))
        for name in draw(st.sampled_from([("wide",), ("narrow", "wide")]))
    )
    least = {"schema": 1, "name": "a", "listen": LOOPBACK, "destinations": Destinations(default="allow")}
    old = Policy(**draw(changed(KEYS, least, draw(st.integers(0, 4)))), client=before)
    if draw(st.booleans()):
        return old, replace(old, client=draw(clients(old.client)))
    return old, Policy(**draw(changed(KEYS, vars(old), 1)))


@dataclass(frozen=True)
class Request:
    """Who asks, for what, and what DNS says of it."""

    peer: Peer
    proven: tuple[Credential, ...]
    destination: Destination
    found: Resolution | None

    @classmethod
    def near_the_edges(cls, random: Random) -> Request:
        """Any one."""
        who = random.choice(PEERS)
        peer = Peer(who, random.choice((None, None, 1, 2, 3, 1001)))
        proven = random.choice(PROVEN)
        host, address = random.choice(NAMES), None
        if random.random() < 0.3:
            address = random.choice(ADDRESSES)
            host = str(address)
        found = Resolution(
            tuple(random.sample(ADDRESSES, random.choice((1, 1, 2)))),
            tuple(random.sample(NAMES, random.choice((0, 0, 1)))),
        )
        return cls(peer, proven, Destination(host, random.choice(PORTS), address), found)

    def is_let_through(self, snapshot: Snapshot) -> bool:
        """What the daemon would do."""
        if self.peer.address is None and not any(
            isinstance(each, UnixPath) for _, each in snapshot.policy.listen.places()
        ):
            return False
        client = snapshot.identify(self.peer, self.proven)
        return isinstance(decide(self.destination, client, snapshot, self.found), Allow)


def both(old: Policy, new: Policy, day: date, accounts: dict[str, int]) -> tuple[Snapshot, Snapshot]:
    """As of one day, on one host."""
    return Snapshot.of(old, day, Own.of(old), accounts), Snapshot.of(new, day, Own.of(new), accounts)


def found_in(changes: list[Change], day: date, *, opens: bool) -> bool:
    """Whether something of that kind is told for this day, or for one before."""
    return any(each.opens is opens and each.since <= day.isoformat() for each in changes)


@settings(max_examples=40, deadline=None)
@given(pairs(), st.integers(0, 2**32))
def test_r8_whatever_becomes_reachable_for_any_peer_is_told(pair: tuple[Policy, Policy], seed: int) -> None:
    """And of what closes, at least that there is a change; nothing told is nothing changed."""
    told = list(compare_from(*pair, TODAY))
    random = Random(seed)  # noqa: S311 - the requests of a test
    hosts = [(day, *both(*pair, day, accounts)) for day in DAYS for accounts in ACCOUNTS]
    for _ in range(1000):
        request = Request.near_the_edges(random)
        day, *snapshots = random.choice(hosts)
        before, after = (request.is_let_through(snapshot) for snapshot in snapshots)
        assert before or not after or found_in(told, day, opens=True), (request, day)
        assert before == after or told, request


def test_the_literals_that_are_asked_for_are_spelt_as_requests_spell_them() -> None:
    assert all(parse_host(f"[{each}]" if each.version == 6 else str(each))[1] == each for each in ADDRESSES)
