"""Sockets that listen where they should, and nowhere else; one for each worker, and every one of them gets clients."""

from __future__ import annotations

import errno
import gc
import socket
from contextlib import ExitStack, suppress

import pytest
from netaddr import IPAddress

from proxyd.net.listening import BACKLOG, bind, bound_to
from proxyd.policy.address import Endpoint

LOOPBACK = Endpoint(IPAddress("127.0.0.1"), 0)


def endpoint_of(listener: socket.socket) -> Endpoint:
    """Where it listens, which is at an address."""
    where = bound_to(listener)
    assert where is not None
    return where


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_a_listener_is_at_its_endpoint_and_nowhere_else(address: str) -> None:
    """R1."""
    (listener,) = bind(Endpoint(IPAddress(address), 0))
    with listener:
        where = endpoint_of(listener)
        assert str(where.address) == address
        assert where.port > 0
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as client:
            client.connect((address, where.port))
        with socket.socket(socket.AF_INET) as stranger, pytest.raises(ConnectionRefusedError):
            stranger.connect(("127.0.0.9", where.port))


def test_an_ipv6_listener_takes_no_ipv4() -> None:
    """R1: `[::]:3128` would otherwise be a wildcard of both families; a peer is never a mapped address."""
    (listener,) = bind(Endpoint(IPAddress("::"), 0))
    with listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        with socket.socket(socket.AF_INET) as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", endpoint_of(listener).port))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("again", [1, 3])
def test_a_port_that_somebody_listens_on_is_an_error_and_leaves_no_socket_behind(count: int, again: int) -> None:
    """DESIGN, "Processes": also a second proxyd; and also one with several workers, beside another with several."""
    with ExitStack() as stack:
        listeners = tuple(map(stack.enter_context, bind(LOOPBACK, count)))
        with pytest.raises(OSError, match="in use") as error:
            bind(endpoint_of(listeners[0]), again)
        assert error.value.errno == errno.EADDRINUSE
        del error
        gc.collect()  # a socket left open would warn here, and a warning is an error


def test_of_several_listeners_that_cannot_all_be_had_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may run out in the middle."""
    made: list[socket.socket] = []
    real = socket.socket

    def scarce(*family: int) -> socket.socket:
        if len(made) == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(real(*family))
        return made[-1]

    monkeypatch.setattr("proxyd.net.listening.socket.socket", scarce)
    with pytest.raises(OSError, match="Too many open files"):
        bind(LOOPBACK, 3)
    assert [sock.fileno() for sock in made] == [-1, -1]


def test_every_worker_has_a_socket_of_its_own_and_gets_clients() -> None:
    """Issue 4: from a shared socket, one worker may take them all. Of 300 one of three gets none once in 10^52 runs."""
    with ExitStack() as stack:
        listeners = tuple(map(stack.enter_context, bind(LOOPBACK, 3)))
        assert len({sock.fileno() for sock in listeners}) == 3
        assert len({endpoint_of(sock) for sock in listeners}) == 1
        for _ in range(300):
            stack.enter_context(socket.create_connection(listeners[0].getsockname()))
        taken = [_accepted(sock, stack) for sock in listeners]
    assert sum(taken) == 300
    assert all(taken)


def _accepted(listener: socket.socket, stack: ExitStack) -> int:
    listener.settimeout(0)
    taken = 0
    with suppress(BlockingIOError):
        while True:
            stack.enter_context(listener.accept()[0])
            taken += 1
    return taken


def test_a_port_whose_last_connections_linger_can_be_bound_again() -> None:
    """A restart must not wait for TIME_WAIT."""
    (listener,) = bind(LOOPBACK)
    with listener:
        where = endpoint_of(listener)
        client = socket.create_connection((str(where.address), where.port))
        accepted, _ = listener.accept()
        accepted.close()  # first to close: the server's side is the one that lingers
        client.close()
    (again,) = bind(where)
    with again:
        assert endpoint_of(again) == where


def test_a_listener_has_room_for_a_burst() -> None:
    """claude-code#18583: connections that come at once are not turned away by the kernel."""
    (listener,) = bind(LOOPBACK)
    with listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(200)]
        for client in clients:
            client.close()
    assert BACKLOG >= 200
