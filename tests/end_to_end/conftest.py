"""The scene of every end-to-end test: a scripted nameserver, an HTTP origin, and the real daemon between."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespace
from tests.end_to_end.daemon import Daemon, policy_text
from tests.end_to_end.nameserver import Nameserver, Says
from tests.end_to_end.origin import HttpOrigin
from tests.tools import give_up, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLICIES = Path(__file__).parents[2] / "policies"
NAMES = ("origin.test", "six.test", "both.test", "alias.test", "big.test", "second.test")


@dataclass
class Scene:
    """The cast. `start(extra)` runs a daemon with more policy text; they are all stopped in the end."""

    nameserver: Nameserver
    origin: HttpOrigin
    start: Callable[..., Daemon]

    @property
    def url(self) -> str:
        """The origin by name."""
        return f"http://origin.test:{self.origin.port}"

    @property
    def target(self) -> str:
        """The origin by name, for a CONNECT."""
        return f"origin.test:{self.origin.port}"


@pytest.fixture
def nameserver() -> Iterator[Nameserver]:
    """A nameserver that knows the origin."""
    server = Nameserver()
    server.zone["origin.test"] = Says(a=(namespace.origin_4(),))
    server.zone["six.test"] = Says(aaaa=(namespace.origin_6(),))
    server.zone["both.test"] = Says(a=(namespace.origin_4(),), aaaa=(namespace.origin_6(),))
    yield server
    server.close()


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    """An origin at a public address, or at what stands in for one."""
    server = HttpOrigin((namespace.origin_4(), namespace.origin_6()))
    yield server
    server.close()


@pytest.fixture
def scene(nameserver: Nameserver, origin: HttpOrigin, tmp_path: Path) -> Iterator[Scene]:
    """The cast, before any daemon runs."""
    daemons: list[Daemon] = []
    shutil.copy(POLICIES / "denylist.toml", tmp_path)

    def start(extra: str = "", *, workers: int = 1, **more: object) -> Daemon:
        policy = tmp_path / f"policy{len(daemons)}.toml"
        policy.write_text(policy_text(nameserver.port, origin.port, NAMES, extra, workers))
        audit, errors = tmp_path / f"audit{len(daemons)}.jsonl", tmp_path / f"errors{len(daemons)}"
        for file in (audit, errors):
            file.touch()
        daemons.append(Daemon(policy, audit, errors, **more))  # type: ignore[arg-type] # passed through
        return daemons[-1]

    yield Scene(nameserver, origin, start)
    for daemon in daemons:
        daemon.stop()


@pytest.fixture
def proxy(scene: Scene) -> Daemon:
    """The daemon with the plainest policy."""
    return scene.start()


@pytest.fixture
def accounts() -> None:
    """Processes of any account can be had here."""
    if not _is_root():
        give_up("only root can start processes of other accounts: run this as root")


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started runs as an account without privileges, but for reading: its program may be in root's home."""
    if not _is_root():
        return  # so it does already: root, if at all, only in a user namespace
    popen = subprocess.Popen
    nobody = (tool("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups")
    reads = tuple(f"--{which}=-all,+dac_override" for which in ("bounding-set", "inh-caps", "ambient-caps"))

    def start(command: list[str], **more: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - passed through
        return popen([*nobody, *reads, *command], **more)

    monkeypatch.setattr(subprocess, "Popen", start)


def _is_root() -> bool:
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[:2] == ["0", "0"]
