"""Whether a client knows what it must know. A hash takes a fifth of a second by design: it is done in a thread, and
what came of it is remembered, so that each request does not pay for it.

What is remembered is a keyed digest: no password stays in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Final

import trio

from proxyd.net.turns import FairTurns

if TYPE_CHECKING:
    from proxyd.http.credential import Shown
    from proxyd.policy.client import Credential
    from proxyd.policy.password import PasswordHash
    from proxyd.policy.snapshot import Peer

MOST: Final = 1024
"""Outcomes of each kind remembered; then all of the kind are forgotten."""

AT_ONCE: Final = 1
"""Hashes at once: whoever guesses passwords gets one core, and must not get the others."""


class Keyring:
    """Call `proves` for each request: the same question is answered at once from the second time on."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: dict[bool, set[bytes]] = {True: set(), False: set()}
        self._turns = FairTurns(AT_ONCE, AT_ONCE)
        self._threads = trio.CapacityLimiter(AT_ONCE)

    async def proves(self, shown: Shown, credential: Credential, peer: Peer) -> bool:
        """Whether `shown` is that credential. A wrong user name takes as long as a wrong password.

        peer: who waits for it. Whoever guesses is waited for by those who come from the same place, and by nobody else;
        nor do guesses that failed make it forget what was right.
        """
        if credential.password is None:
            return False
        mark = self._mark(shown, credential)
        if (known := self._remembered(mark)) is not None:
            return known
        async with self._turns.turn(str(peer)):
            known = self._remembered(mark)  # who asked the same meanwhile has had it answered: one hash for a burst
            return await self._find_out(mark, shown, credential.user, credential.password) if known is None else known

    def _remembered(self, mark: bytes) -> bool | None:
        return next((outcome for outcome, marks in self._known.items() if mark in marks), None)

    async def _find_out(self, mark: bytes, shown: Shown, user: str, password: PasswordHash) -> bool:
        """Hash. Whoever leaves meanwhile leaves the thread its turn, until it is done."""
        fits = await trio.to_thread.run_sync(
            password.fits, shown.password, limiter=self._threads, abandon_on_cancel=True
        )
        proven = fits and hmac.compare_digest(shown.user.encode(), user.encode())
        marks = self._known[proven]
        if len(marks) >= MOST:
            marks.clear()
        marks.add(mark)
        return proven

    def _mark(self, shown: Shown, credential: Credential) -> bytes:
        parts = (shown.user, shown.password, credential.user, str(credential.password))
        text = "".join(f"{len(part)}:{part}" for part in parts).encode()
        return hmac.digest(self._key, text, hashlib.sha256)
