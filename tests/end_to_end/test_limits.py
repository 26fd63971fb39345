"""How much a client may do, held over all workers, and told in a way that a client can act on (R2; ATTACKS 8).

Every count is taken at the origin, or is of answers. Where tokens come back with time, only that is used of time: no
more of them can have come back than the seconds that went by.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from tests.end_to_end.asking import answer, connect, get
from tests.end_to_end.daemon import ticks
from tests.end_to_end.origin import Listener, more, read_head
from tests.end_to_end.test_workers import at_each, until

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

MOST: Final = 3
SECOND: Final = "127.0.0.2"
CLIENTS: Final = """
[[client]]
name = "first"
networks = ["127.0.0.1/32"]
[client.limits]
{limits}

[[client]]
name = "second"
networks = ["127.0.0.2/32"]
"""


@dataclass
class Crowd:
    """An origin that counts who is there at once. Nobody has left before his place with proxyd is free again.

    A tunnel stays until its client ends it; a request is answered when `answering` is set.
    """

    addresses: tuple[str, ...]
    answering: threading.Event = field(default_factory=threading.Event)
    now: int = 0
    most: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        listener = Listener(self._serve, self.addresses)
        self.port, self.close = listener.port, listener.close

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            head, _ = read_head(connection)
            if head:
                self.answering.wait(600)
        finally:
            with self._lock:
                self.now -= 1
        if head:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            more(connection)


@pytest.fixture
def crowd(scene: Scene) -> Iterator[Crowd]:
    """The origin that counts."""
    crowd = Crowd(scene.origin.addresses[:1])
    yield crowd
    crowd.answering.set()
    crowd.close()


def at(crowd: Crowd) -> str:
    """Where it is, for a CONNECT."""
    return f"{crowd.addresses[0]}:{crowd.port}"


def limited(scene: Scene, crowd: Crowd, limits: str = "", everybody: str = "", workers: int = 2) -> Daemon:
    """A daemon with limits for its first client, or for everybody."""
    address = crowd.addresses[0]
    row = f'[[permit]]\nhost = "{address}"\nports = [{crowd.port}]\nnetworks = ["{address}/32"]\nreason = "x"\n'
    common = f"[limits]\n{everybody}\n" if everybody else ""
    proxy = scene.start(CLIENTS.format(limits=limits) + common + row, workers=workers)
    proxy.wait_for_start(workers)
    return proxy


def in_parallel(count: int, work: Callable[[], None]) -> None:
    """Do something in so many threads; the first that fails says so."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# Requests per second


def test_requests_per_second_hold_over_both_workers_and_whatever_the_verdict(scene: Scene, crowd: Crowd) -> None:
    """Refused requests count too, or a client that is refused could drive the resolver without limit."""
    proxy = limited(scene, crowd, "requests_per_second = 1\nburst = 6")
    asked = (f"{scene.url}/", "http://10.0.0.5/", f"{scene.url}/other")
    began = time.monotonic()
    with ExitStack() as stack:
        clients = at_each(proxy, stack)  # each of them is refused something: two of the six
        said = [get(clients[number % 2], asked[number % 3]) for number in range(60)]
        went_by = time.monotonic() - began
        served = [each for each in said if each.status != 429]
        assert 4 <= len(served) <= 4 + went_by + 1
        over = [each for each in said if each.status == 429]
        assert {each.reason for each in over} == {"rate_limit"}
        assert {each.fields["retry-after"] for each in over} == {"1"}
        with proxy.connect(SECOND) as other:  # whom it does not touch
            assert {get(other, f"{scene.url}/second").status for _ in range(20)} == {200}
        for _ in ticks():
            if get(clients[0], f"{scene.url}/again").status == 200:
                break
        else:
            pytest.fail("it never may again")
    reached = [head for head in scene.origin.heads if b"/second " not in head]
    assert len(reached) == len([each for each in served if each.status == 200]) + 1
    denied = {each["reason"] for each in proxy.decisions() if each["status"] == 429}
    assert denied == {"rate_limit"}


def test_new_tunnels_per_second_are_a_limit_of_their_own(scene: Scene, crowd: Crowd) -> None:
    proxy = limited(scene, crowd, "tunnels_per_second = 1\nburst = 2", workers=1)
    with ExitStack() as stack:
        began = time.monotonic()
        said = [connect(stack.enter_context(proxy.connect()), at(crowd)) for _ in range(20)]
        went_by = time.monotonic() - began
        opened = [each for each in said if each.status == 200]
        assert 2 <= len(opened) <= 2 + went_by + 1
        assert {(each.status, each.reason) for each in said if each.status != 200} == {(429, "rate_limit")}
        assert get(stack.enter_context(proxy.connect()), f"{scene.url}/").status == 200


# At once


def test_never_more_tunnels_at_once_than_the_limit_over_both_workers(scene: Scene, crowd: Crowd) -> None:
    """Eight clients open and end tunnels as fast as they can; the origin counts."""
    proxy = limited(scene, crowd, f"tunnels = {MOST}")
    opened = []
    with ExitStack() as stack:
        filled(proxy, crowd, stack)
        until(lambda: crowd.now == MOST, "they do not arrive")

    def open_and_end() -> None:
        for _ in range(40):
            with proxy.connect() as client:
                said = connect(client, at(crowd))
                assert said.status == 200 or (said.status, said.reason) == (429, "concurrency_limit")
                opened.append(said.status)

    in_parallel(8, open_and_end)
    assert crowd.most == MOST
    assert opened.count(429) > 0
    assert opened.count(200) > 2 * MOST
    until(lambda: crowd.now == 0, "somebody stays")
    assert len({each["id"] for each in proxy.closings()}) == MOST + 8 * 40


def test_a_place_is_free_again_when_a_tunnel_ends_and_only_then(scene: Scene, crowd: Crowd) -> None:
    proxy = limited(scene, crowd, f"tunnels = {MOST}")
    with ExitStack() as stack:
        tunnels = filled(proxy, crowd, stack)
        refused = stack.enter_context(proxy.connect())
        for _ in range(3):
            with proxy.connect() as another:
                said = connect(another, at(crowd))
                assert (said.status, said.reason, said.fields["retry-after"]) == (429, "concurrency_limit", "1")
        assert get(refused, f"{scene.url}/").status == 200  # which is no tunnel
        with proxy.connect(SECOND) as other:
            assert connect(other, at(crowd)).status == 200
        tunnels[0].close()
        stack.enter_context(one_more(proxy, crowd))
        with proxy.connect() as another:
            assert connect(another, at(crowd)).status == 429


def test_requests_at_once(scene: Scene, crowd: Crowd) -> None:
    proxy = limited(scene, crowd, f"requests = {MOST}")
    url = f"http://{at(crowd)}/"
    with ExitStack() as stack:
        waiting = [stack.enter_context(proxy.connect()) for _ in range(MOST)]
        for client in waiting:
            client.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until(lambda: crowd.now == MOST, "they do not arrive")
        another = stack.enter_context(proxy.connect())
        assert (said := get(another, url)).status == 429
        assert said.reason == "concurrency_limit"
        assert connect(stack.enter_context(proxy.connect()), at(crowd)).status == 200  # which is no request
        until(lambda: crowd.now == MOST + 1, "the tunnel does not arrive")
        crowd.answering.set()
        assert {answer(client).status for client in waiting} == {200}
        until(lambda: get(another, url).status == 200, "no place is free")


def test_r12_a_killed_worker_frees_its_places_and_no_others(scene: Scene, crowd: Crowd) -> None:
    proxy = limited(scene, crowd, "tunnels = 2")
    with ExitStack() as stack:
        first, second = at_each(proxy, stack)
        for client in (first, second):
            assert connect(client, at(crowd)).status == 200
        with proxy.connect() as another:
            assert connect(another, at(crowd)).status == 429
        os.kill(proxy.workers()[0], signal.SIGKILL)
        assert first.recv(1) == b""
        proxy.wait_for_start(3)
        stack.enter_context(one_more(proxy, crowd))
        with proxy.connect() as another:
            assert connect(another, at(crowd)).status == 429
        next(None for _ in ticks() if crowd.now == 2)  # the origin may hear of them a moment later than their clients
        second.close()
        stack.enter_context(one_more(proxy, crowd))


def filled(proxy: Daemon, crowd: Crowd, stack: ExitStack) -> list[socket.socket]:
    """As many tunnels as there may be."""
    tunnels = [stack.enter_context(proxy.connect()) for _ in range(MOST)]
    assert [connect(client, at(crowd)).status for client in tunnels] == [200] * MOST
    return tunnels


def one_more(proxy: Daemon, crowd: Crowd) -> socket.socket:
    """A tunnel, as soon as there is a place for it."""
    for _ in ticks():
        client = proxy.connect()
        if connect(client, at(crowd)).status == 200:
            return client
        client.close()
    raise AssertionError("no place is free")


# Everybody together


def test_what_is_too_much_for_everybody_is_503(scene: Scene, crowd: Crowd) -> None:
    """It is no fault of whoever asks, who is within his own limits."""
    proxy = limited(scene, crowd, f"tunnels = {MOST}", everybody=f"tunnels = {MOST + 1}")
    with ExitStack() as stack:
        tunnels = filled(proxy, crowd, stack)
        assert connect(stack.enter_context(proxy.connect(SECOND)), at(crowd)).status == 200
        until(lambda: crowd.now == MOST + 1, "they do not arrive")
        for source, expected in ((SECOND, (503, "overloaded")), ("127.0.0.1", (429, "concurrency_limit"))):
            with proxy.connect(source) as another:
                said = connect(another, at(crowd))
                assert (said.status, said.reason) == expected
                assert said.fields["retry-after"] == "1"
        tunnels[0].close()
        for _ in ticks():
            with proxy.connect(SECOND) as another:
                if connect(another, at(crowd)).status == 200:
                    break
        else:
            pytest.fail("no place is free")
    assert crowd.most == MOST + 1


def test_a_rate_that_is_too_much_for_everybody_is_503_for_each(scene: Scene, crowd: Crowd) -> None:
    proxy = limited(scene, crowd, everybody="requests_per_second = 1\nburst = 4")
    with proxy.connect() as first, proxy.connect(SECOND) as second:
        began = time.monotonic()
        said = [get(client, f"{scene.url}/") for _ in range(15) for client in (first, second)]
        went_by = time.monotonic() - began
    served = [each for each in said if each.status == 200]
    assert 4 <= len(served) <= 4 + went_by + 1
    over = {(each.status, each.reason, each.fields["retry-after"]) for each in said if each.status != 200}
    assert over == {(503, "overloaded", "1")}


def test_connections_are_counted_over_both_workers(scene: Scene) -> None:
    """And a full house has no door at the other worker."""
    proxy = scene.start("[limits]\nconnections = 2\n", workers=2)
    proxy.wait_for_start(2)
    with ExitStack() as stack:
        inside = [stack.enter_context(proxy.connect()) for _ in range(2)]
        assert {connect(client, scene.target).status for client in inside} == {200}
        for _ in range(10):
            with proxy.connect() as another:
                said = answer(another)
                assert (said.status, said.reason) == (503, "connection_limit")
        inside[0].close()
        for _ in ticks():
            with proxy.connect() as another:
                another.sendall(f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                if answer(another).status == 200:
                    break
        else:
            pytest.fail("no place is free")
