"""A judgement, told step by step: what was looked at, what was said, what else holds, and what would help.

Only to an operator is it told what would allow a denied request, and what else that would open. Nothing is judged here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.diff import spelt, told, whose
from proxyd.cli.terminal import Ink, say, say_json
from proxyd.policy.address import BadTarget, parse_url
from proxyd.policy.compare import compare
from proxyd.policy.contradictions import enforced
from proxyd.policy.remedy import remedy
from proxyd.policy.special import is_localhost
from proxyd.policy.verdict import STEP_OF, Allow, Deny, NeedAddresses, Reason, Step, decide
from proxyd.policy.written import line_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.address import Destination, Resolution
    from proxyd.policy.client import Client
    from proxyd.policy.compare import Change
    from proxyd.policy.snapshot import Snapshot

    Verdict = Allow | Deny | NeedAddresses

_INKS: Final = {
    "allow": Ink.GOOD,
    "deny": Ink.BAD,
    "undecided": Ink.WARNING,
    "passed": Ink.GOOD,
    "refused": Ink.BAD,
    "missed": Ink.WARNING,
    "open": Ink.WARNING,
}


@dataclass(frozen=True, slots=True)
class Taken:
    """One step of a judgement. said: passed, missed, refused, or still open. looked_at: what it had before it."""

    step: Step
    said: str
    looked_at: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What had the last word: by its name, and where it is written if that is in the policy."""

    name: str
    file: str | None = None
    where: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return self.name
        at = self.file if self.line is None else f"{self.file}:{self.line}"
        return (
            f"{at}: {self.where}" if self.name == f"{self.file}: {self.where}" else f"{self.name} ({at}: {self.where})"
        )


@dataclass(frozen=True, slots=True)
class Help:
    """A row that would allow it, beneath which client (empty: the policy's own), and all that it changes."""

    toml: str
    beneath: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How something is judged, for a person and for a program.

    verdict: "allow", "deny", "undecided", or None where there is nothing to judge. would: why enforcing would not.
    conditions: what else holds for what is let through. hint: what to do where there is no remedy.
    """

    verdict: str | None
    reason: str | None = None
    rule: Rule | None = None
    would: str | None = None
    steps: tuple[Taken, ...] = ()
    conditions: tuple[str, ...] = ()
    remedy: Help | None = None
    hint: str | None = None

    @property
    def status(self) -> int:
        """The exit status."""
        return 0 if self.verdict in ("allow", "undecided") else 1

    def as_json(self) -> dict[str, Any]:
        """As `explain --json` has it."""
        document = asdict(self)
        if self.remedy is not None:
            document["remedy"]["changes"] = spelt(self.remedy.changes)
        return document


def judged(url: str, client: Client, snapshot: Snapshot, found: Resolution | None) -> Judgement:
    """How it is judged, and what else holds or would help."""
    try:
        destination = parse_url(url)
    except BadTarget as bad:
        refused = Deny(Reason.MALFORMED_TARGET, str(bad))
        return Judgement(
            verdict="deny",
            reason=refused.reason,
            rule=Rule(refused.rule),
            steps=tuple(_steps(refused, {Step.CLIENT: client.name}, missed=False)),
        )
    verdict = decide(destination, client, snapshot, found)
    looked_at = _looked_at(destination, client, snapshot, verdict)
    steps = tuple(_steps(verdict, looked_at, missed=_missed(destination, client, snapshot, verdict)))
    if isinstance(verdict, NeedAddresses):
        return Judgement(verdict="undecided", steps=steps)
    rule = _rule(verdict.rule, client, snapshot)
    if isinstance(verdict, Deny):
        help_, hint = _help(destination, client, snapshot, found, verdict)
        return Judgement(verdict="deny", reason=verdict.reason, rule=rule, steps=steps, remedy=help_, hint=hint)
    return Judgement(
        verdict="allow",
        rule=rule,
        would=None if verdict.would is None else verdict.would.reason,
        steps=steps,
        conditions=tuple(_conditions(verdict, client, snapshot)),
    )


def tell(judgement: Judgement, recorded: dict[str, Any] | None, *, as_json: bool) -> int:
    """Say it; the exit status. recorded: the decision that was explained, if it was one of a log."""
    if as_json:
        say_json({"recorded": recorded, **judgement.as_json()})
        return judgement.status
    for taken in judgement.steps:
        say(f"  {taken.said:8}", _INKS[taken.said], f" {taken.step:10} {taken.looked_at}")
    if judgement.verdict is not None:
        say(judgement.verdict, _INKS[judgement.verdict], f": {_why(judgement)}")
    if judgement.would is not None:
        say(f"report mode: enforcing would say deny: {judgement.would}", Ink.WARNING)
    for line in (*judgement.conditions, *_help_in_words(judgement)):
        say(line)
    return judgement.status


def _why(judgement: Judgement) -> str:
    if judgement.rule is None:
        return "the name is not refused; its addresses are still to be judged"
    return f"{judgement.reason}, by {judgement.rule}" if judgement.reason else f"by {judgement.rule}"


def _help_in_words(judgement: Judgement) -> Iterator[str]:
    if judgement.hint is not None:
        yield judgement.hint
    if judgement.remedy is not None:
        beneath = judgement.remedy.beneath
        yield f"to allow it, and if that is meant, add{f', below [[client]] {beneath}' if beneath else ''}:"
        yield from (f"  {line}" for line in judgement.remedy.toml.splitlines())
        for change in judgement.remedy.changes:
            yield f"which {'opens' if change.opens else 'closes'}, for {whose(change)}: {told(change)}"


def _help(
    destination: Destination, client: Client, snapshot: Snapshot, found: Resolution | None, deny: Deny
) -> tuple[Help | None, str | None]:
    """What would allow it, and what else that opens; or else what to do."""
    help_ = remedy(destination, client, snapshot, found, deny)
    if help_ is not None:
        return Help(help_.toml, help_.beneath, tuple(compare(snapshot, help_.snapshot))), None
    without_dns = destination.address is not None or is_localhost(destination.host)
    known = found is not None or without_dns or deny.reason is Reason.NAME_LOCKED
    return None, "nothing opens it" if known else "what would allow it depends on its addresses; give --address IP"


def _rule(label: str, client: Client, snapshot: Snapshot) -> Rule:
    """The rule of that label, and where it is written; a built-in one is in no file."""
    rows = (row for owner in (client, snapshot.policy) for row in (*owner.deny, *owner.allow, *owner.permit))
    where = next((row.where for row in rows if row.label == label), None)
    if where is None:
        return Rule(label)
    file, _, key = where.rpartition(": ")
    try:
        line = line_of(key, Path(file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        line = None  # it was moved meanwhile
    return Rule(label, file, key, line)


def _looked_at(destination: Destination, client: Client, snapshot: Snapshot, verdict: Verdict) -> dict[Step, str]:
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


def _missed(destination: Destination, client: Client, snapshot: Snapshot, verdict: Verdict) -> bool:
    """Whether report mode lets through what the allowlist misses."""
    if isinstance(verdict, NeedAddresses):
        enforcing = replace(snapshot, policy=enforced(snapshot.policy))
        return isinstance(decide(destination, client, enforcing), Deny)
    return isinstance(verdict, Allow) and verdict.would is not None


def _steps(verdict: Verdict, looked_at: dict[Step, str], *, missed: bool) -> Iterator[Taken]:
    """Each step that was taken, and what it looked at; missed: whether the allowlist was."""
    last = _last_step(verdict)
    for step in Step:
        if step is last:
            break
        yield Taken(step, "missed" if missed and step is Step.ALLOWLIST else "passed", looked_at[step])
    if isinstance(verdict, Deny):
        culprit = verdict.address if verdict.address is not None else verdict.name
        yield Taken(STEP_OF[verdict.reason], "refused", str(culprit or verdict.rule))
    elif isinstance(verdict, NeedAddresses):
        yield Taken(Step.ADDRESSES, "open", "say what DNS would answer with --address IP")


def _last_step(verdict: Verdict) -> Step | None:
    """The step that had the last word; None if every step was passed."""
    if isinstance(verdict, Deny):
        return STEP_OF[verdict.reason]
    return Step.ADDRESSES if isinstance(verdict, NeedAddresses) else None


def _conditions(verdict: Allow, client: Client, snapshot: Snapshot) -> Iterator[str]:
    """What else holds for a request that is let through: it is no part of the verdict."""
    if snapshot.rules(client).destinations.holds_to_tls_name(verdict.destination.port):
        yield f"in a tunnel, TLS must name {verdict.destination.host} (tls_name)"
    for owner, limits in ((f"client {client.name}", client.limits), ("all clients", snapshot.policy.limits)):
        yield from (f"{name} of {owner}: {value}" for name, value in limits.in_words())
    for name, value in client.egress.in_words():
        yield f"it leaves by {name} {value}"
    if snapshot.policy.parent is not None:
        yield f"it leaves through the parent {snapshot.policy.parent.address}"
