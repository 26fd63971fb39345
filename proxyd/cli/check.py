"""`proxyd check FILE…`: load policies as the daemon would, run their tests, print every problem."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from proxyd.cli.files import EX_CONFIG, complain, load_or_complain
from proxyd.policy.lint import warnings
from proxyd.policy.text import printable

if TYPE_CHECKING:
    import argparse

    from proxyd.policy.model import Policy


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd check` takes."""
    parser = commands.add_parser(
        "check", help="load policies, run their tests, print every problem", allow_abbrev=False
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a policy")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check each policy: 0 if all are good."""
    good = True
    for name in arguments.files:
        policy = load_or_complain(name)
        if policy is None:
            good = False
        else:
            sys.stdout.write(f"{printable(name)}: good: {_summary(policy)}\n")
            for warning in warnings(policy):
                complain(f"{name}: warning: {warning}")
    return 0 if good else EX_CONFIG


def _summary(policy: Policy) -> str:
    rows = ", ".join(
        f"{len(rows)} {kind}"
        for kind, rows in (
            ("deny", policy.deny),
            ("allow", policy.allow),
            ("permit", policy.permit),
            ("client", policy.client),
        )
    )
    return (
        f"policy {policy.name}, default {policy.destinations.default}, mode {policy.destinations.mode}; {rows}; "
        f"{len(policy.test)} tests passed; digest {policy.digest}"
    )
