"""What the supervisor orders while a worker serves: make ready for another policy, then change to it, or forget it.

Two phases, so that all workers change or none does. Nothing that is ordered stops what is being served meanwhile.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from proxyd.policy.load import PolicyError
from proxyd.serve.given import Given

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.serve.channel import Channel, Message


class Orders:
    """Follows them until the supervisor is gone."""

    def __init__(self, channel: Channel, given: Given, install: Callable[[Given], int]) -> None:
        """given: what is in use. install: puts something else in its place; how many connections that cut."""
        self._channel = channel
        self._given = given
        self._install = install
        self._ready: Given | None = None

    async def follow(self) -> None:
        """Return when the supervisor is gone, however it went; what was made ready by then is forgotten."""
        self._channel.socket.settimeout(0)
        while (received := await self._heard()) is not None:
            message, files = received
            answer = await self._done(message, files)
            try:
                self._channel.send(answer | {"number": message["number"]})
            except OSError:
                break
        self._forget()

    async def _heard(self) -> tuple[Message, list[int]] | None:
        """The next order; None once nobody is there to give one."""
        while True:
            await trio.lowlevel.wait_readable(self._channel.socket)
            try:
                return self._channel.receive()
            except BlockingIOError:
                continue  # there was nothing after all, and nobody is gone
            except OSError:
                return None

    async def _done(self, message: Message, files: list[int]) -> Message:
        """Do one thing: what there is to say to that."""
        if message["do"] == "commit" and self._ready is not None:
            self._given, self._ready = self._ready, None
            return {"revoked": self._install(self._given)}
        self._forget()
        return await self._prepare(message, files) if message["do"] == "prepare" else {}

    async def _prepare(self, message: Message, files: list[int]) -> Message:
        """In a thread: to load a policy takes longer than clients should wait."""
        take = partial(Given.take, message, files, self._given.policy.audit)
        try:
            self._ready = await trio.to_thread.run_sync(take)
        except (ValueError, PolicyError, OSError) as error:
            return {"cannot": f"a worker cannot use it: {error}"}
        return {"ready": True}

    def _forget(self) -> None:
        if self._ready is not None:
            self._ready.let_go()
            self._ready = None
