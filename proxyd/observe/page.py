"""A summary of the audit log as one HTML page that asks nobody for anything: no network, no font, no cookie.

Every value may have been written by a client, or by whoever else can write to the log: all of them go through
`shown` (ATTACKS 9), and the page's own policy (CSP) lets nothing apply or run but the two texts beside this module.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from proxyd import __version__
from proxyd.audit.summary import REFUSALS, SLOWEST, percentiles
from proxyd.observe.known import BEGIN, Known, embedded
from proxyd.observe.plot import Lane, over_time
from proxyd.observe.table import Number, shown, table
from proxyd.observe.units import count, moment, part, size, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxyd.audit.sketch import Figures, Key, Top
    from proxyd.audit.summary import Summary

ROWS: Final = 100
"""Of each table: nobody scrolls further."""

VERDICTS: Final = {"deny": "denied", "error": "failed", "would": "would be denied"}
"""What became of a request that was not simply served, in a person's words."""

_REFUSED_HEADS: Final = ("Destination", "Requests", "Client", "Reason", "Rule", "Last, UTC", "Last decision")
_COUNTED_HEADS: Final = ("Requests", "Denied", "Failed", "Down", "Up", "Last, UTC")
_TICKS: Final = ((600, "%H:%M:%S"), (100_000, "%H:%M"), (1_000_000, "%b %d %H:%M"), (float("inf"), "%Y-%m-%d"))


@dataclass(frozen=True, slots=True)
class Source:
    """What was read, and when. unread: lines that are no records. broken: files not read to their end, and why."""

    files: Sequence[str]
    records: int
    unread: int
    broken: Sequence[str]
    made: float


def page(summary: Summary, source: Source, before: Known | None) -> str:
    """The whole document. before: what the report before it knew, None if there was none."""
    known = (before or Known()).and_also(summary.reached())
    sections = (
        _headline(summary),
        _section("over-time", "Over time", _timeline(summary)),
        _section("refused", "Denied and failed", *_refused(summary)),
        _section("destinations", "Destinations", *_counted("Destination", summary.destinations)),
        _section("new", "New destinations", _new(summary, before)),
        _section("clients", "Clients", *_counted("Client", summary.clients)),
        _section("slow", "How long it took", *_slow(summary)),
        _section("events", "Starts, stops and reloads", _events(summary)),
        _section("about", "What this is made from", _about(summary, source)),
    )
    return (
        f"{BEGIN}{_preamble()}<body>\n<main>\n{_title(summary)}{''.join(sections)}</main>\n"
        f"{embedded(known)}\n<script>{_text('page.js')}</script>\n</body>\n</html>\n"
    )


def _preamble() -> str:
    style, script = _text("page.css"), _text("page.js")
    allowed = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    return (
        '<head>\n<meta charset="utf-8">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"{allowed}; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>proxyd report</title>\n<style>{style}</style>\n</head>\n"
    )


def _text(name: str) -> str:
    return files("proxyd.observe").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    """As a Content Security Policy spells the hash of an inline text (CSP 3 §2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _title(summary: Summary) -> str:
    policies = ", ".join(name for (name, _), _ in summary.policies.largest(3))
    period = "no record has a time"
    if summary.first is not None and summary.last is not None:
        period = f"{moment(summary.first)} to {moment(summary.last)} UTC"
    return f"<header><h1>proxyd report</h1><p>{period}; policy {shown(policies or 'unknown')}</p></header>\n"


def _section(name: str, title: str, *content: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2>\n{"".join(content)}</section>\n'


def _headline(summary: Summary) -> str:
    totals = summary.totals
    figures = [
        ("", "requests", count(totals.requests), f"{count(summary.under_way)} not ended yet"),
        ("allowed", "allowed", count(totals.allowed), part(totals.allowed, totals.requests)),
        ("denied", "denied", count(totals.denied), part(totals.denied, totals.requests)),
        ("failed", "failed", count(totals.failed), part(totals.failed, totals.requests)),
        ("", "destinations", _number_of(summary.destinations), "host and port"),
        ("", "clients", _number_of(summary.clients), "strangers, too"),
        ("down", "down", size(totals.down), "to the clients"),
        ("up", "up", size(totals.up), "to the origins"),
    ]
    if summary.would_deny:
        share = part(summary.would_deny, totals.requests)
        figures.insert(4, ("would", "would be denied", count(summary.would_deny), f"{share}; report mode"))
    cards = (
        f'<div class="{kind}"><dt>{name}</dt><dd>{shown(text)}<small>{shown(more)}</small></dd></div>'
        for kind, name, text, more in figures
    )
    return f'<dl class="headline">{"".join(cards)}</dl>\n'


def _number_of(top: Top) -> str:
    return f"> {count(len(top))}" if top.forgotten else count(len(top))


def _timeline(summary: Summary) -> str:
    steps = list(summary.timeline.drawn())
    if not steps:
        return _nothing("No request has a time.")
    seconds = summary.timeline.step
    lanes = [
        ("allowed", [each.allowed for _, each in steps], count),
        ("denied", [each.denied for _, each in steps], count),
        ("failed", [each.failed for _, each in steps], count),
        ("down", [each.down for _, each in steps], size),
        ("up", [each.up for _, each in steps], size),
    ]
    labels = (
        f'<div class="{kind}"><b>{kind}</b><span>peak {said(max(values))}</span></div>' for kind, values, said in lanes
    )
    happened = _happened(summary, steps[0][0], len(steps))
    titles = [_step_title(begin, seconds, each, happened.get(at, ())) for at, (begin, each) in enumerate(steps)]
    drawing = over_time(
        "Requests and octets over time, each row on a scale of its own; the table below says the same",
        [Lane(kind, values) for kind, values, _ in lanes],
        titles,
        happened,
    )
    ticks = (steps[0][0] + seconds * (len(steps) * quarter // 4) for quarter in range(5))
    axis = "".join(f"<span>{_tick(tick, seconds * len(steps))}</span>" for tick in ticks)
    rows = [(moment(begin), *_numbers(each)[:-1]) for begin, each in reversed(steps) if each.requests or each.octets]
    heads = ("From, UTC", *_COUNTED_HEADS[:-1])
    return (
        f'<figure class="time"><div class="labels">{"".join(labels)}</div><div class="drawing">{drawing}</div>'
        f'<div class="axis">{axis}</div><figcaption>Steps of {span(seconds * 1000)}, UTC; each row has its own scale. '
        f"Dashed: a start, a stop or a reload. Octets count when an exchange or a tunnel ends.</figcaption>"
        f'<p class="readout" hidden></p></figure>\n<details><summary>The same as a table</summary>'
        f"{table('Figures over time', heads, rows, 0)}</details>\n"
    )


def _happened(summary: Summary, first: int, steps: int) -> dict[int, list[str]]:
    """What is marked, by step."""
    found: dict[int, list[str]] = {}
    for event in summary.events:
        step = -1 if event.when is None else int((event.when - first) // summary.timeline.step)
        if 0 <= step < steps:
            found.setdefault(step, []).append(event.event)
    return found


def _step_title(begin: int, seconds: int, figures: Figures, happened: Iterable[str]) -> str:
    told = (
        f"{count(figures.allowed)} allowed, {count(figures.denied)} denied, {count(figures.failed)} failed, "
        f"{size(figures.down)} down, {size(figures.up)} up"
    )
    return f"{moment(begin)}, {span(seconds * 1000)}: {'; '.join([told, *happened])}"


def _tick(when: int, whole: int) -> str:
    """A time on the axis, as exact as it has to be."""
    form = next(form for below, form in _TICKS if whole <= below)
    return f"{dt.datetime.fromtimestamp(when, dt.UTC):{form}}"


def _refused(summary: Summary) -> Iterable[str]:
    reasons = [
        (reason, _bar(verdict, figures.requests), VERDICTS[verdict], rule, _when(figures.last), figures.id)
        for (verdict, reason, rule), figures in summary.reasons.largest(ROWS)
    ]
    if not reasons:
        yield _nothing("Nothing was refused, and nothing failed.")
        return
    heads = ("Reason", "Requests", "Verdict", "Rule", "Last, UTC", "Last decision")
    yield table("Why requests were denied or failed", heads, reasons, 1)
    for verdict in REFUSALS:
        top = summary.refusals[verdict]
        rows = [
            (where, _bar(verdict, figures.requests), who, reason, rule, _when(figures.last), figures.id)
            for (who, where, reason, rule), figures in top.largest(ROWS)
        ]
        if rows:
            title = f"Who was {VERDICTS[verdict]}" if verdict == "deny" else f"What {VERDICTS[verdict]}"
            yield f"<h3>{title}</h3>\n{table(title, _REFUSED_HEADS, rows, 1)}{_left_out(top)}"
    yield _note("<code>proxyd explain --log FILE DECISION --policy FILE</code> says more of a decision.")


def _counted(name: str, top: Top) -> Iterable[str]:
    rows = [(*key, *_numbers(figures)) for key, figures in top.largest(ROWS)]
    yield table(f"{name}s", (name, *_COUNTED_HEADS), rows, 1) if rows else _nothing("None.")
    yield _left_out(top)


def _numbers(figures: Figures) -> tuple[str | Number, ...]:
    """What `_COUNTED_HEADS` names."""
    return (
        _bar("allow", figures.requests),
        Number(figures.denied, count(figures.denied)),
        Number(figures.failed, count(figures.failed)),
        Number(figures.down, size(figures.down), "down"),
        Number(figures.up, size(figures.up), "up"),
        _when(figures.last),
    )


def _new(summary: Summary, before: Known | None) -> str:
    if before is None:
        return _nothing(
            "This is the first report in this file, so that everything would be new. "
            "Let the next one be written to the same file: it will say what was not reached before."
        )
    new = before.new(summary.reached())
    if not new:
        return _nothing("None: whatever was reached had been reached before.")
    figures: dict[Key, Figures] = dict(summary.destinations.all())
    largest = sorted(new, key=lambda each: -figures[(each,)].requests)[:ROWS]
    rows = [(each, *_numbers(figures[(each,)])) for each in largest]
    doubt = "" if before.complete else " There was no room to remember all before, so that some may not be new."
    said = f"{count(len(new))} reached for the first time since the report before this one.{doubt}"
    return _note(said) + table("New destinations", ("Destination", *_COUNTED_HEADS), rows, 1)


def _slow(summary: Summary) -> Iterable[str]:
    rows = [
        (name, Number(each.count, count(each.count)), *(_span(ms) for ms in percentiles(each).values()))
        for name, each in summary.timed.items()
        if each.count
    ]
    if not rows:
        yield _nothing("Nothing was timed.")
        return
    heads = ("What", "Times", "Half within", "95 % within", "99 % within", "Longest")
    yield table("How long it took", heads, rows)
    for name, slowest in summary.slowest.items():
        slow = [(_span(each.ms, name), each.destination, each.client, _when(each.when)) for each in slowest.sorted()]
        if slow:
            title = f"The {SLOWEST} slowest {name}s"
            yield f"<h3>{title}</h3>\n{table(title, ('Took', 'Destination', 'Client', 'When, UTC'), slow, 0)}"


def _events(summary: Summary) -> str:
    rows = [
        (_when(each.when or 0), each.event, each.policy, each.digest, each.told)
        for each in sorted(summary.events, key=lambda each: each.when or 0, reverse=True)
    ]
    if not rows:
        return _nothing("None.")
    return table("Starts, stops and reloads", ("When, UTC", "What", "Policy", "Digest", "What it says"), rows, 0)


def _about(summary: Summary, source: Source) -> str:
    policies = [f"{name} {digest}" for (name, digest), _ in summary.policies.largest(ROWS)]
    facts = {
        "Files": ", ".join(source.files),
        "Records": count(source.records),
        "Lines that are no records": count(source.unread),
        "Not read to their end": ", ".join(source.broken) or "none",
        "Policies, and their digests": ", ".join(policies) or "none",
        "Requests without a usable time": count(summary.timeline.nowhere.requests),
        "Made": f"{moment(source.made)} UTC by proxyd {__version__}",
    }
    told = "".join(f"<dt>{name}</dt><dd>{shown(text)}</dd>" for name, text in facts.items())
    return (
        f'<dl class="facts">{told}</dl>\n'
        + _note(
            "Not in here, because the log has none of it: paths, queries, header fields, bodies, credentials, and "
            "connections that never sent anything."
        )
        + _note(
            "A request counts when it is decided on; as denied or failed also if that came later (revoked, tls_name, "
            "connect_refused). Times are at most 9 % too long, but for the longest."
        )
    )


def _left_out(top: Top) -> str:
    if top.forgotten:
        return _note("There were too many to keep: small ones are left out, and these figures may be too low.")
    return _note(f"The first {ROWS} of {count(len(top))}.") if len(top) > ROWS else ""


def _note(text: str) -> str:
    return f'<p class="note">{text}</p>\n'


def _nothing(text: str) -> str:
    return f'<p class="nothing">{text}</p>\n'


def _bar(kind: str, number: int) -> Number:
    return Number(number, count(number), kind)


def _when(seconds: float) -> str | Number:
    return moment(seconds) if seconds else "-"


def _span(ms: float | None, kind: str = "") -> str | Number:
    return Number(ms, span(ms), kind) if ms is not None else "-"
