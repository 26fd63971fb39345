"""What is used of the limits, in memory that all workers share: the limits hold for the daemon, not for each worker.

A lock that the kernel takes from whoever dies guards it; each worker has a column of its own for what is under way, so
that the supervisor can strike out what a dead one had. How much is too much is `policy.limits`' to say.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxyd.policy.limits import Bucket, Over, Use, has_room, spend
from proxyd.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from proxyd.policy.client import Client, Rates
    from proxyd.policy.model import Limits

EVERYBODY: Final = ""
"""The account of all clients together; it is the first."""

_BUCKETS: Final = struct.Struct("=4d")
_COUNTS: Final = struct.Struct("=3I")  # of one worker: requests, tunnels, connections
MOST_WORKERS: Final = 64
_ACCOUNT: Final = _BUCKETS.size + MOST_WORKERS * _COUNTS.size


def new_ledger() -> int:
    """Shared memory without accounts: its file descriptor. Raises OSError."""
    return os.memfd_create("proxyd-limits", os.MFD_CLOEXEC)


def make_room(fd: int, accounts: int) -> None:
    """Let there be that many accounts at least; new ones are unused. Raises OSError."""
    if os.fstat(fd).st_size < accounts * _ACCOUNT:
        os.ftruncate(fd, accounts * _ACCOUNT)


def strike_out(fd: int, worker: int) -> None:
    """Forget what a worker had under way: it died, and cannot say that it is over."""
    with _locked(fd):
        for account in range(os.fstat(fd).st_size // _ACCOUNT):
            os.pwrite(fd, bytes(_COUNTS.size), _column(account, worker))


@dataclass(slots=True)
class Place:
    """Something under way. `leave` is called when it is over, once."""

    leave: Callable[[], None]


class Ledger:
    """A worker's view of it."""

    def __init__(self, fd: int, worker: int, workers: int, accounts: Sequence[str], clock: Callable[[], float]) -> None:
        """fd: of `new_ledger`; it is closed with `close`. worker: whose column is ours, of how many.

        accounts: names of clients, in the order of the memory; EVERYBODY comes first.
        """
        self._fd = fd
        self._memory = mmap.mmap(fd, 0)
        self._worker = worker
        self._workers = workers
        self._accounts = {name: number for number, name in enumerate(accounts)}
        self._clock = clock

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
        os.close(self._fd)

    def change(self, fd: int, accounts: Sequence[str]) -> None:
        """Another policy has other clients. Those that there were keep their numbers; the memory is the same, grown."""
        self.close()
        self._fd = fd
        self._memory = mmap.mmap(fd, 0)
        self._accounts = {name: number for number, name in enumerate(accounts)}

    def admit(self, client: Client, limits: Limits, *, tunnel: bool) -> Place | Over:
        """A place for one request of a client, or which limit is reached. limits: those of all clients together."""
        if client.limits.unlimited and limits.unlimited:
            return _UNCOUNTED
        both = ((self._accounts[client.name], client.limits), (self._accounts[EVERYBODY], limits))
        with _locked(self._fd):
            over = self._over(both, tunnel=tunnel)
            if over is not None:
                return over
            self._count(both, 1, tunnel=tunnel)
        return Place(lambda: self._count(both, -1, tunnel=tunnel))  # our own column: nobody else writes it

    def enter(self, most: int, most_here: int) -> Place | None:
        """A place for one connection, or None if there are `most` already, or `most_here` in this worker."""
        account = self._accounts[EVERYBODY]
        with _locked(self._fd):
            inside = [self._counts(account, worker)[2] for worker in range(self._workers)]
            if sum(inside) >= most or inside[self._worker] >= most_here:
                return None
            self._add(account, connections=1)
        return Place(lambda: self._add(account, connections=-1))

    def _over(self, both: tuple[tuple[int, Rates], ...], *, tunnel: bool) -> Over | None:
        """The first limit that is reached; if there is none, or only one of places, the tokens are spent."""
        spent = []
        for account, limits in both:
            use = spend(limits, self._use(account), self._clock(), tunnel=tunnel)
            if isinstance(use, Over):
                return use if account else Over(Reason.OVERLOADED, use.retry_after)
            spent.append((account, limits, use))
        for account, _, use in spent:
            self._keep(account, use)
        for account, limits, use in spent:
            if not has_room(limits, use, tunnel=tunnel):
                return Over(Reason.CONCURRENCY_LIMIT if account else Reason.OVERLOADED)
        return None

    def _count(self, both: tuple[tuple[int, Rates], ...], change: int, *, tunnel: bool) -> None:
        for account, _ in both:
            self._add(account, requests=0 if tunnel else change, tunnels=change if tunnel else 0)

    def _use(self, account: int) -> Use:
        tokens, at, tunnel_tokens, tunnel_at = _BUCKETS.unpack_from(self._memory, account * _ACCOUNT)
        counts = [self._counts(account, worker) for worker in range(self._workers)]
        return Use(
            Bucket(tokens, at),
            Bucket(tunnel_tokens, tunnel_at),
            sum(requests for requests, _, _ in counts),
            sum(tunnels for _, tunnels, _ in counts),
        )

    def _keep(self, account: int, use: Use) -> None:
        of_requests, of_tunnels = use.of_requests, use.of_tunnels
        _BUCKETS.pack_into(
            self._memory,
            account * _ACCOUNT,
            of_requests.tokens,
            of_requests.at,
            of_tunnels.tokens,
            of_tunnels.at,
        )

    def _counts(self, account: int, worker: int) -> tuple[int, int, int]:
        requests, tunnels, connections = _COUNTS.unpack_from(self._memory, _column(account, worker))
        return requests, tunnels, connections

    def _add(self, account: int, requests: int = 0, tunnels: int = 0, connections: int = 0) -> None:
        before = self._counts(account, self._worker)
        after = (count + change for count, change in zip(before, (requests, tunnels, connections), strict=True))
        _COUNTS.pack_into(self._memory, _column(account, self._worker), *after)


_UNCOUNTED: Final = Place(lambda: None)


def _column(account: int, worker: int) -> int:
    return account * _ACCOUNT + _BUCKETS.size + worker * _COUNTS.size


@contextmanager
def _locked(fd: int) -> Iterator[None]:
    """Nobody else counts meanwhile (fcntl(2), F_SETLKW); it takes microseconds, so that waiting is no matter."""
    fcntl.lockf(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN)
