"""Turns, whatever clients do: never too many, none lost, and nobody waits for ever beside a greedy one (ATTACKS 8)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from proxyd.net.turns import FairTurns

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENTS = "abcd"
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.sampled_from(CLIENTS)),
        st.tuples(st.just("end"), st.integers(0, 15)),
        st.tuples(st.just("cancel"), st.integers(0, 15)),
        st.tuples(st.just("cancel and end"), st.integers(0, 15)),
        st.tuples(st.just("end and cancel"), st.integers(0, 15)),
    ),
    max_size=40,
)


class Visitor:
    """One who wants a turn, has it until told to end, or is cancelled."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.has = False
        self.end = trio.Event()
        self.scope = trio.CancelScope()

    async def visit(self, scene: Scene) -> None:
        """Wait, have it, and leave."""
        with self.scope:
            async with scene.turns.turn(self.client):
                self.has = True
                scene.began.append(self.client)
                scene.holders.append(self)
                scene.check()
                try:
                    await self.end.wait()
                finally:
                    scene.holders.remove(self)
        scene.present.remove(self)


class Scene:
    """Clients at a number of turns, and what is true of them at every moment."""

    def __init__(self, total: int, of_one: int) -> None:
        self.total, self.of_one = total, of_one
        self.turns = FairTurns(total, of_one)
        self.present: list[Visitor] = []
        self.holders: list[Visitor] = []
        self.began: list[str] = []

    @property
    def held(self) -> Counter[str]:
        """How many each has."""
        return Counter(visitor.client for visitor in self.holders)

    def check(self) -> None:
        """Never more than there are, and never more than one may have."""
        assert len(self.holders) <= self.total
        assert max(self.held.values(), default=0) <= self.of_one

    def check_at_rest(self) -> None:
        """And nobody waits who may have one."""
        self.check()
        waiting = {visitor.client for visitor in self.present if not visitor.has}
        if free := self.total - len(self.holders):
            assert all(self.held[each] * (self.total - self.of_one) >= self.of_one * free for each in waiting)

    def enter(self, nursery: trio.Nursery, client: str) -> Visitor:
        """Somebody more wants one."""
        visitor = Visitor(client)
        self.present.append(visitor)
        nursery.start_soon(visitor.visit, self)
        return visitor


async def play(scene: Scene, steps: Sequence[tuple[str, str | int]]) -> None:
    """Let all this happen, look after each step, and let everybody end."""
    async with trio.open_nursery() as nursery:
        for what, whom in steps:
            if isinstance(whom, str):
                scene.enter(nursery, whom)
            elif scene.present:
                one, another = (scene.present[at % len(scene.present)] for at in (whom, whom + 1))
                for act in what.split(" and "):  # both in the same tick
                    if act == "end":
                        one.end.set()
                    else:
                        another.scope.cancel()
            await wait_all_tasks_blocked()
            scene.check_at_rest()
        while scene.present:
            for visitor in scene.present:
                visitor.end.set()
            await wait_all_tasks_blocked()
    assert scene.holders == []


async def all_free(scene: Scene) -> bool:
    """Whether every turn can be had, each by somebody new, and whether nothing is remembered of those who were here."""
    scene.began.clear()
    async with trio.open_nursery() as nursery:
        for at in range(scene.total):
            scene.enter(nursery, f"new {at}")
        await wait_all_tasks_blocked()
        had = len(scene.holders)
        for visitor in scene.holders:
            visitor.end.set()
    return had == scene.total and not vars(scene.turns)["_held"] and not vars(scene.turns)["_waiting"]


@given(st.integers(1, 4).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total))), STEPS)
def test_attack_8_never_too_many_turns_and_none_is_lost(
    turns: tuple[int, int], steps: list[tuple[str, str | int]]
) -> None:
    """Whoever wants one, ends, or is cancelled while waiting or having it, also in the moment in which it is given."""

    async def run() -> None:
        scene = Scene(*turns)
        await play(scene, steps)
        assert await all_free(scene)

    trio.run(run)


async def test_attack_8_who_has_fewest_is_next(nursery: trio.Nursery) -> None:
    scene = Scene(4, 4)
    a = [scene.enter(nursery, "a") for _ in range(3)]
    await wait_all_tasks_blocked()
    scene.enter(nursery, "b")
    await wait_all_tasks_blocked()
    for client in ("a", "a", "b", "c", "a"):
        scene.enter(nursery, client)
        await wait_all_tasks_blocked()
    assert scene.began == ["a", "a", "a", "b"]
    for visitor in a:
        visitor.end.set()
        await wait_all_tasks_blocked()
    assert scene.began[4:] == ["c", "a", "b"], (
        "who has none; then all have one, and a has waited longest; and then b has"
    )
    nursery.cancel_scope.cancel()


async def test_one_clients_turns_come_in_the_order_in_which_they_were_wanted(nursery: trio.Nursery) -> None:
    scene = Scene(1, 1)
    visitors = [scene.enter(nursery, "a")]
    for _ in range(4):
        await wait_all_tasks_blocked()
        visitors.append(scene.enter(nursery, "a"))
    for visitor in visitors:
        await wait_all_tasks_blocked()
        assert scene.holders == [visitor]
        visitor.end.set()


async def test_attack_8_who_has_as_few_as_another_waits_behind_them_only_once(nursery: trio.Nursery) -> None:
    """A flood that came first would otherwise be served to its end, while one who wants a single turn waits."""
    scene = Scene(1, 1)
    for _ in range(50):
        scene.enter(nursery, "greedy")
    await wait_all_tasks_blocked()
    for client in ("modest", "another"):
        scene.enter(nursery, client)
        await wait_all_tasks_blocked()
    for _ in range(4):
        scene.holders[0].end.set()
        await wait_all_tasks_blocked()
    assert scene.began == ["greedy", "greedy", "modest", "another", "greedy"]
    nursery.cancel_scope.cancel()


async def test_a_client_at_its_bound_keeps_nobody_else_waiting(nursery: trio.Nursery) -> None:
    scene = Scene(3, 2)
    for client in ("a", "a", "a", "a", "b"):
        scene.enter(nursery, client)
        await wait_all_tasks_blocked()
    assert scene.began == ["a", "a", "b"]
    nursery.cancel_scope.cancel()


async def test_who_waits_alone_and_gives_up_leaves_nothing_behind(nursery: trio.Nursery) -> None:
    """Nor does one of two; the turn goes to who still waits."""
    scene = Scene(1, 1)
    for client in "abb":
        scene.enter(nursery, client)
        await wait_all_tasks_blocked()
    holder, first, second = scene.present
    for each in (first, second):
        each.scope.cancel()
        await wait_all_tasks_blocked()
    scene.enter(nursery, "b")
    await wait_all_tasks_blocked()
    holder.end.set()
    await wait_all_tasks_blocked()
    (last,) = scene.holders
    assert (scene.began, last.client) == (["a", "b"], "b")
    last.end.set()


async def test_attack_8_floods_of_several_clients_leave_some_for_the_next(nursery: trio.Nursery) -> None:
    """The second has no more than the first leaves it, and the third finds some all the same; later they are even."""
    scene = Scene(64, 48)
    for client, has in (("a", 48), ("b", 12), ("c", 3), ("d", 1)):
        for _ in range(100):
            scene.enter(nursery, client)
        await wait_all_tasks_blocked()
        assert scene.held[client] == has
    for visitor in [each for each in scene.holders if each.client == "a"]:
        visitor.end.set()
        await wait_all_tasks_blocked()
    assert max(scene.held.values()) - min(scene.held.values()) <= 1
    nursery.cancel_scope.cancel()


async def test_attack_8_a_turn_that_is_given_to_one_who_just_gave_up_goes_on_to_the_next(nursery: trio.Nursery) -> None:
    scene = Scene(1, 1)
    for client in "abc":
        scene.enter(nursery, client)
        await wait_all_tasks_blocked()
    first, second, third = scene.present
    second.scope.cancel()
    first.end.set()
    await wait_all_tasks_blocked()
    assert (scene.began, scene.holders) == (["a", "c"], [third])
    third.end.set()


async def test_a_turn_is_given_back_whatever_happens_in_it() -> None:
    turns = FairTurns(1, 1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            async with turns.turn("a"):
                raise ZeroDivisionError
