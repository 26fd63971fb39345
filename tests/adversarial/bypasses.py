"""Eight ways round a denylist, tried on Squid with the documented rows and on proxyd with its default policy.

`python -m tests.adversarial.bypasses` prints what came of each: the README's transcript. It runs in a network where
every address there is answers on port 80 and says which one it is, so that "200 reached …" is where a request ended.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests import namespace
from tests.adversarial.squid import squid
from tests.end_to_end.daemon import Daemon, read_all
from tests.end_to_end.nameserver import Nameserver, Says
from tests.end_to_end.origin import Listener, read_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

POLICIES: Final = Path(__file__).parents[2] / "policies"
PUBLIC: Final = "1.1.1.1"
LANDED: Final = f"200 reached {PUBLIC}"


@dataclass(frozen=True)
class Bypass:
    """One attempt: what it is called, the URL that is asked for, and what comes of it at either proxy."""

    name: str
    url: str
    squid: str
    proxyd: str


BYPASSES: Final = (
    Bypass("mixed answer", "http://mixed.test", "403", "403 address_denied"),
    Bypass("CNAME->metadata", "http://google.test", "403", "403 name_locked"),
    Bypass("CNAME->metadata", "http://azure.test", "200 reached 168.63.129.16", "403 address_locked"),
    Bypass("ISATAP", "http://isatap.test", "200 reached 2600::5efe:a00:5", "403 address_denied"),
    Bypass("ISATAP", "http://[2600::5efe:a00:5]", "200 reached 2600::5efe:a00:5", "403 address_denied"),
    Bypass("SIIT", "http://siit.test", "200 reached ::ffff:0:a00:5", "403 address_denied"),
    Bypass("SIIT", "http://[::ffff:0:a00:5]", "200 reached ::ffff:0:a00:5", "403 address_denied"),
    Bypass("3fff::/20", "http://3fff.test", "200 reached 3fff::5", "403 address_denied"),
    Bypass("3fff::/20", "http://[3fff::5]", "200 reached 3fff::5", "403 address_denied"),
    Bypass("IPv4-compatible", "http://compatible.test", "200 reached ::10.0.0.5", "403 address_denied"),
    Bypass("IPv4-compatible", "http://[::a00:5]", "200 reached ::10.0.0.5", "403 address_denied"),
    Bypass("6to4", "http://6to4.test", "403", "403 address_denied"),
    Bypass("6to4", "http://[2002:a00:5::]", "403", "403 address_denied"),
    Bypass("NAT64 /48", "http://nat64.test", "403", "403 address_denied"),
    Bypass("NAT64 /48", "http://[64:ff9b:1:a00:0:500::1]", "403", "403 address_denied"),
)
"""10.0.0.5 in one coat after another, and metadata services; as measured with Squid 5.7."""

CONTROLS: Final = (
    Bypass("(public)", "http://public.test", LANDED, LANDED),
    Bypass("(private)", "http://10.0.0.5", "403", "403 address_denied"),
)
"""What no proxy here may get wrong, or nothing said of the bypasses would mean anything."""

ATTEMPTS: Final = CONTROLS + BYPASSES

ZONE: Final = {
    "public.test": Says(a=(PUBLIC,)),
    "mixed.test": Says(a=(PUBLIC, "10.0.0.5")),
    "google.test": Says(cname="metadata.google.internal"),
    "metadata.google.internal": Says(a=("169.254.169.254",)),
    "azure.test": Says(cname="platform.test"),
    "platform.test": Says(a=("168.63.129.16",)),
    "isatap.test": Says(aaaa=("2600::5efe:a00:5",)),
    "siit.test": Says(aaaa=("::ffff:0:a00:5",)),
    "3fff.test": Says(aaaa=("3fff::5",)),
    "compatible.test": Says(aaaa=("::a00:5",)),
    "6to4.test": Says(aaaa=("2002:a00:5::",)),
    "nat64.test": Says(aaaa=("64:ff9b:1:a00:0:500::1",)),
}


@dataclass
class Stage:
    """What surrounds both proxies: the nameserver, and whoever answers at every address."""

    nameserver: Nameserver
    everybody: Listener


@contextmanager
def stage() -> Iterator[Stage]:
    """Names are answered and every address answers on port 80; inside `namespace.everywhere()`."""
    nameserver, everybody = Nameserver(dict(ZONE)), Listener(_say_where, ("0.0.0.0", "::"), 80)
    try:
        yield Stage(nameserver, everybody)
    finally:
        everybody.close()
        nameserver.close()


@contextmanager
def proxyd(directory: Path, nameserver: Nameserver) -> Iterator[Daemon]:
    """The real daemon with the policy to start with, told whom to ask for names."""
    shutil.copy(POLICIES / "denylist.toml", directory)
    policy, audit, errors = directory / "policy.toml", directory / "audit.jsonl", directory / "errors"
    asking = f'\n[dns]\nservers = ["127.0.0.1:{nameserver.port}"]\n'
    policy.write_text((POLICIES / "default.toml").read_text() + asking)
    errors.touch()
    daemon = Daemon(policy, audit, errors)
    try:
        yield daemon
    finally:
        daemon.stop()


def outcomes(connect: Callable[[], socket.socket]) -> dict[str, str]:
    """What comes of every attempt at one proxy, by its URL."""
    return {attempt.url: _outcome(connect, attempt.url) for attempt in ATTEMPTS}


def transcript(attempts: tuple[Bypass, ...]) -> list[str]:
    """The attempts as a table in plain text."""
    rows = [("", "URL", "Squid", "proxyd"), *((each.name, each.url, each.squid, each.proxyd) for each in attempts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def main() -> int:
    """Try everything on both and print the transcript: 0, or 1 if it cannot run here."""
    program = shutil.which("squid")
    if program is None:
        return _cannot("install squid (Debian: squid, in /usr/sbin)")
    namespace.enter()
    if not namespace.isolated:
        return _cannot("no network namespace can be had here; run as root, or allow user namespaces")
    with namespace.everywhere(), stage() as around, tempfile.TemporaryDirectory() as directory:
        with squid(program, Path(directory), around.nameserver) as connect:
            by_squid = outcomes(connect)
        with proxyd(Path(directory), around.nameserver) as daemon:
            by_proxyd = outcomes(daemon.connect)
    measured = tuple(replace(each, squid=by_squid[each.url], proxyd=by_proxyd[each.url]) for each in ATTEMPTS)
    sys.stdout.write("\n".join([*transcript(measured), ""]))
    return 0


def _outcome(connect: Callable[[], socket.socket], url: str) -> str:
    """The status, and what was reached, or the reason word where the proxy gives one."""
    authority = url.removeprefix("http://")
    with connect() as client:
        client.sendall(f"GET {url}/ HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = read_all(client).decode(errors="replace").partition("\r\n\r\n")
    _, status, phrase = head.partition("\r\n")[0].split(" ", 2)
    return f"{status} {body if status == '200' else phrase.partition(': ')[2]}".rstrip()


def _say_where(connection: socket.socket) -> None:
    """Answer a request with the address at which it arrived."""
    if read_head(connection)[0]:
        body = f"reached {connection.getsockname()[0]}"
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def _cannot(why: str) -> int:
    sys.stderr.write(f"bypasses: {why}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
