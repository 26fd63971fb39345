"""What each check costs: our daemon, as the bench runs it, with one of them at a time. `proxyd` has none of these."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxyd.policy.password import new_hash
from tests.bench.peers import PROXYD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.contenders import Contender

_USER: Final = "bench:of-no-use-elsewhere"
_PORTS: Final = iter(range(3140, 3200))
_EVERYTHING: Final = "1000000"


def _with(name: str, more: str, field: str = "", *, tls: bool = False) -> Contender:
    """Our daemon on another port, with `more` in its policy: keys of its client, or tables."""
    address = f"127.0.0.1:{next(_PORTS)}"

    def prepare(program: str, directory: Path) -> list[str]:
        command = PROXYD.prepare(program, directory)
        policy = directory / "policy.toml"
        text = policy.read_text().replace(f'"{PROXYD.address}"', f'"{address}"')
        networks = '\nnetworks = ["127.0.0.0/8", "::1/128"]\n'
        policy.write_text(text.replace(networks, f"{networks}{more}\n"))
        return command

    return replace(PROXYD, name=name, address=address, prepare=prepare, field=field, tls=tls)


CHECKS: Final = (
    PROXYD,
    _with("users", f"users = [{os.geteuid()}]"),
    _with(
        "credential",
        f'[client.credential]\nuser = "bench"\npassword = "{new_hash(_USER.partition(":")[2], os.urandom(16))}"',
        field=f"Proxy-Authorization: Basic {base64.b64encode(_USER.encode()).decode()}",
    ),
    _with("limits", f"[client.limits]\nrequests_per_second = {_EVERYTHING}\ntunnels = {_EVERYTHING}"),
    _with("tls_name", '[client.destinations]\ntls_name = "match"', tls=True),
)
