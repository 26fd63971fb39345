"""`proxyd diff OLD NEW`: what a change of a policy opens and closes, for whom; fit for the check of a pull request.

In terms of reach, not of text. Nothing is judged here: `proxyd.policy.reach` asks `decide`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.files import EX_CONFIG, load_or_complain, today
from proxyd.policy.diff import changes
from proxyd.policy.reach import compare
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from proxyd.policy.model import Policy
    from proxyd.policy.reach import Change

SHOWN: Final = 6  # hosts or networks of one line; the rest is counted
FAILS: Final = {"opens": (True,), "closes": (False,), "any": (True, False), "never": ()}
"""What `--fail-on` takes, and which changes that means."""

_WORDS: Final = {
    "names": "names",
    "answers": "names that lead to",
    "literals": "addresses",
    "permits": "permitted host",
    "peers": "may be it:",
}


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd diff` takes."""
    parser = commands.add_parser("diff", help="say what a change of a policy opens and closes", allow_abbrev=False)
    parser.add_argument("old", metavar="OLD", help="the policy as it was")
    parser.add_argument("new", metavar="NEW", help="the policy as it is to be")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object, for programs")
    shape.add_argument("--markdown", action="store_true", help="a table, for a comment on a pull request")
    parser.add_argument(
        "--fail-on", choices=list(FAILS), default="opens", help="what makes the exit status 1 (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare: 0, or 1 if there is a change that --fail-on is about."""
    old, new = load_or_complain(arguments.old), load_or_complain(arguments.new)
    if old is None or new is None:
        return EX_CONFIG
    found = sorted(compare(_snapshot(old), _snapshot(new)), key=_urgency)
    words = list(changes(old, new))
    if arguments.json:
        document = {"changes": [asdict(each) | {"severity": each.severity} for each in found], "text": words}
        sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
    else:
        lines = _markdown(found, words) if arguments.markdown else _plain(found, words)
        sys.stdout.writelines(f"{printable(line)}\n" for line in lines)
    return 1 if any(each.opens in FAILS[arguments.fail_on] for each in found) else 0


def _snapshot(policy: Policy) -> Snapshot:
    """As of today, wherever it will run: proxyd's own ports are on loopback there too."""
    return Snapshot.of(policy, today(), Own(policy.ports))


def _urgency(change: Change) -> tuple[int, str]:
    return ("high", "medium", "low").index(change.severity), change.client


def _plain(found: list[Change], words: list[str]) -> Iterator[str]:
    if not found:
        yield "nobody reaches more or less than before"
    for each in found:
        yield f"{each.severity:6}  {each.client}  {'opens' if each.opens else 'closes':6}  {told(each)}"
    if words:
        yield "in the words of the files:"
    yield from (f"  {word}" for word in words)


def _markdown(found: list[Change], words: list[str]) -> Iterator[str]:
    if found:
        yield from ("| severity | client | | what |", "| --- | --- | --- | --- |")
    else:
        yield "Nobody reaches more or less than before."
    for each in found:
        way = "**opens**" if each.opens else "closes"
        yield f"| {each.severity} | {each.client} | {way} | {told(each).replace('|', chr(92) + '|')} |"
    if words:
        yield from ("", "<details><summary>in the words of the files</summary>", "")
        yield from (f"- `{word.replace('`', '')}`" for word in words)
        yield from ("", "</details>")


def told(change: Change) -> str:
    """What is opened or closed, in a line."""
    ports = f", port {_some(change.ports)}" if change.ports else ""
    at = f", at {_some(change.at)}" if change.at else ""
    special = " (special-purpose)" if change.special else ""
    return f"{_WORDS[change.kind]} {_some(change.hosts)}{ports}{at}{special}"


def _some(items: tuple[str, ...]) -> str:
    """The first few, the widest first, and how many more there are."""
    shown = sorted(items, key=lambda item: not item.startswith("every"))
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
