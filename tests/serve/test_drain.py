"""The end announced: who waits for a request is let go, who serves one finishes it."""

from __future__ import annotations

from functools import partial
from typing import Final

import pytest
import trio
from netaddr import IPAddress

from proxyd.policy.snapshot import Peer
from proxyd.serve.drain import FIRST_SECONDS, Drain
from tests.serve.scene import in_virtual_time

SOMEBODY: Final = Peer(IPAddress("127.0.0.1"))
OTHER: Final = Peer(IPAddress("127.0.0.1"), 1001)


async def _forever() -> bool:
    await trio.sleep_forever()
    raise AssertionError  # it sleeps for ever


async def _at_once() -> bool:
    await trio.lowlevel.checkpoint()
    return True


async def _the_end() -> bool:
    await trio.lowlevel.checkpoint()
    return False


@in_virtual_time
async def test_a_wait_says_what_was_waited_for() -> None:
    drain = Drain()
    assert await drain.wait(SOMEBODY, _at_once, 1.0) is True
    assert await drain.wait(SOMEBODY, _the_end, 1.0) is False


@in_virtual_time
async def test_a_wait_ends_after_exactly_its_seconds() -> None:
    assert await Drain().wait(SOMEBODY, _forever, 12.5) is False
    assert trio.current_time() == 12.5


@in_virtual_time
async def test_everybody_who_waits_is_let_go_at_once() -> None:
    drain = Drain()
    ended: list[tuple[bool, float]] = []

    async def wait() -> None:
        ended.append((await drain.wait(SOMEBODY, _forever, 60.0), trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.sleep(5.0)
        assert ended == []
        drain.begin()
    assert ended == [(False, 5.0), (False, 5.0)]


@in_virtual_time
async def test_nobody_waits_again_also_not_for_what_is_there_already() -> None:
    """A kept-alive connection with the next request in its buffer ends all the same."""
    drain = Drain()
    drain.begin()
    assert drain.begun
    assert await drain.wait(SOMEBODY, _at_once, 60.0) is False
    assert trio.current_time() == 0.0


@in_virtual_time
async def test_who_no_longer_waits_is_left_alone() -> None:
    """A request under way is finished: the scope of its wait is forgotten, whichever way the wait ended."""
    drain = Drain()
    await drain.wait(SOMEBODY, _at_once, 60.0)
    await drain.wait(SOMEBODY, _forever, 1.0)
    with trio.move_on_after(0.5):
        await drain.wait(SOMEBODY, _forever, 60.0)
    assert drain._waiting == {}  # noqa: SLF001 - what is not forgotten here is a leak per request
    drain.begin()
    await trio.lowlevel.checkpoint()


@in_virtual_time
async def test_a_wait_that_is_cancelled_from_outside_is_no_answer() -> None:
    """The drain's deadline ends the session; it must not look like a client who left."""
    with trio.move_on_after(2.0) as scope:
        await Drain().wait(SOMEBODY, _forever, 60.0)
        raise AssertionError  # never reached
    assert scope.cancelled_caught
    assert trio.current_time() == 2.0


@in_virtual_time
async def test_who_is_dismissed_is_let_go_at_once_and_the_others_wait_on() -> None:
    """A new policy does not know him: by whatever the kernel says of him, and not by his connection."""
    drain = Drain()
    ended: list[tuple[Peer, bool, float]] = []

    async def wait(peer: Peer) -> None:
        ended.append((peer, await drain.wait(peer, _forever, 60.0), trio.current_time()))

    async with trio.open_nursery() as nursery:
        for peer in (SOMEBODY, OTHER, OTHER):
            nursery.start_soon(wait, peer)
        await trio.sleep(5.0)
        drain.dismiss(lambda _: False)
        drain.dismiss(lambda peer: peer.uid == 1001)
        await trio.sleep(5.0)
        assert ended == [(OTHER, False, 5.0)] * 2
        assert await drain.wait(OTHER, _at_once, 60.0), "he may wait again, should he come again"
    assert ended[2:] == [(SOMEBODY, False, 60.0)]


@in_virtual_time
async def test_who_does_not_wait_cannot_be_dismissed() -> None:
    """A request under way is somebody else's to cut."""
    drain = Drain()
    await drain.wait(OTHER, _at_once, 60.0)
    drain.dismiss(lambda _: True)
    await trio.lowlevel.checkpoint()
    assert not drain.begun


@pytest.mark.parametrize(("seconds", "ended"), [(60.0, 5.0 + FIRST_SECONDS), (5.5, 5.5)])
@in_virtual_time
async def test_who_has_asked_for_nothing_yet_has_a_moment_more(seconds: float, ended: float) -> None:
    """Its first request is on its way; but never longer than it would have had anyway. Others go at once."""
    drain = Drain()
    over: list[tuple[str, bool, float]] = []

    async def wait(name: str, *, first: bool) -> None:
        over.append((name, await drain.wait(SOMEBODY, _forever, seconds, first=first), trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(wait, "first", first=True))
        nursery.start_soon(partial(wait, "another", first=False))
        await trio.sleep(5.0)
        drain.begin()
    assert over == [("another", False, 5.0), ("first", False, ended)]
    assert FIRST_SECONDS == 1.0


@in_virtual_time
async def test_the_first_request_of_a_connection_is_heard_after_the_end_was_announced() -> None:
    """It was accepted a moment before; what is there already is served, and what does not come is not waited for."""
    drain = Drain()
    drain.begin()
    assert await drain.wait(SOMEBODY, _at_once, 60.0, first=True) is True
    assert await drain.wait(SOMEBODY, _forever, 60.0, first=True) is False
    assert trio.current_time() == FIRST_SECONDS
    assert await drain.wait(SOMEBODY, _at_once, 60.0) is False
    assert drain._for_first == set()  # noqa: SLF001 - what is not forgotten here is a leak per connection
