"""What is to be said of a policy's rows: permits and allowlist entries that are wider, older or vaguer than need be.

Nothing here judges a request.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from proxyd.policy.address import Destination, bracketed, parse_host
from proxyd.policy.finding import remark, warning
from proxyd.policy.rows import holds
from proxyd.policy.snapshot import Snapshot
from proxyd.policy.special import is_localhost, metadata_name, reserved_name, special_address
from proxyd.policy.verdict import Deny, Reason, decide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from proxyd.policy.finding import Finding
    from proxyd.policy.model import Policy
    from proxyd.policy.rows import AllowRow, DenyRow, PermitRow

GATEWAY_PORT: Final = 18789
"""OpenClaw's Gateway, unless it is told otherwise (docs.openclaw.ai, "Gateway configuration")."""

CONTROL_PORTS: Final = {2375: "Docker", 2376: "Docker", 2379: "etcd", 6443: "Kubernetes", 10250: "the kubelet"}
"""What listens there by default, and runs programs on its host for whoever may ask (their own documentation)."""

SHARED: Final = frozenset(
    {
        *(
            "compute-1.amazonaws.com",
            "compute.amazonaws.com",
            "elb.amazonaws.com",
            "execute-api.amazonaws.com",
            "s3.amazonaws.com",
        ),
        *("cloudfront.net", "elasticbeanstalk.com", "lambda-url.on.aws", "backblazeb2.com", "digitaloceanspaces.com"),
        *("azureedge.net", "azurefd.net", "azurewebsites.net", "blob.core.windows.net", "cloudapp.azure.com"),
        *("web.core.windows.net", "appspot.com", "cloudfunctions.net", "firebaseapp.com", "run.app", "web.app"),
        *("storage.googleapis.com", "deno.dev", "fly.dev", "glitch.me", "hf.space", "herokuapp.com", "netlify.app"),
        *("onrender.com", "pages.dev", "r2.dev", "replit.dev", "supabase.co", "up.railway.app", "vercel.app"),
        *("workers.dev", "github.io", "githubusercontent.com", "gitlab.io", "blogspot.com", "myshopify.com"),
        *("wordpress.com", "duckdns.org", "loca.lt", "ngrok-free.app", "ngrok.app", "ngrok.dev", "ngrok.io"),
        *("nip.io", "sslip.io", "trycloudflare.com", "oast.fun", "oast.pro", "pipedream.net", "webhook.site"),
    }
)
"""Suffixes below which anybody can have a host (their vendors' pages; publicsuffix.org, private section)."""

BY_PATH: Final = frozenset(
    {
        *("s3.amazonaws.com", "storage.googleapis.com", "0x0.st", "file.io", "hastebin.com", "pastebin.com"),
        *("paste.rs", "transfer.sh", "webhook.site"),
    }
)
"""Hosts where anybody can leave something, and only the path says whose it is: proxyd does not see that."""

_REGISTRY: Final = re.compile(r"(?:ac|co|com|edu|gob|gov|ne|net|nom|or|org)\.[a-z]{2}|[^.]+")  # publicsuffix.org
_REGION: Final = re.compile(r"(?<![^.])[a-z]{2}(?:-[a-z]+)+-[0-9]\.")  # a label, as AWS has them
_SOON: Final = timedelta(days=14)
_FEW_PORTS: Final = 4
_MANY_PORTS: Final = 100
_HTTP: Final = 80
_UNEXPLAINED: Final = re.compile(r"\bsay why\b|\A\W*(?:todo|tbd|fixme|xxx)?\W*\Z", re.IGNORECASE)


def row_findings(policy: Policy, today: date) -> Iterator[Finding]:
    """All that is to be said of the rows, the clients' own too."""
    for permit in policy.every_permit:
        yield from _of_permit(permit, today)
    for allow in policy.every_allow:
        yield from _of_allow(allow)
    yield from _of_vain_allows(policy, today)
    if any(each.destinations.over(policy.destinations).default == "allow" for each in policy.client):
        yield from _of_denies(policy)
    rows: tuple[PermitRow | AllowRow | DenyRow, ...] = (*policy.every_permit, *policy.every_allow, *policy.every_deny)
    for row in rows:
        if _UNEXPLAINED.search(row.reason):
            yield warning(
                "row.unexplained",
                f"{row.where}: reason: nobody has said why",
                "Who reviews it later can neither keep nor remove it.",
                "write what it is for",
            )


def _of_permit(permit: PermitRow, today: date) -> Iterator[Finding]:
    """The only way to a special-purpose address should be as narrow as it can be (R9)."""
    wide = [str(network) for network in permit.networks if network.size > 1]
    if wide and parse_host(bracketed(permit.host))[1] is None and not is_localhost(permit.host):
        yield warning(
            "permit.wide",
            f"{permit.where}: {permit.host} may be any address of {', '.join(wide)}",
            "Who answers for the name chooses among them.",
            "write the addresses that it has, each with /32 or /128",
        )
    if sum(map(len, permit.ports)) > _FEW_PORTS:
        yield warning(
            "permit.many_ports",
            f"{permit.where}: {permit.host} is open on {sum(map(len, permit.ports))} ports",
            "Whatever else listens there is open, too.",
            "write the ports of the one service that it is for",
        )
    yield from _of_its_ports(permit)
    yield from _of_its_end(permit, today)


def _of_its_ports(permit: PermitRow) -> Iterator[Finding]:
    """What an agent must not command."""
    if holds(permit.ports, GATEWAY_PORT):
        yield warning(
            "permit.gateway",
            f"{permit.where}: {permit.host} port {GATEWAY_PORT} is OpenClaw's own Gateway",
            "An agent could ask it in its user's name; where it trusts proxy headers, a tunnel forges them.",
            "remove it; OpenClaw reaches its Gateway without a proxy",
        )
    for port, what in CONTROL_PORTS.items():
        if holds(permit.ports, port):
            yield warning(
                "permit.control_port",
                f"{permit.where}: {permit.host} port {port} is where {what} takes orders",
                "Whoever may give them has that host, and what it can reach.",
                "remove it, or write the port of the service that is needed",
            )


def _of_its_end(permit: PermitRow, today: date) -> Iterator[Finding]:
    if permit.expires is None:
        yield remark(
            "permit.no_end",
            f"{permit.where}: {permit.host} is permitted for good",
            "Exceptions outlive what they were made for.",
            f"write expires = {today + timedelta(days=90)}, and renew it then",
        )
    elif permit.expires < today:
        yield warning(
            "permit.expired",
            f"{permit.where}: {permit.host} was permitted until {permit.expires}",
            "It opens nothing any more.",
            "remove it, or renew it",
        )
    elif permit.expires - today <= _SOON:
        yield remark(
            "permit.ends_soon",
            f"{permit.where}: {permit.host} is permitted until {permit.expires}",
            "What it is for stops working then.",
            "renew it, if it is still needed",
        )


def _of_allow(allow: AllowRow) -> Iterator[Finding]:
    for host in allow.hosts:
        if _is_anybodys(host) and not _is_special(host):
            yield warning(
                "allow.shared",
                f"{allow.where}: {host} is open to what anybody puts there",
                "What the agent knows can be carried there; an allowlist with it keeps nobody in.",
                "write the hosts that are yours",
            )
    if sum(map(len, allow.ports)) > _MANY_PORTS:
        yield warning(
            "allow.many_ports",
            f"{allow.where}: {sum(map(len, allow.ports))} ports",
            "Services that nobody thought of are open, too.",
            "write the ports that are needed, as 443",
        )
    if holds(allow.ports, _HTTP):
        yield remark(
            "allow.clear",
            f"{allow.where}: port {_HTTP} is open",
            "What goes there can be read and changed on the way.",
            "leave it out where HTTPS will do",
        )


def _of_vain_allows(policy: Policy, today: date) -> Iterator[Finding]:
    """The allowlist opens no special-purpose address, and no name for local use: a permit does, or nothing."""
    snapshot = Snapshot.of(policy, today)
    for row in policy.every_allow:
        for host in filter(_is_special, row.hosts):
            refused = _refused_in_any_case(host, row, snapshot)
            if refused is not None:
                locked = refused.reason in (Reason.NAME_LOCKED, Reason.ADDRESS_LOCKED)
                permit = "write a [[permit]] for each host" if host.startswith("*.") else "write a [[permit]] for it"
                yield warning(
                    "allow.vain",
                    f"{row.where}: {host} stays refused ({refused.reason}, by {refused.rule})",
                    "An allowlist opens nothing that is special-purpose, and who reads it may think that it does.",
                    "nothing opens it, remove it" if locked else f"{permit}, or remove it",
                )


def _is_special(pattern: str) -> bool:
    """Whether a built-in table has the host, or all that the pattern stands for."""
    address = _named_by(pattern, 1).address
    rows = (metadata_name(pattern), reserved_name(pattern)) if address is None else (special_address(address),)
    return any(rows)


def _refused_in_any_case(pattern: str, row: AllowRow, snapshot: Snapshot) -> Deny | None:
    """Why everybody is refused it, on every port of the row that is open."""
    users = [client for client in snapshot.policy.client if row in snapshot.rules(client).allow]
    verdicts = [decide(_named_by(pattern, span.start), client, snapshot) for span in row.ports for client in users]
    refused = [each for each in verdicts if isinstance(each, Deny) and each.reason is not Reason.PORT_DENIED]
    return refused[0] if refused and len(refused) == len(verdicts) else None


def _named_by(pattern: str, port: int) -> Destination:
    """That host; for a pattern, one below it that no row names."""
    name, address = (pattern, None) if pattern.startswith("*.") else parse_host(bracketed(pattern))
    return Destination(name, port, address)


def _is_anybodys(host: str) -> bool:
    """Whether those that one host pattern stands for are not all in one hand."""
    suffix = _REGION.sub("", host.removeprefix("*."))
    if not host.startswith("*."):
        return suffix in BY_PATH
    above_shared = any(each == suffix or each.endswith(f".{suffix}") for each in SHARED)
    return above_shared or _REGISTRY.fullmatch(suffix) is not None


def _of_denies(policy: Policy) -> Iterator[Finding]:
    """A name is refused, or what is below it: one is easily taken for both."""
    refused = {host for row in policy.every_deny for host in row.hosts}
    for row in policy.every_deny:
        for host in row.hosts:
            other = host.removeprefix("*.") if host.startswith("*.") else f"*.{host}"
            if _is_a_domain(host.removeprefix("*."), host) and not _is_within(other, refused):
                yield remark(
                    "deny.half",
                    f"{row.where}: {host} is refused, and {other} is not",
                    "*.suffix is any depth below, and not the suffix itself.",
                    f'write "{other}" beside it, if that is meant, too',
                )


def _is_a_domain(name: str, host: str) -> bool:
    """Whether it is one that somebody holds whole. What is below a longer name has seldom names of its own."""
    registered = _REGISTRY.fullmatch(name) is None and reserved_name(name) is None
    return registered and (host != name or _REGISTRY.fullmatch(name.partition(".")[2]) is not None)


def _is_within(pattern: str, refused: set[str]) -> bool:
    """Whether all that a host pattern stands for is refused by name."""
    labels = pattern.split(".")
    return any(".".join(("*", *labels[cut:])) in refused for cut in range(1, len(labels))) or pattern in refused
