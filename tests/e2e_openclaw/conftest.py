"""The cast: OpenClaw, the real proxyd under the default policy in three set-ups, and the world behind it."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests import namespace
from tests.adversarial.tls import certificates
from tests.e2e_openclaw import goods
from tests.e2e_openclaw.installation import FOLDER_IS_IN, Installation
from tests.e2e_openclaw.origin import HTTP, HTTPS, World
from tests.e2e_openclaw.set_up import SET_UPS, set_up_openclaw, start_proxyd, url_of
from tests.end_to_end.daemon import ticks
from tests.end_to_end.nameserver import Nameserver, Says
from tests.end_to_end.origin import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.adversarial.tls import Certificates
    from tests.e2e_openclaw.openclaw import OpenClaw, Stacks
    from tests.end_to_end.daemon import Daemon

collect_ignore_glob = [] if FOLDER_IS_IN in os.environ else ["test_*.py"]

PROTECTED: Final = ("10.0.0.5", "169.254.169.254", "fd00:ec2::254", "127.0.0.1", "::1")
"""Where a canary sits, at both ports."""
CHALLENGE: Final = "credential_required"
"""Why proxyd answers 407."""


@dataclass
class Scene:
    """One set-up, with one OpenClaw process that lives as long as it."""

    name: str
    url: str
    proxy: Daemon
    openclaw: OpenClaw
    stacks: Stacks
    outside: Outside

    def host(self, name: str, says: Says | None = None) -> str:
        """A name in the DNS that nobody has asked for; says: what it stands for, if not the world's origin."""
        host = f"{self.name}-{name}.origin.test"
        self.outside.nameserver.zone[host] = says or Says(a=(namespace.ORIGIN_4,))
        return host

    def decided(self, host: str) -> list[tuple[Any, ...]]:
        """What proxyd decided about a host: method, scheme, port, verdict, reason."""
        fields = ("method", "scheme", "port", "verdict", "reason")
        records = [record for record in self.proxy.decided() if record["host"] == host]
        assert {record["client"] for record in records if record["reason"] != CHALLENGE} <= {"local"}
        return [tuple(record[field] for field in fields) for record in records]

    def ended(self, host: str) -> list[tuple[Any, ...]]:
        """How what was decided about a host ended, once all of it has: verdict, reason, status."""
        for _ in ticks():
            records = [record for record in self.proxy.lines() if record.get("host") == host]
            closings = [record for record in records if record["event"] == "close"]
            if len(records) == 2 * len(closings):
                return [(record["verdict"], record["reason"], record["status"]) for record in closings]
        raise AssertionError(f"something about {host} goes on: {records}")


@dataclass
class Outside:
    """What is not ours: names, one origin, certificates, and canaries where nobody may come."""

    nameserver: Nameserver
    world: World
    authority: Path
    proxys: Certificates
    folder: Path
    canaries: list[Listener] = field(default_factory=list)

    def intruders(self) -> int:
        """How many connections reached a canary."""
        return sum(canary.connections for canary in self.canaries)


@pytest.fixture(scope="session")
def installation() -> Installation:
    """OpenClaw, in the folder that was named."""
    found = Installation(Path(os.environ[FOLDER_IS_IN]))
    assert found.is_complete(), "run python -m tests.e2e_openclaw"
    assert namespace.isolated, "this needs a network of its own: root, or user namespaces"
    return found


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """The world, for all set-ups."""
    folder = tmp_path_factory.mktemp("outside")
    for name in ("origin", "proxy", "served"):
        (folder / name).mkdir()
    issued = certificates(
        folder / "origin", ["example.com", "*.origin.test", "api.sandbox.push.apple.com"], [namespace.ORIGIN_4]
    )
    proxys = certificates(folder / "proxy", ["proxy.test"], ["127.0.0.2"])
    goods.put(folder / "served", "https://registry.origin.test")
    names = ("example.com", "git.origin.test", "index.origin.test", "registry.origin.test")
    nameserver = Nameserver({name: Says(a=(namespace.ORIGIN_4,)) for name in names})
    nameserver.zone["metadata.google.internal"] = Says(a=("169.254.169.254",))
    with ExitStack() as stack:
        stack.enter_context(closing(nameserver))
        world = stack.enter_context(closing(World(namespace.ORIGIN_4, folder / "served", issued.context)))
        canaries = [Listener(lambda _: None, PROTECTED, port) for port in (HTTP, HTTPS)]
        for canary in canaries:
            stack.enter_context(closing(canary))
        yield Outside(nameserver, world, issued.authority, proxys, folder, canaries)


@pytest.fixture(scope="session", params=SET_UPS)
def scene(
    request: pytest.FixtureRequest,
    installation: Installation,
    outside: Outside,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """proxyd and OpenClaw in one set-up."""
    folder = tmp_path_factory.mktemp(request.param)
    proxy = start_proxyd(request.param, outside, folder)
    url = url_of(request.param, proxy)
    openclaw = set_up_openclaw(url, proxy.port, installation, outside, folder)
    stacks = openclaw.start()
    stacks.ask(verb="environment")  # now its home is in order, and other commands may run
    yield Scene(request.param, url, proxy, openclaw, stacks, outside)
    ended = stacks.stop()
    proxy.stop()
    assert ended == 0, "".join(stacks.said)
