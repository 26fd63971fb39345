"""Squid as an operator sets it up who follows the documented denylist to the letter: its rows, and none of their own.

The rows are those of policies/denylist.toml, which spells the page out in the page's order. The order matters: of two
rows that overlap Squid ignores one, with a warning when it starts. So it ignores `::/96`, because `::1/128` is inside.
"""

from __future__ import annotations

import socket
import socketserver
import subprocess
import threading
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.end_to_end.daemon import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.end_to_end.nameserver import Nameserver

    Connect = Callable[[], socket.socket]

DENYLIST: Final = Path(__file__).parents[2] / "policies" / "denylist.toml"
PORT: Final = 3129


@contextmanager
def squid(program: str, directory: Path, nameserver: Nameserver) -> Iterator[Connect]:
    """Run Squid, which asks `nameserver`: a way to connect to it. It keeps its files in `directory`.

    It will not run as root, and the root of a user namespace has no other account to turn into: so it gets a user
    namespace of its own, in which the account that runs the tests has an ordinary number.
    """
    configuration, errors = directory / "squid.conf", directory / "stderr"
    configuration.write_text(_configuration(directory))
    with _at_the_port_of_dns(nameserver), errors.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - installed by whoever runs the tests
            ["unshare", "--user", "--map-user=1", "--map-group=1", program, "-N", "-f", str(configuration)],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            _wait_until_listening(process, errors)
            yield _connect
            process.terminate()
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


def _connect() -> socket.socket:
    return socket.create_connection(("127.0.0.1", PORT), PATIENCE)


def _configuration(directory: Path) -> str:
    rows = tomllib.loads(DENYLIST.read_text())["deny"]
    return "\n".join(
        (
            *(f"acl blocked dst {network}" for row in rows for network in row.get("networks", ())),
            *(f"acl blocked_names dstdomain {host}" for row in rows for host in row.get("hosts", ())),
            "http_access deny blocked",
            "http_access deny blocked_names",
            "http_access allow localhost",
            "http_access deny all",
            f"http_port 127.0.0.1:{PORT}",
            "dns_nameservers 127.0.0.1",
            "cache deny all",
            "pinger_enable off",
            "visible_hostname squid.test",
            "shutdown_lifetime 0 seconds",
            f"pid_filename {directory}/pid",
            f"cache_log {directory}/cache.log",
            f"access_log stdio:{directory}/access.log",
            "",
        )
    )


@contextmanager
def _at_the_port_of_dns(nameserver: Nameserver) -> Iterator[None]:
    """For as long as it lasts, `nameserver` answers at port 53 as well, over UDP: Squid asks at no other port."""

    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            if (reply := nameserver.answer(data, tcp=False)) is not None:
                sock.sendto(reply, self.client_address)

    with socketserver.ThreadingUDPServer(("127.0.0.1", 53), Datagram) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def _wait_until_listening(process: subprocess.Popen[bytes], errors: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            _connect().close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"Squid does not listen: {errors.read_text(errors='replace')}")
