"""Clients let in up to a limit, strangers heard beside them, and both told where there is no room (R2, ATTACKS 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import pytest
import trio
from netaddr import IPAddress
from trio.testing import memory_stream_pair

from proxyd.serve.listener import STRANGERS, TURNED_AWAY, Doorman
from tests.serve.counting import Counting
from tests.serve.scene import Peer, World, connect, exchange, get, in_virtual_time, policy

if TYPE_CHECKING:
    import socket

    from proxyd.net.stream import TcpStream
    from proxyd.observe.tally import Tally
    from proxyd.policy.model import Policy

STRANGER: Final = "10.9.9.9"  # no [[client]] has this address


def full_at(connections: int, more: str = "") -> Policy:
    """A policy by which only so many may be inside."""
    return policy(f"{more}\n[limits]\nconnections = {connections}\n")


class Front:
    """A doorman at work."""

    def __init__(
        self, world: World, nursery: trio.Nursery, *, capacity: int = 1000, account: int | None = None
    ) -> None:
        self.asked: list[object] = []
        self.counting = Counting()
        self.doorman = Doorman(world.seams, self._owner_of, capacity, cast("Tally", self.counting))
        self._account = account
        self._nursery = nursery

    def _owner_of(self, accepted: socket.socket) -> int | None:
        self.asked.append(accepted)
        return self._account

    async def knock(self, address: str | None = "127.0.0.1") -> Peer:
        """A new client."""
        ours, theirs = memory_stream_pair()
        accepted = cast("socket.socket", theirs)
        guest = self.doorman.peer(accepted, None if address is None else IPAddress(address))
        self._nursery.start_soon(self.doorman.receive, cast("TcpStream", theirs), guest)
        await trio.testing.wait_all_tasks_blocked()
        return Peer(ours)

    async def busy(self, world: World, address: str = "127.0.0.1") -> Peer:
        """A new client, who has a tunnel."""
        client = await self.knock(address)
        await client.send(connect())
        await world.origin()
        await client.until(b"\r\n\r\n")
        return client


@in_virtual_time
async def test_a_client_that_says_nothing_is_let_go_without_a_record() -> None:
    """ATTACKS 8: a flood of resets would else flood the log; a client has its place as long as it is there."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        for _ in range(3):
            await (await front.knock()).leave()
            await trio.testing.wait_all_tasks_blocked()
        inside = await front.knock()
        await exchange(world, inside)
        assert (await inside.answer()).status == 200
        assert world.house.connections == 1
        await inside.leave()
    assert (front.doorman.served, world.house.connections) == (4, 0)
    assert len(world.trail()) == 1
    assert front.counting.noted == ["accepted"] * 4, "of those who are on no record, it is known how many there were"


@pytest.mark.parametrize(("policy", "capacity"), [(full_at(2), 1000), (full_at(1000), 2)])
@in_virtual_time
async def test_as_many_clients_as_the_limit_says_are_served_and_one_more_is_told(policy: Policy, capacity: int) -> None:
    """R7, R12, ATTACKS 8: the policy's limit, and that of the files which this process may have open."""
    world = World(policy)
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery, capacity=capacity)
        inside = [await front.busy(world), await front.busy(world)]
        late = await front.knock()
        answer = await late.answer()
        assert (answer.status, answer.reason, answer.fields["connection"]) == (503, "connection_limit", "close")
        await late.closed()
        await world.leave()
        for client in inside:
            await client.closed()
            await client.leave()
    assert (front.doorman.served, world.house.connections) == (2, 0)
    *served, refused = world.trail()
    assert (refused[0].reason, refused[0].status, refused[1].outcome) == ("connection_limit", 503, "refused")
    assert [decision.verdict for decision, _ in served] == ["allow", "allow"]


@in_virtual_time
async def test_the_limit_is_that_of_the_policy_of_the_moment() -> None:
    """R10: a reload may raise it, and nobody who is inside is put out when it lowers it."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        clients = [await front.busy(world)]
        assert (await (await front.knock()).answer()).status == 503
        world.amend(full_at(3))
        clients.append(await front.busy(world))
        world.amend(full_at(1))
        assert (await (await front.knock()).answer()).status == 503
        await world.leave()
        for client in clients:
            await client.closed()
            await client.leave()


@in_virtual_time
async def test_who_leaves_makes_room() -> None:
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        for _ in range(3):
            client = await front.knock()
            await exchange(world, client)
            assert (await client.answer()).status == 200
            await client.leave()
            await trio.testing.wait_all_tasks_blocked()
        assert front.doorman.served == 3


@in_virtual_time
async def test_attack_8_a_tunnel_is_a_connection_until_it_ends() -> None:
    """Its session is over long before, where there is a pool; here it is not, and the place is the same."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        tunnel = await front.knock()
        await tunnel.send(connect())
        origin = await world.origin()
        await tunnel.until(b"\r\n\r\n")
        assert (await (await front.knock()).answer()).reason == "connection_limit"
        await origin.leave()
        await tunnel.rest()
        await tunnel.leave()
        await trio.testing.wait_all_tasks_blocked()
        assert world.house.connections == 0


@in_virtual_time
async def test_only_so_many_are_told_at_once_and_more_are_just_closed() -> None:
    """ATTACKS 8: who turns away a flood with care is drowned by it. A second later, there is time again."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        inside = await front.busy(world)
        told = [await front.knock() for _ in range(TURNED_AWAY)]
        assert front.counting.noted == ["accepted"] * (1 + TURNED_AWAY)
        closed = await front.knock()
        await closed.closed()
        assert [record.event for record in world.records] == ["decision"] * (1 + TURNED_AWAY)
        assert front.counting.noted[-2:] == ["accepted", "dropped"], "nothing else tells of it"
        for client in told:
            assert (await client.answer()).status == 503
        await trio.sleep(1.5)
        assert (await (await front.knock()).answer()).status == 503
        await world.leave()
        await inside.leave()
    assert len(world.trail()) == 1 + TURNED_AWAY + 1
    assert front.doorman.served == 1


# Who has asked for nothing makes room


@in_virtual_time
async def test_attack_8_a_crowd_that_says_nothing_keeps_nobody_out() -> None:
    """Who waits between two requests makes room, too; who has asked for something stays."""
    world = World(full_at(3))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        busy, rested = await front.busy(world), await front.knock()
        await exchange(world, rested)
        assert (await rested.answer()).status == 200
        silent = await front.knock()
        for gone in (rested, silent):
            newcomer = await front.knock()
            await gone.closed()
            await exchange(world, newcomer)
            assert (await newcomer.answer()).status == 200
        await busy.silent()
        assert (world.house.connections, front.counting.noted) == (3, ["accepted"] * 5)
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_attack_8_a_head_that_does_not_come_makes_room_and_is_told_so() -> None:
    """Slowloris: each is on record, and is no reason to keep others waiting."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        slow = await front.knock()
        await slow.send(b"GET http://origin.example/ HT")
        newcomer = await front.knock()
        assert (await slow.answer()).reason == "connection_limit"
        await slow.closed()
        await exchange(world, newcomer)
        assert (await newcomer.answer()).status == 200
        await newcomer.leave()
        await trio.testing.wait_all_tasks_blocked()
    assert [decision.reason for decision, _ in world.trail()] == ["connection_limit", None]
    assert world.house.connections == 0


@in_virtual_time
async def test_strangers_are_nobodys_room() -> None:
    """They have no place that anybody could have."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        stranger = await front.knock(STRANGER)
        busy = await front.busy(world)
        assert (await (await front.knock()).answer()).reason == "connection_limit"
        await stranger.silent()
        await busy.silent()
        nursery.cancel_scope.cancel()


# Strangers


@in_virtual_time
async def test_strangers_take_no_place_of_a_client() -> None:
    """R2, ATTACKS 8: they need not even ask, and could keep every client out."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        strangers = [await front.knock(STRANGER) for _ in range(STRANGERS)]
        client = await front.knock()
        await exchange(world, client)
        assert (await client.answer()).status == 200
        for each in (client, *strangers):
            await each.leave()
    assert front.doorman.served == 1 + STRANGERS
    assert [decision.verdict for decision, _ in world.trail()] == ["allow"]


@pytest.mark.parametrize("address", [STRANGER, None])
@in_virtual_time
async def test_clients_take_no_place_of_a_stranger_who_is_refused_as_one(address: str | None) -> None:
    """R2: also by a full house, which is none of his business. A Unix socket is in no network."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        inside = await front.busy(world)
        stranger = await front.knock(address)
        await stranger.send(get())
        answer = await stranger.answer()
        assert (answer.status, answer.reason) == (403, "client_unknown")
        assert (await (await front.knock()).answer()).status == 503
        await world.leave()
        for each in (inside, stranger):
            await each.leave()
    assert world.trail()[1][0].client_address == address


@in_virtual_time
async def test_only_so_many_strangers_are_heard_at_once_and_more_are_just_closed() -> None:
    """ATTACKS 8: nor is it on record that they came; who leaves makes room."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        strangers = [await front.knock(STRANGER) for _ in range(STRANGERS)]
        await (await front.knock(STRANGER)).closed()
        assert (STRANGERS, front.doorman.served, world.records) == (64, 64, [])
        assert front.counting.noted == [*["accepted"] * (STRANGERS + 1), "dropped"]
        await strangers.pop().leave()
        await trio.testing.wait_all_tasks_blocked()
        strangers.append(await front.knock(STRANGER))
        await (await front.knock(STRANGER)).closed()
        await strangers[-1].send(get())
        assert (await strangers[-1].answer()).reason == "client_unknown"
        for each in strangers:
            await each.leave()
    assert front.doorman.served == STRANGERS + 1


@pytest.mark.parametrize("address", [STRANGER, "127.0.0.1"])
@in_virtual_time
async def test_the_place_of_a_session_that_is_cancelled_is_free_again(address: str) -> None:
    """A count that only grows would close the house for good: to strangers, to clients, to those turned away."""
    world = World(full_at(1))
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery)
        doorman = front.doorman
        nursery.cancel_scope.cancel()
    for _ in range(STRANGERS + 2):
        async with trio.open_nursery() as nursery:
            front = Front(world, nursery)
            front.doorman = doorman
            one = await (front.knock(address) if address == STRANGER else front.busy(world, address))
            await one.silent(0.1)
            if address != STRANGER:
                assert (await (await front.knock(address)).answer()).status == 503
            nursery.cancel_scope.cancel()
    assert world.house.connections == 0


# Accounts

BY_ACCOUNT: Final = policy('[[client]]\nname = "other"\nusers = [1001]\n')


@in_virtual_time
async def test_whose_a_connection_is_is_asked_only_where_it_matters() -> None:
    """R2: at once, when it has just been accepted; and a policy that names no account costs no question."""
    for made, asked in ((policy(), 0), (BY_ACCOUNT, 1)):
        world = World(made)
        async with trio.open_nursery() as nursery:
            front = Front(world, nursery, account=1001)
            await (await front.knock()).leave()
        assert len(front.asked) == asked


@pytest.mark.parametrize(("account", "client"), [(1001, "other"), (1002, None), (0, None), (None, None)])
@in_virtual_time
async def test_a_client_known_by_its_account_is_let_in_as_that_one(account: int | None, client: str | None) -> None:
    """ATTACKS 4.11: not known is nobody's account, and not root's."""
    world = World(BY_ACCOUNT)
    async with trio.open_nursery() as nursery:
        front = Front(world, nursery, account=account)
        one = await front.knock(STRANGER)
        await one.send(get("http://127.0.0.1/"))
        assert (await one.answer()).reason == ("address_denied" if client else "client_unknown")
        await one.leave()
    decision, _ = world.only()
    assert (decision.client, decision.user) == (client, None if account is None else str(account))


@in_virtual_time
async def test_who_waits_in_a_session_is_known_to_the_drain() -> None:
    """SIGTERM, and a policy that knows them no more, find every connection that waits."""
    world = World()
    async with trio.open_nursery() as nursery:
        client = await Front(world, nursery).knock()
        world.seams.drain.dismiss(lambda peer: peer.address == IPAddress("127.0.0.1"))
        await client.closed()
