"""Who reads the log where it is no file: a pipe or a socket as proxyd's stdout, and a thread that keeps what comes."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self

from tests.end_to_end.test_workers import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

_SMALL: Final = 65536
"""Octets that are on their way at most: what some dozens of requests write, so that none is refused because the thread
that reads had no turn for a while.
"""


class Collector:
    """As a context: reads what is written to `theirs`, and appends it to a file. leave: as if it had been killed."""

    def __init__(self, kind: str, kept: Path) -> None:
        """kind: "pipe" or "socket". kept: where it ends up."""
        self._kept = kept
        self._reads = threading.Lock()  # held by who reads, and by who wants that nobody does
        self._gone = threading.Event()
        if kind == "pipe":
            self._ours, self.theirs = os.pipe()
            fcntl.fcntl(self.theirs, fcntl.F_SETPIPE_SZ, _SMALL)
        else:
            ours, theirs = socket.socketpair()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)
            self._ours, self.theirs = ours.detach(), theirs.detach()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        with suppress(OSError):
            os.close(self.theirs)

    def start_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is started from now on writes to it."""
        popen = subprocess.Popen

        def start(command: list[str], **more: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - passed through
            return popen(command, **more | {"stdout": self.theirs})

        monkeypatch.setattr(subprocess, "Popen", start)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Meanwhile nobody reads; in the end there is room again."""
        with self._reads:
            yield
        self.catch_up()

    def catch_up(self) -> None:
        """Wait until all that was written is read."""
        until(lambda: not select.select([self._ours], [], [], 0)[0], "nobody reads")

    def leave(self) -> None:
        """Be gone; what nobody has read by then (`catch_up`) is lost."""
        if not self._gone.is_set():
            self._gone.set()
            self._thread.join()
            os.close(self._ours)

    def come_back(self, pid: int) -> None:
        """Read again what this process writes to its stdout, a pipe."""
        self._ours = os.open(f"/proc/{pid}/fd/1", os.O_RDONLY)
        self._gone.clear()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        with self._kept.open("ab", buffering=0) as kept:
            while not self._gone.is_set():
                with self._reads:
                    came = select.select([self._ours], [], [], 0)[0]
                    if came:
                        kept.write(os.read(self._ours, 65536))
                if not came:
                    time.sleep(0.001)
