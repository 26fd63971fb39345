"""What the service manager is told, and when: ready once all workers serve, alive as long as none is stuck.

It decides nothing: whoever does not hear of us any more restarts us.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.serve.charge import Charge
    from proxyd.serve.crew import Crew

LOOK_SECONDS: Final = 0.05  # between two looks at whether all workers serve by now
_PART: Final = 3  # how many signs of life there are in what the manager waits for one


class Manager(Protocol):
    """Whoever wants to hear of it: proxyd.net.notify has one."""

    @property
    def listens(self) -> bool:
        """Whether it does."""

    @property
    def patience(self) -> float:
        """Seconds within which it wants a sign of life; 0 for none."""

    def tell(self, *lines: str) -> None:
        """Say `NAME=value`, one a line. Raises nothing."""


@dataclass(slots=True)
class Service:
    """Call `look` whenever there may be something to say, and at the latest after `until_due` seconds."""

    manager: Manager
    clock: Callable[[], float] = time.monotonic
    _told: str = field(default="", init=False)
    _due: float = field(default=0.0, init=False)

    def until_due(self) -> float:
        """Seconds until there may be something to say; infinity where nobody listens, or nothing changes by itself."""
        if not self.manager.listens:
            return math.inf
        if not self._told:
            return LOOK_SECONDS
        return max(LOOK_SECONDS, self._due - self.clock()) if self.manager.patience else math.inf

    def look(self, crew: Crew, charge: Charge) -> None:
        """Say what is new."""
        if not self.manager.listens or crew.ending:
            return
        if crew.serving == crew.places:
            self._say_ready(charge)
        if self.manager.patience and self.clock() >= self._due and not crew.stuck:
            self.manager.tell("WATCHDOG=1")
            self._due = self.clock() + self.manager.patience / _PART

    def ends(self) -> None:
        """The end has begun."""
        self.manager.tell("STOPPING=1", "STATUS=draining")

    def _say_ready(self, charge: Charge) -> None:
        status = f"policy {charge.policy.name}, digest {charge.policy.digest[:16]}, on {', '.join(charge.described)}"
        if status != self._told:
            self._told = status
            self.manager.tell("READY=1", f"STATUS={status}")
