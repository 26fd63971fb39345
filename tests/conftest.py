"""Before any test: a network of its own, entered while this process still has one thread.

Then what the heavier tests share: whether this is their long form, and the figures that they report.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests import namespace, own_coverage

namespace.enter()

_notes = own_coverage.Notes()
_FIGURES = pytest.StashKey[dict[str, str]]()

# A slow machine decides nothing: hypothesis times no example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one option of these tests."""
    parser.addoption("--long", action="store_true", help="what attacks tries everything, and not a part of it")


def pytest_report_header() -> str:
    """Say which network the tests saw, so that a green run says what it proved."""
    return f"network: {'own namespace with public addresses' if namespace.isolated else 'plain loopback, with permits'}"


def pytest_runtest_logstart(nodeid: str) -> None:
    """Where coverage is measured, each line is noted with the file that reached it."""
    _notes.turn_to(nodeid.partition("::")[0])


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether to try everything, as `--long` asks, or a part that is spread over it."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> dict[str, str]:
    """What was tried and what came of it, printed at the end: {"every door": "3 destinations, 6 doors, 0 hits"}."""
    return pytestconfig.stash.setdefault(_FIGURES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures, so that a green run says how much it tried."""
    if said := config.stash.get(_FIGURES, {}):
        terminalreporter.section("tried")
        for what, result in said.items():
            terminalreporter.line(f"{what}: {result}")
