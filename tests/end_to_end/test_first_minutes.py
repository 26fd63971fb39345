"""What an operator sees in the first minutes: a permitted origin answers, the forbidden ones get 403 and a record."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.tools import tool

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

FORBIDDEN = ("http://127.0.0.1/", "http://169.254.169.254/", "http://[::ffff:10.0.0.1]/")


def curl(proxy: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run curl through the proxy."""
    return subprocess.run(  # noqa: S603 - a fixed program
        [tool("curl"), "-sS", "-g", "-m", "60", "-x", f"http://127.0.0.1:{proxy.port}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_permitted_origin_answers(scene: Scene, proxy: Daemon) -> None:
    answer = curl(proxy, f"{scene.url}/hello?x=1")
    assert answer.stdout == "you sent GET /hello?x=1 HTTP/1.1 and 0 octets"
    assert [record["event"] for record in proxy.records()] == ["decision", "close"]
    assert proxy.decisions()[0] | {"verdict": "allow", "host": "origin.test", "status": None} == proxy.decisions()[0]
    assert proxy.closings()[0] | {"outcome": "complete", "status": 200} == proxy.closings()[0]


@pytest.mark.parametrize("url", FORBIDDEN)
@pytest.mark.parametrize("how", [(), ("-p",)], ids=["absolute-form", "connect"])
def test_r5_forbidden_gets_403_the_reason_and_two_records(proxy: Daemon, url: str, how: tuple[str, ...]) -> None:
    answer = curl(proxy, *how, "-o", "/dev/null", "-D", "-", url)
    assert answer.stdout.startswith("HTTP/1.1 403 Forbidden: address_")
    assert "Proxy-Status: proxyd; error=destination_ip_prohibited" in answer.stdout
    [decision], [closing] = proxy.decisions(), proxy.closings()
    assert decision | {"verdict": "deny", "status": 403, "id": closing["id"]} == decision
    assert closing["outcome"] == "refused"


def test_the_refusal_and_the_record_have_the_same_id(proxy: Daemon) -> None:
    problem = json.loads(curl(proxy, FORBIDDEN[1]).stdout)
    [decision] = proxy.decisions()
    assert problem["decision"] == decision["id"]
    assert problem["reason"] == decision["reason"] == "address_locked"
    assert problem["rule"] == decision["rule"] == "cloud-metadata"
