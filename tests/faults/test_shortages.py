"""What the kernel has no more of, and whom that takes from: each is told so, what stands goes on, and it passes (R12).

ATTACKS 8. Where a fault takes from everybody there is no ordeal: what they are told instead is stated.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net.listening import bind
from proxyd.policy.address import Endpoint, parse_address
from tests import namespace
from tests.end_to_end.asking import answer, connect, get
from tests.end_to_end.daemon import ticks
from tests.end_to_end.starting import handing_over
from tests.faults.bystander import Bystander
from tests.faults.difficult import UPGRADE
from tests.faults.faulty import ALWAYS, Faults
from tests.faults.ordeal import at_rest, books, recovered, walls, warm_up
from tests.faults.routes import KINDS, few_ports, refusing
from tests.faults.victims import Victims, a_scene, another_origin, echoed, lowered

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene

SHORT: Final = (503, "out_of_resources")
SERVED: Final = (200, "OK")
MUCH: Final = os.urandom(1 << 21)
PORTS: Final = 40
NONE_NEW: Final = 3
"""A limit of open files by which those that are open stay, and none is opened."""


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """Nothing fails yet."""
    return Faults(tmp_path)


@pytest.fixture
def victims(scene: Scene, faults: Faults) -> Iterator[Victims]:
    """Whoever there is, of a daemon of their own."""
    with another_origin() as origin:
        proxy = scene.start(env=faults.env)
        warm_up(scene, proxy)
        yield Victims(proxy, f"{namespace.OTHER_4}:{origin.port}")


def asked(client: socket.socket, url: str) -> tuple[int, str]:
    """What a client is told: the status and the reason."""
    told = get(client, url)
    return told.status, told.reason


# Files


def test_r12_a_worker_without_files_serves_what_stands_refuses_the_rest_and_recovers(
    scene: Scene, victims: Victims
) -> None:
    """Newcomers wait in the kernel, a reload is refused and the old policy stays, and no record is missing.

    A name that is not known yet is "out_of_resources" too, and nothing of that is remembered.
    """
    proxy = victims.proxy
    before = at_rest(proxy)
    (worker,) = proxy.workers()
    unknown = f"http://both.test:{scene.origin.port}/"
    with victims.tunnel() as tunnel, victims.connect() as kept:
        assert asked(kept, victims.url) == SERVED
        with lowered(worker, resource.RLIMIT_NOFILE, NONE_NEW):
            with_them = victims.connect()
            with_them.sendall(f"GET {victims.url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert {asked(kept, victims.url) for _ in range(500)} == {SHORT}
            assert asked(kept, "http://10.0.0.5/") == (403, "address_denied")
            assert asked(kept, unknown) == SHORT
            assert echoed(tunnel, MUCH)
            assert proxy.reload()["problems"] == [
                "a worker cannot use it: not all files arrived; it has as many open as it may"
            ]
        with with_them:
            assert answer(with_them).status == 200
        assert asked(kept, victims.url) == SERVED
        assert asked(kept, unknown) == SERVED
        assert proxy.reload()["outcome"] == "done"
    assert "a connection could not be accepted: Too many open files" in proxy.complaints()
    assert proxy.workers() == [worker]
    assert victims.ended()[SHORT] == 501
    recovered(proxy, before)


def test_r12_a_supervisor_without_files_refuses_reloads_and_replaces_the_dead_when_it_can(victims: Victims) -> None:
    """It says so, tries again less and less often, and clients wait."""
    proxy = victims.proxy
    with lowered(proxy.pid, resource.RLIMIT_NOFILE, NONE_NEW):
        assert proxy.reload()["outcome"] == "refused"
        os.kill(proxy.workers()[0], signal.SIGKILL)
        tried = r"could not be started: Too many open files; another is started in 0\.[48] s"
        next(None for _ in ticks() if len(re.findall(tried, proxy.complaints())) == 2)
        assert proxy.workers() == []
        late = victims.connect()
        late.sendall(f"GET {victims.url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    with late:
        assert answer(late).status == 200
    assert victims.get() == SERVED
    assert proxy.reload()["outcome"] == "done"


def test_r12_where_no_socket_is_to_be_had_everybody_is_told_so_and_what_stands_goes_on(
    victims: Victims, faults: Faults
) -> None:
    """503 for what is allowed, 403 for what is not, on record as ever; over when it is over."""
    proxy = victims.proxy
    before = at_rest(proxy)
    (worker,) = proxy.workers()
    faults.only_in(worker)
    with victims.tunnel() as tunnel, victims.connect() as kept:
        for error in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            with faults.failing("socket", error):
                assert {victims.get() for _ in range(50)} == {SHORT}
                assert {victims.ask_for_tunnel() for _ in range(50)} == {SHORT}
                assert asked(kept, "http://10.0.0.5/") == (403, "address_denied")
                assert echoed(tunnel, b"an echo")
            assert victims.get() == SERVED
    assert victims.ended() == {SHORT: 400, (403, "address_denied"): 4, (200, "complete"): 4, (200, "closed"): 1}
    assert proxy.workers() == [worker]
    recovered(proxy, before)


# Pipes


@pytest.mark.parametrize(
    ("call", "errors", "times"),
    [
        ("pipe2", (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM), (ALWAYS,)),
        ("splice from a socket", (errno.EINVAL, errno.ENOMEM, errno.EAGAIN), (ALWAYS, 10, 1)),
    ],
)
def test_attack_8_where_no_stream_can_be_spliced_tunnels_that_stand_copy(
    victims: Victims, faults: Faults, call: str, errors: tuple[int, ...], times: tuple[int, ...]
) -> None:
    """Not an octet is lost: neither when it begins, nor when it ends in the middle of a stream."""
    with victims.tunnel() as tunnel:
        for error in errors:
            for each in times:
                with faults.failing(call, error, each):
                    assert echoed(tunnel, MUCH)
                    assert faults.tried(call).failed > 0
        assert echoed(tunnel, MUCH)
    assert victims.ended() == {(200, "closed"): 1}


def test_attack_8_octets_that_cannot_be_spliced_on_end_their_tunnel_and_no_other(
    victims: Victims, faults: Faults
) -> None:
    """They are in a pipe already. TCP itself says no such thing: it has no room for now, or it is reset."""
    with victims.tunnel() as another, victims.tunnel() as tunnel:
        with faults.failing("splice to a socket", errno.EINVAL, 1), pytest.raises((OSError, AssertionError)):
            assert echoed(tunnel, MUCH)
        assert echoed(another, MUCH)
    assert victims.ended() == {(200, "reset"): 1, (200, "closed"): 1}


# Ways and ports


def test_r12_where_no_way_leads_that_is_told_and_nobody_else_notices(scene: Scene, victims: Victims) -> None:
    """A firewall's or a router's refusal, and a network that is not there, are no more than "connect_unreachable"."""
    nowhere = "9.9.9.9"
    proxy = victims.proxy
    with walls() as wall, Bystander(scene, proxy, f"http://127.0.0.1:{wall.port}/") as bystander:
        for kind in (*KINDS, None):
            with ExitStack() as stack:
                if kind is not None:
                    stack.enter_context(refusing(nowhere, kind))
                client = stack.enter_context(victims.connect())
                for _ in range(20):
                    assert asked(client, f"http://{nowhere}/") == (502, "connect_unreachable"), kind
                assert connect(client, f"{nowhere}:443").reason == "connect_unreachable"
                bystander.go_on()
    books(proxy, bystander)
    assert victims.ended() == {(502, "connect_unreachable"): 84}


@pytest.fixture
def far(tmp_path: Path) -> Iterator[tuple[Scene, Victims]]:
    """A daemon in a network with few ports for connections, while its clients are in ours; and victims of it."""
    with ExitStack() as stack:
        stack.enter_context(another_origin()).close()  # gives up where there are no networks of our own
        (listening,) = map(stack.enter_context, bind(Endpoint(parse_address("127.0.0.1"), 0)))
        with namespace.everywhere():
            few_ports(PORTS)
            scene = stack.enter_context(a_scene(tmp_path))
            origin = stack.enter_context(another_origin())
            with handing_over({"": listening}):
                proxy = scene.start('[listen]\nhttp = ["systemd"]\n')
        warm_up(scene, proxy)
        yield scene, Victims(proxy, f"{namespace.OTHER_4}:{origin.port}")


def test_r12_out_of_ports_is_told_as_that_of_one_destination_only_and_passes(far: tuple[Scene, Victims]) -> None:
    """Truly: tunnels hold each port that the kernel has for a destination. To others there are ports still."""
    scene, victims = far
    with (
        walls() as wall,
        Bystander(scene, victims.proxy, f"http://127.0.0.1:{wall.port}/") as bystander,
        ExitStack() as stack,
    ):
        tunnels = list(_all_tunnels(victims, stack))
        assert PORTS // 2 <= len(tunnels) <= PORTS
        for _ in range(100):
            assert (victims.get(), victims.ask_for_tunnel()) == (SHORT, SHORT)
        bystander.go_on()
        assert all(echoed(tunnel, b"an echo") for tunnel in tunnels)
        tunnels.pop().close()
        next(None for _ in ticks() if victims.get() == SERVED)
    books(victims.proxy, bystander)
    assert victims.ended()[200, "closed"] == len(tunnels) + 1
    assert "another is started" not in victims.proxy.complaints()


def _all_tunnels(victims: Victims, stack: ExitStack) -> Iterator[socket.socket]:
    """As many as there are ports for. Nothing else is asked meanwhile: its port might be free again a moment later."""
    while True:
        client = stack.enter_context(victims.connect())
        told = connect(client, victims.target)
        if told.status != 200:
            assert (told.status, told.reason) == SHORT
            return
        assert get(client, "/", *UPGRADE).status == 101
        yield client


# Memory


def test_r12_a_worker_without_memory_allows_nothing_that_is_not_on_record(victims: Victims) -> None:
    """It refuses ("internal_error"), lets go, or ends and is replaced: then whoever asks is served."""
    proxy = victims.proxy
    (worker,) = proxy.workers()
    size = re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    assert size is not None
    with ExitStack() as stack:
        with lowered(worker, resource.RLIMIT_AS, int(size[1]) << 10):
            clients = [stack.enter_context(victims.connect()) for _ in range(200)]
            for client in clients:
                with suppress(ConnectionError):
                    client.sendall(f"GET {victims.url}{'x' * 20_000} HTTP/1.1\r\nHost: x\r\n".encode())
            for client in clients:
                with suppress(ConnectionError):
                    client.sendall(b"\r\n")
            told = Counter(map(_told, clients))
        assert told.keys() <= {0, 200, 500}
        assert told[0] + told[500] > 0, "it had enough"
    assert victims.get() == SERVED
    ended = victims.ended()
    assert ended[200, "complete"] >= told[200] + 1
    assert ended[500, "internal_error"] >= told[500]
    assert len(proxy.workers()) == 1


def _told(client: socket.socket) -> int:
    """The status that is told, or 0 for nothing."""
    with suppress(ConnectionError, AssertionError):
        return answer(client).status
    return 0
