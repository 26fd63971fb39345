"""Listening sockets: bound where the policy says and nowhere else, one for each worker, and refused to a second proxyd.

Nothing here accepts a connection.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from netaddr import IPAddress

from proxyd.net.host import tune
from proxyd.policy.address import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKLOG: Final = 4096  # the kernel takes net.core.somaxconn if that is less


def bind(endpoint: Endpoint, count: int = 1) -> tuple[socket.socket, ...]:
    """`count` listening sockets at `endpoint`. Raises OSError, also where someone listens already.

    With several, the kernel deals connections out by a hash (socket(7), SO_REUSEPORT). From one that all workers
    share, whoever wakes first takes a whole burst: 65 tunnels of 65, and one core rests.
    """
    with ExitStack() as stack:
        sockets = tuple(map(stack.enter_context, _listening(endpoint, count)))
        stack.pop_all()
    return sockets


def bound_to(sock: socket.socket) -> Endpoint:
    """Where a listening socket listens."""
    host, port, *_ = sock.getsockname()
    return Endpoint(IPAddress(host), port)


def _listening(endpoint: Endpoint, count: int) -> Iterator[socket.socket]:
    """The first shares its port with nobody while it is bound; others of this account may join it afterwards."""
    first = _unbound(endpoint)
    _listen(first, endpoint)
    yield first
    if count > 1:
        _share_port(first)
    for _ in range(count - 1):
        another = _unbound(endpoint)
        _share_port(another)
        _listen(another, bound_to(first))
        yield another


def _unbound(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if endpoint.address.version == 6 else socket.AF_INET  # noqa: PLR2004 - IP versions
    return socket.socket(family, socket.SOCK_STREAM)


def _share_port(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _listen(sock: socket.socket, endpoint: Endpoint) -> None:
    """Listen, or close the socket. Raises OSError."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        tune(sock)
        sock.bind((str(endpoint.address), endpoint.port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
