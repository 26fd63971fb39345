"""The audit log read back, and all that is made of it: each line is a record or counted, and shown it is text.

Who writes to the file may be anybody (R7, ATTACKS 9). Whatever stands there: as many records and unreadable lines come
out as there are lines; `log`, `report` and `learn` show nothing but text, a line where there should be one, and JSON
that any reader takes; the report's page has the elements, attributes and classes of an innocent one, and scripts of its
own only; what `learn` says can be pasted. What is kept of a line is short, and of many lines few.
"""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
import json
import lzma
import os
import tempfile
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from hypothesis import strategies as st

from proxyd.audit.reader import LONGEST_LINE, Reading, records
from proxyd.audit.record import FIELDS_OF
from proxyd.audit.sketch import MOST_STEPS
from proxyd.audit.summary import Summary, as_json
from proxyd.cli import learn, log, report
from proxyd.cli.files import EX_NOINPUT
from proxyd.observe.known import known_by
from proxyd.observe.page import Source, page
from tests.cli.test_learn import POLICY, asked
from tests.cli.test_log import CLOSE, DENIED, OPENED
from tests.fuzz.screen import screen
from tests.fuzz.target import Target
from tests.observe.synthetic import records as innocent
from tests.observe.test_page import HOSTILE, LATEST, RICH, Document, made
from tests.policy.worlds import loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.screen import Screen

LONGEST_TEXT: Final = 300  # characters that are kept of anything
_PACKED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_LIKENESS: Final = ("class", "id", "role", "lang", "name", "http-equiv", "type", "scope", "aria-sort")
_SINCE: Final = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


def _attempt(data: bytes) -> str:
    """The first octet says which command reads the rest, and what it is to look for."""
    how, content = data[0] if data else 0, data[1:]
    fd = os.memfd_create("log")
    try:
        os.write(fd, content)
        path = Path(f"/proc/self/fd/{fd}")
        reading = _read(path, content)
        _COMMANDS[how & 7](path, reading, how >> 3)
    finally:
        os.close(fd)
    if reading.broken:
        return "damaged"
    return "records" if reading.records and not reading.unread else "some of it" if reading.records else "no records"


def _read(path: Path, content: bytes) -> Reading:
    """By the reader itself: each line is a record or is counted; what can be read can be spelt again."""
    reading = Reading()
    for entry in records([path], reading):
        assert entry["event"] in FIELDS_OF
        json.dumps(entry, allow_nan=False)
    lines = [line for line in content.split(b"\n") if line.strip()]
    if not content.startswith(_PACKED):
        assert (reading.records + reading.unread, reading.broken) == (len(lines), [])
        assert reading.records <= sum(b'"event"' in line or b"\\u" in line for line in lines)
    return reading


def _log(path: Path, reading: Reading, how: int, *, json: bool = False) -> None:
    client, host = "agent" if how & 2 else None, "*.example.com" if how & 4 else None
    since = _SINCE if how & 8 else None
    wanted = Namespace(file=path, follow=False, denied=bool(how & 1), client=client, host=host, since=since, json=json)
    with screen(person=bool(how & 16)) as shown:
        status = log.run(wanted)
    _ended(status, reading, shown)
    assert len(shown.lines) <= 2 * reading.records
    if json:
        assert how & 15 or len(shown.documents()) == reading.records
        assert all(isinstance(each, dict) and each["event"] in FIELDS_OF for each in shown.documents())


def _log_json(path: Path, reading: Reading, how: int) -> None:
    _log(path, reading, how, json=True)


def _report(path: Path, reading: Reading, how: int) -> None:
    with screen(person=bool(how & 16)) as shown:
        status = report.run(Namespace(files=[path], html=None, json=False))
    _ended(status, reading, shown)
    assert shown.lines


def _report_json(path: Path, reading: Reading, how: int) -> None:
    with screen(person=bool(how & 16)) as shown:
        status = report.run(Namespace(files=[path], html=None, json=True))
    _ended(status, reading, shown)
    document = json.loads("".join(shown.lines), parse_constant=int)
    assert (document["records"], document["unread"]) == (reading.records, reading.unread)


def _summed_up(path: Path, reading: Reading) -> tuple[Summary, int]:
    """The summary, and how many requests there are in truth."""
    summary, requests = Summary(LATEST), 0
    for entry in records([path], Reading()):
        summary.add(entry)
        requests += entry["event"] == "decision"
    assert summary.totals.requests == requests <= reading.records
    return summary, requests


def _summary(path: Path, reading: Reading, _: int) -> None:
    summary, requests = _summed_up(path, reading)
    document = as_json(summary)
    assert max((len(text) for text in _texts(document)), default=0) <= LONGEST_TEXT
    steps = document["over_time"]["steps"]
    assert len(steps) <= MOST_STEPS
    assert sum(step["requests"] for step in steps) + summary.timeline.nowhere.requests == requests
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def _page(path: Path, reading: Reading, _: int) -> None:
    summary, _requests = _summed_up(path, reading)
    text = page(summary, Source([str(path)], reading.records, reading.unread, reading.broken, LATEST), None)
    seen = Document(text)
    assert set(seen.tags) <= _TAGS
    assert {name for name, _ in seen.attributes} <= _ATTRIBUTES
    assert {pair for pair in seen.attributes if pair[0] in _LIKENESS} <= _PAIRS
    assert (seen.tags.count("script"), seen.tags.count("style")) == (2, 1)
    assert all(each.isprintable() for each in text.split("\n"))
    known = known_by(text)
    assert known is not None
    assert known.destinations == frozenset(summary.reached())


def _learn(path: Path, reading: Reading, how: int) -> None:
    """What the rows would open is not said here: that is another one's to say, takes half a second, and no text."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as policy, mock.patch.object(learn, "compare", return_value=()):
        policy.write(POLICY.encode())
        policy.flush()
        wildcards = ["example.com"] if how & 1 else []
        with screen(person=bool(how & 16)) as shown:
            status = learn.run(Namespace(files=[path], policy=policy.name, wildcard=wildcards, json=bool(how & 2)))
    _ended(status, reading, shown, quiet=bool(how & 2))
    toml = json.loads("".join(shown.lines))["toml"] if how & 2 else "\n".join(shown.lines)
    if "[[client.allow]]" not in toml:
        loaded(POLICY + toml)
    tomllib.loads("[[client]]\n" + toml)


def _ended(status: int, reading: Reading, shown: Screen, *, quiet: bool = False) -> None:
    """What was not read is told."""
    assert status == (EX_NOINPUT if reading.broken else 0)
    assert quiet or (f"{reading.unread} lines are no records" in shown.err) == (reading.unread > 0)


_COMMANDS: Final[tuple[Callable[[Path, Reading, int], None], ...]] = (
    *(_log, _log_json, _report, _report_json),
    *(_summary, _page, _learn, _log),
)


def _texts(document: Any) -> list[str]:  # noqa: ANN401 - a JSON document
    if isinstance(document, dict):
        return [text for each in document.values() for text in _texts(each)]
    if isinstance(document, list):
        return [text for each in document for text in _texts(each)]
    return [document] if isinstance(document, str) else []


_WOULD: Final = made([asked("a.com"), *innocent(9), {"event": "stop", "time": "x"}])
_INNOCENT: Final = [Document(each) for each in (RICH, _WOULD, made([]))]
_TAGS: Final = {tag for each in _INNOCENT for tag in each.tags}
_PAIRS: Final = {pair for each in _INNOCENT for pair in each.attributes}
_ATTRIBUTES: Final = {name for name, _ in _PAIRS}

# What may stand there


def _lines(*entries: object) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in entries)


def _with(name: str, value: str) -> bytes:
    """A closing record with something raw in a field."""
    return b'{"event":"close","time":"2026-11-21T10:00:00Z","%s":%s}\n' % (name.encode(), value.encode())


_KINDS: Final = ("log", "log --json", "report", "report --json", "summary", "page", "learn")
_DECIDED: Final = DENIED | {"event": "decision", "id": "1", "dns_ms": 5.0}
_LOG: Final = _lines(*innocent(2), CLOSE, OPENED, _DECIDED, asked("a.example.com"), asked("own.com", client="other"))
_EVERYWHERE: Final[tuple[str, ...]] = (
    "id",
    "client",
    "host",
    "reason",
    "rule",
    "policy",
    "digest",
    "outcome",
    "method",
    "time",
    "verdict",
)
_ODD: Final[tuple[Any, ...]] = (None, True, 7, 1.5, [], {}, [[1]], {"a": 1}, "x", [{}])
_CONTENTS: Final = {
    "a log": _LOG,
    **{
        f"hostile {what}": _lines(
            *(dict.fromkeys(_EVERYWHERE, text) | {"event": event, "problems": [text], **more} for text in HOSTILE)
        )
        for what, event, more in (
            *(("wishes", "decision", {"would": "deny"}), ("denials", "decision", {"verdict": "deny"})),
            *(("ends", "close", {"connect_ms": 7}), ("reloads", "reload", {"listening": []})),
        )
    },
    "hostile clients": _lines(*(asked("10.0.0.5", client=text, addresses=["10.0.0.5"]) for text in HOSTILE)),
    "long text": _lines(*(_DECIDED | {name: "x" * 999} for name in _EVERYWHERE[:-1])),
    "numbers": b"".join(
        _with(name, value) + _with(name, value).replace(b"close", b"decision")
        for name in ("port", "bytes_up", "dns_ms", "connect_ms", "duration_ms", "time", "status")
        for value in ("-1", "1e308", "9007199254740993", "9" * 200, "1e-320", "true", "0.1", "null", "[]", "{}", '"7"')
    ),
    "a number that is none": _with("dns_ms", "NaN") + _with("bytes_up", "-Infinity") + _LOG,
    "a number beyond all": _with("dns_ms", "1e999") + _LOG,
    "a long number": _with("bytes_up", "9" * 5000) + _LOG,
    "times": _lines(
        *(
            _DECIDED | {"time": time}
            for time in (
                *(
                    "0001-01-01T00:00:00+23:59",
                    "9999-12-31T23:59:59-23:59",
                    "2026-11-21",
                    "2026-11-21T10:00:00.1234567",
                ),
                *("\ud800", "", "2020-01-01T00:00:00Z", "2026-W47-6", "20261121T100000Z", "2030-01-01T00:00:00Z"),
            )
        ),
        CLOSE | {"duration_ms": 9007199254740991, "verdict": "error"},
    ),
    "types": _lines(
        *(
            dict.fromkeys((*_EVERYWHERE, "port", "scheme", "addresses", "problems", "bytes_up", "duration_ms"), odd)
            | {"event": event, "would": would}
            for odd in _ODD
            for event, would in (("decision", "deny"), ("close", odd), ("reload", odd))
        )
    ),
    "deep": b"[" * 5000 + b"\n" + _with("x", "[" * 2000 + "]" * 2000),
    **{
        f"nested {depth} deep": _with("problems", "[" * depth + "]" * depth) + _LOG[:400]
        for depth in range(840, 1000, 8)
    },
    **{
        f"objects {depth} deep": _with("outcome", '{"":' * depth + "1" + "}" * depth)
        for depth in (499, 500, 900, 960, 980, 988)
    },
    "torn": _LOG[:-40] + b"\n\n \r\n" + _LOG[5:],
    "invalid UTF-8": _LOG.replace(b"agent", b"ag\xff\xfe") + b"\xef\xbb\xbf" + _LOG,
    "UTF-16": _lines(CLOSE).decode().encode("utf-16"),
    "nothing": b"",
    "NULs": bytes(200) + _LOG,
    "events that are none": _lines({"event": "x"}, {"event": None}, {"event": ["close"]}, [], 1, "close", {}),
    "a key twice": b'{"event":"close","event":"decision"}\n{"event":"decision","event":{}}\n',
    "surrogates": b'{"event":"reload","time":"\\ud800\\udfff","problems":["\\udfff",1]}\n',
    "gzip": gzip.compress(_LOG, mtime=0),
    "gzip in two members": gzip.compress(_LOG, mtime=0) + gzip.compress(_LOG, mtime=0),
    "gzip with a broken member": gzip.compress(_LOG, mtime=0) + gzip.compress(_LOG, mtime=0)[:-9],
    "gzip with something behind it": gzip.compress(_LOG, mtime=0) + b"\n" + _LOG,
    "gzip that breaks off": gzip.compress(_LOG, mtime=0)[:-4],
    "gzip of too long a line": gzip.compress(b" " * (LONGEST_LINE + 1) + _LOG, mtime=0),
    "no gzip": b"\x1f\x8b" + _LOG,
    "bzip2": bz2.compress(_LOG),
    "no bzip2": b"BZh" + _LOG,
    "xz": lzma.compress(_LOG),
    "xz that breaks off": lzma.compress(_LOG)[:-9],
    "no xz": b"\xfd7zXZ" + _LOG,
}
_BY_ALL: Final = (
    *("a log", "hostile wishes", "hostile denials", "hostile ends", "hostile reloads", "hostile clients"),
    *("long text", "numbers", "types", "times"),
)
_SEEDS: Final = {
    f"{name}, {command}": bytes([number]) + content
    for place, (name, content) in enumerate(_CONTENTS.items())
    for number, command in enumerate(_KINDS)
    if name in _BY_ALL or (place - number) % 4 == 0
} | {f"a log, {how} wanted": bytes([how << 3 | command]) + _LOG for how in range(1, 32, 2) for command in (0, 1, 6)}

_strings = st.one_of(
    st.sampled_from([*HOSTILE, "agent", "a.example.com", "deny", "2026-11-21T10:00:00Z"]), st.text(max_size=9)
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _strings),
    lambda each: st.one_of(st.lists(each, max_size=3), st.dictionaries(_strings, each, max_size=2)),
    max_leaves=5,
)
_entries = st.builds(
    lambda base, more: base | more,
    st.sampled_from([CLOSE, OPENED, _DECIDED, asked("a.example.com"), *innocent(1)]),
    st.dictionaries(
        st.sampled_from([*FIELDS_OF["close"], *FIELDS_OF["reload"], "addresses", "event"]), _values, max_size=4
    ),
)
_contents = st.lists(_entries, max_size=5).map(lambda entries: _lines(*entries))

TARGET: Final = Target(
    attempt=_attempt,
    about=(
        *("proxyd.audit.reader", "proxyd.audit.sketch", "proxyd.audit.summary"),
        *("proxyd.cli.log", "proxyd.cli.learn", "proxyd.cli.report"),
        *("proxyd.observe.page", "proxyd.observe.table", "proxyd.observe.plot"),
    ),
    seeds=_SEEDS,
    inputs=st.builds(
        lambda how, content, pack: bytes([how]) + pack(content),
        st.integers(0, 255),
        _contents,
        st.sampled_from([bytes, bytes, bytes, gzip.compress, bz2.compress, lzma.compress]),
    ),
    outcomes=frozenset({"records", "some of it", "no records", "damaged"}),
    longest=16384,
    words=(
        *(b'{"event":"close"}', b'"decision"', b'"deny"', b'"would"', b'"time":', b"\\u001b", b"\\ud800", b"<script>"),
        *(b"NaN", b"1e999", b'"host":', b'"addresses":[', b"\x1f\x8b\x08", b"\n"),
    ),
)
