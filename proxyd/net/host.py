"""Facts of this machine that a proxy needs: its own addresses, its resolvers, its limit of open files.

Nothing here judges by them.
"""

from __future__ import annotations

import errno
import resource
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from netaddr import IPNetwork

from proxyd.policy.address import BadTarget, Endpoint, parse_address, parse_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netaddr import IPAddress

# A dead peer is found after KEEPALIVE_IDLE + KEEPALIVE_COUNT * KEEPALIVE_INTERVAL seconds of silence: two minutes.
KEEPALIVE_IDLE: Final = 60
KEEPALIVE_INTERVAL: Final = 15
KEEPALIVE_COUNT: Final = 4
_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, option), value)
        for option, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
            ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        )
        if hasattr(socket, option)  # not everywhere by this name
    ),
)
SPARE_FILES: Final = 640
"""Open files of a worker that are no tunnel's: pipes, lookups, listeners, the log, and clients that are turned away."""

SHORTAGES: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.ENOSPC)
)
"""What this host has no more of: files, memory, ports, and files to watch (epoll_ctl(2), ENOSPC)."""

_DNS_PORT: Final = 53
RESOLV_CONF: Final = Path("/etc/resolv.conf")
_PROC_NET: Final = Path("/proc/self/net")  # /proc/net is not there where /proc shows processes only (ProcSubset=pid)
_RTF_LOCAL: Final = 0x8000_0000  # linux/ipv6_route.h


class _SetsOptions(Protocol):
    """A socket of the standard library or of trio."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def tune(sock: _SetsOptions) -> None:
    """Let the kernel send what it is given at once, and find a peer that vanished: a tunnel may be silent for an hour.

    Set on a listening socket, it holds for all that are accepted from it (tcp(7)).
    """
    for level, option, value in _OPTIONS:
        sock.setsockopt(level, option, value)


def own_addresses(proc_net: Path = _PROC_NET) -> frozenset[IPNetwork]:
    """Every address of this host, and every network that a local route makes its own, as Linux tells it.

    Raises OSError: not to know is not to have none (R12). Elsewhere than on Linux there is nothing to read, and only
    loopback is known to be ours.
    """
    if sys.platform != "linux":
        return frozenset()
    return frozenset((*_own_ipv4(proc_net / "fib_trie"), *_own_ipv6(proc_net)))


def system_servers(resolv_conf: Path = RESOLV_CONF) -> tuple[Endpoint, ...]:
    """The resolvers of this host (resolv.conf(5)); empty if it names none that can be asked.

    An address with a zone names one of our links and is passed over; search lists are not for us.
    """
    try:
        lines = resolv_conf.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    named = (words[1] for line in lines if (words := line.split())[:1] == ["nameserver"] and words[1:])
    return tuple(Endpoint(address, _DNS_PORT) for each in named if (address := _address(each)) is not None)


def read_hosts(text: str) -> dict[str, tuple[IPAddress, ...]]:
    """Every name of a hosts file (hosts(5)), and all its addresses; lines that are not understood are passed over."""
    found: dict[str, tuple[IPAddress, ...]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        address = _address(words[0]) if words else None
        for name in words[1:] if address is not None else ():
            host = _host(name)
            if host is not None and address is not None and address not in found.get(host, ()):
                found[host] = (*found.get(host, ()), address)
    return found


def _host(name: str) -> str | None:
    try:
        host, address = parse_host(name)
    except BadTarget:
        return None
    return host if address is None else None


def tunnels_within(files: int) -> int:
    """How many tunnels one worker can hold that may have so many open files: two each, and some for everything else."""
    return max(1, (files - SPARE_FILES) // 2)


def file_limit() -> int:
    """How many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_file_limit() -> int:
    """Use all the open files the system grants, and say how many; a tunnel takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _own_ipv4(fib_trie: Path) -> Iterator[IPNetwork]:
    """The leaves of the routing trie that are marked `/32 host LOCAL`; wider ones are "AnyIP" (ip-route(8), local)."""
    leaf = ""
    for line in fib_trie.read_text("ascii", errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            leaf = words[1]
        elif words[1:] == ["host", "LOCAL"] and leaf:
            yield IPNetwork(f"{leaf}{words[0]}")


def _own_ipv6(proc_net: Path) -> Iterator[IPNetwork]:
    """The interfaces' addresses, and the local routes."""
    if not (proc_net / "if_inet6").exists() and proc_net.exists():
        return  # a kernel without IPv6 has no such file
    for words in _lines(proc_net / "if_inet6"):
        yield IPNetwork((int(words[0], 16), 128), version=6)
    for words in _lines(proc_net / "ipv6_route"):
        if int(words[8], 16) & _RTF_LOCAL:
            yield IPNetwork((int(words[0], 16), int(words[1], 16)), version=6)


def _lines(path: Path) -> Iterator[list[str]]:
    """The lines of a table, in words."""
    return filter(None, map(str.split, path.read_text("ascii", errors="replace").splitlines()))


def _address(text: str) -> IPAddress | None:
    try:
        return parse_address(text)
    except BadTarget:
        return None
