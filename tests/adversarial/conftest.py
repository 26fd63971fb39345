"""What the adversarial tests share: whether this is the long form, the figures they report, a network of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import namespace
from tests.end_to_end.conftest import nameserver, origin, proxy, scene

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["nameserver", "origin", "proxy", "scene"]

_FIGURES = pytest.StashKey[dict[str, str]]()


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether to try everything, as `--long` asks, or a part that is spread over it."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> dict[str, str]:
    """What was tried and what came of it, printed at the end: {"every door": "3 destinations, 6 doors, 0 hits"}."""
    return pytestconfig.stash.setdefault(_FIGURES, {})


@pytest.fixture(scope="module")
def everywhere() -> Iterator[None]:
    """A network in which every address of both families is this host's, so that whatever is dialled is reached.

    Sockets and daemons made meanwhile live there. It is left again when the module's tests are done.
    """
    if not namespace.isolated:
        pytest.skip("a network namespace cannot be had here, and nothing may be sent to addresses that are not ours")
    with namespace.everywhere():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures, so that a green run says how much it tried."""
    if said := config.stash.get(_FIGURES, {}):
        terminalreporter.section("tried")
        for what, result in said.items():
            terminalreporter.line(f"{what}: {result}")
