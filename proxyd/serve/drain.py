"""The end announced: who waits for a request is let go, who serves one finishes it (SIGTERM).

Nothing here knows how long the end may take; the daemon does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Drain:
    """The end announced: connections that wait for a request are let go, and none waits again."""

    def __init__(self) -> None:
        self.begun = False
        self._waiting: set[trio.CancelScope] = set()

    def begin(self) -> None:
        """Let go of every connection that waits."""
        self.begun = True
        for scope in self._waiting:
            scope.cancel()

    async def wait(self, wait: Callable[[], Awaitable[bool]], seconds: float) -> bool:
        """What `wait` says; False once draining began or `seconds` went by."""
        with trio.move_on_after(seconds) as scope:
            self._waiting.add(scope)
            try:
                return not self.begun and await wait()
            finally:
                self._waiting.discard(scope)
        return False
