"""A network of the tests' own: public, private and metadata addresses that exist on this loopback and nowhere else.

`enter()` moves this process, and the daemons and clients it starts, into a new network namespace where the system
allows one. Where not, tests stay on plain loopback, and the origins' addresses there are reached through permits.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

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
_FORCED = os.environ.get("PROXYD_TESTS_ON_PLAIN_LOOPBACK") == "1"

isolated = False


def enter() -> None:
    """Move into a namespace with all of these addresses, if that can be had."""
    global isolated  # noqa: PLW0603 - a process is in one network
    if not _FORCED and _unshare():
        _ip("link", "set", "lo", "up")
        for address in (ORIGIN_4, ORIGIN_6, OTHER_4, *PROTECTED):
            _ip("address", "add", f"{address}/{128 if ':' in address else 32}", "dev", "lo", *_nodad(address))
        isolated = True


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
        return libc.unshare(_CLONE_NEWNET) == 0
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    return True


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: S603, S607 - iproute2, our own words


def _nodad(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()
