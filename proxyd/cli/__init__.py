"""Floor 7: the command line. One module a command; here only which command it is.

    run        proxyd --policy FILE
    check      proxyd check FILE…
    explain    proxyd explain URL --policy FILE
    judgement  a judgement told step by step, for explain
    decided    a decision found again in a log, for explain
    diff       proxyd diff OLD NEW
    log        proxyd log FILE
    learn      proxyd learn LOG… --policy FILE
    validate   proxyd validate
    reload     proxyd reload --policy FILE
    password   proxyd password
    prepare    what a policy asks for, made ready to be served
    files      policy files read from disk, and what to say when they are bad

Nothing the user typed yields a traceback: exit status 2 for bad usage, 78 for a bad policy, 69 for a port in use.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from proxyd import __version__
from proxyd.cli import check, diff, explain, learn, log, password, reload, run, validate
from proxyd.cli.files import EX_CONFIG, EX_IOERR, complain
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
examples:
  proxyd --policy policies/default.toml             run the proxy
  proxyd check policies/default.toml                load a policy and run its tests
  proxyd explain http://10.0.0.1/ --policy FILE     say how a request would be judged
  proxyd diff OLD NEW                               say what a change opens and closes
  proxyd log --follow FILE                          read the audit log
  proxyd learn LOG --policy FILE                    say what an allowlist would need
  proxyd validate                                   ask a running proxy whether it works and refuses
  proxyd reload --policy FILE                       let the proxy that runs it change to what it says now

exit status: 0 success, 1 a denial (explain), an opening (diff) or a failure (validate), 2 bad usage, 66 cannot be read,
69 cannot listen, 74 stdout cannot be written, 78 bad policy
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    if sys.stdout is None or sys.stderr is None:
        return _without_streams()
    _spell_what_they_can()
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is None and chosen.run_policy is None:
        parser.error("say which policy to run: proxyd --policy policies/default.toml")
    if chosen.command is not None and chosen.run_policy is not None:
        parser.error(f"--policy before a command runs the proxy; put what {chosen.command} takes behind it")
    try:
        return _said(int(chosen.run(chosen)))
    except KeyboardInterrupt:
        return 130
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
    """Repeats what was typed without its control characters."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Help and version have been said, or were lost."""
        super().exit(_said(status), message)


def _without_streams() -> int:
    """With stdout or stderr closed, the next file opened would take its place, and be written to."""
    return EX_CONFIG


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="proxyd",
        description="A filtering HTTP/1.1 forward proxy: the egress boundary of an AI agent.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"proxyd {__version__}")
    run.add_arguments(parser)
    commands = parser.add_subparsers(dest="command", metavar="command")
    check.add_command(commands)
    explain.add_command(commands)
    diff.add_command(commands)
    log.add_command(commands)
    learn.add_command(commands)
    validate.add_command(commands)
    reload.add_command(commands)
    password.add_command(commands)
    return parser
