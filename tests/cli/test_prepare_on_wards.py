"""What a policy asks for, made ready for a confined command: its own socket, and none of the policy's (R12)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from netaddr import IPAddress

from proxyd.cli.prepare import Confined, prepare
from proxyd.net.listening import bind
from proxyd.policy.address import Endpoint
from tests.cli.desk import Desk, desk
from tests.cli.policies import text, write

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["desk", "write"]


def test_a_confined_command_is_served_where_it_is_and_nowhere_else(desk: Desk, write: Callable[[str], str]) -> None:
    """Even where the policy's own port is taken; whoever comes there is of the account that started it."""
    with bind(Endpoint(IPAddress("127.0.0.1"), 0))[0] as inside, bind(Endpoint(IPAddress("127.0.0.1"), 0))[0] as taken:
        name = write(text(f'http = ["127.0.0.1:{taken.getsockname()[1]}"]'))
        charge = prepare(name, desk.ledger, desk.complaints.append, confined=Confined(inside, os.geteuid()))
        desk.charges.append(charge)
        assert charge.described == (f"127.0.0.1:{inside.getsockname()[1]}",)
        (served,) = charge.listeners["exec"]
        assert served.fileno() != inside.fileno()
    assert (charge.handover.peer, charge.handover.listeners) == (os.geteuid(), ("exec",))
