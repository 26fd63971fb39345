"""A policy that is sound in every way, for the tests of findings: each is this one but for a single thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxyd.policy.lint import findings
from tests.policy.worlds import HASH, TODAY, loaded

if TYPE_CHECKING:
    from proxyd.policy.finding import Finding

LIMITS: Final = "[client.limits]\ntunnels = 100\n"
CREDENTIAL: Final = f'[client.credential]\nuser = "agent"\npassword = "{HASH}"\n'
AGENT: Final = f'[[client]]\nname = "agent"\nnetworks = ["127.0.0.0/8"]\nusers = ["openclaw"]\n{LIMITS}'
ALLOW: Final = '[[allow]]\nhosts = ["api.example.com"]\nports = [443]\nreason = "the model provider"\n'
TEST: Final = '[[test]]\nurl = "http://169.254.169.254/"\nexpect = "deny"\n'
DENY: Final = 'default = "deny"'
OPEN: Final = 'default = "allow"'


def client(conditions: str, name: str = "agent", more: str = LIMITS) -> str:
    """A [[client]] with these conditions."""
    return f'[[client]]\nname = "{name}"\n{conditions}\n{more}'


def text(
    *,
    listen: str = 'http = ["127.0.0.1:3128"]',
    destinations: str = DENY,
    clients: str = AGENT,
    test: str = TEST,
    more: str = "",
) -> str:
    """The sound policy, or what is told otherwise. more: further tables."""
    allow = ALLOW if destinations.startswith(DENY) else ""
    head = f'schema = 1\nname = "gateway"\n[listen]\n{listen}\n[destinations]\n{destinations}\n'
    return f"{head}{clients}{allow}{test}{more}"


def found(policy: str) -> list[Finding]:
    """What is said of a policy."""
    return list(findings(loaded(policy, hash=HASH, parent="proxyd:a secret"), TODAY))


def ids(policy: str) -> list[str]:
    """The same, by id."""
    return [each.id for each in found(policy)]
