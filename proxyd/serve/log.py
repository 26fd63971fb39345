"""A worker's audit log: the sink in use, which a reload may change between two records. It decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.audit.sink import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.audit.record import Record
    from proxyd.audit.sink import Sink


class Log:
    """Call `write` for each record."""

    def __init__(self, sink: Sink, complain: Callable[[str], None]) -> None:
        self._sink = sink
        self._complain = complain

    def write(self, record: Record) -> None:
        """Write one record. Raises SinkError."""
        self._sink.write(record)

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
