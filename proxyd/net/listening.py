"""Listening sockets: bound where the policy says and nowhere else, one for each worker, and refused to a second proxyd.

Or made by the service manager, and taken over. Nothing here accepts a connection.
"""

from __future__ import annotations

import grp
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from netaddr import IPAddress

from proxyd.net.host import tune
from proxyd.policy.address import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIRST_INHERITED: Final = 3  # SD_LISTEN_FDS_START
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


def bind_unix(path: str, mode: int, group: str = "") -> socket.socket:
    """A listening Unix socket, for its owner and whomever `mode` and `group` let in.

    Raises OSError, also where somebody listens there already; KeyError if there is no such group.
    """
    owner = grp.getgrnam(group).gr_gid if group else -1
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # nobody but us, until it is somebody's in particular
    try:
        sock.bind(path)
        if group:
            os.chown(path, -1, owner)  # a call that a sandbox may forbid (systemd.exec(5), @privileged)
        Path(path).chmod(mode)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def inherited() -> list[tuple[str, socket.socket]]:
    """The listening sockets that the service manager has handed to this process, with their names (sd_listen_fds(3)).

    They are ours from now on: what says that they are there is removed from the environment. Others that were handed
    over, such as datagram sockets, are left alone.
    """
    count, owner, names = (os.environ.pop(f"LISTEN_{each}", "") for each in ("FDS", "PID", "FDNAMES"))
    if owner != str(os.getpid()) or not count.isdigit():
        return []
    named = names.split(":") if names else []
    found = []
    for index, number in enumerate(range(_FIRST_INHERITED, _FIRST_INHERITED + int(count))):
        with suppress(OSError):
            sock = socket.socket(fileno=number)
            sock.set_inheritable(False)
            if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                if sock.family != socket.AF_UNIX:
                    tune(sock)
                found.append((named[index] if index < len(named) else "", sock))
            else:
                sock.detach()
    return found


def bound_to(sock: socket.socket) -> Endpoint | None:
    """Where a listening socket listens; None for a Unix socket."""
    if sock.family == socket.AF_UNIX:
        return None
    host, port, *_ = sock.getsockname()
    return Endpoint(IPAddress(host), port)


def _clear(path: str) -> None:
    """Remove a socket that nobody listens on any more: a proxyd that was killed leaves its own."""
    if not Path(path).is_socket():
        return  # nothing there; or something else, which is not ours to remove, and bind(2) says so
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003 - or it would wait for one who listens and does not accept
        with suppress(BlockingIOError):
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()


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
        _listen(another, Endpoint(endpoint.address, first.getsockname()[1]))
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
