"""`proxyd audit`: is this deployment sound? The policy, this host, and with --deep the proxy that runs.

In the manner of `openclaw security audit`: findings with an id, a severity, what, why, and how to mend it. --fix only
ever tightens. Who finds what is elsewhere: `policy.lint`, `host_findings`, `deep_findings`.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.deep_findings import deep_findings
from proxyd.cli.files import EX_CONFIG, EX_USAGE, complain, today
from proxyd.cli.host_findings import host_findings, read_whoever_may
from proxyd.cli.mend import Mended, mend
from proxyd.cli.terminal import Ink, refuse, say, say_json
from proxyd.net.probe import BadProxyUrl, Proxy
from proxyd.policy.finding import Severity
from proxyd.policy.lint import findings
from proxyd.policy.load import PolicyError, load
from proxyd.serve.handover import Files

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from proxyd.policy.finding import Finding
    from proxyd.policy.model import Policy

DEFAULT_POLICY: Final = "/etc/proxyd/policy.toml"

_INKS: Final = {Severity.CRITICAL: Ink.BAD, Severity.WARNING: Ink.WARNING, Severity.REMARK: Ink.QUIET}
_EPILOG: Final = """\
example, as root, who sees most:
  proxyd audit --policy /etc/proxyd/policy.toml --deep

--json: {"policy", "file", "digest", "counts": {"critical", "warning", "remark"}, "findings": [{"id", "severity",
"what", "why", "mend"}], "mended": […], "left": […]}, or {"problems"}

exit status: 0 nothing but remarks, 1 something is to be mended, 2 bad usage, 78 bad policy, or --fix could not mend
all that it should
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd audit` takes."""
    parser = commands.add_parser("audit", help="say what is not sound about this deployment", epilog=_EPILOG)
    parser.add_argument("--policy", default=DEFAULT_POLICY, metavar="FILE", help="the policy (default: %(default)s)")
    parser.add_argument("--deep", action="store_true", help="ask the running proxy, too")
    parser.add_argument(
        "--proxy-url",
        metavar="URL",
        help="where --deep asks, with a credential if it wants one (default: the policy's)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.add_argument("--fix", action="store_true", help="mend what can be: take rights from others, enforce")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything: 0, or 1 if there is more than remarks."""
    try:
        proxy = None if arguments.proxy_url is None else Proxy.of(arguments.proxy_url)
    except BadProxyUrl as bad:
        return refuse([f"--proxy-url: {bad}; write http://127.0.0.1:3128"], EX_USAGE, as_json=arguments.json)
    if proxy is not None and not arguments.deep:
        return refuse(["--proxy-url: is for --deep; write that, too"], EX_USAGE, as_json=arguments.json)
    try:
        mended = mend(arguments.policy) if arguments.fix else Mended()
        files = Files()
        policy = load(arguments.policy, files.remembering(read_whoever_may), today())
    except PolicyError as bad:
        hint = ["--policy FILE names another policy"] if arguments.policy == DEFAULT_POLICY else []
        return refuse([*bad.problems, *hint], EX_CONFIG, as_json=arguments.json)
    found = _found(policy, files, proxy, deep=arguments.deep)
    if arguments.json:
        about = {"policy": policy.name, "file": arguments.policy, "digest": policy.digest}
        said = {"counts": _counts(found), "findings": [asdict(each) for each in found]}
        say_json(about | said | {"mended": mended.done, "left": mended.left})
    else:
        _tell(found, mended)
    for line in mended.left:
        complain(line)
    if mended.left:
        return EX_CONFIG
    return 1 if any(each.severity is not Severity.REMARK for each in found) else 0


def _found(policy: Policy, files: Files, proxy: Proxy | None, *, deep: bool) -> list[Finding]:
    """Everything, each once, the worst first."""
    of_proxy = deep_findings(policy, proxy) if deep else ()
    found = dict.fromkeys(chain(findings(policy, today()), host_findings(policy, files), of_proxy))
    return sorted(found, key=lambda each: list(Severity).index(each.severity))


def _tell(found: list[Finding], mended: Mended) -> None:
    for line in mended.done:
        say("mended", Ink.GOOD, f"    {line}")
    for each in found:
        say(f"{each.severity:8}", _INKS[each.severity], f"  {each.id}")
        for line in (each.what, each.why, f"-> {each.mend}"):
            say(f"          {line}")
    counts = _counts(found)
    warnings, remarks = (f"{counts[each]} {each}{'' if counts[each] == 1 else 's'}" for each in ("warning", "remark"))
    say(f"{counts['critical']} critical, {warnings}, {remarks}", _INKS[found[0].severity] if found else Ink.GOOD)


def _counts(found: Iterable[Finding]) -> dict[str, int]:
    severities = [each.severity for each in found]
    return {severity.value: severities.count(severity) for severity in Severity}
