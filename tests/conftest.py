"""Before any test: a network of its own, entered while this process still has one thread."""

from hypothesis import settings

from tests import namespace

namespace.enter()

# A slow machine decides nothing: hypothesis times no example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_report_header() -> str:
    """Say which network the tests saw, so that a green run says what it proved."""
    return f"network: {'own namespace with public addresses' if namespace.isolated else 'plain loopback, with permits'}"
