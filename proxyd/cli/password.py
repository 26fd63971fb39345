"""`proxyd password`: the hash of a password, for [client.credential]. The password itself is never an argument."""

from __future__ import annotations

import getpass
import secrets
import sys
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.files import EX_USAGE, complain
from proxyd.cli.terminal import refuse, say, say_json
from proxyd.policy.password import SALT_OCTETS, new_hash

if TYPE_CHECKING:
    import argparse

MOST: Final = 1024  # characters of a password
_RANDOM_OCTETS: Final = 24
_EPILOG: Final = """\
example:
  proxyd password --generate > gateway.scrypt

--json: {"hash"}, or {"problems"}; the password itself is never in it

exit status: 0, or 2 if what was typed is no password
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd password` takes."""
    parser = commands.add_parser(
        "password",
        help="make the hash of a password for a [client.credential]",
        description="Reads a password from the terminal, or a line from stdin, and prints its hash.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--generate", action="store_true", help="make a random password, and print it on stderr beside its hash"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a hash."""
    try:
        password = secrets.token_urlsafe(_RANDOM_OCTETS) if arguments.generate else _asked()
    except _NoPasswordError as why:
        return refuse([str(why)], EX_USAGE, as_json=arguments.json)
    if arguments.generate:
        complain(f"the password, which is kept nowhere: {password}")
    hashed = str(new_hash(password, secrets.token_bytes(SALT_OCTETS)))
    if arguments.json:
        say_json({"hash": hashed})
    else:
        say(hashed)
    return 0


class _NoPasswordError(Exception):
    """What was typed will not do."""


def _asked() -> str:
    """The password that the user types or pipes in. Raises _NoPasswordError."""
    try:
        password = _typed() if sys.stdin is not None and sys.stdin.isatty() else _piped()
    except (EOFError, OSError, UnicodeDecodeError):
        password = ""
    if password is None:
        raise _NoPasswordError("the two are not the same; try again")
    if not 0 < len(password) <= MOST or not password.isprintable():
        raise _NoPasswordError(f"that is no password; write 1 to {MOST} printable characters on one line")
    return password


def _typed() -> str | None:
    first = getpass.getpass("Password: ")
    return first if getpass.getpass("Again: ") == first else None


def _piped() -> str:
    return "" if sys.stdin is None else sys.stdin.readline(MOST + 2).rstrip("\n")
