"""Before any test: a network of its own, entered while this process still has one thread."""

from tests import namespace

namespace.enter()


def pytest_report_header() -> str:
    """Say which network the tests saw, so that a green run says what it proved."""
    return f"network: {'own namespace with public addresses' if namespace.isolated else 'plain loopback, with permits'}"
