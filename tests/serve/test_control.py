"""The control socket: who is heard, who can hear, and what stands in its way. Over real sockets, in a real folder."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
import threading
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxyd.serve import control
from proxyd.serve.control import RELOAD, STATUS, Outcome, Status, answer, ask, ask_status, asked_for, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OUTCOME = Outcome(changes=("deny: +corp", "limits.tunnels: 10 -> 20"), revoked=3)
STATUS_OF = Status(version="1", pid=7, uid=8, policy="p", file="/p.toml", digest="abc", workers=2, serving=1)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a control socket may be."""
    return str(tmp_path / "control")


@contextmanager
def answered(path: str, serve: Callable[[socket.socket], object]) -> Iterator[None]:
    """Somebody at `path` who serves one visitor."""

    def accept() -> None:
        visitor, _ = sock.accept()
        with visitor:
            serve(visitor)

    with pytest.MonkeyPatch.context() as patch, listen(path) as sock:
        patch.setattr(control, "ASK_SECONDS", 60.0)  # a slow machine decides nothing
        server = threading.Thread(target=accept)
        server.start()
        yield
        server.join()


def says(octets: bytes) -> Callable[[socket.socket], object]:
    """Whoever is asked says this, and hangs up."""

    def serve(visitor: socket.socket) -> None:
        assert asked_for(visitor) == RELOAD
        visitor.sendall(octets)

    return serve


# The socket's file


def test_r2_its_file_is_for_our_account_alone(path: str) -> None:
    """Whatever the umask is; and that is as it was afterwards."""
    before = os.umask(0)
    try:
        with listen(path) as sock:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116 - the very name
            assert sock.get_inheritable() is False
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_one_that_was_left_behind_is_cleared_away(path: str) -> None:
    """A proxyd that was killed leaves its own."""
    listen(path).close()
    assert Path(path).is_socket()
    with listen(path), socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(path)


def test_one_at_which_somebody_listens_is_an_error_and_they_listen_on(path: str) -> None:
    """A second proxyd with the same policy takes nothing away from the first."""
    with listen(path) as first:
        with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
            listen(path)
        assert refused.value.errno == errno.EADDRINUSE
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(path)
            first.accept()[0].close()


def make_file(path: str) -> None:
    Path(path).write_text("dear")


def make_fifo(path: str) -> None:
    os.mkfifo(path)


def make_folder(path: str) -> None:
    Path(path).mkdir()


def make_link(path: str) -> None:
    Path(path).symlink_to("/etc/hostname")


def make_loose_link(path: str) -> None:
    Path(path).symlink_to("/nowhere/at/all")


@pytest.mark.parametrize("make", [make_file, make_fifo, make_folder, make_link, make_loose_link])
def test_something_else_at_its_path_is_an_error_and_left_untouched(path: str, make: Callable[[str], None]) -> None:
    """A slip of the operator's must not cost a file."""
    make(path)
    before = os.lstat(path)
    with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
        listen(path)
    assert refused.value.errno == errno.EADDRINUSE
    assert os.lstat(path) == before


def test_a_socket_of_another_kind_is_left_untouched(path: str) -> None:
    """A datagram socket is somebody's, and cannot be asked whether they live."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(OSError):  # noqa: PT011 - connect(2) says EPROTOTYPE
            listen(path)
        assert Path(path).is_socket()


@pytest.mark.parametrize("where", ["missing/control", "control/" + "x" * 120])
def test_a_path_that_cannot_be_had_is_an_error_and_the_umask_is_as_it_was(tmp_path: Path, where: str) -> None:
    """No folder, or a name that is too long for a socket."""
    before = os.umask(0o022)
    os.umask(before)
    with pytest.raises(OSError):  # noqa: PT011 - of either kind
        listen(str(tmp_path / where))
    assert os.umask(before) == before


# Who is heard


def visit(says: bytes) -> tuple[socket.socket, socket.socket]:
    """A visitor who has said something, and their connection as we have it."""
    theirs, ours = socket.socketpair()
    theirs.sendall(says)
    return theirs, ours


@pytest.mark.parametrize(
    ("said", "asks"),
    [(RELOAD, True), (STATUS, False), (RELOAD + b"more", False), (b"reload ", False), (b"RELOAD\n", False)],
)
def test_only_the_very_word_asks(said: bytes, asks: bool) -> None:  # noqa: FBT001 - a table's column
    theirs, ours = visit(said)
    with theirs, ours:
        assert (asked_for(ours) == RELOAD) is asks


def test_who_says_nothing_in_time_or_hangs_up_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACKS 8: the supervisor does nothing else meanwhile; a second is the most."""
    assert control.ASK_SECONDS == 1.0
    monkeypatch.setattr(control, "ASK_SECONDS", 0.001)
    theirs, ours = visit(b"")
    with theirs, ours:
        assert asked_for(ours) == b""
        theirs.close()
        assert asked_for(ours) == b""
    assert asked_for(ours) == b"", "it is closed"


@pytest.mark.parametrize(
    ("uid", "own", "heard"), [(0, 1000, True), (1000, 1000, True), (1001, 1000, False), (1000, 0, False), (0, 0, True)]
)
def test_r2_root_and_our_own_account_are_heard_and_nobody_else(
    uid: int,
    own: int,
    heard: bool,  # noqa: FBT001 - a table's column
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the file's mode is by now: the kernel says who asks. Who is not heard, is not waited for either."""
    monkeypatch.setattr(control, "uid_by_credentials", lambda _: uid)
    monkeypatch.setattr(os, "geteuid", lambda: own)
    theirs, ours = visit(RELOAD)
    with theirs, ours:
        assert (asked_for(ours) == RELOAD) is heard
        if not heard:
            assert ours.recv(100) == RELOAD


def test_r2_the_kernel_says_who_asks(path: str) -> None:
    """A child that gave up being root asks; it cannot pretend. (As another account, the tests are the child's own.)"""
    uid = 12345 if os.geteuid() == 0 else os.geteuid()
    with listen(path) as sock:
        Path(path).chmod(0o777)
        for folder in Path(path).parents:
            if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        child = os.fork()
        if child == 0:
            try:
                os.setuid(uid)
                visitor = socket.socket(socket.AF_UNIX)
                visitor.connect(path)
                visitor.sendall(RELOAD)
                os._exit(0 if visitor.recv(1) == b"" else 1)
            finally:
                os._exit(2)
        visitor, _ = sock.accept()
        with visitor:
            _, said, _ = struct.unpack("=iII", visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            assert (asked_for(visitor) == RELOAD) is (said == os.geteuid())
            assert said == uid
        os.waitpid(child, 0)


# Who is asked


@pytest.mark.parametrize("outcome", [Outcome(), OUTCOME, Outcome(problems=("one", "söme \x1b\u202e\ud800"))])
def test_what_came_of_it_arrives(path: str, outcome: Outcome) -> None:
    """Also what no terminal should see: to escape it is the command's."""

    def serve(visitor: socket.socket) -> None:
        assert asked_for(visitor) == RELOAD
        answer(visitor, outcome)

    with answered(path, serve):
        assert ask(path) == outcome


def test_a_long_answer_arrives_whole(path: str) -> None:
    """More than a socket holds at once: every change of a policy of thousands of rows."""
    outcome = Outcome(changes=tuple(f"deny: +corp-{number}" for number in range(40_000)))
    assert len(json.dumps(asdict(outcome))) > 500_000

    def serve(visitor: socket.socket) -> None:
        assert asked_for(visitor) == RELOAD
        answer(visitor, outcome)

    with answered(path, serve):
        assert ask(path) == outcome


def test_who_left_or_does_not_read_is_not_told_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACKS 8: the supervisor has workers to keep up."""
    monkeypatch.setattr(control, "ASK_SECONDS", 0.001)
    theirs, ours = visit(RELOAD)
    with theirs, ours:
        assert asked_for(ours) == RELOAD
        answer(ours, Outcome(changes=("x" * 10_000_000,)))
    theirs, ours = visit(RELOAD)
    theirs.close()
    with ours:
        answer(ours, OUTCOME)


def test_nobody_there_is_an_oserror(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        ask(path)
    listen(path).close()
    with pytest.raises(ConnectionRefusedError):
        ask(path)


def test_who_hangs_up_without_hearing_us_did_not_want_to_be_asked_by_us(path: str) -> None:
    """That is a reset, and not an end, for whoever had something to say."""

    def hang_up(visitor: socket.socket) -> None:
        assert visitor.recv(1, socket.MSG_PEEK) == RELOAD[:1]

    with answered(path, hang_up), pytest.raises(OSError, match="within a second, by root or by its own account"):
        ask(path)


def test_who_hangs_up_without_a_word_did_not_want_to_be_asked_by_us(path: str) -> None:
    """So it looks when another account asks."""
    with answered(path, says(b"")), pytest.raises(OSError, match="within a second, by root or by its own account"):
        ask(path)


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b"\xff\xfe",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"[]",
        b"7",
        b"{}",
        b'{"problems": [], "changes": []}',
        b'{"problems": 1, "changes": [], "revoked": 0}',
        b'{"problems": [], "changes": [], "revoked": "\\u001b[2J"}',
        b'{"problems": [], "changes": [], "revoked": [1]}',
        b'{"problems": [], "changes": [], "revoked": Infinity}',
        b'{"problems": [], "changes": [], "revoked": 1e999}',
        json.dumps(asdict(OUTCOME)).encode()[:-1],
    ],
)
def test_r12_what_is_no_outcome_is_no_success(path: str, said: bytes) -> None:
    """Something else listens there, or it was cut off: never a traceback, and never "reloaded"."""
    with answered(path, says(said)), pytest.raises(ValueError):  # noqa: PT011 - of which kind is no matter
        ask(path)


@pytest.mark.parametrize("status", [STATUS_OF, replace(STATUS_OF, policy="söme \x1b\u202e\ud800", serving=0)])
def test_what_runs_is_told_whole(path: str, status: Status) -> None:
    """Asked for with a word of its own, that changes nothing."""

    def serve(visitor: socket.socket) -> None:
        assert asked_for(visitor) == STATUS
        answer(visitor, status)

    with answered(path, serve):
        assert ask_status(path) == status


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b"[]",
        b"7",
        b"{}",
        b"[" * 100_000,
        json.dumps(asdict(OUTCOME)).encode(),
        *(
            json.dumps(asdict(STATUS_OF) | {name: value}).encode()
            for name, value in (("pid", "x"), ("pid", float("inf")), ("serving", None))
        ),
        json.dumps({name: value for name, value in asdict(STATUS_OF).items() if name != "digest"}).encode(),
    ],
)
def test_r12_what_is_no_status_is_none(path: str, said: bytes) -> None:
    """A proxyd from before there was one, or somebody else: never a traceback."""

    def serve(visitor: socket.socket) -> None:
        assert asked_for(visitor) == STATUS
        visitor.sendall(said)

    with answered(path, serve), pytest.raises(ValueError):  # noqa: PT011 - of which kind is no matter
        ask_status(path)


def test_one_without_end_is_not_read_for_ever(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, whoever is at the other end."""
    monkeypatch.setattr(control, "_LONGEST", 1000)

    def serve(visitor: socket.socket) -> None:
        assert asked_for(visitor) == RELOAD
        with pytest.raises(OSError):  # noqa: PT011,PT012 - it is we who hang up
            while True:
                visitor.sendall(b"[" * 1000)

    with answered(path, serve), pytest.raises(ValueError):  # noqa: PT011 - of which kind is no matter
        ask(path)


@pytest.mark.parametrize(
    ("uid", "own", "trusted"), [(0, 1000, True), (1000, 1000, True), (1001, 1000, False), (1001, 0, True)]
)
def test_r2_an_answer_is_believed_from_root_and_our_own_account(
    path: str,
    uid: int,
    own: int,
    trusted: bool,  # noqa: FBT001 - a table's column
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else's socket in a shared folder would say "reloaded"; root may ask every account's proxyd."""

    def serve(visitor: socket.socket) -> None:
        if visitor.recv(len(RELOAD)) == RELOAD:
            answer(visitor, OUTCOME)

    monkeypatch.setattr(control, "uid_by_credentials", lambda _: uid)
    monkeypatch.setattr(os, "geteuid", lambda: own)
    with answered(path, serve):
        if trusted:
            assert ask(path) == OUTCOME
        else:
            with pytest.raises(PermissionError, match="somebody else's"):
                ask(path)
