"""Outlets: whatever is behind a descriptor, a write is over at once, and others who share it notice nothing.

ATTACKS 8; R12. Real pipes, terminals, sockets and devices; an alarm ends what waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import pytest

from proxyd.audit.outlet import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINE: Final = b"a line\n"
SECONDS: Final = 60
"""After which a write that waits is a failure."""


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    def waited(*_: object) -> NoReturn:
        raise TimeoutError("it waited")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def ends(make: Callable[[], tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Two ends, which a test may close."""
    both = make()
    yield both
    for end in both:
        with suppress(OSError):
            os.close(end)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: its end to read from, and its end to write to."""
    yield from ends(os.pipe)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: the end of whoever looks at it, and the end to write to."""
    yield from ends(pty.openpty)


@pytest.fixture
def sockets() -> Iterator[tuple[int, int]]:
    """A unix stream socket, as journald hands it out: the reader's end, and the end to write to."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    yield from ends(lambda: (one.detach(), other.detach()))


@pytest.fixture(params=["pipe", "terminal", "sockets"])
def both(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Everything that may have to be waited for."""
    found: tuple[int, int] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def outlet() -> Iterator[Callable[[int], Outlet]]:
    """Makes outlets, and closes them in the end."""
    made: list[Outlet] = []

    def make(fd: int) -> Outlet:
        made.append(Outlet(fd))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a pipe that another user made, or without /proc."""

    def refuse(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)


def open_files() -> set[int]:
    """The descriptors that are open in this process."""
    found = set()
    for fd in range(256):
        with suppress(OSError):
            os.fstat(fd)
            found.add(fd)
    return found


def flags(fd: int) -> int:
    """The flags of what is open behind a descriptor."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def fill(subject: Outlet) -> int:
    """Write until nothing more is taken; how many octets were."""
    taken = 0
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                taken += subject.write(b"x" * size)
    return taken


def drain(fd: int) -> int:
    """Read all there is; how many octets it was."""
    heard = 0
    while select.select([fd], [], [], 0)[0]:
        heard += len(os.read(fd, 65536))
    return heard


# Whatever waits


def test_a_line_arrives_as_it_is(both: tuple[int, int], outlet: Callable[[int], Outlet]) -> None:
    assert outlet(both[1]).write(LINE) == len(LINE)
    assert os.read(both[0], 9999).replace(b"\r\n", b"\n") == LINE


def test_attack_8_what_nobody_reads_is_an_error_at_once_and_never_waited_for(
    both: tuple[int, int], outlet: Callable[[int], Outlet]
) -> None:
    subject = outlet(both[1])
    assert fill(subject) > 0
    fill(subject)  # a terminal may have found a little room; it ends in the same error


def test_what_is_read_again_is_written_to_again(both: tuple[int, int], outlet: Callable[[int], Outlet]) -> None:
    subject = outlet(both[1])
    assert fill(subject) <= drain(both[0])
    assert subject.write(LINE) == len(LINE)
    assert os.read(both[0], 9999).replace(b"\r\n", b"\n") == LINE, "what was refused is not written later"


def test_attack_8_the_flags_of_what_others_share_are_left_alone(
    both: tuple[int, int], outlet: Callable[[int], Outlet]
) -> None:
    before = flags(both[1])
    assert not before & os.O_NONBLOCK
    subject = outlet(both[1])
    assert flags(both[1]) == before
    fill(subject)
    assert flags(both[1]) == before


def test_nothing_is_leaked_and_nothing_is_passed_on_to_children(both: tuple[int, int]) -> None:
    before = open_files()
    subject = Outlet(both[1])
    opened = open_files() - before
    assert [os.get_inheritable(fd) for fd in opened] == [False]
    subject.write(LINE)
    subject.close()
    assert open_files() == before, "and the descriptor itself is its owner's"


# Pipes


def test_attack_8_a_line_goes_into_a_pipe_whole_or_not_at_all(
    pipe: tuple[int, int], outlet: Callable[[int], Outlet]
) -> None:
    subject = outlet(pipe[1])
    taken = fill(subject)
    assert len(os.read(pipe[0], 100)) == 100
    with pytest.raises(BlockingIOError):
        subject.write(b"y" * select.PIPE_BUF)
    assert drain(pipe[0]) == taken - 100


def test_r12_a_pipe_whose_reader_left_is_an_error(pipe: tuple[int, int], outlet: Callable[[int], Outlet]) -> None:
    subject = outlet(pipe[1])
    os.close(pipe[0])
    with pytest.raises(BrokenPipeError):
        subject.write(LINE)


def test_r12_a_socket_whose_reader_left_is_an_error(sockets: tuple[int, int], outlet: Callable[[int], Outlet]) -> None:
    subject = outlet(sockets[1])
    os.close(sockets[0])
    with pytest.raises(BrokenPipeError):
        subject.write(LINE)


def test_r12_a_terminal_that_was_closed_is_an_error(terminal: tuple[int, int], outlet: Callable[[int], Outlet]) -> None:
    subject = outlet(terminal[1])
    os.close(terminal[0])
    with pytest.raises(OSError, match="Input/output error"):
        subject.write(LINE)


# Where nothing can be opened anew


@pytest.mark.usefixtures("nothing_opens")
def test_attack_8_a_full_pipe_that_cannot_be_opened_anew_is_asked_first(
    pipe: tuple[int, int], outlet: Callable[[int], Outlet]
) -> None:
    before = flags(pipe[1])
    subject = outlet(pipe[1])
    taken = fill(subject)
    assert taken > 0
    with pytest.raises(BlockingIOError, match="nobody reads it"):
        subject.write(LINE)
    assert flags(pipe[1]) == before
    assert drain(pipe[0]) == taken
    assert subject.write(LINE) == len(LINE)


@pytest.mark.usefixtures("nothing_opens")
def test_a_terminal_that_cannot_be_opened_anew_is_written_to(
    terminal: tuple[int, int], outlet: Callable[[int], Outlet]
) -> None:
    assert outlet(terminal[1]).write(LINE) == len(LINE)
    assert os.read(terminal[0], 9999) == LINE.replace(b"\n", b"\r\n")


@pytest.mark.usefixtures("nothing_opens")
def test_r12_a_pipe_that_cannot_be_opened_anew_and_whose_reader_left_is_an_error(
    pipe: tuple[int, int], outlet: Callable[[int], Outlet]
) -> None:
    subject = outlet(pipe[1])
    os.close(pipe[0])
    with pytest.raises(BrokenPipeError):
        subject.write(LINE)


@pytest.mark.usefixtures("nothing_opens")
def test_what_cannot_be_opened_anew_leaves_nothing_behind(pipe: tuple[int, int]) -> None:
    before = open_files()
    subject = Outlet(pipe[1])
    assert open_files() == before
    subject.close()
    assert open_files() == before


# What nobody waits for


def test_a_file_is_written_to_where_it_stands_and_opened_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file:
        file.write(b"before\n")
        before = open_files()
        subject = Outlet(file.fileno())
        assert open_files() == before
        assert subject.write(LINE) == len(LINE)
        subject.close()
        file.write(b"after\n")
    assert path.read_bytes() == b"before\n" + LINE + b"after\n"


def test_attack_8_a_file_that_others_write_to_as_well_is_appended_to_by_all(tmp_path: Path) -> None:
    """`proxyd … > log 2>&1`, `StandardOutput=file:`, or a shell that says something before and after us."""
    path = tmp_path / "log"
    path.write_bytes(b"of the last run\n")
    with path.open("r+b", buffering=0) as file:
        before = flags(file.fileno())
        subject = Outlet(file.fileno())
        subject.write(LINE)
        with path.open("ab", buffering=0) as other:
            other.write(b"another\n")
        subject.write(LINE)
        subject.close()
        file.write(b"after us\n")
        assert flags(file.fileno()) == before | os.O_APPEND, "and it still waits, if ever it did"
    assert path.read_bytes() == b"of the last run\n" + LINE + b"another\n" + LINE + b"after us\n"


def test_r12_a_file_that_was_opened_for_reading_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        Outlet(file.fileno()).write(LINE)
    assert path.read_bytes() == b""


def test_r12_a_full_device_is_an_error(outlet: Callable[[int], Outlet]) -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left") as caught:  # noqa: PTH123 - a device
        outlet(full.fileno()).write(LINE)
    assert caught.value.errno == errno.ENOSPC


def test_r12_a_descriptor_that_is_closed_is_an_error_with_every_write(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    before = open_files()
    subject = Outlet(pipe[1])
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            subject.write(LINE)
        assert caught.value.errno == errno.EBADF
    subject.close()
    assert open_files() == before


def test_r12_a_file_that_is_closed_later_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        subject = Outlet(file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        subject.write(LINE)
