"""R12: a crew whose dead nobody replaces, as beside a confined command: their program could be the command's."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.serve.stage import Stage, charge, stage

if TYPE_CHECKING:
    import pytest

__all__ = ["stage"]


def test_the_first_death_is_the_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    crew = stage.crew(2)
    crew.replaces = False
    crew.fill(charge(workers=2))
    stage.started[0].end(-9)
    crew.reap()
    assert raised == [signal.SIGTERM]
    assert stage.complaints == ["a worker ended (signal 9); nobody takes its place"]
    crew.fill(charge(workers=2))
    assert len(stage.started) == 2
    assert crew.until_due() > 0, "the signal comes before that"
