"""`proxyd learn LOG… --policy P`: from a log of report mode, the change of P that would allow what was asked for.

To be reviewed, not to be trusted: what an agent asked for while nobody stopped it is not what it ought to have.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxyd.audit.reader import Reading, records, with_rotated
from proxyd.cli.diff import spelt, told, whose
from proxyd.cli.files import EX_CONFIG, EX_NOINPUT, EX_USAGE, complain, read_policy_file, today
from proxyd.cli.progress import Progress
from proxyd.cli.terminal import refuse, say, say_json
from proxyd.policy.address import BadTarget, bracketed, parse_address, parse_authority, parse_host
from proxyd.policy.compare import compare
from proxyd.policy.contradictions import enforced
from proxyd.policy.learn import Wish, learn
from proxyd.policy.load import PolicyError, load
from proxyd.policy.snapshot import Own, Snapshot

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from netaddr import IPAddress

    from proxyd.audit.reader import Entry
    from proxyd.policy.address import Destination
    from proxyd.policy.compare import Change
    from proxyd.policy.learn import Lesson
    from proxyd.policy.model import Policy
    from proxyd.policy.rows import AllowRow

MOST: Final = 10_000
"""Hosts that are learnt at most: an agent that makes names up must not fill our memory, nor the policy."""

MOST_ADDRESSES: Final = 64
"""Of one host and port: whoever answers for a name can make addresses up, too. Requests are judged by all of theirs."""

_LONGEST_NAME: Final = 255  # of a client; those of policies are shorter
_EPILOG: Final = """\
example:
  proxyd learn /var/log/proxyd/audit.jsonl --policy policy.toml --wildcard example.com

--json: {"rows": [{"beneath", "hosts", "ports", "reason"}], "toml", "changes" (as in diff --json),
"left_out": [{"client", "host", "port", "times", "why"}], "unread", "problems"}; {"problems"} where nothing was learnt

exit status: 0, 2 bad usage, 66 a log could not be read to its end, 78 the policy is bad
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd learn` takes."""
    parser = commands.add_parser(
        "learn", help="say what an allowlist would need, from a log of report mode", epilog=_EPILOG
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
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Say it, as TOML; what it opens and what is left out on stderr. 0, or 66 if a log could not be read."""
    try:
        policy = load(arguments.policy, read_policy_file, today())
        wildcards = [parse_host(suffix)[0] for suffix in arguments.wildcard]
    except PolicyError as bad:
        return refuse(bad.problems, EX_CONFIG, as_json=arguments.json)
    except BadTarget as bad:
        why = f"--wildcard: {bad}; write --wildcard example.com"
        return refuse([why], EX_USAGE, as_json=arguments.json)
    reading = Reading()
    paths = list(chain.from_iterable(map(with_rotated, arguments.files)))
    with Progress(paths) as progress:
        wishes = list(_wishes(records(paths, reading, progress)))
    lesson = learn(policy, wishes, wildcards, today())
    opened = list(_opened(policy, lesson))
    if arguments.json:
        say_json(_document(lesson, opened, reading))
        for why in reading.broken:
            complain(why)
    else:
        _tell(lesson, opened, reading)
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
            asked = (str(entry.get("client"))[:_LONGEST_NAME], destination)
            if asked in times or len(times) < MOST:
                times[asked] += 1
                led_to[asked].update(addresses[: MOST_ADDRESSES - len(led_to[asked])])
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


def _opened(policy: Policy, lesson: Lesson) -> Iterator[Change]:
    """What the rows open, in enforce mode."""
    before, after = (Snapshot.of(enforced(each), today(), Own.of(each)) for each in (policy, lesson.policy))
    return compare(before, after)


def _document(lesson: Lesson, opened: list[Change], reading: Reading) -> dict[str, Any]:
    """What `--json` says."""
    return {
        "rows": [
            {
                "beneath": beneath,
                "hosts": row.hosts,
                "ports": [span.start for span in row.ports],
                "reason": row.reason,
            }
            for beneath, row in lesson.rows
        ],
        "toml": "\n".join(_toml(lesson.rows)),
        "changes": spelt(opened),
        "left_out": [
            {
                "client": left.wish.client,
                "host": left.wish.destination.host,
                "port": left.wish.destination.port,
                "times": left.wish.times,
                "why": left.why,
            }
            for left in lesson.left_out
        ],
        "unread": reading.unread,
        "problems": reading.broken,
    }


def _tell(lesson: Lesson, opened: list[Change], reading: Reading) -> None:
    for line in _toml(lesson.rows):
        say(line)
    for remark in _remarks(lesson, opened, reading):
        complain(remark)


def _remarks(lesson: Lesson, opened: list[Change], reading: Reading) -> Iterator[str]:
    """What it opens, what is left out, and what could not be read."""
    for change in opened:
        yield f"{'opens' if change.opens else 'closes'}, for {whose(change)}: {told(change)}"
    for left in lesson.left_out:
        yield f"left out, for {left.wish.client}: {left.wish.destination}, {left.wish.times} times: {left.why}"
    yield from reading.broken
    if reading.unread:
        yield f"{reading.unread} lines are no records, and were passed over"
    if not lesson.rows:
        yield "there is nothing to add; only report mode (destinations.mode) logs what would be denied"
