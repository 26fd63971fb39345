"""A process confined to a network of its own, in which there is loopback and nothing else, with the kernel's own means.

A user and a network namespace (user_namespaces(7), network_namespaces(7)), and a filter of system calls (seccomp(2))
for what namespaces leave open. What is confined stays so, and so does all that it starts. No root is needed for it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# linux/sched.h, linux/prctl.h, linux/seccomp.h
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_LAST_CAPABILITY: Final = 63

# net/if.h
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_IFREQ: Final = struct.Struct("16sH22x")

# linux/filter.h, linux/seccomp.h: where a filter finds the number of the call, the machine and the arguments
_LOAD, _MASK, _EQUAL, _AT_LEAST, _ANSWER = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER_AT, _MACHINE_AT, _FIRST_AT, _SECOND_AT = 0, 4, 16, 24
_LET: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000  # with the error in the lower bits
_INSTRUCTION: Final = struct.Struct("=HBBI")

# machine -> AUDIT_ARCH_…, and the numbers of socket(2), socketpair(2), ioctl(2), request_key(2) (asm/unistd.h)
_MACHINES: Final = {
    "x86_64": (0xC000003E, 41, 53, 16, 249),
    "aarch64": (0xC00000B7, 198, 199, 29, 218),
    "riscv64": (0xC00000F3, 198, 199, 29, 218),
}
_IO_URING_SETUP: Final = 425  # the same everywhere; what goes through its rings, no filter sees
_X32: Final = 0x40000000  # numbers from here on are another way to make the same calls, on x86_64
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_PAIRS: Final = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)  # a datagram socket of a pair can send to any path
_TYPE_OF_SOCKET: Final = 0xF  # the rest are flags (linux/net.h, SOCK_TYPE_MASK)
_TYPES_INTO_A_TERMINAL: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: as if a person had typed it


class CannotConfine(OSError):  # noqa: N818 - what is said
    """The system does not let this process confine itself. It may be half confined, and must start nothing."""


def leave_the_network() -> None:
    """Move this process into a network that has loopback and nothing else. Raises CannotConfine.

    Sockets that are open already stay where they are.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        Path("/proc/self/setgroups").write_bytes(b"deny")
        Path("/proc/self/uid_map").write_bytes(b"%d %d 1" % (uid, uid))
        Path("/proc/self/gid_map").write_bytes(b"%d %d 1" % (gid, gid))
        _raise_loopback()
    except OSError as error:
        raise CannotConfine(error.errno, error.strerror) from None


def stay_confined() -> None:
    """Give up every right to undo it, for this process and all that it starts. Raises CannotConfine.

    A socket can no longer be one of this host's own (AF_UNIX, by which a service outside could be asked to connect, or
    to look a name up), nor raw, nor a machine's to its host (AF_VSOCK). socketpair(2) is for streams alone. The kernel
    is not asked for keys: it would have a program outside look them up, in the DNS too.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise CannotConfine(0, f"no filter for the machine {platform.machine()} is known here")
    try:
        for capability in range(_LAST_CAPABILITY + 1):
            _drop(capability)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        octets = b"".join(_filter(*machine))
        program = _Program(len(octets) // _INSTRUCTION.size, octets)
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))
    except OSError as error:
        raise CannotConfine(error.errno, error.strerror) from None


def leads_out(number: int) -> bool:
    """Whether an open file is a socket by which a confined process could reach somebody new.

    A stream of this host's (unix(7)) has one other end for ever. Any other can be connected anew, or be sent from.
    """
    if not stat.S_ISSOCK(os.fstat(number).st_mode):
        return False
    with socket.socket(fileno=os.dup(number)) as sock:
        if sock.family != socket.AF_UNIX or sock.type not in _PAIRS:
            return True
        try:
            sock.getpeername()
        except OSError:
            return True
    return False


def _filter(machine: int, socket_call: int, pair_call: int, ioctl_call: int, key_call: int) -> Iterator[bytes]:
    """The program, instruction by instruction; each jump says how many to pass over, if so and if not."""
    no_such_call = _step(_ANSWER, _REFUSE | errno.ENOSYS)
    yield _step(_LOAD, _MACHINE_AT)
    yield _step(_EQUAL, machine, 1, 0)
    yield no_such_call  # as another machine would make it
    yield _step(_LOAD, _NUMBER_AT)
    yield _step(_AT_LEAST, _X32, 0, 1)
    yield no_such_call
    for number in (_IO_URING_SETUP, key_call):
        yield from _when(number, no_such_call)
    refuse = _REFUSE | errno.EAFNOSUPPORT
    yield from _when(socket_call, _step(_LOAD, _FIRST_AT), *_among(_FAMILIES, _LET, refuse))
    kind = (_step(_LOAD, _SECOND_AT), _step(_MASK, _TYPE_OF_SOCKET))
    yield from _when(pair_call, *kind, *_among(_PAIRS, _LET, refuse))
    refuse = _REFUSE | errno.EPERM
    yield from _when(ioctl_call, _step(_LOAD, _SECOND_AT), *_among(_TYPES_INTO_A_TERMINAL, refuse, _LET))
    yield _step(_ANSWER, _LET)


def _when(number: int, *steps: bytes) -> Iterator[bytes]:
    """What to do about one call: the last of the steps is an answer."""
    yield _step(_EQUAL, number, 0, len(steps))
    yield from steps


def _among(values: Sequence[int], if_so: int, if_not: int) -> Iterator[bytes]:
    """An answer, by whether what was loaded is one of these."""
    for left, value in zip(range(len(values), 0, -1), values, strict=True):
        yield _step(_EQUAL, value, left, 0)
    yield _step(_ANSWER, if_not)
    yield _step(_ANSWER, if_so)


def _step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_so, if_not, value)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_libc: Final = ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _prctl(option: int, first: int, second: int = 0) -> None:
    arguments = (ctypes.c_ulong(each) for each in (first, second, 0, 0))
    if _libc.prctl(option, *arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _drop(capability: int) -> None:
    """A program started as root has no more rights than any other. Numbers that the kernel does not know are none."""
    arguments = (ctypes.c_ulong(each) for each in (capability, 0, 0, 0))
    _libc.prctl(_PR_CAPBSET_DROP, *arguments)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = _IFREQ.pack(b"lo", 0)
        _, flags = _IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFFLAGS, asked))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))
