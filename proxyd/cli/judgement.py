"""A judgement, told step by step: what was looked at, what was said, what else holds, and what would help.

Only to an operator is it told what would allow a denied request, and what else that would open. Nothing is judged here.
"""

from __future__ import annotations

import sys
from itertools import chain
from typing import TYPE_CHECKING

from proxyd.cli.diff import told
from proxyd.policy.address import BadTarget, parse_url
from proxyd.policy.reach import compare
from proxyd.policy.remedy import remedy
from proxyd.policy.text import printable
from proxyd.policy.verdict import STEP_OF, Allow, Deny, NeedAddresses, Reason, Step, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.address import Destination, Resolution
    from proxyd.policy.client import Client
    from proxyd.policy.snapshot import Snapshot


def explain(url: str, client: Client, snapshot: Snapshot, found: Resolution | None) -> int:
    """Say how it is judged, and what else holds or would help."""
    verdict: Allow | Deny | NeedAddresses
    lines: Iterator[str]
    try:
        destination = parse_url(url)
        verdict = decide(destination, client, snapshot, found)
        looked_at = _looked_at(destination, client, snapshot, verdict)
    except BadTarget as bad:
        verdict, looked_at = Deny(Reason.MALFORMED_TARGET, str(bad)), {Step.CLIENT: client.name}
        lines = _steps(verdict, looked_at)
    else:
        more = _remedies(destination, client, snapshot, found, verdict)
        lines = chain(_steps(verdict, looked_at), _conditions(verdict, client, snapshot), more)
    for line in lines:
        sys.stdout.write(f"{printable(line)}\n")
    return 1 if isinstance(verdict, Deny) else 0


def _remedies(
    destination: Destination,
    client: Client,
    snapshot: Snapshot,
    found: Resolution | None,
    verdict: Allow | Deny | NeedAddresses,
) -> Iterator[str]:
    """What would allow it, and what else that opens."""
    if not isinstance(verdict, Deny):
        return
    help_ = remedy(destination, client, snapshot, found, verdict)
    if help_ is None:
        known = found is not None or destination.address is not None or verdict.reason is Reason.NAME_LOCKED
        yield "nothing opens it" if known else "what would allow it depends on its addresses; give --address IP"
        return
    place = f", below [[client]] {help_.beneath}" if help_.beneath else ""
    yield f"to allow it, and if that is meant, add{place}:"
    yield from (f"  {line}" for line in help_.toml.splitlines())
    for change in compare(snapshot, help_.snapshot):
        yield f"which {'opens' if change.opens else 'closes'}, for {change.client}: {told(change)}"


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
