"""Policies for the tests of the commands that serve one, or change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def text(listen: str = 'http = ["127.0.0.1:0"]', more: str = "", top: str = "") -> str:
    """A policy. listen: what its [listen] says; more: further tables; top: keys of the policy itself."""
    return f"""\
schema = 1
name = "gateway"
{top}
[listen]
{listen}
[destinations]
default = "allow"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
{more}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Writes the policy, and says where; again and again at the same place."""

    def write(policy: str) -> str:
        path = tmp_path / "policy.toml"
        path.write_text(policy)
        return str(path)

    return write
