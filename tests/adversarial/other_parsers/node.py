"""llhttp as Node.js uses it, strict and lenient: as an origin, and as a client of proxyd's (Debian: nodejs)."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.adversarial.other_parsers.answers import Answer
from tests.adversarial.other_parsers.messages import Message
from tests.adversarial.other_parsers.program import Origin, running
from tests.tools import free_port, tool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STRICT: tuple[str, ...] = ()
LENIENT = ("--insecure-http-parser", "--no-warnings")
_HERE = Path(__file__).parent


@contextmanager
def node(address: str, directory: Path, options: Sequence[str] = STRICT) -> Iterator[Origin]:
    """An origin at `address`; its files are in `directory`."""
    program, port, log = tool("node"), free_port(address), directory / "seen.jsonl"
    log.touch()

    messages: list[Message] = []

    def seen() -> list[Message]:  # each line is whole: it was written before the answer to it
        told = map(json.loads, lines)
        messages.extend(Message(line["method"], line["target"], bytes.fromhex(line["body"])) for line in told)
        return messages

    command = (program, *options, str(_HERE / "node_origin.js"), address, str(port), str(log))
    with log.open() as lines, running(command, (address, port), directory / "node.log"):
        yield Origin((address, port), seen)


def answers_to_node(proxy_port: int, asked: Sequence[tuple[str, str]], options: Sequence[str] = STRICT) -> list[Answer]:
    """What Node's client makes of the answers to (method, url), one after the other, on one connection if it can."""
    ran = subprocess.run(  # noqa: S603 - Node's path, and a script of ours
        [tool("node"), *options, str(_HERE / "node_client.js"), str(proxy_port)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    return [Answer(line["status"], bytes.fromhex(line["body"]), complete=line["complete"]) for line in lines]
