"""How one TOML value becomes one typed value: every reader against every type that TOML has, and against its schema.

R8, R12: what is not read is a problem that names its key and the way out; nothing is guessed.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from netaddr import IPAddress, IPNetwork

from proxyd.policy.address import Endpoint
from proxyd.policy.shape import (
    DAY,
    FLAG,
    HOST,
    HOST_PATTERN,
    NETWORK,
    PORTS,
    ListOf,
    Reader,
    Table,
    endpoint,
    key,
    number,
    number_or,
    one_of,
    text,
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A table with a key that must be there and one that may."""

    left: int = key(number(1, 9), "write left = 1")
    right: str = key(text(5), "a word", default="none")
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Placeless:
    """A table that does not care where it is written."""

    many: tuple[int, ...] = key(ListOf(number(0, 1)), "bits", default_factory=tuple)


# One value of every type that TOML has
TOML: list[object] = ["", "x", 0, 7, 1.5, float("nan"), float("inf"), True, False, [], ["x"], [7], {}, {"x": 1}]
TOML += [dt.date(2027, 1, 31), dt.datetime(2027, 1, 31, tzinfo=dt.UTC), dt.time(7, 32)]

READERS: dict[str, Reader[Any]] = {
    "number": number(0, 9),
    "number or word": number_or("x", 0, 9),
    "word": one_of("x", "y"),
    "text": text(9),
    "flag": FLAG,
    "day": DAY,
    "host": HOST,
    "pattern": HOST_PATTERN,
    "network": NETWORK,
    "ports": PORTS,
    "endpoint": endpoint(),
    "list": ListOf(number(0, 9)),
    "table": Table(Pair),
}


def read(reader: Reader[Any], value: object) -> tuple[object, list[str]]:
    found: list[str] = []
    return reader.read(value, "the.key", found), found


def accepted(reader: Reader[Any], value: object) -> object:
    result, problems = read(reader, value)
    assert problems == []
    return result


def refused(reader: Reader[Any], value: object) -> str:
    """The one problem, which names the key; and no value comes of it."""
    result, problems = read(reader, value)
    assert result is None
    (problem,) = problems
    assert problem.startswith("the.key: ")
    return problem


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("value", TOML, ids=repr)
def test_a_value_is_read_exactly_when_nothing_is_said_against_it(name: str, value: object) -> None:
    result, problems = read(READERS[name], value)
    assert (result is None) == bool(problems)
    assert all(problem.startswith("the.key") for problem in problems)


OF_TYPE: dict[str, list[object]] = {
    "number": [0, 7],
    "number or word": ["x", 0, 7],
    "word": ["x"],
    "text": ["x"],
    "flag": [True, False],
    "day": [dt.date(2027, 1, 31)],
    "host": ["x"],
    "pattern": ["x"],
    "network": [],
    "ports": [7],
    "endpoint": [],
    "list": [[7]],
    "table": [],
}
"""What each reader takes of these."""


@pytest.mark.parametrize("name", READERS)
def test_no_reader_takes_a_value_of_another_type(name: str) -> None:
    taken = [value for value in TOML if read(READERS[name], value)[1] == []]
    assert [(type(value), value) for value in taken] == [(type(value), value) for value in OF_TYPE[name]]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("value", TOML, ids=repr)
def test_what_is_read_the_schema_accepts_too(name: str, value: object) -> None:
    if read(READERS[name], value)[1] == []:
        as_json = value.isoformat() if isinstance(value, dt.date) else value
        Draft202012Validator(READERS[name].schema()).validate(as_json)


# Scalars


def test_a_number_has_a_first_and_a_last() -> None:
    assert [accepted(number(3, 5), value) for value in (3, 5)] == [3, 5]
    assert refused(number(3, 5), 2) == "the.key: 2 is no whole number from 3 to 5"
    assert refused(number(3, 5), 6) == "the.key: 6 is no whole number from 3 to 5"
    assert refused(number(0, 5), True) == "the.key: True is no whole number from 0 to 5"  # noqa: FBT003 - a TOML value


def test_a_number_or_a_word_is_one_of_the_two() -> None:
    reader = number_or("auto", 1, 64)
    assert [accepted(reader, value) for value in (1, 64, "auto")] == [1, 64, "auto"]
    for value, said in ((0, "0"), (65, "65"), ("Auto", '"Auto"'), ("8", '"8"'), (True, "True"), (2.0, "2.0")):
        assert refused(reader, value) == f'the.key: {said} is no whole number from 1 to 64, nor "auto"'
    validator = Draft202012Validator(reader.schema())
    assert [validator.is_valid(value) for value in (1, "auto", 0, 65, "8", True)] == [True, True] + [False] * 4


def test_a_number_however_long_is_a_problem_and_no_crash() -> None:
    refused(number(0, 5), 1 << 20000)
    refused(number_or("auto", 0, 5), 1 << 20000)
    refused(PORTS, 1 << 20000)


def test_a_word_is_one_of_the_words() -> None:
    assert accepted(one_of("allow", "deny"), "deny") == "deny"
    assert refused(one_of("allow", "deny"), "Deny") == 'the.key: "Deny" is not one of them; write "allow" or "deny"'


def test_a_text_is_printable_and_short() -> None:
    assert accepted(text(3), "äöü") == "äöü"
    for bad in ("", "abcd", "a\n", "a\x00", "\x1b", "\x7f"):
        assert "write printable text of at most 3 characters" in refused(text(3), bad)
    assert "write a letter of at most" in refused(text(3, "[a-z]", "a letter"), "ab")


def test_a_flag_is_true_or_false() -> None:
    assert accepted(FLAG, False) is False  # noqa: FBT003
    assert refused(FLAG, "true") == 'the.key: "true" is neither; write true or false'
    assert refused(FLAG, 1) == "the.key: 1 is neither; write true or false"


def test_a_day_is_a_bare_date() -> None:
    assert accepted(DAY, dt.date(2027, 1, 31)) == dt.date(2027, 1, 31)
    assert refused(DAY, "2027-01-31").endswith("write it bare, as 2027-01-31")
    assert refused(DAY, dt.datetime(2027, 1, 31, tzinfo=dt.UTC)).endswith("write it bare, as 2027-01-31")


@pytest.mark.parametrize("host", ["example.com", "xn--bcher-kva.example", "10.0.0.1", "::1", "_a.b", "localhost"])
def test_a_host_in_normal_form_is_taken_as_it_is(host: str) -> None:
    assert accepted(HOST, host) == host
    assert accepted(HOST_PATTERN, host) == host


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        pytest.param("Example.COM", "example.com", id="1.2-case"),
        pytest.param("example.com.", "example.com", id="1.1-final-dot"),
        pytest.param("bücher.example", "xn--bcher-kva.example", id="1.7-u-label"),
        pytest.param("*.bücher.example", "*.xn--bcher-kva.example", id="1.7-u-label-in-a-pattern"),
        pytest.param("ⓔvil.com", "evil.com", id="1.7-circled"),
        pytest.param("evil。com", "evil.com", id="1.7-ideographic-dot"),
        pytest.param("0:0::1", "::1", id="2.3-address"),
    ],
)
def test_attack_1_7_a_host_in_another_form_is_refused_with_the_right_spelling(written: str, normal: str) -> None:
    assert refused(HOST_PATTERN, written) == f'the.key: "{written}" is not in normal form; write "{normal}"'


@pytest.mark.parametrize(
    "host",
    ["", "a b", "-a", "a..b", "127.1", "*", "a.*", "a:443", "http:/a", "[::1]", "a/b", "::1/64", "\xad", "é" * 64],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    assert f'"{host}" is no host: ' in refused(HOST_PATTERN, host)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("url", ["https://example.com/bot123:TOKEN", "agent:TOKEN@example.com"])
def test_r7_what_looks_like_a_url_is_not_repeated(name: str, url: str) -> None:
    """It may hold a credential, and a problem goes to stderr, and that into logs."""
    problem = refused(READERS[name], url)
    assert problem.startswith("the.key: what is written there ")
    assert "TOKEN" not in problem


def test_one_host_is_no_pattern() -> None:
    assert accepted(HOST_PATTERN, "*.example.com") == "*.example.com"
    assert refused(HOST, "*.example.com") == 'the.key: "*.example.com" is a pattern; write one exact host'


@pytest.mark.parametrize(
    "network",
    ["10.0.0.0/8", "0.0.0.0/0", "1.2.3.4/32", "::/0", "2001:db8::/32", "::1/128", "64:ff9b:1::/48", "::ffff:0:0/96"],
)
def test_a_network_in_cidr_form_is_taken(network: str) -> None:
    assert accepted(NETWORK, network) == IPNetwork(network)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("10.1.0.0/8", "10.0.0.0/8"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("::1", "::1/128"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("2001:db8:0::/32", "2001:db8::/32"),
        ("2001:db8::1/64", "2001:db8::/64"),
        ("10.0.0.0/08", "10.0.0.0/8"),
    ],
)
def test_a_network_in_another_form_is_refused_with_the_right_spelling(written: str, normal: str) -> None:
    assert refused(NETWORK, written).endswith(f'write "{normal}"')


@pytest.mark.parametrize(
    "network", ["", "/", "10/8", "10.0.0/8", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "a/8", "::1%lo/128", "\x00/8"]
)
def test_what_is_no_network_is_refused(network: str) -> None:
    assert "is no network; write it" in refused(NETWORK, network)


@pytest.mark.parametrize(
    ("written", "ports"),
    [
        (1, range(1, 2)),
        (65535, range(65535, 65536)),
        ("8000-8099", range(8000, 8100)),
        ("1-65535", range(1, 65536)),
        ("443-443", range(443, 444)),
    ],
)
def test_ports_are_one_port_or_a_span_with_both_its_ends(written: object, ports: range) -> None:
    assert accepted(PORTS, written) == ports


@pytest.mark.parametrize(
    "written",
    [
        0,
        65536,
        -1,
        True,
        443.0,
        "443",
        "0-1",
        "2-1",
        "1-65536",
        "01-2",
        "1-2-3",
        "1 - 2",
        "-1",
        "1-",
        "\uff18-9",
        "1-2\n",
    ],
)
def test_attack_4_5_what_is_no_port_is_refused(written: object) -> None:
    assert "is no port or span of ports" in refused(PORTS, written)


@pytest.mark.parametrize(
    ("written", "default", "address", "port"),
    [
        ("127.0.0.1:3128", None, "127.0.0.1", 3128),
        ("127.0.0.1:0", None, "127.0.0.1", 0),
        ("[::1]:0", None, "::1", 0),
        ("9.9.9.9", 53, "9.9.9.9", 53),
        ("[2620:fe::fe]:5353", 53, "2620:fe::fe", 5353),
    ],
)
def test_an_endpoint_is_an_address_and_a_port(written: str, default: int | None, address: str, port: int) -> None:
    assert accepted(endpoint(default), written) == Endpoint(IPAddress(address), port)


@pytest.mark.parametrize(
    ("written", "default"),
    [
        *((bad, None) for bad in ("127.0.0.1", "[::1]", "localhost:1", ":0", "::1:0", "127.0.0.1:0:0", "", "1:0", "0")),
        *((bad, None) for bad in ("127.0.0.1:3128:0", "[::1]:3128:0", "127.0.0.1:00", "127.0.0.1:03128", "[::1/64]:1")),
        *((bad, 53) for bad in ("9.9.9.9:0", "dns.example", "::1", "9.9.9.9:", "9.9.9.9:x", "9.9.9.9:65536")),
    ],
)
def test_what_is_no_endpoint_is_refused(written: str, default: int | None) -> None:
    assert f'"{written}" will not do: ' in refused(endpoint(default), written)


@pytest.mark.parametrize("written", ["[FE80::1]:3128", "[0::1]:3128", "[::FFFF:127.0.0.1]:0"])
def test_an_endpoint_that_is_not_in_normal_form_is_refused(written: str) -> None:
    refused(endpoint(), written)


octets = st.integers(0, 255).map(str)
endpoints = st.builds(
    "{}{}".format,
    st.one_of(st.lists(octets, min_size=4, max_size=4).map(".".join), st.ip_addresses(v=6).map("[{}]".format)),
    st.one_of(st.just(""), st.integers(0, 70000).map(":{}".format)),
)


@given(endpoints)
def test_what_is_read_as_an_endpoint_the_schema_accepts(written: str) -> None:
    result, problems = read(endpoint(53), written)
    if not problems:
        assert isinstance(result, Endpoint)
        assert re.search(endpoint(53).schema()["pattern"], written)


# Lists and tables


def test_a_list_says_something() -> None:
    assert accepted(ListOf(number(0, 9)), [1, 2]) == (1, 2)
    assert refused(ListOf(number(0, 9)), []) == "the.key: an empty list says nothing; fill it or remove the key"
    assert refused(ListOf(number(0, 9)), 1) == "the.key: 1 is no list; write it as [ … ]"
    assert refused(ListOf(number(0, 9)), "1") == 'the.key: "1" is no list; write it as [ … ]'


def test_every_bad_item_is_named_by_its_index() -> None:
    result, problems = read(ListOf(number(0, 9)), [1, 10, 2, "x"])
    assert result is None
    assert [each.partition(": ")[0] for each in problems] == ["the.key[1]", "the.key[3]"]


def test_a_table_becomes_its_dataclass_and_knows_where_it_is_written() -> None:
    assert accepted(Table(Pair), {"left": 1, "right": "x"}) == Pair(left=1, right="x", where="the.key")
    assert accepted(Table(Pair), {"left": 1}) == Pair(left=1, where="the.key")
    assert accepted(Table(Placeless), {"many": [1]}) == Placeless(many=(1,))
    assert accepted(Table(Placeless), {}) == Placeless()


@pytest.mark.parametrize("value", ["user:password", 1, [], True])
def test_r7_what_is_no_table_is_refused_and_not_repeated(value: object) -> None:
    """Where a table belongs that holds a password, the password may stand."""
    assert refused(Table(Pair), value) == "the.key: what is written there is no table"


def test_a_table_where_a_scalar_belongs_is_called_a_table() -> None:
    assert refused(number(0, 9), {"x": 1}) == "the.key: a table is no whole number from 0 to 9"


def test_all_problems_of_a_table_are_found_at_once() -> None:
    result, problems = read(Table(Pair), {"rihgt": "x", "zzz": 1, "right": "too long"})
    assert result is None
    assert problems == [
        'the.key.rihgt: unknown key; did you mean "right"?',
        "the.key.zzz: unknown key; known here: left, right",
        'the.key.right: "too long" will not do; write printable text of at most 5 characters in quotes',
        "the.key.left: is missing; write left = 1",
    ]


def test_the_place_of_a_row_cannot_be_written_in_the_file() -> None:
    result, (problem,) = read(Table(Pair), {"left": 1, "where": "elsewhere"})
    assert result is None
    assert problem == "the.key.where: unknown key; known here: left, right"


def test_at_the_top_a_key_is_named_without_a_path() -> None:
    problems: list[str] = []
    Table(Pair).read({"zzz": 1}, "", problems)
    assert [each.partition(":")[0] for each in problems] == ["zzz", "left"]


def test_a_tables_schema_closes_it_and_names_what_must_be_there() -> None:
    schema = Table(Pair).schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["left"]
    assert schema["properties"] == {
        "left": {"description": "write left = 1", "type": "integer", "minimum": 1, "maximum": 9},
        "right": {"description": "a word", **text(5).schema()},
    }
    assert Table(Placeless).schema()["required"] == []
