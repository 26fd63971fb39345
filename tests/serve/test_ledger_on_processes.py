"""The limits hold for processes that know nothing of each other, and for those that are killed (R10, ATTACKS 8)."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest
from netaddr import IPNetwork

from proxyd.policy.client import Client, Rates
from proxyd.policy.limits import Over
from proxyd.policy.model import Limits
from proxyd.policy.verdict import Reason
from proxyd.serve.ledger import EVERYBODY, Ledger, make_room, new_ledger, strike_out

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS: Final = 4
ACCOUNTS: Final = (EVERYBODY, "agent")

_WORKER: Final = """
import sys, time
from netaddr import IPNetwork
from proxyd.policy.client import Client, Rates
from proxyd.policy.limits import Over
from proxyd.policy.model import Limits
from proxyd.serve.ledger import Ledger, _locked

fd, worker = map(int, sys.argv[1:])
ledger = Ledger(fd, worker, 4, ("", "agent"), lambda: 1000.0)
for line in sys.stdin:
    do, kind, most, times = line.split()
    who = Client(name="agent", networks=(IPNetwork("127.0.0.0/8"),), limits=Rates(**{kind: int(most)}))
    if do == "lock":
        with _locked(fd):
            print("locked", flush=True)
            sys.stdin.readline()
    elif do == "enter":
        print(sum(ledger.enter(int(most), int(most)) is not None for _ in range(int(times))), flush=True)
    else:
        places = [ledger.admit(who, Limits(), tunnel=False) for _ in range(int(times))]
        places = [place for place in places if not isinstance(place, Over)]
        print(len(places), flush=True)
        if do == "leave":
            for place in places:
                place.leave()
"""


class Worker:
    """A process with a view of the ledger."""

    def __init__(self, fd: int, number: int) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - this very Python
            [sys.executable, "-P", "-c", _WORKER, str(fd), str(number)],
            pass_fds=[fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, do: str, kind: str = "requests", most: int = 0, times: int = 1) -> None:
        """Let it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{do} {kind} {most} {times}\n")
        self.process.stdin.flush()

    def said(self) -> str:
        """Its answer."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it as nobody can prevent."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def daemon() -> Iterator[tuple[int, list[Worker]]]:
    """Workers that are all ready, and their memory."""
    fd = new_ledger()
    make_room(fd, len(ACCOUNTS))
    workers = [Worker(fd, number) for number in range(WORKERS)]
    for worker in workers:
        worker.tell("leave", times=0)
    assert [worker.said() for worker in workers] == ["0"] * WORKERS
    try:
        yield fd, workers
    finally:
        for worker in workers:
            if worker.process.returncode is None:
                worker.kill()
        os.close(fd)


def agent(**limits: int) -> Client:
    """The client of whom the workers speak."""
    return Client(name="agent", networks=(IPNetwork("127.0.0.0/8"),), limits=Rates(**limits))


@pytest.mark.parametrize(
    ("do", "kind", "most"),
    [
        pytest.param("admit", "requests", 1000, id="places"),
        pytest.param("admit", "requests_per_second", 1000, id="rate"),
        pytest.param("leave", "requests_per_second", 1000, id="rate-of-those-that-end"),
        pytest.param("enter", "requests", 1000, id="connections"),
    ],
)
def test_all_processes_together_get_exactly_as_much_as_there_is(do: str, kind: str, most: int) -> None:
    """All at once, each asking for all of it: not one too many, and not one lost."""
    with daemon() as (_, workers):
        for worker in workers:
            worker.tell(do, kind, most, times=most)
        assert sum(int(worker.said()) for worker in workers) == most


def test_a_worker_that_is_killed_leaves_its_places_to_who_strikes_them_out() -> None:
    """Before that they stay taken: the supervisor knows who is dead, and nobody else does."""
    with daemon() as (fd, workers):
        for worker in workers[:2]:
            worker.tell("admit", "requests", 10, times=5)
            assert worker.said() == "5"
        workers[0].kill()
        workers[2].tell("admit", "requests", 10, times=10)
        assert workers[2].said() == "0"
        strike_out(fd, 0)
        workers[2].tell("admit", "requests", 10, times=10)
        assert workers[2].said() == "5"


def test_a_worker_that_is_killed_while_it_holds_the_lock_holds_up_nobody() -> None:
    """The kernel takes the lock from it (fcntl(2)); the one that waits for it, and those who come, go on."""
    with daemon() as (fd, workers):
        holder, waiting, *_ = workers
        holder.tell("lock")
        assert holder.said() == "locked"
        with pytest.raises(BlockingIOError):
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiting.tell("admit", "requests", 10, times=1)
        holder.kill()
        assert waiting.said() == "1"
        strike_out(fd, 0)
        ledger = Ledger(os.dup(fd), 3, WORKERS, ACCOUNTS, lambda: 1000.0)
        said = [ledger.admit(agent(requests=2), Limits(), tunnel=False) for _ in range(2)]
        assert [isinstance(each, Over) for each in said] == [False, True]
        assert said[1] == Over(Reason.CONCURRENCY_LIMIT)
        ledger.close()
