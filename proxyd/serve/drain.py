"""The end announced: who waits for a request is let go, who serves one finishes it (SIGTERM).

Nothing here knows how long the end may take; the daemon does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxyd.policy.snapshot import Peer

FIRST_SECONDS: Final = 1.0
"""For the first request of a connection that we accepted before the end was announced: it is on its way, and its
client, who saw us accept, cannot know that it was not served. A connection that was of use already may end any time
(RFC 9112 §9.6)."""


class Drain:
    """The end announced: connections that wait for another request are let go, and none waits again."""

    def __init__(self) -> None:
        self.begun = False
        self._waiting: dict[trio.CancelScope, Peer] = {}
        self._for_first: set[trio.CancelScope] = set()

    def begin(self) -> None:
        """Let go of every connection that waits; one that has asked for nothing yet, in a moment."""
        self.begun = True
        for scope in self._waiting:
            if scope in self._for_first:
                scope.deadline = min(scope.deadline, trio.current_time() + FIRST_SECONDS)
            else:
                scope.cancel()

    def dismiss(self, predicate: Callable[[Peer], bool]) -> None:
        """Let go of the connections that wait and whose peer the predicate names."""
        for scope, peer in self._waiting.items():
            if predicate(peer):
                scope.cancel()

    async def wait(
        self, peer: Peer, wait: Callable[[], Awaitable[bool]], seconds: float, *, first: bool = False
    ) -> bool:
        """What `wait` says; False once draining began, the peer was dismissed, or `seconds` went by.

        first: nothing has been asked for on this connection, and FIRST_SECONDS of draining may go by.
        """
        if self.begun:
            if not first:
                return False
            seconds = FIRST_SECONDS
        with trio.move_on_after(seconds) as scope:
            self._waiting[scope] = peer
            if first:
                self._for_first.add(scope)
            try:
                return await wait()
            finally:
                del self._waiting[scope]
                self._for_first.discard(scope)
        return False
