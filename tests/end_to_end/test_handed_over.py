"""Sockets that a service manager hands over (sd_listen_fds(3)), and an upgrade that refuses nobody (R1, R10)."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net.listening import BACKLOG
from proxyd.serve.drain import FIRST_SECONDS
from tests.end_to_end.asking import answer, get
from tests.end_to_end.daemon import PATIENCE, files_of, policy_text, read_all, read_until, status, ticks
from tests.end_to_end.starting import handing_over, run
from tests.end_to_end.test_workers import LONG_DRAIN, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import Scene

AFTERWARDS: Final = 60  # requests that the second proxyd has to answer while the first one drains


@contextmanager
def listening(address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A listening socket of the service manager's."""
    with socket.create_server((address, 0), backlog=BACKLOG) as sock:
        yield sock


def ask(sock: socket.socket, url: str) -> int:
    """Ask for a URL, on a connection of its own: the status."""
    with socket.create_connection(sock.getsockname(), PATIENCE) as client:
        client.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return status(read_all(client))


def test_every_socket_that_was_handed_over_is_listened_on_by_every_worker(scene: Scene) -> None:
    with listening() as first, listening() as second, handing_over({"a": first, "b": second}):
        proxy = scene.start('[listen]\nhttp = ["systemd"]\n', workers=2)
        proxy.wait_for_start(2)
        ports = [sock.getsockname()[1] for sock in (first, second)]
        starts = [line["listening"] for line in proxy.lines() if line["event"] == "start"]
        assert starts == [[f"127.0.0.1:{port}" for port in ports]] * 2
        for sock in (first, second):
            assert ask(sock, f"{scene.url}/") == 200
            assert ask(sock, "http://10.0.0.5/") == 403
            assert ask(sock, f"http://127.0.0.1:{sock.getsockname()[1]}/") == 403
        assert {each["reason"] for each in proxy.decisions()} == {None, "address_denied", "address_locked"}
        for worker in proxy.workers():
            with stopped(worker):
                assert ask(first, f"{scene.url}/") == 200


def test_of_sockets_that_have_names_those_are_taken_that_the_policy_names(scene: Scene) -> None:
    with listening() as web, listening() as other, handing_over({"other": other, "web": web}):
        proxy = scene.start('[listen]\nhttp = ["systemd:web"]\n')
        assert proxy.port == web.getsockname()[1]
        assert ask(web, f"{scene.url}/") == 200
        with socket.create_connection(other.getsockname(), PATIENCE) as client:
            accepted, _ = other.accept()  # nobody else takes it
            accepted.close()
            assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("place", "handed", "why"),
    [
        ("systemd", (), "listen.http[0]: systemd: the service manager has handed over no such socket"),
        (
            "systemd:web",
            ("another",),
            "listen.http[0]: systemd:web: the service manager has handed over no such socket",
        ),
    ],
)
def test_r12_what_was_not_handed_over_is_69(
    scene: Scene, tmp_path: Path, place: str, handed: tuple[str, ...], why: str
) -> None:
    policy = tmp_path / "policy.toml"
    listen = f'[listen]\nhttp = ["{place}"]\n'
    policy.write_text(policy_text(scene.nameserver.port, scene.origin.port, extra=listen))
    with listening() as sock, handing_over(dict.fromkeys(handed, sock)):
        done = run("--policy", str(policy))
    assert done.returncode == 69
    assert why in done.stderr


def test_r1_a_socket_that_the_policy_could_not_have_asked_for_is_refused(scene: Scene, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(policy_text(scene.nameserver.port, scene.origin.port, extra='[listen]\nhttp = ["systemd"]\n'))
    with listening("0.0.0.0") as sock, handing_over({"web": sock}):
        done = run("--policy", str(policy))
    assert done.returncode == 78
    assert "is open to more than a private network" in done.stderr


def test_sockets_meant_for_another_process_are_not_ours(scene: Scene, tmp_path: Path) -> None:
    """LISTEN_PID is of somebody else: an environment that was passed on says nothing (sd_listen_fds(3))."""
    policy = tmp_path / "policy.toml"
    policy.write_text(policy_text(scene.nameserver.port, scene.origin.port, extra='[listen]\nhttp = ["systemd"]\n'))
    with listening() as sock, handing_over({"web": sock}, owner="1"):
        assert run("--policy", str(policy)).returncode == 69


class Hurry:
    """Clients that ask one after the other, each on a connection of its own; what went wrong is remembered."""

    def __init__(self, sock: socket.socket, url: str) -> None:
        self.served = 0
        self.failures: list[str] = []
        self._sock, self._url = sock, url
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int) -> None:
        """Until so many more were served."""
        goal = self.served + more
        next(None for _ in ticks() if self.served >= goal or self.failures)

    def stop(self) -> None:
        """Let the last ones finish."""
        self._enough.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._enough.is_set():
            began = time.monotonic()
            try:
                answered = ask(self._sock, self._url)
            except (OSError, IndexError) as error:
                if time.monotonic() - began < FIRST_SECONDS:  # or whoever drains need not wait for its request
                    self.failures.append(repr(error))
            else:
                self.failures += [str(answered)] * (answered != 200)
                self.served += 1


@pytest.mark.parametrize("workers", [1, 2])
def test_r10_an_upgrade_refuses_nobody_and_ends_no_tunnel(scene: Scene, workers: int) -> None:
    """A second proxyd is started on the same socket, and the first one drains, while clients come all the time."""
    with listening() as sock, handing_over({"web": sock}):
        first = scene.start(f'[listen]\nhttp = ["systemd:web"]\n{LONG_DRAIN}', workers=workers)
        first.wait_for_start(workers)
        old = first.workers()
        with socket.create_connection(sock.getsockname(), PATIENCE) as client:
            assert get(client, f"{scene.url}/", "Connection: Upgrade", "Upgrade: websocket").status == 101
            hurry = Hurry(sock, f"{scene.url}/")
            hurry.wait_for(AFTERWARDS)
            second = scene.start('[listen]\nhttp = ["systemd:web"]\n', workers=workers)
            second.wait_for_start(workers)
            first.signal(signal.SIGTERM)
            listener = f"socket:[{os.fstat(sock.fileno()).st_ino}]"
            next(None for _ in ticks() if not any(listener in files_of(worker).values() for worker in old))
            hurry.wait_for(AFTERWARDS)
            hurry.stop()
            client.sendall(b"still here")
            assert read_until(client, b"still here")
        assert first.wait() == 0
        assert hurry.failures == []
        assert len(second.decisions()) > AFTERWARDS // 2  # the first one may have accepted a few before
        assert {each["status"] for each in (*first.closings(), *second.closings())} == {200, 101}


def test_r10_who_was_accepted_before_sigterm_may_ask_once(scene: Scene) -> None:
    """The client saw us accept: its request may be on its way. Who asks for nothing does not keep us."""
    proxy = scene.start()
    proxy.wait_for_start()
    [worker] = proxy.workers()
    with proxy.connect() as accepted, proxy.connect() as idle, proxy.connect() as later:
        assert get(later, f"{scene.url}/").status == 200  # so those before it were accepted
        with stopped(worker):
            proxy.signal(signal.SIGTERM)
            accepted.sendall(f"GET {scene.url}/late HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer(accepted).status == 200
        assert idle.recv(1) == b""
    assert proxy.wait() == 0
