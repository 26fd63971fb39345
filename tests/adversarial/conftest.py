"""What the adversarial tests share: the scene, and a network of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespace
from tests.end_to_end.conftest import nameserver, origin, proxy, scene

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["nameserver", "origin", "proxy", "scene"]


@pytest.fixture(scope="module")
def everywhere() -> Iterator[None]:
    """A network in which every address of both families is this host's, so that whatever is dialled is reached.

    Sockets and daemons made meanwhile live there. It is left again when the module's tests are done.
    """
    if not namespace.isolated:
        pytest.skip("a network namespace cannot be had here, and nothing may be sent to addresses that are not ours")
    with namespace.everywhere():
        yield
