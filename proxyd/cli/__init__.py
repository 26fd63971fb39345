"""Floor 7: the command line. One module a command; here only which command it is.

    run        proxyd --policy FILE
    check      proxyd check FILE…
    explain    proxyd explain URL --policy FILE
    judgement  a judgement told step by step, for explain
    own_ports  what the policy cannot say of proxyd's own ports, for explain
    decided    a decision found again in a log, for explain
    diff       proxyd diff OLD NEW
    log        proxyd log FILE
    learn      proxyd learn LOG… --policy FILE
    report     proxyd report LOG…
    validate   proxyd validate
    audit      proxyd audit
    host_findings, deep_findings
               what is not sound about this host, and about the proxy that runs, for audit
    mend       what audit --fix does
    execute    proxyd exec --policy FILE -- COMMAND
    ward       the proxy beside a confined command, for exec
    reload     proxyd reload --policy FILE
    health     proxyd health --policy FILE
    password   proxyd password
    prepare    what a policy asks for, made ready to be served
    files      policy files read from disk, and what to say when they are bad
    terminal   what is shown to a person, and what a program is told
    progress   how far the reading of a log has come

Nothing the user typed yields a traceback: exit status 2 for bad usage, 78 for a bad policy, 69 for a port in use.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, NoReturn

from proxyd import __version__
from proxyd.cli import audit, check, diff, execute, explain, health, learn, log, password, reload, report, run, validate
from proxyd.cli.files import EX_CONFIG, EX_IOERR, complain, not_spelt
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_EPILOG = """\
examples:
  proxyd --policy policies/default.toml             run the proxy
  proxyd check policies/default.toml                load a policy and run its tests
  proxyd explain http://10.0.0.1/ --policy FILE     say how a request would be judged
  proxyd diff OLD NEW                               say what a change opens and closes
  proxyd log --follow FILE                          read the audit log
  proxyd learn LOG --policy FILE                    say what an allowlist would need
  proxyd report LOG --html report.html              sum up the audit log, as a page to look at
  proxyd validate                                   ask a running proxy whether it works and refuses
  proxyd audit --policy FILE                        say what is not sound about this deployment
  proxyd exec --policy FILE -- npm test             run a command that reaches nothing but what it allows
  proxyd reload --policy FILE                       let the proxy that runs it change to what it says now
  proxyd health --policy FILE                       ask the proxy that runs it whether it serves, for probes

exit status: 0 success, 1 a denial (explain), an opening (diff), a failure (validate), a finding (audit) or not ready
(health), 2 bad usage, 66 cannot be read, 69 cannot listen, cannot confine (exec), or nobody answers (health, reload),
74 stdout cannot be written, or it or stderr is closed, 78 bad policy
"""
_CHOICE: Final = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    if sys.stdout is None or sys.stderr is None:
        return _without_streams()
    _spell_what_they_can()
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    parser = new_parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is None and chosen.run_policy is None:
        parser.error("say which policy to run: proxyd --policy policies/default.toml")
    if chosen.command is not None and chosen.run_policy is not None:
        parser.error(f"--policy before a command runs the proxy; put what {chosen.command} takes behind it")
    try:
        return _said(int(chosen.run(chosen)))
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":
            raise  # it is no name of a file or an account, and may be a secret
        complain(not_spelt(error))
        return EX_CONFIG
    except OSError as error:
        if chosen.command is None:
            raise  # the daemon writes nothing through here: this is a bug of its own
        return _lost(error)


def _spell_what_they_can() -> None:
    """A terminal that knows no dots above letters gets escapes, and not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _said(status: int) -> int:
    """The status, once all that was said is in the system's hands."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _lost(error)
    return status


def _lost(error: OSError) -> int:
    """Nobody can be told on stdout any more; the interpreter would try once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    complain(f"stdout: {error.strerror}; what there was to say is lost")
    return EX_IOERR


class _Parser(argparse.ArgumentParser):
    """The parser of proxyd and of each command: it guesses nothing, but says what may have been meant.

    What was typed is repeated without its control characters.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - whatever argparse takes
        raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(**{**raw, **settings})

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # noqa: ANN401 - argparse's own
        """Of options that there are not, the parser whose they would be complains: it knows those that there are."""
        chosen, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = next((each for each in unknown if each.startswith("-")), "").partition("=")[0]
            hint = _meant(option, re.findall(r"--[a-z-]+", self.format_help()))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return chosen, unknown

    def error(self, message: str) -> NoReturn:
        """A choice that there is not gets a hint, too."""
        choice = _CHOICE.search(message)
        hint = "" if choice is None else _meant(choice[1], re.findall(r"[a-z0-9-]+", choice[2]))
        super().error(printable(f"{message}{hint}"))

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401 - argparse's own
        """What cannot be said on stdout is lost there, which argparse would pass over."""
        if file is not sys.stdout:
            return super()._print_message(message, file)
        try:
            sys.stdout.write(message)
        except OSError as error:
            super().exit(_lost(error))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Help and version have been said, or were lost."""
        super().exit(_said(status), message)


def _meant(typed: str, known: Sequence[str]) -> str:
    """What there is that looks like what was typed."""
    return "".join(f"; did you mean {each}?" for each in get_close_matches(typed, known, n=1))


def _without_streams() -> int:
    """With stdout or stderr closed, the next file opened would take its place, and be written to.

    Nothing is begun, not even to say what there is; it is said where it still can be.
    """
    closed, number, other = ("stdout", 1, sys.stderr) if sys.stdout is None else ("stderr", 2, sys.stdout)
    if other is not None:
        with suppress(OSError):
            said = f"proxyd: {closed} is closed; let it lead somewhere: {number}>/dev/null\n"
            os.write(other.fileno(), said.encode())
    return EX_IOERR


def new_parser() -> argparse.ArgumentParser:
    """The command line, as it is read and as shells complete it (deploy/completion)."""
    parser = _Parser(
        prog="proxyd",
        description="A filtering HTTP/1.1 forward proxy: the egress boundary of an AI agent.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"proxyd {__version__}")
    run.add_arguments(parser)
    commands = parser.add_subparsers(dest="command", metavar="command")
    check.add_command(commands)
    explain.add_command(commands)
    diff.add_command(commands)
    log.add_command(commands)
    learn.add_command(commands)
    report.add_command(commands)
    validate.add_command(commands)
    audit.add_command(commands)
    execute.add_command(commands)
    reload.add_command(commands)
    health.add_command(commands)
    password.add_command(commands)
    return parser
