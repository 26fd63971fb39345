"""A Record as one line: always one, always short enough, and safe to look at in either form (R7, ATTACKS 9)."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxyd.audit.record import FIELDS_OF, MAX_ADDRESSES, Record
from proxyd.audit.render import MAX_LINE, console_line, json_line

TIME: Final = "2026-08-01T12:00:00.000Z"
PIPE_BUF: Final = 4096
"""What POSIX systems with Linux's pipes write in one piece. Not select.PIPE_BUF: a log moves between machines."""

TEXTS: Final = (
    *("id", "client", "client_address", "user", "method", "scheme", "host", "address", "verdict", "reason", "rule"),
    *("refused", "would", "policy", "digest", "outcome"),
)
LISTS: Final = {"listening", "problems", "changes"}
HOSTILE: Final = {
    "a line end": "a\nb",
    "a carriage return": "a\rb",
    "CRLF and a forged record": 'a\r\n{"event":"decision","verdict":"allow"}',
    "NUL": "a\0b",
    "DEL": "a\x7fb",
    "ANSI colour": "\x1b[31mred",
    "ANSI cursor": "\x1b[2J\x1b[H",
    "ANSI title": "\x1b]0;owned\x07",
    "C1 introducer": "\x9b31m",
    "next line": "a\x85b",
    "line separator": "a\u2028b\u2029c",
    "bidi override": "gro.\u202eelpmaxe",
    "bidi isolate": "\u2066a\u2069",
    "zero width": "exam\u200bple",
    "byte order mark": "\ufeffa",
    "lone surrogate": "a\ud800b",
    "tag character": "a\U000e0041b",
}
hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
any_text = st.text(st.characters(categories=None), min_size=1, max_size=60)


def record(event: str = "decision", **facts: Any) -> Record:  # noqa: ANN401 - fields of a Record
    """A record of some event."""
    return Record(time=TIME, event=event, **facts)


def worst(event: str, rule: str = "r" * 64) -> Record:
    """The longest record that a policy and a client can bring about between them."""
    name = ".".join(["n" * 63, "n" * 63, "n" * 63, "n" * 61])
    address = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
    return record(
        event,
        id="f" * 16,
        pid=4_194_304,
        client="c" * 64,
        client_address=address,
        user="u" * 32,
        method="UPDATEREDIRECTREF",
        scheme="connect",
        host=name,
        port=65535,
        addresses=(address,) * MAX_ADDRESSES,
        address=address,
        verdict="allow",
        reason="not_allowlisted",
        rule=rule,
        refused=name,
        would="deny",
        status=599,
        policy="p" * 64,
        digest="f" * 16,
        outcome="answered_here",
        bytes_up=2**63,
        bytes_down=2**63,
        dns_ms=123456789.1,
        connect_ms=123456789.1,
        first_byte_ms=123456789.1,
        duration_ms=123456789.1,
        listening=(f"[{address}]:65535",) * 16,
        connections=2**63,
        problems=("q" * 300,) * 3,
        changes=("c" * 300,) * 3,
        revoked=2**63,
    )


def read(line: bytes) -> dict[str, Any]:
    """What a program makes of a line; it is exactly one."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    said = json.loads(line)
    assert isinstance(said, dict)
    return said


def visible(line: bytes) -> str:
    """A console line without the colours we put there ourselves."""
    return re.sub(r"\x1b\[[0-9;]*m", "", line.decode())


# JSON


@pytest.mark.parametrize("event", FIELDS_OF)
def test_a_line_is_the_record(event: str) -> None:
    asked = worst(event)
    said = read(json_line(asked))
    assert list(said) == list(FIELDS_OF[event])
    assert said == {name: list(value) if isinstance(value, tuple) else value for name, value in asked.as_dict().items()}


@pytest.mark.parametrize("event", FIELDS_OF)
def test_the_longest_record_there_can_be_fits_whole(event: str) -> None:
    line = json_line(worst(event))
    assert len(line) <= MAX_LINE
    assert not read(line).get("truncated")


def test_a_line_is_at_most_what_a_pipe_takes_in_one_piece() -> None:
    assert MAX_LINE == PIPE_BUF


@pytest.mark.parametrize("spare", [0, 1])
def test_a_record_is_cut_only_when_it_does_not_fit(spare: int) -> None:
    room = MAX_LINE - len(json_line(record(rule="")))
    whole = json_line(record(rule="r" * (room - spare)))
    assert len(whole) == MAX_LINE - spare
    assert read(whole)["truncated"] is False
    cut = read(json_line(record(rule="r" * (room + 1), addresses=("192.0.2.1",))))
    assert (cut["truncated"], cut["rule"], cut["addresses"]) == (True, None, None)


@pytest.mark.parametrize("event", FIELDS_OF)
def test_a_record_with_a_rule_from_the_deepest_folder_is_cut_to_fit(event: str) -> None:
    """A rule without a name is called by its file; a file name may be long, and each character six octets of JSON."""
    assert len(json_line(worst(event, rule="\u00e4" * 4000))) <= MAX_LINE


@pytest.mark.parametrize(
    ("event", "long"),
    [
        ("decision", {"rule": "/deep" * 1000}),
        ("close", {"rule": "/deep" * 1000}),
        ("start", {"listening": ("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535",) * 100}),
        ("reload", {"problems": ("a line of a policy that is wrong",) * 200}),
        ("reload", {"changes": ("a row of a policy that is new",) * 200}),
    ],
)
def test_a_record_that_lost_something_says_so(event: str, long: dict[str, Any]) -> None:
    assert read(json_line(record(event, **long)))["truncated"] is True


def test_what_is_cut_leaves_what_matters_of_the_decision() -> None:
    kept = read(json_line(worst("decision", rule="/deep" * 1000)))
    whole = read(json_line(worst("decision")))
    lost = {name for name in whole if kept[name] != whole[name]}
    assert lost == {"rule", "addresses", "refused", "truncated"}


@hostile
def test_attack_9_no_text_leaves_ascii_or_its_line_in_json(text: str) -> None:
    line = json_line(record(host=text, method=text, addresses=(text,)))
    assert re.fullmatch(rb"[\x20-\x7e]+\n", line)
    said = read(line)
    assert (said["host"], said["method"], said["addresses"]) == (text, text, [text])


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(TEXTS, any_text)), st.sampled_from(sorted(FIELDS_OF)))
def test_attack_9_any_text_in_any_field_is_one_line_of_json_that_reads_back(facts: dict[str, str], event: str) -> None:
    asked = record(event, **facts)
    line = json_line(asked)
    assert re.fullmatch(rb"[\x20-\x7e]+\n", line)
    assert len(line) <= MAX_LINE
    said = read(line)
    cut = {"rule", "refused", "addresses", "truncated"} if said.get("truncated") else set()
    assert {name: value for name, value in said.items() if name not in cut | LISTS} == {
        name: value for name, value in asked.as_dict().items() if name not in cut | LISTS
    }


def test_the_texts_tried_are_all_the_texts_there_are() -> None:
    fields = {each.name for each in dataclasses.fields(Record) if each.type == "str | None"}
    assert set(TEXTS) == fields


# For a person


@hostile
def test_attack_9_no_text_moves_a_cursor_ends_a_line_or_turns_text_round_on_a_terminal(text: str) -> None:
    line = console_line(record(host=text, addresses=(text, text), rule=text))
    plain = console_line(record(host="x", addresses=("x", "x"), rule="x"))
    assert line.count(b"\n") == 1
    assert line.count(b"\x1b") == plain.count(b"\x1b")
    assert visible(line).removesuffix("\n").isprintable()


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(TEXTS, any_text)), st.sampled_from(sorted(FIELDS_OF)))
@example({"host": "\x1b[31m"}, "decision")
def test_attack_9_any_text_in_any_field_is_one_printable_line(facts: dict[str, str], event: str) -> None:
    line = console_line(record(event, **facts))
    plain = console_line(record(event, **dict.fromkeys(facts, "x")))
    assert line.count(b"\x1b") == plain.count(b"\x1b")
    assert visible(line).removesuffix("\n").isprintable()


def test_an_escaped_character_can_still_be_told() -> None:
    assert r"host=\x1b[31m\u202e\n" in visible(console_line(record(host="\x1b[31m\u202e\n")))


def test_a_person_reads_time_and_event_first_and_then_what_is_known() -> None:
    asked = record(host="example.com", port=443, verdict="deny", addresses=("192.0.2.1", "192.0.2.2"), dns_ms=1.5)
    words = visible(console_line(asked)).split()
    assert words[:2] == [TIME, "decision"]
    assert set(words[2:]) == {
        *("host=example.com", "port=443", "verdict=deny", "dns_ms=1.5"),
        "addresses=192.0.2.1,192.0.2.2",
    }


@pytest.mark.parametrize("event", FIELDS_OF)
def test_a_person_is_spared_what_is_null_or_the_same_in_every_line(event: str) -> None:
    line = visible(console_line(record(event, policy="gateway", digest="0" * 16, client_address="127.0.0.1")))
    assert line.split() == [TIME, event]


@pytest.mark.parametrize("event", FIELDS_OF)
def test_a_person_sees_everything_else(event: str) -> None:
    line = visible(console_line(worst(event)))
    quiet = {"schema", "policy", "digest", "truncated", "client_address", "time", "event"}
    assert [name for name in FIELDS_OF[event] if name not in quiet and f" {name}=" not in line] == []
