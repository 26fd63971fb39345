"""Which local account owns the other end of a connection, as the kernel says it; nothing that a client claims counts.

A Unix socket has it from the kernel (unix(7), SO_PEERCRED). For TCP on this host the kernel's socket table is asked:
sock_diag(7), or /proc/net/tcp where that may not be. It is asked at once, at accept: of a socket that its owner has
closed the kernel says uid 0 and no inode, and that is nobody (ATTACKS 4.11). One that is only shut down has an owner.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.address import Endpoint

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_KERNEL: Final = (0, 0)  # netlink(7): port 0, in no group
_LISTENING: Final = 10  # include/net/tcp_states.h, and the same number in /proc/net/tcp
_ANY_STATE: Final = 0xFFFF_FFFF
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_QUESTION: Final = struct.Struct("=BBBxI")  # inet_diag_req_v2, up to the socket's id
_ID: Final = struct.Struct("!HH16s16sIII")  # inet_diag_sockid: ports, addresses, interface, cookie
_ANSWER: Final = struct.Struct("=BBBB48xIIIII")  # inet_diag_msg: state is the second, uid and inode the last
_NO_COOKIE: Final = 0xFFFF_FFFF
_LARGEST: Final = 4096
_PROC_TCP: Final = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class Owners:
    """Call `of` with a connection just accepted."""

    def __init__(self) -> None:
        self._diag: socket.socket | None = None
        self._asked = 0
        with suppress(OSError):  # the family may be forbidden here: then /proc has to do
            self._diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
            self._diag.settimeout(0)

    def close(self) -> None:
        """Ask no more."""
        if self._diag is not None:
            self._diag.close()

    def of(self, accepted: socket.socket) -> int | None:
        """The number of the account that owns the other end; None where that is not known, or not of this host."""
        with suppress(OSError):
            if accepted.family == socket.AF_UNIX:
                return uid_by_credentials(accepted)
            return self._uid_by_table(accepted)
        return None

    def _uid_by_table(self, accepted: socket.socket) -> int | None:
        theirs, ours = accepted.getpeername()[:2], accepted.getsockname()[:2]
        if self._diag is None:
            return _uid_by_proc(accepted.family, theirs, ours)
        self._asked = (self._asked + 1) & 0xFFFF_FFFF
        self._diag.send(_question(accepted.family, theirs, ours, self._asked))
        while True:  # the kernel answers within send(2); what else has come is from others, or to another question
            answer, sender = self._diag.recvfrom(_LARGEST)
            if sender == _KERNEL and _number_of(answer) == self._asked:
                return _uid_answered(answer)


def uid_by_credentials(accepted: socket.socket) -> int:
    """The account at the other end of a Unix socket. Raises OSError."""
    return int(_CREDENTIALS.unpack(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1])


def uid_of_listener(endpoint: Endpoint) -> int | None:
    """The account that listens at `endpoint` on this host; None for nobody. Raises OSError."""
    address = str(endpoint.address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place = _spelt(family, (address, endpoint.port))
    found = (line for line in _connections() if line[1] == place and int(line[3], 16) == _LISTENING)
    return next((int(line[7]) for line in found), None)


def _question(family: int, theirs: tuple[str, int], ours: tuple[str, int], number: int) -> bytes:
    """Who has the connected socket from `theirs` to `ours`? That one, and no other (sock_diag(7))."""
    source, sink = (socket.inet_pton(family, _unscoped(host)).ljust(16, b"\0") for host, _ in (theirs, ours))
    wanted = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, _ANY_STATE)
    identity = _ID.pack(theirs[1], ours[1], source, sink, 0, _NO_COOKIE, _NO_COOKIE)
    length = _HEADER.size + len(wanted) + len(identity)
    return _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, number, 0) + wanted + identity


def _number_of(answer: bytes) -> int | None:
    """The number of the question that it answers; None for what is too short to be an answer."""
    return int(_HEADER.unpack_from(answer)[3]) if len(answer) >= _HEADER.size else None


def _uid_answered(answer: bytes) -> int | None:
    """The account in an answer; None for an error: nobody has such a socket here."""
    kind = _HEADER.unpack_from(answer)[1]
    if kind != _SOCK_DIAG_BY_FAMILY or len(answer) < _HEADER.size + _ANSWER.size:
        return None
    _, state, *_, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    return uid if state != _LISTENING and inode else None


def _uid_by_proc(family: int, theirs: tuple[str, int], ours: tuple[str, int]) -> int | None:
    """The same from proc(5), "/proc/net/tcp"; a client's socket of either family may speak IPv4."""
    wanted = {(_spelt(family, theirs), _spelt(family, ours))}
    if family == socket.AF_INET:
        mapped = [(f"::ffff:{host}", port) for host, port in (theirs, ours)]
        wanted.add((_spelt(socket.AF_INET6, mapped[0]), _spelt(socket.AF_INET6, mapped[1])))
    for fields in _connections():
        if (fields[1], fields[2]) in wanted and int(fields[3], 16) != _LISTENING and fields[9] != "0":
            return int(fields[7])
    return None


def _connections() -> Iterator[list[str]]:
    for table in _PROC_TCP:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError as error:
            if error.errno != errno.ENOENT:  # a kernel without IPv6 has no such table
                raise
            continue
        yield from map(str.split, lines)


def _spelt(family: int, where: tuple[str, int]) -> str:
    """An address and port as the kernel prints them: 32-bit words in the order of this machine, in hex."""
    packed = socket.inet_pton(family, _unscoped(where[0]))
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{where[1]:04X}"


def _unscoped(host: str) -> str:
    return host.partition("%")[0]
