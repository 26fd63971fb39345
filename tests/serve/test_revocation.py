"""What a new policy would refuse is cut, whatever it is by then; and nothing else (ATTACKS 7.7)."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
import trio
from netaddr import IPAddress, IPNetwork

from proxyd.policy.address import Destination, Resolution
from proxyd.policy.snapshot import Peer, Snapshot
from proxyd.policy.verdict import NEED_ADDRESSES, decide
from proxyd.serve.case import Case
from proxyd.serve.current import CurrentPolicy, InForce
from proxyd.serve.revocation import LOOK_SECONDS, revoke, revoke_forever
from proxyd.serve.trail import Trail
from tests.serve.scene import NOW, PERMIT_LOCAL, PUBLIC, World, connected, exchange, in_virtual_time, policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.net.tunnels import Owner, Tunnels
    from proxyd.policy.verdict import Allow, Deny, NeedAddresses
    from proxyd.serve.exchange import Exchange
    from proxyd.serve.seams import Seams

LOCAL: Final = Peer(IPAddress("127.0.0.1"))
DENIED: Final = policy('[[deny]]\nname = "new"\nreason = "a test"\nhosts = ["denied.example"]\n')
OTHERS: Final = policy('[[client]]\nname = "other"\nnetworks = ["10.0.0.0/8"]\n')


class Pool:
    """In the place of the tunnels: their owners, and which of them were cut."""

    def __init__(self, *owners: object) -> None:
        self.owners = list(owners)
        self.cut: list[object] = []

    def revoke(self, predicate: Callable[[Owner], bool], outcome: str = "revoked") -> int:
        """As the pool has it."""
        assert outcome == "revoked"
        cut = [owner for owner in self.owners if predicate(cast("Owner", owner))]
        self.cut += cut
        return len(cut)


class Under:
    """In the place of an exchange that is under way."""

    def __init__(self, trail: Trail) -> None:
        self.trail = trail
        self.revoked = 0

    def revoke(self) -> None:
        """As an exchange has it."""
        self.revoked += 1


def trail(seams: Seams, host: str = "example.com", peer: Peer = LOCAL, *, judged: bool = True) -> Trail:
    """The trail of something that was allowed, if it was judged at all."""
    made = Trail(seams, seams.snapshot(), None, peer)
    if judged:
        made.case = Case(peer, frozenset(), Destination(host, 443), Resolution((PUBLIC,)))
    return made


@in_virtual_time
async def test_tunnels_that_would_be_refused_now_are_cut_and_no_others() -> None:
    """Also those of whom nothing is known, who were never judged, stay: they are cut by their own session."""
    world = World()
    seams = world.seams
    kept, cut = trail(seams), trail(seams, "denied.example")
    pool = Pool(kept, cut, trail(seams, "denied.example", judged=False), object())
    world.seams = replace(seams, tunnels=cast("Tunnels", pool))
    assert (revoke(world.seams), pool.cut) == (0, [])
    world.amend(DENIED)
    assert (revoke(world.seams), pool.cut) == (1, [cut])


@in_virtual_time
async def test_exchanges_that_would_be_refused_now_are_cut_and_no_others() -> None:
    """Where there is no pool, too."""
    world = World()
    kept, cut, early = (Under(trail(world.seams, host)) for host in ("example.com", "denied.example", "denied.example"))
    early.trail.case = None
    world.seams.live.update(cast("list[Exchange]", [kept, cut, early]))
    assert revoke(world.seams) == 0
    world.amend(DENIED)
    assert revoke(world.seams) == 1
    assert [each.revoked for each in (kept, cut, early)] == [0, 1, 0]


@in_virtual_time
async def test_an_exchange_that_ends_by_being_cut_disturbs_nobody() -> None:
    """It leaves the others' list in the same moment."""
    world = World()

    class Leaving(Under):
        def revoke(self) -> None:
            super().revoke()
            world.seams.live.discard(cast("Exchange", self))

    under = [Leaving(trail(world.seams, "denied.example")) for _ in range(5)]
    world.seams.live.update(cast("list[Exchange]", under))
    world.amend(DENIED)
    assert revoke(world.seams) == 5
    assert world.seams.live == set()


@in_virtual_time
async def test_both_are_counted_together() -> None:
    """R7: `proxyd reload` says how many connections it cut."""
    world = World()
    seams = world.seams
    world.seams = replace(seams, tunnels=cast("Tunnels", Pool(*(trail(seams, "denied.example") for _ in range(3)))))
    world.seams.live.add(cast("Exchange", Under(trail(seams, "denied.example"))))
    world.amend(DENIED)
    assert revoke(world.seams) == 4


@in_virtual_time
async def test_connections_that_wait_are_let_go_if_nobody_knows_who_they_are() -> None:
    """R2: and they are not among those that were cut; who still is a client waits on, and is served."""
    world = World(OTHERS)
    async with connected(world) as local, connected(world, "10.0.0.1") as other:
        assert revoke(world.seams) == 0
        world.amend(policy())
        assert revoke(world.seams) == 0
        await other.closed()
        await local.silent()
        await exchange(world, local)
        assert (await local.answer()).status == 200


@in_virtual_time
async def test_a_request_that_was_begun_before_is_not_let_go_with_those_that_wait() -> None:
    """It is judged when it is complete, by the policy of that moment, and has its answer."""
    world = World(OTHERS)
    async with connected(world, "10.0.0.1") as other:
        await other.send(b"GET http://example.com/ HT")
        world.amend(policy())
        assert revoke(world.seams) == 0
        await other.send(b"TP/1.1\r\nHost: x\r\n\r\n")
        assert (await other.answer()).status in (200, 403)


@in_virtual_time
async def test_a_real_exchange_under_way_is_cut() -> None:
    """End to end in memory: the client waits for an answer, and gets the refusal."""
    world = World()
    async with connected(world) as client:
        await client.send(b"GET http://denied.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
        origin = await world.origin()
        await origin.until(b"\r\n\r\n")
        world.amend(DENIED)
        assert revoke(world.seams) == 1
        answer = await client.answer()
        assert (answer.status, answer.reason) == (403, "revoked")
        await origin.closed()
    assert world.only()[1].outcome in ("refused", "revoked")


class Host:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.time = dt.datetime(2026, 8, 1, 23, 59, 0, tzinfo=dt.UTC)
        self.addresses: frozenset[IPNetwork] = frozenset()

    def current(self) -> CurrentPolicy:
        """A policy with a permit that ends today."""
        in_force = InForce(policy(f"{PERMIT_LOCAL}expires = 2026-08-01"), frozenset({8080}))
        return CurrentPolicy(in_force, lambda: self.time, lambda: self.addresses, pytest.fail)


@pytest.mark.parametrize("change", ["midnight", "address"])
@in_virtual_time
async def test_a_new_day_and_a_new_address_are_new_policies(change: str) -> None:
    """A permit ends at 00:00 UTC with what it opened, and an address that became ours is reached by nobody."""
    world, host = World(), Host()
    world.seams = replace(world.seams, snapshot=host.current())
    permitted, public = trail(world.seams, "ui.example"), trail(world.seams)
    permitted.case = Case(LOCAL, frozenset(), Destination("ui.example", 8080), Resolution((IPAddress("10.0.0.5"),)))
    pool = Pool(permitted, public)
    world.seams = replace(world.seams, tunnels=cast("Tunnels", pool))
    assert permitted.case.stands(world.seams.snapshot(), decide)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(revoke_forever, world.seams)
        await trio.sleep(10 * LOOK_SECONDS + 0.5)
        assert pool.cut == []
        if change == "midnight":
            host.time += dt.timedelta(minutes=1)
        else:
            host.time += dt.timedelta(seconds=10)
            host.addresses = frozenset({IPNetwork("10.0.0.5/32")})
        await trio.sleep(LOOK_SECONDS)
        assert pool.cut == [permitted]
        pool.owners.remove(permitted)
        await trio.sleep(10 * LOOK_SECONDS)
        assert pool.cut == [permitted]
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_what_stays_the_same_is_looked_at_once_a_second_and_judged_never() -> None:
    """Nobody's case is judged again for nothing: thousands of tunnels would be a second's work each second."""
    world = World()
    snapshot = Snapshot.of(policy(), NOW.date())
    judged: list[object] = []

    def judge(*what: Any) -> Allow | Deny | NeedAddresses:  # noqa: ANN401 - whatever it is asked
        judged.append(what)
        return NEED_ADDRESSES

    one = trail(world.seams)
    world.seams = replace(
        world.seams,
        snapshot=lambda: snapshot,
        judge=judge,
        tunnels=cast("Tunnels", Pool(one)),
    )
    with trio.move_on_after(100 * LOOK_SECONDS):
        await revoke_forever(world.seams)
    assert judged == []
