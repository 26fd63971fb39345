"""`proxyd diff OLD NEW`: what a change of a policy opens and closes, for whom; fit for the check of a pull request.

In terms of reach, not of text. Nothing is judged here: `proxyd.policy.reach` asks `decide`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.files import EX_CONFIG, read_policy_file, today
from proxyd.cli.terminal import Ink, columns, refuse, say, say_json
from proxyd.policy.compare import compare_from
from proxyd.policy.diff import changes
from proxyd.policy.load import PolicyError, load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from proxyd.policy.compare import Change

SHOWN: Final = 6  # hosts or networks of one line; the rest is counted
FAILS: Final = {"opens": (True,), "closes": (False,), "any": (True, False), "never": ()}
"""What `--fail-on` takes, and which changes that means."""

_INKS: Final = {"high": Ink.BAD, "medium": Ink.WARNING, "low": Ink.QUIET}
_WORDS: Final = {
    "names": "names",
    "answers": "names that lead to",
    "literals": "addresses",
    "via": "names that lead through",
    "permits": "permitted host",
    "peers": "may be it:",
    "listeners": "may connect:",
    "tls_name": "names that TLS in a tunnel may have:",
    "identity_headers": "to permitted hosts, headers",
}
_EPILOG: Final = """\
example, for the check of a pull request:
  git show main:policy.toml > old.toml; proxyd diff --markdown old.toml policy.toml

--json: {"changes": [{"client", "opens", "kind", "hosts", "ports", "at", "special", "was", "since", "severity"}],
"text"}, or {"problems"}

was: the client that these peers were before, where it is another. since: the day from which on it is so, where a permit
that expires keeps it from being so today. Limits, egress, the parent and where names are looked up are no part of it:
they stand in the words of the files.

exit status: 0 no such change as --fail-on says, 1 there is one, 78 a policy is bad
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd diff` takes."""
    parser = commands.add_parser("diff", help="say what a change of a policy opens and closes", epilog=_EPILOG)
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
    policies, problems = [], []
    for name in (arguments.old, arguments.new):
        try:
            policies.append(load(name, read_policy_file, today()))
        except PolicyError as bad:
            problems += bad.problems
    if problems:
        return refuse(problems, EX_CONFIG, as_json=arguments.json)
    old, new = policies
    found = sorted(compare_from(old, new, today()), key=_urgency)
    _tell(found, list(changes(old, new)), arguments)
    return 1 if any(each.opens in FAILS[arguments.fail_on] for each in found) else 0


def _tell(found: list[Change], words: list[str], arguments: argparse.Namespace) -> None:
    if arguments.json:
        say_json({"changes": spelt(found), "text": words})
    elif arguments.markdown:
        for line in _markdown(found, words):
            say(line)
    else:
        _show(found, words)


def spelt(found: Iterable[Change]) -> list[dict[str, Any]]:
    """Changes as --json has them, here and wherever a command tells of changes."""
    return [asdict(each) | {"severity": each.severity} for each in found]


def _urgency(change: Change) -> tuple[int, str]:
    return ("high", "medium", "low").index(change.severity), change.client


def _show(found: list[Change], words: list[str]) -> None:
    if not found:
        say("nobody reaches more or less than before")
    for each, line in zip(found, columns(map(_cells, found)), strict=True):
        severity = len(each.severity)
        say(line[:severity], _INKS[each.severity], line[severity:])
    if words:
        say("in the words of the files:")
    for word in words:
        say(f"  {word}")


def _cells(change: Change) -> tuple[str, ...]:
    return f"{change.severity:6}", whose(change), f"{'opens' if change.opens else 'closes':6}", told(change)


def _markdown(found: list[Change], words: list[str]) -> Iterator[str]:
    if found:
        yield from ("| severity | client | | what |", "| --- | --- | --- | --- |")
    else:
        yield "Nobody reaches more or less than before."
    for each in found:
        way = "**opens**" if each.opens else "closes"
        yield f"| {each.severity} | {whose(each)} | {way} | {told(each).replace('|', chr(92) + '|')} |"
    if words:
        yield from ("", "<details><summary>in the words of the files</summary>", "")
        yield from (f"- `{word.replace('`', '')}`" for word in words)
        yield from ("", "</details>")


def whose(change: Change) -> str:
    """The client, and who its peers were before if that was another."""
    return f"{change.client} (was {change.was})" if change.was else change.client


def told(change: Change) -> str:
    """What is opened or closed, in a line."""
    ports = f", port {_some(change.ports)}" if change.ports else ""
    at = f", at {_some(change.at)}" if change.at else ""
    special = " (special-purpose)" if change.special else ""
    since = f", from {change.since} on" if change.since else ""
    return f"{_WORDS[change.kind]} {_some(change.hosts)}{ports}{at}{special}{since}"


def _some(items: tuple[str, ...]) -> str:
    """The first few, the widest first, and how many more there are."""
    shown = sorted(items, key=lambda item: not item.startswith("every"))
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
