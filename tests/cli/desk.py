"""Where the tests prepare policies: nothing is left open by one that is refused, and all is closed in the end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from netaddr import IPAddress

from proxyd.cli import prepare as prepare_module
from proxyd.cli.prepare import prepare
from proxyd.policy.address import Endpoint
from proxyd.serve.charge import CannotServe, Charge
from proxyd.serve.ledger import new_ledger
from tests.serve.stage import open_files

if TYPE_CHECKING:
    from collections.abc import Iterator

RESOLVER = Endpoint(IPAddress("9.9.9.9"), 53)


class Desk:
    """Where policies are prepared."""

    def __init__(self) -> None:
        self.ledger = new_ledger()
        self.complaints: list[str] = []
        self.charges: list[Charge] = []

    def prepare(self, name: str, before: Charge | None = None) -> Charge:
        """One that is let go of in the end."""
        self.charges.append(prepare(name, self.ledger, self.complaints.append, before))
        return self.charges[-1]

    def refused(self, name: str, before: Charge | None = None) -> tuple[tuple[str, ...], int]:
        """What is said of one that cannot be served, and the status; nothing is left open by it."""
        files = open_files()
        with pytest.raises(CannotServe) as refused:
            prepare(name, self.ledger, self.complaints.append, before)
        reason = refused.value.problems, refused.value.status
        del refused
        assert open_files() == files
        return reason

    def close(self) -> None:
        """Let go of all."""
        for charge in self.charges:
            charge.let_go()
        os.close(self.ledger)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A desk on a host that has a resolver."""
    monkeypatch.setattr(prepare_module, "system_servers", lambda: (RESOLVER,))
    desk = Desk()
    yield desk
    desk.close()
