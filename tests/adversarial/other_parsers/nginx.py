"""nginx in front of a recorder: it reads a whole request, and passes on what it made out (Debian: nginx)."""

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
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {directory}/client;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {address}:{port};
        location / {{
            proxy_http_version 1.1;
            proxy_pass http://127.0.0.1:{recorder};
        }}
    }}
}}
"""


@contextmanager
def nginx(address: str, directory: Path) -> Iterator[Origin]:
    """An origin at `address`; its files are in `directory`."""
    program, port, config = tool("nginx"), free_port(address), directory / "nginx.conf"
    with recorder("127.0.0.1") as behind:
        config.write_text(
            _CONFIG.format(directory=directory, address=address, port=port, recorder=behind.address[1]),
        )
        command = (program, "-e", "stderr", "-p", str(directory), "-c", str(config))
        with running(command, (address, port), directory / "nginx.log"):
            yield Origin((address, port), behind.seen)
