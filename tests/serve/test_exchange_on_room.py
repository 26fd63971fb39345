"""A request whose place is needed before it is one: it is refused, whenever its head comes (ATTACKS 8).

Who of many is asked to leave is in test_crowd.py.
"""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from proxyd.serve.crowd import LEAVING
from tests.serve.scene import Connection, World, connected, get, in_virtual_time


@in_virtual_time
async def test_attack_8_a_head_that_does_not_come_is_ended_when_the_place_is_needed() -> None:
    """It is nobody's request yet, but it is on record, as one that came too late is."""
    world = World()
    async with connected(world) as client:
        await client.send(b"GET http://example.com/ HTTP/1.1\r\n")
        assert world.seams.crowd.make_room()
        answer = await client.answer()
        assert trio.current_time() == 0
        await client.closed()
    assert (answer.status, answer.reason, answer.fields["connection"]) == (503, "connection_limit", "close")
    decision, close = world.only()
    assert (decision.verdict, decision.host, close.outcome) == ("error", None, "refused")


@pytest.mark.parametrize("method", ["GET", "HEAD", "CONNECT"])
@in_virtual_time
async def test_attack_8_a_head_that_is_whole_in_the_moment_in_which_its_place_is_needed_is_refused(method: str) -> None:
    """Else there would be one more than `limits.connections`; an answer to HEAD has no body all the same."""
    world = World()
    head = get("example.com:443" if method == "CONNECT" else "http://example.com/", method=method)
    async with connected(world) as client:
        await client.send(head[:-1])
        await client.send_and(head[-1:], world.seams.crowd.make_room)
        answer = await client.answer(body=method != "HEAD")
        await client.closed()
    assert (answer.status, answer.fields["connection"], world.count("resolve")) == (503, "close", 0)
    decision, close = world.only()
    assert (decision.reason, decision.method, close.outcome) == ("connection_limit", method, "refused")


@in_virtual_time
async def test_attack_8_who_lingers_over_a_refusal_for_want_of_room_is_hung_up_on_when_many_more_must_leave() -> None:
    """A dribbler would be heard out for 5 s, and while 64 were, nobody else made room."""
    world = World()
    async with trio.open_nursery() as nursery:
        clients = [await Connection.serve(world, nursery, "127.0.0.1") for _ in range(LEAVING + 1)]
        for client in clients:
            await client.send(b"GET http://example.com/ HTTP/1.1\r\n")
        for client in clients:
            assert world.seams.crowd.make_room()
            await client.send(b"X: y")
        first, second, *_ = clients
        assert (await first.answer()).reason == "connection_limit"
        assert (first.ended, second.over.is_set()) == (0.0, False)
        assert (await second.answer()).reason == "connection_limit"
        for client in clients:
            await client.leave()
    assert Counter(close.outcome for _, close in world.trail()) == {"aborted": 1, "refused": LEAVING}


@in_virtual_time
async def test_attack_8_who_is_hung_up_on_before_anything_could_be_said_is_on_record_all_the_same() -> None:
    """So many had to leave at once that there was no time for words."""
    world = World()
    async with trio.open_nursery() as nursery:
        clients = [await Connection.serve(world, nursery, "127.0.0.1") for _ in range(LEAVING + 1)]
        for client in clients:
            await client.send(b"GET http://example.com/ HTTP/1.1\r\n")
        for _ in clients:
            assert world.seams.crowd.make_room()
        await clients[0].closed()
        assert (await clients[1].answer()).reason == "connection_limit"
        for client in clients:
            await client.leave()
    assert Counter((decision.reason, decision.status) for decision, _ in world.trail()) == {
        ("connection_limit", None): 1,
        ("connection_limit", 503): LEAVING,
    }
