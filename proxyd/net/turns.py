"""Turns at something of which there is not enough for all: some stay free for newcomers, who has fewest is next."""

from __future__ import annotations

import math
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FairTurns:
    """`total` turns at once, and at most `of_one` of them for one client alone.

    Beside others it gets less: nobody may have more than so many times what is free, so that newcomers find some (the
    dynamic threshold of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). Of 64, of which one may
    have 48, two have 27 each.
    """

    def __init__(self, total: int, of_one: int) -> None:
        self._free = total
        self._share = of_one / (total - of_one) if of_one < total else math.inf
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[trio.Event]] = {}

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it."""
        await self._take(client)
        try:
            yield
        finally:
            self._give_back(client)

    async def _take(self, client: str) -> None:
        if client not in self._waiting and self._may(client):
            self._hold(client)
            return
        mine = trio.Event()
        self._waiting.setdefault(client, deque()).append(mine)
        try:
            await mine.wait()
        except trio.Cancelled:
            if mine.is_set():
                self._give_back(client)
            else:
                self._leave(client, mine)
            raise

    def _hold(self, client: str) -> None:
        self._free -= 1
        self._held[client] += 1

    def _give_back(self, client: str) -> None:
        self._free += 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        while may := [client for client in self._waiting if self._may(client)]:
            self._call(min(may, key=self._held.__getitem__))

    def _may(self, client: str) -> bool:
        return self._free > 0 and self._held[client] < self._share * self._free

    def _call(self, client: str) -> None:
        """Give a free turn to a client that waits."""
        queue = self._waiting.pop(client)
        queue.popleft().set()
        if queue:
            self._waiting[client] = queue  # behind the others who have as few
        self._hold(client)

    def _leave(self, client: str, event: trio.Event) -> None:
        self._waiting[client].remove(event)
        if not self._waiting[client]:
            del self._waiting[client]
