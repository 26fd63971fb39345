"""How far the reading of a log has come, for who waits at a terminal. Nobody else is shown anything."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from proxyd.cli.terminal import is_person

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

_WIDTH: Final = 30  # columns
_SECONDS: Final = 0.2  # between two drawings
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Call it with the octets that were read so far; it draws on stderr, and wipes that away at its end."""

    def __init__(self, paths: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        """paths: the files that are read, from which the whole is known; without any, nothing is drawn."""
        self._whole = sum(map(_size, paths))
        self._clock = clock
        self._next = clock() + _SECONDS  # what is done sooner needs no bar
        self._shown = False
        self._wanted = self._whole > 0 and is_person(sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.make_way()

    def __call__(self, octets: int) -> None:
        now = self._clock()
        if self._wanted and now >= self._next:
            self._next = now + _SECONDS
            self._shown = True
            part = min(1.0, octets / self._whole)
            bar = ("#" * round(part * _WIDTH)).ljust(_WIDTH, ".")
            sys.stderr.write(f"{_CLEAR}[{bar}] {part:4.0%} of {self._whole / 1e6:.0f} MB")
            sys.stderr.flush()

    def make_way(self) -> None:
        """Wipe it away for a line that is about to be said on the same terminal; who sees lines waits for none."""
        self._next = self._clock() + _SECONDS
        if self._shown:
            self._shown = False
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
