"""`proxyd reload --policy FILE`: let the proxy that runs take its policy into use anew, and say what came of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from proxyd.cli.files import EX_CONFIG, EX_UNAVAILABLE, complain, load_or_complain
from proxyd.policy.text import printable
from proxyd.serve import control

if TYPE_CHECKING:
    import argparse


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd reload` takes."""
    parser = commands.add_parser(
        "reload", help="let a running proxy change to its policy as it is now", allow_abbrev=False
    )
    parser.add_argument("--policy", required=True, metavar="FILE", help="the policy that it runs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask for a reload, wait for it, and tell: 0 if the new policy is in force, or else the old one stays."""
    policy = load_or_complain(arguments.policy)
    if policy is None:
        return EX_CONFIG
    path = policy.listen.control
    if not path:
        complain(
            f'{arguments.policy}: listen.control: nobody can be asked; write control = "/run/proxyd/control" and '
            "restart proxyd, or send it SIGHUP"
        )
        return EX_CONFIG
    try:
        outcome = control.ask(path)
    except (OSError, ValueError) as error:
        complain(f"{path}: {getattr(error, 'strerror', None) or 'no answer'}; is proxyd running with this policy?")
        return EX_UNAVAILABLE
    for problem in outcome.problems:
        complain(f"not reloaded: {problem}")
    if outcome.problems:
        return EX_CONFIG
    for change in outcome.changes or ("nothing changed",):
        sys.stdout.write(f"{printable(change)}\n")
    sys.stdout.write(f"reloaded: policy {policy.name}; {outcome.revoked} connections cut\n")
    return 0
