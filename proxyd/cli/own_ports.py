"""A judgement, and what the policy cannot say of it: ports that proxyd has from systemd, or that the system chooses.

The daemon knows them all, and is reached by nobody through itself (ATTACKS 2.17). Nothing is judged here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxyd.cli.judgement import judged
from proxyd.policy.address import Endpoint, parse_url
from proxyd.policy.listen import Inherited
from proxyd.policy.verdict import Deny, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.cli.judgement import Judgement
    from proxyd.policy.address import Resolution
    from proxyd.policy.client import Client
    from proxyd.policy.model import Policy
    from proxyd.policy.snapshot import Snapshot


def judged_but_for_unknown_ports(url: str, client: Client, snapshot: Snapshot, found: Resolution | None) -> Judgement:
    """How it is judged; and of what is allowed, under which condition only the daemon would refuse it."""
    judgement = judged(url, client, snapshot, found)
    if judgement.verdict != "allow":
        return judgement
    destination = parse_url(url)
    ours = replace(snapshot.own, ports=snapshot.own.ports | {destination.port})
    if not isinstance(decide(destination, client, replace(snapshot, own=ours), found), Deny):
        return judgement
    unknown = tuple(_unknown(snapshot.policy, destination.port))
    return replace(judgement, conditions=(*judgement.conditions, *unknown))


def _unknown(policy: Policy, port: int) -> Iterator[str]:
    """How the port may be one of proxyd's own, for all that the policy says."""
    places = [*policy.listen.places(), ("admin.listen", policy.admin.listen)]
    for where, place in places:
        if isinstance(place, Inherited):
            yield f"unless systemd hands over port {port} ({where}): then it is proxyd itself, which nothing opens"
        elif isinstance(place, Endpoint) and not place.port:
            yield f"unless the system chooses port {port} ({where}): then it is proxyd itself, which nothing opens"
