"""HAProxy in front of a recorder: it passes on, framed anew, what it made out (Debian: haproxy)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.adversarial.other_parsers.program import Origin, running
from tests.adversarial.other_parsers.recorder import recorder
from tests.tools import free_port, tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONFIG = """\
global
    maxconn 64
    nbthread 1
defaults
    mode http
    retries 0
    http-reuse never
    timeout connect 20s
    timeout client 20s
    timeout server 20s
listen origin
    bind {address}:{port}
    server recorder 127.0.0.1:{recorder}
"""


@contextmanager
def haproxy(address: str, directory: Path) -> Iterator[Origin]:
    """An origin at `address`; its files are in `directory`."""
    program, port, config = tool("haproxy"), free_port(address), directory / "haproxy.cfg"
    with recorder("127.0.0.1") as behind:
        config.write_text(_CONFIG.format(address=address, port=port, recorder=behind.address[1]))
        with running((program, "-db", "-f", str(config)), (address, port), directory / "haproxy.log"):
            yield Origin((address, port), behind.seen)
