"""Who was accepted before the end was announced and has asked for nothing yet may still ask, but not for long (R10)."""

from __future__ import annotations

from typing import Final

import trio
from netaddr import IPAddress

from proxyd.policy.snapshot import Peer
from proxyd.serve.drain import FIRST_SECONDS, Drain
from tests.serve.scene import in_virtual_time

SOMEBODY: Final = Peer(IPAddress("127.0.0.1"))


async def _forever() -> bool:
    await trio.sleep_forever()
    raise AssertionError  # it sleeps for ever


async def _soon() -> bool:
    await trio.sleep(FIRST_SECONDS / 2)
    return True


@in_virtual_time
async def test_the_first_request_may_come_after_the_end_was_announced() -> None:
    drain = Drain()
    drain.begin()
    assert await drain.wait(SOMEBODY, _soon, 60.0, first=True) is True
    assert await drain.wait(SOMEBODY, _soon, 60.0) is False
    assert await drain.wait(SOMEBODY, _forever, 60.0, first=True) is False
    assert trio.current_time() == 1.5 * FIRST_SECONDS


@in_virtual_time
async def test_who_waits_to_ask_first_is_let_go_a_moment_later_and_everybody_else_at_once() -> None:
    drain = Drain()
    ended: list[tuple[bool, bool, float]] = []

    async def wait(seconds: float, *, first: bool) -> None:
        ended.append((first, await drain.wait(SOMEBODY, _forever, seconds, first=first), trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: wait(60.0, first=True))
        nursery.start_soon(lambda: wait(60.0, first=False))
        nursery.start_soon(lambda: wait(5.0 + FIRST_SECONDS / 2, first=True))
        await trio.sleep(5.0)
        drain.begin()
    assert ended == [
        (False, False, 5.0),
        (True, False, 5.0 + FIRST_SECONDS / 2),
        (True, False, 5.0 + FIRST_SECONDS),
    ]


@in_virtual_time
async def test_who_asks_first_can_be_dismissed_at_once() -> None:
    drain = Drain()
    async with trio.open_nursery() as nursery:

        async def dismiss() -> None:
            await trio.sleep(0.25)
            drain.dismiss(lambda _: True)

        nursery.start_soon(dismiss)
        drain.begin()
        assert await drain.wait(SOMEBODY, _forever, 60.0, first=True) is False
    assert trio.current_time() == 0.25
