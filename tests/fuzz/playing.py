"""A script played to the real session, in memory and in virtual time; what it left behind is to be looked at after."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

import trio
from netaddr import IPAddress
from trio.testing import MockClock, wait_all_tasks_blocked

from proxyd.policy.snapshot import Peer as Guest
from proxyd.policy.verdict import NEED_ADDRESSES, Allow, decide
from proxyd.serve.judge import Judge
from proxyd.serve.keyring import Keyring
from proxyd.serve.revocation import revoke
from proxyd.serve.session import serve_connection, turn_away
from proxyd.serve.visit import Visit
from tests.fuzz.conversations import TURN_AWAY
from tests.fuzz.kernel import Line, MemoryStream
from tests.fuzz.town import HOMES, MOODS, POLICIES, Zone
from tests.serve.scene import World

if TYPE_CHECKING:
    from trio.abc import HalfCloseableStream

    from proxyd.http.credential import Shown
    from proxyd.policy.address import Destination, Resolution
    from proxyd.policy.client import Client, Credential
    from proxyd.policy.password import PasswordHash
    from proxyd.policy.snapshot import Snapshot
    from proxyd.serve.judge import Verdict
    from tests.fuzz.scripts import Script, Step

PATIENCE: Final = 10_000.0
"""Virtual seconds after which a session that should have ended is cut."""


@lru_cache(1024)
def _fits(password: PasswordHash, shown: str) -> bool:
    return password.fits(shown)


class _Ring(Keyring):
    """Hashes in no thread, or the virtual clock would not wait for it; and each password once."""

    async def proves(self, shown: Shown, credential: Credential, _peer: Guest) -> bool:
        assert credential.password is not None
        return _fits(credential.password, shown.password) and shown.user == credential.user


@dataclass
class Playing:
    """One connection. client: its line; lines: those to origins, in the order in which they were dialled.

    before: how many records there were at each dial. minted: all that may be dialled; wanted: the names that may be
    looked up. full: whether a record could not be written; whole: whether the client kept listening and did not leave;
    calm: whether nobody else ended anything. tasks: before and after. seconds: that it took, nobody doing anything.
    """

    script: Script
    client: Line = field(default_factory=Line)
    lines: list[Line] = field(default_factory=list)
    minted: list[Allow] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    whole: bool = True
    calm: bool = True
    full: bool = False
    tasks: tuple[int, int] = (0, 0)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._snapshot = POLICIES[self.script.policy % len(POLICIES)]
        self._judge = Judge()
        self.world = World(policy=POLICIES[0].policy, answers=Zone())
        self.world.origin_streams = self._dialled
        self.world.seams = replace(
            self.world.seams, snapshot=lambda: self._snapshot, judge=self._judged, keyring=_Ring()
        )
        self._be_in_mood(self.script.mood)
        self.visit = Visit(Guest(IPAddress(f"127.{self.script.home % len(HOMES)}.0.1")), self.world.house.enter(1, 1))

    def _be_in_mood(self, number: int) -> None:
        mood = MOODS[number % len(MOODS)]
        self.full |= mood.full
        mood.set(self.world)

    def _judged(
        self, destination: Destination, client: Client | None, snapshot: Snapshot, found: Resolution | None = None
    ) -> Verdict:
        verdict = self._judge(destination, client, snapshot, found)
        assert verdict == decide(destination, client, snapshot, found), "it remembers something else"
        if isinstance(verdict, Allow):
            self.minted.append(verdict)
        elif verdict is NEED_ADDRESSES:
            self.wanted.append(destination.host)
        return verdict

    def _dialled(self) -> tuple[HalfCloseableStream, HalfCloseableStream]:
        self.before.append(len(self.world.attempted))
        self.lines.append(Line())
        return MemoryStream(self.lines[-1]), cast("HalfCloseableStream", None)

    async def play(self) -> None:
        """From the first step to the end of the session, which comes by itself once nobody does anything more."""
        before = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            serve = turn_away if self.script.ways & TURN_AWAY else serve_connection
            nursery.start_soon(serve, MemoryStream(self.client), self.visit, self.world.seams)
            await wait_all_tasks_blocked()
            for step in self.script.steps:
                await self._do(step)
            began = trio.current_time()
            nursery.cancel_scope.deadline = began + PATIENCE
        self.seconds = trio.current_time() - began
        self.tasks = (before, trio.lowlevel.current_statistics().tasks_living)

    async def _do(self, step: Step) -> None:
        pieces = step.pieces() if step.kind in "cC" else [b""]
        for piece in pieces:
            if step.kind.islower():
                await self._around(step, piece)
            elif self.lines:
                _peer_does(self.lines[-1], step.kind.lower(), piece)
            await wait_all_tasks_blocked()

    async def _around(self, step: Step, piece: bytes) -> None:
        """What the client does, or the world."""
        match step.kind:
            case "c" | "e" | "r" | "d":
                self.whole = self.whole and step.kind == "c"
                _peer_does(self.client, step.kind, piece)
            case "w":
                await trio.sleep(step.much)
            case "m":
                self._be_in_mood(step.much)
            case "p":
                self.calm = False
                self._snapshot = POLICIES[step.much % len(POLICIES)]
                revoke(self.world.seams)
            case "q":
                self.calm = False
                self.world.seams.drain.begin()


def _peer_does(line: Line, kind: str, piece: bytes) -> None:
    match kind:
        case "c":
            line.say(piece)
        case "e":
            line.end()
        case "r":
            line.reset()
        case "d":
            line.turn_a_deaf_ear()


def played(script: Script) -> Playing:
    """It, from the first step to the end of the session."""
    playing = Playing(script)
    trio.run(playing.play, clock=MockClock(autojump_threshold=0))
    return playing
