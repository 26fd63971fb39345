"""`proxyd explain URL --policy FILE`: the verdict, step by step, from the same `decide` as the daemon.

It asks no DNS: addresses that a name would have are given with --address. Nothing is judged here.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from netaddr import AddrFormatError, IPAddress

from proxyd.cli.files import EX_CONFIG, EX_USAGE, complain, load_or_complain, today
from proxyd.policy.address import BadTarget, Resolution, parse_host, parse_url
from proxyd.policy.text import printable
from proxyd.policy.verdict import STEP_OF, Allow, Deny, NeedAddresses, Reason, Step, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.model import Client, Policy

_MEANING = {
    Step.CLIENT: "who asks",
    Step.FORM: "the target has exactly one reading",
    Step.PORT: "the port may be used",
    Step.NAME: "the name is not refused",
    Step.ALLOWLIST: "the default or the allowlist lets it through",
    Step.ADDRESSES: "every address may be reached",
}


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd explain` takes."""
    parser = commands.add_parser("explain", help="say how a request would be judged", allow_abbrev=False)
    parser.add_argument("url", metavar="URL", help="http://…, https://…, ws://…, wss://… or host:port")
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
    client = _client(policy, arguments.client)
    if client is None:
        names = ", ".join(each.name for each in policy.client)
        complain(f"--client {arguments.client}: the policy has no such client; it has: {names}")
        return EX_USAGE
    if arguments.cname and not arguments.address:
        complain("--cname: a chain ends in addresses; add --address IP")
        return EX_USAGE
    verdict = _verdict(arguments, policy, client)
    for line in _steps(verdict):
        sys.stdout.write(f"{printable(line)}\n")
    return 1 if isinstance(verdict, Deny) else 0


def _verdict(arguments: argparse.Namespace, policy: Policy, client: Client) -> Allow | Deny | NeedAddresses:
    found = Resolution(tuple(arguments.address), tuple(arguments.cname)) if arguments.address else None
    try:
        destination = parse_url(arguments.url)
    except BadTarget as bad:
        return Deny(Reason.MALFORMED_TARGET, str(bad))
    return decide(destination, client, policy.at(today()), found)


def _steps(verdict: Allow | Deny | NeedAddresses) -> Iterator[str]:
    """Each step taken and what it said, then the verdict."""
    last = _last_step(verdict)
    for step in Step:
        if step is last:
            break
        missed = isinstance(verdict, Allow) and verdict.would is not None and STEP_OF[verdict.would.reason] is step
        yield f"  {'missed' if missed else 'passed':8}{step:11}{_MEANING[step]}"
    if isinstance(verdict, Deny):
        yield f"  {'refused':8}{last:11}{_what(verdict)}"
        yield f"deny: {verdict.reason}, by {verdict.rule}"
    elif isinstance(verdict, NeedAddresses):
        yield f"  {'open':8}{last:11}depends on DNS; give what it would answer with --address IP"
        yield "undecided: the name is not refused, its addresses are still to be judged"
    else:
        yield f"allow: by {verdict.rule}, to {', '.join(str(address) for address in verdict.addresses)}"
        if verdict.would is not None:
            yield f"report mode: enforcing would say deny: {verdict.would.reason}"


def _last_step(verdict: Allow | Deny | NeedAddresses) -> Step | None:
    """The step that had the last word; None if every step was passed."""
    if isinstance(verdict, Deny):
        return STEP_OF[verdict.reason]
    return Step.ADDRESSES if isinstance(verdict, NeedAddresses) else None


def _what(deny: Deny) -> str:
    culprit = deny.address if deny.address is not None else deny.name
    return f"{_MEANING[STEP_OF[deny.reason]]}: no" + (f", {culprit} may not" if culprit is not None else "")


def _client(policy: Policy, name: str | None) -> Client | None:
    return next((each for each in policy.client if name in (None, each.name)), None)


def _address(text: str) -> IPAddress:
    try:
        return IPAddress(text)
    except AddrFormatError:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is no IP address") from None


def _host(text: str) -> str:
    try:
        return parse_host(text)[0]
    except BadTarget as bad:
        raise argparse.ArgumentTypeError(f"{printable(text)!r}: {bad}") from None
