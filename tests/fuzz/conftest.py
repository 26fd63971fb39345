"""The scene of the end-to-end tests, which scripts are played on, where every address is this host's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespace
from tests.adversarial.conftest import everywhere
from tests.end_to_end.conftest import nameserver, scene
from tests.end_to_end.origin import HttpOrigin

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["everywhere", "nameserver", "scene"]


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    """The bystander's origin."""
    server = HttpOrigin((namespace.ORIGIN_4,))
    yield server
    server.close()
