"""Which local account listens: `proxyd audit` asks whose account the daemon runs as (R2).

Real sockets, and other accounts by fork(2) and setuid(2).
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net import identity as identity_module
from proxyd.net.identity import uid_of_listener
from proxyd.policy.address import parse_endpoint
from tests.net.test_identity import OTHER, called, listening
from tests.tools import give_up

if TYPE_CHECKING:
    from collections.abc import Iterator

FREE: Final = parse_endpoint("127.0.0.1:1")
"""Nobody listens there."""


@contextmanager
def serving(uid: int, family: int, address: str) -> Iterator[int]:
    """A process of that account that listens there: at which port."""
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split()[:2] != ["0", "0"]:
        give_up("only root can be another account")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:  # nothing of pytest's may run here
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            with listening(family, address) as listener:
                os.write(writing, str(listener.getsockname()[1]).encode())
                signal.pause()
        finally:
            os._exit(0)
    try:
        os.close(writing)
        yield int(os.read(reading, 5))
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


PLACES: Final = [
    (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    (socket.AF_INET, "0.0.0.0", "0.0.0.0"),
    (socket.AF_INET6, "::1", "[::1]"),
    (socket.AF_INET6, "::", "[::]"),
]


@pytest.mark.parametrize(("family", "address", "spelt"), PLACES)
@pytest.mark.parametrize("uid", [OTHER, 65534])
def test_r2_who_listens_is_the_account_that_made_the_socket(family: int, address: str, spelt: str, uid: int) -> None:
    """And once it has ended, nobody."""
    with serving(uid, family, address) as port:
        assert uid_of_listener(parse_endpoint(f"{spelt}:{port}")) == uid
    assert uid_of_listener(parse_endpoint(f"{spelt}:{port}")) is None


@pytest.mark.parametrize(("family", "address", "spelt"), PLACES)
def test_who_listens_here_is_this_account(family: int, address: str, spelt: str) -> None:
    with listening(family, address) as listener:
        assert uid_of_listener(parse_endpoint(f"{spelt}:{listener.getsockname()[1]}")) == os.getuid()


def test_another_address_is_another_listener() -> None:
    """A wildcard, too, is one of its own: what a policy names is what proxyd binds."""
    with listening(socket.AF_INET, "127.0.0.1") as listener:
        port = listener.getsockname()[1]
        for other in ("127.0.0.2", "0.0.0.0", "[::1]", "[::]"):
            assert uid_of_listener(parse_endpoint(f"{other}:{port}")) is None


def test_nobody_listens_where_nobody_does() -> None:
    assert uid_of_listener(FREE) is None


def test_a_connection_to_a_listener_that_is_gone_listens_no_more() -> None:
    """Its local address is the same."""
    with called() as (accepted, _):
        host, port = accepted.getsockname()
        assert uid_of_listener(parse_endpoint(f"{host}:{port}")) == os.getuid()
    with listening() as listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        host, port = listener.getsockname()
        listener.close()
        assert uid_of_listener(parse_endpoint(f"{host}:{port}")) is None


def test_r12_tables_that_cannot_be_read_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That nobody listens is not said where nothing was seen; a kernel without IPv6 has no table of it."""
    monkeypatch.setattr(identity_module, "_PROC_TCP", (tmp_path / "nowhere",))
    assert uid_of_listener(FREE) is None
    monkeypatch.setattr(identity_module, "_PROC_TCP", (tmp_path,))
    with pytest.raises(IsADirectoryError):
        uid_of_listener(FREE)
