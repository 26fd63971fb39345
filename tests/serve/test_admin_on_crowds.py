"""The admin listener, and whoever stands in its way: crowds, the silent, those who reset; and what is left of it.

ATTACKS 7.1 and 8, R12. What it answers is in test_admin.py.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.net.listening import bind_unix
from proxyd.serve.admin import PLACES
from tests.serve.reception import LARGE, SHOWN, Scene, get, loopback, scene_at, unix
from tests.serve.stage import open_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["loopback", "unix"]


def test_attack_8_a_thousand_who_say_nothing_keep_nobody_out(loopback: Scene) -> None:
    """The one who waited longest makes room; and that costs a few files, however many come."""
    files = sum(open_files().values())
    silent = []
    for _ in range(1000):
        silent.append(loopback.caller())
        if len(silent) % 100 == 0:
            assert loopback.ask(get("/page", SHOWN)).endswith(b"here\n")
    assert sum(open_files().values()) <= files + 1000 + 10 + PLACES
    assert [each.recv(1) for each in silent[: 1000 - PLACES]] == [b""] * (1000 - PLACES)
    assert not loopback.due()


def test_attack_8_who_has_asked_is_answered_though_a_crowd_came_after_them(loopback: Scene) -> None:
    """All at once: a request that is there is answered before its place is given away."""
    asked = loopback.caller(get("/page", SHOWN))
    crowd = [loopback.caller() for _ in range(10 * PLACES)]
    assert loopback.heard(asked).endswith(b"here\n")
    assert len(crowd) == 10 * PLACES


def test_attack_8_who_never_reads_gives_way_as_any(unix: Scene) -> None:
    """A large answer costs its memory as often as there are places, and no more."""
    idle = [unix.caller(get("/large")) for _ in range(PLACES + 3)]
    unix.rest()
    assert not unix.due(), "nobody spins for who does not read"
    assert unix.ask(get("/page")).endswith(b"here\n")
    assert len(unix.heard(idle[-1])) > len(LARGE)


def test_attack_8_a_reset_is_an_end(loopback: Scene) -> None:
    """Before the request, and in the middle of the answer."""
    files = sum(open_files().values())
    for says in (b"", b"GET", get("/large", SHOWN)):
        caller = loopback.caller(says)
        loopback.rest()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.close()
        loopback.rest()
    assert sum(open_files().values()) == files
    assert loopback.complaints == []


@contextmanager
def no_more_files() -> Iterator[None]:
    """For as long as it lasts, this process gets no further file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_attack_8_files_that_ran_out_are_an_error_and_who_is_here_is_answered_all_the_same(unix: Scene) -> None:
    """The listener stays readable: whoever waits for us has to pause."""
    here = unix.caller()
    unix.rest()
    waiting = unix.caller(get("/page"))
    here.sendall(get("/page"))
    with no_more_files(), pytest.raises(OSError) as failed:  # noqa: PT011 - its number is looked at
        unix.desk.work()
    assert failed.value.errno == errno.EMFILE
    assert here.recv(65536).endswith(b"here\n")
    assert unix.heard(waiting).endswith(b"here\n")


def test_who_could_not_be_waited_for_takes_no_place(unix: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has a limit for that, too (epoll(7))."""

    def full(*_: Any) -> None:  # noqa: ANN401 - whatever it is called with
        raise OSError(errno.ENOSPC, "No space left on device")

    caller = unix.caller(get("/page"))
    with monkeypatch.context() as patched:
        patched.setattr(unix.desk._selector, "register", full)  # noqa: SLF001 - the only way to a full one
        with pytest.raises(OSError, match="No space"):
            unix.desk.work()
    with pytest.raises(ConnectionResetError):
        caller.recv(1)
    for _ in range(PLACES + 1):
        assert unix.ask(get("/page")).endswith(b"here\n")


def test_who_never_came_is_no_reason_to_be_woken_for_ever(unix: Scene) -> None:
    """Idle, it is not due; who came and left is seen to once."""
    assert not unix.due()
    unix.caller().close()
    assert unix.rest() == 2
    unix.desk.work()


# Its end


def test_nothing_is_left_open_by_requests_nor_in_the_end(tmp_path: Path) -> None:
    """R12: of a scrape every few seconds for years, no file stays; nor of those who were here at the end."""
    before = open_files()
    with scene_at(bind_unix(str(tmp_path / "admin"), 0o600)) as scene:
        scene.ask(get("/page"))
        running = sum(open_files().values())
        for number in range(300):
            scene.ask(get(("/page", "/large", "/bug", "/nowhere")[number % 4]))
        scene._stack.close()  # noqa: SLF001 - the callers' ends
        assert sum(open_files().values()) < running
        last = scene.caller(get("/large"))
        scene.rest()
        assert last.recv(4) == b"HTTP"
    assert open_files() == before


def test_no_socket_of_it_is_inherited(tmp_path: Path) -> None:
    """ATTACKS 7.1: a worker has nothing of it; it is execed."""
    before = inheritable()
    with scene_at(bind_unix(str(tmp_path / "admin"), 0o600)) as scene:
        scene.caller(get("/large"))
        scene.rest()
        assert inheritable() == before


def inheritable() -> list[int]:
    """The files that a program would have that is execed now."""
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_inheritable(fd)]  # noqa: PTH208 - names only


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False  # the folder that was listed
