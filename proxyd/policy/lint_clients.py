"""What is to be said of a policy's clients: whether it is known who asks, and whether somebody else is taken for them.

Nothing here judges a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netaddr import IPAddress, IPSet

from proxyd.policy.address import Endpoint
from proxyd.policy.finding import remark, warning
from proxyd.policy.listen import UnixPath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.client import Client
    from proxyd.policy.finding import Finding
    from proxyd.policy.listen import Listen
    from proxyd.policy.model import Policy

_LOOPBACK: Final = (IPAddress("127.0.0.1"), IPAddress("::1"))
_WIDEST: Final = {4: 16, 6: 48}  # a prefix shorter than this is more than a site


def client_findings(policy: Policy) -> Iterator[Finding]:
    """All that is to be said of the clients (R2, R10)."""
    remote = _is_reached_from_beyond(policy.listen)
    for index, client in enumerate(policy.client):
        yield from _of_accounts(client)
        if remote:
            yield from _of_networks(client)
        yield from _of_order(client, policy.client[:index])
        if client.limits.unlimited and policy.limits.unlimited:
            yield remark(
                "limits.none",
                f"client {client.name} has no limits",
                "An agent that runs wild takes all there is, and floods whoever it reaches.",
                "write [client.limits] with requests_per_second and tunnels",
            )


def comes_from_beyond(client: Client) -> bool:
    """Whether it may be on another host: an account is one of this host's."""
    return not client.users and not (client.networks and all(each.is_loopback() for each in client.networks))


def _is_reached_from_beyond(listen: Listen) -> bool:
    """Whether other hosts may connect. Where systemd listens is not known here."""
    return any(
        not isinstance(place, UnixPath) and not (isinstance(place, Endpoint) and place.address.is_loopback())
        for _, place in listen.places()
    )


def _of_accounts(client: Client) -> Iterator[Finding]:
    """Which programs of this host it is."""
    local = any(each.is_loopback() or any(address in each for address in _LOOPBACK) for each in client.networks)
    if local and not client.users and client.credential is None:
        yield warning(
            "client.every_account",
            f"client {client.name} is every account on this host",
            "Any program here may use the proxy in the agent's name.",
            "write users = [ … ] or [client.credential], if others than the agent work here",
        )


def _of_networks(client: Client) -> Iterator[Finding]:
    """Which other hosts it is."""
    beyond = [network for network in client.networks if not network.is_loopback()]
    if not beyond or client.credential or client.users:
        return
    yield remark(
        "client.by_address",
        f"client {client.name} is known by its address alone: {', '.join(map(str, beyond))}",
        "Whoever gets an address of that network is this client.",
        "write [client.credential]",
    )
    for network in beyond:
        if network.prefixlen < _WIDEST[network.version]:
            yield warning(
                "client.wide",
                f"client {client.name}: networks: {network} is more than a site",
                "Strangers may be in it.",
                "narrow it to the agent's own network, or add [client.credential]",
            )


def _of_order(client: Client, earlier: tuple[Client, ...]) -> Iterator[Finding]:
    """Whether others are taken for it, because they come first."""
    before = [each for each in earlier if _asks_no_more(each, client)]
    taken = IPSet(network for each in before for network in each.networks)
    everywhere = any(not each.networks for each in before)
    if everywhere or (client.networks and IPSet(client.networks).issubset(taken)):
        yield warning(
            "client.never",
            f"client {client.name} is never met: whoever it is, is {' or '.join(each.name for each in before)} first",
            "What is written for it holds for nobody.",
            "write it before the wider one, or remove it",
        )


def _asks_no_more(earlier: Client, client: Client) -> bool:
    """Whether whoever meets the conditions of `client`, its networks aside, meets those of `earlier`."""
    users = not earlier.users or (bool(client.users) and set(client.users) <= set(earlier.users))
    return users and earlier.credential in (None, client.credential)
