"""A case stands as long as it would be decided so again: by that policy, for whom the peer is by then (ATTACKS 7.7)."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import pytest
from netaddr import IPAddress, IPNetwork

from proxyd.policy.address import Destination, Resolution
from proxyd.policy.password import new_hash
from proxyd.policy.snapshot import Own, Peer, Snapshot
from proxyd.policy.verdict import decide
from proxyd.serve.case import Case
from tests.serve.scene import NOW, PERMIT_LOCAL, PUBLIC, policy

if TYPE_CHECKING:
    from proxyd.policy.client import Credential

LOCAL: Final = Peer(IPAddress("127.0.0.1"), 1001)
EXAMPLE: Final = Destination("example.com", 443)
FOUND: Final = Resolution((PUBLIC,))
HASH: Final = str(new_hash("hunter2", b"0123456789abcdef"))


def snapshot(more: str = "", *, days: int = 0, **said: Any) -> Snapshot:  # noqa: ANN401 - as Snapshot.of has it
    """A policy, on a day."""
    return Snapshot.of(policy(more), NOW.date() + dt.timedelta(days), **said)


def deny(**key: str) -> str:
    """A [[deny]] row."""
    ((name, value),) = key.items()
    return f'[[deny]]\nname = "new"\nreason = "a test"\n{name} = ["{value}"]\n'


def case(destination: Destination = EXAMPLE, found: Resolution | None = FOUND, peer: Peer = LOCAL) -> Case:
    """Somebody's, who proved nothing."""
    return Case(peer, frozenset(), destination, found)


@pytest.mark.parametrize(
    ("decided", "now", "stands"),
    [
        pytest.param(case(), snapshot(), True, id="same"),
        pytest.param(case(), snapshot(deny(hosts="other.example")), True, id="another-host-is-denied"),
        pytest.param(case(), snapshot(deny(hosts="example.com")), False, id="host-is-denied"),
        pytest.param(case(), snapshot(deny(networks="93.184.216.0/24")), False, id="address-is-denied"),
        pytest.param(case(), snapshot(own=Own(frozenset({443}), frozenset({IPNetwork(PUBLIC)}))), False, id="is-ours"),
        pytest.param(case(peer=Peer(IPAddress("10.0.0.1"))), snapshot(), False, id="peer-is-nobody"),
        pytest.param(case(peer=Peer(None)), snapshot(), False, id="peer-has-no-address"),
        pytest.param(
            case(Destination("93.184.216.34", 443, PUBLIC), None), snapshot(), True, id="address-needs-no-lookup"
        ),
        pytest.param(case(found=None), snapshot(), False, id="now-it-would-have-to-be-looked-up"),
    ],
)
def test_a_case_stands_if_it_would_be_decided_so_again(decided: Case, now: Snapshot, *, stands: bool) -> None:
    """What would need an address that was never asked for is not allowed: nobody asks now (R12)."""
    assert decided.stands(now, decide) is stands


@pytest.mark.parametrize(("days", "stands"), [(0, True), (1, False)])
def test_a_permit_ends_with_its_day(days: int, *, stands: bool) -> None:
    """And what it opened is cut at 00:00 UTC."""
    decided = case(Destination("ui.example", 8080), Resolution((IPAddress("10.0.0.5"),)))
    assert decided.stands(snapshot(f"{PERMIT_LOCAL}expires = 2026-08-01", days=days), decide) is stands


def test_a_peer_that_is_another_client_by_now_is_judged_as_that_one() -> None:
    """Whoever he is, it must be allowed to him."""
    allowed = '[[client.deny]]\nname = "own"\nreason = "a test"\nhosts = ["example.com"]\n'
    by_account = f'users = [1001]\n{allowed}[[client]]\nname = "second"\nnetworks = ["127.0.0.0/8"]\n'
    decided = case()
    assert not decided.stands(snapshot(by_account), decide), "he is the first, to whom it is denied"
    other = case(peer=Peer(IPAddress("127.0.0.1"), 1002))
    assert other.stands(snapshot(by_account), decide), "the first has another account; he is the second"


def credential(password: str = HASH) -> tuple[str, Credential]:
    """A policy that wants one, and the credential itself."""
    text = f'[client.credential]\nuser = "agent"\npassword = "{password}"\n'
    (client,) = policy(text).client
    assert client.credential is not None
    return text, client.credential


def test_who_proved_what_is_no_longer_right_is_nobody() -> None:
    """R2: a password is changed because somebody had it who should not."""
    text, proven = credential()
    other, _ = credential(str(new_hash("hunter3", b"0123456789abcdef")))
    decided = Case(LOCAL, frozenset({proven}), EXAMPLE, FOUND)
    assert decided.stands(snapshot(text), decide)
    assert not decided.stands(snapshot(other), decide)
    assert decided.stands(snapshot(), decide), "nothing is wanted of him any longer"
    assert not Case(LOCAL, frozenset(), EXAMPLE, FOUND).stands(snapshot(text), decide)


def test_r10_a_connection_that_leaves_from_elsewhere_than_the_policy_has_it_does_not_stand() -> None:
    """README, "Whose traffic": never in another way."""
    here, there = (snapshot(f'[client.egress]\naddresses = ["{each}"]\n') for each in ("192.0.2.8", "192.0.2.9"))
    decided = Case(LOCAL, frozenset(), EXAMPLE, FOUND, egress=here.policy.client[0].egress)
    assert decided.stands(here, decide)
    assert not decided.stands(there, decide)
    assert not decided.stands(snapshot(), decide)
    assert not case().stands(here, decide)


def test_r10_a_connection_that_leaves_in_another_way_than_the_policy_has_it_does_not_stand() -> None:
    """DESIGN, "Through a parent proxy": never otherwise; nor through a parent that is no longer one."""
    parent = '[parent]\naddress = "192.0.2.7:3128"\n'
    direct, through = snapshot(""), snapshot(parent)
    decided = Case(LOCAL, frozenset(), EXAMPLE, FOUND)
    assert decided.stands(direct, decide)
    assert not decided.stands(through, decide)
    decided = Case(LOCAL, frozenset(), EXAMPLE, FOUND, through.policy.parent)
    assert decided.stands(through, decide)
    assert not decided.stands(direct, decide)
    assert not decided.stands(snapshot(parent.replace("192.0.2.7", "192.0.2.8")), decide)
