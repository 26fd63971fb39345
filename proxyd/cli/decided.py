"""A decision found again in an audit log, and judged by the policy as it is now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from proxyd.audit.reader import Reading, records, with_rotated
from proxyd.audit.record import DIGEST_DIGITS
from proxyd.cli.files import EX_NOINPUT, today
from proxyd.cli.judgement import Judgement, tell
from proxyd.cli.own_ports import judged_but_for_unknown_ports
from proxyd.cli.progress import Progress
from proxyd.cli.terminal import refuse, say
from proxyd.policy.address import BadTarget, Resolution, bracketed, parse_address, parse_host
from proxyd.policy.snapshot import Own, Snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from proxyd.audit.reader import Entry
    from proxyd.policy.model import Policy

_SHOWN: Final = ("id", "time", "client", "host", "port", "verdict", "reason", "rule", "digest")


def explain_decided(path: Path, decision: str, policy: Policy, own: Own, *, as_json: bool) -> int:
    """Say what stands in the log, and how the policy as it is now judges it; the exit status."""
    reading = Reading()
    entry = _recorded(path, decision, reading)
    if entry is None:
        why = f"{path}: has no decision {decision}; the id is in the refusal, and in every record"
        return refuse(reading.broken or [why], EX_NOINPUT, as_json=as_json)
    try:
        judgement = _judged(entry, policy, own)
    except (BadTarget, KeyError, TypeError, ValueError):
        why = f"{path}: the decision {decision} is damaged; ask for its URL"
        return refuse([why], EX_NOINPUT, as_json=as_json)
    was, now = str(entry.get("digest")), policy.digest[:DIGEST_DIGITS]
    if not as_json:
        say(_history(entry))
        if was != now:
            say(f"the policy has changed since: {was} then, {now} now; by the one of now:")
    if was == now:
        judgement = _compared(judgement, entry.get("verdict"))
    recorded: dict[str, Any] = {name: entry.get(name) for name in _SHOWN}
    return tell(judgement, recorded | {"policy_has_changed": was != now}, as_json=as_json)


def _recorded(path: Path, decision: str, reading: Reading) -> Entry | None:
    """That decision, if it is in what can be read of the log."""
    paths = with_rotated(path)
    with Progress(paths) as progress:
        entries = records(paths, reading, progress)
        return next((each for each in entries if each["event"] == "decision" and each.get("id") == decision), None)


def _judged(entry: Entry, policy: Policy, own: Own) -> Judgement:
    """How the policy judges it now. Raises BadTarget, KeyError, TypeError or ValueError: it may be spoilt."""
    client = next((each for each in policy.client if each.name == entry.get("client")), None)
    if entry.get("host") is None or client is None:
        why = "there is nothing to judge: the request could not be read, or its client is none by now"
        return Judgement(verdict=None, hint=why)
    host = parse_host(bracketed(str(entry["host"])))[0]
    where = f"{bracketed(host)}:{int(entry['port'])}"
    snapshot = Snapshot.of(policy, today(), own)
    return judged_but_for_unknown_ports(where, client, snapshot, _found(entry, host))


def _found(entry: Entry, host: str) -> Resolution | None:
    """What DNS had said. Of a CNAME chain there is the one name that was refused, if one was."""
    addresses = tuple(parse_address(str(each)) for each in entry.get("addresses") or ())
    if not addresses:
        return None
    refused, address = parse_host(bracketed(str(entry.get("refused") or host)))
    return Resolution(addresses, () if address is not None or refused == host else (refused,))


def _compared(judgement: Judgement, then: object) -> Judgement:
    """The judgement by the same policy, and whether it was another one then."""
    if {str(then), judgement.verdict} != {"allow", "deny"}:
        return judgement
    why = (
        f"the policy is the same, and the verdict was {then}: a permit has ended since, or proxyd knew ports of its "
        "own or addresses of its host that are not known here"
    )
    return replace(judgement, conditions=(*judgement.conditions, why))


def _history(entry: Entry) -> str:
    why = f", {entry.get('reason')} by {entry.get('rule')}" if entry.get("reason") else ""
    where = f"{entry.get('host') or '?'}:{entry.get('port') or '?'}"
    return f"{entry.get('time')}: {entry.get('client') or 'nobody'} asked for {where}: {entry.get('verdict')}{why}"
