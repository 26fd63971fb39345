"""Eight thousand tunnels at once through one worker of the real daemon, which an account without privileges runs (R10).

Such an account has 64 MiB of pipe buffers, and no more files than it is granted. So has this test, which holds both
ends of every tunnel in one epoll set of its own.
"""

from __future__ import annotations

import resource
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net.host import raise_file_limit
from tests.end_to_end.daemon import PATIENCE, ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

TUNNELS: Final = 8000
OTHER_FILES: Final = 1000  # that this process or the daemon may have open beside
AT_ONCE: Final = 200  # tunnels on their way to stand
ESTABLISHED: Final = b"HTTP/1.1 200 Connection Established\r\n\r\n"


@pytest.fixture
def files() -> Iterator[int]:
    """As many open files as the system grants: how many that is."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield raise_file_limit()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Crowd:
    """Clients of a proxy, and the origin that they all go to."""

    def __init__(self, address: str) -> None:
        self._listener = socket.create_server((address, 0), backlog=4 * AT_ONCE)
        self._epoll = select.epoll()
        self._hears: dict[int, Callable[[], None]] = {}
        self._hear(self._listener, self._accept)
        self.port: int = self._listener.getsockname()[1]
        self._target = f"{address}:{self.port}"
        self._clients: list[socket.socket] = []
        self._origins: list[socket.socket] = []
        self._echoed = 0
        self._ended = 0

    def open(self, proxy: Daemon, count: int) -> None:
        """Open so many tunnels, some at a time, and let each echo one octet."""
        while self._echoed < count:
            while len(self._clients) < min(count, self._echoed + AT_ONCE):
                self._ask(proxy)
            self._turn()

    def echo(self) -> None:
        """Let every tunnel echo one more octet."""
        self._echoed = 0
        for client in self._clients:
            client.send(b"x")
        while self._echoed < len(self._clients):
            self._turn()

    def leave(self) -> None:
        """End every tunnel: one half of them the clients, the other half the origin. Each end comes through."""
        half = len(self._clients) // 2
        for client in self._clients[:half]:
            client.close()
        while self._ended < half:
            self._turn()
        for origin in self._origins:
            origin.close()
        while self._ended < len(self._clients):
            self._turn()

    def close(self) -> None:
        """Let go of everything."""
        for sock in (*self._clients, *self._origins, self._listener):
            sock.close()
        self._epoll.close()

    def _turn(self) -> None:
        happened = self._epoll.poll(PATIENCE)
        assert happened, "nothing happens any more"
        for number, _ in happened:
            self._hears[number]()

    def _hear(self, sock: socket.socket, hear: Callable[[], None]) -> None:
        sock.settimeout(0)
        self._hears[sock.fileno()] = hear
        self._epoll.register(sock, select.EPOLLIN)

    def _ask(self, proxy: Daemon) -> None:
        client = proxy.connect()
        client.send(f"CONNECT {self._target} HTTP/1.1\r\nHost: {self._target}\r\n\r\n".encode())
        self._clients.append(client)
        self._hear(client, lambda: self._hear_client(client))

    def _accept(self) -> None:
        origin, _ = self._listener.accept()
        self._origins.append(origin)
        self._hear(origin, lambda: self._hear_origin(origin))

    def _hear_client(self, client: socket.socket) -> None:
        data = client.recv(100)
        if data == ESTABLISHED:
            client.send(b"x")
        elif data == b"x":
            self._echoed += 1
        else:
            self._hear_end(client, data)

    def _hear_origin(self, origin: socket.socket) -> None:
        data = origin.recv(100)
        if data == b"x":
            origin.send(data)
        else:
            self._hear_end(origin, data)

    def _hear_end(self, sock: socket.socket, data: bytes) -> None:
        assert data == b""
        self._ended += 1
        sock.close()


@pytest.fixture
def crowd(scene: Scene) -> Iterator[Crowd]:
    """Nobody yet."""
    made = Crowd(scene.origin.addresses[0])
    yield made
    made.close()


def open_files(pid: int) -> int:
    """How many descriptors a process has."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.usefixtures("unprivileged")
def test_r10_one_worker_holds_eight_thousand_tunnels_and_keeps_nothing_of_them(
    scene: Scene, crowd: Crowd, files: int
) -> None:
    """Or as many as the hard limit of open files grants."""
    address = scene.origin.addresses[0]
    permit = f'[[permit]]\nhost = "{address}"\nports = [{crowd.port}]\nnetworks = ["{address}/32"]\nreason = "x"\n'
    proxy = scene.start(f"[limits]\nconnections = {TUNNELS}\n{permit}")
    tunnels = min(TUNNELS, (files - OTHER_FILES) // 2)
    proxy.wait_for_start()
    (worker,) = proxy.workers()
    crowd.open(proxy, 1)  # so that what the worker opens once is open
    before = open_files(worker) - 2
    crowd.open(proxy, tunnels)
    next(None for _ in ticks() if open_files(worker) == before + 2 * tunnels)  # but for what it has open for a moment
    crowd.echo()
    crowd.leave()
    told = [(record["outcome"], record["bytes_up"], record["bytes_down"]) for record in proxy.closings()]
    assert told == [("closed", 2, 2)] * tunnels
    for _ in ticks():
        if open_files(worker) == before:
            break
    assert open_files(worker) == before
