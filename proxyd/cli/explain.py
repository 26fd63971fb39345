"""`proxyd explain URL --policy FILE`: the verdict, step by step, from the same `decide` as the daemon.

Or of a decision that stands in an audit log. It asks no DNS: addresses that a name would have are given with --address.
To an operator, and to nobody else, it says what would allow a denied request. Nothing is judged here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxyd.cli.decided import explain_decided
from proxyd.cli.files import EX_CONFIG, EX_USAGE, complain, load_or_complain, today
from proxyd.cli.judgement import explain
from proxyd.net.host import own_addresses
from proxyd.policy.address import BadTarget, Resolution, parse_address, parse_host
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from netaddr import IPAddress

    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd explain` takes."""
    parser = commands.add_parser("explain", help="say how a request would be judged", allow_abbrev=False)
    parser.add_argument(
        "url", metavar="URL", help="http://…, https://…, ws://…, wss://… or host:port; with --log, the id of a decision"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="the audit log in which that decision is")
    parser.add_argument("--policy", required=True, metavar="FILE", help="the policy to judge by")
    parser.add_argument(
        "--address",
        action="append",
        default=[],
        type=_address,
        metavar="IP",
        help="an address that DNS would answer (repeat for more)",
    )
    parser.add_argument(
        "--cname",
        action="append",
        default=[],
        type=_host,
        metavar="NAME",
        help="a name of the CNAME chain (repeat for more)",
    )
    parser.add_argument("--client", metavar="NAME", help="which [[client]] asks (default: the first)")
    parser.set_defaults(run=run)  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Explain one verdict: 0 if allowed or undecided, 1 if denied."""
    policy = load_or_complain(arguments.policy)
    if policy is None:
        return EX_CONFIG
    try:
        own = Own(policy.ports, own_addresses())
    except OSError as error:
        complain(f"/proc/net: {error.strerror}: this host's addresses are needed, as proxyd is reached by nobody")
        return EX_CONFIG
    if arguments.log is not None:
        return explain_decided(arguments.log, arguments.url, policy, own)
    client = _client(policy, arguments.client)
    if client is None:
        names = ", ".join(each.name for each in policy.client)
        complain(f"--client {arguments.client}: the policy has no such client; it has: {names}")
        return EX_USAGE
    if arguments.cname and not arguments.address:
        complain("--cname: a chain ends in addresses; add --address IP")
        return EX_USAGE
    snapshot = Snapshot.of(policy, today(), own)
    found = Resolution(tuple(arguments.address), tuple(arguments.cname)) if arguments.address else None
    return explain(arguments.url, client, snapshot, found)


def _client(policy: Policy, name: str | None) -> Client | None:
    return next((each for each in policy.client if name in (None, each.name)), None)


def _address(text: str) -> IPAddress:
    try:
        return parse_address(text)
    except BadTarget:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is no IP address") from None


def _host(text: str) -> str:
    try:
        return parse_host(text)[0]
    except BadTarget as bad:
        raise argparse.ArgumentTypeError(f"{printable(text)!r}: {bad}") from None
