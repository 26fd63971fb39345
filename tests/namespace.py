"""A network of the tests' own: public, private and metadata addresses that exist on this loopback and nowhere else.

`enter()` moves this process, and the daemons and clients it starts, into a new network namespace where the system
allows one. Where not, tests stay on plain loopback, and the origins' addresses there are reached through permits.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ORIGIN_4, ORIGIN_6 = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"
OTHER_4 = "93.184.216.35"
PROTECTED = (
    *("10.0.0.5", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "198.18.0.1"),
    *("192.0.0.192", "192.88.99.1", "168.63.129.16", "203.0.113.1", "fd00:ec2::254", "fc00::1", "fec0::1", "100::1"),
    *("2001:db8::1", "3fff::1", "5f00::1", "64:ff9b::7f00:1", "64:ff9b:1::a9fe:a9fe", "2002:7f00:1::1"),
    *("2001:0:4136:e378:8000:63bf:5601:5601", "2606:4700::5efe:a9fe:a9fe", "::ffff:0:7f00:1"),
)
"""Addresses that nobody may reach; each is really there, so that a connection would succeed."""

_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE, _IFF_UP, _IFA_F_NODAD, _LOOPBACK = 16, 20, 24, 1, 2, 1
_RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, _RTA_OIF = 255, 4, 254, 2, 4
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x200, 0x400
_FORCED = os.environ.get("PROXYD_TESTS_ON_PLAIN_LOOPBACK") == "1"

isolated = False


def enter() -> None:
    """Move into a namespace with all of these addresses, if that can be had."""
    global isolated  # noqa: PLW0603 - a process is in one network
    if not _FORCED and _unshare():
        with _loopback_up() as kernel:
            for address in (ORIGIN_4, ORIGIN_6, OTHER_4, *PROTECTED):
                _ask(kernel, _RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, _address(address))
        isolated = True


@contextmanager
def everywhere() -> Iterator[None]:
    """For as long as it lasts, another network of this thread's, in which every address there is is this host's.

    No address is assigned but loopback's: a route makes them local ("AnyIP"). What is opened meanwhile stays in that
    network.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "no second network namespace")
        try:
            with _loopback_up() as kernel:
                for family in (socket.AF_INET, socket.AF_INET6):
                    _ask(kernel, _RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_EXCL, _all_local(family))
            yield
        finally:
            libc.setns(before.fileno(), _CLONE_NEWNET)


def origin_4() -> str:
    """An IPv4 address at which a test's origin may listen."""
    return ORIGIN_4 if isolated else "127.0.0.10"


def origin_6() -> str:
    """An IPv6 address at which a test's origin may listen."""
    return ORIGIN_6 if isolated else "::1"


def _unshare() -> bool:
    """A new network namespace; for an ordinary account, inside a user namespace in which it is root."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        return bool(libc.unshare(_CLONE_NEWNET) == 0)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    return True


@contextmanager
def _loopback_up() -> Iterator[socket.socket]:
    """The kernel's ear (netlink(7)) in the network of this thread, with its loopback interface up."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        _ask(kernel, _RTM_NEWLINK, 0, struct.pack("=BxHiII", 0, 0, _LOOPBACK, _IFF_UP, _IFF_UP))
        yield kernel


def _all_local(family: int) -> bytes:
    """An rtmsg of a default route that makes all addresses local, with the interface (rtnetlink(7))."""
    kind = (0, 0, 0, _RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
    return struct.pack("=BBBBBBBBI", family, *kind) + struct.pack("=HHI", 8, _RTA_OIF, _LOOPBACK)


def _address(text: str) -> bytes:
    """An ifaddrmsg with IFA_LOCAL and IFA_ADDRESS, for one host (rtnetlink(7)); no duplicate address detection."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    packed = socket.inet_pton(family, text)
    attributes = b"".join(struct.pack("=HH", 4 + len(packed), kind) + packed for kind in (2, 1))
    return struct.pack("=BBBBI", family, 8 * len(packed), _IFA_F_NODAD, 0, _LOOPBACK) + attributes


def _ask(kernel: socket.socket, kind: int, flags: int, message: bytes) -> None:
    """One request to the kernel, and its answer: an nlmsgerr that says 0 (netlink(7)). Raises OSError."""
    header = struct.pack("=IHHII", 16 + len(message), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 0, 0)
    kernel.send(header + message)
    (error,) = struct.unpack_from("=i", kernel.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error))
