"""What the tests of the figures share: records, the memory in which they are counted, and workers who count."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from proxyd.audit.record import Record
from proxyd.observe.tally import Tally, new_tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ACCOUNTS: Final = ("", "agent", "other")
WORKERS: Final = 3


def record(event: str = "decision", number: int = 1, client: str | None = "agent", **facts: object) -> Record:
    """One of a request; by itself, of one that was allowed."""
    some: dict[str, object] = {"verdict": "allow", "scheme": "http", "host": "example.com"} | facts
    return Record(time="now", event=event, id=f"{number:016x}", client=client, **some)  # type: ignore[arg-type]


@contextmanager
def memory(workers: int = WORKERS) -> Iterator[int]:
    """Shared memory for so many."""
    fd = new_tally(workers)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def counting(fd: int, worker: int = 0, accounts: Sequence[str] = ACCOUNTS) -> Iterator[Tally]:
    """One worker at its place."""
    tally = Tally(os.dup(fd), worker, accounts)
    try:
        yield tally
    finally:
        tally.close()
