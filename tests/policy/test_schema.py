"""The published JSON Schema: generated from the model, up to date, of one mind with the loader about shapes (R8)."""

from __future__ import annotations

import json
import runpy
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxyd.policy import schema
from tests.policy.worlds import MINIMAL, problems

BESIDE = Path(schema.__file__).with_name("policy.schema.json")
VALIDATOR = Draft202012Validator(schema.policy_schema())

FULL = """\
schema = 1
name = "gateway"
include = ["rows.toml"]
workers = "auto"
listen = {http = ["127.0.0.1:3128", "[::1]:0"], dangerously_public_listener = false}
destinations = {default = "deny", mode = "report", ports = [443, "8000-8099"]}
dns = {servers = ["9.9.9.9", "[2620:fe::fe]:53"], nat64 = ["64:ff9b::/96"]}
audit = {to = "/var/log/proxyd.jsonl", dangerously_prefer_availability = true}
limits = {connections = 100, idle_seconds = 60, drain_seconds = 0}

[[client]]
name = "agent"
networks = ["127.0.0.0/8", "::1/128", "::ffff:0.0.0.0/96"]

[[deny]]
name = "corp"
reason = "unsere eigenen — “ours”"
hosts = ["*.corp.example", "xn--bcher-kva.example"]
networks = ["203.0.112.0/22"]

[[allow]]
reason = "model providers"
hosts = ["api.example.com", "*.example.net"]
ports = [443]

[[permit]]
reason = "Ollama on this host"
host = "localhost"
ports = [11434, "1234-1235"]
networks = ["127.0.0.1/32", "::1/128"]
expires = 2027-01-31

[[test]]
url = "https://api.example.com"
client = "agent"
expect = "deny"
reason = "name_reserved"
addresses = ["93.184.216.34"]
cnames = ["x.internal"]
"""


def as_json(text: str) -> Any:  # noqa: ANN401 - a TOML document
    """A policy as a JSON document: dates as ISO strings."""
    return json.loads(json.dumps(tomllib.loads(text), default=date.isoformat))


def test_the_file_beside_the_module_is_what_the_module_prints() -> None:
    assert BESIDE.read_text(encoding="utf-8") == schema.rendered()


def test_the_module_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(schema.__file__, run_name="__main__")
    assert capsys.readouterr().out == schema.rendered()


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema.policy_schema())
    assert json.loads(schema.rendered()) == schema.policy_schema()


def test_it_accepts_the_smallest_and_the_fullest_policy_as_the_loader_does() -> None:
    assert problems(MINIMAL) == problems(FULL, rows="") == []
    VALIDATOR.validate(as_json(MINIMAL))
    VALIDATOR.validate(as_json(FULL))


def test_the_fullest_policy_uses_every_key_there_is() -> None:
    def unused(accepts: dict[str, Any], value: Any) -> list[str]:  # noqa: ANN401
        if "properties" not in accepts:
            return []
        inner = {name: each[0] if isinstance(each, list) else each for name, each in value.items()}
        below = [accepts["properties"][name] for name in inner]
        missing = [name for name in accepts["properties"] if name not in value]
        return missing + [
            each
            for one, item in zip(below, inner.values(), strict=True)
            for each in unused(one.get("items", one), item)
        ]

    assert set(unused(schema.policy_schema(), as_json(FULL))) == {"name"}


def test_every_key_says_what_it_is_for() -> None:
    def bare(accepts: dict[str, Any]) -> list[str]:
        found = [name for name, each in accepts.get("properties", {}).items() if not each.get("description")]
        return found + [
            name for each in accepts.get("properties", {}).values() for name in bare(each.get("items", each))
        ]

    assert bare(schema.policy_schema()) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("schema = 1", "schema = 2"),
        ("schema = 1", 'schema = "1"'),
        ("schema = 1", ""),
        ('name = "gateway"', ""),
        ('name = "gateway"', 'name = "Gateway"'),
        ('name = "gateway"', f'name = "{"a" * 65}"'),
        ('name = "gateway"', 'nmae = "gateway"'),
        ('["rows.toml"]', "[]"),
        ('["rows.toml"]', '"rows.toml"'),
        ('["rows.toml"]', '["a\\u0000"]'),
        ('"[::1]:0"', '"localhost:3128"'),
        ('"[::1]:0"', '"127.0.0.1:3128:0"'),
        ('"[::1]:0"', '"[FE80::1]:3128"'),
        ('"[::1]:0"', "3128"),
        ("dangerously_public_listener = false", "dangerously_public_listener = 0"),
        ('default = "deny"', 'default = "none"'),
        ('default = "deny", ', ""),
        ('mode = "report"', 'mode = "off"'),
        ('[443, "8000-8099"]', "[0]"),
        ('[443, "8000-8099"]', "[65536]"),
        ('[443, "8000-8099"]', '["443"]'),
        ('[443, "8000-8099"]', "[]"),
        ('["64:ff9b::/96"]', '["64:ff9b::"]'),
        ("/var/log/proxyd.jsonl", "proxyd.jsonl"),
        ("connections = 100", "connections = 0"),
        ("idle_seconds = 60", "idle_seconds = 60.5"),
        ("drain_seconds = 0", "drain_seconds = -1"),
        ('[[client]]\nname = "agent"\n', "[[client]]\n"),
        ('"203.0.112.0/22"', '"203.0.112.0"'),
        ('"203.0.112.0/22"', '"2001:DB8::/32"'),
        ('"*.corp.example"', '"Corp.example"'),
        ('"*.corp.example"', '"bücher.example"'),
        ('"*.corp.example"', '"*"'),
        ("unsere eigenen — “ours”", ""),
        ("unsere eigenen — “ours”", "a\\u001bb"),
        ("model providers", "a" * 201),
        ('host = "localhost"', 'host = "*.localhost"'),
        ('host = "localhost"', 'hosts = ["localhost"]'),
        ("expires = 2027-01-31", "expires = 20270131"),
        ('expect = "deny"', 'expect = "maybe"'),
        ('addresses = ["93.184.216.34"]', "addresses = [1]"),
    ],
)
def test_it_refuses_the_shapes_that_the_loader_refuses(right: str, wrong: str) -> None:
    assert FULL.count(right) >= 1
    changed = FULL.replace(right, wrong, 1)
    assert problems(changed, rows="")
    assert not VALIDATOR.is_valid(as_json(changed))
