"""`proxyd learn LOG… --policy P`: from a log of report mode, the change of P that would allow what was asked for.

To be reviewed, not to be trusted: what an agent asked for while nobody stopped it is not what it ought to have.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxyd.audit.reader import Reading, records, with_rotated
from proxyd.cli.diff import told
from proxyd.cli.files import EX_CONFIG, EX_NOINPUT, EX_USAGE, complain, load_or_complain, today
from proxyd.policy.address import BadTarget, bracketed, parse_address, parse_authority, parse_host
from proxyd.policy.contradictions import enforced
from proxyd.policy.learn import Wish, learn
from proxyd.policy.reach import compare
from proxyd.policy.snapshot import Own, Snapshot

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from netaddr import IPAddress

    from proxyd.audit.reader import Entry
    from proxyd.policy.address import Destination
    from proxyd.policy.learn import Lesson
    from proxyd.policy.model import Policy
    from proxyd.policy.rows import AllowRow

MOST: Final = 10_000
"""Hosts that are learnt at most: an agent that makes names up must not fill our memory, nor the policy."""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd learn` takes."""
    parser = commands.add_parser(
        "learn", help="say what an allowlist would need, from a log of report mode", allow_abbrev=False
    )
    parser.add_argument("files", nargs="+", metavar="LOG", type=Path, help="audit logs; rotated ones are read too")
    parser.add_argument("--policy", required=True, metavar="FILE", help="the policy that is to be changed")
    parser.add_argument(
        "--wildcard",
        action="append",
        default=[],
        metavar="SUFFIX",
        help="write *.SUFFIX for all hosts below it (repeat for more)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Say it, as TOML; what it opens and what is left out on stderr. 0, or 66 if a log could not be read."""
    policy = load_or_complain(arguments.policy)
    if policy is None:
        return EX_CONFIG
    try:
        wildcards = [parse_host(suffix)[0] for suffix in arguments.wildcard]
    except BadTarget as bad:
        complain(f"--wildcard: {bad}; write --wildcard example.com")
        return EX_USAGE
    reading = Reading()
    entries = records(chain.from_iterable(map(with_rotated, arguments.files)), reading)
    lesson = learn(policy, list(_wishes(entries)), wildcards, today())
    sys.stdout.writelines(f"{line}\n" for line in _toml(lesson.rows))
    for line in _remarks(policy, lesson, reading):
        complain(line)
    return EX_NOINPUT if reading.broken else 0


def _wishes(entries: Iterable[Entry]) -> Iterator[Wish]:
    """What was let through and would have been denied: each host and port once, what was asked for most often first."""
    times: Counter[tuple[str, Destination]] = Counter()
    led_to: dict[tuple[str, Destination], set[IPAddress]] = defaultdict(set)
    for entry in entries:
        if entry["event"] == "decision" and entry.get("would") == "deny":
            try:
                destination = parse_authority(f"{bracketed(str(entry.get('host')))}:{entry.get('port')}")
                addresses = [parse_address(str(each)) for each in entry.get("addresses") or ()]
            except (BadTarget, TypeError):
                continue  # somebody else has written that
            asked = (str(entry.get("client")), destination)
            if asked in times or len(times) < MOST:
                times[asked] += 1
                led_to[asked].update(addresses)
    for asked, count in times.most_common():
        yield Wish(*asked, count, tuple(sorted(led_to[asked])))


def _toml(rows: Iterable[tuple[str, AllowRow]]) -> Iterator[str]:
    for beneath, row in rows:
        if beneath:
            yield f"# below [[client]] {beneath}"
        yield f"[[{'client.' if beneath else ''}allow]]"
        quoted = (f'"{host}"' for host in row.hosts)
        yield f"hosts = [{', '.join(quoted)}]"
        yield f"ports = [{', '.join(str(span.start) for span in row.ports)}]"
        yield f'reason = "{row.reason}"'
        yield ""


def _remarks(policy: Policy, lesson: Lesson, reading: Reading) -> Iterator[str]:
    """What it opens, what is left out, and what could not be read."""
    before, after = (Snapshot.of(enforced(each), today(), Own(each.ports)) for each in (policy, lesson.policy))
    for change in compare(before, after):
        yield f"{'opens' if change.opens else 'closes'}, for {change.client}: {told(change)}"
    for left in lesson.left_out:
        yield f"left out, for {left.wish.client}: {left.wish.destination}, {left.wish.times} times: {left.why}"
    yield from reading.broken
    if reading.unread:
        yield f"{reading.unread} lines are no records, and were passed over"
    if not lesson.rows:
        yield "there is nothing to add; only report mode (destinations.mode) logs what would be denied"
