"""Apache httpd in front of a recorder: mod_proxy passes on what the core made out (Debian: apache2)."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.adversarial.other_parsers.program import Origin, running
from tests.adversarial.other_parsers.recorder import recorder
from tests.tools import free_port, give_up, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIG = """\
ServerName origin.test
ServerRoot {directory}
DefaultRuntimeDir {directory}
PidFile {directory}/apache.pid
ErrorLog /dev/stderr
Listen {address}:{port}
User www-data
Group www-data
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
StartServers 1
ServerLimit 1
ThreadsPerChild 8
MaxRequestWorkers 8
AllowEncodedSlashes NoDecode
ProxyPass / http://127.0.0.1:{recorder}/ nocanon disablereuse=on retry=0
"""


@contextmanager
def apache(address: str, directory: Path) -> Iterator[Origin]:
    """An origin at `address`; its files are in `directory`."""
    _need_a_second_account()
    program, port, config = tool("apache2"), free_port(address), directory / "apache.conf"
    with recorder("127.0.0.1") as behind:
        config.write_text(
            _CONFIG.format(directory=directory, address=address, port=port, recorder=behind.address[1]),
        )
        command = (program, "-D", "FOREGROUND", "-f", str(config))
        with running(command, (address, port), directory / "apache.log"):
            yield Origin((address, port), behind.seen)


def _need_a_second_account() -> None:
    """Apache does not serve as root, and an ordinary account's own namespace has nobody else (user_namespaces(7))."""
    if Path("/proc/self/uid_map").read_text().split()[2] == "1":
        give_up("run this as root: Apache changes to www-data, which does not exist in this namespace")
