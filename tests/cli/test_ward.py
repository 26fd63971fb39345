"""The proxy beside a confined command, without any process: what either child does, and what is told (R12)."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from proxyd.cli import ward
from proxyd.cli.ward import READY, Ward, close_all_but, start_beside
from tests.serve.stage import open_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxyd.cli.prepare import Confined


class Left(BaseException):
    """In the place of the end of a process."""


class Family:
    """Processes that are not: forks is what each os.fork() says, done what was done otherwise."""

    def __init__(self) -> None:
        self.forks: list[int] = []
        self.done: list[tuple[object, ...]] = []
        self.ignored = False
        self.channel: tuple[socket.socket, ...] = ()
        self._socketpair = socket.socketpair
        self.serves: Callable[[str, Ward], int] = lambda policy, _: 0

    def exit(self, status: int) -> None:
        """os._exit."""
        self.done.append(("exit", status))
        raise Left

    def pair(self, *_: int) -> tuple[socket.socket, socket.socket]:
        """socket.socketpair."""
        self.channel = ours, theirs = self._socketpair()
        return ours, theirs

    def close_all_but(self, *kept: int) -> None:
        """In the grandchild, the command's end of the channel is closed by it."""
        self.done.append(("close", kept[:3], len(kept)))
        for each in self.channel[:1]:
            each.close()

    def let_go(self) -> None:
        """A child that ended has nothing open."""
        for each in self.channel:
            each.close()

    def wait(self, pid: int, options: int) -> None:
        """os.waitpid."""
        self.done.append(("wait", pid, options))
        if self.ignored:
            raise ChildProcessError

    def serve(self, policy: str, found: Ward) -> int:
        """proxyd.cli.run.serve."""
        self.done.append(("serve", policy))
        return self.serves(policy, found)


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    """In the place of fork(2) and the like, and of the daemon."""
    family = Family()
    played = {
        "fork": lambda: family.forks.pop(0),
        "setsid": lambda: family.done.append(("setsid",)),
        "_exit": family.exit,
        "waitpid": family.wait,
        "dup2": lambda old, new: family.done.append(("dup2", _name(old), new)),
    }
    monkeypatch.setattr(ward, "os", SimpleNamespace(**vars(os) | played))  # pytest's own capturing goes on
    monkeypatch.setattr(socket, "socketpair", family.pair)
    monkeypatch.setattr(ward, "close_all_but", family.close_all_but)
    monkeypatch.setattr(ward, "serve", family.serve)
    yield family
    family.let_go()


@pytest.fixture
def log() -> int:
    """What records go to; it is closed by whoever starts a daemon."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The command's end, and the daemon's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _name(number: int) -> str:
    return str(Path(f"/proc/self/fd/{number}").readlink())


def _daemon(channel: socket.socket) -> None:
    """What the grandchild does."""
    log, process = os.open("/dev/full", os.O_WRONLY), os.pidfd_open(os.getpid())
    try:
        ward._be_daemon("p.toml", log, channel, process)  # noqa: SLF001 - it never comes back from start_beside
    finally:
        os.close(log)
        os.close(process)


@pytest.mark.parametrize("reaped", ["by us", "by nobody"])
def test_who_starts_it_waits_for_the_child_alone_and_keeps_the_channel(family: Family, log: int, reaped: str) -> None:
    """Who ignores SIGCHLD finds that there is nobody to wait for."""
    family.ignored = reaped == "by nobody"
    files = open_files()
    family.forks = [77]
    with start_beside("p.toml", log) as ours:
        assert family.done == [("wait", 77, 0)]
        assert ours.recv(1) == b""  # nobody else has the other end, here
    assert files - open_files() == {"/dev/full": 1}
    assert not open_files() - files


def test_the_child_leaves_the_session_and_lets_a_grandchild_be_the_daemon(family: Family, log: int) -> None:
    family.forks = [0, 78]
    with pytest.raises(Left):
        start_beside("p.toml", log)
    assert family.done == [("setsid",), ("exit", 0)]
    os.close(log)


def test_the_grandchild_serves_and_never_goes_on_as_the_command_would(family: Family, log: int) -> None:
    family.forks = [0, 0]
    with pytest.raises(Left):
        start_beside("p.toml", log)
    assert [name for name, *_ in family.done] == ["setsid", "dup2", "dup2", "close", "exit"]
    os.close(log)


def test_it_serves_the_socket_that_it_is_given_to_the_account_that_it_is(
    channel: tuple[socket.socket, socket.socket], family: Family
) -> None:
    """With nothing else open, stdin empty, and stdout the log."""
    ours, theirs = channel
    found: list[Ward] = []

    def serves(_: str, each: Ward) -> int:
        found.append(each)
        assert not os.get_inheritable(each.confined.listener.fileno())
        assert each.confined.listener.getsockname() == listener.getsockname()
        return 0

    family.serves = serves
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.send_fds(ours, [READY], [listener.fileno()])
        _daemon(theirs)
    assert family.done == [
        ("dup2", "/dev/null", 0),
        ("dup2", "/dev/full", 1),
        ("close", (0, 1, 2), 5),
        ("serve", "p.toml"),
    ]
    assert [each.confined.account for each in found] == [os.geteuid()]
    assert [each.channel for each in found] == [theirs]


@pytest.mark.parametrize(("status", "told"), [(78, 78), (69, 69), (0, 69)])
def test_r12_whatever_ends_it_before_it_is_ready_starts_nothing(
    channel: tuple[socket.socket, socket.socket], family: Family, status: int, told: int
) -> None:
    """A status of success would be taken for "begin"."""
    ours, theirs = channel
    family.serves = lambda *_: status
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.send_fds(ours, [READY], [listener.fileno()])
        _daemon(theirs)
    assert ours.recv(10) == bytes([told])


def test_r12_a_bug_is_told(
    channel: tuple[socket.socket, socket.socket], family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = channel
    said: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda *what: said.append(what[0]))
    family.serves = lambda *_: 1 // 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.send_fds(ours, [READY], [listener.fileno()])
        _daemon(theirs)
    assert said == [ZeroDivisionError]
    assert ours.recv(10) == bytes([69])


def test_a_command_that_is_gone_before_it_said_where_is_served_by_nobody(
    channel: tuple[socket.socket, socket.socket], family: Family
) -> None:
    ours, theirs = channel
    ours.close()
    _daemon(theirs)
    assert "serve" not in [name for name, *_ in family.done]


# The command, as the proxy sees it


def test_it_begins_when_the_proxy_is_ready(channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    served = Ward(cast("Confined", None), 99, theirs)
    assert (served.listens, served.patience, served.fileno()) == (True, 0.0, 99)
    served.tell("STOPPING=1", "STATUS=draining")
    served.tell("READY=1", "STATUS=policy")
    assert ours.recv(10) == READY
    ours.close()
    served.tell("READY=1")  # to nobody


def test_when_it_has_ended_the_proxy_is_told_to_end() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        Ward(cast("Confined", None), 99, cast("socket.socket", None)).work()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_all_files_are_closed_but_some(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also one whose number is above any limit of now; and one that is closed already is no error."""
    numbers = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    for each in (*numbers, 987654):
        (tmp_path / str(each)).touch()
    monkeypatch.setattr(ward, "Path", lambda _: tmp_path)
    close_all_but(numbers[1])
    os.close(numbers[1])
    for number in (numbers[0], numbers[2]):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
