"""The scene of the end-to-end tests, which the faults are done to, and who is difficult in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.adversarial.conftest import everywhere
from tests.end_to_end.conftest import nameserver, origin, proxy, scene, unprivileged
from tests.faults.difficult import Crowds, Origins, many_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene

__all__ = ["everywhere", "nameserver", "origin", "proxy", "scene", "unprivileged"]


@pytest.fixture
def origins(scene: Scene) -> Iterator[Origins]:
    """None yet."""
    made = Origins(scene.origin.addresses[0])
    yield made
    made.close()


@pytest.fixture
def crowds() -> Iterator[Crowds]:
    """Nobody yet, and files for very many."""
    with many_files(), Crowds() as made:
        yield made
