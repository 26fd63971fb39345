"""Which local account owns the other end of a connection: the kernel's word, in both ways that it can be asked (R2).

Real sockets, and other accounts by fork(2) and setuid(2). A socket that its owner has closed is nobody's
(ATTACKS 4.11).
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, cast

import pytest

from proxyd.net import identity as identity_module
from proxyd.net.identity import Owners
from tests.tools import give_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OTHER: Final = 4321
"""An account that is not ours; it need not have a name."""


@pytest.fixture(params=["netlink", "proc"])
def owners(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owners]:
    """Each of the two ways to ask."""
    owners = without_netlink(monkeypatch) if request.param == "proc" else Owners()
    yield owners
    owners.close()


def without_netlink(monkeypatch: pytest.MonkeyPatch) -> Owners:
    """Where a sandbox forbids the family."""

    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", refuse)
        return Owners()


# Who calls: listener's family and address, the caller's family and the address it calls
CALLS: Final = [
    pytest.param(socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1", id="ipv4"),
    pytest.param(socket.AF_INET6, "::1", socket.AF_INET6, "::1", id="ipv6"),
    pytest.param(socket.AF_INET, "127.0.0.1", socket.AF_INET6, "::ffff:127.0.0.1", id="ipv4-mapped-client"),
    pytest.param(socket.AF_INET, "0.0.0.0", socket.AF_INET, "127.0.0.2", id="wildcard"),
    pytest.param(socket.AF_INET6, "::", socket.AF_INET6, "::1", id="ipv6-wildcard"),
]


@contextmanager
def listening(family: int = socket.AF_INET, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A listening socket; of IPv6, for IPv6 only, as proxyd's are."""
    with socket.socket(family) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, 0))
        listener.listen()
        yield listener


@contextmanager
def called(
    family: int = socket.AF_INET, address: str = "127.0.0.1", theirs: int = socket.AF_INET, to: str = "127.0.0.1"
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection as it was accepted, and the caller's end."""
    with listening(family, address) as listener, socket.socket(theirs) as caller:
        caller.connect((to, listener.getsockname()[1]))
        accepted, _ = listener.accept()
        with accepted:
            yield accepted, caller


class Account:
    """A process of another account, that calls and does as it is told."""

    def __init__(self, uid: int, family: int, where: tuple[str, int] | str) -> None:
        if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split()[:2] != ["0", "0"]:
            give_up("only root can be another account")
        reading, self._writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:  # nothing of pytest's may run here
                os.close(self._writing)
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                sock = socket.socket(family)
                sock.connect(where)
                os.read(reading, 1)
            finally:
                os._exit(0)
        os.close(reading)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writing)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


@pytest.mark.parametrize(("family", "address", "theirs", "to"), CALLS)
def test_a_caller_on_this_host_is_the_account_that_made_its_socket(
    owners: Owners, family: int, address: str, theirs: int, to: str
) -> None:
    """Whatever address it calls, by whatever family."""
    with called(family, address, theirs, to) as (accepted, _):
        for _ in range(3):
            assert owners.of(accepted) == os.getuid()


@pytest.mark.parametrize(("family", "address", "theirs", "to"), CALLS)
@pytest.mark.parametrize("uid", [OTHER, 65534])
def test_another_account_is_that_one(owners: Owners, family: int, address: str, theirs: int, to: str, uid: int) -> None:
    """R2: it is not root for being asked about by root, nor any other."""
    with listening(family, address) as listener, Account(uid, theirs, (to, listener.getsockname()[1])):
        accepted, _ = listener.accept()
        with accepted:
            assert owners.of(accepted) == uid


def test_of_many_callers_each_is_who_it_is(owners: Owners) -> None:
    """Nobody is taken for a neighbour, whose port is the next one."""
    with listening() as listener:
        where = listener.getsockname()
        for uid in (OTHER, 0, OTHER + 1, 0):
            with Account(uid, socket.AF_INET, where):
                accepted, _ = listener.accept()
                with accepted:
                    assert owners.of(accepted) == uid


def _close(caller: socket.socket) -> None:
    caller.close()


def _reset(caller: socket.socket) -> None:
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    caller.close()


@pytest.mark.parametrize("leave", [_close, _reset])
@pytest.mark.parametrize(("family", "address", "theirs", "to"), CALLS)
def test_attack_4_11_a_caller_that_has_left_is_nobody(
    owners: Owners, family: int, address: str, theirs: int, to: str, leave: Callable[[socket.socket], None]
) -> None:
    """Of such a socket the kernel says uid 0 and no inode: who sends and closes at once would be taken for root."""
    with called(family, address, theirs, to) as (accepted, caller):
        caller.send(b"GET / HTTP/1.1\r\n\r\n")
        leave(caller)
        assert owners.of(accepted) is None


@pytest.mark.parametrize("end", [socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR])
@pytest.mark.parametrize(("family", "address", "theirs", "to"), CALLS)
def test_attack_4_11_a_caller_that_has_shut_down_its_socket_and_holds_it_still_owns_it(
    owners: Owners, family: int, address: str, theirs: int, to: str, end: int
) -> None:
    """Or an account could choose to be nobody by saying all that it has to say at once."""
    with called(family, address, theirs, to) as (accepted, caller):
        caller.send(b"GET / HTTP/1.1\r\n\r\n")
        caller.shutdown(end)
        assert owners.of(accepted) == os.getuid()


@pytest.mark.parametrize(("family", "address", "theirs", "to"), CALLS)
def test_a_caller_that_closes_after_we_did_owns_its_socket_until_then(
    owners: Owners, family: int, address: str, theirs: int, to: str
) -> None:
    with called(family, address, theirs, to) as (accepted, caller):
        accepted.shutdown(socket.SHUT_WR)
        assert caller.recv(1) == b""
        assert owners.of(accepted) == os.getuid()


def test_a_caller_whose_process_has_ended_is_nobody(owners: Owners) -> None:
    """Killed, it has left as well."""
    with listening() as listener:
        with Account(OTHER, socket.AF_INET, listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert owners.of(accepted) is None


@dataclass
class Remote:
    """A connection from another host, as getpeername(2) says it."""

    accepted: socket.socket
    theirs: tuple[str | int, ...]

    @property
    def family(self) -> int:
        """Of the real one."""
        return self.accepted.family

    def getpeername(self) -> tuple[str | int, ...]:
        """Somewhere else."""
        return self.theirs

    def getsockname(self) -> tuple[str | int, ...]:
        """Where it arrived."""
        return cast("tuple[str | int, ...]", self.accepted.getsockname())


@pytest.mark.parametrize("host", ["203.0.113.9", "127.0.0.1", "127.0.0.9"])
def test_who_is_not_of_this_host_is_nobody(owners: Owners, host: str) -> None:
    """The same port on another host, or another port here, is another socket."""
    with called() as (accepted, _):
        port = accepted.getpeername()[1]
        theirs = (host, port if host != "127.0.0.1" else port - 1)
        assert owners.of(cast("socket.socket", Remote(accepted, theirs))) is None


def test_a_listener_is_nobodys_caller(owners: Owners) -> None:
    """The kernel falls back to whoever listens at that address; only an established socket counts."""
    with called() as (accepted, _), listening() as other:
        assert owners.of(cast("socket.socket", Remote(accepted, other.getsockname()))) is None


def test_a_zone_is_no_part_of_an_address(owners: Owners) -> None:
    """Link-local addresses bear one, and the kernel's tables do not."""
    with called(socket.AF_INET6, "::1", socket.AF_INET6, "::1") as (accepted, _):
        host, port, *rest = accepted.getpeername()
        scoped = cast("socket.socket", Remote(accepted, (f"{host}%lo", port, *rest)))
        assert owners.of(scoped) == os.getuid()


def test_a_socket_that_was_never_connected_is_nobodys(owners: Owners) -> None:
    """It left before it was asked about: getpeername(2) fails."""
    with socket.socket() as sock:
        assert owners.of(sock) is None


# Unix sockets


@pytest.mark.parametrize("leave", [None, _close])
def test_over_a_unix_socket_the_kernel_remembers_who_connected(
    owners: Owners, tmp_path: Path, leave: Callable[[socket.socket], None] | None
) -> None:
    """SO_PEERCRED: also of one who has left by now, for it was noted when they connected (unix(7))."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
        listener.bind(path)
        listener.listen()
        caller.connect(path)
        accepted, _ = listener.accept()
        with accepted:
            if leave is not None:
                leave(caller)
            assert owners.of(accepted) == os.getuid()


def test_over_a_unix_socket_another_account_is_that_one(owners: Owners) -> None:
    """In the abstract name space, which no folder guards."""
    name = f"\0proxyd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        with Account(OTHER, socket.AF_UNIX, name):
            accepted, _ = listener.accept()
            with accepted:
                assert owners.of(accepted) == OTHER


# What netlink may answer


class Kernel:
    """In the place of the netlink socket: what it says to a question. A sender is (port, groups); the kernel's is 0."""

    def __init__(self, *answers: Callable[[int], tuple[bytes, tuple[int, int]]]) -> None:
        self._answers = list(answers)
        self._number = 0

    def send(self, question: bytes) -> None:
        """Take note of its number."""
        (self._number,) = struct.unpack_from("=I", question, 8)

    def recvfrom(self, _most: int) -> tuple[bytes, tuple[int, int]]:
        """The next answer."""
        if not self._answers:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return self._answers.pop(0)(self._number)

    def close(self) -> None:
        """As a socket has it."""


def answer(  # noqa: PLR0913 - what can be wrong with one
    uid: int, *, kind: int = 20, state: int = 1, inode: int = 7, off: int = 0, port: int = 0, octets: int | None = None
) -> Callable[[int], tuple[bytes, tuple[int, int]]]:
    """An inet_diag_msg, or something like it. off: how far its number is off. octets: what is left of it."""

    def said(number: int) -> tuple[bytes, tuple[int, int]]:
        body = struct.pack("=BBBB48xIIIII", socket.AF_INET, state, 0, 0, 0, 0, 0, uid, inode)
        head = struct.pack("=IHHII", 16 + len(body), kind, 0, (number + off) & 0xFFFF_FFFF, 0)
        return (head + body)[:octets], (port, 0)

    return said


GOOD: Final = answer(OTHER)


@pytest.mark.parametrize(
    ("answers", "uid"),
    [
        pytest.param([GOOD], OTHER, id="good"),
        pytest.param([], None, id="none"),
        pytest.param([answer(OTHER, kind=2)], None, id="error"),
        pytest.param([answer(0, inode=0)], None, id="closed-by-its-owner"),
        pytest.param([answer(OTHER, state=10)], None, id="listens"),
        pytest.param([answer(OTHER, state=8)], OTHER, id="half-closed"),
        pytest.param([answer(0, state=5, inode=0)], None, id="half-closed-and-then-closed"),
        pytest.param([answer(0, off=-1), GOOD], OTHER, id="to-the-question-before"),
        pytest.param([answer(0, off=-1)], None, id="only-to-the-question-before"),
        pytest.param([answer(0, port=4711), GOOD], OTHER, id="from-a-process"),
        pytest.param([answer(0, port=4711)], None, id="only-from-a-process"),
        pytest.param([answer(0, octets=0), GOOD], OTHER, id="empty"),
        pytest.param([answer(0, octets=15), GOOD], OTHER, id="half-a-header"),
        pytest.param([answer(0, octets=16)], None, id="a-header-alone"),
        pytest.param([answer(0, octets=87)], None, id="cut-off"),
    ],
)
def test_only_the_kernels_answer_to_this_very_question_counts(
    answers: list[Callable[[int], tuple[bytes, tuple[int, int]]]], uid: int | None
) -> None:
    """A foreign, late or mangled one is passed over; and nothing of the kind ends the loop that accepts (ATTACKS 8)."""
    owners = Owners()
    owners.close()
    owners._diag = cast("socket.socket", Kernel(*answers))  # noqa: SLF001 - the kernel cannot be made to say these
    with called() as (accepted, _):
        assert owners.of(accepted) == uid


def test_the_number_of_a_question_wraps_round() -> None:
    """After four thousand million clients."""
    owners = Owners()
    owners._asked = 0xFFFF_FFFE  # noqa: SLF001 - nobody waits for that
    with called() as (accepted, _):
        assert [owners.of(accepted) for _ in range(4)] == [os.getuid()] * 4
    owners.close()


# What /proc may say


def test_a_kernel_without_ipv6_has_one_table_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is in the other one is found."""
    owners = without_netlink(monkeypatch)
    monkeypatch.setattr(identity_module, "_PROC_TCP", (Path("/proc/net/nowhere"), Path("/proc/net/tcp")))
    with called() as (accepted, _):
        assert owners.of(accepted) == os.getuid()


def test_r12_tables_that_cannot_be_read_say_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in the place of a table cannot be read by root either."""
    owners = without_netlink(monkeypatch)
    monkeypatch.setattr(identity_module, "_PROC_TCP", (tmp_path, Path("/proc/net/tcp")))
    with called() as (accepted, _):
        assert owners.of(accepted) is None
    owners.close()


def test_closed_it_has_no_file_open() -> None:
    """A worker that ends asks no more; nor does one that could not ask have anything to close."""
    owners = Owners()
    diag = owners._diag  # noqa: SLF001 - its file
    assert diag is not None
    owners.close()
    assert diag.fileno() == -1
