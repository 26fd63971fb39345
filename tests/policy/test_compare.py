"""What a change opens and closes: exactly where `decide` says otherwise than before, for any peer and any host (R8)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from netaddr import IPAddress

from proxyd.policy.address import Endpoint
from proxyd.policy.atoms import OTHER
from proxyd.policy.client import Client, Credential, Destinations, OwnDestinations
from proxyd.policy.compare import EVERYBODY, FACELESS, Change, compare
from proxyd.policy.dns import Dns
from proxyd.policy.listen import Listen, UnixPath
from proxyd.policy.model import Parent
from proxyd.policy.reach import reach
from proxyd.policy.snapshot import Snapshot
from tests.policy.worlds import CLIENT, TODAY, allow, deny, nets, permit, policy, world

if TYPE_CHECKING:
    from proxyd.policy.reach import Reached
    from proxyd.policy.rows import PermitRow


def told(old: Snapshot, new: Snapshot) -> list[Change]:
    """Every change."""
    return list(compare(old, new))


def has(change: Change, port: int) -> bool:
    """Whether a port is among those that are told."""
    spans = [tuple(map(int, each.split("-"))) for each in change.ports]
    return any(span[0] <= port <= span[-1] for span in spans)


def test_of_a_policy_and_itself_there_is_nothing_to_tell() -> None:
    said = world(deny=(deny(hosts=["a.com"]),), permit=(permit("nas.local", "10.0.0.0/8"),))
    assert told(said, said) == []


def test_r8_clients_with_the_same_settings_are_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody where nothing is different for them: of hundreds of clients mostly one is changed."""
    asked: list[str] = []

    def counted(name: str, *rest: Any) -> frozenset[Reached]:  # noqa: ANN401 - whatever `reach` takes
        asked.append(name)
        return reach(name, *rest)

    monkeypatch.setattr("proxyd.policy.compare.reach", counted)
    many = tuple(Client(name=f"c{number}", networks=nets(f"10.0.{number}.0/24")) for number in range(9))
    one = replace(many[4], permit=(permit("nas.local", "10.0.0.0/8"),))
    rows = deny(hosts=["a.com"])
    before = world(client=many, deny=(replace(rows, where="old.toml: deny[0]"),))
    after = world(client=(*many[:4], one, *many[5:]), deny=(replace(rows, where="new.toml: deny[3]"),))
    assert [(each.client, each.kind) for each in told(before, after)] == [("c4", "permits")]
    assert asked == ["c4", "c4"]
    asked.clear()
    assert {each.client for each in told(before, world(client=many))} == {each.name for each in many}
    assert asked == ["c0", "c0"]


def test_a_permit_opens_its_host_at_its_networks_and_is_of_the_highest_severity() -> None:
    (change,) = told(world(default="deny"), world(default="deny", permit=(permit("nas.local", "10.0.0.0/30"),)))
    assert (change.client, change.opens, change.kind, change.hosts) == ("agent", True, "permits", ("nas.local",))
    assert (change.ports, change.at, change.special, change.severity) == (("443",), ("10.0.0.0/30",), True, "high")


def test_a_permit_for_localhost_is_told_with_the_addresses_that_localhost_has() -> None:
    new = world(permit=(permit("localhost", "127.0.0.0/8", ports=[11434]),))
    assert [(each.kind, each.hosts, each.at) for each in told(world(), new)] == [
        ("permits", ("localhost",), ("127.0.0.1/32",))
    ]


def test_a_permit_for_a_literal_opens_that_literal_and_no_name() -> None:
    (change,) = told(world(), world(permit=(permit("10.0.0.5", "10.0.0.0/8", ports=[80]),)))
    assert (change.kind, change.hosts, change.ports, change.special) == ("literals", ("10.0.0.5/32",), ("80",), True)


def test_from_an_allowlist_to_everything_is_told_in_a_few_lines() -> None:
    changes = told(world(default="deny", allow=(allow("a.com"),)), world())
    assert all(each.opens for each in changes)
    assert {each.kind for each in changes} == {"names", "literals", "tls_name"}
    everything = next(each for each in changes if OTHER in each.hosts)
    assert (everything.severity, has(everything, 443), has(everything, 22)) == ("high", True, False)
    assert not any(has(each, 443) for each in changes if "a.com" in each.hosts)


def test_a_wider_deny_closes_addresses_for_names_and_literals() -> None:
    changes = told(world(), world(deny=(deny(networks=["93.184.216.0/24"]),)))
    assert {(each.kind, each.opens, each.hosts, each.severity) for each in changes} == {
        ("answers", False, ("93.184.216.0/24",), "low"),
        ("literals", False, ("93.184.216.0/24",), "low"),
    }


def test_what_is_of_no_consequence_is_not_told() -> None:
    """A row that repeats what the built-in table says changes the text, and nobody's reach."""
    assert told(world(), world(deny=(deny(networks=["10.0.0.0/8"]),))) == []


def test_a_client_that_is_new_opens_all_that_it_reaches() -> None:
    before = policy(default="deny", allow=(allow("a.com"),))
    after = replace(before, client=(CLIENT, Client(name="other", networks=nets("10.0.0.0/8"))))
    changes = told(Snapshot.of(before, TODAY), Snapshot.of(after, TODAY))
    assert {each.client for each in changes} == {"other"}
    assert ("names", ("a.com",)) in {(each.kind, each.hosts) for each in changes}


SECRET: Final = Credential(user="bob", file="x")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"networks": nets("10.0.0.0/24")}, {"networks": nets("10.0.0.0/23")}, [(True, "10.0.1.0/24")]),
        ({"networks": nets("10.0.0.0/24")}, {"networks": nets("10.0.0.0/25")}, [(False, "10.0.0.128/25")]),
        ({"users": (1,)}, {"users": (1, "bob")}, [(True, "account bob")]),
        ({"users": (1, "bob")}, {"users": (1,)}, [(False, "account bob")]),
        ({"users": (1,)}, {"networks": nets("0.0.0.0/0", "::/0")}, [(True, "any account")]),
        ({"networks": nets("0.0.0.0/0", "::/0")}, {"users": (1,)}, [(False, "any account")]),
        ({"users": (1,), "credential": SECRET}, {"users": (1,)}, [(True, "no credential")]),
        ({"users": (1,)}, {"users": (1,), "credential": SECRET}, [(False, "credential of bob")]),
        ({"credential": SECRET}, {"credential": replace(SECRET, file="y")}, [(True, "credential of bob")]),
    ],
)
def test_r2_who_may_be_a_client_is_told_too(
    before: dict[str, Any], after: dict[str, Any], expected: list[tuple[bool, str]]
) -> None:
    """Somebody else being let in opens everything to them."""
    old, new = (
        Snapshot.of(replace(policy(), client=(Client(name="agent", **some),)), TODAY) for some in (before, after)
    )
    changes = told(old, new)
    assert [(each.opens, *each.hosts) for each in changes] == expected
    assert all((each.kind, each.severity) == ("peers", "high" if each.opens else "low") for each in changes)


def test_r2_an_account_that_is_unchanged_is_not_told_again() -> None:
    """Nor the order in which they stand."""
    one, other = (clients(Client(name="agent", users=users)) for users in ((1, "bob"), ("bob", 1)))
    assert told(one, other) == []


SOCKET: Final = Listen(http=(UnixPath("/run/p.sock"),))


def test_r2_a_peer_without_an_address_is_let_in_where_no_networks_are_asked_for() -> None:
    """A Unix socket that is new, or a client that there no longer is asked where it comes from."""
    without = policy(client=(Client(name="agent", users=(1,)),))
    within = policy(client=(Client(name="agent", users=(1,), networks=nets("0.0.0.0/0", "::/0")),))
    after = Snapshot.of(replace(without, listen=SOCKET), TODAY)
    for old in (without, replace(within, listen=SOCKET)):
        before = Snapshot.of(old, TODAY)
        (change,) = told(before, after)
        assert (change.opens, change.kind, change.hosts) == (True, "peers", ("peers of Unix sockets",))
        (change,) = told(after, before)
        assert (change.opens, change.kind, change.hosts) == (False, "peers", ("peers of Unix sockets",))


# 2a: which peer becomes which client

STRICT: Final = OwnDestinations(default="deny")
NARROW: Final = Client(name="narrow", networks=nets("127.0.0.1/32"), destinations=STRICT)
WIDE: Final = Client(name="wide", networks=nets("127.0.0.0/8"))


def clients(*some: Client) -> Snapshot:
    """A policy of these clients."""
    return world(client=some)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((NARROW, WIDE), (WIDE,), id="removed"),
        pytest.param((NARROW, WIDE), (WIDE, NARROW), id="reordered"),
        pytest.param((replace(NARROW, networks=nets("127.0.0.0/24")), WIDE), (NARROW, WIDE), id="networks-narrowed"),
        pytest.param(
            (replace(NARROW, users=("daemon", "bin")), WIDE), (replace(NARROW, users=("daemon",)), WIDE), id="users"
        ),
        pytest.param(
            (replace(NARROW, users=("daemon",)), replace(WIDE, users=(7,))),
            (replace(WIDE, users=(7,)), replace(NARROW, users=("daemon",))),
            id="an account that may be called by both",
        ),
        pytest.param(
            (NARROW, WIDE),
            (replace(NARROW, credential=Credential(user="bob", file="x")), WIDE),
            id="credential",
        ),
    ],
)
def test_r8_who_was_a_strict_client_and_is_a_wider_one_reaches_more(
    before: tuple[Client, ...], after: tuple[Client, ...]
) -> None:
    opened = [each for each in told(clients(*before), clients(*after)) if each.opens]
    assert {(each.client, each.was) for each in opened} == {("wide", "narrow")}
    assert {"names", "literals"} <= {each.kind for each in opened}
    assert any(each.severity == "high" for each in opened)
    closed = [each for each in told(clients(*after), clients(*before)) if each.was]
    assert {(each.client, each.was, each.opens) for each in closed} == {("narrow", "wide", False)}
    assert not [each for each in told(clients(*after), clients(*before)) if each.opens]


def test_a_client_that_is_called_otherwise_reaches_what_it_did() -> None:
    assert told(clients(WIDE), clients(replace(WIDE, name="broad"))) == []


def test_a_client_that_is_gone_and_whose_peers_are_nobody_closes_all_that_it_reached() -> None:
    changes = told(clients(WIDE, CLIENT), clients(replace(CLIENT, networks=nets("10.0.0.0/8"))))
    assert {(each.client, each.opens, each.kind) for each in changes} >= {
        ("wide", False, "names"),
        ("agent", True, "peers"),
    }


def test_r2_who_has_no_face_is_told_where_nobody_else_is_let_in() -> None:
    """Until then a client that asked for an account stood before the one that does not."""
    agent = Client(name="agent", networks=nets("127.0.0.0/8"), users=(1001,))
    old, new = clients(agent, WIDE), clients(WIDE)
    (change,) = told(old, new)
    assert (change.client, change.opens, change.kind, change.hosts) == ("wide", True, "peers", (FACELESS,))
    assert change.severity == "high"
    (change,) = told(new, old)
    assert (change.client, change.opens, change.kind, change.severity) == ("wide", False, "peers", "low")


def test_r2_who_has_no_face_is_told_once_with_the_others_or_as_a_client_that_is_new() -> None:
    agent = Client(name="agent", networks=nets("127.0.0.0/8"), users=(1001,))
    changes = told(clients(agent, WIDE), clients(replace(WIDE, name="broad")))
    assert {(each.client, each.was, each.opens) for each in changes} == {("broad", "", True)}
    changes = told(clients(NARROW, WIDE), clients(NARROW))
    assert {(each.client, each.opens) for each in changes} == {("wide", False)}
    assert len(changes) == len(set(changes))


# 2b: what an IPv6 address carries


def at(changes: list[Change]) -> set[str]:
    """Where permitted hosts are said to be."""
    return {each for change in changes for each in change.at}


@pytest.mark.parametrize(
    "network", ["2002::/16", "2001::/32", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2606::/32", "::/0"]
)
def test_attack_2_a_permit_for_carriers_is_told_with_what_they_may_carry(network: str) -> None:
    old, new = world(), world(permit=(permit("x.example", network),))
    changes = told(old, new)
    assert {(each.opens, each.kind, each.hosts) for each in changes} == {(True, "permits", ("x.example",))}
    assert not any(each.endswith(("carrying 10.0.0.0/8", "carrying 169.254.169.254/32")) for each in at(changes))


@pytest.mark.parametrize("prefix", ["64:ff9b::/96", "2a00:1450::/32"])
def test_attack_2_8_a_translator_opens_what_lies_behind_it(prefix: str) -> None:
    row = deny(networks=["2a00:1450::/32"])
    changes = [each for each in told(world(deny=(row,)), world(deny=(row,), dns=Dns(nat64=nets(prefix)))) if each.opens]
    assert {each.kind for each in changes} == {"answers", "literals"}
    assert f"{prefix} carrying 8.0.0.0/7" in changes[0].hosts


def test_attack_2_8_a_row_for_ipv4_closes_what_a_translator_carries() -> None:
    dns = Dns(nat64=nets("2a00:1450::/40"))
    changes = told(world(dns=dns), world(dns=dns, deny=(deny(networks=["8.8.8.0/24"]),)))
    assert {each.hosts for each in changes} == {("8.8.8.0/24", "2a00:1450::/40 carrying 8.8.8.0/24")}


def test_r8_without_a_parent_its_address_is_reached_like_any_other() -> None:
    """On its port: what names lead to is told with the port then."""
    parent = Parent(address=Endpoint(IPAddress("8.8.8.8"), 80))
    changes = told(world(parent=parent), world())
    assert {(each.kind, each.hosts, each.ports, each.opens) for each in changes} == {
        ("answers", ("8.8.8.8/32",), ("80",), True),
        ("literals", ("8.8.8.8/32",), ("80",), True),
    }


# 2c: through which names


def test_attack_3_4_a_permit_covers_the_cname_chain_of_its_host() -> None:
    row = deny(hosts=["bad.example"])
    (change,) = told(world(deny=(row,)), world(deny=(row,), permit=(permit("x.example", "1.1.1.1/32"),)))
    assert (change.kind, change.opens, change.at, change.severity) == ("permits", True, ("1.1.1.1/32",), "medium")


def test_attack_3_4_a_name_that_is_no_longer_denied_may_stand_in_a_chain() -> None:
    said: dict[str, Any] = {"default": "deny", "allow": (allow("x.example"),)}
    (change,) = told(world(deny=(deny(hosts=["bad.example"]),), **said), world(**said))
    assert (change.kind, change.opens, change.hosts) == ("via", True, ("bad.example",))


# 2g: where peers come in


def test_r2_a_listener_that_is_new_is_told_for_everybody_and_is_of_the_highest_severity() -> None:
    old, new = (
        Snapshot.of(replace(policy(), listen=Listen(http=(Endpoint(IPAddress(each), 3128),))), TODAY)
        for each in ("127.0.0.1", "10.0.0.5")
    )
    (change,) = told(old, new)
    assert (change.client, change.opens, change.kind, change.hosts) == (
        EVERYBODY,
        True,
        "listeners",
        ("10.0.0.5:3128",),
    )
    assert change.severity == "high"
    (change,) = told(new, old)
    assert (change.opens, change.kind, change.severity) == (False, "listeners", "low")


# 2d: what a destination that is reached gets to see


def seen(tls_name: str = "", headers: tuple[str, ...] = (), permits: tuple[PermitRow, ...] = ()) -> Snapshot:
    """A policy that says so."""
    said = Destinations(default="deny", tls_name=tls_name, identity_headers=headers)
    return Snapshot.of(replace(policy(permit=permits), destinations=said), TODAY)


def test_attack_4_2_that_tls_may_name_another_host_is_told() -> None:
    rows = (permit("nas.local", "10.0.0.0/8"),)
    old, new = (seen(each, permits=rows) for each in ("match", "off"))
    (change,) = told(old, new)
    assert (change.client, change.kind, change.opens, change.severity) == ("agent", "tls_name", True, "medium")
    (change,) = told(new, old)
    assert (change.kind, change.opens, change.severity) == ("tls_name", False, "low")


def test_attack_4_2_where_nobody_reaches_443_what_tls_may_name_is_nothing() -> None:
    on_80 = (permit("nas.local", "10.0.0.0/8", ports=[80]),)
    for rows in ((), on_80):
        old, new = (seen(each, permits=rows) for each in ("match", "off"))
        assert told(old, new) == told(new, old) == []


@pytest.mark.parametrize("host", ["a.com", "8.8.8.8"])
def test_attack_4_2_a_listed_name_or_address_on_443_is_reached(host: str) -> None:
    old, new = (
        Snapshot.of(replace(policy(allow=(allow(host),)), destinations=seen(each).policy.destinations), TODAY)
        for each in ("match", "off")
    )
    assert [(each.kind, each.opens) for each in told(old, new)] == [("tls_name", True)]


def test_that_an_identity_header_reaches_permitted_destinations_is_told() -> None:
    rows = (permit("nas.local", "10.0.0.0/8"),)
    old, new = (seen(headers=each, permits=rows) for each in (("X-Team", "X-User"), ("x-team",)))
    (change,) = told(old, new)
    assert (change.kind, change.opens, change.hosts, change.severity) == (
        *("identity_headers", True, ("x-user",), "medium"),
    )
    (change,) = told(new, old)
    assert (change.kind, change.opens) == ("identity_headers", False)
    without = (seen(headers=each) for each in (("X-User",), ()))
    assert told(*without) == [], "nothing is permitted"
