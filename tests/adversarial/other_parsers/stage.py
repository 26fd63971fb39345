"""A client, proxyd, the tap and an origin in a row: send octets, and hear what everybody tells of them."""

from __future__ import annotations

import json
import shutil
import socket
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests import namespace
from tests.adversarial.other_parsers.tap import Crossing, Tap
from tests.end_to_end.conftest import POLICIES
from tests.end_to_end.daemon import PATIENCE, Daemon, policy_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.adversarial.other_parsers.messages import Message
    from tests.adversarial.other_parsers.program import Origin
    from tests.end_to_end.nameserver import Nameserver

# Whatever becomes of a target when octets are changed at random, it is this address and port or it is refused.
_ONLY_THE_TAP = """
[[allow]]
name = "tap"
hosts = ["{address}"]
ports = [{port}]
reason = "the origin of this test"
"""


@dataclass(frozen=True, slots=True)
class Told:
    """One client's connection: what it sent and got, proxyd's closing records and messages, the origin's requests."""

    octets: bytes
    answers: bytes
    closings: list[dict[str, Any]]
    crossings: list[Crossing]
    seen: list[Message]


class Closings:
    """Reads an audit log's closing records as they are written."""

    def __init__(self, audit: Path) -> None:
        self._log = audit.open()
        self._line = ""

    def close(self) -> None:
        """Stop reading."""
        self._log.close()

    def take(self) -> list[dict[str, Any]]:
        """Those of the connections that ended since the last time: a decision is on record before its answer."""
        records: list[dict[str, Any]] = []
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            *lines, self._line = (self._line + self._log.read()).split("\n")
            records += [json.loads(line) for line in lines]
            closings = [record for record in records if record["event"] == "close"]
            if len(closings) == sum(record["event"] == "decision" for record in records) > 0:
                return closings
            time.sleep(0.001)
        raise AssertionError(f"a decision without a closing record: {records}")


@dataclass
class Stage:
    """Everything running. One connection at a time, so that everybody's order is the same."""

    proxy: Daemon
    tap: Tap
    origin: Origin
    closings: Closings
    _heard: int = field(default=0, init=False)

    @property
    def url(self) -> str:
        """The origin, by way of the tap."""
        return f"http://{namespace.origin_4()}:{self.tap.port}"

    def send(self, octets: bytes) -> Told:
        """One connection of a client that sends these octets, and no more."""
        answers = ask(self.proxy, octets)
        closings = self.closings.take()
        crossings = self.tap.take(sum(closing["address"] is not None for closing in closings))
        seen = self.origin.seen()[self._heard :]
        self._heard += len(seen)
        return Told(octets, answers, closings, crossings, list(seen))


def ask(proxy: Daemon, octets: bytes) -> bytes:
    """All that proxyd answers to a client that sends these octets and ends its side."""
    answers = b""
    with proxy.connect() as client:
        client.sendall(octets)
        with suppress(ConnectionError):  # proxyd may refuse, be done, and not wait for our end
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                answers += piece
    return answers


@contextmanager
def stage(origin: Origin, nameserver: Nameserver, directory: Path) -> Iterator[Stage]:
    """proxyd and a tap in front of an origin; files are in `directory`."""
    tap = Tap(namespace.origin_4(), origin.address)
    policy, audit, errors = (directory / name for name in ("policy.toml", "audit.jsonl", "errors"))
    shutil.copy(POLICIES / "denylist.toml", directory)
    only_the_tap = _ONLY_THE_TAP.format(address=namespace.origin_4(), port=tap.port)
    policy.write_text(policy_text(nameserver.port, tap.port, (), only_the_tap))
    audit.touch()
    errors.touch()
    proxy = Daemon(policy, audit, errors)
    try:
        with closing(Closings(audit)) as closings:
            yield Stage(proxy, tap, origin, closings)
    finally:
        proxy.stop()
        tap.close()
