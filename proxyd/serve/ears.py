"""What the supervisor listens to, in one place: signals, the control socket, and the admin listener.

A signal wakes us through a socket of our own (signal.set_wakeup_fd), so that one wait is enough for all. The socket
may be full, as in a storm of them; which signals there were is noted elsewhere. What they mean is the supervisor's.
"""

from __future__ import annotations

import select
import selectors
import signal
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Protocol

from proxyd.serve.handover import AT_ONCE

if TYPE_CHECKING:
    from types import FrameType

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, AT_ONCE, signal.SIGCHLD)
"""What the supervisor waits for. They are blocked before anybody can be told that we listen, and never lost."""

COUNTED: Final = (signal.SIGTERM, signal.SIGINT)
"""Of these a second one says more than the first. Of all others, many that wait to be heard say what one says."""

PAUSE_SECONDS: Final = 0.1
"""After somebody could not be let in: they wait still, and to try again at once helps nobody. A signal ends it."""

_MOST_AT_ONCE: Final = 4096


class Beside(Protocol):
    """What the supervisor does besides, as the admin listener."""

    def fileno(self) -> int:
        """Readable when there is something to do."""

    def work(self) -> None:
        """Do it, without waiting. Raises nothing."""


class Ears:
    """Made when SIGNALS are blocked; they are unblocked by it."""

    def __init__(self, control: socket.socket | None, beside: Beside | None = None) -> None:
        """control: a listening socket, if there is one. beside: does its work whenever there is some."""
        self._heard: list[int] = []
        self._stack = ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        self._signals, told = (self._stack.enter_context(each) for each in socket.socketpair())
        for each in (self._signals, told):
            each.settimeout(0)
        self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False))
        self._selector.register(self._signals, selectors.EVENT_READ)
        if control is not None:
            control.settimeout(0)
            self._selector.register(control, selectors.EVENT_READ, control)
        if beside is not None:
            self._selector.register(beside, selectors.EVENT_READ, beside.work)
        for number in SIGNALS:
            self._stack.callback(signal.signal, number, signal.signal(number, self._note))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def close(self) -> None:
        """Listen no more; signals are blocked again."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._stack.close()

    def hear(self, seconds: float) -> list[int | socket.socket]:
        """What there is to hear, within `seconds`: numbers of signals, connections to the control socket."""
        asking: list[socket.socket] = []
        for key, _ in self._selector.select(0 if self._heard else seconds):
            if key.data is None:
                self._signals.recv(_MOST_AT_ONCE)
                continue
            try:
                if isinstance(key.data, socket.socket):
                    asking.append(key.data.accept()[0])
                else:
                    key.data()
            except OSError:  # files ran out, or they left: that may pass
                self._pause()
        heard, self._heard = self._heard, []
        return [*heard, *asking]

    def _pause(self) -> None:
        if not self._heard:
            signals = select.poll()
            signals.register(self._signals, select.POLLIN)
            signals.poll(PAUSE_SECONDS * 1000)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Python calls it soon after the signal has come, always between two steps of `hear` or of its caller."""
        if number in COUNTED or number not in self._heard:
            self._heard.append(number)
