"""Turns at something of which there is not enough for all: nobody has more than so many, and who has fewest is next."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FairTurns:
    """`total` turns at once, and at most `of_one` of them for any one client."""

    def __init__(self, total: int, of_one: int) -> None:
        self._free = total
        self._of_one = of_one
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
        if self._free and self._held[client] < self._of_one and client not in self._waiting:
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
        self._call_next()

    def _call_next(self) -> None:
        """Give a free turn to the client that has fewest, if anybody waits who may have one."""
        may = [client for client in self._waiting if self._held[client] < self._of_one]
        if self._free and may:
            client = min(may, key=self._held.__getitem__)
            queue = self._waiting.pop(client)
            queue.popleft().set()
            if queue:
                self._waiting[client] = queue  # behind the others who have as few
            self._hold(client)

    def _leave(self, client: str, event: trio.Event) -> None:
        self._waiting[client].remove(event)
        if not self._waiting[client]:
            del self._waiting[client]
