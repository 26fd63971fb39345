"""`proxyd reload --policy FILE`: let the proxy that runs take its policy into use anew, and say what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.files import EX_CONFIG, EX_UNAVAILABLE, read_policy_file, today
from proxyd.cli.terminal import Ink, refuse, say, say_json
from proxyd.policy.load import PolicyError, load
from proxyd.serve import control

if TYPE_CHECKING:
    import argparse

    from proxyd.policy.model import Policy
    from proxyd.serve.control import Outcome

_EPILOG: Final = """\
example:
  proxyd reload --policy /etc/proxyd/policy.toml

--json: {"policy", "changes", "revoked", "problems"}; {"problems"} where nothing was reloaded

exit status: 0 the policy is in force, 69 nobody answers, 78 the policy is bad or was refused, and the old one stays
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd reload` takes."""
    parser = commands.add_parser("reload", help="let a running proxy change to its policy as it is now", epilog=_EPILOG)
    parser.add_argument("--policy", required=True, metavar="FILE", help="the policy that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask for a reload, wait for it, and tell: 0 if the new policy is in force, or else the old one stays."""
    try:
        policy = load(arguments.policy, read_policy_file, today())
    except PolicyError as bad:
        return refuse(bad.problems, EX_CONFIG, as_json=arguments.json)
    path = policy.listen.control
    if not path:
        why = (
            f'{arguments.policy}: listen.control: nobody can be asked; write control = "/run/proxyd/control" and '
            "restart proxyd, or send it SIGHUP"
        )
        return refuse([why], EX_CONFIG, as_json=arguments.json)
    try:
        outcome = control.ask(path)
    except (OSError, ValueError) as error:
        why = f"{path}: {getattr(error, 'strerror', None) or 'no answer'}; is proxyd running with this policy?"
        return refuse([why], EX_UNAVAILABLE, as_json=arguments.json)
    return _told(policy, outcome, as_json=arguments.json)


def _told(policy: Policy, outcome: Outcome, *, as_json: bool) -> int:
    if outcome.problems:
        return refuse([f"not reloaded: {problem}" for problem in outcome.problems], EX_CONFIG, as_json=as_json)
    if as_json:
        changes, revoked = list(outcome.changes), outcome.revoked
        say_json({"policy": policy.name, "changes": changes, "revoked": revoked, "problems": []})
        return 0
    for change in outcome.changes or ("nothing changed",):
        say(change)
    say("reloaded", Ink.GOOD, f": policy {policy.name}; {outcome.revoked} connections cut")
    return 0
