"""A real Prometheus, configured as `deploy/` says, scrapes a real proxyd: panels have data, rules work."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest

from tests import namespace
from tests.deploy.exposed import RULES
from tests.deploy.test_grafana import PANELS, substituted
from tests.end_to_end.daemon import read_until, ticks
from tests.end_to_end.nameserver import Says
from tests.end_to_end.test_workers import until
from tests.tools import free_port, tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

TOKEN: Final = "0123456789abcdef0123456789abcdef"  # noqa: S105 - of these tests
REPORTING: Final = """
[destinations]
default = "deny"
mode = "report"
[[allow]]
hosts = ["origin.test", "no-such.test"]
ports = ["1-65535"]
reason = "so that others miss the allowlist"
[admin]
listen = "127.0.0.1:{port}"
token_file = "{token}"
"""
EXPECTED: Final = {
    'sum(proxyd_decisions_total{verdict="deny", reason="address_locked"})': 1.0,
    "proxyd_workers_serving": 2.0,
}
NEEDS_PUBLIC_ADDRESSES: Final = {"Let through in report mode"}


@dataclass
class Prometheus:
    """One that runs: `ask` for what its HTTP API has."""

    port: int

    def ask(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """What is there. Raises OSError until it is ready."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"/api/v1/{path}")
            answer = connection.getresponse()
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                raise ConnectionError("it is starting")
            return json.load(answer)
        finally:
            connection.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The value of an expression, now: its series."""
        answer = self.ask(f"query?query={quote(expression)}")
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def value(self, expression: str) -> float:
        """The value of an expression that has one; 0 while there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else 0.0


@pytest.fixture
def proxy(scene: Scene, tmp_path: Path) -> Daemon:
    """One that can be scraped, and lets through what misses its allowlist."""
    scene.nameserver.zone["unlisted.test"] = Says(a=(namespace.origin_4(),))
    token = tmp_path / "admin.token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o640)
    return scene.start(REPORTING.format(port=free_port(), token=token), workers=2)


@pytest.fixture
def prometheus(proxy: Daemon, tmp_path: Path) -> Iterator[Prometheus]:
    """One with our example of a configuration, but that it scrapes each second, and where this proxy listens."""
    text = RULES.with_name("prometheus.yml").read_text()
    listen = re.findall(r'listen = "(127\.0\.0\.1:[1-9]\d*)"', proxy.policy.read_text())[0]
    changes = {"127.0.0.1:9128": listen, "/etc/proxyd/admin.token": str(tmp_path / "admin.token"), "15s": "1s"}
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / RULES.name).write_text(RULES.read_text())
    program = tool("prometheus")
    server = Prometheus(free_port())
    command = [program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    said = tmp_path / "prometheus.said"
    with said.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the one that the package installs
            [*command, f"--web.listen-address=127.0.0.1:{server.port}"], stdout=output, stderr=output
        )
    try:
        wait_until_it_scrapes(server, said)
        yield server
    finally:
        process.kill()
        process.wait()


def wait_until_it_scrapes(server: Prometheus, said: Path) -> None:
    """And has seen what it counts from."""
    for _ in ticks():
        try:
            if server.value('up{job="proxyd", instance="proxyd.example"}') == 1.0:
                return
        except OSError:
            continue
    raise AssertionError(said.read_text())


def some_traffic(scene: Scene, proxy: Daemon) -> None:
    """Something of everything: allowed, let through, denied, failed in two ways, a tunnel."""
    scene.origin.scripted["/broken"] = b"this is no HTTP\r\n\r\n"
    unlisted, broken = f"http://unlisted.test:{scene.origin.port}/", f"{scene.url}/broken"
    for url in (f"{scene.url}/", unlisted, broken, "http://169.254.169.254/", "http://no-such.test/"):
        proxy.ask(f"GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    with proxy.connect() as client:
        client.sendall(f"CONNECT {scene.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in read_until(client, b"\r\n\r\n")


def test_every_panel_of_the_dashboard_has_data(scene: Scene, proxy: Daemon, prometheus: Prometheus) -> None:
    without = set() if namespace.isolated else NEEDS_PUBLIC_ADDRESSES
    empty: list[str] = []
    for _ in ticks():
        some_traffic(scene, proxy)
        empty = [title for title in PANELS.keys() - without if not all(map(bool, shown(prometheus, title)))]
        if not empty:
            break
    assert empty == []
    for expression, least in EXPECTED.items():
        until(lambda expression=expression, least=least: prometheus.value(expression) >= least, expression)  # type: ignore[misc]


def shown(prometheus: Prometheus, title: str) -> list[list[dict[str, Any]]]:
    """What a panel's queries answer; each of the series has the labels that its legend names."""
    answers = []
    for target in PANELS[title]["targets"]:
        found = prometheus.query(substituted(target["expr"]))
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert all(label in each["metric"] for each in found), (title, label)
        answers.append(found)
    return answers


def test_an_alert_fires_with_words_that_name_the_client(scene: Scene, proxy: Daemon, prometheus: Prometheus) -> None:
    """An agent that asks for metadata, again and again (ATTACKS 2.16); and the other rules all work."""
    firing: dict[str, dict[str, Any]] = {}
    for _ in ticks():
        some_traffic(scene, proxy)
        firing = {each["labels"]["alertname"]: each for each in prometheus.ask("alerts")["data"]["alerts"]}
        if firing.get("ProxydLockedAskedFor", {}).get("state") == "firing" and "ProxydReportMode" in firing:
            break
    alert = firing["ProxydLockedAskedFor"]
    assert alert["labels"]["severity"] == "warning"
    assert alert["annotations"]["summary"].startswith("proxyd.example: client tester asks for cloud metadata")
    assert firing["ProxydReportMode"]["state"] == "pending"
    rules = [rule for group in prometheus.ask("rules")["data"]["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules if rule["health"] == "err"} == set()
    words = [words for each in firing.values() for words in each["annotations"].values()]
    assert [each for each in words if "<error" in each or "<no value>" in each] == []
