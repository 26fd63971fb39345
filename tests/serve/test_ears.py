"""What the supervisor listens to: real signals, sent to this very process, and real connections to a control socket.

Nothing here takes time: a signal that a process sends to itself is there when `raise_signal` returns.
"""

from __future__ import annotations

import os
import resource
import select
import selectors
import signal
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.net.listening import bind_unix
from proxyd.serve import ears as ears_module
from proxyd.serve.admin import Desk, Page
from proxyd.serve.ears import COUNTED, SIGNALS, Ears
from proxyd.serve.handover import AT_ONCE
from tests.serve.stage import LONG, open_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def blocked() -> Iterator[None]:
    """As in the daemon, signals are blocked before there are ears; a test leaves none of its own behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    yield
    while signal.sigtimedwait(SIGNALS, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def listening(control: socket.socket | None = None, desk: Any = None) -> Iterator[Ears]:  # noqa: ANN401 - played
    """Ears, closed in the end."""
    ears = Ears(control, desk)
    try:
        yield ears
    finally:
        ears.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[socket.socket]:
    """A control socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "control"))
        sock.listen()
        yield sock


def knock(door: socket.socket) -> socket.socket:
    """Connect to it."""
    visitor = socket.socket(socket.AF_UNIX)
    visitor.connect(door.getsockname())
    return visitor


# Signals


def test_the_signals_that_are_waited_for_are_all_that_are_sent() -> None:
    """No other is blocked, or it would be ignored; what else ends a process still does."""
    assert set(SIGNALS) == {
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD),
    }
    assert AT_ONCE in SIGNALS


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_is_heard_once_and_ends_nobody(number: int) -> None:
    """SIGINT is no KeyboardInterrupt, and SIGUSR2 no death."""
    with listening() as ears:
        signal.raise_signal(number)
        assert ears.hear(LONG) == [number]
        assert ears.hear(0) == []


def test_a_signal_that_came_before_there_were_ears_is_heard() -> None:
    """Whoever read that we listen may have sent it with the next breath."""
    signal.raise_signal(signal.SIGTERM)
    with listening() as ears:
        assert ears.hear(LONG) == [signal.SIGTERM]


def test_signals_are_heard_in_the_order_in_which_they_came() -> None:
    """A reload that was asked for before the end is done before the end."""
    with listening() as ears:
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)
        assert ears.hear(LONG) == [signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM]


def test_a_signal_that_comes_while_nobody_waits_is_heard_next() -> None:
    """As while the workers make ready for another policy."""
    with listening() as ears:
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)
            assert ears.hear(LONG) == [number]


def test_a_wait_ends_by_a_signal_from_another_process_and_by_time() -> None:
    """Not by what `raise_signal` does to the thread that called it."""
    with listening() as ears:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert ears.hear(LONG) == [signal.SIGCHLD]
        os.waitpid(child, 0)
        assert ears.hear(0.001) == []


def test_a_wait_that_has_begun_is_ended_by_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is begun when the signal is sent, for it is sent from within it."""
    select = selectors.DefaultSelector.select

    def waited(selector: selectors.DefaultSelector, seconds: float | None = None) -> list[Any]:
        sender = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))
        sender.start()
        try:
            return select(selector, seconds)
        finally:
            sender.join()

    monkeypatch.setattr(selectors.DefaultSelector, "select", waited)
    with listening() as ears:
        assert ears.hear(LONG) == [signal.SIGUSR1]


@pytest.mark.parametrize("number", [number for number in SIGNALS if number not in COUNTED])
def test_attack_8_a_storm_of_signals_is_heard_as_one(number: int) -> None:
    """Ten thousand SIGHUPs while one reload is under way are one more reload, and no memory."""
    with listening() as ears:
        for _ in range(10_000):
            signal.raise_signal(number)
        assert ears.hear(LONG) == [number]
        assert ears.hear(0) == []


def test_attack_8_the_end_is_heard_through_a_storm() -> None:
    """The socket that wakes us holds some hundred octets, and then loses what comes: SIGTERM once was not heard."""
    with listening() as ears:
        for _ in range(10_000):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert ears.hear(LONG) == [signal.SIGHUP, signal.SIGTERM]
        assert ears.hear(0) == []


@pytest.mark.parametrize("number", COUNTED)
def test_the_second_signal_to_end_is_heard_as_such(number: int) -> None:
    """Ctrl-C twice, while a reload is under way: it means at once."""
    with listening() as ears:
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert ears.hear(LONG) == [number, number]


def test_what_was_noted_is_not_waited_for_even_if_nothing_wakes_us() -> None:
    """Python may note a signal only after its octet has been taken."""
    with listening() as ears:
        ears._note(signal.SIGTERM, None)  # noqa: SLF001 - as Python calls it
        assert ears.hear(LONG) == [signal.SIGTERM]


# Visitors


def test_who_connects_is_heard_as_a_connection(door: socket.socket) -> None:
    """Each of them, one after the other."""
    with listening(door) as ears, knock(door) as first, knock(door) as second:
        for visitor, says in ((first, b"1"), (second, b"2")):
            visitor.sendall(says)
            (heard,) = ears.hear(LONG)
            assert isinstance(heard, socket.socket)
            with heard:
                assert heard.recv(2) == says
        assert ears.hear(0) == []


def test_a_connection_waits_for_what_is_said_as_any_does(door: socket.socket) -> None:
    """The listener never waits; that is no property of what it accepts."""
    with listening(door) as ears, knock(door):
        (heard,) = ears.hear(LONG)
        assert isinstance(heard, socket.socket)
        with heard:
            assert heard.getblocking() is True


def test_signals_come_before_visitors(door: socket.socket) -> None:
    """Both at once: who is told to end does that first, and the visitor hears of it."""
    with listening(door) as ears, knock(door):
        signal.raise_signal(signal.SIGTERM)
        number, visitor = ears.hear(LONG)
        assert number == signal.SIGTERM
        assert isinstance(visitor, socket.socket)
        visitor.close()


@contextmanager
def no_more_files() -> Iterator[None]:
    """For as long as it lasts, this process gets no further file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Poll:
    """In the place of select.poll: how long was waited, and meanwhile a signal may come."""

    def __init__(self, comes: Callable[[], object] = lambda: None) -> None:
        self.waited: list[float] = []
        self._comes = comes

    def __call__(self) -> Poll:
        return self

    def register(self, sock: socket.socket, events: int) -> None:
        assert (sock.family, events) == (socket.AF_UNIX, select.POLLIN)

    def poll(self, milliseconds: float) -> None:
        self.waited.append(milliseconds)
        self._comes()


def test_attack_8_a_visitor_who_cannot_be_let_in_is_no_reason_to_end_nor_to_spin(
    door: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files ran out: they wait still, and would wake us at once, again and again."""
    poll = Poll()
    with listening(door) as ears, knock(door):
        with no_more_files(), monkeypatch.context() as patched:
            patched.setattr(select, "poll", poll)
            assert [ears.hear(LONG) for _ in range(3)] == [[]] * 3
        (heard,) = ears.hear(LONG)
        assert isinstance(heard, socket.socket)
        heard.close()
    assert poll.waited == [100.0] * 3


def test_attack_8_a_signal_is_heard_while_nobody_can_be_let_in(
    door: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the pause, and one that was heard before is not kept waiting by any."""
    poll = Poll(lambda: signal.raise_signal(signal.SIGTERM))
    with listening(door) as ears, knock(door), no_more_files():
        monkeypatch.setattr(select, "poll", poll)
        assert ears.hear(LONG) == [signal.SIGTERM]
        signal.raise_signal(signal.SIGHUP)
        assert ears.hear(LONG) == [signal.SIGHUP]
    assert poll.waited == [100.0]


def test_the_pause_is_ended_by_a_signal(door: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without end, but for it."""
    monkeypatch.setattr(ears_module, "PAUSE_SECONDS", 3600)
    with listening(door) as ears, knock(door), no_more_files():
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert ears.hear(LONG) == [signal.SIGCHLD]
        os.waitpid(child, 0)


# The desk


class Knocked:
    """In the place of a desk: something to do for whoever knocks at a door."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self.worked = 0

    def fileno(self) -> int:
        """Readable where there is something to do."""
        return self._door.fileno()

    def work(self) -> None:
        """Do it, if files are to be had."""
        self._door.accept()[0].close()
        self.worked += 1


def test_the_desk_works_when_there_is_something_to_do_and_that_is_nothing_to_be_heard(door: socket.socket) -> None:
    """ATTACKS 8: one turn at a time, and signals in between."""
    desk = Knocked(door)
    with listening(desk=desk) as ears, knock(door), knock(door):
        assert (ears.hear(LONG), desk.worked) == ([], 1)
        signal.raise_signal(signal.SIGTERM)
        assert (ears.hear(LONG), desk.worked) == ([signal.SIGTERM], 2)
        assert (ears.hear(0), desk.worked) == ([], 2)


def test_attack_8_a_desk_that_cannot_let_anybody_in_is_no_reason_to_end_nor_to_spin(
    door: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, desk = Poll(), Knocked(door)
    with listening(desk=desk) as ears, knock(door):
        with no_more_files(), monkeypatch.context() as patched:
            patched.setattr(select, "poll", poll)
            assert ears.hear(LONG) == []
        assert (poll.waited, desk.worked) == ([100.0], 0)
        assert (ears.hear(LONG), desk.worked) == ([], 1)


def test_a_real_desk_wakes_us_for_each_step_and_not_otherwise(tmp_path: Path) -> None:
    """Its epoll is within ours (epoll(7)): nothing is lost, and idle there is nothing to do."""
    listener = bind_unix(str(tmp_path / "admin"), 0o600)
    desk = Desk(listener, str, {"/page": lambda: Page(b"x" * (4 << 20))}, pytest.fail)
    with listening(desk=desk) as ears, knock(listener) as caller:
        turns = 0
        read = b""
        caller.settimeout(0)
        caller.sendall(b"GET /page HTTP/1.0\r\n\r\n")
        while not read.endswith(b"x" * 4096) or len(read) < 4 << 20:
            assert ears.hear(LONG) == [], "waits for ever where something was lost"
            turns += 1
            with suppress(BlockingIOError):
                while piece := caller.recv(1 << 20):
                    read += piece
        assert turns < 1000
    desk.close()


# The end


def test_with_the_ears_closed_everything_is_as_it_was_before(door: socket.socket) -> None:
    """Handlers, the wake-up socket and the mask are this process's, and others use them."""
    reading, writing = socket.socketpair()
    for each in (reading, writing):
        each.settimeout(0)
    with reading, writing:
        outer = signal.set_wakeup_fd(writing.fileno())
        handlers = [signal.getsignal(number) for number in SIGNALS]
        files = open_files()
        with listening(door):
            assert [signal.getsignal(number) for number in SIGNALS] != handlers
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) >= set(SIGNALS)
        assert open_files() == files
        assert signal.set_wakeup_fd(outer) == writing.fileno()
        assert door.fileno() >= 0, "it was given to us"


def test_a_signal_that_comes_when_nobody_listens_any_more_ends_nobody() -> None:
    """An impatient operator: proxyd ended well, and says so by its exit status."""
    with listening():
        pass
    signal.raise_signal(signal.SIGTERM)
    assert signal.SIGTERM in signal.sigpending()
