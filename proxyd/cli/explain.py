"""`proxyd explain URL --policy FILE`: the verdict, step by step, from the same `decide` as the daemon.

Or of a decision that stands in an audit log. It asks no DNS: addresses that a name would have are given with --address.
To an operator, and to nobody else, it says what would allow a denied request. Nothing is judged here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.decided import explain_decided
from proxyd.cli.files import EX_CONFIG, EX_USAGE, read_policy_file, today
from proxyd.cli.judgement import tell
from proxyd.cli.own_ports import judged_but_for_unknown_ports
from proxyd.cli.terminal import refuse
from proxyd.net.host import own_addresses
from proxyd.policy.address import BadTarget, Resolution, parse_address, parse_host
from proxyd.policy.load import PolicyError, load
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from netaddr import IPAddress

    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy

_EPILOG: Final = """\
examples:
  proxyd explain https://api.example.com/ --policy policy.toml --address 10.0.0.5
  proxyd explain a45b8e2c6b459fdf --log /var/log/proxyd/audit.jsonl --policy policy.toml

--json: {"recorded", "verdict", "reason", "rule": {"name", "file", "where"}, "would", "steps": [{"step", "said",
"looked_at"}], "conditions", "remedy": {"toml", "beneath", "changes" (as in diff --json)}, "hint"}, or {"problems"}

exit status: 0 allowed or undecided, 1 denied, 2 bad usage, 66 no such decision, 78 the policy is bad
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd explain` takes."""
    parser = commands.add_parser("explain", help="say how a request would be judged", epilog=_EPILOG)
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
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explain one verdict: 0 if allowed or undecided, 1 if denied."""
    try:
        policy = load(arguments.policy, read_policy_file, today())
        own = Own(policy.ports, own_addresses())
    except PolicyError as bad:
        return refuse(bad.problems, EX_CONFIG, as_json=arguments.json)
    except OSError as error:
        why = f"/proc/net: {error.strerror}: this host's addresses are needed, as proxyd is reached by nobody"
        return refuse([why], EX_CONFIG, as_json=arguments.json)
    if arguments.log is not None:
        return explain_decided(arguments.log, arguments.url, policy, own, as_json=arguments.json)
    client = _client(policy, arguments.client)
    if client is None:
        names = ", ".join(each.name for each in policy.client)
        why = f"--client {arguments.client}: the policy has no such client; it has: {names}"
        return refuse([why], EX_USAGE, as_json=arguments.json)
    if arguments.cname and not arguments.address:
        return refuse(["--cname: a chain ends in addresses; add --address IP"], EX_USAGE, as_json=arguments.json)
    snapshot = Snapshot.of(policy, today(), own)
    found = Resolution(tuple(arguments.address), tuple(arguments.cname)) if arguments.address else None
    judgement = judged_but_for_unknown_ports(arguments.url, client, snapshot, found)
    return tell(judgement, None, as_json=arguments.json)


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
