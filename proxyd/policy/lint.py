"""What a policy says that its author may not have meant. It is no error, and is said at the start and by `check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netaddr import IPAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy

_LOOPBACK: Final = (IPAddress("127.0.0.1"), IPAddress("::1"))


def warnings(policy: Policy) -> Iterator[str]:
    """A line for each."""
    yield from _loud(policy)
    for client in policy.client:
        if _is_every_account(client):
            yield (
                f"client {client.name} is every account on this host; write users = [ … ] or [client.credential], "
                "if others than the agent work here"
            )


def _loud(policy: Policy) -> Iterator[str]:
    """What weakens the judgement on purpose, or changes whom it believes."""
    dns = policy.dns
    for network in dns.dangerously_allow_fake_ip:
        yield (
            f"dns.dangerously_allow_fake_ip: {network}: where names resolve into it, the VPN client decides where "
            "connections lead, and nothing here judges that"
        )
    for network in dns.nat64:
        yield f"dns.nat64: {network} is judged by the IPv4 address inside; that must be how this network translates it"
    if dns.hosts_file:
        yield f"dns.hosts_file: who may write {dns.hosts_file} decides what its names resolve to"
    for zone in dns.zone:
        yield f"dns.zone {zone.suffix}: {', '.join(map(str, zone.servers))} decide what names below it resolve to"


def _is_every_account(client: Client) -> bool:
    local = any(
        network.is_loopback() or any(address in network for address in _LOOPBACK) for network in client.networks
    )
    return local and not client.users and client.credential is None
