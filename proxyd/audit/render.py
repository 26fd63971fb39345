"""A Record as one line: JSON for machines, colours for a person at a terminal.

Both come from the same Record and both are safe to look at: whatever is not printable is escaped, so that no
record can move a cursor, end a line or turn text round (ATTACKS 9).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from proxyd.policy.text import printable

if TYPE_CHECKING:
    from proxyd.audit.record import Record

MAX_LINE: Final = 4096  # octets with the final LF: PIPE_BUF on Linux, below which write(2) to a pipe is atomic

_encoder: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
_to_json = structlog.processors.JSONRenderer(serializer=lambda record, **_: _encoder.encode(record))
_to_console = structlog.dev.ConsoleRenderer(colors=True, pad_event_to=8, pad_level=False, sort_keys=False)
_QUIET: Final = frozenset({"schema", "policy", "digest", "truncated", "client_address"})


def json_line(record: Record) -> bytes:
    """The record as one line of ASCII JSON, at most MAX_LINE octets."""
    line = _json(record)
    if len(line) > MAX_LINE:
        shorter = replace(record, addresses=None, refused=None, listening=(), rule=None, problems=(), changes=())
        line = _json(replace(shorter, truncated=True))
    return line


def console_line(record: Record) -> bytes:
    """The record as a person at a terminal reads it: what is null, or the same in every line, is left out."""
    shown = {name: _printable(value) for name, value in record.as_dict().items() if _tells(name, value)}
    shown["timestamp"] = shown.pop("time")
    return f"{_text(_to_console(None, '', shown))}\n".encode()


def _json(record: Record) -> bytes:
    return f"{_text(_to_json(None, '', record.as_dict()))}\n".encode("ascii")


def _text(rendered: str | bytes) -> str:
    """What a structlog renderer gave; with a serializer that makes text it is text."""
    return rendered if isinstance(rendered, str) else rendered.decode()


def _tells(name: str, value: object) -> bool:
    return name not in _QUIET and value not in (None, (), 0)


def _printable(value: Any) -> Any:  # noqa: ANN401 - any field of a Record
    if isinstance(value, tuple):
        return ",".join(_printable(each) for each in value)
    if not isinstance(value, str):
        return value
    return printable(value)
