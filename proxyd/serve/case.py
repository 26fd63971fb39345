"""A case that was decided: who asked for what, and what was known of it. Whether it would be decided so again.

Policies change while connections live: what the new one would refuse is cut. Nothing here judges; `decide` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxyd.policy.client import Egress
from proxyd.policy.verdict import Allow

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from proxyd.policy.address import Destination, Resolution
    from proxyd.policy.client import Credential
    from proxyd.policy.model import Parent
    from proxyd.policy.snapshot import Peer, Snapshot
    from proxyd.serve.judge import Verdict


@dataclass(frozen=True, slots=True)
class Case:
    """proven: the credentials that the peer has shown to know. found: what the host resolved to, if it had to.

    parent: the proxy through which its connection leaves, if there is one. egress: where it leaves from.
    """

    peer: Peer
    proven: Container[Credential]
    destination: Destination
    found: Resolution | None
    parent: Parent | None = None
    egress: Egress = field(default_factory=Egress)

    def stands(self, snapshot: Snapshot, judge: Callable[..., Verdict]) -> bool:
        """Whether `judge` would allow it under `snapshot`, to whomever the peer is by then, and to leave so."""
        client = snapshot.identify(self.peer, self.proven)
        verdict = judge(self.destination, client, snapshot, self.found)
        same_way = snapshot.policy.parent == self.parent
        return same_way and isinstance(verdict, Allow) and verdict.egress == self.egress
