"""What is used of the limits: for all workers together, whatever becomes of one of them (R10, ATTACKS 8).

As several views of one memory, in this process; as real processes, in `test_ledger_on_processes`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from netaddr import IPNetwork

from proxyd.policy.client import Client, Rates
from proxyd.policy.limits import Over
from proxyd.policy.model import Limits
from proxyd.policy.verdict import Reason
from proxyd.serve.ledger import EVERYBODY, MOST_WORKERS, Ledger, Place, make_room, new_ledger, strike_out

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNTS: Final = (EVERYBODY, "agent", "other")
FREE: Final = Limits()
MANY: Final = 1000


def client(name: str = "agent", **limits: int) -> Client:
    """One with these limits."""
    return Client(name=name, networks=(IPNetwork("127.0.0.0/8"),), limits=Rates(**limits))


@dataclass
class Daemon:
    """Several workers with one memory, and a clock that all of them see."""

    fd: int
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.opened: list[Ledger] = []

    def worker(self, number: int = 0, workers: int = 3, accounts: tuple[str, ...] = ACCOUNTS) -> Ledger:
        """The view of one of them."""
        ledger = Ledger(os.dup(self.fd), number, workers, accounts, lambda: self.now)
        self.opened.append(ledger)
        return ledger


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """One whose workers have nothing under way."""
    daemon = Daemon(new_ledger())
    make_room(daemon.fd, len(ACCOUNTS))
    yield daemon
    for ledger in daemon.opened:
        ledger.close()
    os.close(daemon.fd)


def admitted(ledger: Ledger, who: Client, limits: Limits = FREE, *, tunnel: bool = False) -> Place:
    """A place that there must be."""
    place = ledger.admit(who, limits, tunnel=tunnel)
    assert isinstance(place, Place), place
    return place


def over(ledger: Ledger, who: Client, limits: Limits = FREE, *, tunnel: bool = False) -> Over:
    """The limit that must be reached."""
    said = ledger.admit(who, limits, tunnel=tunnel)
    assert isinstance(said, Over)
    return said


# Places


@pytest.mark.parametrize("tunnel", [True, False])
@pytest.mark.parametrize("whose", ["client", "everybody"])
def test_places_are_those_of_all_workers_together(daemon: Daemon, whose: str, *, tunnel: bool) -> None:
    """As many as there are, wherever they are taken; one that is left is anybody's."""
    most: dict[str, Any] = {"tunnels" if tunnel else "requests": 5}
    who, limits = (client(**most), FREE) if whose == "client" else (client(), Limits(**most))
    reason = Reason.CONCURRENCY_LIMIT if whose == "client" else Reason.OVERLOADED
    workers = [daemon.worker(number) for number in range(3)]
    places = [admitted(workers[number % 3], who, limits, tunnel=tunnel) for number in range(5)]
    for worker in workers:
        assert over(worker, who, limits, tunnel=tunnel) == Over(reason)
        admitted(worker, who, limits, tunnel=not tunnel).leave()  # the other kind has places of its own
    for place in places:
        place.leave()
        admitted(workers[2], who, limits, tunnel=tunnel).leave()
    assert [admitted(workers[0], who, limits, tunnel=tunnel) for _ in range(5)]
    over(workers[1], who, limits, tunnel=tunnel)


def test_a_client_that_is_at_its_limit_leaves_room_for_another(daemon: Daemon) -> None:
    """429 is the client's own doing, and 503 everybody's."""
    ledger, limits = daemon.worker(), Limits(requests=3)
    agent, other = client(requests=2), client("other", requests=2)
    places = [admitted(ledger, agent, limits) for _ in range(2)]
    assert over(ledger, agent, limits).reason is Reason.CONCURRENCY_LIMIT
    places.append(admitted(ledger, other, limits))
    assert over(ledger, other, limits).reason is Reason.OVERLOADED
    assert over(ledger, agent, limits).reason is Reason.CONCURRENCY_LIMIT
    for place in places:
        place.leave()
    admitted(ledger, other, limits)


def test_who_was_refused_takes_no_place(daemon: Daemon) -> None:
    """Nor one of everybody's: a client at its limit that goes on asking would else keep the others out."""
    ledger, limits = daemon.worker(), Limits(requests=2)
    agent, other = client(requests=1), client("other")
    place = admitted(ledger, agent, limits)
    for _ in range(10):
        over(ledger, agent, limits)
    admitted(ledger, other, limits).leave()
    place.leave()
    admitted(ledger, agent, limits)


def test_what_has_no_limit_is_not_counted(daemon: Daemon) -> None:
    """It costs nothing: the memory is not even looked at."""
    ledger = daemon.worker()
    ledger.close()
    daemon.opened.clear()
    for tunnel in (True, False):
        admitted(ledger, client(), tunnel=tunnel).leave()


@pytest.mark.parametrize("most", [1, 3])
def test_connections_are_those_of_all_workers_together(daemon: Daemon, most: int) -> None:
    """limits.connections is the daemon's; who leaves makes room, in whichever worker they were."""
    workers = [daemon.worker(number) for number in range(3)]
    places = []
    for number in range(most):
        place = workers[number].enter(most, MANY)
        assert place is not None
        places.append(place)
    assert [worker.enter(most, MANY) for worker in workers] == [None, None, None]
    for place in places:
        place.leave()
        again = workers[0].enter(most, MANY)
        assert again is not None
        assert workers[1].enter(most, MANY) is None


def test_a_worker_has_no_more_connections_than_it_has_files_for(daemon: Daemon) -> None:
    """ATTACKS 8 (EMFILE): whatever the daemon may have; the others have room still."""
    small, large = daemon.worker(0), daemon.worker(1)
    places = [small.enter(MANY, 2) for _ in range(3)]
    assert [place is not None for place in places] == [True, True, False]
    assert large.enter(MANY, 2) is not None
    assert places[0] is not None
    places[0].leave()
    assert small.enter(MANY, 2) is not None
    assert small.enter(MANY, 2) is None


def test_connections_requests_and_tunnels_do_not_mix(daemon: Daemon) -> None:
    """Each is counted by itself: a column is three numbers."""
    ledger, who = daemon.worker(), client(requests=1, tunnels=1)
    held = [ledger.enter(1, MANY), admitted(ledger, who), admitted(ledger, who, tunnel=True)]
    assert ledger.enter(1, MANY) is None
    for place in held:
        assert place is not None
        place.leave()
    assert ledger.enter(1, MANY) is not None
    admitted(ledger, who)
    admitted(ledger, who, tunnel=True)


# Rates


def test_rates_are_those_of_all_workers_together_and_come_back_with_time(daemon: Daemon) -> None:
    """A second's worth at once, whichever workers are asked; then one each tenth of a second."""
    who = client(requests_per_second=10)
    workers = [daemon.worker(number) for number in range(3)]
    for number in range(10):
        admitted(workers[number % 3], who).leave()
    assert over(workers[1], who) == Over(Reason.RATE_LIMIT, 1)
    daemon.now += 0.1
    admitted(workers[2], who)
    assert over(workers[0], who).reason is Reason.RATE_LIMIT


@pytest.mark.parametrize("full", ["client", "everybody"])
def test_a_token_is_spent_whatever_becomes_of_the_request(daemon: Daemon, full: str) -> None:
    """DESIGN: else who is refused for want of a place could ask without end, and for nothing."""
    who = client(requests_per_second=3, requests=1 if full == "client" else 0)
    limits = Limits(requests=0 if full == "client" else 1)
    ledger = daemon.worker()
    admitted(ledger, who, limits)
    reason = Reason.CONCURRENCY_LIMIT if full == "client" else Reason.OVERLOADED
    assert [over(ledger, who, limits).reason for _ in range(3)] == [reason, reason, Reason.RATE_LIMIT]


def test_a_place_that_is_left_gives_no_token_back(daemon: Daemon) -> None:
    """A rate is of beginnings, however soon they end."""
    ledger, who = daemon.worker(), client(requests_per_second=2)
    for _ in range(2):
        admitted(ledger, who).leave()
    over(ledger, who)


def test_everybodys_rate_is_503_and_costs_the_client_nothing(daemon: Daemon) -> None:
    """It is not the client's doing, and Retry-After says when there will be room."""
    ledger, limits = daemon.worker(), Limits(requests_per_second=1)
    who = client(requests_per_second=2)
    admitted(ledger, client("other"), limits)
    for _ in range(5):
        assert over(ledger, who, limits) == Over(Reason.OVERLOADED, 1)
    for _ in range(2):
        admitted(ledger, who)
    assert over(ledger, who).reason is Reason.RATE_LIMIT


def test_tunnels_have_a_rate_of_their_own_and_are_requests_too(daemon: Daemon) -> None:
    """A client that may open one tunnel a second may still send its other requests."""
    ledger, who = daemon.worker(), client(requests_per_second=3, tunnels_per_second=1, burst=3)
    for _ in range(2):
        admitted(ledger, who, tunnel=True)
    admitted(ledger, who)
    assert over(ledger, who).reason is Reason.RATE_LIMIT
    daemon.now += 1.0
    for _ in range(2):
        admitted(ledger, who, tunnel=True)
    assert over(ledger, who, tunnel=True) == Over(Reason.RATE_LIMIT, 1)
    admitted(ledger, who)


def test_retry_after_is_when_there_will_be_a_token(daemon: Daemon) -> None:
    """To the second; asking again then helps, and a moment sooner does not."""
    ledger, limits = daemon.worker(), Limits(requests_per_second=1)
    admitted(ledger, client(), limits)
    said = over(ledger, client(), limits)
    daemon.now += said.retry_after - 0.001
    over(ledger, client(), limits)
    daemon.now += 0.001
    admitted(ledger, client(), limits)


# Other policies, other workers


def test_accounts_keep_their_numbers_when_more_come(daemon: Daemon) -> None:
    """What is under way is counted on under the new policy, and left where it was taken; rates are not begun anew."""
    changing, other = daemon.worker(0), daemon.worker(1)
    who, late = client(requests=2, requests_per_second=3), client("late", requests=1)
    place = admitted(changing, who)
    inside = changing.enter(2, MANY)
    assert inside is not None
    make_room(daemon.fd, 4)
    for ledger in (changing, other):
        ledger.change(os.dup(daemon.fd), (*ACCOUNTS, "late"))
    held = [admitted(other, who), admitted(other, late)]
    assert over(changing, who).reason is Reason.CONCURRENCY_LIMIT
    assert over(changing, late).reason is Reason.CONCURRENCY_LIMIT
    assert other.enter(1, MANY) is None
    place.leave()
    inside.leave()
    assert over(changing, who).reason is Reason.RATE_LIMIT, "two were admitted, a third was one too many"
    held[1].leave()
    admitted(changing, late)


def test_the_memory_only_grows() -> None:
    """A policy with fewer clients shrinks nothing that another worker still looks at."""
    fd = new_ledger()
    sizes = []
    for accounts in (3, 1, 3, 4):
        make_room(fd, accounts)
        sizes.append(os.fstat(fd).st_size)
    assert sizes[0] == sizes[1] == sizes[2] < sizes[3]
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_what_a_dead_worker_had_under_way_is_struck_out_and_nothing_else(daemon: Daemon) -> None:
    """ATTACKS 8: it cannot say that it is over, and who comes after it begins with nothing; rates stay spent."""
    who = client(requests=2, tunnels=2, requests_per_second=6)
    dead, alive = daemon.worker(1), daemon.worker(2)
    for ledger in (dead, alive):
        admitted(ledger, who)
        admitted(ledger, who, tunnel=True)
        assert ledger.enter(2, MANY) is not None
    strike_out(daemon.fd, 1)
    heir = daemon.worker(1)
    admitted(heir, who)
    admitted(heir, who, tunnel=True)
    assert heir.enter(2, MANY) is not None
    assert alive.enter(2, MANY) is None
    assert over(alive, who).reason is Reason.RATE_LIMIT
    daemon.now += 1.0
    assert over(alive, who).reason is Reason.CONCURRENCY_LIMIT
    assert over(alive, who, tunnel=True).reason is Reason.CONCURRENCY_LIMIT


def test_the_last_worker_that_there_can_be_has_a_column(daemon: Daemon) -> None:
    """And it is not the next account's."""
    last, agent = daemon.worker(MOST_WORKERS - 1, MOST_WORKERS), client(requests=1)
    admitted(last, agent)
    over(daemon.worker(0, MOST_WORKERS), agent)
    admitted(last, client("other", requests=1))
    strike_out(daemon.fd, MOST_WORKERS - 1)
    for who in (agent, client("other", requests=1)):
        admitted(last, who)


def test_a_view_that_is_closed_has_no_file_open() -> None:
    """A worker that ends leaves the memory to the others."""
    fd = new_ledger()
    make_room(fd, 1)
    Ledger(fd, 0, 1, (EVERYBODY,), lambda: 0.0).close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
