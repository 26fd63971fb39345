"""`proxyd password`: the hash of a password, for [client.credential]. The password itself is never an argument."""

from __future__ import annotations

import getpass
import secrets
import sys
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.files import EX_USAGE, complain
from proxyd.policy.password import SALT_OCTETS, new_hash

if TYPE_CHECKING:
    import argparse

MOST: Final = 1024  # characters of a password
_RANDOM_OCTETS: Final = 24


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd password` takes."""
    parser = commands.add_parser(
        "password",
        help="make the hash of a password for a [client.credential]",
        description="Reads a password from the terminal, or a line from stdin, and prints its hash.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--generate", action="store_true", help="make a random password, and print it on stderr beside its hash"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a hash."""
    password = secrets.token_urlsafe(_RANDOM_OCTETS) if arguments.generate else _asked()
    if password is None:
        return EX_USAGE
    if arguments.generate:
        complain(f"the password, which is kept nowhere: {password}")
    sys.stdout.write(f"{new_hash(password, secrets.token_bytes(SALT_OCTETS))}\n")
    return 0


def _asked() -> str | None:
    """The password that the user types or pipes in; None once it is on stderr why it will not do."""
    try:
        password = _typed() if sys.stdin is not None and sys.stdin.isatty() else _piped()
    except (EOFError, OSError, UnicodeDecodeError):
        password = ""
    if password is None:
        complain("the two are not the same; try again")
    elif not 0 < len(password) <= MOST or not password.isprintable():
        complain(f"that is no password; write 1 to {MOST} printable characters on one line")
        return None
    return password


def _typed() -> str | None:
    first = getpass.getpass("Password: ")
    return first if getpass.getpass("Again: ") == first else None


def _piped() -> str:
    return "" if sys.stdin is None else sys.stdin.readline(MOST + 2).rstrip("\n")
