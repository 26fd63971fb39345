"""What `faulty.c` is told: which call fails with which errno, how often and on whose connections; and the time."""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = Path(__file__).with_name("faulty.c")
CALLS: Final = (
    *("socket", "connect", "accept4", "send", "recv"),
    *("splice from a socket", "splice to a socket", "pipe2", "epoll_ctl", "epoll_wait"),
)
ALWAYS: Final = 1 << 40
"""As often as it is called."""

_TOLD: Final = struct.Struct("=2q")
_AHEAD: Final = struct.Struct("=q")
_AHEAD_AT: Final = 8
_FAULT: Final = struct.Struct("=5q")
_LEFT: Final = struct.Struct("=q")
_LEFT_AT: Final = 8


@dataclass(frozen=True)
class Tried:
    """How often a call was made, and how often it failed because it was told to."""

    called: int
    failed: int


@dataclass
class Faults:
    """Tells it to the processes that were started with `env`."""

    directory: Path
    env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        library, told = self.directory / "faulty.so", self.directory / "told"
        command = [tool("cc"), "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)  # noqa: S603 - our own source
        told.write_bytes(bytes(_TOLD.size + len(CALLS) * _FAULT.size))
        self.env = os.environ | {"LD_PRELOAD": str(library), "PROXYD_TESTS_FAULTS": str(told)}
        with told.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def only_in(self, pid: int) -> None:
        """Let calls fail in one process, and in no other."""
        _LEFT.pack_into(self._memory, 0, pid)

    def set_clock(self, ahead: int) -> None:
        """Let the wall clock be so many seconds ahead of the machine's, or behind it."""
        _AHEAD.pack_into(self._memory, _AHEAD_AT, ahead)

    @contextmanager
    def failing(self, call: str, error: int, times: int = ALWAYS, peer: str = "") -> Iterator[None]:
        """Let a call fail so often, until the end of this at the latest. peer: on connections with this address."""
        at = self._at(call)
        number = int.from_bytes(socket.inet_aton(peer), "little") if peer else 0
        _FAULT.pack_into(self._memory, at, error, 0, number, 0, 0)
        _LEFT.pack_into(self._memory, at + _LEFT_AT, times)  # last: what is to fail is known by then
        try:
            yield
        finally:
            _LEFT.pack_into(self._memory, at + _LEFT_AT, 0)

    def tried(self, call: str) -> Tried:
        """What became of a call since it was last told to fail."""
        *_, called, failed = _FAULT.unpack_from(self._memory, self._at(call))
        return Tried(called, failed)

    def _at(self, call: str) -> int:
        return _TOLD.size + CALLS.index(call) * _FAULT.size
