"""`proxyd check FILE…`: load policies as the daemon would, run their tests, print every problem."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.files import EX_CONFIG, complain, read_policy_file, today
from proxyd.cli.terminal import Ink, say, say_json
from proxyd.policy.lint import warnings
from proxyd.policy.load import PolicyError, load

if TYPE_CHECKING:
    import argparse

    from proxyd.policy.model import Policy

_EPILOG: Final = """\
example:
  proxyd check policies/default.toml policies/allowlist.toml

--json: a list of {"file", "good", "policy", "default", "mode", "digest", "counts", "problems", "warnings"}; of a bad
policy only the file and its problems are known

exit status: 0 all are good, 78 one is not
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd check` takes."""
    parser = commands.add_parser("check", help="load policies, run their tests, print every problem", epilog=_EPILOG)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a policy")
    parser.add_argument("--json", action="store_true", help="one JSON array, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check each policy: 0 if all are good."""
    checked = []
    for name in arguments.files:
        checked.append(_checked(name))
        _tell(checked[-1], as_json=arguments.json)
    if arguments.json:
        say_json([asdict(each) for each in checked])
    return 0 if all(each.good for each in checked) else EX_CONFIG


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """What `--json` says of one file."""

    file: str
    good: bool
    policy: str | None = None
    default: str | None = None
    mode: str | None = None
    digest: str | None = None
    counts: dict[str, int] | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _checked(name: str) -> _Checked:
    try:
        policy = load(name, read_policy_file, today())
    except PolicyError as bad:
        return _Checked(file=name, good=False, problems=tuple(bad.problems))
    return _Checked(
        file=name,
        good=True,
        policy=policy.name,
        default=policy.destinations.default,
        mode=policy.destinations.mode,
        digest=policy.digest,
        counts=_counts(policy),
        warnings=tuple(warnings(policy, today())),
    )


def _counts(policy: Policy) -> dict[str, int]:
    return {kind: len(getattr(policy, kind)) for kind in ("deny", "allow", "permit", "client", "test")}


def _tell(checked: _Checked, *, as_json: bool) -> None:
    """The line of a good policy; on stderr its warnings, or the problems of a bad one."""
    for problem in checked.problems:
        complain(problem)
    if as_json or checked.counts is None:
        return
    tests = checked.counts["test"]
    rows = ", ".join(f"{count} {kind}" for kind, count in checked.counts.items() if kind != "test")
    summary = f"policy {checked.policy}, default {checked.default}, mode {checked.mode}; {rows}; {tests} tests passed"
    say(f"{checked.file}: good", Ink.GOOD, f": {summary}; digest {checked.digest}")
    for warning in checked.warnings:
        complain(f"{checked.file}: warning: {warning}")
