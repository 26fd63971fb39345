"""What a policy says that its author may not have meant, or may have forgotten: findings, and no errors.

`proxyd audit` tells them all; the start and `check` tell those that are more than a remark. What is to be said of
clients is in `lint_clients`, and of rows in `lint_rows`. Nothing here looks at the host: `proxyd audit` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.policy.address import Endpoint
from proxyd.policy.contradictions import is_private
from proxyd.policy.finding import Severity, critical, remark, warning
from proxyd.policy.lint_clients import client_findings, comes_from_beyond
from proxyd.policy.lint_rows import row_findings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from proxyd.policy.client import Destinations
    from proxyd.policy.dns import Server
    from proxyd.policy.finding import Finding
    from proxyd.policy.model import Policy


def warnings(policy: Policy, today: date) -> Iterator[str]:
    """A line for each finding that is more than a remark."""
    yield from (str(each) for each in findings(policy, today) if each.severity is not Severity.REMARK)


def findings(policy: Policy, today: date) -> Iterator[Finding]:
    """All that is to be said of a policy. today: the day (UTC) by which permits end."""
    yield from _of_listeners(policy)
    yield from client_findings(policy)
    yield from _of_destinations(policy)
    yield from _of_names(policy)
    yield from _of_parent(policy)
    yield from row_findings(policy, today)
    if policy.audit.dangerously_prefer_availability:
        yield warning(
            "audit.dangerously_prefer_availability",
            "audit.dangerously_prefer_availability: proxyd serves on when nothing can be recorded",
            "Whoever fills the disk acts unseen.",
            "remove it",
        )
    if not policy.test:
        yield remark(
            "test.none",
            "the policy has no [[test]]",
            "Tests hold verdicts that must not change, with every load and reload.",
            "write one for what must be denied, and one for what must work",
        )


def _of_listeners(policy: Policy) -> Iterator[Finding]:
    """Who can come, and who can listen on the way (R1)."""
    beyond = [
        (where, place)
        for where, place in policy.listen.places()
        if isinstance(place, Endpoint) and not place.address.is_loopback()
    ]
    public = [(where, place) for where, place in beyond if not is_private(place.address)]
    for where, place in public:
        yield critical(
            "listen.public",
            f"{where}: {place} is open to more than a private network",
            "Everybody who reaches it is kept off by [[client]] alone.",
            "write an address of loopback or of a private network, without dangerously_public_listener",
        )
    if policy.listen.dangerously_public_listener and not public:
        yield warning(
            "listen.dangerously_public_listener",
            "listen.dangerously_public_listener: no listener here needs it",
            "It lets pass what would be an error: a public listener, and a client that is everybody.",
            "remove it, unless what systemd hands over is public",
        )
    for where, place in beyond:
        if where.startswith("listen.http[") and any(
            each.credential and comes_from_beyond(each) for each in policy.client
        ):
            yield warning(
                "listen.clear_credentials",
                f"{where}: {place} takes credentials over plain HTTP",
                "Whoever can listen on that network learns the password.",
                "write it under https, with a certificate",
            )


def _of_destinations(policy: Policy) -> Iterator[Finding]:
    """What holds where no row does."""
    common = [each for each in policy.client if each.destinations.mode is None]
    if any(_reports(each.destinations.over(policy.destinations)) for each in common):
        yield _report_mode("destinations")
    for client in policy.client:
        own = client.destinations.over(policy.destinations)
        where = f"client {client.name}: destinations"
        if client.destinations.mode is not None and _reports(own):
            yield _report_mode(where)
        if own.default == "allow":
            yield remark(
                "destinations.default_allow",
                f'{where}.default: "allow" lets it reach all of the public internet',
                "What the agent knows can be carried anywhere.",
                "run in report mode with default deny, then `proxyd learn` an allowlist",
            )
        elif own.tls_name == "off":
            yield remark(
                "destinations.tls_name_off",
                f'{where}.tls_name: "off"',
                "A tunnel to an allowed host may lead to another one behind the same front.",
                'write tls_name = "match"',
            )


def _reports(destinations: Destinations) -> bool:
    """Whether a miss of the allowlist is let through: where all is allowed there is none."""
    return destinations.mode == "report" and destinations.default == "deny"


def _report_mode(where: str) -> Finding:
    return warning(
        "destinations.report_mode",
        f"{where}.mode: report mode: the allowlist refuses nothing",
        "It is for learning what an agent needs, and then over.",
        'write mode = "enforce"',
    )


def _of_names(policy: Policy) -> Iterator[Finding]:
    """Who decides what names lead to. What the policy refuses stays refused, whatever they say."""
    dns = policy.dns
    for network in dns.dangerously_allow_fake_ip:
        yield critical(
            "dns.dangerously_allow_fake_ip",
            f"dns.dangerously_allow_fake_ip: where names in {network} lead is for the VPN client to decide",
            "Nothing here judges that.",
            "remove it once that VPN client is gone",
        )
    for prefix in dns.nat64:
        yield remark(
            "dns.nat64",
            f"dns.nat64: {prefix} is judged by the IPv4 address inside",
            "That must be how this network translates it.",
            "remove it where there is no such translator",
        )
    if dns.hosts_file:
        yield remark(
            "dns.hosts_file",
            f"dns.hosts_file: who may write {dns.hosts_file} decides what its names resolve to",
            "Only what is denied by address or name is safe from them.",
            "keep it root's",
        )
    for zone in dns.zone:
        servers = ", ".join(map(str, zone.servers))
        yield remark(
            "dns.zone",
            f"dns.zone {zone.suffix}: {servers} decide what names below it resolve to",
            "They learn them, too.",
            "name servers that you run",
        )
        yield from _in_the_clear(f"dns.zone {zone.suffix}", zone.servers)
    yield from _in_the_clear("dns.servers", dns.servers)


def _in_the_clear(where: str, servers: tuple[Server, ...]) -> Iterator[Finding]:
    for server in servers:
        address = server.endpoint.address
        if server.protocol != "tls" and not is_private(address) and not address.is_loopback():
            yield remark(
                "dns.clear",
                f"{where}: {server} is asked in the clear",
                "Whoever is on the way learns which hosts are asked for, and can answer in its place.",
                'write "tls://ADDRESS#NAME", or ask a resolver on this host',
            )


def _of_parent(policy: Policy) -> Iterator[Finding]:
    parent = policy.parent
    if parent is not None and parent.credential and not parent.address.address.is_loopback():
        yield warning(
            "parent.clear_credential",
            f"parent.credential_file: is shown to {parent.address} over plain HTTP",
            "Whoever can listen on the way learns it.",
            "let this host be known by its address there, or put a TLS tunnel between the two",
        )
