"""Before any test: a network of its own, entered while this process still has one thread."""

import pytest
from hypothesis import settings

from tests import namespace

namespace.enter()

# A slow machine decides nothing: hypothesis times no example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one option of these tests."""
    parser.addoption("--long", action="store_true", help="adversarial tests try everything, and not a part of it")


def pytest_report_header() -> str:
    """Say which network the tests saw, so that a green run says what it proved."""
    return f"network: {'own namespace with public addresses' if namespace.isolated else 'plain loopback, with permits'}"
