"""What the tests of this floor know of the tally: one that notes in words what was to be counted, and what the real one
makes of the records of a scenario.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from proxyd.observe.tally import Tally, new_tally, read_totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxyd.audit.record import Record


class Counting:
    """noted: what was counted, in order."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def count(self, record: Record) -> None:
        """As Tally has it."""
        self.noted.append(f"count {record.event}")

    def unwritten(self, record: Record) -> None:
        """As Tally has it."""
        self.noted.append(f"unwritten {record.event}")

    def took(self, what: str, seconds: float) -> None:
        """As Tally has it; how long is as it may be, but never less than nothing."""
        assert seconds >= 0
        self.noted.append(f"took {what}")

    def accepted(self) -> None:
        """As Tally has it."""
        self.noted.append("accepted")

    def dropped(self) -> None:
        """As Tally has it."""
        self.noted.append("dropped")


def hold(attempted: Sequence[Record], written: Sequence[Record], clients: Sequence[str]) -> None:
    """Hold that the tally says of them what they say, and that nothing is open of what has ended.

    attempted: each record as often as it was to be written; it was written in the end, if at all.
    """
    last = {id(record): number for number, record in enumerate(attempted)}
    done = {last[id(record)] for record in written}
    fd = new_tally(1)
    tally = Tally(os.dup(fd), 0, clients)
    for number, record in enumerate(attempted):
        (tally.count if number in done else tally.unwritten)(record)
    totals = read_totals(fd, 1, clients)
    tally.close()
    os.close(fd)
    ends = [record for number, record in enumerate(attempted) if record.event == "close" and last[id(record)] == number]
    accounts = totals.accounts.values()
    assert totals.unwritten == len(attempted) - len(written)
    assert _summed(each.decided for each in accounts) == _kinds(written, "decision")
    assert _summed(each.ended for each in accounts) == _kinds(ends, "close")
    assert sum(each.tunnels + each.requests for each in accounts) == 0
    assert sum(each.bytes_up for each in accounts) == sum(record.bytes_up for record in ends)
    assert sum(each.bytes_down for each in accounts) == sum(record.bytes_down for record in ends)


def _summed(counts: Iterable[Mapping[tuple[str, str], int]]) -> Counter[tuple[str, str]]:
    return sum(map(Counter, counts), Counter[tuple[str, str]]())


def _kinds(records: Sequence[Record], event: str) -> Counter[tuple[str, str]]:
    return Counter((record.verdict or "", record.reason or "") for record in records if record.event == event)
