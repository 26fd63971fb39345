"""What the operator must know and the audit log cannot say: one line on stderr, and no flood of it.

Never a byte of a request: these lines go where nobody redacts.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from proxyd.audit.outlet import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_SECONDS: Final = 10.0  # before the same complaint is made again


class Complaints:
    """Call it with a line. The same line again within QUIET_SECONDS is left out."""

    def __init__(
        self,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """write: takes a line, or raises OSError; stderr by default, and never waiting for its reader."""
        self._write = write or _stderr()
        self._clock = clock
        self._quiet_until: dict[str, float] = {}

    def __call__(self, line: str) -> None:
        """Tell the operator; a stderr that is gone, or full, is no reason to stop."""
        now = self._clock()
        if now < self._quiet_until.get(line, 0.0):
            return
        self._quiet_until = {each: until for each, until in self._quiet_until.items() if now < until}
        self._quiet_until[line] = now + QUIET_SECONDS
        try:
            self._write(f"proxyd: {line}\n")
        except OSError:
            return


def _stderr() -> Callable[[str], object]:
    outlet = Outlet(sys.stderr.fileno())
    return lambda line: outlet.write(line.encode(errors="backslashreplace"))
