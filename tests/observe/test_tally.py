"""Records counted: what is open and what has ended, who it was, how long it took, and which worker lives."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.audit.record import Record
from proxyd.audit.schema import record_schema
from proxyd.observe.tally import (
    BOUNDS,
    KINDS,
    MOST_ACCOUNTS,
    RESTS,
    TIMED,
    OfAccount,
    Timed,
    Totals,
    new_tally,
    read_pulses,
    read_totals,
    strike_out,
)
from proxyd.policy.verdict import Reason
from tests.observe.counted import ACCOUNTS, WORKERS, counting, memory, record
from tests.serve.handed import open_files

NOBODY: Final = OfAccount({}, {}, 0, 0, 0, 0)
NO_TIME: Final = Timed((0,) * (len(BOUNDS) + 1), 0.0)


def of(fd: int, client: str = "agent") -> OfAccount:
    """What was counted of one client."""
    return read_totals(fd, WORKERS, ACCOUNTS).accounts[client]


# One request


def test_nothing_is_counted_to_begin_with() -> None:
    with memory() as fd:
        totals = read_totals(fd, WORKERS, ACCOUNTS)
    assert totals == Totals(
        tasks=0,
        connections=0,
        dropped=0,
        unwritten=0,
        timed=dict.fromkeys(TIMED, NO_TIME),
        accounts=dict.fromkeys(ACCOUNTS, NOBODY),
        pulses=(0.0,) * WORKERS,
    )


@pytest.mark.parametrize(
    ("scheme", "tunnels", "requests"),
    [("connect", 1, 0), ("http", 0, 1), pytest.param(None, 0, 1, id="malformed, so that nobody knows")],
)
def test_what_is_decided_is_open_until_it_ends(scheme: str | None, tunnels: int, requests: int) -> None:
    """R7, R10: the same kinds that the limits know; its octets count when it has ended."""
    with memory() as fd, counting(fd) as tally:
        tally.count(record(scheme=scheme))
        assert of(fd) == OfAccount({("allow", ""): 1}, {}, 0, 0, tunnels, requests)
        tally.count(record("close", scheme=scheme, bytes_up=3, bytes_down=5))
        assert of(fd) == OfAccount({("allow", ""): 1}, {("allow", ""): 1}, 3, 5, 0, 0)


def test_what_became_of_a_request_may_be_another_thing_than_what_was_decided() -> None:
    """R11: an origin that fails is an error, and was no denial; report mode says what would have been one."""
    with memory() as fd, counting(fd) as tally:
        tally.count(record())
        tally.count(record("close", verdict="error", reason="origin_closed"))
        tally.count(record(number=2, reason="not_allowlisted", would="deny"))
        tally.count(record("close", 2, verdict="deny", reason="tls_name"))
        assert of(fd) == OfAccount(
            {("allow", ""): 1, ("allow", "not_allowlisted"): 1},
            {("error", "origin_closed"): 1, ("deny", "tls_name"): 1},
            *(0, 0, 0, 0),
        )


def test_r7_what_could_not_be_written_is_no_decision_but_has_ended_all_the_same() -> None:
    """DESIGN: nothing is counted as a decision that is not on record; and nothing stays open that is over."""
    with memory() as fd, counting(fd) as tally:
        tally.unwritten(record())
        assert of(fd) == NOBODY
        tally.unwritten(record())
        tally.unwritten(record("close", bytes_up=1))
        tally.unwritten(record("stop"))
        assert of(fd) == OfAccount({}, {("allow", ""): 1}, 1, 0, 0, 0)
        assert read_totals(fd, WORKERS, ACCOUNTS).unwritten == 4


def test_a_decision_that_is_written_late_counts_then() -> None:
    """It is the late one that opens, and its end that closes."""
    with memory() as fd, counting(fd) as tally:
        tally.unwritten(record(scheme="connect"))
        tally.count(record(scheme="connect"))
        assert of(fd).tunnels == 1
        tally.unwritten(record("close"))
        assert of(fd) == OfAccount({("allow", ""): 1}, {("allow", ""): 1}, 0, 0, 0, 0)


def test_what_is_decided_twice_is_open_once() -> None:
    """Nobody does that; it would stay open for good."""
    with memory() as fd, counting(fd) as tally:
        for _ in range(2):
            tally.count(record())
        for _ in range(2):
            tally.count(record("close"))
        assert (of(fd).decided, of(fd).requests) == ({("allow", ""): 2}, 0)


def test_a_request_without_an_id_is_never_open() -> None:
    with memory() as fd, counting(fd) as tally:
        nameless = dataclasses.replace(record(), id=None)
        tally.count(nameless)
        tally.count(dataclasses.replace(nameless, event="close"))
        assert (of(fd).requests, of(fd).ended) == (0, {("allow", ""): 1})


@pytest.mark.parametrize("event", ["start", "stop", "reload"])
def test_what_says_nothing_of_a_request_is_not_counted(event: str) -> None:
    with memory() as fd, counting(fd) as tally:
        tally.count(Record(time="now", event=event, pid=1))
        assert read_totals(fd, WORKERS, ACCOUNTS).accounts == dict.fromkeys(ACCOUNTS, NOBODY)


@pytest.mark.parametrize("client", [None, "", "never heard of"])
def test_r2_who_is_no_client_is_counted_as_nobody(client: str | None) -> None:
    """A name that a stranger makes up gets no figure of its own."""
    with memory() as fd, counting(fd) as tally:
        tally.count(record(client=client, verdict="deny", reason="client_unknown"))
        assert of(fd, "").decided == {("deny", "client_unknown"): 1}
        assert (of(fd), of(fd, "other")) == (NOBODY, NOBODY)


def test_clients_beyond_those_that_there_is_room_for_are_counted_as_nobody() -> None:
    """The last one for whom there is room has a figure of its own, and the one behind writes into nobody else's."""
    names = ("", *(f"client-{number}" for number in range(1, MOST_ACCOUNTS + 2)))
    with memory(2) as fd, counting(fd, 0, names) as tally, counting(fd, 1, names) as neighbour:
        neighbour.beat(7.0, 3)
        for kind in KINDS:
            neighbour.count(record("close", client=None, verdict=kind[0], reason=kind[1] or None))
        for number, name in enumerate(names[-3:]):
            tally.count(record(number=number, client=name, scheme="connect"))
        totals = read_totals(fd, 2, names)
        strike_out(fd, 0, len(names))
        after = read_totals(fd, 2, names)
    counted = {name: account for name, account in totals.accounts.items() if account != NOBODY}
    one = OfAccount({("allow", ""): 1}, {}, 0, 0, 1, 0)
    nobody = OfAccount({("allow", ""): 2}, dict.fromkeys(KINDS, 1), 0, 0, 2, 0)
    assert counted == {"": nobody, names[-3]: one}
    assert (len(totals.accounts), totals.pulses) == (MOST_ACCOUNTS, (0.0, 7.0))
    assert after == dataclasses.replace(
        totals,
        accounts=totals.accounts
        | {"": dataclasses.replace(nobody, tunnels=0), names[-3]: dataclasses.replace(one, tunnels=0)},
    ), "and what the one who lives has counted is untouched"


def test_every_kind_that_a_record_can_be_of_is_counted() -> None:
    """Whatever verdict the schema knows, with every reason there is and none; one that was not would break the log."""
    (decision,) = (
        each["properties"] for each in record_schema()["oneOf"] if each["properties"]["event"]["const"] == "decision"
    )
    verdicts = decision["verdict"]["enum"]
    possible = {(verdict, reason) for verdict in verdicts for reason in ("", *map(str, Reason))}
    assert set(KINDS) == possible
    with memory(1) as fd, counting(fd) as tally:
        for number, (verdict, reason) in enumerate(KINDS):
            for _ in range(number + 1):
                tally.count(record(verdict=verdict, reason=reason or None))
            tally.count(record("close", verdict=verdict, reason=reason or None))
        account = read_totals(fd, 1, ACCOUNTS).accounts["agent"]
    assert account.decided == {kind: number + 1 for number, kind in enumerate(KINDS)}
    assert account.ended == dict.fromkeys(KINDS, 1)


# Time


@pytest.mark.parametrize("what", TIMED)
@pytest.mark.parametrize(
    ("seconds", "interval"),
    [
        *((bound, number) for number, bound in enumerate(BOUNDS)),
        *((math.nextafter(bound, math.inf), number + 1) for number, bound in enumerate(BOUNDS)),
        (0.0, 0),
        (-0.0, 0),
        (86_400.0 * 365, len(BOUNDS)),
    ],
)
def test_what_took_as_long_as_a_bound_is_within_it(what: str, seconds: float, interval: int) -> None:
    """Prometheus calls them "le": less or equal. And each is counted as itself."""
    with memory() as fd, counting(fd, 1) as tally:
        tally.took(what, seconds)
        timed = read_totals(fd, WORKERS, ACCOUNTS).timed
    counts = tuple(int(number == interval) for number in range(len(BOUNDS) + 1))
    assert timed == dict.fromkeys(TIMED, NO_TIME) | {what: Timed(counts, seconds)}


@given(st.lists(st.floats(min_value=0, max_value=1e6)))
def test_whatever_took_how_long_is_within_one_interval_and_in_the_sum(times: list[float]) -> None:
    with memory(1) as fd, counting(fd) as tally:
        for seconds in times:
            tally.took("dns", seconds)
        timed = read_totals(fd, 1, ACCOUNTS).timed["dns"]
    assert sum(timed.counts) == len(times)
    for number, bound in enumerate(BOUNDS):
        assert sum(timed.counts[: number + 1]) == sum(seconds <= bound for seconds in times)
    assert timed.seconds == pytest.approx(math.fsum(times))


def test_a_thing_that_nobody_times_is_a_bug() -> None:
    with memory() as fd, counting(fd) as tally, pytest.raises(ValueError, match="not in tuple"):
        tally.took("coffee", 1.0)


def test_the_bounds_rise_and_hold_the_patience_of_a_client() -> None:
    """4.5 s is all there is until a CONNECT is answered (CLIENT): slower than that is beyond the last but one."""
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert BOUNDS[-2] < 4.5 < BOUNDS[-1]


# Signs of life


def test_each_worker_has_a_pulse_of_its_own_until_it_rests_or_dies() -> None:
    with memory() as fd, counting(fd, 0) as one, counting(fd, 2) as two:
        one.beat(3.0, 10)
        two.beat(4.0, 7)
        one.beat(5.0, 11)
        assert read_pulses(fd, WORKERS) == read_totals(fd, WORKERS, ACCOUNTS).pulses == (5.0, 0.0, 4.0)
        assert read_totals(fd, WORKERS, ACCOUNTS).tasks == 11 + 7
        one.rest()
        strike_out(fd, 2, len(ACCOUNTS))
        assert read_pulses(fd, WORKERS) == (RESTS, 0.0, 0.0)
        assert read_totals(fd, WORKERS, ACCOUNTS).tasks == 11, "who rests still has those that it waits for"


# Memory


def test_memory_that_nobody_touches_is_none() -> None:
    """64 workers and thousands of clients may be counted; a host with one of each pays for one of each."""
    with memory(64) as fd:
        read_totals(fd, 64, ("",) * MOST_ACCOUNTS)
        read_pulses(fd, 64)
        assert os.fstat(fd).st_blocks == 0
        with counting(fd, 63) as tally:
            tally.count(record())
            assert 0 < os.fstat(fd).st_blocks * 512 <= 4 * os.sysconf("SC_PAGE_SIZE")


def test_no_file_is_left_open_by_a_worker_whatever_it_changed_to() -> None:
    """A reload every minute would use them up within a day."""
    with memory() as fd:
        before = open_files()
        with counting(fd) as tally:
            inside = len(open_files())
            for _ in range(3):
                tally.change(os.dup(fd), ACCOUNTS)
            assert len(open_files()) == inside
            tally.count(record())
        assert open_files() == before
        assert of(fd).requests == 1, "what one has counted stays"


def test_a_process_that_is_started_does_not_inherit_it() -> None:
    """Nobody counts here but those who are handed it."""
    with memory() as fd:
        assert not os.get_inheritable(fd)


def test_after_a_reload_new_clients_are_counted_apart_and_the_others_as_before() -> None:
    """R10: who was counted as nobody by then stays counted so, and what is open ends where it was opened."""
    with memory() as fd, counting(fd, 0, ("", "agent")) as tally:
        tally.count(record(client="agent"))
        tally.count(record(number=2, client="other"))
        tally.change(os.dup(fd), ACCOUNTS)
        assert (of(fd, "").requests, of(fd, "other")) == (1, NOBODY)
        tally.count(record(number=3, client="other"))
        tally.count(record("close", 2, client="other"))
        assert (of(fd, "").requests, of(fd, "other").requests, of(fd, "agent").requests) == (0, 1, 1)


def test_memory_that_cannot_be_had_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "ftruncate", refused)
    files = open_files()
    with pytest.raises(OSError, match="too large"):
        new_tally(1)
    assert open_files() == files
