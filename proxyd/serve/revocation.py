"""What a new policy would refuse is cut: tunnels, exchanges under way, and connections of whom it knows no more.

New is also the policy of a new day, on which a permit has ended, and of a host that was given another address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from proxyd.serve.trail import Trail

if TYPE_CHECKING:
    from proxyd.net.tunnels import Owner
    from proxyd.policy.snapshot import Peer
    from proxyd.serve.seams import Seams

LOOK_SECONDS: Final = 1.0  # between two looks at whether the policy of the moment is another one


def revoke(seams: Seams) -> int:
    """Cut what is not allowed any longer: how many tunnels and exchanges that were."""
    snapshot = seams.snapshot()

    def falls(owner: Owner) -> bool:
        return isinstance(owner, Trail) and owner.case is not None and not owner.case.stands(snapshot, seams.judge)

    def is_nobody(peer: Peer) -> bool:
        return next(snapshot.candidates(peer), None) is None

    cut = 0 if seams.tunnels is None else seams.tunnels.revoke(falls)
    for exchange in [each for each in seams.live if falls(each.trail)]:
        exchange.revoke()
        cut += 1
    seams.drain.dismiss(is_nobody)
    return cut


async def revoke_forever(seams: Seams) -> None:
    """See to it whenever the policy of the moment is another one than before."""
    seen = seams.snapshot()
    while True:
        await trio.sleep(LOOK_SECONDS)
        if (snapshot := seams.snapshot()) is not seen:
            seen = snapshot
            revoke(seams)
