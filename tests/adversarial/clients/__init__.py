"""HTTP clients as programs use them, one script each, all with one command line; here is what the Python ones share.

    script PROXY CA VERB URL...

PROXY is the proxy's URL, CA a file with the one authority to trust. VERB: `get` asks for each URL in turn, in one
session; `upload` sends stdin as it comes, in chunks, to the one URL; `websocket` opens the one URL, says "hello" and
listens. For each URL a line of JSON says what the program saw: {"status", "reason", "text", "digest"} of an answer,
the reason empty where the library does not show it, or {"error"}, the text of what it raised. An end with another
status than 0 is a crash.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIECE = 64 * 1024
PATIENCE = 120  # seconds


def command_line() -> tuple[str, str, str, list[str]]:
    """What to do: proxy, CA, verb, URLs."""
    proxy, authority, verb, *urls = sys.argv[1:]
    return proxy, authority, verb, urls


def uploaded() -> Iterator[bytes]:
    """The body of an upload, as it comes."""
    while piece := os.read(sys.stdin.fileno(), PIECE):
        yield piece


def tell(status: int, reason: str, body: Iterable[bytes]) -> None:
    """Say what was answered."""
    digest, text = hashlib.sha256(), b""
    for piece in body:
        digest.update(piece)
        text += piece[: 1000 - len(text)]
    said = {"status": status, "reason": reason, "text": text.decode("latin-1"), "digest": digest.hexdigest()}
    _say(said)


def tell_error(error: object) -> None:
    """Say what went wrong."""
    _say({"error": str(error)})


def _say(said: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
