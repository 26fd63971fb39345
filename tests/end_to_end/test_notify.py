"""The service manager, played: readiness, status, signs of life, reload, the end; sockets that outlive a daemon.

The unit's own settings are read from `deploy/systemd/`, so that what is played is what is shipped (R10, R12).
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.end_to_end.asking import get
from tests.end_to_end.daemon import PATIENCE, read_all, status
from tests.end_to_end.starting import handing_over, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene

UNIT: Final = (Path(__file__).parents[2] / "deploy" / "systemd" / "proxyd.service").read_text()
SOCKET: Final = (Path(__file__).parents[2] / "deploy" / "systemd" / "proxyd.socket").read_text()


class Manager:
    """In the place of systemd: what it gives to a service, and what it is told, a datagram after the other."""

    def __init__(self, place: Path) -> None:
        self.path = place / "notify"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(self.path))
        self._sock.settimeout(PATIENCE)

    def env(self, watchdog: float) -> dict[str, str]:
        """What is in the environment of the service."""
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(int(watchdog * 1_000_000))}

    def told(self) -> dict[str, str]:
        """The next thing that it is told."""
        return dict(line.split("=", 1) for line in self._sock.recv(4096).decode().splitlines())

    def told_of(self, name: str) -> dict[str, str]:
        """The next of this kind."""
        while name not in (told := self.told()):
            pass
        return told

    def close(self) -> None:
        """Nobody listens any more."""
        self._sock.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """One that gives the unit's own watchdog."""
    manager = Manager(tmp_path)
    assert "\nType=notify\n" in UNIT
    seconds = float(UNIT.split("WatchdogSec=")[1].split("\n")[0])
    for name, value in manager.env(seconds).items():
        monkeypatch.setenv(name, value)
    yield manager
    manager.close()


def test_r12_it_is_ready_when_every_worker_serves_and_says_what_is_in_force(scene: Scene, manager: Manager) -> None:
    proxy = scene.start(workers=2)
    told = manager.told_of("READY")
    assert told["READY"] == "1"
    assert [line["event"] for line in proxy.lines()].count("start") == 2
    digest = proxy.lines()[0]["digest"]
    assert told["STATUS"] == f"policy test, digest {digest}, on 127.0.0.1:{proxy.port}"
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").status == 200


def test_signs_of_life_come_again_and_again(scene: Scene, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a thousand times faster; what is told in vain while nobody reads is lost, as the kernel holds only a few."""
    monkeypatch.setenv("WATCHDOG_USEC", str(int(os.environ["WATCHDOG_USEC"]) // 1000))
    proxy = scene.start()
    for _ in range(5):
        assert manager.told_of("WATCHDOG") == {"WATCHDOG": "1"}
    assert proxy.stop() == 0


def test_a_reload_changes_the_status_and_the_end_is_told(scene: Scene, manager: Manager) -> None:
    proxy = scene.start()
    first = manager.told_of("READY")["STATUS"]
    done = proxy.reload(proxy.policy.read_text() + '\n[[deny]]\nname = "x"\nhosts = ["x.test"]\nreason = "x"\n')
    assert done["outcome"] == "done"
    second = manager.told_of("READY")["STATUS"]
    assert done["digest"] in second
    assert second != first
    proxy.signal(signal.SIGTERM)
    assert manager.told_of("STOPPING") == {"STOPPING": "1", "STATUS": "draining"}
    assert proxy.wait() == 0


def test_r12_exec_reload_fails_where_the_policy_is_bad(scene: Scene, tmp_path: Path) -> None:
    """`ExecReload=` waits for the outcome; the old policy stays."""
    reload = UNIT.split("ExecReload=")[1].split("\n")[0].split()[1:]
    assert reload == ["reload", "--policy", "/etc/proxyd/policy.toml"]
    proxy = scene.start(f'[listen]\nhttp = ["127.0.0.1:0"]\ncontrol = "{tmp_path}/control"\n')
    proxy.wait_for_start()
    good = proxy.policy.read_text()
    assert run(*reload[:-1], str(proxy.policy)).returncode == 0
    proxy.policy.write_text(good.replace("default =", "defualt ="))
    assert run(*reload[:-1], str(proxy.policy)).returncode == 78
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").status == 200


def test_a_manager_that_is_gone_is_no_reason_not_to_serve(scene: Scene, manager: Manager) -> None:
    manager.close()
    manager.path.unlink()
    proxy = scene.start()
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").status == 200
    assert proxy.stop() == 0


@contextmanager
def _socket_of_the_unit() -> Iterator[socket.socket]:
    settings: dict[str, Any] = dict(line.split("=", 1) for line in SOCKET.splitlines() if line[:1].isupper())
    host, _, _ = settings["ListenStream"].rpartition(":")
    with socket.create_server((host, 0), backlog=int(settings["Backlog"])) as sock:
        yield sock


def test_r10_who_comes_between_two_daemons_waits_and_is_served(scene: Scene, manager: Manager) -> None:
    """Socket activation: the manager holds the socket while one is stopped and the next is started."""
    with _socket_of_the_unit() as sock, handing_over({"proxyd.socket": sock}):
        listen = '[listen]\nhttp = ["systemd"]\n'
        first = scene.start(listen)
        manager.told_of("READY")
        assert first.stop() == 0
        manager.told_of("STOPPING")
        with socket.create_connection(sock.getsockname(), PATIENCE) as client:
            client.sendall(f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            second = scene.start(listen)
            assert status(read_all(client)) == 200
        assert [each["verdict"] for each in second.decisions()] == ["allow"]
