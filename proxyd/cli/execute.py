"""`proxyd exec --policy FILE -- COMMAND …`: a command that reaches nothing but what a policy allows. No root needed.

It runs in a network of its own, in which there is loopback and nothing else; a proxyd outside serves it there, on a
socket that was made inside. This process itself becomes the command, so that signals, terminal and exit status are its
own. It never runs unconfined: what cannot be had is an error. What is allowed is the policy's to say.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from netaddr import IPAddress

from proxyd.cli.files import EX_CONFIG, EX_UNAVAILABLE, complain, load_or_complain
from proxyd.cli.ward import READY, close_all_but, start_beside
from proxyd.net.confinement import CannotConfine, leads_out, leave_the_network, stay_confined
from proxyd.net.listening import bind
from proxyd.policy.address import Endpoint

if TYPE_CHECKING:
    import argparse

    from proxyd.policy.model import Policy

PORT: Final = 3128
_HERE: Final = IPAddress("127.0.0.1")
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as env(1) says it
_URL: Final = ("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "all_proxy")
_NOT_BY_NAME: Final = "no_proxy"
_STREAMS: Final = ("stdin", "stdout", "stderr")
_EPILOG: Final = """\
example:
  proxyd exec --policy policies/allowlist.toml -- npm test

The command gets HTTP_PROXY, HTTPS_PROXY and their like; what ignores them reaches nothing: there is no other network,
no DNS, and no socket of this host's services (AF_UNIX). Its files are yours: what it writes there and you run later is
not confined. The policy is read once: a reload could bring in what the command has written.

exit status: the command's; 2 bad usage, 69 it cannot be confined here, 78 bad policy, 126 it cannot be executed,
127 there is no such command
"""
_HINT: Final = (
    "exec: this system does not let an account confine itself: {why}. Allow user namespaces: sysctl "
    "kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), "
    "user.max_user_namespaces above 0; in a container, its seccomp profile. Nothing was started"
)


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd exec` takes."""
    parser = commands.add_parser(
        "exec", help="run a command that reaches nothing but what a policy allows", epilog=_EPILOG
    )
    parser.add_argument("--policy", required=True, metavar="FILE", help="the policy that holds for it")
    parser.add_argument(
        "--audit",
        type=Path,
        metavar="FILE",
        help="the audit log, where the policy says stdout (default: proxyd/audit.jsonl in $XDG_STATE_HOME)",
    )
    parser.add_argument("words", nargs="+", metavar="COMMAND", help="behind --, what to run, and its arguments")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Become the command: returns only if that could not be, with the exit status."""
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)  # or the next file opened would be the command's stdin
    policy = load_or_complain(arguments.policy)
    if policy is None:
        return EX_CONFIG
    if shutil.which(arguments.words[0], os.F_OK) is None:
        complain(f"exec: {arguments.words[0]}: there is no such command")
        return _NOT_FOUND
    for number, name in enumerate(_STREAMS):
        if leads_out(number):
            complain(f"exec: {name} is a socket by which the command could reach others; give it a pipe or a file")
            return EX_UNAVAILABLE
    try:
        log = _log(policy, arguments.audit)
    except OSError as error:
        complain(f"exec: {error.filename}: {error.strerror}; name another log with --audit")
        return EX_CONFIG
    try:
        daemon = start_beside(arguments.policy, log)
    except OSError as error:
        complain(f"exec: no process can be had for the proxy: {error.strerror}")
        return EX_UNAVAILABLE
    if not os.geteuid():
        complain("exec: warning: what root writes, this host runs, unconfined; use an ordinary account")
    with daemon:
        status = _confine(daemon)
    return _become(arguments.words) if status is None else status


def _confine(daemon: socket.socket) -> int | None:
    """Leave for a network where nobody is but the daemon: None, or the exit status once it is said why not."""
    try:
        leave_the_network()
        with bind(Endpoint(_HERE, PORT))[0] as listener:
            socket.send_fds(daemon, [READY], [listener.fileno()])
        said = daemon.recv(1)
        stay_confined()
    except CannotConfine as error:
        complain(_HINT.format(why=error.strerror))
        return EX_UNAVAILABLE
    except OSError as error:
        complain(f"exec: the proxy cannot be given its place: {error.strerror}")
        return EX_UNAVAILABLE
    if said == READY:
        return None
    return said[0] if said else EX_UNAVAILABLE  # it has said why


def _become(words: list[str]) -> int:
    """Be the command from here on, with nothing open but its streams; or 126."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # as Python found it
    close_all_but(*range(len(_STREAMS)))
    try:
        os.execvpe(words[0], words, environment())  # noqa: S606 - that is what the command is for
    except OSError as error:
        complain(f"exec: {words[0]}: {error.strerror}")
        return _NOT_FOUND if error.errno == errno.ENOENT else _NOT_EXECUTABLE


def environment() -> dict[str, str]:
    """The caller's, and in it where the proxy is, in both spellings that programs look for; no host is exempt."""
    url = f"http://{_HERE}:{PORT}"
    kept = {name: value for name, value in os.environ.items() if name.lower() not in (*_URL, _NOT_BY_NAME)}
    both = {spelling: url for name in _URL for spelling in (name, name.upper())}
    return kept | both | {"NODE_USE_ENV_PROXY": "1"}


def _default_log() -> Path:
    """Where programs keep what is to be kept (XDG Base Directory Specification, $XDG_STATE_HOME). Raises OSError."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        home = Path(os.path.expanduser("~"))  # noqa: PTH111 - it raises nothing
        if os.environ.get("HOME") == "" or not home.is_absolute():
            raise OSError(errno.ENOENT, "this account has no home by an absolute path", "$HOME")
        state = home / ".local" / "state"
    return state / "proxyd" / "audit.jsonl"


def _log(policy: Policy, named: Path | None) -> int:
    """What the daemon has as its stdout: the command's own is not for records. Raises OSError."""
    if policy.audit.to != "stdout":
        return os.open(os.devnull, os.O_WRONLY)
    path = named or _default_log()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    complain(f"exec: audit to {path}")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
