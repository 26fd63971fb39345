"""Ways out of `proxyd exec`, tried one by one by a program that runs inside: `python escapes.py TARGETS-AS-JSON`.

Says what came of each, as JSON: "reached", or the error. Only the standard library is used, and of Python nothing
that is newer than what a host has. Tried without proxyd as well, most of them reach something: that is the control.
"""

import contextlib
import ctypes
import json
import os
import platform
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

PATIENCE = 5
NEWUSER, NEWNET = 0x10000000, 0x40000000
PTRACE_ATTACH, PTRACE_DETACH, IO_URING_SETUP, PIDFD_OPEN, PIDFD_GETFD = 16, 17, 425, 434, 438
REQUEST_KEY = {"x86_64": 249}.get(platform.machine(), 218)
libc = ctypes.CDLL(None, use_errno=True)


def call(*arguments: object) -> int:
    """syscall(2). Raises OSError."""
    result: int = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def connect(family: int, address: object, kind: int = socket.SOCK_STREAM) -> None:
    """Connect a socket; where that alone tells nobody, send something. Raises OSError."""
    with socket.socket(family, kind) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address)  # type: ignore[arg-type] # of whatever family
        if kind == socket.SOCK_DGRAM:
            sock.send(b"escaped")


def ask(address: object) -> None:
    """A question to a nameserver, by UDP, and its answer. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address)  # type: ignore[arg-type] # of its family
        sock.send(struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + b"\4leak\4test\0\0\1\0\1")
        sock.recv(1000)


def resolve(name: str) -> None:
    """Look a name up as programs do. Raises OSError; an answer is none of ours, but a question may be on its way."""
    socket.getaddrinfo(name, 80)  # noqa: TID251 - that is what is tried


def datagram_of_a_pair(path: str, *, connected: bool) -> None:
    """A datagram socket that socketpair(2) made can send to any path."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    if connected:
        pair[0].connect(path)
        pair[0].send(b"escaped")
    else:
        pair[0].sendto(b"escaped", path)


def stream_of_a_pair(path: str, kind: int) -> None:
    """A stream that has lost its other end, connected anew."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    theirs.close()
    ours.connect(path)


def raw_echo(address: str) -> None:
    """Ping, with a raw socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FF, 0, 0), (address, 0))


def packet() -> None:
    """A socket for frames onto the wire."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("lo", 0))


def enter(pid: int) -> None:
    """Join its network (setns(2))."""
    with Path(f"/proc/{pid}/ns/net").open() as theirs:
        if libc.setns(theirs.fileno(), NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def enter_by_pidfd(pid: int) -> None:
    """Join its network by a pidfd."""
    number = call(PIDFD_OPEN, pid, 0)
    if libc.setns(number, NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def take_a_file(pid: int) -> None:
    """Take open files of it: pidfd_getfd(2)."""
    number = call(PIDFD_OPEN, pid, 0)
    for each in range(20):
        with contextlib.suppress(FileNotFoundError):
            call(PIDFD_GETFD, number, each, 0)
            return
    raise OSError(9, "it has none")


def trace(pid: int) -> None:
    """Attach to it: ptrace(2)."""
    if libc.ptrace(PTRACE_ATTACH, pid, 0, 0):
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, 0x40000000)
    libc.ptrace(PTRACE_DETACH, pid, 0, 0)


def _unshare() -> None:
    if libc.unshare(NEWUSER | NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")


def in_a_nested_network(attempt: Callable[[], object]) -> None:
    """The same from namespaces within ours, in which one is root again."""
    read, write = os.pipe()
    if not os.fork():
        said = b"reached"
        try:
            uid, gid = os.geteuid(), os.getegid()
            _unshare()
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
            attempt()
        except Exception as error:  # noqa: BLE001 - whatever came of it
            said = repr(error).encode()
        os.write(write, said)
        os._exit(0)
    os.wait()
    said = os.read(read, 1000)
    if said != b"reached":
        raise OSError(0, said.decode())


def inherited() -> None:
    """Files that whoever started us left open."""
    for number in [int(each.name) for each in Path("/proc/self/fd").iterdir() if each.name not in ("0", "1", "2")]:
        with contextlib.suppress(OSError):
            os.fstat(number)
            return
    raise OSError(9, "there are none")


def escapes(targets: dict[str, str]) -> dict[str, Callable[[], object]]:
    """What is tried."""
    four, six = (targets["four"], int(targets["port"])), (targets["six"], int(targets["port"]))
    victim = int(targets["victim"])
    local = ("127.0.0.1", int(targets["local"]))
    nameserver = ("127.0.0.1", int(targets["nameserver"]))
    path, abstract, datagrams = targets["path"], f"\0{targets['abstract']}", targets["datagrams"]
    return {
        "inherited files": inherited,  # before any is opened here
        "TCP to an allowed origin": lambda: connect(socket.AF_INET, four),
        "TCP to it by IPv6": lambda: connect(socket.AF_INET6, six),
        "TCP to a service on the host's loopback": lambda: connect(socket.AF_INET, local),
        "UDP to the nameserver": lambda: ask(nameserver),
        "a name looked up": lambda: resolve("leak.test"),
        "a raw socket": lambda: raw_echo(targets["four"]),
        "AF_PACKET": packet,
        "AF_VSOCK": lambda: socket.socket(40, socket.SOCK_STREAM).close(),
        "AF_ALG": lambda: socket.socket(38, socket.SOCK_SEQPACKET).close(),
        "AF_UNIX by path": lambda: connect(socket.AF_UNIX, path),
        "AF_UNIX by abstract name": lambda: connect(socket.AF_UNIX, abstract),
        "AF_UNIX datagrams by path": lambda: connect(socket.AF_UNIX, datagrams, socket.SOCK_DGRAM),
        "a datagram of a pair, sent": lambda: datagram_of_a_pair(datagrams, connected=False),
        "a datagram of a pair, connected": lambda: datagram_of_a_pair(datagrams, connected=True),
        "a stream of a pair": lambda: stream_of_a_pair(path, socket.SOCK_STREAM),
        "packets of a pair": lambda: stream_of_a_pair(path, socket.SOCK_SEQPACKET),
        "io_uring": lambda: os.close(call(IO_URING_SETUP, 4, ctypes.create_string_buffer(240))),
        "a key asked for": lambda: call(REQUEST_KEY, b"dns_resolver", b"leak.test", b"", 0),
        "setns": lambda: enter(victim),
        "setns by pidfd": lambda: enter_by_pidfd(victim),
        "pidfd_getfd": lambda: take_a_file(victim),
        "ptrace": lambda: trace(victim),
        "memory of others": lambda: Path(f"/proc/{victim}/mem").open("rb").close(),
        "files of others": lambda: Path(f"/proc/{victim}/fd/0").open("rb").close(),
        "TCP from a nested network": lambda: in_a_nested_network(lambda: connect(socket.AF_INET, four)),
        "AF_UNIX from a nested network": lambda: in_a_nested_network(lambda: connect(socket.AF_UNIX, path)),
        "setns from a nested network": lambda: in_a_nested_network(lambda: enter(victim)),
        "a frame in a nested network": lambda: in_a_nested_network(packet),
    }


def main() -> None:
    """Try each, in the order above."""
    found = {}
    for name, attempt in escapes(json.loads(sys.argv[1])).items():
        try:
            attempt()
        except (OSError, LookupError) as error:
            found[name] = f"{type(error).__name__}: {error}"
        else:
            found[name] = "reached"
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
