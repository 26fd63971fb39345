"""`proxyd health --policy FILE`: does the proxy that runs serve? For a container's health check and a pod's probes.

It asks the admin listener, as a monitor would, so that an image needs no curl and no shell for it.
"""

from __future__ import annotations

import socket
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.files import EX_CONFIG, EX_UNAVAILABLE, read_policy_file, today
from proxyd.cli.terminal import Ink, refuse, say, say_json
from proxyd.policy.listen import UnixPath
from proxyd.policy.load import PolicyError, load

if TYPE_CHECKING:
    import argparse

    from proxyd.policy.address import Endpoint

PATIENCE_SECONDS: Final = 3.0  # for one answer, which takes no waiting for workers
_OK: Final = 200
_UNAVAILABLE: Final = 503
_EPILOG: Final = """\
example, as a container's health check:
  proxyd health --policy /etc/proxyd/policy.toml

--alive is for what restarts a proxy that does not answer well: one that starts or ends is alive, and not ready.

--json: {"well", "said"}, or {"problems"}

exit status: 0 it is, 1 it says that it is not, 69 nobody answers, 78 the policy is bad, or has no [admin] listen
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd health` takes."""
    parser = commands.add_parser("health", help="ask a running proxy whether it serves, for probes", epilog=_EPILOG)
    parser.add_argument("--policy", required=True, metavar="FILE", help="the policy that it runs")
    parser.add_argument(
        "--alive", action="store_true", help="only whether a restart would help: /healthz in the place of /readyz"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, and tell what is said: 0 if all is well."""
    try:
        policy = load(arguments.policy, read_policy_file, today())
    except PolicyError as bad:
        return refuse(bad.problems, EX_CONFIG, as_json=arguments.json)
    where, token_file = policy.admin.listen, policy.admin.token_file
    if where is None:
        why = 'admin.listen: nobody can be asked; write listen = "unix:/run/proxyd/admin" under [admin], and restart'
        return refuse([f"{arguments.policy}: {why}"], EX_CONFIG, as_json=arguments.json)
    try:
        token = (
            read_policy_file(token_file, None, secret=True)[1].strip().decode("ascii", "replace") if token_file else ""
        )
    except OSError as error:
        return refuse([f"admin.token_file: {token_file}: {error.strerror}"], EX_CONFIG, as_json=arguments.json)
    try:
        status, said = _asked(where, "/healthz" if arguments.alive else "/readyz", token)
    except (OSError, HTTPException) as error:
        why = f"{where}: {getattr(error, 'strerror', None) or 'no answer'}; is proxyd running with this policy?"
        return refuse([why], EX_UNAVAILABLE, as_json=arguments.json)
    if status not in (_OK, _UNAVAILABLE):
        return refuse([f"{where}: answers {status} {said}"], EX_UNAVAILABLE, as_json=arguments.json)
    if arguments.json:
        say_json({"well": status == _OK, "said": said})
    else:
        say(said, Ink.GOOD if status == _OK else Ink.BAD)
    return 0 if status == _OK else 1


def _asked(where: Endpoint | UnixPath, page: str, token: str) -> tuple[int, str]:
    """The status and the text of a page. Raises OSError, or HTTPException where the answer is none."""
    shown = f"Authorization: Bearer {token}\r\n" if token else ""
    with _connected(where) as sock:
        sock.sendall(f"GET {page} HTTP/1.1\r\nHost: proxyd\r\nConnection: close\r\n{shown}\r\n".encode())
        with HTTPResponse(sock, method="GET") as response:
            response.begin()
            return response.status, response.read().decode(errors="replace").strip()


def _connected(where: Endpoint | UnixPath) -> socket.socket:
    if not isinstance(where, UnixPath):
        return socket.create_connection((str(where.address), where.port), PATIENCE_SECONDS)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(where.path)
    except BaseException:
        sock.close()
        raise
    return sock
