"""`proxyd report FILE…`: what the audit log amounts to, as a short text, as JSON, or as a page to look at.

The page remembers which destinations it knows: written over by the next report, it tells that one what is new.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxyd.audit.reader import Reading, records, with_rotated
from proxyd.audit.summary import REFUSALS, Summary, as_json, percentiles
from proxyd.cli.files import EX_NOINPUT, EX_USAGE, complain
from proxyd.cli.progress import Progress
from proxyd.cli.terminal import Ink, columns, refuse, say, say_json
from proxyd.observe.known import known_by
from proxyd.observe.page import VERDICTS, Source, page
from proxyd.observe.units import count, moment, part, size, span

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from proxyd.observe.known import Known

_ROWS: Final = 8  # of each list in the text
_LARGEST_PAGE: Final = 32 * 1024 * 1024  # octets; ours have a few
_MODE: Final = 0o640  # it tells as much as the log
_LEEWAY: Final = 86400  # seconds that the clock of who wrote the log may be ahead
_EPILOG: Final = """\
example:
  proxyd report /var/log/proxyd/audit.jsonl --html report.html

exit status: 0, 2 the page cannot be written, 66 a log could not be read to its end
"""


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """What `proxyd report` takes."""
    parser = commands.add_parser("report", help="sum up the audit log, also as a page", epilog=_EPILOG)
    parser.add_argument(
        "files", nargs="+", metavar="FILE", type=Path, help="audit logs, or - for stdin; rotated ones are read too"
    )
    parser.add_argument(
        "--html", metavar="OUT", type=Path, help="write a page; the report that is there says what is new since"
    )
    parser.add_argument("--json", action="store_true", help="the summary as JSON; `broken` says what could not be read")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Sum it up: 0, 66 if a log could not be read wholly, or 2 if the page cannot be written."""
    before = None
    if arguments.html is not None:
        try:
            before = _known_before(arguments.html)
        except OSError as error:
            return refuse([f"--html {arguments.html}: {error.strerror}"], EX_USAGE, as_json=arguments.json)
    now = time.time()
    reading, paths = Reading(), list(chain.from_iterable(map(with_rotated, arguments.files)))
    summary = Summary(now + _LEEWAY)
    with Progress(paths) as progress:
        for entry in records(paths, reading, progress):
            summary.add(entry)
    source = Source([str(path) for path in paths], reading.records, reading.unread, reading.broken, now)
    if arguments.html is not None:
        try:
            _write(arguments.html, page(summary, source, before))
        except OSError as error:
            return refuse([f"--html {arguments.html}: {error.strerror}"], EX_USAGE, as_json=arguments.json)
    if arguments.json:
        say_json(as_json(summary) | {"records": source.records, "unread": source.unread, "broken": list(source.broken)})
    elif arguments.html is None:
        _tell(summary)
    else:
        say(f"{arguments.html}: {_headline(summary)}{_news(summary, before)}")
    for why in reading.broken:
        complain(why)
    if reading.unread:
        complain(f"{reading.unread} lines are no records, and were passed over")
    return EX_NOINPUT if reading.broken else 0


def _known_before(out: Path) -> Known | None:
    """What the report there knows, or None if nothing is there. Raises OSError if something else is."""
    known = None
    try:
        with open(out, "rb", opener=_as_it_is) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                known = known_by(file.read(_LARGEST_PAGE).decode(errors="replace"))
    except FileNotFoundError:
        return None
    except OSError:
        if not (out.is_symlink() or out.is_dir()):
            raise
    if known is None:
        raise OSError(0, "something is there that is no report of ours; remove it, or choose another name")
    return known


def _as_it_is(path: str, flags: int) -> int:
    """No link is followed, and no pipe waited for."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _write(out: Path, text: str) -> None:
    """Put it there as a whole, or leave what is there. Raises OSError."""
    fd, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, _MODE)
            file.write(text)
        Path(name).replace(out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _headline(summary: Summary) -> str:
    totals = summary.totals
    would = f", {count(summary.would_deny)} that enforcing would deny" if summary.would_deny else ""
    return (
        f"{count(totals.requests)} requests: {count(totals.allowed)} allowed{would}, {count(totals.denied)} denied "
        f"({part(totals.denied, totals.requests)}), {count(totals.failed)} failed; "
        f"{size(totals.down)} down, {size(totals.up)} up"
    )


def _news(summary: Summary, before: Known | None) -> str:
    return "" if before is None else f"; {count(len(before.new(summary.reached())))} new destinations"


def _tell(summary: Summary) -> None:
    """The summary for a terminal."""
    if summary.first is not None and summary.last is not None:
        say(f"{moment(summary.first)} to {moment(summary.last)} UTC", Ink.QUIET)
    say(_headline(summary), Ink.STRONG)
    for verdict in REFUSALS:
        _list(VERDICTS[verdict], _refusals(summary, verdict), Ink.BAD if verdict == "deny" else Ink.WARNING)
    _list(
        "destinations",
        (
            (name, count(figures.requests), f"{size(figures.down)} down, {size(figures.up)} up")
            for (name,), figures in summary.destinations.largest(_ROWS)
        ),
    )
    _list(
        "clients",
        (
            (name, count(figures.requests), f"{count(figures.denied)} denied, {count(figures.failed)} failed")
            for (name,), figures in summary.clients.largest(_ROWS)
        ),
    )
    _list("how long it took", _times(summary))
    if summary.forgot:
        say("there was too much to keep: small ones are left out, and figures may be too low", Ink.WARNING)


def _refusals(summary: Summary, verdict: str) -> Iterator[tuple[str, ...]]:
    for (client, destination, reason, rule), figures in summary.refusals[verdict].largest(_ROWS):
        yield destination, count(figures.requests), client, f"{reason}, by {rule}" if rule != "-" else reason


def _times(summary: Summary) -> Iterator[tuple[str, ...]]:
    for name, histogram in summary.timed.items():
        within = [f"{each} {span(ms)}" for each, ms in percentiles(histogram).items() if ms is not None]
        if within:
            yield name, count(histogram.count), *within


def _list(title: str, rows: Iterable[Sequence[str]], ink: Ink | None = None) -> None:
    lines = columns(rows)
    if lines:
        say(title, ink or Ink.STRONG)
    for line in lines:
        say(f"  {line}")
