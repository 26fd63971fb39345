"""A worker's audit log: the sink in use, which a reload may change between two records, and the tally of it.

It decides nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxyd.audit.sink import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.audit.record import Record
    from proxyd.audit.sink import Sink
    from proxyd.observe.tally import Tally


class Log:
    """Call `write` for each record."""

    def __init__(self, sink: Sink, tally: Tally, complain: Callable[[str], None]) -> None:
        self._sink = sink
        self._tally = tally
        self._complain = complain

    def write(self, record: Record) -> None:
        """Write one record, and count it. Raises SinkError."""
        began = time.perf_counter()
        try:
            self._sink.write(record)
        except SinkError:
            self._tally.unwritten(record)
            raise
        self._tally.took("audit", time.perf_counter() - began)
        self._tally.count(record)

    def change(self, sink: Sink) -> None:
        """Write to another sink from now on."""
        before, self._sink = self._sink, sink
        before.close()

    def reopen(self) -> None:
        """Open the file by its name again (SIGUSR1); where it cannot be, go on with the old one, and say so."""
        try:
            self._sink.reopen()
        except SinkError as error:
            self._complain(f"audit log: could not be reopened: {error}")
