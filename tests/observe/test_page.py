"""The page as text: all is there, nothing comes from elsewhere, and no value of the log becomes anything but text.

What a browser makes of it: tests/end_to_end/test_report.py.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from proxyd.audit.summary import Summary
from proxyd.observe.known import Known, known_by
from proxyd.observe.page import ROWS, Source, page
from tests.observe.synthetic import records

LATEST = 1_900_000_000.0
SOURCE = Source(["audit.jsonl"], 3, 0, [], 1_795_284_799)
DECISION: dict[str, Any] = {"event": "decision", "time": "2026-11-21T10:00:00Z", "id": "1", "client": "agent"}
DECISION |= {"host": "a.com", "port": 80, "verdict": "allow", "policy": "p", "digest": "d"}
VOID = {"meta", "link", "br", "hr", "img"}


class Document(HTMLParser):
    """The elements, attributes and texts of a page; and that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def cells(self) -> str:
        """Everything that is said."""
        return "\n".join(self.texts)


def made(entries: list[dict[str, Any]], source: Source = SOURCE, before: Known | None = None) -> str:
    """The page of these records."""
    summary = Summary(LATEST)
    for entry in entries:
        summary.add(entry)
    return page(summary, source, before)


RICH = made(list(records(3000)))


def test_it_says_what_is_in_the_log() -> None:
    said = Document(RICH).cells()
    for text in (
        *("proxyd report", "3,000", "api.openai.com:443", "address_locked", "cloud-metadata", "researcher", "tunnel"),
        *("The 20 slowest lookups", "done, deny: corp added", "127.0.0.1:3128", "gateway 5c0c744d8041677c", "peak"),
        *("Who was denied", "What failed", "00:00", "06:00", "first report in this file", "audit.jsonl"),
    ):
        assert text in said, text


def test_it_asks_nobody_for_anything() -> None:
    """No URL at all, and a policy of its own under which only these very texts apply (by their hashes)."""
    assert "//" not in re.sub(r"^\s*//.*$", "", RICH, flags=re.MULTILINE), "an absolute or scheme-relative URL"
    attributes = Document(RICH).attributes
    assert not {name for name, _ in attributes} & {"src", "href", "style", "action", "srcset", "xlink:href"}
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert "url(" not in RICH
    assert "@import" not in RICH
    (policy,) = (value for _, value in attributes if value.startswith("default-src"))
    (style,), (script,) = (re.findall(f"<{tag}>(.*?)</{tag}>", RICH, re.DOTALL) for tag in ("style", "script"))
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    assert policy == "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; {}".format(
        *hashes, "base-uri 'none'; form-action 'none'"
    )


def test_an_empty_log_makes_a_page_that_says_so() -> None:
    said = Document(made([])).cells()
    for text in (
        *("no record has a time", "policy unknown", "No request has a time", "Nothing was refused, and nothing failed"),
        *("Nothing was timed", "None.", "first report"),
    ):
        assert text in said, text


def test_what_could_not_be_read_or_dated_is_told() -> None:
    timeless = [DECISION | {"time": "x"}, {"event": "stop", "time": "x", "policy": "p"}]
    said = Document(made(timeless, Source(["a", "b"], 2, 7, ["b: it breaks off"], 0))).cells()
    for text in ("a, b", "7", "b: it breaks off", "Requests without a usable time\n1", "1970-01-01 00:00:00 UTC"):
        assert text in said, text


def test_events_beyond_what_is_drawn_are_told_and_not_drawn() -> None:
    start = {"event": "start", "time": "2026-11-20T10:00:00Z", "policy": "p"}
    text = made([start, DECISION, start | {"time": "2026-11-21T10:00:00Z"}])
    assert Document(text).attributes.count(("class", "mark")) == 1
    assert "1 allowed, 0 denied, 0 failed, 0 B down, 0 B up; start" in Document(text).cells()


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [
        (60, ["10:00:00", "10:01:01"]),
        (7200, ["10:00", "12:01"]),
        (5 * 86400, ["Nov 21 10:00", "Nov 26 11:00"]),
        (100 * 86400, ["2026-11-21", "2027-03-01"]),
    ],
)
def test_the_axis_is_as_exact_as_it_has_to_be(seconds: int, ticks: list[str]) -> None:
    later = DECISION | {
        "time": (dt.datetime(2026, 11, 21, 10, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)).isoformat()
    }
    axis = re.findall(r'<div class="axis">(.*?)</div>', made([DECISION, later]))[0]
    found = re.findall("<span>(.*?)</span>", axis)
    assert len(found) == 5
    assert [found[0], found[-1]] == ticks


def test_what_was_not_timed_has_no_table() -> None:
    said = Document(made([DECISION | {"dns_ms": 5}])).cells()
    assert "The 20 slowest lookups" in said
    assert "slowest connects" not in said


def test_report_mode_has_its_own_figure_and_table() -> None:
    said = Document(made([DECISION | {"would": "deny", "reason": "not_allowlisted"}])).cells()
    assert "What would be denied" in said
    assert "report mode" in said
    assert "would be denied" not in Document(RICH).cells()


def test_new_destinations_since_the_last_report() -> None:
    """Reached, and not by then; what was known stays known (R7: the operator sees what began)."""
    both = [DECISION, DECISION | {"host": "new.com"}, DECISION | {"host": "refused.com", "verdict": "deny"}]
    text = made(both, before=Known(frozenset({"a.com:80", "old.com:80"})))
    section = text[text.index('<section id="new">') : text.index('<section id="clients">')]
    assert re.findall(r"<td>([^<]*:80)</td>", section) == ["new.com:80"]
    assert "1 reached for the first time" in section
    assert known_by(text) == Known(frozenset({"a.com:80", "old.com:80", "new.com:80"}))
    again = made(both, before=known_by(text))
    assert "None: whatever was reached had been reached before." in again
    assert "may not be new" in made(both, before=Known(complete=False))
    assert known_by(made([DECISION])) == Known(frozenset({"a.com:80"}))


def test_attack_8_what_is_too_much_is_cut_and_said() -> None:
    some = made([DECISION | {"host": f"h{number}"} for number in range(ROWS + 1)])
    assert f"The first {ROWS} of {ROWS + 1}." in some
    many = made([DECISION | {"host": f"h{number}"} for number in range(9000)])
    assert "these figures may be too low" in many
    assert "&gt; " in many
    assert len(many) < 1_000_000


HOSTILE = (
    *(
        "<script>alert(1)</script>",
        "</script><script>alert(1)</script>",
        '" onload="alert(1)',
        "' autofocus onfocus='x",
    ),
    *(
        "</style><img src=x onerror=alert(1)>",
        "<!--",
        "]]>",
        "</title>",
        "&lt;b&gt;",
        "\x1b[31m",
        "\u202etxt.exe",
        "\x00",
    ),
    *("\ud800", "javascript:alert(1)", "${alert(1)}", "{{7*7}}", "a\r\nb", "\u2028"),
)


@pytest.mark.parametrize("text", HOSTILE)
def test_attack_9_nothing_in_the_log_becomes_anything_but_text(text: str) -> None:
    """In every field at once: the page has the elements and attributes that it has with a harmless word there."""
    entries = [
        dict.fromkeys(("id", "client", "host", "reason", "rule", "policy", "digest"), word)
        | {"event": event, "time": DECISION["time"], "port": 80, "scheme": "http", "verdict": verdict, "would": would}
        | {"dns_ms": 5, "connect_ms": 5, "outcome": word, "problems": [word], "listening": [word], "changes": [word]}
        for word in (text,)
        for event in ("start", "decision", "close", "reload", "stop")
        for verdict, would in (("allow", None), ("deny", None), ("error", None), ("allow", "deny"))
    ]
    harmless = [{name: _tamed(value, text) for name, value in entry.items()} for entry in entries]
    hostile_page = made(entries, Source([text], 1, 1, [text], 0))
    seen, expected = Document(hostile_page), Document(made(harmless, Source(["word"], 1, 1, ["word"], 0)))
    assert seen.tags == expected.tags
    assert [name for name, _ in seen.attributes] == [name for name, _ in expected.attributes]
    assert not set(hostile_page) - {"\n"} & set("\x00\x1b\r\u202e\u2028")
    hostile_page.encode()


def _tamed(value: object, text: str) -> object:
    return ["word"] if value == [text] else "word" if value == text else value
