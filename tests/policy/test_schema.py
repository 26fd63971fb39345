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
from tests.policy.worlds import BESIDE_FULL, FULL, HASH, MINIMAL, problems

BESIDE = Path(schema.__file__).with_name("policy.schema.json")
VALIDATOR = Draft202012Validator(schema.policy_schema())


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
    assert problems(MINIMAL) == problems(FULL, **BESIDE_FULL) == []
    VALIDATOR.validate(as_json(MINIMAL))
    VALIDATOR.validate(as_json(FULL))


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
        ('workers = "auto"', "workers = 0"),
        ('workers = "auto"', 'workers = "all"'),
        ('["rows.toml"]', "[]"),
        ('["rows.toml"]', '"rows.toml"'),
        ('["rows.toml"]', '["a\\u0000"]'),
        ('"[::1]:0"', "3128"),
        ('"[::1]:0"', '""'),
        ('"systemd:tls"', "[]"),
        ('"/etc/proxyd/tls.key"', '"tls.key"'),
        ('unix_mode = "0660"', "unix_mode = 660"),
        ('unix_mode = "0660"', 'unix_mode = "0960"'),
        ('"/run/proxyd/control"', '"control"'),
        ("dangerously_public_listener = true", "dangerously_public_listener = 1"),
        ('default = "deny"', 'default = "none"'),
        ('default = "deny"\n', ""),
        ('mode = "report"', 'mode = "off"'),
        ('[443, "8000-8099"]', "[0]"),
        ('[443, "8000-8099"]', "[65536]"),
        ('[443, "8000-8099"]', '["443"]'),
        ('[443, "8000-8099"]', "[]"),
        ('tls_name = "match"', 'tls_name = "on"'),
        ('["X-Team"]', '[""]'),
        ('"9.9.9.9"', '"dns.example"'),
        ('"9.9.9.9"', '"https://9.9.9.9"'),
        ('"tcp://10.0.0.53"', '"tcp://dns.corp.example"'),
        ('suffix = "corp.example"', 'suffix = "*.corp.example"'),
        ('suffix = "corp.example"\n', ""),
        ('hosts_file = "/etc/hosts"', "hosts_file = true"),
        ('["64:ff9b::/96"]', '["64:ff9b::"]'),
        ('["198.18.0.0/15"]', '["198.18.0.7"]'),
        ('address = "192.0.2.7:3128"', 'address = "parent.example:3128"'),
        ('address = "192.0.2.7:3128"\n', ""),
        ("/var/log/proxyd.jsonl", "proxyd.jsonl"),
        ('listen = "127.0.0.1:9128"', "listen = 9128"),
        ('listen = "127.0.0.1:9128"', 'listen = ""'),
        ('listen = "127.0.0.1:9128"', 'lisetn = "127.0.0.1:9128"'),
        ('"/etc/proxyd/token"', '"token"'),
        ("connections = 100", "connections = 0"),
        ("idle_seconds = 60", "idle_seconds = 60.5"),
        ("drain_seconds = 0", "drain_seconds = -1"),
        ("requests_per_second = 50\n", "requests_per_second = 0\n"),
        ('[[client]]\nname = "agent"\n', "[[client]]\n"),
        ('["openclaw", 1001]', '["openclaw", -1]'),
        ('["openclaw", 1001]', "[1.5]"),
        ('["openclaw", 1001]', "[]"),
        ('user = "agent"\n', ""),
        ('user = "agent"', 'user = "a:b"'),
        (HASH, "open sesame"),
        ("mark = 7", "mark = 0"),
        ('interface = "eth0"', 'interface = "eth 0"'),
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
        ('reason = "its storage"\n', ""),
        ("expires = 2027-01-31", "expires = 20270131"),
        ('expect = "deny"', 'expect = "maybe"'),
        ('addresses = ["93.184.216.34"]', "addresses = [1]"),
    ],
)
def test_it_refuses_the_shapes_that_the_loader_refuses(right: str, wrong: str) -> None:
    assert FULL.count(right) >= 1
    changed = FULL.replace(right, wrong, 1)
    assert problems(changed, **BESIDE_FULL)
    assert not VALIDATOR.is_valid(as_json(changed))
