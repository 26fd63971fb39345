"""Whoever asks a real proxyd how it goes: a monitoring system, a service manager, or somebody who may not."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.daemon import PATIENCE, read_all, status, ticks
from tests.tools import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKEN: Final = "Zm9yIHRlc3RzIG9ubHk_0123456789abcdef".replace("_", "-")
SHOWN: Final = f"Authorization: Bearer {TOKEN}"


@dataclass(frozen=True)
class Scraper:
    """Asks there. where: a path, or an address and port. fields: what it shows."""

    where: str | tuple[str, int]
    fields: tuple[str, ...] = ()

    def connect(self) -> socket.socket:
        """A connection of its own."""
        if isinstance(self.where, tuple):
            return socket.create_connection(self.where, PATIENCE)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(self.where)
        return sock

    def begin(self, path: str) -> socket.socket:
        """Ask for something, and do not wait for the answer."""
        sock = self.connect()
        sock.sendall("\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *self.fields, "", "")).encode())
        return sock

    def ask(self, path: str) -> tuple[int, str]:
        """What is answered: the status, and the body."""
        with self.begin(path) as sock:
            answer = read_all(sock)
        return status(answer), answer.partition(b"\r\n\r\n")[2].decode()

    def ready(self) -> tuple[int, str]:
        """What is said to whoever would send clients here."""
        return self.ask("/readyz")

    def samples(self) -> dict[str, float]:
        """The metrics as Prometheus reads them: `name{label="value",…}`, labels in order, and the value."""
        code, body = self.ask("/metrics")
        assert code == 200, body
        found = {}
        for family in text_string_to_metric_families(body):
            for each in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(each.labels.items()))
                found[f"{each.name}{{{labels}}}" if labels else each.name] = each.value
        return found


def at_unix(tmp_path: Path) -> tuple[str, Scraper]:
    """An admin listener at a Unix socket: what a policy says of it, and who asks there."""
    path = tmp_path / "admin"
    return f'[admin]\nlisten = "unix:{path}"\n', Scraper(str(path))


def at_loopback(tmp_path: Path, host: str = "127.0.0.1") -> tuple[str, Scraper]:
    """The same on loopback, for who knows the token."""
    port = free_port(host)
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f'[admin]\nlisten = "{where}"\ntoken_file = "{token}"\n', Scraper((host, port), (SHOWN,))


def until(holds: Callable[[], object], what: str) -> None:
    """Wait for something; give up after a long while."""
    for _ in ticks():
        if holds():
            return
    raise AssertionError(what)
