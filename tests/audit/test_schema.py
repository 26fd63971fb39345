"""The published JSON Schema of the audit log: up to date, complete, and true of every record (R7)."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from proxyd.audit import schema
from proxyd.audit.record import FIELDS_OF, Record
from proxyd.audit.render import json_line

BESIDE: Final = Path(schema.__file__).with_name("record.schema.json")
VALIDATOR: Final = Draft202012Validator(schema.record_schema())

_text = st.text(max_size=20)
_maybe_text = st.none() | _text
_count = st.integers(min_value=0, max_value=2**63)
_maybe_ms = st.none() | st.floats(min_value=0, max_value=1e9)
RECORDS: Final = st.builds(
    Record,
    time=st.just("2026-08-01T12:00:00.000Z"),
    event=st.sampled_from(sorted(FIELDS_OF)),
    id=_text,
    client=_maybe_text,
    client_address=_maybe_text,
    user=_maybe_text,
    method=_maybe_text,
    scheme=st.sampled_from(["http", "connect", None]),
    host=_maybe_text,
    port=st.none() | st.integers(1, 65535),
    addresses=st.none() | st.lists(_text, max_size=16).map(tuple),
    address=_maybe_text,
    verdict=st.sampled_from(["allow", "deny", "error"]),
    reason=_maybe_text,
    rule=_maybe_text,
    refused=_maybe_text,
    would=st.sampled_from(["deny", None]),
    status=st.none() | st.integers(100, 599),
    policy=_text,
    digest=_text,
    outcome=_maybe_text,
    bytes_up=_count,
    bytes_down=_count,
    dns_ms=_maybe_ms,
    connect_ms=_maybe_ms,
    first_byte_ms=_maybe_ms,
    duration_ms=_maybe_ms,
    listening=st.lists(_text, max_size=3).map(tuple),
    connections=_count,
    problems=st.lists(_text, max_size=3).map(tuple),
    changes=st.lists(_text, max_size=3).map(tuple),
    revoked=_count,
    pid=_count,
    truncated=st.booleans(),
)

LEAST: Final = Record(
    time="2026-08-01T12:00:00.000Z",
    event="decision",
    id="0" * 16,
    verdict="deny",
    policy="gateway",
    digest="0" * 16,
    pid=1,
)


def of(record: Record) -> dict[str, Any]:
    """A record as its reader gets it."""
    said = json.loads(json_line(record))
    assert isinstance(said, dict)
    return said


def described() -> dict[str, set[str]]:
    """The properties of each event, as the schema has them."""
    return {each["properties"]["event"]["const"]: set(each["properties"]) for each in schema.record_schema()["oneOf"]}


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema.record_schema())


def test_the_file_beside_the_code_is_up_to_date() -> None:
    assert BESIDE.read_text() == schema.rendered()


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(schema.__file__, run_name="__main__")
    assert capsys.readouterr().out == schema.rendered()


@given(RECORDS)
def test_every_record_of_every_event_is_valid(record: Record) -> None:
    VALIDATOR.validate(of(record))


@pytest.mark.parametrize("event", FIELDS_OF)
def test_the_least_that_can_be_known_is_valid(event: str) -> None:
    VALIDATOR.validate(of(dataclasses.replace(LEAST, event=event)))


def test_every_field_of_a_record_is_described_and_nothing_else_is() -> None:
    fields = {each.name for each in dataclasses.fields(Record)}
    assert {name for names in described().values() for name in names} == fields


def test_every_event_has_exactly_its_fields_and_all_of_them_always() -> None:
    assert described() == {event: set(names) for event, names in FIELDS_OF.items()}
    for each in schema.record_schema()["oneOf"]:
        assert set(each["required"]) == set(each["properties"])
        assert each["additionalProperties"] is False


def test_every_field_says_what_it_means() -> None:
    for each in schema.record_schema()["oneOf"]:
        for name, described_as in each["properties"].items():
            assert name == "event" or described_as["description"]


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/bot123:secret/sendMessage"},
        {"headers": {}},
        {"event": "surprise"},
        {"event": "close"},
        {"schema": 2},
        {"verdict": "maybe"},
        {"verdict": None},
        {"scheme": "https"},
        {"port": 0},
        {"port": 65536},
        {"port": "443"},
        {"dns_ms": -1},
        {"would": "allow"},
        {"addresses": [1]},
        {"user": 1001},
        {"truncated": None},
        {"id": None},
        {"policy": None},
    ],
    ids=str,
)
def test_what_is_no_record_is_not_valid(change: dict[str, object]) -> None:
    assert not VALIDATOR.is_valid(of(LEAST) | change)


@pytest.mark.parametrize("name", FIELDS_OF["decision"])
def test_a_record_without_one_of_its_fields_is_not_valid(name: str) -> None:
    assert not VALIDATOR.is_valid({key: value for key, value in of(LEAST).items() if key != name})
