"""A supervisor on the stage: what its reloads find is given, and what came of them is kept."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, cast

from proxyd.net.notify import Manager
from proxyd.serve.service import Service
from proxyd.serve.supervisor import Supervisor
from tests.serve.stage import Stage, charge, hear

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.serve.channel import Message
    from proxyd.serve.charge import Charge
    from proxyd.serve.control import Outcome
    from proxyd.serve.ears import Ears

DENIED: Final = '[[deny]]\nname = "corp"\nhosts = ["corp.example"]\nreason = "ours"\n'

term: Final = hear(signal.SIGTERM)
hup: Final = hear(signal.SIGHUP)


class Reign:
    """A supervisor on the stage. comes: what the next reloads find; told: what came of them, and what is in charge."""

    def __init__(self, stage: Stage, first: Charge, workers: int = 1) -> None:
        self.stage = stage
        self.comes: list[Charge | Exception] = []
        self.told: list[tuple[Outcome, Charge]] = []
        self.supervisor = Supervisor(
            first,
            stage.crew(workers),
            self._renew,
            lambda outcome, now: self.told.append((outcome, now)),
            Service(Manager()),
        )

    def run(self) -> None:
        """Reign until everything has happened."""
        self.supervisor.run(cast("Ears", self.stage))
        assert self.stage.is_over()

    def outcomes(self) -> list[Outcome]:
        """What came of the reloads."""
        return [outcome for outcome, _ in self.told]

    def _renew(self, before: Charge) -> Charge:
        assert before is self.supervisor.charge
        found = self.comes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def reign(stage: Stage, workers: int = 1) -> Reign:
    """One with a plain charge."""
    return Reign(stage, charge(workers=workers), workers)


def answers(note: Callable[[str], object]) -> dict[str, Callable[[], Message | None]]:
    """What a good worker says, noting what it was told first."""

    def prepare() -> Message:
        note("prepare")
        return {"ready": True}

    def commit() -> Message:
        note("commit")
        return {"revoked": 0}

    return {"prepare": prepare, "commit": commit}
