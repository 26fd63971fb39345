"""Who is which client before a change and after it: every way that some peer goes, and no other (R2, R8)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from netaddr import IPNetwork

from proxyd.policy.address import Endpoint, parse_address
from proxyd.policy.client import Client, Credential
from proxyd.policy.listen import Inherited, Listen, UnixPath
from proxyd.policy.peers import Move, has_peers_without_address, moves
from proxyd.policy.snapshot import Snapshot
from tests.policy.worlds import TODAY, nets, policy

BOB: Final = Credential(user="bob", file="x")
ONE: Final = Client(name="one", networks=nets("127.0.0.1/32"))
ALL: Final = Client(name="all", networks=nets("127.0.0.0/8"))
UNIX: Final = Listen(http=(UnixPath("/run/p.sock"),))


def ways(old: tuple[Client, ...], new: tuple[Client, ...], listen: Listen | None = None) -> set[tuple[str | None, ...]]:
    """From whom to whom."""
    before, after = (
        Snapshot.of(replace(policy(), client=each, listen=listen or Listen()), TODAY) for each in (old, new)
    )
    return {(each.before, each.after) for each in moves(before, after)}


def test_where_no_condition_changes_everybody_stays_who_he_is() -> None:
    assert ways((ONE, ALL), (ONE, replace(ALL, deny=()))) == {("one", "one"), ("all", "all")}


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ((ALL,), {("one", "all"), ("all", "all"), (None, None)}),
        ((ONE,), {("one", "one"), ("all", None), (None, None)}),
        ((ALL, ONE), {("one", "all"), ("all", "all"), (None, None)}),
        (
            (replace(ONE, users=(7,)), ALL),
            {("one", "one"), ("one", "all"), ("one", None), ("all", "all"), (None, None)},
        ),
        ((replace(ONE, credential=BOB), ALL), {("one", "one"), ("one", "all"), ("all", "all"), (None, None)}),
        (
            (replace(ONE, networks=nets("127.0.0.1/32", "::1/128")), ALL),
            {("one", "one"), ("all", "all"), (None, "one"), (None, None)},
        ),
    ],
)
def test_each_way_that_a_peer_goes_is_there(new: tuple[Client, ...], expected: set[tuple[str | None, ...]]) -> None:
    assert ways((ONE, ALL), new) == expected


def test_they_come_in_the_order_of_the_clients_each_once() -> None:
    old, new = (Snapshot.of(replace(policy(), client=each), TODAY) for each in ((ONE, ALL), (ALL,)))
    assert moves(old, new) == (Move(None, None), Move("one", "all"), Move("all", "all"))


@pytest.mark.parametrize("listen", [Listen(), UNIX])
def test_r2_who_has_no_face_is_let_in_once_no_client_with_accounts_stands_before(listen: Listen) -> None:
    """Nobody comes into question behind one that asks for an account, on whatever address of this host."""
    for networks in (nets("127.0.0.0/8"), nets("192.0.2.0/24"), ()):
        rest = replace(ALL, networks=networks, credential=BOB)
        agent = Client(name="agent", users=(7,), networks=networks)
        old, new = (
            Snapshot.of(replace(policy(), client=each, listen=listen), TODAY) for each in ((agent, rest), (rest,))
        )
        assert Move(None, "all", faceless=True) in moves(old, new)
        assert Move("all", None, faceless=True) in moves(new, old)
        assert Move(None, "all") not in moves(old, new)


def test_who_has_no_face_is_not_told_apart_where_he_goes_with_the_others() -> None:
    old, new = (Snapshot.of(replace(policy(), client=each), TODAY) for each in ((ONE,), (ONE, ALL)))
    assert not [each for each in moves(old, new) if each.faceless]


def test_an_account_may_be_called_by_its_name_and_by_its_number() -> None:
    named, numbered = Client(name="named", users=("bob",)), Client(name="numbered", users=(7,))
    assert ("named", "numbered") in ways((named, numbered), (numbered, named))


def test_two_hashes_of_one_user_may_be_of_one_password_and_of_two_users_are_not() -> None:
    one, other = (Client(name=name, credential=BOB) for name in ("one", "other"))
    again = replace(other, credential=replace(BOB, file="y"))
    assert ("one", "other") in ways((one, again), (again, one))
    stranger = replace(other, credential=replace(BOB, user="eve"))
    assert ("one", "other") not in ways((one, stranger), (stranger, one))


def test_a_peer_of_a_unix_socket_has_no_address() -> None:
    anyone, wide = (
        Client(name="anyone", users=(7,)),
        Client(name="wide", users=(7,), networks=nets("0.0.0.0/0", "::/0")),
    )
    assert ("anyone", None) in ways((anyone,), (wide,), UNIX)
    assert ("anyone", None) not in ways((anyone,), (wide,))


def test_a_unix_socket_that_is_new_lets_in_who_was_nobody() -> None:
    anyone = replace(policy(), client=(Client(name="anyone", users=(7,)),))
    old, new = Snapshot.of(anyone, TODAY), Snapshot.of(replace(anyone, listen=UNIX), TODAY)
    assert Move(None, "anyone") in moves(old, new)
    assert Move("anyone", None) in moves(new, old)


def test_sockets_of_the_service_manager_may_be_unix_sockets() -> None:
    for place, has in ((UnixPath("/x"), True), (Inherited(), True), (Endpoint(parse_address("::1"), 1), False)):
        said = replace(policy(), listen=Listen(http=(place,)))
        assert has_peers_without_address(Snapshot.of(said, TODAY)) is has


def test_of_many_clients_only_so_many_peers_are_asked_for_as_can_be_told_apart() -> None:
    """Each with its network, its account and its credential: not all of their combinations are tried."""
    many = tuple(
        Client(
            name=f"c{number}",
            networks=(IPNetwork(f"10.0.{number}.0/24"),),
            users=(number,),
            credential=replace(BOB, user=f"u{number}"),
        )
        for number in range(60)
    )
    assert ways(many, many[1:]) == {(None, None), ("c0", None), *((each.name, each.name) for each in many[1:])}
