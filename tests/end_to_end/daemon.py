"""The real proxyd, started as a user would, and what it said: its start-up line, its records, its exit status."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 60.0  # seconds until a test gives up; none is decided by time


@dataclass
class Daemon:
    """A running proxyd. `records()` waits until every request that has a decision also has a closing record."""

    policy: Path
    audit: Path
    errors: Path
    env: dict[str, str] | None = None
    _process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with self.audit.open("ab") as stdout, self.errors.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "proxyd", "--policy", str(self.policy)],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=self.env,
                process_group=0,
            )
        try:
            self.port = int(self._wait_for(r"listening on (?:127\.0\.0\.1|\[::1\]):(\d+)")[1])
        except BaseException:
            self._process.kill()
            raise

    @property
    def pid(self) -> int:
        """The daemon's process, which is the supervisor; also the number of the process group of all of them."""
        return self._process.pid

    def workers(self) -> list[int]:
        """The processes that serve, as far as they live."""
        return [pid for pid, (state, parent) in _processes() if parent == self.pid and state != "Z"]

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """A client's connection to the proxy, from an address of loopback."""
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE, (source, 0))

    def ask(self, request: bytes) -> bytes:
        """Send bytes as they are, and everything that comes back until the proxy closes."""
        with self.connect() as client:
            client.sendall(request)
            return read_all(client)

    def records(self) -> list[dict[str, Any]]:
        """The audit log so far, complete."""
        for _ in ticks():
            records = self.lines()
            decided = {record["id"] for record in records if record["event"] == "decision"}
            closed = {record["id"] for record in records if record["event"] == "close"}
            if decided == closed:
                return [record for record in records if record["event"] in ("decision", "close")]
        raise AssertionError(f"decisions without a closing record: {decided ^ closed}")

    def decisions(self) -> list[dict[str, Any]]:
        """The decision records, in order."""
        return [record for record in self.records() if record["event"] == "decision"]

    def decided(self) -> list[dict[str, Any]]:
        """The decision records so far, also of what is still under way."""
        return [record for record in self.lines() if record["event"] == "decision"]

    def closings(self) -> list[dict[str, Any]]:
        """The closing records, in order."""
        return [record for record in self.records() if record["event"] == "close"]

    def lines(self) -> list[dict[str, Any]]:
        """Every record that is written so far; one that is being written at this moment is not.

        A worker that took another one's line for torn, for being slow, leaves an empty one.
        """
        return [json.loads(line) for line in self.audit.read_text().split("\n")[:-1] if line]

    def wait_for_start(self, workers: int = 1) -> None:
        """Wait until it is on record that so many workers were started, and hear signals."""
        for _ in ticks():
            if [record["event"] for record in self.lines()].count("start") >= workers:
                return
        raise AssertionError(f"no {workers} workers: {self.complaints()}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def reloads(self) -> list[dict[str, Any]]:
        """What came of each reload so far."""
        return [record for record in self.lines() if record["event"] == "reload"]

    def reload(self, policy: str | None = None) -> dict[str, Any]:
        """Send SIGHUP, after the policy was written anew if it is given: what came of it, as the log has it."""
        if policy is not None:
            self.policy.write_text(policy)
        before = len(self.reloads())
        self.signal(signal.SIGHUP)
        for _ in ticks():
            if len(self.reloads()) > before:
                return self.reloads()[before]
        raise AssertionError(f"no reload: {self.complaints()}")

    def wait(self) -> int:
        """The exit status, once the daemon ended."""
        return self._process.wait(PATIENCE)

    def stop(self) -> int:
        """End it: the exit status."""
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return self.wait()
        finally:
            self._process.kill()

    def complaints(self) -> str:
        """What it said on stderr."""
        return self.errors.read_text()

    def _wait_for(self, pattern: str) -> re.Match[str]:
        for _ in ticks():
            if (match := re.search(pattern, self.complaints())) is not None:
                return match
            if self._process.poll() is not None:
                break
        raise AssertionError(f"proxyd did not say {pattern}: {self.complaints()}")


def _processes() -> Iterator[tuple[int, tuple[str, int]]]:
    """Every process there is, its state and its parent (proc(5), stat)."""
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, parent = (each / "stat").read_text().rpartition(") ")[2].split()[:2]
            yield int(each.name), (state, int(parent))


def state_of(pid: int) -> str:
    """How a process is: R or S for one that runs, T for one that was stopped, Z for none any more."""
    return dict(_processes()).get(pid, ("Z", 0))[0]


def files_of(pid: int) -> dict[int, str]:
    """The open files of a process."""
    found = {}
    with contextlib.suppress(FileNotFoundError):  # it ended
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                found[int(each.name)] = str(each.readlink())
    return found


def ticks() -> Any:  # noqa: ANN401 - an iterator of nothing much
    """Turns of waiting, until a test gives up."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield
        time.sleep(0.01)


def refuses(port: int) -> bool:
    """Whether nobody listens there; a connection that is reset met a listener that was about to go."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE):
            return False
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False


def read_all(client: socket.socket) -> bytes:
    """Everything until the other side ends."""
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Everything up to and including `end`."""
    data = b""
    while end not in data:
        piece = client.recv(1)
        if not piece:
            raise AssertionError(f"ended early: {data!r}")
        data += piece
    return data


def status(response: bytes) -> int:
    """The status code of a response."""
    return int(response.split(b" ", 2)[1])


def policy_text(
    nameserver_port: int, origin_port: int, names: tuple[str, ...] = (), extra: str = "", workers: int = 1
) -> str:
    """A policy for these tests; without a namespace, its permits stand in for public addresses.

    extra: more rows; [[allow]] rows among them make it a policy whose default is deny, and a [listen], [destinations]
    or [[client]] stands in the place of the plain one.
    """
    hosts = (*names, namespace.origin_4(), namespace.origin_6())
    permits = "" if namespace.isolated else "".join(_PERMIT.format(host=host, port=origin_port) for host in hosts)
    default = "deny" if "[[allow]]" in extra else "allow"
    several = f"workers = {workers}\n" if workers > 1 else ""
    plain = {
        "[dns]": f'servers = ["127.0.0.1:{nameserver_port}"]',
        "[listen]": 'http = ["127.0.0.1:0"]',
        "[destinations]": f'default = "{default}"',
        "[[client]]": 'name = "tester"\nnetworks = ["127.0.0.0/8"]',
    }
    tables = "".join(f"\n{name}\n{keys}\n" for name, keys in plain.items() if name not in extra.splitlines())
    return f'schema = 1\nname = "test"\n{several}include = ["denylist.toml"]\n{tables}{permits}{extra}'


_PERMIT = """
[[permit]]
host = "{host}"
ports = [{port}]
networks = ["127.0.0.10/32", "::1/128"]
reason = "stands in for a public address"
"""
