"""R4, R5: the programs that OpenClaw starts find the proxy in what they inherit: curl, git, pip and npm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e_openclaw import goods
from tests.e2e_openclaw.conftest import CHALLENGE
from tests.e2e_openclaw.origin import HELLO
from tests.e2e_openclaw.set_up import CREDENTIALS
from tests.end_to_end.nameserver import Says
from tests.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e_openclaw.conftest import Scene

LOOPBACK: Final = "127.0.0.1,localhost,localhost.,::1,[::1],127.0.0.0/8"


@dataclass(frozen=True)
class Child:
    """A program. command: what is run, with {url} for where it goes, which is host; leaves: the file that it makes."""

    command: str
    host: str
    leaves: str = ""
    says: str = ""
    scheme: str = "https"


CHILDREN: Final = {
    "curl": Child("curl -sS {url}/hello", "curl.origin.test", says=HELLO),
    "curl, plain": Child("curl -sS {url}/hello", "curl-plain.origin.test", says=HELLO, scheme="http"),
    "git clone": Child("git clone --quiet {url}/tiny.git cloned", "git.origin.test", leaves="cloned/README"),
    "pip download": Child(
        "python -m pip download --no-cache-dir --retries 1 --index-url {url}/index/ tiny",
        "index.origin.test",
        leaves=goods.WHEEL,
    ),
    "npm view": Child("npm view --registry {url}/ tiny version", "registry.origin.test", says=goods.VERSION),
    "npm pack": Child("npm pack --registry {url}/ tiny", "registry.origin.test", leaves=goods.TARBALL),
}
"""Each with the ways it has of saying where to go, so that it can be sent elsewhere."""


def run(scene: Scene, child: Child, host: str, folder: Path) -> dict[str, Any]:
    """Have OpenClaw run it, as its plugins do: its exit status and what it said."""
    name, *arguments = child.command.format(url=f"{child.scheme}://{host}").split()
    installed = scene.openclaw.installation
    programs = {"python": [str(installed.python)], "npm": [str(installed.node), str(installed.npm)]}
    command = [*(programs.get(name) or [tool(name)]), *arguments]
    return scene.stacks.ask(verb="run", command=command, cwd=str(folder))


def expected(scene: Scene, child: Child, verdict: str, reason: str | None) -> set[tuple[Any, ...]]:
    """What is on record of it, however often it asks."""
    asked = ("GET", "http", 80) if child.scheme == "http" else ("CONNECT", "connect", 443)
    waits_for_challenge = scene.name == CREDENTIALS and child.command.startswith("git ")
    return {(*asked, verdict, reason), *([(*asked, "deny", CHALLENGE)] if waits_for_challenge else [])}


def test_what_children_inherit_is_the_proxy_and_nothing_goes_past_it_but_loopback(scene: Scene) -> None:
    environment = scene.stacks.ask(verb="environment")["environment"]
    inherited = {name: environment.get(name) for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    assert inherited == dict.fromkeys(inherited, scene.url)
    assert (environment["NO_PROXY"], environment["no_proxy"]) == (LOOPBACK, LOOPBACK)
    assert ("@" in scene.url) == (scene.name == CREDENTIALS)


@pytest.mark.parametrize("name", CHILDREN)
def test_r4_a_child_process_is_answered_through_the_proxy(scene: Scene, name: str, tmp_path: Path) -> None:
    child = CHILDREN[name]
    host, before = child.host, len(scene.decided(child.host))
    scene.outside.nameserver.zone.setdefault(host, scene.outside.nameserver.zone["example.com"])
    outcome = run(scene, child, host, tmp_path)
    assert outcome["code"] == 0, outcome
    assert child.says in outcome["stdout"]
    assert not child.leaves or (tmp_path / child.leaves).exists()
    assert set(scene.decided(host)[before:]) == expected(scene, child, "allow", None)


@pytest.mark.parametrize("name", CHILDREN)
def test_r5_r6_a_child_process_gets_nothing_from_where_nobody_may_go(scene: Scene, name: str, tmp_path: Path) -> None:
    child = CHILDREN[name]
    host = scene.host(f"inner-{name.replace(', ', '-').replace(' ', '-')}", Says(a=("10.0.0.5",)))
    outcome = run(scene, child, host, tmp_path)
    shown = outcome["stdout"] + outcome["stderr"]
    if child.scheme == "https":
        assert outcome["code"] != 0
        assert "403" in shown
    else:
        assert "Refused by policy; do not retry." in shown
    assert list(tmp_path.iterdir()) == []
    assert set(scene.decided(host)) == expected(scene, child, "deny", "address_denied")
    assert scene.outside.intruders() == 0
