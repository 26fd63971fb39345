"""Who asks (R2): the first entry that matches, by what the kernel says and what this request shows.

The same through whole exchanges is in test_exchange_on_credentials.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import pytest
from netaddr import IPAddress

from proxyd.http.credential import Shown
from proxyd.policy.client import Client, Credential
from proxyd.policy.password import parse_hash
from proxyd.policy.snapshot import Peer, Snapshot
from proxyd.policy.verdict import Reason
from proxyd.serve.identify import identify
from proxyd.serve.refused import Refused
from proxyd.serve.visit import Visit
from tests.policy.worlds import HASH, TODAY, nets, policy
from tests.serve.scene import in_virtual_time

if TYPE_CHECKING:
    from proxyd.serve.keyring import Keyring

LOOPBACK: Final = nets("127.0.0.0/8")
ALICE, BOB = (Credential(user=user, password=parse_hash(HASH)) for user in ("alice", "bob"))


@dataclass
class Ring:
    """In the place of the keyring: a password is right if it is the user's name."""

    asked: list[str] = field(default_factory=list)

    async def proves(self, shown: Shown, credential: Credential, _peer: Peer) -> bool:
        """Whether it is."""
        self.asked.append(credential.user)
        return shown.user == shown.password == credential.user


async def who(shown: Shown | None, *clients: Client, visit: Visit | None = None, ring: Ring | None = None) -> Client:
    """The client that this is."""
    snapshot = Snapshot.of(policy(client=clients), TODAY)
    return await identify(
        shown, visit or Visit(Peer(IPAddress("127.0.0.1"))), snapshot, cast("Keyring", ring or Ring())
    )


ANYBODY: Final = Client(name="anybody", networks=LOOPBACK)
ELSEWHERE: Final = Client(name="elsewhere", networks=nets("10.0.0.0/8"))
KNOWS_ALICE: Final = Client(name="a", networks=LOOPBACK, credential=ALICE)
KNOWS_BOB: Final = Client(name="b", networks=LOOPBACK, credential=BOB)


@in_virtual_time
async def test_the_first_that_matches_is_the_client() -> None:
    assert await who(None, ELSEWHERE, ANYBODY, KNOWS_ALICE) == ANYBODY
    assert await who(Shown("bob", "bob"), KNOWS_ALICE, KNOWS_BOB, ANYBODY) == KNOWS_BOB
    assert await who(Shown("bob", "wrong"), KNOWS_ALICE, KNOWS_BOB, ANYBODY) == ANYBODY


@in_virtual_time
async def test_nobody_is_asked_for_a_password_who_needs_none() -> None:
    ring = Ring()
    await who(Shown("alice", "alice"), ANYBODY, KNOWS_ALICE, ring=ring)
    assert ring.asked == []


@pytest.mark.parametrize("shown", [None, Shown("alice", "wrong"), Shown("bob", "alice")])
@in_virtual_time
async def test_where_a_credential_could_help_that_is_said_and_the_connection_goes_on(shown: Shown | None) -> None:
    with pytest.raises(Refused) as refused:
        await who(shown, ELSEWHERE, KNOWS_ALICE)
    assert (refused.value.reason, refused.value.close) == (Reason.CREDENTIAL_REQUIRED, False)
    assert refused.value.deny is not None


@in_virtual_time
async def test_where_none_could_help_the_connection_ends() -> None:
    with pytest.raises(Refused) as refused:
        await who(Shown("alice", "alice"), ELSEWHERE)
    assert (refused.value.reason, refused.value.close) == (Reason.CLIENT_UNKNOWN, True)


@in_virtual_time
async def test_attack_4_10_what_one_request_has_proven_counts_for_no_other() -> None:
    visit = Visit(Peer(IPAddress("127.0.0.1")))
    assert await who(Shown("alice", "alice"), KNOWS_ALICE, ANYBODY, visit=visit) == KNOWS_ALICE
    assert visit.proven == {ALICE}
    assert await who(None, KNOWS_ALICE, ANYBODY, visit=visit) == ANYBODY
    assert visit.proven == frozenset()
