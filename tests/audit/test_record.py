"""The Record: which fields each event has, that none of them can hold a secret, and how times are spelt (R7)."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.audit.record import DIGEST_DIGITS, FIELDS_OF, MAX_ADDRESSES, SCHEMA, Record, timestamp

NOON: Final = dt.datetime(2026, 8, 1, 12, 0, tzinfo=dt.UTC)
EVENTS: Final = ("start", "decision", "close", "stop", "reload")

SUBJECT: Final = ["client", "client_address", "user", "method", "scheme", "host", "port"]
JUDGEMENT: Final = ["verdict", "reason", "rule", "refused", "would", "status"]
POLICY: Final = ["policy", "digest"]
DOCUMENTED: Final = {
    "start": ["schema", "time", "event", "pid", "listening", *POLICY],
    "decision": [
        *("schema", "time", "event", "id", *SUBJECT, "addresses", *JUDGEMENT, *POLICY),
        *("dns_ms", "truncated"),
    ],
    "close": [
        *("schema", "time", "event", "id", *SUBJECT, "address", *JUDGEMENT, *POLICY),
        *("outcome", "bytes_up", "bytes_down", "dns_ms", "connect_ms", "first_byte_ms", "duration_ms"),
    ],
    "stop": ["schema", "time", "event", "pid", "connections", *POLICY],
    "reload": [
        *("schema", "time", "event", "pid", "outcome", "problems", "changes", "revoked", *POLICY, "truncated"),
    ],
}
"""The fields that readers of this schema number rely on. A new one may join; one that is missing here is a break."""


def test_there_are_five_events() -> None:
    assert tuple(FIELDS_OF) == EVENTS


@pytest.mark.parametrize("event", EVENTS)
def test_a_record_has_the_documented_fields_of_its_event_in_their_order(event: str) -> None:
    said = list(Record(time="now", event=event).as_dict())
    assert [name for name in said if name in DOCUMENTED[event]] == DOCUMENTED[event]


@pytest.mark.parametrize("event", EVENTS)
def test_every_line_names_its_schema_its_time_and_its_event_first(event: str) -> None:
    said = Record(time="now", event=event).as_dict()
    assert list(said.items())[:3] == [("schema", SCHEMA), ("time", "now"), ("event", event)]


def test_every_field_belongs_to_an_event_and_every_event_has_fields_only() -> None:
    fields = {each.name for each in dataclasses.fields(Record)}
    assert {name for names in FIELDS_OF.values() for name in names} == fields


@pytest.mark.parametrize("event", EVENTS)
def test_no_event_has_a_field_twice(event: str) -> None:
    assert len(set(FIELDS_OF[event])) == len(FIELDS_OF[event])


def test_r7_a_decision_and_its_closing_record_say_the_destination_the_decision_the_status_and_the_reason() -> None:
    for event in ("decision", "close"):
        assert {"host", "port", "verdict", "status", "reason", "rule", "id"} <= set(FIELDS_OF[event])


def test_r7_no_field_is_for_a_header_a_path_a_query_a_body_or_a_credential() -> None:
    """By name, as far as a name tells: who adds such a field has to come by here. `user` is a local account."""
    secrets = ("path", "query", "url", "target", "header", "field", "cookie", "auth", "body", "user", "token", "raw")
    names = [each.name for each in dataclasses.fields(Record)]
    assert [name for name in names if any(secret in name for secret in secrets)] == ["user"]


def test_each_worker_notes_its_own_beginning_and_end_and_no_request_says_which_served_it() -> None:
    """Several write into one log: a `stop` or a `reload` belongs to the `start` with the same process."""
    assert [event for event in EVENTS if "pid" in FIELDS_OF[event]] == ["start", "stop", "reload"]
    assert Record(time="now", event="start", pid=77).as_dict()["pid"] == 77


def test_what_is_not_known_is_null_and_not_left_out() -> None:
    said = Record(time="now", event="decision").as_dict()
    unknown = set(SUBJECT) | set(JUDGEMENT) | {"id", "addresses", "dns_ms"}
    assert {name for name, value in said.items() if value is None} >= unknown


def test_a_record_cannot_be_changed_once_it_is_made() -> None:
    record = Record(time="now", event="stop")
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.event = "start"  # type: ignore[misc] # that is the test


def test_an_event_that_nobody_documented_cannot_be_spelt() -> None:
    with pytest.raises(KeyError):
        Record(time="now", event="surprise").as_dict()


def test_the_bounds_that_others_rely_on() -> None:
    assert (MAX_ADDRESSES, DIGEST_DIGITS, SCHEMA) == (16, 16, 1)


@pytest.mark.parametrize(
    ("microseconds", "spelt"), [(0, ".000Z"), (999, ".000Z"), (1000, ".001Z"), (123_456, ".123Z"), (999_999, ".999Z")]
)
def test_a_time_has_milliseconds_and_ends_in_z(microseconds: int, spelt: str) -> None:
    assert timestamp(NOON.replace(microsecond=microseconds)) == "2026-08-01T12:00:00" + spelt


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_a_time_reads_back_as_the_instant_it_was(now: dt.datetime) -> None:
    back = dt.datetime.fromisoformat(timestamp(now))
    assert dt.timedelta(0) <= now - back < dt.timedelta(milliseconds=1)
    assert back.utcoffset() == dt.timedelta(0)
