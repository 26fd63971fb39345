"""The small worlds that the tests of this floor share: policies, the files they stand in, and who asks."""

from __future__ import annotations

import errno
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from netaddr import IPAddress, IPNetwork

from proxyd.policy.load import PolicyError, load
from proxyd.policy.model import AllowRow, Client, DenyRow, Destinations, Listen, Own, PermitRow, Policy, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxyd.policy.load import ReadFile

TODAY: Final = date(2026, 8, 1)
CLIENT: Final = Client(name="agent", networks=(IPNetwork("127.0.0.0/8"),))

MINIMAL: Final = """\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "deny"
[[client]]
name = "agent"
networks = ["127.0.0.0/8", "::1/128"]
"""
"""A policy with every key that must be there, and no other. It ends in a [[client]]."""

# Any unicast public address would do: these have names because tests read better so.
PUBLIC_4: Final = IPAddress("93.184.216.34")
PUBLIC_6: Final = IPAddress("2606:2800:220:1:248:1893:25c8:1946")


def deny(*, hosts: Iterable[str] = (), networks: Iterable[str] = (), name: str = "denied") -> DenyRow:
    """A [[deny]] row."""
    return DenyRow(name=name, reason="a test", hosts=tuple(hosts), networks=nets(*networks))


def allow(*hosts: str, ports: Iterable[int] = (443,), name: str = "allowed") -> AllowRow:
    """An [[allow]] row."""
    return AllowRow(name=name, reason="a test", hosts=hosts, ports=spans(*ports))


def permit(
    host: str, *networks: str, ports: Iterable[int] = (443,), expires: date | None = None, name: str = "permitted"
) -> PermitRow:
    """A [[permit]] row."""
    return PermitRow(
        name=name, reason="a test", host=host, ports=spans(*ports), networks=nets(*networks), expires=expires
    )


def nets(*texts: str) -> tuple[IPNetwork, ...]:
    """Networks from their spelling."""
    return tuple(IPNetwork(text) for text in texts)


def spans(*ports: int) -> tuple[range, ...]:
    """Each port as the span that holds only it."""
    return tuple(range(port, port + 1) for port in ports)


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    """Addresses from their spelling."""
    return tuple(IPAddress(text) for text in texts)


def policy(*, default: str = "allow", mode: str = "enforce", ports: Iterable[int] = (), **more: Any) -> Policy:  # noqa: ANN401
    """A policy built without a file: everything public is allowed, unless said otherwise."""
    return Policy(
        schema=1,
        name="gateway",
        listen=Listen(http=()),
        destinations=Destinations(default=default, mode=mode, ports=spans(*ports)),
        client=(CLIENT,),
        **more,
    )


def world(own: Own | None = None, today: date = TODAY, **said: Any) -> Snapshot:  # noqa: ANN401
    """What `decide` judges by: `policy(**said)` as of today."""
    return policy(**said).at(today, own or Own())


def files(**texts: str | bytes) -> ReadFile:
    """A folder with a file `/NAME.toml` for each keyword."""

    def read(name: str, beside: str | None) -> tuple[str, bytes]:
        assert beside is None or beside.startswith("/")
        text = texts.get(name.removesuffix(".toml"))
        if text is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        return f"/{name}", text if isinstance(text, bytes) else text.encode()

    return read


def loaded(main: str | bytes = MINIMAL, today: date = TODAY, **included: str | bytes) -> Policy:
    """The policy in main.toml and the files it includes."""
    return load("main.toml", files(main=main, **included), today)


def problems(main: str | bytes, today: date = TODAY, **included: str | bytes) -> list[str]:
    """What the loader has against main.toml: nothing, or a line for each thing to mend."""
    try:
        loaded(main, today, **included)
    except PolicyError as error:
        return error.problems
    return []
