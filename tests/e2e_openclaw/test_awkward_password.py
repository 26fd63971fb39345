"""A password that has to be escaped in the proxy's URL: OpenClaw decodes it, axios, which reads HTTP_PROXY, does not.

What `proxyd password --generate` makes needs no escape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e_openclaw.conftest import CHALLENGE
from tests.e2e_openclaw.origin import HELLO
from tests.e2e_openclaw.set_up import AWKWARD

if TYPE_CHECKING:
    from tests.e2e_openclaw.conftest import Scene

pytestmark = pytest.mark.parametrize("scene", [AWKWARD], indirect=True)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("stack", ["fetch", "node", "undici", "guarded"])
def test_r2_what_openclaw_routes_is_served(scene: Scene, stack: str, scheme: str) -> None:
    host = scene.host(f"{scheme}-{stack}")
    answer = scene.stacks.ask(stack=stack, verb="get", url=f"{scheme}://{host}/{HELLO}")
    assert answer == {"status": 200, "text": HELLO}
    assert [reason for *_, reason in scene.decided(host)] == [None]


def test_r2_axios_sends_it_as_it_is_written_and_is_refused(scene: Scene) -> None:
    host = scene.host("http-axios")
    assert scene.stacks.ask(stack="axios", verb="get", url=f"http://{host}/{HELLO}")["status"] == 407
    assert scene.decided(host) == [("GET", "http", 80, "deny", CHALLENGE)]
