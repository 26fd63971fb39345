"""Somebody's server as a foreground process: started, waited for until it accepts connections, ended."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.end_to_end.daemon import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.adversarial.other_parsers.messages import Message


@dataclass(frozen=True)
class Origin:
    """Where an origin listens, and how to learn which requests it has seen, complete, so far."""

    address: tuple[str, int]
    seen: Callable[[], Sequence[Message]]


@contextmanager
def running(command: Sequence[str], address: tuple[str, int], log: Path) -> Iterator[None]:
    """The program, from when it accepts connections at `address`; what it says goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603
    try:
        _wait_for(process, address, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()


def _wait_for(process: subprocess.Popen[bytes], address: tuple[str, int], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(address, PATIENCE).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"{process.args!r} does not listen: {log.read_text()}")
