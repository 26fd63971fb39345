"""A visit's place is left exactly once: by the session, or by whom it was handed on to."""

from __future__ import annotations

from netaddr import IPAddress

from proxyd.policy.snapshot import Peer
from proxyd.serve.ledger import Place
from proxyd.serve.visit import Visit

PEER = Peer(IPAddress("127.0.0.1"))


def counted() -> tuple[Place, list[str]]:
    """A place, and how often it was left."""
    left: list[str] = []
    return Place(lambda: left.append("left")), left


def test_a_place_is_left_once() -> None:
    """Twice would let one more in than there may be, each time."""
    place, left = counted()
    visit = Visit(PEER, place)
    assert left == []
    visit.leave()
    visit.leave()
    assert left == ["left"]


def test_a_place_that_was_handed_on_is_left_by_whom_it_was_handed_on_to() -> None:
    """A tunnel outlives its session, and its connection is one of the client's still."""
    place, left = counted()
    visit = Visit(PEER, place)
    assert visit.hand_on() is place
    visit.leave()
    assert left == []
    assert visit.hand_on() is None, "it is one place"
    place.leave()
    assert left == ["left"]


def test_who_makes_room_leaves_the_place_at_once_and_is_known_to_be_there_until_the_end() -> None:
    """ATTACKS 8: or there would be more connections than anybody counts."""
    place, left = counted()
    visit = Visit(PEER, place)
    assert not visit.displaced
    visit.make_room(lambda: left.append("gone"))
    assert (left, visit.displaced) == (["left"], True)
    visit.leave()
    visit.leave()
    assert left == ["left", "gone"]


def test_who_has_no_place_leaves_none() -> None:
    """Strangers, and those who are turned away."""
    visit = Visit(PEER)
    visit.leave()
    assert visit.hand_on() is None
    assert visit.proven == frozenset(), "nobody has proven anything by coming"
