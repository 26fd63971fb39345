"""The JSON Schema of the audit log, one entry a field, for whoever reads the log with a program.

`python -m proxyd.audit.schema` prints it; `record.schema.json` beside this file is that output, and a test
holds it to the `Record`. Nothing here is needed to write a record.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from proxyd.audit.record import FIELDS_OF, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}
_MAYBE_MS = {"type": ["number", "null"], "minimum": 0}
_COUNT = {"type": "integer", "minimum": 0}
_TEXTS = {"type": "array", "items": _TEXT}
_TYPES: Final[Mapping[str, tuple[dict[str, Any], str]]] = {
    "schema": ({"const": SCHEMA}, "the number of this format"),
    "time": ({"type": "string", "format": "date-time"}, "when, RFC 3339 in UTC"),
    "event": ({"enum": list(FIELDS_OF)}, "what the record is about"),
    "id": (_TEXT, "the request: the same in its decision, its closing record and the refusal the client saw"),
    "client": (_MAYBE_TEXT, "the [[client]] it was recognised as, or null for nobody"),
    "client_address": (_MAYBE_TEXT, "where the client connected from"),
    "user": (
        _MAYBE_TEXT,
        "the local account that owned the client's socket; null where it does not matter or is not known",
    ),
    "method": (_MAYBE_TEXT, 'the method, or "other" for one that nobody registered'),
    "scheme": ({"enum": ["http", "connect", None]}, "a plain request, or a tunnel"),
    "host": (_MAYBE_TEXT, "the host asked for in normal form; null if the request could not be read"),
    "port": ({"type": ["integer", "null"], "minimum": 1, "maximum": 65535}, "the port asked for"),
    "addresses": ({"type": ["array", "null"], "items": _TEXT}, "every address that was judged"),
    "address": (_MAYBE_TEXT, "the one address that was connected to"),
    "verdict": ({"enum": ["allow", "deny", "error"]}, "error: neither allowed nor denied, something failed"),
    "reason": (_MAYBE_TEXT, "why it was not served: a word of the README's table"),
    "rule": (_MAYBE_TEXT, "the row of the policy, or of the built-in table, that decided"),
    "refused": (_MAYBE_TEXT, "the address or CNAME that was refused"),
    "would": ({"enum": ["deny", None]}, "what enforcing would have said, in report mode"),
    "status": ({"type": ["integer", "null"]}, "the status sent to the client, where it is known by now"),
    "policy": (_TEXT, "the policy's name"),
    "digest": (_TEXT, "the first 16 hex digits of the SHA-256 over the policy's files"),
    "outcome": (_MAYBE_TEXT, "how it ended"),
    "bytes_up": (_COUNT, "octets of payload from the client to the origin"),
    "bytes_down": (_COUNT, "octets of payload from the origin to the client"),
    "dns_ms": (_MAYBE_MS, "how long the lookup took"),
    "connect_ms": (_MAYBE_MS, "how long connecting took"),
    "first_byte_ms": (_MAYBE_MS, "from the end of the request head to the origin's answer, or to the 200 of a tunnel"),
    "duration_ms": (_MAYBE_MS, "from the end of the request head to the end"),
    "pid": (_COUNT, "the worker's process"),
    "listening": (_TEXTS, "the listeners"),
    "connections": (_COUNT, "client connections served"),
    "problems": (_TEXTS, "why a reload was refused; the policy before stays in force"),
    "changes": (_TEXTS, "what is different in the policy that was reloaded"),
    "revoked": (_COUNT, "connections that the new policy refuses, and that were cut"),
    "truncated": ({"type": "boolean"}, "whether something was left out to keep the line short"),
}


def record_schema() -> dict[str, Any]:
    """The JSON Schema of a line of the audit log."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "proxyd audit record",
        "oneOf": [_event_schema(event, names) for event, names in FIELDS_OF.items()],
    }


def _event_schema(event: str, names: tuple[str, ...]) -> dict[str, Any]:
    described = {name: {"description": text} | kind for name, (kind, text) in _TYPES.items() if name in names}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(names),
        "properties": described | {"event": {"const": event}},
    }


def rendered() -> str:
    """The schema as the file beside this one spells it."""
    return json.dumps(record_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(rendered(), end="")  # noqa: T201 - that is what the command is for
