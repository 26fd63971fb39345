"""A start of the daemon in the tests: real but for the workers, of whom there are none."""

from __future__ import annotations

import resource
import signal
from typing import TYPE_CHECKING

import pytest
from netaddr import IPAddress

from proxyd.cli import prepare as prepare_module
from proxyd.cli import run
from proxyd.policy.address import Endpoint
from proxyd.serve.complaints import Complaints
from proxyd.serve.crew import CERTAIN_SECONDS, Crew
from proxyd.serve.ears import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxyd.serve.charge import Charge

RESOLVER = Endpoint(IPAddress("9.9.9.9"), 53)


class Start:
    """A start of the daemon. served: what workers would serve, turn by turn; script: what happens in each turn."""

    def __init__(self) -> None:
        self.served: list[Charge] = []
        self.places: list[int] = []
        self.limits: list[tuple[int, tuple[int, int]]] = []
        self.script: list[tuple[Callable[[], object], ...]] = []

    def crew(
        self, places: int, ledger: int, tally: int, complain: Callable[[str], None], *, replaces: bool = True
    ) -> Crew:
        """In the place of a crew: nobody is started."""
        assert isinstance(complain, Complaints)
        self.places.append(places)
        start = self

        class Nobody(Crew):
            def fill(self, charge: Charge) -> None:
                start.turn(charge)

            def until_due(self) -> float:
                """Nobody will be."""
                return CERTAIN_SECONDS

        return Nobody(places, ledger, tally, complain, replaces)

    def turn(self, charge: Charge) -> None:
        """What happens next; in the end, SIGTERM."""
        self.served.append(charge)
        for act in self.script.pop(0) if self.script else (term,):
            act()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A start that leaves the limits and signals of this process alone."""
    start = Start()
    monkeypatch.setattr(run, "Crew", start.crew)
    monkeypatch.setattr(run, "raise_file_limit", lambda: 4321)
    monkeypatch.setattr(prepare_module, "system_servers", lambda: (RESOLVER,))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: start.limits.append((what, limits)))
    blocked, child = signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGCHLD)
    yield start
    while signal.sigtimedwait(SIGNALS, 0) is not None:
        pass  # what a test sent to itself
    signal.signal(signal.SIGCHLD, child)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert start.script == []


def hup() -> None:
    """Ask for a reload."""
    signal.raise_signal(signal.SIGHUP)


def term() -> None:
    """Ask for the end."""
    signal.raise_signal(signal.SIGTERM)
