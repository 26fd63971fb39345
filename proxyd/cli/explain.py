"""`proxyd explain URL --policy FILE`: the verdict, step by step, from the same `decide` as the daemon.

It asks no DNS: addresses that a name would have are given with --address. Nothing is judged here.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from proxyd.cli.files import EX_CONFIG, EX_USAGE, complain, load_or_complain, today
from proxyd.net.host import own_addresses
from proxyd.policy.address import BadTarget, Resolution, parse_address, parse_host, parse_url
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.text import printable
from proxyd.policy.verdict import STEP_OF, Allow, Deny, NeedAddresses, Reason, Step, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netaddr import IPAddress

    from proxyd.policy.address import Destination
    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy


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
    try:
        snapshot = Snapshot.of(policy, today(), Own(policy.ports, own_addresses()))
    except OSError as error:
        complain(f"/proc/net: {error.strerror}: this host's addresses are needed, as proxyd is reached by nobody")
        return EX_CONFIG
    found = Resolution(tuple(arguments.address), tuple(arguments.cname)) if arguments.address else None
    verdict: Allow | Deny | NeedAddresses
    try:
        destination = parse_url(arguments.url)
        verdict = decide(destination, client, snapshot, found)
        looked_at = _looked_at(destination, client, snapshot, verdict)
    except BadTarget as bad:
        verdict, looked_at = Deny(Reason.MALFORMED_TARGET, str(bad)), {Step.CLIENT: client.name}
    for line in (*_steps(verdict, looked_at), *_conditions(verdict, client, snapshot)):
        sys.stdout.write(f"{printable(line)}\n")
    return 1 if isinstance(verdict, Deny) else 0


def _looked_at(
    destination: Destination, client: Client, snapshot: Snapshot, verdict: Allow | Deny | NeedAddresses
) -> dict[Step, str]:
    """What each step of the judgement had before it."""
    rules = snapshot.rules(client)
    idle = isinstance(verdict, Allow) and not verdict.permitted
    permits = [] if idle else [permit.label for permit in rules.permits(destination)]
    row = rules.allowed(destination)
    exempt = f", permitted by {permits[0]}" if permits else ""
    default = f"default is {rules.destinations.default}"
    return {
        Step.CLIENT: client.name,
        Step.FORM: str(destination),
        Step.PORT: f"{destination.port}{exempt}",
        Step.NAME: f"{destination.host}{exempt}",
        Step.ALLOWLIST: f"{default}{exempt or (f', listed by {row.label}' if row else '')}",
        Step.ADDRESSES: ", ".join(map(str, verdict.addresses)) if isinstance(verdict, Allow) else "",
    }


def _steps(verdict: Allow | Deny | NeedAddresses, looked_at: dict[Step, str]) -> Iterator[str]:
    """Each step taken and what it looked at, then the verdict."""
    last = _last_step(verdict)
    for step in Step:
        if step is last:
            break
        missed = isinstance(verdict, Allow) and verdict.would is not None and STEP_OF[verdict.would.reason] is step
        yield _line("missed" if missed else "passed", step, looked_at[step])
    if isinstance(verdict, Deny):
        culprit = verdict.address if verdict.address is not None else verdict.name
        yield _line("refused", STEP_OF[verdict.reason], str(culprit or verdict.rule))
        yield f"deny: {verdict.reason}, by {verdict.rule}"
    elif isinstance(verdict, NeedAddresses):
        yield _line("open", Step.ADDRESSES, "say what DNS would answer with --address IP")
        yield "undecided: the name is not refused; its addresses are still to be judged"
    else:
        yield f"allow: by {verdict.rule}"
        if verdict.would is not None:
            yield f"report mode: enforcing would say deny: {verdict.would.reason}"


def _conditions(verdict: Allow | Deny | NeedAddresses, client: Client, snapshot: Snapshot) -> Iterator[str]:
    """What else holds for a request that is let through: it is no part of the verdict."""
    if not isinstance(verdict, Allow):
        return
    if snapshot.rules(client).destinations.holds_to_tls_name(verdict.destination.port):
        yield f"in a tunnel, TLS must name {verdict.destination.host} (tls_name)"
    for whose, limits in ((f"client {client.name}", client.limits), ("all clients", snapshot.policy.limits)):
        yield from (f"{name} of {whose}: {value}" for name, value in limits.in_words())
    for name, value in client.egress.in_words():
        yield f"it leaves by {name} {value}"
    if snapshot.policy.parent is not None:
        yield f"it leaves through the parent {snapshot.policy.parent.address}"


def _line(said: str, step: Step, what: str) -> str:
    return f"  {said:8} {step:10} {what}"


def _last_step(verdict: Allow | Deny | NeedAddresses) -> Step | None:
    """The step that had the last word; None if every step was passed."""
    if isinstance(verdict, Deny):
        return STEP_OF[verdict.reason]
    return Step.ADDRESSES if isinstance(verdict, NeedAddresses) else None


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
