"""The audit log in one pass and constant memory: what was asked for, what was refused, and what was slow.

One request has a decision record and a closing record. It is counted by its decision; a closing that says deny or error
where the decision said allow (a tunnel cut by `tls_name`, an origin that does not answer) corrects that. Nothing that
stands in a record is trusted: any field may be of any type, and a line may be there twice or not at all.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxyd.audit.record import timestamp
from proxyd.audit.sketch import Figures, Histogram, Slow, Slowest, Timeline, Top
from proxyd.policy.address import bracketed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxyd.audit.reader import Entry
    from proxyd.audit.sketch import Key

DESTINATIONS: Final = 4096
"""How many destinations are kept for sure; of twice as many the small are forgotten."""

OTHERS: Final = 1024  # the same for clients, and for what was refused to whom
EVENTS: Final = 50  # starts, stops and reloads that are told one by one, the last ones
SLOWEST: Final = 20
NOTHING: Final = "-"
"""Stands for a field that is null, or no text."""

UNREADABLE: Final = "(unreadable)"
"""Stands for the destination of a request that could not be read."""

REFUSALS: Final = ("deny", "error", "would")
"""What may become of a request that is not simply served; would: report mode let it through."""

TIMED: Final = ("lookup", "connect", "request", "tunnel")
"""What is timed; of the first two the slowest are told one by one."""

_UNDER_WAY: Final = 65536  # refusals whose closing record is yet to come
_LONGEST_TEXT: Final = 255
_LARGEST_NUMBER: Final = 1 << 53
_KINDS: Final = {"http": "request", "connect": "tunnel"}
_PORTS: Final = 65536


@dataclass(frozen=True, slots=True)
class Event:
    """A start, a stop or a reload. when is None where the record has no usable time."""

    when: float | None
    event: str
    policy: str
    digest: str
    told: str


class _Subject(NamedTuple):
    """What a record is about."""

    when: float | None
    decision: str
    client: str
    destination: str

    @classmethod
    def of(cls, entry: Entry, when: float | None) -> _Subject:
        return cls(when, _text(entry, "id"), _client(entry), _destination(entry))

    def earlier(self, ms: float) -> _Subject:
        """The same, so much before."""
        return self if self.when is None else self._replace(when=self.when - ms / 1000)


class Summary:
    """`add` every record, in any order that keeps a decision before its closing; then read what came of it.

    Besides totals: reasons by (verdict, reason, rule), refusals[verdict] by (client, destination, reason, rule),
    clients, destinations ("host:port") and policies (name, digest); all of these in the sense of `Top`.
    """

    def __init__(self, latest: float) -> None:
        """latest: seconds since the epoch; a record that claims to be from later has no usable time."""
        self.totals = Figures()
        self.would_deny = 0
        self.under_way = 0
        self.timeline = Timeline(latest)
        self.destinations = Top(DESTINATIONS)
        self.clients = Top(OTHERS)
        self.policies = Top(OTHERS)
        self.reasons = Top(OTHERS)
        self.refusals = {verdict: Top(OTHERS) for verdict in REFUSALS}
        self.timed = {name: Histogram() for name in TIMED}
        self.slowest = {name: Slowest(SLOWEST) for name in TIMED[:2]}
        self.events: deque[Event] = deque(maxlen=EVENTS)
        self.event_counts = dict.fromkeys(("start", "stop", "reload"), 0)
        self.first: float | None = None
        self.last: float | None = None
        self._refused: dict[str, None] = {}

    def add(self, entry: Entry) -> None:
        """Take a record into account."""
        when = self._time(entry)
        match entry["event"]:
            case "decision":
                self._decision(entry, _Subject.of(entry, when))
            case "close":
                self._close(entry, _Subject.of(entry, when))
            case event:
                self._event(event, entry, when)

    @property
    def forgot(self) -> bool:
        """Whether there was too much to keep, so that some figures are lower bounds."""
        tops = (self.destinations, self.clients, self.policies, self.reasons, *self.refusals.values())
        return any(top.forgotten for top in tops)

    def reached(self) -> Iterator[str]:
        """The destinations that somebody was let through to."""
        return (destination for (destination,), figures in self.destinations.all() if figures.allowed)

    def _decision(self, entry: Entry, subject: _Subject) -> None:
        self.under_way += 1
        self._note_policy(entry)
        for figures in self._counted(subject):
            figures.requests += 1
            figures.seen(subject.when, subject.decision)
        verdict = entry.get("verdict")
        if verdict in ("deny", "error"):
            self._note_refused(subject.decision)
            self._refuse(verdict, entry, subject)
        elif entry.get("would") == "deny":
            self.would_deny += 1
            self._reason("would", entry, subject)
        self._took("lookup", _number(entry, "dns_ms"), subject)

    def _close(self, entry: Entry, subject: _Subject) -> None:
        self.under_way = max(0, self.under_way - 1)
        up, down = _number(entry, "bytes_up") or 0, _number(entry, "bytes_down") or 0
        for figures in self._counted(subject):
            figures.up += int(up)
            figures.down += int(down)
        verdict, duration = entry.get("verdict"), _number(entry, "duration_ms")
        if subject.decision in self._refused:
            del self._refused[subject.decision]
        elif verdict in ("deny", "error"):
            self._refuse(verdict, entry, subject.earlier(duration or 0))
        self._took("connect", _number(entry, "connect_ms"), subject)
        kind = _KINDS.get(_text(entry, "scheme"))
        if kind is not None and duration is not None and verdict == "allow":
            self.timed[kind].add(duration)

    def _took(self, name: str, ms: float | None, subject: _Subject) -> None:
        if ms is not None:
            self.timed[name].add(ms)
            self.slowest[name].add(Slow(ms, subject.when or 0.0, subject.client, subject.destination))

    def _event(self, event: str, entry: Entry, when: float | None) -> None:
        self.event_counts[event] += 1
        self._note_policy(entry)
        self.events.append(Event(when, event, _text(entry, "policy"), _text(entry, "digest"), _told(entry)))

    def _note_policy(self, entry: Entry) -> None:
        self.policies.of(_text(entry, "policy"), _text(entry, "digest")).requests += 1

    def _refuse(self, verdict: str, entry: Entry, subject: _Subject) -> None:
        """Count what was not served, at the time when it was asked for."""
        for figures in self._counted(subject):
            if verdict == "deny":
                figures.denied += 1
            else:
                figures.failed += 1
        self._reason(verdict, entry, subject)

    def _reason(self, verdict: str, entry: Entry, subject: _Subject) -> None:
        reason, rule = _text(entry, "reason"), _text(entry, "rule")
        row = self.refusals[verdict].of(subject.client, subject.destination, reason, rule)
        for figures in (self.reasons.of(verdict, reason, rule), row):
            figures.requests += 1
            figures.seen(subject.when, subject.decision)

    def _note_refused(self, decision: str) -> None:
        self._refused[decision] = None
        if len(self._refused) > _UNDER_WAY:
            del self._refused[next(iter(self._refused))]

    def _counted(self, subject: _Subject) -> tuple[Figures, ...]:
        """Everything that a record counts for."""
        return (
            self.totals,
            self.timeline.at(subject.when),
            self.destinations.of(subject.destination),
            self.clients.of(subject.client),
        )

    def _time(self, entry: Entry) -> float | None:
        """When it was, in seconds since the epoch; None if that cannot be."""
        try:
            when = dt.datetime.fromisoformat(entry["time"])
        except (KeyError, TypeError, ValueError):
            return None
        seconds = (when if when.tzinfo else when.replace(tzinfo=dt.UTC)).timestamp()
        if not self.timeline.holds(seconds):
            return None
        self.first = seconds if self.first is None else min(self.first, seconds)
        self.last = seconds if self.last is None else max(self.last, seconds)
        return seconds


def percentiles(histogram: Histogram) -> dict[str, float | None]:
    """How long most, nearly all, and all of them took."""
    parts = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "longest": 1.0}
    return {name: histogram.within(part) for name, part in parts.items()}


def as_json(summary: Summary, most: int = 100) -> dict[str, Any]:
    """The summary for programs; of what is counted by key, the `most` largest."""
    refused = ("client", "destination", "reason", "rule")
    return {
        "schema": 1,
        "from": _spelt(summary.first),
        "until": _spelt(summary.last),
        **_counts(summary.totals),
        "would_deny": summary.would_deny,
        "under_way": summary.under_way,
        "lower_bounds": summary.forgot,
        "over_time": {
            "seconds": summary.timeline.step,
            "steps": [{"from": _spelt(begin)} | _counts(figures) for begin, figures in summary.timeline.drawn()],
        },
        "reasons": [_times(("verdict", "reason", "rule"), row) for row in summary.reasons.largest(most)],
        "refusals": {
            verdict: [_times(refused, row) for row in top.largest(most)] for verdict, top in summary.refusals.items()
        },
        "destinations": [_named("destination", row) for row in summary.destinations.largest(most)],
        "clients": [_named("client", row) for row in summary.clients.largest(most)],
        "milliseconds": {
            name: {"count": histogram.count} | percentiles(histogram) for name, histogram in summary.timed.items()
        },
        "slowest": {name: [_told_slow(slow) for slow in each.sorted()] for name, each in summary.slowest.items()},
        "policies": [{"policy": name, "digest": digest} for (name, digest), _ in summary.policies.largest(most)],
        "events": summary.event_counts,
    }


def _counts(figures: Figures) -> dict[str, int]:
    return {
        "requests": figures.requests,
        "allowed": figures.allowed,
        "denied": figures.denied,
        "failed": figures.failed,
        "bytes_up": figures.up,
        "bytes_down": figures.down,
    }


def _named(name: str, row: tuple[Key, Figures]) -> dict[str, Any]:
    (key,), figures = row
    return {name: key} | _counts(figures) | {"last": _spelt(figures.last or None)}


def _times(names: Sequence[str], row: tuple[Key, Figures]) -> dict[str, Any]:
    """How often something happened, when last, and the decision that it was then."""
    key, figures = row
    last = {"last": _spelt(figures.last or None), "id": figures.id}
    return dict(zip(names, key, strict=True)) | {"requests": figures.requests} | last


def _told_slow(slow: Slow) -> dict[str, Any]:
    return {"ms": slow.ms, "time": _spelt(slow.when or None), "client": slow.client, "destination": slow.destination}


def _spelt(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(dt.datetime.fromtimestamp(seconds, dt.UTC))


def _text(entry: Entry, name: str) -> str:
    """A field that ought to be text, if it is; no longer than ours are."""
    value = entry.get(name)
    return value[:_LONGEST_TEXT] if isinstance(value, str) and value else NOTHING


def _number(entry: Entry, name: str) -> float | None:
    """A field that ought to be a number, if it is one that can be: no truth, no infinity, nothing below 0."""
    value: Any = entry.get(name)
    return value if type(value) in (int, float) and 0 <= value < _LARGEST_NUMBER else None


def _client(entry: Entry) -> str:
    client = _text(entry, "client")
    return client if client != NOTHING else f"nobody, from {_text(entry, 'client_address')}"


def _destination(entry: Entry) -> str:
    host, port = _text(entry, "host"), entry.get("port")
    if host == NOTHING:
        return UNREADABLE
    return f"{bracketed(host)}:{port if type(port) is int and 0 < port < _PORTS else '?'}"


def _told(entry: Entry) -> str:
    """What a start, a stop or a reload says of itself."""
    said = [_text(entry, "outcome")]
    for name in ("listening", "problems", "changes"):
        value = entry.get(name)
        said += [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
    return ", ".join(each for each in said if each != NOTHING)[:_LONGEST_TEXT]
