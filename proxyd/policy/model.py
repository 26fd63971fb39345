"""The policy, frozen: what a file can say, key by key. Rows are `rows`', and what is said of clients is `client`'s.

Each field made by `key` is a key of the policy file; the loader and the JSON Schema are both read off these
classes. Nothing here judges (that is `verdict`), looks anything up (`snapshot`), or knows about files (`load`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxyd.policy.address import Endpoint
from proxyd.policy.admin import Admin
from proxyd.policy.client import Client, Destinations, Rates
from proxyd.policy.dns import Dns
from proxyd.policy.listen import Listen
from proxyd.policy.rows import LABEL, Rows
from proxyd.policy.shape import (
    FLAG,
    ListOf,
    Scalar,
    Table,
    Wrong,
    described,
    endpoint,
    key,
    number,
    number_or,
    text,
)

if TYPE_CHECKING:
    from proxyd.policy.rows import AllowRow, DenyRow, PermitRow

SCHEMA: Final = 1
"""What `schema` must be in a policy file of this version."""


def _parse_sink(value: object) -> str:
    if value != "stdout" and not (isinstance(value, str) and value.startswith("/") and value.isprintable()):
        raise Wrong(f'{described(value)} is no sink; write "stdout" or the absolute path of a file')
    return value


_SINK = Scalar(_parse_sink, {"type": "string", "pattern": "^(stdout|/.*)$"})


@dataclass(frozen=True, kw_only=True)
class Parent:
    """Another proxy, through which every connection leaves; destinations are judged here all the same.

    credential: `user:password`, out of the file; never repeated.
    """

    address: Endpoint = key(endpoint(), 'the address and port of the parent, as "192.0.2.7:3128"')
    credential_file: str = key(
        text(200), "a file with user:password, which others cannot read, relative to the policy", default=""
    )
    credential: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Where the audit records go, and what happens when they cannot."""

    to: str = key(_SINK, '"stdout", or the absolute path of a file', default="stdout")
    dangerously_prefer_availability: bool = key(FLAG, "serve even if records cannot be written", default=False)


@dataclass(frozen=True, kw_only=True)
class Limits(Rates):
    """Bounds for all clients together."""

    connections: int = key(number(1, 1_000_000), "client connections at once", default=4096)
    idle_seconds: int = key(number(1, 604_800), "how long a tunnel or body may stand still", default=3600)
    drain_seconds: int = key(number(0, 3600), "how long SIGTERM waits for what runs", default=10)


@dataclass(frozen=True, kw_only=True)
class Policy(Rows):
    """A whole policy, as written. `Snapshot.of` makes of it what can be judged by.

    digest: SHA-256 in hex over all bytes of all its files; set by the loader.
    """

    schema: int = key(number(SCHEMA, SCHEMA), f"write schema = {SCHEMA}")
    name: str = key(LABEL, 'what the log calls this policy, as name = "gateway"')
    listen: Listen = key(Table(Listen), 'write [listen] with http = ["127.0.0.1:3128"]')
    destinations: Destinations = key(Table(Destinations), 'write [destinations] with default = "deny"')
    client: tuple[Client, ...] = key(ListOf(Table(Client)), "write a [[client]] with name and networks")
    dns: Dns = key(Table(Dns), "how names are resolved", default=Dns())
    audit: Audit = key(Table(Audit), "the audit log", default=Audit())
    admin: Admin = key(Table(Admin), "where metrics and health are asked for", default=Admin())
    limits: Limits = key(Table(Limits), "bounds", default=Limits())
    parent: Parent | None = key(Table(Parent), "the proxy that connections leave through", default=None)
    workers: int | str = key(
        number_or("auto", 1, 64), 'processes that serve: a number, or "auto" for one a core', default=1
    )
    digest: str = ""

    @property
    def ports(self) -> frozenset[int]:
        """The ports that the policy says proxyd listens on, without those that the system will choose."""
        endpoints = (*self.listen.endpoints, self.admin.listen)
        return frozenset(each.port for each in endpoints if isinstance(each, Endpoint) and each.port)

    @property
    def every_deny(self) -> tuple[DenyRow, ...]:
        """The policy's own rows, and then its clients'."""
        return sum((client.deny for client in self.client), self.deny)

    @property
    def every_allow(self) -> tuple[AllowRow, ...]:
        """The policy's own rows, and then its clients'."""
        return sum((client.allow for client in self.client), self.allow)

    @property
    def every_permit(self) -> tuple[PermitRow, ...]:
        """The policy's own rows, and then its clients'."""
        return sum((client.permit for client in self.client), self.permit)
