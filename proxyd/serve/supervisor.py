"""The parent of the workers: it holds the listening sockets, keeps workers serving on them, and changes the policy.

A plain loop, no trio. While a worker is down, connections wait in the kernel. A new policy goes to all workers or to
none. It relays no byte and judges nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxyd import __version__
from proxyd.policy.diff import changes
from proxyd.serve import control
from proxyd.serve.charge import CannotServe
from proxyd.serve.control import Outcome, Status
from proxyd.serve.handover import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.serve.charge import Charge
    from proxyd.serve.crew import Crew
    from proxyd.serve.ears import Ears
    from proxyd.serve.service import Service

EX_UNAVAILABLE: Final = 69  # sysexits.h: a service cannot be offered
_ENDING: Final = Outcome(problems=("proxyd is ending; start it again",))


@dataclass(slots=True)
class Supervisor:
    """Keeps a crew serving what is in its charge.

    renew: reads the policy anew, and makes of it what is to be served; raises CannotServe.
    told: tells the operator and the log what came of a reload. service: tells the service manager how it goes.
    loaded_at: when the policy was taken into use, in seconds of the epoch. reloads: how many were done, and refused.
    reloaded: whether the last one was done.
    """

    charge: Charge
    crew: Crew
    renew: Callable[[Charge], Charge]
    told: Callable[[Outcome, Charge], None]
    service: Service
    loaded_at: float = field(default_factory=time.time, init=False)
    reloads: Counter[str] = field(default_factory=Counter, init=False)
    reloaded: bool = field(default=True, init=False)

    def run(self, ears: Ears) -> None:
        """Serve until SIGTERM or SIGINT, then until the last worker has ended."""
        while not self.crew.ending or self.crew:
            self.crew.fill(self.charge)
            for heard in ears.hear(min(self.crew.until_due(), self.service.until_due())):
                self._hear(heard)
            self.crew.kill_the_stuck()
            self.crew.reap()
            self.service.look(self.crew, self.charge)

    def close(self) -> None:
        """Let go of what is in our charge by now."""
        self.charge.let_go()

    def _hear(self, heard: int | socket.socket) -> None:
        if isinstance(heard, socket.socket):
            self._answer(heard)
        elif heard in (signal.SIGTERM, signal.SIGINT):
            self._end()
        elif heard == signal.SIGUSR1:
            self.crew.signal(signal.SIGUSR1)
        elif heard == signal.SIGHUP:
            self._reload()

    def _end(self) -> None:
        """Let the workers drain; asked again, let them end at once."""
        at_once = self.crew.ending
        self.crew.signal(AT_ONCE if at_once else signal.SIGTERM)
        self.crew.end(0.0 if at_once else self.charge.policy.limits.drain_seconds)
        self.service.ends()
        self.charge.stop_listening()

    def _answer(self, asker: socket.socket) -> None:
        """Do what whoever came to the control socket asks, and tell them what came of it."""
        with asker:
            word = control.asked_for(asker)
            if word == control.RELOAD:
                control.answer(asker, self._reload())
            elif word == control.STATUS:
                control.answer(asker, self._status())

    def _status(self) -> Status:
        policy = self.charge.policy
        return Status(
            version=__version__,
            pid=os.getpid(),
            uid=os.geteuid(),
            policy=policy.name,
            file=self.charge.handover.name,
            digest=policy.digest,
            workers=self.crew.places,
            serving=self.crew.serving,
        )

    def _reload(self) -> Outcome:
        """Take the policy into use that there is now: all workers, or none, and then the old one stays."""
        before = self.charge
        try:
            outcome = _ENDING if self.crew.ending else self._renewed(before)
        except CannotServe as reason:
            outcome = Outcome(problems=reason.problems)
        except OSError as error:  # no file, no memory to be had: that may pass, and is no reason to end
            outcome = Outcome(problems=(f"this host has not what it takes: {error.strerror}",))
        self.reloaded = not outcome.problems
        self.reloads["done" if self.reloaded else "refused"] += 1
        self.told(outcome, self.charge)
        return outcome

    def _renewed(self, before: Charge) -> Outcome:
        """Two phases: everybody makes ready, and only if all could, everybody changes.

        Raises CannotServe or OSError.
        """
        after = self.renew(before)
        try:
            self._prepare(after)
        except (CannotServe, OSError):
            self.crew.say("abort")
            after.let_go(before)
            raise
        self.charge, self.loaded_at = after, time.time()
        said = self.crew.tell("commit")
        self.crew.kill_the_silent(said)
        before.let_go(after)
        revoked = sum(each.get("revoked", 0) for each in said)
        return Outcome(changes=tuple(changes(before.policy, after.policy)), revoked=revoked)

    def _prepare(self, after: Charge) -> None:
        said = self.crew.hand_over(after, "prepare")
        problems = [each.get("cannot", "a worker did not answer in time") for each in said if "ready" not in each]
        if problems:
            raise CannotServe(*dict.fromkeys(problems), status=EX_UNAVAILABLE)
