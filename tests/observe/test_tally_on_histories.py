"""Whatever happens, in whatever order: the figures are what a plain count over the records says."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxyd.observe.tally import KINDS, Tally, new_tally, read_totals, strike_out
from tests.observe.counted import WORKERS, record

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject

    from proxyd.audit.record import Record


class Counted(RuleBasedStateMachine):
    """Workers count, die and come back, and reloads add clients. Beside them everything is counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.fd = new_tally(WORKERS)
        self.accounts = ["", "agent"]
        self.workers = [self._new(place) for place in range(WORKERS)]
        self.open: dict[Record, tuple[int, str]] = {}
        self.pending: dict[Record, int] = {}
        self.decided: Counter[tuple[str, str, str]] = Counter()
        self.ended: Counter[tuple[str, str, str]] = Counter()
        self.octets: Counter[tuple[str, str]] = Counter()
        self.plain: Counter[str] = Counter()
        self.number = 0

    def _new(self, place: int) -> Tally:
        return Tally(os.dup(self.fd), place, self.accounts)

    def _account(self, client: str | None) -> str:
        return client if client in self.accounts else ""

    @rule(
        place=st.integers(0, WORKERS - 1),
        client=st.sampled_from(["agent", "client-2", "client-3", None]),
        kind=st.sampled_from(KINDS),
        scheme=st.sampled_from(["http", "connect", None]),
        written=st.booleans(),
    )
    def decide(
        self, place: int, client: str | None, kind: tuple[str, str], scheme: str | None, *, written: bool
    ) -> None:
        """A decision: on record, or not yet."""
        self.number += 1
        verdict, reason = kind
        one = record(number=self.number, client=client, verdict=verdict, reason=reason or None, scheme=scheme)
        if written:
            self._write(place, one)
        else:
            self.workers[place].unwritten(one)
            self.plain["unwritten"] += 1
            self.pending[one] = place

    def _write(self, place: int, one: Record) -> None:
        self.workers[place].count(one)
        account = self._account(one.client)
        self.decided[account, one.verdict or "", one.reason or ""] += 1
        self.open[one] = place, account

    @precondition(lambda self: self.open or self.pending)
    @rule(
        data=st.data(),
        kind=st.sampled_from(KINDS),
        up=st.integers(0, 2**40),
        down=st.integers(0, 2**40),
        late=st.booleans(),
        written=st.booleans(),
    )
    def end(self, data: DataObject, kind: tuple[str, str], up: int, down: int, *, late: bool, written: bool) -> None:
        """An end; a decision that was not on record comes before it, or never."""
        one = data.draw(st.sampled_from([*self.open, *self.pending]))
        place = self.pending.pop(one, None)
        if place is not None and late:
            self._write(place, one)
        elif place is not None:
            self.workers[place].unwritten(one)
            self.plain["unwritten"] += 1
        if one in self.open:
            place, _ = self.open.pop(one)
        assert place is not None
        verdict, reason = kind
        facts = {"event": "close", "verdict": verdict, "reason": reason or None, "bytes_up": up, "bytes_down": down}
        close = dataclasses.replace(one, **facts)  # type: ignore[arg-type] # fields of a Record
        (self.workers[place].count if written else self.workers[place].unwritten)(close)
        self.plain["unwritten"] += not written
        account = self._account(one.client)
        self.ended[account, verdict, reason] += 1
        self.octets[account, "up"] += up
        self.octets[account, "down"] += down

    @rule(place=st.integers(0, WORKERS - 1))
    def die(self, place: int) -> None:
        """Another one takes its place."""
        self.workers[place].close()
        strike_out(self.fd, place, len(self.accounts))
        self.workers[place] = self._new(place)
        self.open = {one: where for one, where in self.open.items() if where[0] != place}
        self.pending = {one: where for one, where in self.pending.items() if where != place}

    @precondition(lambda self: len(self.accounts) < 4)
    @rule()
    def reload(self) -> None:
        """A policy that knows one client more."""
        self.accounts.append(f"client-{len(self.accounts)}")
        for worker in self.workers:
            worker.change(os.dup(self.fd), self.accounts)

    @rule(place=st.integers(0, WORKERS - 1), come=st.integers(0, 3), dropped=st.integers(0, 3))
    def come(self, place: int, come: int, dropped: int) -> None:
        """Connections."""
        for _ in range(come):
            self.workers[place].accepted()
        for _ in range(dropped):
            self.workers[place].dropped()
        self.plain["connections"] += come
        self.plain["dropped"] += dropped

    @invariant()
    def totals_are_what_was_counted_by_hand(self) -> None:
        """R7: none is lost, none counts twice, and what is open is what has not ended; never less than nothing."""
        totals = read_totals(self.fd, WORKERS, self.accounts)
        decided = {(n, *kind): count for n, a in totals.accounts.items() for kind, count in a.decided.items()}
        ended = {(n, *kind): count for n, a in totals.accounts.items() for kind, count in a.ended.items()}
        assert (decided, ended) == (dict(self.decided), dict(self.ended))
        of_open = Counter((account, one.scheme == "connect") for one, (_, account) in self.open.items())
        for name, account in totals.accounts.items():
            assert (account.bytes_up, account.bytes_down) == (self.octets[name, "up"], self.octets[name, "down"])
            assert (account.tunnels, account.requests) == (of_open[name, True], of_open[name, False])
        for figure in ("connections", "dropped", "unwritten"):
            assert getattr(totals, figure) == self.plain[figure]

    def teardown(self) -> None:
        """Let go of it."""
        for worker in self.workers:
            worker.close()
        os.close(self.fd)


TestCounted = Counted.TestCase
