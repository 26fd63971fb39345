"""A log as agents leave it, made up: a day, some clients, many hosts, denials, failures, a reload. Always the same.

`python -m tests.observe.synthetic REQUESTS > audit.jsonl` writes one, to look at its report or to measure with.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import random
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    Record = dict[str, Any]

BEGIN = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
DAY = 86400.0
POLICY = {"policy": "gateway", "digest": "5c0c744d8041677c"}
CLIENTS = ("gateway", "researcher", "coder", "mailer", "nightly")
KNOWN = ("api.openai.com", "api.anthropic.com", "api.telegram.org", "gateway.discord.gg", "pypi.org", "github.com")
HOSTS = (*KNOWN, *(f"site{number}.example" for number in range(54)))
DENIED = (
    ("169.254.169.254", 80, "address_locked", "cloud-metadata"),
    ("10.0.0.5", 5432, "address_denied", "rfc1918-private"),
    ("127.0.0.1", 18789, "address_denied", "ipv4-loopback"),
    ("metadata.google.internal", 80, "name_locked", "metadata-names"),
    ("files.corp.example", 443, "name_denied", "corp"),
    ("mail.example", 25, "port_denied", "bad-ports"),
)
FAILED = (("gone.example", 443, "dns_error"), ("slow.example", 443, "connect_timeout"))


def records(requests: int) -> Iterator[Record]:
    """So many requests over a day, most of them by day; every decision has its closing record."""
    chance = random.Random(1)  # noqa: S311 - a picture, and no secret
    yield {"schema": 1, "time": _spelt(0), "event": "start", "pid": 7, "listening": ["127.0.0.1:3128"], **POLICY}
    for number in range(requests):
        when = _moment(number, requests)
        if number == requests // 2:
            done = {"outcome": "done", "problems": [], "changes": ["deny: corp added"], "revoked": 3}
            yield {"schema": 1, "time": _spelt(when), "event": "reload", "pid": 7, **done, **POLICY}
        yield from _request(number, when, chance)


def _moment(number: int, requests: int) -> float:
    """Seconds since the day began: slowly by night, and fast by day."""
    part = number / requests
    return DAY * (part + math.sin(2 * math.pi * part) * 0.1 - math.sin(4 * math.pi * part) * 0.02)


def _request(number: int, when: float, chance: random.Random) -> Iterator[Record]:
    client = CLIENTS[min(int(chance.expovariate(1.1)), len(CLIENTS) - 1)]
    record: Record = {
        "schema": 1,
        "id": f"{number:016x}",
        "client": client,
        "client_address": "127.0.0.1",
        "user": None,
        "method": "CONNECT",
        "scheme": "connect",
        **POLICY,
    }
    dice = chance.random()
    if dice < 0.02 or (0.6 < when / DAY < 0.63 and client == "researcher"):
        host, port, reason, rule = chance.choice(DENIED)
        judged: Record = {"verdict": "deny", "reason": reason, "rule": rule, "status": 403, "dns_ms": None}
        ended: Record = {"outcome": "refused", "bytes_up": 0, "bytes_down": 0, "connect_ms": None, "duration_ms": 0.6}
    elif dice < 0.035:
        host, port, reason = chance.choice(FAILED)
        judged = {"verdict": "error", "reason": reason, "rule": None, "status": 502, "dns_ms": 31.0}
        ended = {"outcome": "refused", "bytes_up": 0, "bytes_down": 0, "connect_ms": None, "duration_ms": 4500.0}
    else:
        host, port = HOSTS[min(int(chance.expovariate(0.12)), len(HOSTS) - 1)], 443
        judged = {"verdict": "allow", "reason": None, "rule": "default", "status": None}
        judged |= {"dns_ms": round(chance.lognormvariate(2, 1), 1)}
        down = int(chance.lognormvariate(9, 2))
        ended = {"outcome": "closed", "bytes_up": down // 7, "bytes_down": down}
        ended |= {"connect_ms": round(chance.lognormvariate(3, 0.7), 1)}
        ended |= {"duration_ms": round(chance.lognormvariate(6, 1.5), 1)}
    record |= {"host": host, "port": port, "addresses": ["93.184.216.34"], "refused": None, "would": None, **judged}
    yield {"time": _spelt(when), "event": "decision", **record, "truncated": False}
    closed = when + ended["duration_ms"] / 1000
    yield {"time": _spelt(closed), "event": "close", **record, "address": "93.184.216.34", **ended, "truncated": False}


def _spelt(seconds: float) -> str:
    when = BEGIN + dt.timedelta(seconds=seconds)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    for each in records(int(sys.argv[1])):
        sys.stdout.write(f"{json.dumps(each, separators=(',', ':'))}\n")
