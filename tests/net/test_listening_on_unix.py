"""Unix sockets: for those whom the policy lets in from the first moment on, and never in somebody else's place (R1)."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxyd.net.listening import bind_unix, bound_to
from tests.net.joined import open_files

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where to listen. Afterwards no descriptor is left open, and the mask is as it was."""
    before = open_files()
    mask = os.umask(0o022)
    yield tmp_path / "proxyd.sock"
    assert os.umask(mask) == 0o022
    assert open_files() == before


def mode_of(path: Path) -> int:
    """Who may do what with it."""
    return stat.S_IMODE(path.stat().st_mode)


def leave_behind(path: Path) -> None:
    """Listen, and be killed: the socket stays in its place."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_r1_a_unix_socket_is_for_whom_its_mode_says(path: Path, mode: int) -> None:
    with bind_unix(str(path), mode) as listener:
        assert (mode_of(path), path.stat().st_gid) == (mode, os.getgid())
        assert bound_to(listener) is None
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            listener.accept()[0].close()


def test_r1_a_unix_socket_is_for_its_group(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that the name has here, before anybody else may connect."""
    own = grp.getgrgid(os.getgid())
    given: list[tuple[int, int]] = []
    real = os.chown

    def chown(where: str, uid: int, gid: int) -> None:
        assert mode_of(path) == 0o600, "nobody gets in meanwhile"
        given.append((uid, gid))
        real(where, uid, gid)

    monkeypatch.setattr(os, "chown", chown)
    with bind_unix(str(path), 0o660, own.gr_name):
        assert given == [(-1, own.gr_gid)]
        assert (mode_of(path), path.stat().st_gid) == (0o660, own.gr_gid)


def test_a_group_that_this_host_has_not_is_an_error_before_anything_is_made(path: Path) -> None:
    with pytest.raises(KeyError):
        bind_unix(str(path), 0o660, "nosuch-group")
    assert not path.exists()


def test_where_no_group_is_asked_for_it_changes_no_hands(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may have no right to chown(2) anything (systemd.exec(5), SystemCallFilter)."""
    monkeypatch.setattr(os, "chown", None)
    with bind_unix(str(path), 0o666):
        assert mode_of(path) == 0o666


@pytest.mark.parametrize("mask", [0, 0o077])
def test_r1_whatever_the_mask_nobody_else_gets_in_before_the_mode_is_set(
    path: Path, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    monkeypatch.setattr(os, "chown", lambda *_: modes.append(mode_of(path)))
    before = os.umask(mask)
    try:
        with bind_unix(str(path), 0o666, grp.getgrgid(os.getgid()).gr_name):
            assert os.umask(mask) == mask
            assert (modes, mode_of(path)) == ([0o600], 0o666)
    finally:
        os.umask(before)


def test_a_socket_that_a_killed_proxyd_left_is_replaced(path: Path) -> None:
    leave_behind(path)
    with bind_unix(str(path), 0o600) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        listener.accept()[0].close()


def test_a_socket_that_somebody_listens_on_is_an_error_and_theirs(path: Path) -> None:
    """DESIGN, "Processes": also a second proxyd."""
    with bind_unix(str(path), 0o600) as first:
        with pytest.raises(OSError, match="in use") as caught:
            bind_unix(str(path), 0o666)
        assert caught.value.errno == errno.EADDRINUSE
        assert mode_of(path) == 0o600
        first.accept()[0].close()  # the second one looked
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_one_who_listens_and_does_not_accept_is_not_waited_for(path: Path) -> None:
    """A proxyd that is stuck has a full queue: connect(2) would wait for it for ever."""
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as client:
        stuck.bind(str(path))
        stuck.listen(0)
        client.connect(str(path))
        with pytest.raises(OSError, match="in use"):
            bind_unix(str(path), 0o600)
        assert path.is_socket()


@pytest.mark.parametrize("what", ["file", "directory", "link to a file", "link to nothing"])
def test_something_else_at_that_path_is_left_alone(path: Path, what: str) -> None:
    other = path.with_name("other")
    other.write_text("precious")
    match what:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "link to a file":
            path.symlink_to(other)
        case _:
            path.symlink_to(path.with_name("nowhere"))
    before = path.lstat()
    with pytest.raises(OSError, match="in use"):
        bind_unix(str(path), 0o666)
    assert path.lstat() == before
    assert (other.read_text(), mode_of(other)) == ("precious", 0o644)
    assert not path.with_name("nowhere").exists()


def test_a_datagram_socket_at_that_path_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError, match="wrong type"):
            bind_unix(str(path), 0o666)
        assert path.is_socket()


@pytest.mark.parametrize("step", ["chown", "chmod"])
def test_r12_a_socket_that_cannot_be_made_as_it_must_be_lets_nobody_in(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    with monkeypatch.context() as patched:
        patched.setattr(os if step == "chown" else Path, step, fail)
        with pytest.raises(PermissionError):
            bind_unix(str(path), 0o666, grp.getgrgid(os.getgid()).gr_name)
    assert mode_of(path) == 0o600
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(path))
    bind_unix(str(path), 0o600).close()


@pytest.mark.parametrize("name", ["x" * 108, "nowhere/proxyd.sock"])
def test_a_path_at_which_nothing_can_be_is_an_error(path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"too long|No such file"):
        bind_unix(str(path.parent / name), 0o600)
