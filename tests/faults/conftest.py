"""The scene of the end-to-end tests, which the faults are done to."""

from tests.adversarial.conftest import everywhere
from tests.end_to_end.conftest import nameserver, origin, proxy, scene, unprivileged

__all__ = ["everywhere", "nameserver", "origin", "proxy", "scene", "unprivileged"]
