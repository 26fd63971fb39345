"""What the resolver remembers and for how long, and how many lookups there are at once (ATTACKS 3.1, 8)."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from proxyd.net import resolver as resolver_module
from proxyd.net.resolver import (
    CACHED_NAMES,
    IN_FLIGHT,
    LONGEST_TTL,
    MOST_OF_ONE,
    NEGATIVE_TTL,
    TOTAL_SECONDS,
    DnsError,
    Resolver,
)
from proxyd.policy.dns import Routes, Server
from proxyd.policy.verdict import Reason
from tests.net.names import CLIENT, FIRST, FOUR, NAME, SIX, A, World, found, numbers, reply, resolver

if TYPE_CHECKING:
    import dns.message
    from trio.testing import MockClock


# What is remembered


async def asked_again_after(clock: MockClock, subject: Resolver, world: World, seconds: float) -> bool:
    """Whether a lookup so long after the last one asks anew."""
    before = len(world.asked)
    clock.jump(seconds)
    with suppress(DnsError):
        await subject.resolve(NAME, CLIENT)
    return len(world.asked) > before


@pytest.mark.parametrize(
    ("ttls", "seconds"),
    [
        ((60, 60), 60),
        ((60, 30), 30),
        ((30, 60), 30),
        ((1, 1), 1),
        ((300, 300), 300),
        ((301, 301), LONGEST_TTL),
        ((86400, 2**31 - 1), LONGEST_TTL),
    ],
)
async def test_an_answer_is_remembered_as_long_as_its_ttl_and_five_minutes_at_most(
    mock_clock: MockClock, nursery: trio.Nursery, ttls: tuple[int, int], seconds: float
) -> None:
    world = World([(NAME, ttls[0], "A", FOUR), (NAME, ttls[1], "AAAA", SIX)])
    subject = resolver(nursery, world)
    assert numbers(await subject.resolve(NAME, CLIENT)) == {FOUR, SIX}
    assert not await asked_again_after(mock_clock, subject, world, seconds - 0.125)
    assert await asked_again_after(mock_clock, subject, world, 0.125)
    assert LONGEST_TTL == 300


async def test_the_ttl_of_the_chain_counts(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    world = World([(NAME, 10, "CNAME", "cdn.example."), ("cdn.example", 60, "A", FOUR)])
    subject = resolver(nursery, world)
    await subject.resolve(NAME, CLIENT)
    assert not await asked_again_after(mock_clock, subject, world, 9.875)
    assert await asked_again_after(mock_clock, subject, world, 0.125)


async def test_attack_3_1_an_answer_with_ttl_0_is_not_remembered(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    world = World([(NAME, 0, "A", FOUR)])
    subject = resolver(nursery, world)
    await subject.resolve(NAME, CLIENT)
    assert await asked_again_after(mock_clock, subject, world, 0)


@pytest.mark.parametrize("how", ["NXDOMAIN", "SERVFAIL"])
async def test_a_failure_is_remembered_for_five_seconds(mock_clock: MockClock, nursery: trio.Nursery, how: str) -> None:
    world = World(families={"A": how, "AAAA": how})
    subject = resolver(nursery, world)
    with pytest.raises(DnsError):
        await subject.resolve(NAME, CLIENT)
    assert not await asked_again_after(mock_clock, subject, world, NEGATIVE_TTL - 0.125)
    assert await asked_again_after(mock_clock, subject, world, 0.125)
    assert NEGATIVE_TTL == 5


async def test_the_empty_family_does_not_shorten_the_ttl(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    world = World([A])
    subject = resolver(nursery, world)
    await subject.resolve(NAME, CLIENT)
    assert not await asked_again_after(mock_clock, subject, world, 59)


async def test_attack_3_1_what_is_remembered_is_the_answer_as_it_was(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World([A])
    subject = resolver(nursery, world)
    first = await subject.resolve(NAME, CLIENT)
    world.records = [(NAME, 60, "A", "127.0.0.1")]
    assert await subject.resolve(NAME, CLIENT) == first == found(FOUR)
    mock_clock.jump(60)
    assert await subject.resolve(NAME, CLIENT) == found("127.0.0.1"), "and goes to the judge like the first"


async def test_attack_8_only_so_many_names_are_remembered(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CACHED_NAMES == 4096
    most = 64
    monkeypatch.setattr(resolver_module, "CACHED_NAMES", most)
    asked: list[str] = []

    async def fail(query: dns.message.Message, _: Server) -> dns.message.Message:
        asked.append(query.question[0].name.to_text())
        raise OSError

    subject = Resolver(nursery, Routes((FIRST,)), fail)

    async def again(number: int) -> bool:
        before = len(asked)
        with pytest.raises(DnsError):
            await subject.resolve(f"n{number}.example", CLIENT)
        return len(asked) > before

    for number in range(most):
        assert await again(number)
    assert not await again(0), "the first is still there"
    assert await again(most), "one too many"
    assert not await again(0), "what was used since stays"
    assert not await again(most)
    assert await again(1), "the least recently used had to go"
    assert await again(2), "and now the next"
    for number in range(1000, 1000 + 2 * most):
        assert await again(number)
        assert not await again(0), "a flood of names drives out none that is in use"


async def test_attack_8_a_failure_that_is_remembered_does_not_grow_with_every_request(nursery: trio.Nursery) -> None:
    """An exception that is raised again and again gathers the frames of all who met it, and what they hold."""
    subject = resolver(nursery, World(families={"A": "NXDOMAIN", "AAAA": "NXDOMAIN"}))
    depths = []
    for _ in range(10):
        with pytest.raises(DnsError) as caught:
            await subject.resolve(NAME, CLIENT)
        depths.append(len(caught.traceback))
    assert max(depths) <= depths[0] + 1


# Many at once


async def test_many_who_ask_for_one_name_share_one_lookup(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    world = World(seconds=0.5)
    subject = resolver(nursery, world)
    heard = []

    async def wait() -> None:
        heard.append(await subject.resolve(NAME, CLIENT))

    async with trio.open_nursery() as waiters:
        for _ in range(100):
            waiters.start_soon(wait)
    assert sorted(world.families_asked) == ["A", "AAAA"]
    assert len(heard) == 100
    assert len(set(heard)) == 1
    assert autojump_clock.current_time() == 0.5


async def test_many_who_wait_for_one_name_share_its_failure(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    world = World(seconds=0.5, families={"A": "SERVFAIL", "AAAA": "SERVFAIL"})
    subject = resolver(nursery, world)
    heard = []

    async def wait() -> None:
        with pytest.raises(DnsError) as caught:
            await subject.resolve(NAME, CLIENT)
        heard.append(caught.value.reason)

    async with trio.open_nursery() as waiters:
        for _ in range(100):
            waiters.start_soon(wait)
    assert heard == [Reason.DNS_ERROR] * 100
    assert len(world.asked) == 2
    assert autojump_clock.current_time() == 0.5


async def test_attack_8_a_waiter_that_is_cancelled_fails_nobody_else(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Not even if it was the one that began the lookup, or if all gave up."""
    world = World(seconds=0.75)
    subject = resolver(nursery, world)
    heard: list[set[str] | float] = []

    async def wait(seconds: float) -> None:
        with trio.move_on_after(seconds):
            heard.append(numbers(await subject.resolve(NAME, CLIENT)))
            return
        heard.append(seconds)

    async with trio.open_nursery() as waiters:
        waiters.start_soon(wait, 0.25)
        await wait_all_tasks_blocked()
        waiters.start_soon(wait, 1)
        waiters.start_soon(wait, 0.5)
    assert heard == [0.25, 0.5, {FOUR, SIX}]
    assert len(world.asked) == 2
    assert autojump_clock.current_time() == 0.75


async def test_a_lookup_that_everybody_gave_up_on_is_remembered_all_the_same(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(seconds=0.5)
    subject = resolver(nursery, world)
    with trio.move_on_after(0.25):
        await subject.resolve(NAME, CLIENT)
    await trio.sleep(1)
    assert numbers(await subject.resolve(NAME, CLIENT)) == {FOUR, SIX}
    assert len(world.asked) == 2
    assert autojump_clock.current_time() == 1.25


async def test_attack_8_a_thousand_names_at_once_are_all_answered_at_most_sixty_four_at_a_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    under_way: list[int] = [0]

    async def count(query: dns.message.Message, _: Server) -> dns.message.Message:
        under_way.append(under_way[-1] + 1)
        await trio.sleep(0.125)
        under_way.append(under_way[-1] - 1)
        return reply(query, [(query.question[0].name.to_text(omit_final_dot=True), 60, "A", FOUR)])

    subject = Resolver(nursery, Routes((FIRST,)), count)
    heard = []

    async def wait(number: int) -> None:
        heard.append(await subject.resolve(f"n{number}.example", f"client {number % 10}"))

    async with trio.open_nursery() as waiters:
        for number in range(1000):
            waiters.start_soon(wait, number)
    assert heard == [found(FOUR)] * 1000
    both = [2 * (IN_FLIGHT - 1), 2 * IN_FLIGHT]  # one is left to who has few, as those whose answers come together
    assert max(under_way) in both == [126, 128], "both families of each"
    assert autojump_clock.current_time() in (16 * 0.125, 17 * 0.125), "1,000 names by 63 or 64"


async def test_attack_8_whose_turn_does_not_come_times_out_in_three_seconds(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(seconds=10)
    subject = resolver(nursery, world)
    heard = []

    async def wait(number: int) -> None:
        with pytest.raises(DnsError) as caught:
            await subject.resolve(f"n{number}.example", CLIENT)
        heard.append((caught.value.reason, trio.current_time()))

    async with trio.open_nursery() as waiters:
        for number in range(MOST_OF_ONE + 1):
            waiters.start_soon(wait, number)
    assert heard == [(Reason.DNS_TIMEOUT, TOTAL_SECONDS)] * (MOST_OF_ONE + 1)
    assert len(world.asked) == 2 * MOST_OF_ONE
    assert autojump_clock.current_time() == TOTAL_SECONDS


# One client beside the others


class Silent(World):
    """A world in which `*.silent.example` never answers, and all else does at once."""

    async def ask(self, query: dns.message.Message, server: Server) -> dns.message.Message:
        """Keep silent, or answer."""
        name = query.question[0].name.to_text(omit_final_dot=True)
        self.records = [(name, 60, "A", FOUR)]
        if name.endswith(".silent.example"):
            self.asked.append((trio.current_time(), name, "", server))
            await trio.sleep_forever()
        return await super().ask(query, server)


async def ask_silence(subject: Resolver, number: int) -> None:
    """One of a flood of lookups of the client "greedy"."""
    with suppress(DnsError):
        await subject.resolve(f"n{number}.silent.example", "greedy")


async def test_attack_8_a_zone_that_keeps_silent_silences_only_who_asks_for_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """One client has MOST_OF_ONE lookups at once and no more; all that others ask is answered in no time."""
    world = Silent()
    subject = resolver(nursery, world)
    async with trio.open_nursery() as flood:
        for number in range(1000):
            flood.start_soon(ask_silence, subject, number)
        await wait_all_tasks_blocked()
        assert len(world.asked) == 2 * MOST_OF_ONE == 2 * (IN_FLIGHT - 16)
        for number in range(100):
            assert await subject.resolve(f"n{number}.example", "modest") == found(FOUR)
        assert autojump_clock.current_time() == 0
        with trio.move_on_after(1) as scope:
            await subject.resolve("other.example", "greedy")
        assert scope.cancelled_caught, "its own must wait their turn"
        flood.cancel_scope.cancel()


async def test_attack_8_a_client_without_a_turn_takes_nobody_elses_name_with_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A flood, and then one request for a name that all need, must not keep that name from all for as long as it lasts.

    They would share the failure of the greedy one's lookup, for which nobody was ever asked.
    """
    world = Silent()
    subject = resolver(nursery, world)
    async with trio.open_nursery() as flood:
        for number in range(2 * MOST_OF_ONE):
            flood.start_soon(ask_silence, subject, number)
        await wait_all_tasks_blocked()
        with pytest.raises(DnsError, match="too many") as caught:
            await subject.resolve("api.example", "greedy")
        assert (caught.value.reason, autojump_clock.current_time()) == (Reason.DNS_TIMEOUT, TOTAL_SECONDS)
        assert "api.example." not in {name for _, name, *_ in world.asked}
        assert await subject.resolve("api.example", "modest") == found(FOUR)
        assert autojump_clock.current_time() == TOTAL_SECONDS
        flood.cancel_scope.cancel()


async def test_attack_8_a_name_that_one_client_waits_to_ask_for_is_asked_for_by_another_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = Silent()
    subject = resolver(nursery, world)
    async with trio.open_nursery() as flood:
        for number in range(MOST_OF_ONE):
            flood.start_soon(ask_silence, subject, number)
        await wait_all_tasks_blocked()
        flood.start_soon(subject.resolve, "api.example", "greedy")
        await wait_all_tasks_blocked()
        assert await subject.resolve("api.example", "modest") == found(FOUR)
        assert autojump_clock.current_time() == 0
        assert await subject.resolve("api.example", "greedy") == found(FOUR), "an answer is everybody's"
        assert autojump_clock.current_time() == 0
        flood.cancel_scope.cancel()


async def test_r12_who_still_waits_when_the_resolver_ends_gets_an_error(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as lookups:
        subject = resolver(lookups, World(seconds=10))
        async with trio.open_nursery() as waiters:

            async def wait() -> None:
                with pytest.raises(DnsError, match="shutting down"):
                    await subject.resolve(NAME, CLIENT)

            waiters.start_soon(wait)
            await trio.sleep(0.5)
            lookups.cancel_scope.cancel()
    assert autojump_clock.current_time() == 0.5


@pytest.mark.parametrize("said", ["NXDOMAIN", "SERVFAIL", ValueError])
async def test_attack_8_a_remembered_failure_keeps_nothing_of_its_lookup(
    nursery: trio.Nursery, said: str | type[Exception]
) -> None:
    """A traceback keeps frames, and these the questions and answers: kilobytes for each name that is not there."""
    world = World(families={"A": said, "AAAA": said})
    asked: list[weakref.ref[dns.message.Message]] = []

    async def remember(query: dns.message.Message, server: Server) -> dns.message.Message:
        asked.append(weakref.ref(query))
        return await world.ask(query, server)

    subject = Resolver(nursery, Routes((FIRST,)), remember)
    for _ in range(2):
        with pytest.raises(DnsError):
            await subject.resolve(NAME, CLIENT)
    gc.collect()
    assert [each() for each in asked] == [None, None], "asked once a family, and forgotten"
