"""A parent proxy that cannot be one: the contradiction with the way out (R12, ATTACKS 6)."""

from __future__ import annotations

import pytest

from tests.policy.worlds import MINIMAL, problems

LISTENER = 'http = ["127.0.0.1:3128"]'
WILDCARD = 'http = ["0.0.0.0:3128"]\ndangerously_public_listener = true'
SIX = 'http = ["[::1]:3128"]'


@pytest.mark.parametrize(
    ("listener", "parent", "circular"),
    [
        (LISTENER, "127.0.0.1:3128", True),
        (LISTENER, "127.0.0.1:3129", False),
        (LISTENER, "127.0.0.2:3128", False),
        (LISTENER, "10.0.0.9:3128", False),
        (SIX, "[::1]:3128", True),
        (SIX, "127.0.0.1:3128", False),
        (WILDCARD, "127.0.0.1:3128", True),
        (WILDCARD, "10.0.0.9:3128", False),
        (f'{LISTENER}\n[admin]\nlisten = "127.0.0.1:9128"\ntoken_file = "/t"', "127.0.0.1:9128", True),
        (f'{LISTENER}\n[admin]\nlisten = "unix:/run/a"', "127.0.0.1:9128", False),
    ],
)
def test_proxyd_is_not_its_own_parent(listener: str, parent: str, *, circular: bool) -> None:
    policy = MINIMAL.replace(LISTENER, listener).replace('"::1/128"]', '"::1/128", "10.0.0.0/8"]')
    said = f"main.toml: parent.address: at {parent} proxyd itself listens; write the address of another proxy"
    assert problems(f'{policy}\n[parent]\naddress = "{parent}"\n') == [said] * circular
