"""The end announced: who waits for a request is let go, who serves one finishes it."""

from __future__ import annotations

import trio

from proxyd.serve.drain import Drain
from tests.serve.scene import in_virtual_time


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
    assert await drain.wait(_at_once, 1.0) is True
    assert await drain.wait(_the_end, 1.0) is False


@in_virtual_time
async def test_a_wait_ends_after_exactly_its_seconds() -> None:
    assert await Drain().wait(_forever, 12.5) is False
    assert trio.current_time() == 12.5


@in_virtual_time
async def test_everybody_who_waits_is_let_go_at_once() -> None:
    drain = Drain()
    ended: list[tuple[bool, float]] = []

    async def wait() -> None:
        ended.append((await drain.wait(_forever, 60.0), trio.current_time()))

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
    assert await drain.wait(_at_once, 60.0) is False
    assert trio.current_time() == 0.0


@in_virtual_time
async def test_who_no_longer_waits_is_left_alone() -> None:
    """A request under way is finished: the scope of its wait is forgotten, whichever way the wait ended."""
    drain = Drain()
    await drain.wait(_at_once, 60.0)
    await drain.wait(_forever, 1.0)
    with trio.move_on_after(0.5):
        await drain.wait(_forever, 60.0)
    assert drain._waiting == set()  # noqa: SLF001 - what is not forgotten here is a leak per request
    drain.begin()
    await trio.lowlevel.checkpoint()


@in_virtual_time
async def test_a_wait_that_is_cancelled_from_outside_is_no_answer() -> None:
    """The drain's deadline ends the session; it must not look like a client who left."""
    with trio.move_on_after(2.0) as scope:
        await Drain().wait(_forever, 60.0)
        raise AssertionError  # never reached
    assert scope.cancelled_caught
    assert trio.current_time() == 2.0
