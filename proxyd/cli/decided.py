"""A decision found again in an audit log, and judged by the policy as it is now."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from proxyd.audit.reader import Reading, records, with_rotated
from proxyd.audit.record import DIGEST_DIGITS
from proxyd.cli.files import EX_NOINPUT, complain, today
from proxyd.cli.judgement import explain
from proxyd.policy.address import BadTarget, Resolution, bracketed, parse_address, parse_host
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from proxyd.audit.reader import Entry
    from proxyd.policy.model import Policy


def _recorded(path: Path, decision: str) -> Entry | None:
    """That decision, if it is in the log."""
    entries = records(with_rotated(path), Reading())
    return next((each for each in entries if each["event"] == "decision" and each.get("id") == decision), None)


def explain_decided(path: Path, decision: str, policy: Policy, own: Own) -> int:
    """Say what stands in the log, and how the policy as it is now judges it; the exit status."""
    entry = _recorded(path, decision)
    if entry is None:
        complain(f"{path}: has no decision {decision}; the id is in the refusal, and in every record")
        return EX_NOINPUT
    was, now = str(entry.get("digest")), policy.digest[:DIGEST_DIGITS]
    sys.stdout.write(f"{printable(_history(entry))}\n")
    if was != now:
        sys.stdout.write(f"the policy has changed since: {printable(was)} then, {now} now; by the one of now:\n")
    client = next((each for each in policy.client if each.name == entry.get("client")), None)
    if entry.get("host") is None or client is None:
        sys.stdout.write("there is nothing to judge: the request could not be read, or its client is none by now\n")
        return 1
    try:
        addresses = tuple(parse_address(str(each)) for each in entry.get("addresses") or ())
        where = f"{bracketed(parse_host(bracketed(str(entry['host'])))[0])}:{int(entry['port'])}"
    except (BadTarget, KeyError, TypeError, ValueError):
        complain(f"{path}: the decision {decision} is damaged; ask for its URL")
        return EX_NOINPUT
    found = Resolution(addresses) if addresses else None
    return explain(where, client, Snapshot.of(policy, today(), own), found)


def _history(entry: Entry) -> str:
    why = f", {entry.get('reason')} by {entry.get('rule')}" if entry.get("reason") else ""
    where = f"{entry.get('host') or '?'}:{entry.get('port') or '?'}"
    return f"{entry.get('time')}: {entry.get('client') or 'nobody'} asked for {where}: {entry.get('verdict')}{why}"
