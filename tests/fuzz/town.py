"""Where scripted connections happen: the clients there are, the policies that may hold, and the moods of the world.

The same clients are those of a daemon: who comes from 127.N.0.0/16 is the one with the number N.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from netaddr import IPAddress

from proxyd.audit.sink import SinkError
from proxyd.net.dialer import DialError
from proxyd.net.resolver import DnsError
from proxyd.policy.address import Resolution
from proxyd.policy.limits import Over
from proxyd.policy.load import load
from proxyd.policy.password import PasswordHash
from proxyd.policy.snapshot import Snapshot
from proxyd.policy.verdict import Reason
from tests.serve.scene import NOW, PUBLIC, PUBLIC_6, SECRET

if TYPE_CHECKING:
    from proxyd.policy.model import Policy
    from tests.serve.scene import World

HOMES: Final = ("tester", "listed", "known", "watched", "permitted", "named", "limited", "nobody")
"""Each client, by its number; the last one is none."""
TESTER, LISTED, KNOWN, WATCHED, PERMITTED, NAMED, LIMITED, NOBODY = range(len(HOMES))

CREDENTIAL: Final = base64.b64encode(b"alice:" + SECRET.encode())
PRIVATE: Final = IPAddress("10.0.0.5")

_SALT: Final = b"sixteen octets.."
_HASH: Final = PasswordHash(10, 1, 1, _SALT, hashlib.scrypt(SECRET.encode(), salt=_SALT, n=1024, r=1, p=1, dklen=32))
_OWN: Final = {
    "listed": """
[client.destinations]
default = "deny"
[[client.allow]]
name = "models"
reason = "a test"
hosts = ["example.com", "api.example.com", "*.listed.example"]
ports = [80, 443]
""",
    "known": f"""
[client.credential]
user = "alice"
password = "{_HASH}"
""",
    "watched": """
[client.destinations]
default = "deny"
mode = "report"
""",
    "permitted": """
[[client.permit]]
name = "local-ui"
reason = "a test"
host = "ui.example"
ports = [8080]
networks = ["10.0.0.0/8"]
""",
    "named": """
[client.destinations]
tls_name = "match"
""",
    "limited": """
[client.limits]
requests_per_second = 20
tunnels = 1
""",
}
CLIENTS: Final = """
[limits]
idle_seconds = 100
[[deny]]
name = "corp"
reason = "a test"
hosts = ["denied.example"]
networks = ["45.45.44.0/22", "2a0c:45::/32"]
""" + "".join(
    f'[[client]]\nname = "{name}"\nnetworks = ["127.{number}.0.0/16"]\n{_OWN.get(name, "")}'
    for number, name in enumerate(HOMES[:-1])
)
"""Rows of a policy."""


def _policy(more: str) -> Policy:
    plain = 'schema = 1\nname = "fuzz"\n[listen]\nhttp = ["127.0.0.1:3128"]\n[destinations]\ndefault = "allow"\n'
    text = plain + CLIENTS + more
    return load("fuzz.toml", lambda _name, _beside, secret=False: ("/fuzz.toml", text.encode()), NOW.date())


POLICIES: Final = tuple(
    Snapshot.of(_policy(more), NOW.date())
    for more in (
        "",
        '[[deny]]\nname = "late"\nreason = "a test"\nhosts = ["*.example.com"]\nnetworks = ["93.184.216.0/24"]\n',
        "[dns]\nuniform_errors = true\n[audit]\ndangerously_prefer_availability = true\n",
    )
)
"""The first one is the one that a daemon has."""
PLAIN, LATE, UNIFORM = range(len(POLICIES))


PUBLICLY: Final = Resolution((PUBLIC,))


@dataclass(frozen=True)
class Mood:
    """How the world is to a session: what DNS says of any name, what comes of dialling and of writing down."""

    dns: Resolution | Reason = PUBLICLY
    dns_seconds: float = 0.0
    dial: Reason | None = None
    dial_seconds: float = 0.0
    full: bool = False
    over: Over | None = None

    def set(self, world: World) -> None:
        """Let it be so. Errors are made anew: one that is raised again and again remembers each time."""
        assert isinstance(world.answers, Zone)
        world.answers.answer = DnsError("a test", self.dns) if isinstance(self.dns, Reason) else self.dns
        world.dns_seconds, world.dial_seconds = self.dns_seconds, self.dial_seconds
        world.dial_error = None if self.dial is None else DialError(self.dial)
        world.sink_error = SinkError("a test") if self.full else None
        world.house.over = self.over


class Zone(dict[str, "Resolution | Exception"]):
    """What DNS says: the same of every name."""

    answer: Resolution | Exception

    def get(self, _name: str, _default: object = None) -> Resolution | Exception:
        """What it says now."""
        return self.answer


_UNDIALLABLE: Final = (
    *(Reason.CONNECT_REFUSED, Reason.CONNECT_UNREACHABLE, Reason.CONNECT_TIMEOUT, Reason.EGRESS_UNAVAILABLE),
    *(Reason.PARENT_UNREACHABLE, Reason.PARENT_REFUSED, Reason.OUT_OF_RESOURCES, Reason.ORIGIN_CLOSED),
)
_MOODS: Final = {
    "fine": Mood(),
    "both families": Mood(dns=Resolution((PUBLIC_6, PUBLIC))),
    "private": Mood(dns=Resolution((PRIVATE,))),
    "mixed": Mood(dns=Resolution((PUBLIC, PRIVATE))),
    "metadata": Mood(dns=Resolution((IPAddress("169.254.169.254"),))),
    "chain": Mood(dns=Resolution((PUBLIC,), ("metadata.google.internal",))),
    "no name": Mood(dns=Reason.DNS_ERROR),
    "no nameserver": Mood(dns=Reason.DNS_TIMEOUT),
    "slow nameserver": Mood(dns_seconds=3.0),
    "slower nameserver": Mood(dns_seconds=6.0),
    "slow origin": Mood(dial_seconds=3.0),
    "slower origin": Mood(dial_seconds=6.0),
    "full disk": Mood(full=True),
    "too fast": Mood(over=Over(Reason.RATE_LIMIT, 3)),
    "too many": Mood(over=Over(Reason.CONCURRENCY_LIMIT)),
    "busy": Mood(over=Over(Reason.OVERLOADED)),
} | {reason.value: Mood(dial=reason) for reason in _UNDIALLABLE}
MOODS: Final = tuple(_MOODS.values())


def mood(name: str) -> int:
    """The number of a mood."""
    return list(_MOODS).index(name)
