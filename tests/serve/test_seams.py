"""What a session is given from outside: fixed once given, and no two daemons share a drain."""

from __future__ import annotations

import dataclasses

import pytest

from tests.serve.scene import World


def test_every_seams_has_a_drain_of_its_own() -> None:
    """Or the end of one daemon would end another."""
    one, other = World().seams, World().seams
    one.drain.begin()
    assert (one.drain.begun, other.drain.begun) == (True, False)
    assert one.live is not other.live, "nor would a new policy of one cut the exchanges of another"


def test_a_session_cannot_exchange_what_it_was_given() -> None:
    """R12: least of all `record`."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        World().seams.record = lambda _: None  # type: ignore[misc] # that is the point
