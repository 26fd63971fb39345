"""Who asks: the first client of the policy, by what the kernel says of the connection and this request shows.

Each request is identified anew: what one of a connection has proven counts for no other (ATTACKS 4.10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.policy.verdict import Deny, Reason
from proxyd.serve.refused import Refused

if TYPE_CHECKING:
    from proxyd.http.credential import Shown
    from proxyd.policy.client import Client
    from proxyd.policy.snapshot import Snapshot
    from proxyd.serve.keyring import Keyring
    from proxyd.serve.visit import Visit


async def identify(shown: Shown | None, visit: Visit, snapshot: Snapshot, keyring: Keyring) -> Client:
    """The client; what it has proven is noted in `visit`. Raises Refused: it says whether a credential could help."""
    visit.proven = frozenset()
    reason = Reason.CLIENT_UNKNOWN
    for each in snapshot.candidates(visit.peer):
        if each.credential is None:
            return each
        if shown is not None and await keyring.proves(shown, each.credential, visit.peer):
            visit.proven = frozenset((each.credential,))
            return each
        reason = Reason.CREDENTIAL_REQUIRED
    raise Refused(reason, Deny(reason, "client"), close=reason is Reason.CLIENT_UNKNOWN)
