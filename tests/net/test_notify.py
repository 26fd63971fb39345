"""The service manager told how it goes: where it listens, what it gets, and that it may be away (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from proxyd.net.notify import Manager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["a path", "an abstract name"])
def ear(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A manager's socket, named in the environment."""
    name = str(tmp_path / "notify")
    if request.param == "an abstract name":
        name = f"@{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(0)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def test_it_is_told_in_one_datagram(ear: socket.socket) -> None:
    manager = Manager()
    assert manager.listens
    manager.tell("READY=1", "STATUS=policy ü")
    assert ear.recv(100) == "READY=1\nSTATUS=policy ü".encode()
    with pytest.raises(BlockingIOError):
        ear.recv(100)


def test_what_we_start_hears_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}.items():
        monkeypatch.setenv(name, value)
    Manager()
    assert {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}.isdisjoint(os.environ)


def test_where_nobody_listens_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(socket, "socket", None)  # nothing is even tried
    manager = Manager()
    assert not manager.listens
    manager.tell("READY=1")


def test_one_that_is_gone_or_full_is_no_reason_not_to_serve(ear: socket.socket) -> None:
    """A datagram too many waits for nobody, and one to a socket that is closed raises nothing."""
    manager = Manager()
    for _ in range(1000):  # more than the kernel lets wait (net.unix.max_dgram_qlen)
        manager.tell("WATCHDOG=1")
    waiting = 0
    with suppress(BlockingIOError):
        while ear.recv(100):
            waiting += 1
    assert 0 < waiting < 1000
    ear.close()
    manager.tell("WATCHDOG=1")


@pytest.mark.parametrize(
    ("period", "owner", "patience"),
    [
        ("60000000", "", 60.0),
        ("1500000", "ours", 1.5),
        ("60000000", "1", 0.0),
        ("", "", 0.0),
        ("soon", "", 0.0),
        ("-1", "ours", 0.0),
    ],
)
def test_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, period: str, owner: str, patience: float) -> None:
    """sd_watchdog_enabled(3): microseconds, for the process that is named, if one is."""
    monkeypatch.setenv("WATCHDOG_USEC", period)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if owner == "ours" else owner)
    assert Manager().patience == patience
