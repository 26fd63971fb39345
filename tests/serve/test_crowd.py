"""Who makes room when all places are taken: who has asked for nothing, and first of those who are many (ATTACKS 8)."""

from __future__ import annotations

import trio
from netaddr import IPAddress
from trio.testing import wait_all_tasks_blocked

from proxyd.policy.snapshot import Peer
from proxyd.serve.crowd import LEAVING, Crowd
from proxyd.serve.ledger import Place
from proxyd.serve.visit import Visit
from tests.serve.scene import in_virtual_time


class House:
    """Visits that wait, each with a place until it leaves."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.crowd = Crowd()
        self.places = 0
        self.gone: list[str] = []
        self.hung_up: list[str] = []
        self._nursery = nursery

    async def comes(
        self,
        name: str,
        address: str | None = "127.0.0.1",
        uid: int | None = None,
        *,
        place: bool = True,
        lingers: float = 1,
    ) -> None:
        """Somebody who waits until cancelled, and then lingers for so many seconds."""
        self.places += place
        peer = Peer(None if address is None else IPAddress(address), uid)
        self._nursery.start_soon(self._wait, name, Visit(peer, Place(self._leave) if place else None), lingers)
        await wait_all_tasks_blocked()

    async def room(self) -> bool:
        """Ask for some, and let happen what happens at once."""
        made = self.crowd.make_room()
        await wait_all_tasks_blocked()
        return made

    def _leave(self) -> None:
        self.places -= 1

    async def _wait(self, name: str, visit: Visit, lingers: float) -> None:
        with visit.presence:
            with self.crowd.waiting(visit) as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
            self.gone.append(name)
            await trio.sleep(lingers)
        if visit.presence.cancelled_caught:
            self.hung_up.append(name)
        visit.leave()


async def test_where_nobody_waits_there_is_no_room(nursery: trio.Nursery) -> None:
    assert not await House(nursery).room()


@in_virtual_time
async def test_the_place_is_free_at_once_and_not_when_its_visitor_has_left(nursery: trio.Nursery) -> None:
    house = House(nursery)
    await house.comes("a")
    assert house.crowd.make_room()
    assert (house.places, house.gone) == (0, [])
    await trio.sleep(2)
    assert (house.places, house.gone) == (0, ["a"]), "it is left once"
    assert not await house.room()


async def test_of_those_who_are_many_who_waits_longest_leaves_first(nursery: trio.Nursery) -> None:
    """An account is one, wherever it connects from; who comes through a Unix socket has no address."""
    house = House(nursery)
    for name, address, uid in (
        ("one", "127.0.0.1", None),
        ("many 1", "127.0.0.2", 1000),
        ("two 1", "127.0.0.3", None),
        ("many 2", "127.0.0.9", 1000),
        ("two 2", "127.0.0.3", None),
        ("many 3", None, 1000),
    ):
        await house.comes(name, address, uid)
    for _ in range(4):
        assert await house.room()
    assert house.gone == ["many 1", "many 2", "two 1", "one"]
    assert house.places == 2
    nursery.cancel_scope.cancel()


async def test_who_has_no_place_makes_no_room(nursery: trio.Nursery) -> None:
    house = House(nursery)
    await house.comes("a stranger", place=False)
    assert not await house.room()
    assert house.gone == []
    nursery.cancel_scope.cancel()


@in_virtual_time
async def test_attack_8_only_so_many_leave_at_once_and_for_one_more_who_began_first_is_hung_up_on(
    nursery: trio.Nursery,
) -> None:
    """Each keeps its file until it has left: a flood must have no more than there are, and must not end this either."""
    house = House(nursery)
    for number in range(LEAVING + 3):
        await house.comes(f"{number}")
    for _ in range(LEAVING):
        assert await house.room()
    assert house.hung_up == []
    for _ in range(2):
        assert await house.room()
    assert house.hung_up == ["0", "1"]
    assert (len(house.gone), house.places) == (LEAVING + 2, 1), "room is made, whatever those do who are leaving"
    assert LEAVING == 64
    nursery.cancel_scope.cancel()


@in_virtual_time
async def test_who_has_left_by_himself_is_no_reason_to_hang_up_on_somebody(nursery: trio.Nursery) -> None:
    house = House(nursery)
    await house.comes("slow", lingers=10)
    for number in range(2 * LEAVING):
        await house.comes(f"{number}")
    for _ in range(2):
        for _ in range(LEAVING - 1):
            assert await house.room()
        await trio.sleep(2)
    assert (house.gone[0], house.hung_up) == ("slow", [])
    nursery.cancel_scope.cancel()


async def test_attack_8_who_has_been_displaced_waits_for_nothing_and_makes_room_for_nobody_else() -> None:
    """What it waited for came in the same moment; the place was left once and is somebody else's."""
    crowd = Crowd()
    left: list[str] = []
    visit = Visit(Peer(IPAddress("127.0.0.1")), Place(lambda: left.append("left")))
    with crowd.waiting(visit) as scope:
        assert crowd.make_room()
    assert (scope.cancel_called, scope.cancelled_caught) == (True, False)
    assert (left, visit.displaced) == (["left"], True)
    with crowd.waiting(visit) as scope:
        assert not crowd.make_room()
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert left == ["left"]


async def test_who_is_busy_again_makes_no_room() -> None:
    crowd = Crowd()
    visit = Visit(Peer(IPAddress("127.0.0.1")), Place(lambda: None))
    with crowd.waiting(visit):
        pass
    assert not crowd.make_room()
    assert visit.place is not None
