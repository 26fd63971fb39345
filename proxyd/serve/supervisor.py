"""The parent of the workers: it holds the listening sockets, starts those who serve on them, and starts them again.

A plain loop over signals, no trio: it execs workers and never forks one that runs. While a worker is down, connections
wait in the kernel. It relays no byte, judges nothing and writes no audit record.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import proxyd
from proxyd.serve.handover import AT_ONCE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from proxyd.serve.handover import Handover

FIRST_PAUSE: Final = 0.1  # seconds before a worker that died is started again; doubled each time …
LONGEST_PAUSE: Final = 5.0
GOOD_SECONDS: Final = 10.0  # … unless it had served for as long as this

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, AT_ONCE, signal.SIGCHLD)
"""What the supervisor waits for. They are blocked before anybody can be told that we listen, and never lost."""


@dataclass(slots=True)
class _Post:
    """A place for a worker, who is in it now, and when the next one may be started.

    pause: how long it stays empty should the worker die now.
    """

    worker: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE
    due: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Keeps `handover.workers` workers serving.

    sockets: of each listener, one for each worker. complain: a line for the operator.
    """

    sockets: Sequence[Sequence[socket.socket]]
    handover: Handover
    complain: Callable[[str], None]
    _posts: list[_Post] = field(init=False)
    _ending: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._posts = [_Post() for _ in range(self.handover.workers)]

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then until the last worker has ended. SIGNALS are blocked by the caller."""
        while True:
            self._fill_posts()
            self._hear(self._next_signal())
            self._reap()
            if self._ending and not any(post.worker for post in self._posts):
                return

    def _fill_posts(self) -> None:
        for place, post in enumerate(self._posts):
            if post.worker is None and not self._ending and time.monotonic() >= post.due:
                post.started = time.monotonic()
                try:
                    post.worker = self._start(place)
                except OSError as error:  # no process, no memory, no file to be had: that may pass
                    self._vacate(post, f"could not be started: {error.strerror}")

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        """A worker of its own program text: nothing of ours is in its memory but what it is handed."""
        numbers = [each[place].fileno() for each in self.sockets]
        worker = subprocess.Popen(  # noqa: S603 - this very package
            [sys.executable, "-P", "-m", "proxyd.serve", *map(str, numbers)],
            stdin=subprocess.PIPE,
            pass_fds=numbers,
            env=os.environ | {"PYTHONPATH": _importable()},
        )
        with suppress(OSError):  # it died at once: SIGCHLD tells
            self.handover.write(_leash(worker))
        return worker

    def _next_signal(self) -> int | None:
        """Wait for a signal, or until a worker is due: the signal's number, if it was one."""
        due = [post.due for post in self._posts if post.worker is None]
        if self._ending or not due:
            return signal.sigwaitinfo(SIGNALS).si_signo
        heard = signal.sigtimedwait(SIGNALS, max(0.0, min(due) - time.monotonic()))
        return None if heard is None else heard.si_signo

    def _hear(self, number: int | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._end()
        elif number == signal.SIGUSR1:
            self._tell(signal.SIGUSR1)
        elif number == signal.SIGHUP:
            self.complain("SIGHUP: this version does not reload its policy; restart it to run another one")

    def _end(self) -> None:
        """Let the workers drain; asked again, let them end at once."""
        self._tell(AT_ONCE if self._ending else signal.SIGTERM)
        self._ending = True
        for sock in chain(*self.sockets):
            sock.close()  # while it is open anywhere, the kernel lets clients in, and nobody comes for them

    def _tell(self, number: signal.Signals) -> None:
        for post in self._posts:
            if post.worker is not None:
                post.worker.send_signal(number)

    def _reap(self) -> None:
        for post in self._posts:
            if post.worker is not None and (status := post.worker.poll()) is not None:
                with suppress(OSError):  # what it was to be told, it will never hear
                    _leash(post.worker).close()
                post.worker = None
                self._vacate(post, f"ended ({_told(status)})")

    def _vacate(self, post: _Post, why: str) -> None:
        """Say when a worker is replaced: soon if it had served well; if they keep dying, less and less often."""
        if self._ending:
            return
        now = time.monotonic()
        if now - post.started >= GOOD_SECONDS:
            post.pause = FIRST_PAUSE
        post.due = now + post.pause
        self.complain(f"a worker {why}; another is started in {post.pause:g} s, connections wait")
        post.pause = min(post.pause * 2, LONGEST_PAUSE)


def _leash(worker: subprocess.Popen[bytes]) -> IO[bytes]:
    """The pipe on which a worker is told what to do, and learns of our end."""
    if worker.stdin is None:
        raise RuntimeError("a worker without a pipe")
    return worker.stdin


def _importable() -> str:
    """PYTHONPATH by which a worker finds this very package first, wherever it was started from."""
    own = str(Path(proxyd.__file__).parents[1])
    return os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH"))))


def _told(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
