"""Confinement: each step with the kernel played, the filter on a machine of the test's own, and once for real.

What a confined command can and cannot do is attacked in `tests/end_to_end/test_exec.py` (ATTACKS 6.5).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net import confinement
from proxyd.net.confinement import CannotConfine, leads_out, leave_the_network, stay_confined
from tests.serve.stage import open_files
from tests.tools import give_up

if TYPE_CHECKING:
    from collections.abc import Iterator

LET: Final = "let"
X86, ARM, RISCV = "x86_64", "aarch64", "riscv64"
AUDIT: Final = {X86: 0xC000003E, ARM: 0xC00000B7, RISCV: 0xC00000F3, "i386": 0x40000003, "arm": 0x40000028}
NUMBERS: Final = {  # asm/unistd.h
    X86: {"socket": 41, "socketpair": 53, "ioctl": 16, "request_key": 249, "connect": 42, "add_key": 248},
    ARM: {"socket": 198, "socketpair": 199, "ioctl": 29, "request_key": 218, "connect": 203, "add_key": 217},
}
NUMBERS[RISCV] = NUMBERS[ARM]
AF_PACKET, AF_ALG, AF_KEY, AF_XDP, AF_VSOCK, AF_SMC = 17, 38, 15, 44, 40, 43
FLAGS: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_UNSHARED: Final = 0x50000000  # CLONE_NEWUSER | CLONE_NEWNET


@dataclass
class Kernel:
    """What is asked of the kernel, and which of it fails. programs: the filters it was given."""

    fails: tuple[object, ...] = ()
    asked: list[tuple[object, ...]] = field(default_factory=list)
    programs: list[bytes] = field(default_factory=list)

    def unshare(self, flags: int) -> int:
        """unshare(2)."""
        return self._answer("unshare", flags)

    def prctl(self, option: int, first: ctypes.c_ulong, *_: ctypes.c_ulong) -> int:
        """prctl(2), also with a filter in our own memory."""
        second = _[0].value
        if option == 22:
            length, at = struct.unpack("=H6xQ", ctypes.string_at(second, 16))
            self.programs.append(ctypes.string_at(at, 8 * length))
            second = 0
        return self._answer("prctl", option, first.value, second)

    def _answer(self, *what: object) -> int:
        self.asked.append(what)
        if what[:2] in self.fails or what[:1] in self.fails:
            ctypes.set_errno(errno.EPERM)
            return -1
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """In the place of the kernel."""
    kernel = Kernel()
    monkeypatch.setattr(confinement, "_libc", kernel)
    return kernel


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """In the place of /proc/self."""
    monkeypatch.setattr(confinement, "Path", lambda name: tmp_path / Path(name).name)
    return tmp_path


# To leave


def test_who_leaves_is_itself_in_a_network_whose_loopback_is_up(
    kernel: Kernel, proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one account that is known there is one's own; setgroups(2) is given up first (user_namespaces(7))."""
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    monkeypatch.setattr(os, "getegid", lambda: 1002)
    asked: list[tuple[int, bytes]] = []

    def ioctl(_: socket.socket, request: int, what: bytes) -> bytes:
        asked.append((request, what))
        return struct.pack("16sH22x", b"lo", 0x48)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    leave_the_network()
    assert kernel.asked == [("unshare", _UNSHARED)]
    assert {each.name: each.read_text() for each in proc.iterdir()} == {
        "setgroups": "deny",
        "uid_map": "1001 1001 1",
        "gid_map": "1002 1002 1",
    }
    assert asked == [(0x8913, struct.pack("16sH22x", b"lo", 0)), (0x8914, struct.pack("16sH22x", b"lo", 0x49))]


def test_r12_a_kernel_that_lets_nobody_leave_is_an_error(kernel: Kernel, proc: Path) -> None:
    kernel.fails = (("unshare",),)
    with pytest.raises(CannotConfine, match="Operation not permitted"):
        leave_the_network()
    assert list(proc.iterdir()) == []


def test_r12_a_kernel_that_lets_nobody_be_anybody_there_is_an_error(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As Ubuntu's AppArmor has it: the namespace is there, and one is nobody in it."""
    monkeypatch.setattr(confinement, "Path", lambda _: tmp_path)
    with pytest.raises(CannotConfine, match="Is a directory"):
        leave_the_network()
    assert kernel.asked == [("unshare", _UNSHARED)]


# To stay


def test_rights_are_given_up_before_the_filter_is_set(kernel: Kernel) -> None:
    stay_confined()
    assert kernel.asked == [*(("prctl", 24, each, 0) for each in range(64)), ("prctl", 38, 1, 0), ("prctl", 22, 2, 0)]


def test_a_capability_that_there_is_not_need_not_be_given_up(kernel: Kernel) -> None:
    kernel.fails = (("prctl", 24),)
    stay_confined()
    assert kernel.asked[-1] == ("prctl", 22, 2, 0)


@pytest.mark.parametrize("what", [("prctl", 38), ("prctl", 22)])
def test_r12_a_right_that_cannot_be_given_up_is_an_error(kernel: Kernel, what: tuple[str, int]) -> None:
    kernel.fails = (what,)
    with pytest.raises(CannotConfine, match="Operation not permitted"):
        stay_confined()
    assert kernel.asked[-1][:2] == what


def test_r12_a_machine_that_no_filter_is_known_for_is_an_error(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(CannotConfine) as error:
        stay_confined()
    assert error.value.strerror == "no filter for the machine vax is known here"
    assert kernel.asked == []


# The filter


def answered(program: bytes, machine: str, number: int, *arguments: int) -> str:
    """What a filter says of a call, by the rules of bpf(4) as seccomp(2) has them."""
    six = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=iIQ6Q", number, AUDIT[machine], 0, *six)
    steps = list(struct.iter_unpack("=HBBI", program))
    at, loaded = 0, 0
    while True:
        code, if_so, if_not, value = steps[at]
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            loaded &= value
        elif code in (0x15, 0x35):
            at += if_so if (loaded == value if code == 0x15 else loaded >= value) else if_not
        else:
            assert code == 0x06, f"there is no such instruction: {code:#x}"
            return LET if value == 0x7FFF0000 else errno.errorcode[value & 0xFFFF] * (value >> 16 == 5)


CALLS: Final = [
    *(("socket", (family, kind), LET) for family in (2, 10, 16) for kind in (1, 2, 3, 1 | FLAGS)),
    *(
        ("socket", (family, 1), "EAFNOSUPPORT")
        for family in (0, 1, AF_PACKET, AF_ALG, AF_KEY, AF_XDP, AF_VSOCK, AF_SMC, 31, 45, 0xFFFFFFFF)
    ),
    ("socket", (1 << 32 | 1, 1), "EAFNOSUPPORT"),  # the kernel takes the lower half: it is AF_UNIX
    *(("socketpair", (1, kind | flags), LET) for kind in (1, 5) for flags in (0, FLAGS, socket.SOCK_CLOEXEC)),
    *(("socketpair", (1, kind | flags), "EAFNOSUPPORT") for kind in (0, 2, 3, 4) for flags in (0, FLAGS)),
    *(("ioctl", (0, request), "EPERM") for request in (0x5412, 0x541C, 1 << 32 | 0x5412)),
    *(("ioctl", (0, request), LET) for request in (0x5401, 0x5413, 0x8913)),
    ("request_key", (), "ENOSYS"),
    ("connect", (3,), LET),
    ("add_key", (), LET),
]


@pytest.mark.parametrize("machine", [X86, ARM, RISCV])
def test_the_filter_lets_through_what_leads_nowhere(
    kernel: Kernel, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    stay_confined()
    [program] = kernel.programs
    for name, arguments, expected in CALLS:
        assert (name, arguments, answered(program, machine, NUMBERS[machine][name], *arguments)) == (
            name,
            arguments,
            expected,
        )
    assert answered(program, machine, 425) == "ENOSYS"  # io_uring_setup
    assert answered(program, machine, 424) == answered(program, machine, 426) == LET
    for number in (0x40000000, 0x40000029, 0x7FFFFFFF, -1):
        assert answered(program, machine, number) == "ENOSYS"
    for other in AUDIT.keys() - {machine}:
        assert answered(program, other, NUMBERS[machine]["connect"]) == "ENOSYS"


# What is open already


@pytest.fixture
def streams() -> Iterator[dict[str, int]]:
    """Open files of many kinds."""
    kinds = {
        "TCP": (socket.AF_INET, socket.SOCK_STREAM),
        "UDP": (socket.AF_INET6, socket.SOCK_DGRAM),
        "netlink": (socket.AF_NETLINK, socket.SOCK_RAW),
        "local": (socket.AF_UNIX, socket.SOCK_STREAM),
    }
    sockets = {name: socket.socket(*kind) for name, kind in kinds.items()}
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        sockets[f"one of a {kind.name} pair"], sockets[f"another of a {kind.name} pair"] = socket.socketpair(
            socket.AF_UNIX, kind
        )
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    yield {**{name: sock.fileno() for name, sock in sockets.items()}, "pipe": read, "other pipe": write, "null": null}
    for sock in sockets.values():
        sock.close()
    for number in (read, write, null):
        os.close(number)


def test_an_open_socket_leads_out_but_for_one_of_a_pair_of_streams(streams: dict[str, int]) -> None:
    """A TCP socket is connected anew by AF_UNSPEC (connect(2)); a local datagram goes to any path."""
    before = open_files()
    assert {name for name, number in streams.items() if leads_out(number)} == {
        "TCP",
        "UDP",
        "netlink",
        "local",
        "one of a SOCK_DGRAM pair",
        "another of a SOCK_DGRAM pair",
    }
    assert open_files() == before


# For real

_CONFINED: Final = """
import errno, os, socket
from proxyd.net.confinement import leave_the_network, stay_confined

outside = socket.create_server(("127.0.0.1", 0)).getsockname()
leave_the_network()
stay_confined()
with socket.create_server(("127.0.0.1", 0)) as here, socket.create_connection(here.getsockname(), 5):
    pass
[name] = [name for _, name in socket.if_nameindex()]
assert name == "lo"
assert socket.socket().connect_ex(outside) == errno.ECONNREFUSED
for kind in ((socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_PACKET, socket.SOCK_RAW)):
    try:
        socket.socket(*kind)
    except OSError as error:
        assert error.errno == errno.EAFNOSUPPORT
    else:
        raise AssertionError(kind)
print("confined", os.geteuid(), os.getegid())
"""


def test_for_real_there_is_loopback_and_nothing_else() -> None:
    if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
        give_up("user namespaces are forbidden here: allow them (user.max_user_namespaces)")
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", _CONFINED], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == (f"confined {os.geteuid()} {os.getegid()}\n", "", 0)
