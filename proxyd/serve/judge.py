"""The judge with a memory: what was decided under a snapshot is not decided again while that snapshot holds.

`decide` is pure, so that remembering changes nothing but the time it takes. A new snapshot (a new day, a new policy,
a new address of the host) is a new memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxyd.policy.verdict import Allow, Deny, NeedAddresses, decide

if TYPE_CHECKING:
    from proxyd.policy.address import Destination, Resolution
    from proxyd.policy.client import Client
    from proxyd.policy.snapshot import Snapshot

Verdict = Allow | Deny | NeedAddresses

MOST: Final = 4096
"""Verdicts remembered; then all are forgotten, which costs less than to know which was used last."""


class Judge:
    """Call it as `decide`."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._verdicts: dict[tuple[str, int, str, bool], tuple[Resolution | None, Verdict]] = {}

    def __call__(
        self, destination: Destination, client: Client | None, snapshot: Snapshot, found: Resolution | None = None
    ) -> Verdict:
        """What `decide` says. An answer of DNS counts as the same only if it is the very one that was judged."""
        if client is None:
            return decide(destination, client, snapshot, found)
        if snapshot is not self._snapshot or len(self._verdicts) >= MOST:
            self._snapshot = snapshot
            self._verdicts.clear()
        key = (destination.host, destination.port, client.name, found is None)
        judged, verdict = self._verdicts.get(key, (None, None))
        if verdict is None or judged is not found:
            verdict = decide(destination, client, snapshot, found)
            self._verdicts[key] = (found, verdict)
        return verdict
