"""Which servers are asked for a name, in what order, and how long for (R3, R12, ATTACKS 3.5, 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import dns.exception
import dns.message
import dns.rdatatype
import pytest
import trio
from netaddr import IPAddress
from trio.testing import wait_all_tasks_blocked

from proxyd.net.nameserver import TRY_SECONDS
from proxyd.net.resolver import GRACE_SECONDS, NEGATIVE_TTL, ROUNDS, TOTAL_SECONDS, DnsError, Resolver
from proxyd.policy.address import Endpoint, Resolution
from proxyd.policy.dns import Routes, Server, Zone
from proxyd.policy.verdict import Reason
from tests.net.names import AAAA, CLIENT, FIRST, FOUR, NAME, SECOND, SIX, A, World, found, numbers, outcome, reply

if TYPE_CHECKING:
    from trio.testing import MockClock


# Which server


async def test_the_second_server_answers_where_the_first_is_silent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(servers={FIRST: None})
    assert numbers(await outcome(nursery, world, FIRST, SECOND)) == {FOUR, SIX}
    assert [(at, server) for at, _, family, server in world.asked if family == "A"] == [(0.0, FIRST), (1.0, SECOND)]
    assert autojump_clock.current_time() == TRY_SECONDS == 1.0


@pytest.mark.parametrize("how", ["SERVFAIL", "REFUSED", OSError, dns.exception.FormError], ids=str)
async def test_the_second_server_answers_at_once_where_the_first_is_no_use(
    autojump_clock: MockClock, nursery: trio.Nursery, how: str | type[Exception]
) -> None:
    world = World(servers={FIRST: how})
    assert numbers(await outcome(nursery, world, FIRST, SECOND)) == {FOUR, SIX}
    assert autojump_clock.current_time() == 0


async def test_attack_3_5_nxdomain_of_the_first_server_is_final(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """It says so of what it filters, too: to ask the next one, which filters nothing, would be the way around it."""
    world = World(servers={FIRST: "NXDOMAIN"})
    assert await outcome(nursery, world, FIRST, SECOND) is Reason.DNS_ERROR
    assert sorted((family, server) for _, _, family, server in world.asked) == [("A", FIRST), ("AAAA", FIRST)]
    assert autojump_clock.current_time() == 0


@pytest.mark.parametrize("how", [None, "SERVFAIL", OSError], ids=str)
async def test_attack_3_5_nxdomain_is_final_too_where_the_servers_before_it_were_no_use(
    autojump_clock: MockClock, nursery: trio.Nursery, how: str | type[Exception] | None
) -> None:
    third = Server(Endpoint(IPAddress("192.0.2.55"), 53))
    world = World(servers={FIRST: how, SECOND: "NXDOMAIN"})
    assert await outcome(nursery, world, FIRST, SECOND, third) is Reason.DNS_ERROR
    assert [server for *_, family, server in world.asked if family == "A"] == [FIRST, SECOND]
    assert autojump_clock.current_time() == (TRY_SECONDS if how is None else 0)


async def test_an_empty_answer_of_the_first_server_is_final(nursery: trio.Nursery) -> None:
    world = World(records=[])
    assert await outcome(nursery, world, FIRST, SECOND) is Reason.DNS_ERROR
    assert {server for *_, server in world.asked} == {FIRST}


async def test_an_answer_that_is_no_use_is_not_asked_for_again(nursery: trio.Nursery) -> None:
    world = World(servers={FIRST: "SERVFAIL", SECOND: "REFUSED"})
    assert await outcome(nursery, world, FIRST, SECOND) is Reason.DNS_ERROR
    assert world.families_asked.count("A") == world.families_asked.count("AAAA") == 2


async def test_a_server_that_was_silent_is_asked_again(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    world = World(servers={FIRST: None})

    async def recover() -> None:
        await trio.sleep(0.5)
        world.servers.clear()

    nursery.start_soon(recover)
    assert numbers(await outcome(nursery, world)) == {FOUR, SIX}
    assert [at for at, _, family, _ in world.asked if family == "A"] == [0.0, 1.0]
    assert autojump_clock.current_time() == 1.0


async def test_a_server_is_asked_three_times_and_no_more(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    world = World(seconds=0.25, servers={FIRST: dns.exception.Timeout})
    assert await outcome(nursery, world) is Reason.DNS_TIMEOUT
    assert [at for at, _, family, _ in world.asked if family == "A"] == [0.0, 0.25, 0.5]
    assert autojump_clock.current_time() == ROUNDS * 0.25


async def test_attack_3_5_when_all_are_silent_the_lookup_times_out(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(servers={FIRST: None})
    assert await outcome(nursery, world) is Reason.DNS_TIMEOUT
    assert world.families_asked.count("A") == ROUNDS == 3
    assert autojump_clock.current_time() == TOTAL_SECONDS == 3.0


@pytest.mark.parametrize("servers", [(FIRST,), (FIRST, SECOND), (FIRST, SECOND, FIRST, SECOND, FIRST)])
async def test_attack_8_a_lookup_takes_at_most_three_seconds(
    autojump_clock: MockClock, nursery: trio.Nursery, servers: tuple[Server, ...]
) -> None:
    async def hang(_: dns.message.Message, __: Server) -> dns.message.Message:
        await trio.sleep_forever()
        raise AssertionError

    for name in ("a.example", "b.example"):
        with pytest.raises(DnsError) as caught:
            await Resolver(nursery, Routes(servers), hang).resolve(name, CLIENT)
        assert caught.value.reason is Reason.DNS_TIMEOUT
    assert autojump_clock.current_time() == 2 * TOTAL_SECONDS


async def test_r12_without_a_server_there_is_no_answer(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    with pytest.raises(DnsError):
        await Resolver(nursery, Routes(()), World().ask).resolve(NAME, CLIENT)
    assert autojump_clock.current_time() == 0


# The slower family


@pytest.mark.parametrize("silent", ["A", "AAAA"])
async def test_a_family_that_is_silent_is_waited_for_one_second_after_the_other(
    autojump_clock: MockClock, nursery: trio.Nursery, silent: str
) -> None:
    async def half(query: dns.message.Message, _: Server) -> dns.message.Message:
        if dns.rdatatype.to_text(query.question[0].rdtype) == silent:
            await trio.sleep_forever()
        await trio.sleep(0.5)
        return reply(query, [A, AAAA])

    assert await Resolver(nursery, Routes((FIRST,)), half).resolve(NAME, CLIENT) == found(
        SIX if silent == "A" else FOUR
    )
    assert autojump_clock.current_time() == 0.5 + GRACE_SECONDS == 1.5


async def test_attack_3_3_a_family_that_is_late_within_the_second_is_judged_too(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def late(query: dns.message.Message, _: Server) -> dns.message.Message:
        await trio.sleep(0 if query.question[0].rdtype == dns.rdatatype.A else 0.875)
        return reply(query, [A, (NAME, 60, "AAAA", "::1")])

    assert numbers(await Resolver(nursery, Routes((FIRST,)), late).resolve(NAME, CLIENT)) == {FOUR, "::1"}
    assert autojump_clock.current_time() == 0.875


@pytest.mark.parametrize("how", ["", "SERVFAIL"], ids=["empty", "SERVFAIL"])
async def test_a_lost_packet_does_not_fail_a_name_with_addresses_of_one_family_only(
    autojump_clock: MockClock, nursery: trio.Nursery, how: str
) -> None:
    """The other family has nothing, or failed: that is no reason to give up on the one that was not heard yet."""
    heard = False

    async def lose_the_first(query: dns.message.Message, _: Server) -> dns.message.Message:
        nonlocal heard
        await trio.lowlevel.checkpoint()
        if query.question[0].rdtype == dns.rdatatype.A:
            return reply(query, (), how or "NOERROR")
        if not heard:
            heard = True
            await trio.sleep(TRY_SECONDS)
            raise dns.exception.Timeout
        await trio.sleep(0.125)
        return reply(query, [AAAA])

    assert await Resolver(nursery, Routes((FIRST,)), lose_the_first).resolve(NAME, CLIENT) == found(SIX)
    assert autojump_clock.current_time() == TRY_SECONDS + 0.125


async def test_a_family_that_was_not_heard_in_time_makes_it_a_timeout(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Whoever reads the log must not be told that the name has no address when nobody said so."""
    assert await outcome(nursery, World([], families={"AAAA": None})) is Reason.DNS_TIMEOUT
    assert autojump_clock.current_time() <= TOTAL_SECONDS


# Zones with servers of their own


CORP: Final = Server(Endpoint(IPAddress("10.0.0.53"), 53))
LAB: Final = Server(Endpoint(IPAddress("10.0.0.54"), 53), "tls", "dns.lab.example")
ZONES: Final = (
    Zone(suffix="corp.example", servers=(CORP,)),
    Zone(suffix="lab.corp.example", servers=(LAB, CORP)),
    Zone(suffix="example.net", servers=(SECOND,)),
)


async def servers_asked(nursery: trio.Nursery, name: str, routes: Routes) -> list[Server]:
    """Who is asked for the addresses of `name`, in order, where nobody is of use."""
    world = World(families={"A": "SERVFAIL", "AAAA": "SERVFAIL"})
    with pytest.raises(DnsError):
        await Resolver(nursery, routes, world.ask).resolve(name, CLIENT)
    return [server for _, _, family, server in world.asked if family == "A"]


@pytest.mark.parametrize("order", [ZONES, ZONES[::-1]], ids=["as written", "the other way round"])
@pytest.mark.parametrize(
    ("name", "servers"),
    [
        ("corp.example", [CORP]),
        ("db.corp.example", [CORP]),
        ("a.b.c.corp.example", [CORP]),
        ("lab.corp.example", [LAB, CORP]),
        ("x.lab.corp.example", [LAB, CORP]),
        ("notlab.corp.example", [CORP]),
        ("example.net", [SECOND]),
        ("notcorp.example", [FIRST]),
        ("corp.example.com", [FIRST]),
        ("example", [FIRST]),
        ("corp-example", [FIRST]),
        ("xcorp.example", [FIRST]),
        ("corp.example.net", [SECOND]),
    ],
)
async def test_r3_a_name_goes_to_the_servers_of_its_smallest_zone_and_to_no_others(
    nursery: trio.Nursery, order: tuple[Zone, ...], name: str, servers: list[Server]
) -> None:
    """Also where they fail: to ask the world for an internal name would tell it, and believe what it says (R12)."""
    assert await servers_asked(nursery, name, Routes((FIRST,), order)) == servers


# Names that are known without asking


HOSTS: Final = {
    "db.corp.example": (IPAddress("10.0.0.5"), IPAddress("fd00::5")),
    "www.example.com": (IPAddress("127.0.0.1"),),
}


async def test_attack_3_9_a_name_of_the_hosts_file_is_not_asked_for(nursery: trio.Nursery) -> None:
    """And has what the file says and nothing else, which the judge sees as any other answer."""
    world = World()
    subject = Resolver(nursery, Routes((FIRST,), ZONES, HOSTS), world.ask)
    assert await subject.resolve("db.corp.example", CLIENT) == found("10.0.0.5", "fd00::5")
    assert await subject.resolve(NAME, CLIENT) == found("127.0.0.1")
    assert world.asked == []


@pytest.mark.parametrize("name", ["corp.example", "x.db.corp.example", "db", "db.corp"])
async def test_attack_3_9_a_hosts_file_says_nothing_of_other_names(nursery: trio.Nursery, name: str) -> None:
    assert await servers_asked(nursery, name, Routes((FIRST,), (), HOSTS)) == [FIRST]


# Others are to be asked from now on


async def changing(nursery: trio.Nursery, world: World, before: Routes, after: Routes) -> Resolver:
    """A resolver that knew NAME before the change."""
    subject = Resolver(nursery, before, world.ask)
    await subject.resolve(NAME, CLIENT)
    subject.change(after)
    return subject


@pytest.mark.parametrize(
    "after",
    [Routes((SECOND,)), Routes((FIRST,), ZONES), Routes((FIRST,), (), {"other.example": (IPAddress("10.0.0.5"),)})],
    ids=["servers", "zones", "hosts"],
)
async def test_r12_what_others_said_before_a_change_is_forgotten(nursery: trio.Nursery, after: Routes) -> None:
    world = World()
    subject = await changing(nursery, world, Routes((FIRST,)), after)
    world.records = [(NAME, 60, "A", "127.0.0.1")]
    assert await subject.resolve(NAME, CLIENT) == found("127.0.0.1")
    assert {server for *_, server in world.asked[2:]} == {*after.servers}


async def test_a_reload_that_changes_no_route_forgets_nothing(nursery: trio.Nursery) -> None:
    world = World()
    same = Routes((Server(Endpoint(IPAddress("192.0.2.53"), 53)),), tuple(ZONES), dict(HOSTS))
    subject = Resolver(nursery, Routes((FIRST,), ZONES, HOSTS), world.ask)
    name = "www.example.org"
    with pytest.raises(DnsError):
        await subject.resolve(name, CLIENT)
    asked = len(world.asked)
    subject.change(same)
    with pytest.raises(DnsError):
        await subject.resolve(name, CLIENT)
    assert len(world.asked) == asked == 2


async def test_a_failure_before_a_change_is_forgotten_too(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Or an operator who mends the servers would wait for nothing to happen."""
    world = World(servers={FIRST: "SERVFAIL"})
    subject = Resolver(nursery, Routes((FIRST,)), world.ask)
    with pytest.raises(DnsError):
        await subject.resolve(NAME, CLIENT)
    subject.change(Routes((SECOND,)))
    assert numbers(await subject.resolve(NAME, CLIENT)) == {FOUR, SIX}
    assert autojump_clock.current_time() == 0 < NEGATIVE_TTL


@pytest.mark.parametrize("how", ["", "SERVFAIL", None], ids=["an answer", "a failure", "silence"])
async def test_r12_a_lookup_that_was_under_way_at_a_change_is_not_remembered(
    autojump_clock: MockClock, nursery: trio.Nursery, how: str | None
) -> None:
    """Nor does anybody join it who asks later: what those servers say counts only for those who asked them."""
    world = World([(NAME, 60, "A", "10.0.0.1")], seconds=0.5, servers={FIRST: how})
    subject = Resolver(nursery, Routes((FIRST,)), world.ask)
    heard: list[Resolution | Reason] = []

    async def wait() -> None:
        try:
            heard.append(await subject.resolve(NAME, CLIENT))
        except DnsError as error:
            heard.append(error.reason)

    async with trio.open_nursery() as waiters:
        waiters.start_soon(wait)
        await wait_all_tasks_blocked()
        subject.change(Routes((SECOND,)))
        world.records = [A]
        assert await subject.resolve(NAME, CLIENT) == found(FOUR)
        assert autojump_clock.current_time() == 0.5, "not with the one under way, but beside it"
    assert len(heard) == 1
    assert await subject.resolve(NAME, CLIENT) == found(FOUR)
    assert [server for _, _, family, server in world.asked if family == "A"].count(SECOND) >= 1


async def test_r12_an_answer_that_comes_after_a_change_does_not_replace_a_newer_one(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    late, world = trio.Event(), World()

    async def ask(query: dns.message.Message, server: Server) -> dns.message.Message:
        if server == FIRST:
            await late.wait()
            return reply(query, [(NAME, 60, "A", "10.0.0.1")])
        return await world.ask(query, server)

    subject = Resolver(nursery, Routes((FIRST,)), ask)
    heard: list[Resolution] = []

    async def wait() -> None:
        heard.append(await subject.resolve(NAME, CLIENT))

    async with trio.open_nursery() as waiters:
        waiters.start_soon(wait)
        await wait_all_tasks_blocked()
        subject.change(Routes((SECOND,)))
        newer = await subject.resolve(NAME, CLIENT)
        late.set()
    assert heard == [found("10.0.0.1")], "it asked before"
    assert await subject.resolve(NAME, CLIENT) == newer
    assert numbers(newer) == {FOUR, SIX}
    assert autojump_clock.current_time() == 0
