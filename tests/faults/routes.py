"""Routes of this network namespace, by which the kernel refuses to go somewhere (ip-route(8)), and its local ports."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: Final = {"blackhole": 6, "unreachable": 7, "prohibit": 8}
"""How it refuses: RTN_… of rtnetlink(7)."""

_RTM_NEWROUTE, _RTM_DELROUTE, _RTA_DST, _RT_TABLE_MAIN, _RTPROT_STATIC = 24, 25, 1, 254, 4
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x200, 0x400
_IPV4: Final = Path("/proc/sys/net/ipv4")


@contextmanager
def refusing(address: str, kind: str) -> Iterator[None]:
    """No way to an IPv4 address meanwhile, which none of our own networks holds."""
    header = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, 0, KINDS[kind], 0)
    route = header + struct.pack("=HH", 8, _RTA_DST) + socket.inet_aton(address)
    _ask(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_EXCL, route)
    try:
        yield
    finally:
        _ask(_RTM_DELROUTE, 0, route)


def few_ports(count: int) -> None:
    """So many are there for the connections of this thread's network, and none is kept for one that has ended."""
    (_IPV4 / "ip_local_port_range").write_text(f"50000 {50000 + count - 1}")
    (_IPV4 / "tcp_max_tw_buckets").write_text("0")


def _ask(kind: int, flags: int, message: bytes) -> None:
    """One request to the kernel, and its answer: an nlmsgerr that says 0 (netlink(7)). Raises OSError."""
    header = struct.pack("=IHHII", 16 + len(message), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(header + message)
        (error,) = struct.unpack_from("=i", kernel.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error))
