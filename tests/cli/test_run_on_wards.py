"""The daemon that serves a confined command, real but for the workers: what it does otherwise than any other (R12)."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from proxyd.cli.prepare import Confined
from proxyd.cli.run import serve
from proxyd.cli.ward import Ward
from tests.cli.policies import text, write
from tests.cli.start import Start, hup, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

__all__ = ["start", "write"]


def test_r12_it_reads_the_policy_once_and_listens_nowhere_else(
    start: Start, write: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Who is confined is of the same account: may write the policy, and send SIGHUP. No port, no control socket."""
    start.script = [(hup,)]
    policy = write(text(f'http = ["127.0.0.1:1", "unix:{tmp_path}/s"]\ncontrol = "{tmp_path}/c"\n', _TWO))
    ours, theirs = socket.socketpair()
    process = os.pidfd_open(os.getpid())
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        assert serve(policy, Ward(Confined(listener, 1234), process, theirs)) == 0
        theirs.close()
        assert ours.recv(10) == b""  # it would have been told to begin by the first look at workers that serve
        charge = start.served[0]
        assert charge.handover.peer == 1234
        assert list(charge.listeners) == ["exec"]
    os.close(process)
    said = capfd.readouterr()
    assert "reload refused, policy gateway stays as it was: exec: the policy is read once" in said.err
    assert "listening on" not in said.err
    assert {each.name for each in tmp_path.iterdir()} == {"policy.toml"}
    assert all(each is charge for each in start.served)


_TWO = '[[client]]\nname = "local"\nusers = [65000]\n'
