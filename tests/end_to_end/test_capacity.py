"""At the limit of open files: what stands goes on, newcomers are told at once, places come free (R10, ATTACKS 8)."""

from __future__ import annotations

import resource
import select
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net.host import SPARE_FILES
from tests.end_to_end.asking import answer, connect, get
from tests.end_to_end.daemon import PATIENCE, ticks
from tests.end_to_end.origin import Listener
from tests.end_to_end.starting import with_files

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

PLACES: Final = 20
CROWD: Final = 300
UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket")


@pytest.fixture
def files() -> Iterator[None]:
    """Enough files for a crowd in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def start(scene: Scene, files: int, workers: int = 1) -> Daemon:
    """A daemon that may have so many files open."""
    with with_files(files):
        proxy = scene.start(workers=workers)
    proxy.wait_for_start(workers)
    return proxy


def tunnel(scene: Scene, proxy: Daemon) -> socket.socket:
    """A tunnel, all the way to an origin that echoes."""
    client = proxy.connect()
    assert get(client, f"{scene.url}/", *UPGRADE).status == 101
    return client


def use(clients: list[socket.socket]) -> None:
    """Let something through each of them, all at once."""
    for client in clients:
        client.sendall(b"x" * 1000)
    for client in clients:
        left = 1000
        while left:
            piece = client.recv(left)
            assert piece, "a tunnel ended"
            left -= len(piece)


def newcomer(proxy: Daemon, url: str) -> tuple[int, str]:
    """One more client: the status, and the reason."""
    with proxy.connect() as client:
        told = get(client, url)
        return told.status, told.reason


def test_r10_the_start_line_is_true_and_at_the_limit_newcomers_are_told_so(scene: Scene) -> None:
    proxy = start(scene, SPARE_FILES + 2 * PLACES)
    assert f"1 worker of {SPARE_FILES + 2 * PLACES} open files, enough for {PLACES} tunnels" in proxy.complaints()
    with ExitStack() as stack:
        clients = [stack.enter_context(tunnel(scene, proxy)) for _ in range(PLACES)]
        for _ in range(3):
            assert newcomer(proxy, f"{scene.url}/") == (503, "connection_limit")
            with proxy.connect() as client:
                refused = connect(client, scene.target)
                assert (refused.status, refused.fields["retry-after"]) == (503, "1")
                assert refused.fields["proxy-status"].startswith("proxyd; error=connection_limit_reached")
        use(clients)
        assert scene.origin.connections == PLACES
        refusals = [
            each for each in proxy.lines() if (each["event"], each.get("reason")) == ("close", "connection_limit")
        ]
        assert {each["status"] for each in refusals} == {503}
        assert len(refusals) == 6
        clients.pop().close()
        next(None for _ in ticks() if newcomer(proxy, f"{scene.url}/")[0] == 200)
        use(clients)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("limit", [SPARE_FILES + 2 * PLACES, 100])
def test_attack_8_a_crowd_at_the_limit_ends_no_tunnel_and_leaves_no_trace(scene: Scene, limit: int) -> None:
    """Also where there are fewer files than are meant to be spare: then some wait until others have left."""
    proxy = start(scene, limit)
    places = max(1, (limit - SPARE_FILES) // 2)
    assert f"enough for {places} tunnels" in proxy.complaints()
    with ExitStack() as stack:
        clients = [stack.enter_context(tunnel(scene, proxy)) for _ in range(places)]
        request = f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        crowd = [stack.enter_context(proxy.connect()) for _ in range(CROWD)]
        for client in crowd:
            client.sendall(request)
        use(clients)
        answered = _heard(crowd)
        assert answered
        assert answered == {"connection_limit"}
        use(clients)
        for client in crowd:
            client.close()
        assert newcomer(proxy, f"{scene.url}/") == (503, "connection_limit")
        use(clients)
        clients[0].close()
        next(None for _ in ticks() if newcomer(proxy, f"{scene.url}/")[0] == 200)
        use(clients[1:])
    assert len(proxy.workers()) == 1
    assert "another is started" not in proxy.complaints()


def _heard(crowd: list[socket.socket]) -> set[str]:
    """The reasons that were told; who is only let go hears nothing."""
    told: set[str] = set()
    waiting = set(crowd)
    while waiting:
        readable, _, _ = select.select(list(waiting), [], [], PATIENCE)
        assert readable, "nobody is told anything"
        for client in readable:
            waiting.discard(client)
            try:
                told.add(answer(client).reason)
            except (ConnectionResetError, AssertionError):
                continue
    return told


def test_r10_each_worker_has_places_of_its_own(scene: Scene) -> None:
    """The line says how many each has; a burst that the kernel deals to one is no reason to end the other's."""
    proxy = start(scene, SPARE_FILES + 2 * PLACES, workers=2)
    assert f"enough for {PLACES} tunnels each" in proxy.complaints()
    with ExitStack() as stack:
        clients: list[socket.socket] = []
        for _ in ticks():
            client = stack.enter_context(proxy.connect())
            if get(client, f"{scene.url}/", *UPGRADE).status == 101:
                clients.append(client)
            if len(clients) == 2 * PLACES:
                break
        use(clients)
        assert newcomer(proxy, f"{scene.url}/") == (503, "connection_limit")
    assert scene.origin.connections == 2 * PLACES


def test_attack_8_kept_connections_to_origins_are_counted_with_their_clients(scene: Scene) -> None:
    """A client that rests between two requests may hold an origin's connection: its second file is paid for."""
    origin = Listener(_kept, scene.origin.addresses)
    proxy = start(scene, SPARE_FILES + 2 * PLACES)
    url = f"http://{scene.origin.addresses[0]}:{origin.port}/"
    with ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(PLACES)]
        for _ in range(2):
            assert [get(client, url).status for client in clients] == [200] * PLACES
        assert newcomer(proxy, url) == (200, "OK")
        gone, _, _ = select.select(clients, [], [], PATIENCE)
        assert [client.recv(1) for client in gone] == [b""], "one made room for it"
    origin.close()


def _kept(connection: socket.socket) -> None:
    """Answer every request of a connection that is kept."""
    while connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
