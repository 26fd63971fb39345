"""`proxyd log FILE`: the audit log made readable, as it is or as it grows: a line a request, two a tunnel.

It shows what is in the log and adds nothing. Whatever stands there is escaped: it is not ours alone to write.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxyd.audit.reader import Reading, growing, records, with_rotated
from proxyd.cli.files import EX_NOINPUT, EX_USAGE, complain
from proxyd.cli.progress import Progress
from proxyd.cli.terminal import Ink, is_pipe, say, say_json
from proxyd.policy.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.audit.reader import Entry

_AGO: Final = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_INKS: Final = {"allow": Ink.GOOD, "deny": Ink.BAD, "error": Ink.WARNING}
_EPILOG: Final = """\
examples:
  proxyd log --follow --denied /var/log/proxyd/audit.jsonl
  proxyd log --json --since 2h audit.jsonl | jq .host

--json: the records as proxyd/audit/record.schema.json describes them

exit status: 0, 2 bad usage, 66 some of it could not be read; lines that are no records are counted and passed over
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd log` takes."""
    parser = commands.add_parser("log", help="read the audit log", epilog=_EPILOG)
    parser.add_argument("file", metavar="FILE", type=Path, help="the log, or - for stdin; rotated ones are read too")
    parser.add_argument("--follow", action="store_true", help="go on as it grows, also through its rotation")
    parser.add_argument("--denied", action="store_true", help="only what was denied")
    parser.add_argument("--client", metavar="NAME", help="only this client's")
    parser.add_argument(
        "--host", metavar="HOST", type=_as_recorded, help="only this host, or *.suffix for what is below it"
    )
    parser.add_argument(
        "--since", metavar="TIME", type=_moment, help="from then on: 2027-01-31T08:00:00Z, or 10m, 2h, 3d ago"
    )
    parser.add_argument("--json", action="store_true", help="the records themselves, one a line")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the log: 0, or 66 if some of it could not be read."""
    if arguments.follow and str(arguments.file) == "-":
        complain("log: --follow: stdin cannot be followed; name the file, or leave --follow out")
        return EX_USAGE
    wanted = _Wanted(arguments.denied, arguments.client, arguments.host, arguments.since)
    show = _show_json if arguments.json else _Lines()
    reading = Reading()
    paths = with_rotated(arguments.file)
    with Progress([] if is_pipe(sys.stdout) else paths) as progress:  # a pager would be drawn over
        for entry in records(paths, reading, progress):
            if wanted(entry):
                progress.make_way()
                show(entry)
    if arguments.follow and not reading.broken:
        for entry in _followed(arguments.file, reading):
            if wanted(entry):
                show(entry)
                sys.stdout.flush()
    for why in reading.broken:
        complain(why)
    if reading.unread:
        complain(f"{reading.unread} lines are no records, and were passed over")
    return EX_NOINPUT if reading.broken else 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which records are asked for."""

    denied: bool
    client: str | None
    host: str | None
    since: dt.datetime | None

    def __call__(self, entry: Entry) -> bool:
        return (
            (not self.denied or entry.get("verdict") == "deny")
            and (self.client is None or entry.get("client") == self.client)
            and (self.host is None or self._is_host(str(entry.get("host"))))
            and (self.since is None or (when := _time(entry)) is None or when >= self.since)
        )

    def _is_host(self, host: str) -> bool:
        suffix = (self.host or "").removeprefix("*")
        return host.endswith(suffix) if suffix != self.host else host == self.host


class _Lines:
    """Shows records as lines, under a heading for each day."""

    def __init__(self) -> None:
        self._day = ""

    def __call__(self, entry: Entry) -> None:
        line = _told(entry)
        if line is None:
            return
        when = str(entry.get("time", ""))
        if when[:10] != self._day:
            self._day = when[:10]
            say(self._day, Ink.QUIET)
        say(f"{when[11:19]}  {line}", _INKS.get(str(entry.get("verdict")), Ink.QUIET))


def _followed(path: Path, reading: Reading) -> Iterator[Entry]:
    """What is appended from now on. Where it cannot be read any more, it ends, and `reading` has the reason."""
    try:
        yield from growing(path)
    except OSError as error:
        reading.broken.append(f"{path}: {error.strerror or 'it is no file, and cannot be followed'}")


def _show_json(entry: Entry) -> None:
    say_json(entry, indent=None)


def _told(entry: Entry) -> str | None:
    """A record in a line; None for a decision whose closing tells more."""
    event = entry.get("event")
    if event == "close":
        return f"{_who(entry)}  {_what(entry)}  {entry.get('outcome') or '-'}  {_amounts(entry)}"
    if event == "decision":
        opens = entry.get("scheme") == "connect" and entry.get("verdict") == "allow"
        return f"{_who(entry)}  {_what(entry)}  open" if opens else None
    names = ("outcome", "listening", "problems", "changes", "policy", "digest", "pid")
    told = (f"{name} {_spelt(entry[name])}" for name in names if entry.get(name))
    return f"{event}  {'  '.join(told)}"


def _who(entry: Entry) -> str:
    return f"{entry.get('client') or entry.get('client_address') or 'nobody'}"


def _what(entry: Entry) -> str:
    verdict = str(entry.get("verdict") or "-")
    why = entry.get("reason")
    would = " (would be denied)" if entry.get("would") else ""
    rule = f" by {entry.get('rule')}" if why and entry.get("rule") else ""
    where = f"{entry.get('host') or '?'}:{entry.get('port') or '?'}"
    return f"{verdict:5}  {entry.get('method') or '-'!s:7} {where}{f'  {why}{rule}' if why else ''}{would}"


def _amounts(entry: Entry) -> str:
    """How much was moved, and how long it took."""
    up, down, duration = (entry.get(name) or 0 for name in ("bytes_up", "bytes_down", "duration_ms"))
    return f"{up} up, {down} down, {duration} ms"


def _spelt(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _time(entry: Entry) -> dt.datetime | None:
    try:
        when = dt.datetime.fromisoformat(str(entry.get("time")))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=dt.UTC)


def _as_recorded(host: str) -> str:
    """A host as records spell it."""
    return host.lower().removesuffix(".")


def _moment(text: str) -> dt.datetime:
    """A time of day, or how long ago."""
    try:
        if ago := _AGO.fullmatch(text):
            return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        when = dt.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is no time; write 2027-01-31T08:00:00Z or 2h") from None
    return when if when.tzinfo else when.replace(tzinfo=dt.UTC)
