"""Records counted, in memory that all workers share and the supervisor reads: a worker that is stuck hides nothing.

Each worker has a stretch of it that nobody else writes, so that nobody waits for anybody. What it has counted stays
when it dies; only what it had open ends with it. Counts are by client, verdict and reason, never by host: they are few.
"""

from __future__ import annotations

import mmap
import os
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxyd.audit.record import Record

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of what is timed, in seconds; beyond the last is one interval more."""

TIMED: Final = ("dns", "connect", "first_byte", "audit")
"""What is timed: a lookup, connecting, how long until an answer began, and the writing of a record."""

KINDS: Final = tuple(product(("allow", "deny", "error"), ("", *(reason.value for reason in Reason))))
"""What a request can come to: a verdict, and its reason or an empty word."""

MOST_ACCOUNTS: Final = 4096
"""Clients that are counted apart; those beyond are counted as nobody. Memory that nobody touches is none."""

RESTS: Final = -1.0
"""In the place of the time at which a worker was last known to serve: it drains. 0 is of one that never did."""

_NUMBER: Final = {kind: number for number, kind in enumerate(KINDS)}
_OCTETS: Final = array("d").itemsize

# The cells of a worker: its own, and then those of each account
_PULSE, _TASKS, _CONNECTIONS, _DROPPED, _UNWRITTEN, _FIRST_TIMER = range(6)
_TIMER: Final = len(BOUNDS) + 2  # how often each interval, and the sum of seconds
_OWN: Final = _FIRST_TIMER + len(TIMED) * _TIMER
_DECIDED, _ENDED, _UP = 0, len(KINDS), 2 * len(KINDS)
_DOWN, _TUNNELS, _REQUESTS, _ACCOUNT = range(_UP + 1, _UP + 5)
_STRETCH: Final = _OWN + MOST_ACCOUNTS * _ACCOUNT


def new_tally(workers: int) -> int:
    """Shared memory in which nothing is counted yet: its file descriptor. Raises OSError."""
    fd = os.memfd_create("proxyd-tally", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, workers * _STRETCH * _OCTETS)
    except OSError:
        os.close(fd)
        raise
    return fd


def strike_out(fd: int, worker: int, accounts: int) -> None:
    """Forget what a worker had open under that many accounts: it died. What it has counted stays."""
    begin = worker * _STRETCH
    _clear(fd, begin + _PULSE, 2)
    for number in range(min(accounts, MOST_ACCOUNTS)):
        _clear(fd, begin + _OWN + number * _ACCOUNT + _TUNNELS, 2)


def _clear(fd: int, cell: int, count: int) -> None:
    os.pwrite(fd, bytes(count * _OCTETS), cell * _OCTETS)


class Tally:
    """What one worker counts."""

    def __init__(self, fd: int, worker: int, accounts: Sequence[str]) -> None:
        """fd: of `new_tally`; it is closed with `close`. accounts: names of clients as the ledger numbers them."""
        self._fd = fd
        self._memory = mmap.mmap(fd, 0)
        self._cells = memoryview(self._memory).cast("d")
        self._own = worker * _STRETCH
        self._open: dict[str, int] = {}  # what was decided and has not ended: its id, and the cell that counts it
        self._accounts = _numbered(accounts)

    def change(self, fd: int, accounts: Sequence[str]) -> None:
        """Another policy has other clients; those that there were keep their numbers. fd: of the same memory."""
        os.close(fd)
        self._accounts = _numbered(accounts)

    def close(self) -> None:
        """Count no more."""
        self._cells.release()
        self._memory.close()
        os.close(self._fd)

    def count(self, record: Record) -> None:
        """Count what a record says of a request."""
        if record.event == "decision":
            self._decided(record)
        elif record.event == "close":
            self._ended(record)

    def took(self, what: str, seconds: float) -> None:
        """Count how long something of TIMED took."""
        timer = self._own + _FIRST_TIMER + TIMED.index(what) * _TIMER
        self._cells[timer + bisect_left(BOUNDS, seconds)] += 1
        self._cells[timer + _TIMER - 1] += seconds

    def accepted(self) -> None:
        """A connection came in."""
        self._cells[self._own + _CONNECTIONS] += 1

    def dropped(self) -> None:
        """A connection was closed without a word: nobody may be told any more."""
        self._cells[self._own + _DROPPED] += 1

    def unwritten(self, record: Record) -> None:
        """A record could not be written. What has ended has ended all the same; what was decided counts once it is."""
        self._cells[self._own + _UNWRITTEN] += 1
        if record.event == "close":
            self._ended(record)

    def beat(self, now: float, tasks: int) -> None:
        """This worker serves. now: of the monotonic clock, which all processes share. tasks: those that live in it."""
        self._cells[self._own + _PULSE] = now
        self._cells[self._own + _TASKS] = tasks

    def rest(self) -> None:
        """This worker lets nobody in any more: it drains, and that may take long."""
        self._cells[self._own + _PULSE] = RESTS

    def _decided(self, record: Record) -> None:
        account = self._account(record)
        self._cells[account + _DECIDED + _kind(record)] += 1
        if record.id is not None and record.id not in self._open:
            self._open[record.id] = account + (_TUNNELS if record.scheme == "connect" else _REQUESTS)
            self._cells[self._open[record.id]] += 1

    def _ended(self, record: Record) -> None:
        account = self._account(record)
        self._cells[account + _ENDED + _kind(record)] += 1
        self._cells[account + _UP] += record.bytes_up
        self._cells[account + _DOWN] += record.bytes_down
        opened = self._open.pop(record.id or "", None)
        if opened is not None:
            self._cells[opened] -= 1

    def _account(self, record: Record) -> int:
        """Where the cells of its client begin."""
        return self._own + _OWN + self._accounts.get(record.client or "", 0) * _ACCOUNT


def _numbered(accounts: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(accounts[:MOST_ACCOUNTS])}


def _kind(record: Record) -> int:
    return _NUMBER[record.verdict or "", record.reason or ""]


@dataclass(frozen=True, slots=True)
class OfAccount:
    """What was counted of one client, all workers together. decided, ended: by the kinds that occurred."""

    decided: dict[tuple[str, str], int]
    ended: dict[tuple[str, str], int]
    bytes_up: int
    bytes_down: int
    tunnels: int
    requests: int


@dataclass(frozen=True, slots=True)
class Timed:
    """How long something took: how often within each of BOUNDS, or beyond, and all seconds together."""

    counts: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What all workers have counted. pulses: when each was last known to serve, by the monotonic clock; 0 for one that
    never did, or RESTS. tasks: that lived in them then.
    """

    tasks: int
    connections: int
    dropped: int
    unwritten: int
    timed: dict[str, Timed]
    accounts: dict[str, OfAccount]
    pulses: tuple[float, ...]


def read_totals(fd: int, workers: int, accounts: Sequence[str]) -> Totals:
    """Add up what there is. accounts: names of clients as the ledger numbers them."""
    names = accounts[:MOST_ACCOUNTS]
    stretches = [_read(fd, worker, len(names)) for worker in range(workers)]
    cells = [sum(column) for column in zip(*stretches, strict=True)]
    return Totals(
        tasks=int(cells[_TASKS]),
        connections=int(cells[_CONNECTIONS]),
        dropped=int(cells[_DROPPED]),
        unwritten=int(cells[_UNWRITTEN]),
        timed={what: _timed(cells, _FIRST_TIMER + number * _TIMER) for number, what in enumerate(TIMED)},
        accounts={name: _of_account(cells, _OWN + number * _ACCOUNT) for number, name in enumerate(names)},
        pulses=tuple(stretch[_PULSE] for stretch in stretches),
    )


def read_pulses(fd: int, workers: int) -> tuple[float, ...]:
    """When each worker was last known to serve; 0 for one that never did, or RESTS."""
    return tuple(_read(fd, worker, 0)[_PULSE] for worker in range(workers))


def _read(fd: int, worker: int, accounts: int) -> array[float]:
    octets = (_OWN + accounts * _ACCOUNT) * _OCTETS
    return array("d", os.pread(fd, octets, worker * _STRETCH * _OCTETS))


def _timed(cells: Sequence[float], at: int) -> Timed:
    *counts, seconds = cells[at : at + _TIMER]
    return Timed(tuple(map(int, counts)), seconds)


def _of_account(cells: Sequence[float], at: int) -> OfAccount:
    up, down, tunnels, requests = (int(cell) for cell in cells[at + _UP : at + _ACCOUNT])
    return OfAccount(_kinds(cells, at + _DECIDED), _kinds(cells, at + _ENDED), up, down, tunnels, requests)


def _kinds(cells: Sequence[float], at: int) -> dict[tuple[str, str], int]:
    found = zip(KINDS, cells[at : at + len(KINDS)], strict=True)
    return {kind: int(count) for kind, count in found if count}
