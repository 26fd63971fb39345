"""The fold over the audit log: each request once, each correction where it belongs, and nothing in it is trusted."""

from __future__ import annotations

import datetime as dt
import json
import tracemalloc
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from proxyd.audit import summary as summary_module
from proxyd.audit.summary import UNREADABLE, Summary, as_json, percentiles
from tests.observe.synthetic import records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LATEST = dt.datetime(2030, 1, 1, tzinfo=dt.UTC).timestamp()
TIME = "2026-11-21T10:00:00.000Z"
SECONDS = dt.datetime(2026, 11, 21, 10, tzinfo=dt.UTC).timestamp()
DECISION: dict[str, Any] = {
    "event": "decision",
    "time": TIME,
    "id": "1",
    "client": "agent",
    "client_address": "127.0.0.1",
    "scheme": "http",
    "host": "a.com",
    "port": 80,
    "verdict": "allow",
    "reason": None,
    "rule": "default",
    "would": None,
    "policy": "p",
    "digest": "d",
    "dns_ms": 4.0,
}
CLOSE = DECISION | {"event": "close", "bytes_up": 10, "bytes_down": 200, "connect_ms": 5.0, "duration_ms": 2000.0}
DENIED = {"verdict": "deny", "reason": "address_denied", "rule": "rfc1918"}
ERROR = {"verdict": "error", "reason": "connect_refused", "rule": "default"}


def folded(entries: Iterable[dict[str, Any]]) -> Summary:
    """The summary of these."""
    summary = Summary(LATEST)
    for entry in entries:
        summary.add(entry)
    return summary


def outline(summary: Summary) -> tuple[int, int, int, int, int]:
    """Requests, allowed, denied, failed, and what has not ended yet."""
    totals = summary.totals
    return totals.requests, totals.allowed, totals.denied, totals.failed, summary.under_way


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([DECISION, CLOSE], (1, 1, 0, 0, 0)),
        ([DECISION], (1, 1, 0, 0, 1)),
        ([DECISION | DENIED, CLOSE | DENIED], (1, 0, 1, 0, 0)),
        ([DECISION | DENIED], (1, 0, 1, 0, 1)),  # it was killed between the two
        ([DECISION | ERROR, CLOSE | ERROR], (1, 0, 0, 1, 0)),
        ([DECISION, CLOSE | DENIED | {"reason": "tls_name"}], (1, 0, 1, 0, 0)),
        ([DECISION, CLOSE | ERROR], (1, 0, 0, 1, 0)),
        ([DECISION | DENIED, CLOSE | DENIED, DECISION, CLOSE | ERROR], (2, 0, 1, 1, 0)),  # an id that comes again
        ([CLOSE], (0, 0, 0, 0, 0)),  # its decision is in an older file
        ([CLOSE, DECISION], (1, 1, 0, 0, 1)),
    ],
)
def test_a_request_is_counted_once_with_what_became_of_it(
    entries: list[dict[str, Any]], expected: tuple[int, ...]
) -> None:
    summary = folded(entries)
    assert outline(summary) == expected
    for top in (summary.destinations, summary.clients):
        ((_, figures),) = top.all()
        assert (figures.requests, figures.denied, figures.failed) == (expected[0], expected[2], expected[3])
    assert sum(each.denied for _, each in summary.timeline.drawn()) == expected[2]


def test_a_later_denial_counts_when_the_request_was_made() -> None:
    """A tunnel that is revoked after an hour is a denial of an hour ago, or its step had more denials than requests."""
    later = "2026-11-21T11:00:00.000Z"
    summary = folded([DECISION, CLOSE | DENIED | {"time": later, "duration_ms": 3_600_000}])
    steps = list(summary.timeline.drawn())
    assert [figures.denied for _, figures in steps if figures.requests] == [1]
    assert sum(figures.down for _, figures in steps[-1:]) == 200
    assert summary.totals.last == SECONDS


def test_reasons_rules_and_who_asked_for_what() -> None:
    summary = folded([DECISION | DENIED, CLOSE | DENIED, DECISION | DENIED | {"id": "9", "client": "other"}])
    assert [(key, figures.requests, figures.id) for key, figures in summary.reasons.largest(9)] == [
        (("deny", "address_denied", "rfc1918"), 2, "9")
    ]
    assert [key for key, _ in summary.refusals["deny"].largest(9)] == [
        ("agent", "a.com:80", "address_denied", "rfc1918"),
        ("other", "a.com:80", "address_denied", "rfc1918"),
    ]
    assert not list(summary.refusals["error"].all())


def test_report_mode_is_counted_as_allowed_and_as_what_it_would_be() -> None:
    summary = folded(
        [DECISION | {"would": "deny", "reason": "not_allowlisted", "rule": "x"}, CLOSE | {"would": "deny"}]
    )
    assert (summary.would_deny, summary.totals.allowed) == (1, 1)
    assert [key for key, _ in summary.refusals["would"].all()] == [("agent", "a.com:80", "not_allowlisted", "x")]


def test_octets_times_and_the_slowest() -> None:
    tunnel = CLOSE | {"scheme": "connect", "connect_ms": 7.0, "host": "b.com", "duration_ms": 60_000}
    summary = folded([DECISION, CLOSE, tunnel, CLOSE | {"verdict": "error", "connect_ms": None}])
    assert (summary.totals.up, summary.totals.down) == (30, 600)
    assert {name: histogram.count for name, histogram in summary.timed.items()} == {
        "lookup": 1,
        "connect": 2,
        "request": 1,
        "tunnel": 1,
    }
    assert [(slow.ms, slow.destination) for slow in summary.slowest["connect"].sorted()] == [
        (7.0, "b.com:80"),
        (5.0, "a.com:80"),
    ]
    assert percentiles(summary.timed["tunnel"])["longest"] == 60_000


def test_starts_stops_and_reloads() -> None:
    reload = {"event": "reload", "time": TIME, "outcome": "refused", "problems": ["a", "b"], "policy": "p"}
    start = {"event": "start", "time": "x", "listening": ["127.0.0.1:3128", 5], "policy": "p", "digest": "e"}
    summary = folded([start, reload, {"event": "stop"}])
    assert summary.event_counts == {"start": 1, "stop": 1, "reload": 1}
    assert [(each.when, each.event, each.told) for each in summary.events] == [
        (None, "start", "127.0.0.1:3128"),
        (SECONDS, "reload", "refused, a, b"),
        (None, "stop", ""),
    ]
    assert {key for key, _ in summary.policies.all()} == {("p", "e"), ("p", "-"), ("-", "-")}


@pytest.mark.parametrize(
    ("record", "client", "destination"),
    [
        ({}, "agent", "a.com:80"),
        ({"client": None}, "nobody, from 127.0.0.1", "a.com:80"),
        ({"client": None, "client_address": None}, "nobody, from -", "a.com:80"),
        ({"host": None, "port": None}, "agent", UNREADABLE),
        ({"host": "::1", "port": 65535}, "agent", "[::1]:65535"),
        ({"port": 65536}, "agent", "a.com:?"),
        ({"port": True}, "agent", "a.com:?"),
        ({"port": "80"}, "agent", "a.com:?"),
        ({"client": ["x"], "host": {"x": 1}}, "nobody, from 127.0.0.1", UNREADABLE),
        ({"host": "x" * 60_000}, "agent", f"{'x' * 255}:80"),
    ],
)
def test_who_and_where(record: dict[str, Any], client: str, destination: str) -> None:
    summary = folded([DECISION | record])
    assert [key for key, _ in summary.clients.all()] == [(client,)]
    assert [key for key, _ in summary.destinations.all()] == [(destination,)]
    assert list(summary.reached()) == [destination]
    assert not list(folded([DECISION | DENIED]).reached())


ODD: tuple[object, ...] = (
    *(None, True, -1, -1.5, 0, 1e308, float("inf"), float("-inf"), float("nan"), 10**4000, "", "x", "\x1b[2J\u202e"),
    *([], ["x", None, []], {}, {"a": {}}, "\ud800", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "10000"),
)


@pytest.mark.parametrize("event", ["start", "decision", "close", "stop", "reload"])
def test_attack_9_any_field_may_be_of_any_type(event: str) -> None:
    """Another program may have written it; what cannot be is left out, and the rest is counted."""
    names = sorted(DECISION.keys() | CLOSE.keys() | {"outcome", "problems", "listening", "changes"} - {"event"})
    odd = [CLOSE | {"event": event, name: value} for name, value in product(names, ODD) if name != "event"]
    summary = folded([*odd, DECISION | {"id": "last"}])
    assert summary.totals.requests == 1 + (len(odd) if event == "decision" else 0)
    assert sum(summary.event_counts.values()) == (len(odd) if event in ("start", "stop", "reload") else 0)
    json.loads(json.dumps(as_json(summary), allow_nan=False))
    times = [begin for begin, _ in summary.timeline.drawn()]
    assert times
    assert times[-1] - times[0] < 7200


@pytest.mark.parametrize(
    "time", ["2031-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "x", 5, None, "9999-12-31T23:59:59-23:59"]
)
def test_a_time_that_cannot_be_is_none(time: object) -> None:
    summary = folded([DECISION | {"time": time}, CLOSE | DENIED | {"time": time}])
    assert (summary.first, summary.last) == (None, None)
    assert (summary.timeline.nowhere.requests, summary.timeline.nowhere.denied) == (1, 1)


def test_the_period_and_times_without_a_zone() -> None:
    summary = folded([DECISION | {"time": time} for time in (TIME, "2026-11-21T09:00:00", "2026-11-21T13:30:00+01:00")])
    assert (summary.first, summary.last) == (SECONDS - 3600, SECONDS + 9000)


def made_up(number: int) -> Iterator[dict[str, Any]]:
    """So many requests, each to a name and from an address that were never seen before, half of them refused."""
    for each in range(number):
        host = {"host": f"{each:x}.example", "id": f"{each:016x}", "client": None, "client_address": f"{each:x}"}
        yield DECISION | host | (DENIED if each % 2 else {})
        if each % 3:
            yield CLOSE | host | (DENIED if each % 2 else {})


def test_attack_8_names_that_are_made_up_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 40,000 of them leave behind is what 10,000 leave."""
    for name, value in (("DESTINATIONS", 512), ("OTHERS", 256), ("_UNDER_WAY", 512)):
        monkeypatch.setattr(summary_module, name, value)
    held = []
    for number in (10_000, 40_000):
        tracemalloc.start()
        summary = folded(made_up(number))
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert summary.forgot
        assert summary.totals.requests == number
        assert len(summary.destinations) <= 1024
    assert held[1] < 1.2 * held[0]


def test_attack_8_refusals_that_never_end_are_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that were forgotten count as two denials more, where the log lost the closings of a thousand."""
    monkeypatch.setattr(summary_module, "_UNDER_WAY", 3)
    entries = [DECISION | DENIED | {"id": str(number)} for number in range(5)]
    entries += [CLOSE | DENIED | {"id": str(number)} for number in range(5)]
    assert folded(entries).totals.denied == 7


def test_the_same_as_json() -> None:
    told = as_json(folded([*records(500), DECISION | {"would": "deny"}]), 5)
    assert told["schema"] == 1
    assert (told["from"], told["requests"], told["would_deny"], told["under_way"]) == (
        "2026-11-20T00:00:00.000Z",
        501,
        1,
        1,
    )
    assert told["requests"] == told["allowed"] + told["denied"] + told["failed"]
    assert sum(step["requests"] for step in told["over_time"]["steps"]) == 501
    assert [len(told[name]) for name in ("destinations", "clients")] == [5, 5]
    assert told["refusals"]["would"][0] | {"id": "1"} == {
        "client": "agent",
        "destination": "a.com:80",
        "reason": "-",
        "rule": "default",
        "requests": 1,
        "last": TIME,
        "id": "1",
    }
    assert told["slowest"]["lookup"][0]["ms"] == told["milliseconds"]["lookup"]["longest"]
    assert told["policies"] == [{"policy": "gateway", "digest": "5c0c744d8041677c"}, {"policy": "p", "digest": "d"}]
    assert not told["lower_bounds"]
    assert as_json(Summary(LATEST))["from"] is None
