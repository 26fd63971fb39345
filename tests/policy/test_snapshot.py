"""A policy on one day and one host: who a client is, which rules are his, and what is found in them.

R2, R9, ATTACKS 2.17, 8. What `decide` makes of it is in test_verdict.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import timedelta

import pytest
from netaddr import IPAddress

from proxyd.policy.address import Destination, Endpoint
from proxyd.policy.client import Client, Credential, Destinations, OwnDestinations
from proxyd.policy.dns import Dns
from proxyd.policy.listen import Listen
from proxyd.policy.model import Parent
from proxyd.policy.password import parse_hash
from proxyd.policy.rows import PermitRow
from proxyd.policy.snapshot import Own, Peer, Snapshot
from tests.policy.worlds import CLIENT, HASH, TODAY, addresses, allow, deny, nets, permit, policy, rules, spans, world

LOCAL = IPAddress("127.0.0.1")
CREDENTIAL = Credential(user="agent", password=parse_hash(HASH))


def at(host: str, port: int = 443) -> Destination:
    return Destination(host, port)


# proxyd itself


def test_attack_2_17_own_ports_are_ours_on_loopback_and_on_the_addresses_of_this_host() -> None:
    own = Own(frozenset({3128}), frozenset(nets("10.0.0.9/32", "2001:db8::9/128")))
    ours = addresses("127.0.0.0", "127.255.255.255", "::1", "10.0.0.9", "2001:db8::9")
    assert all(own.holds(each, 3128) for each in ours)
    assert not any(own.holds(each, 3129) for each in ours)
    assert not any(
        own.holds(each, 3128) for each in addresses("126.255.255.255", "128.0.0.0", "::2", "10.0.0.8", "10.0.0.10")
    )


def test_attack_2_17_a_whole_network_that_is_local_is_ours_from_its_first_address_to_its_last() -> None:
    """A local route ("AnyIP") makes it so, and no interface has any of its addresses."""
    own = Own(frozenset({3128}), frozenset(nets("93.184.216.0/24", "2606:2800::/64")))
    ours = addresses("93.184.216.0", "93.184.216.255", "2606:2800::", "2606:2800::ffff:ffff:ffff:ffff")
    others = addresses("93.184.215.255", "93.184.217.0", "2606:27ff:ffff:ffff::", "2606:2800:0:1::", "::93.184.216.7")
    assert all(own.holds(each, 3128) for each in ours)
    assert not any(own.holds(each, 3129) for each in ours)
    assert not any(own.holds(each, 3128) for each in others)


def test_without_listeners_nothing_is_ours() -> None:
    assert not Own().holds(LOCAL, 3128)


# Days


def test_a_permit_is_live_through_the_day_on_which_it_expires() -> None:
    rows = (permit("a.local", "10.0.0.0/8", expires=TODAY), permit("b.local", "10.0.0.0/8"))
    written = policy(permit=rows)
    assert Snapshot.of(written, TODAY - timedelta(days=400)).rules(CLIENT).permits(at("a.local")) == rows[:1]
    assert Snapshot.of(written, TODAY).rules(CLIENT).permits(at("a.local")) == rows[:1]
    assert Snapshot.of(written, TODAY + timedelta(days=1)).rules(CLIENT).permits(at("a.local")) == ()
    assert Snapshot.of(written, TODAY + timedelta(days=1)).rules(CLIENT).permits(at("b.local")) == rows[1:]
    assert written.permit == rows


def test_a_permit_of_one_client_is_live_through_its_day_too_whichever_client_is_asked_for() -> None:
    """An older policy's client is nobody's word for what holds now: else its expired permit would hold again."""
    client = replace(CLIENT, permit=(permit("a.local", "10.0.0.0/8", expires=TODAY),))
    written = policy(client=[client])
    assert Snapshot.of(written, TODAY).rules(client).permits(at("a.local")) == client.permit
    later = Snapshot.of(written, TODAY + timedelta(days=1))
    assert later.rules(client).permits(at("a.local")) == ()
    assert later.rules(later.policy.client[0]).permits(at("a.local")) == ()
    assert written.client == (client,)


# Who a client is


def test_r2_the_first_client_whose_networks_hold_the_peer_is_the_client() -> None:
    narrow = Client(name="narrow", networks=nets("127.0.0.1/32"))
    said = world(client=(narrow, CLIENT, Client(name="six", networks=nets("::1/128"))))
    found = [said.identify(Peer(each)) for each in addresses("127.0.0.1", "127.0.0.2", "::1")]
    assert [each.name if each else None for each in found] == ["narrow", "agent", "six"]


@pytest.mark.parametrize("peer", ["126.255.255.255", "128.0.0.0", "10.0.0.1", "::1", "::ffff:127.0.0.1", "::7f00:1"])
def test_r2_anybody_else_is_nobody(peer: str) -> None:
    assert world().identify(Peer(IPAddress(peer))) is None


BY_NAME = Client(name="by-name", users=("openclaw",))
BY_NUMBER = Client(name="by-number", users=(0, 1001))
AT_HOME = Client(name="at-home", users=("openclaw",), networks=nets("127.0.0.0/8"))


@pytest.mark.parametrize(
    ("client", "peer", "is_it"),
    [
        (BY_NAME, Peer(LOCAL, 990), True),
        (BY_NAME, Peer(None, 990), True),
        (BY_NAME, Peer(LOCAL, 991), False),
        (BY_NAME, Peer(LOCAL, 0), False),
        (BY_NAME, Peer(LOCAL), False),
        (BY_NUMBER, Peer(LOCAL, 1001), True),
        (BY_NUMBER, Peer(LOCAL, 0), True),
        (BY_NUMBER, Peer(LOCAL, 990), False),
        (BY_NUMBER, Peer(LOCAL), False),
        (AT_HOME, Peer(LOCAL, 990), True),
        (AT_HOME, Peer(LOCAL, 991), False),
        (AT_HOME, Peer(IPAddress("10.0.0.1"), 990), False),
        (AT_HOME, Peer(None, 990), False),
    ],
)
def test_r2_a_client_is_an_account_where_accounts_are_named(client: Client, peer: Peer, *, is_it: bool) -> None:
    """A peer of a Unix socket has no address, and is in no network."""
    said = Snapshot(policy(client=[client]), Own(), {"openclaw": 990, "root": 0})
    assert (said.identify(peer) == client) is is_it
    assert (list(said.candidates(peer)) == [client]) is is_it


def test_r2_r12_an_account_that_this_host_has_not_is_nobody_and_so_is_an_account_that_is_not_known() -> None:
    said = world(client=[BY_NAME])
    for uid in (None, 0, 990, 4294967295):
        assert said.identify(Peer(LOCAL, uid)) is None


def test_r2_r12_a_client_without_conditions_is_nobody_and_not_anybody() -> None:
    """No file can say so; and if one could, nobody would come in by it."""
    said = world(client=[Client(name="anybody")])
    assert said.identify(Peer(LOCAL, 0), [CREDENTIAL]) is None
    assert list(said.candidates(Peer(None))) == []


def test_r2_a_credential_must_be_proven_and_a_client_that_wants_one_is_a_candidate_without() -> None:
    knows = replace(CLIENT, credential=CREDENTIAL)
    said = world(client=[knows])
    assert list(said.candidates(Peer(LOCAL))) == [knows]
    assert said.identify(Peer(LOCAL)) is None
    for other in (replace(CREDENTIAL, user="other"), replace(CREDENTIAL, password=None)):
        assert said.identify(Peer(LOCAL), [other]) is None
    assert said.identify(Peer(LOCAL), [CREDENTIAL]) == knows
    assert said.identify(Peer(IPAddress("10.0.0.1")), [CREDENTIAL]) is None


def test_r2_a_client_known_by_its_credential_alone_may_come_from_anywhere() -> None:
    knows = Client(name="knows", credential=CREDENTIAL)
    said = world(client=[knows])
    for peer in (Peer(None), Peer(LOCAL), Peer(IPAddress("2001:db8::1"), 7)):
        assert said.identify(peer) is None
        assert said.identify(peer, [CREDENTIAL]) == knows


def test_r2_the_first_of_several_whose_conditions_all_hold_is_the_client() -> None:
    knows = replace(CLIENT, name="knows", credential=CREDENTIAL)
    said = world(client=[knows, BY_NUMBER, CLIENT])
    assert [each.name for each in said.candidates(Peer(LOCAL, 1001))] == ["knows", "by-number", "agent"]
    assert said.identify(Peer(LOCAL, 1001), [CREDENTIAL]) == knows
    assert said.identify(Peer(LOCAL, 1001)) == BY_NUMBER
    assert said.identify(Peer(LOCAL, 1002)) == CLIENT


HERE = nets("192.0.2.7/32")


@pytest.mark.parametrize(
    ("peer", "names"),
    [
        (Peer(LOCAL), ["knows"]),
        (Peer(None), ["knows"]),
        (Peer(IPAddress("192.0.2.7")), ["knows"]),
        (Peer(IPAddress("::1")), ["knows"]),
        (Peer(IPAddress("192.0.2.8")), ["knows", "anybody"]),
        (Peer(LOCAL, 7), ["knows", "anybody"]),
        (Peer(LOCAL, 1001), ["knows", "by-number", "anybody"]),
    ],
)
def test_attack_4_11_who_hides_their_account_is_nobody_behind_a_client_that_asks_for_one(
    peer: Peer, names: list[str]
) -> None:
    """Else an account sheds what holds for it by leaving at once. Of another host's accounts nobody knows here."""
    knows, anybody = (
        Client(name="knows", credential=CREDENTIAL),
        Client(name="anybody", networks=nets("::/0", "0.0.0.0/0")),
    )
    said = Snapshot(policy(client=[knows, BY_NUMBER, anybody]), Own(addresses=frozenset(HERE)))
    assert [each.name for each in said.candidates(peer)] == names


def test_a_client_that_asks_for_an_account_elsewhere_is_no_obstacle() -> None:
    """Its networks say that it is not this peer."""
    anybody = Client(name="anybody", networks=nets("127.0.0.0/8"))
    elsewhere = Client(name="elsewhere", users=("openclaw",), networks=nets("127.0.0.2/32"))
    assert world(client=[elsewhere, anybody]).identify(Peer(LOCAL)) == anybody


def test_an_account_is_called_as_the_policy_calls_it_or_by_its_number() -> None:
    said = Snapshot.of(policy(client=[BY_NAME]), TODAY, accounts={"openclaw": 990})
    assert [said.account(Peer(LOCAL, uid)) for uid in (990, 0, None)] == ["openclaw", "0", None]
    assert world().account(Peer(LOCAL, 990)) == "990"


def test_accounts_matter_where_a_client_names_one() -> None:
    assert not world().asks_for_accounts
    assert world(client=[CLIENT, BY_NUMBER]).asks_for_accounts


# Which rules are whose


def test_a_client_that_says_nothing_has_the_rules_of_everybody() -> None:
    parent = Parent(address=Endpoint(IPAddress("192.0.2.7"), 3128))
    said = policy(
        dns=Dns(nat64=nets("64:ff9b::/96")),
        parent=parent,
        deny=(deny(),),
        allow=(allow("a.com"),),
        permit=(permit("nas.local", "10.0.0.0/8"),),
    )
    found = Snapshot.of(said, TODAY, Own(frozenset({3128}))).rules(CLIENT)
    assert (found.deny, found.allow, found.permit) == (said.deny, said.allow, said.permit)
    assert (found.destinations, found.dns) == (said.destinations, said.dns)
    assert (found.own.ports, found.parent) == (frozenset({3128}), parent.address)
    assert rules().parent is None


def test_a_clients_allows_replace_everybodys_and_its_denies_and_permits_add_up() -> None:
    own = replace(
        CLIENT,
        destinations=OwnDestinations(default="deny", ports=spans(443)),
        deny=(deny(hosts=["b.com"], name="b"),),
        allow=(allow("b.com"),),
        permit=(permit("b.local", "10.0.0.0/8"),),
    )
    other = Client(name="other", networks=nets("10.0.0.0/8"))
    said = world(
        client=[own, other],
        deny=(deny(hosts=["a.com"], name="a"),),
        allow=(allow("a.com"),),
        permit=(permit("a.local", "10.0.0.0/8"),),
    )
    assert said.rules(own).deny == said.policy.deny + own.deny
    assert said.rules(own).allow == own.allow
    assert said.rules(own).permit == said.policy.permit + own.permit
    assert said.rules(own).destinations == Destinations(default="deny", ports=spans(443))
    common = said.rules(other)
    assert (common.deny, common.allow, common.permit) == (said.policy.deny, said.policy.allow, said.policy.permit)
    assert common.destinations == said.policy.destinations


def test_r12_what_a_client_of_another_policy_said_does_not_hold_here() -> None:
    """A session may hold a client of the policy before: it is that name's rules of now that count."""
    before = replace(CLIENT, permit=(permit("nas.local", "10.0.0.0/8"),), allow=(allow("a.com"),))
    said = world()
    assert said.rules(before) is said.rules(CLIENT)
    assert (said.rules(before).permit, said.rules(before).allow) == ((), ())


def test_r12_a_client_that_this_policy_has_not_has_no_rules() -> None:
    with pytest.raises(KeyError):
        world().rules(Client(name="gone", networks=nets("127.0.0.0/8")))


def test_attack_8_the_rules_of_a_client_are_compiled_once() -> None:
    said = world()
    assert said.rules(CLIENT) is said.rules(CLIENT)


# What is found in them


def test_every_permit_for_the_host_and_port_counts() -> None:
    rows = (permit("nas.local", "10.0.0.0/8"), permit("nas.local", "fd00::/8"), permit("nas.local", "::/0", ports=[80]))
    assert rules(permit=rows).permits(at("nas.local")) == rows[:2]


def test_attack_8_only_the_permits_of_the_host_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request takes as long with ten thousand permits for other hosts as with none."""
    asked: list[str] = []
    names = PermitRow.names

    def noted(row: PermitRow, destination: Destination) -> bool:
        asked.append(row.host)
        return names(row, destination)

    monkeypatch.setattr(PermitRow, "names", noted)
    hosts = ("a.local", "nas.local", "b.local", "nas.local")
    said = rules(permit=tuple(permit(host, "10.0.0.0/8", ports=[443 + n]) for n, host in enumerate(hosts)))
    assert [row.ports for row in said.permits(at("nas.local", 446))] == [spans(446)]
    assert said.permits(at("c.local")) == ()
    assert asked == ["nas.local", "nas.local"]


def test_the_lookups_find_the_most_specific_row() -> None:
    wide, narrow = deny(hosts=["*.com"], networks=["10.0.0.0/8"]), deny(hosts=["*.a.com"], networks=["10.1.0.0/16"])
    said = rules(deny=(wide, narrow))
    assert said.denied_name("x.a.com") is narrow
    assert said.denied_name("a.com") is wide
    assert said.denied_name("com") is None
    assert said.denied_address(IPAddress("10.1.0.0")) is narrow
    assert said.denied_address(IPAddress("10.2.0.0")) is wide
    assert said.denied_address(IPAddress("11.0.0.0")) is None


def test_an_allow_row_counts_where_both_host_and_port_are_its_own() -> None:
    exact, below = allow("a.com", ports=[80]), allow("*.com", ports=[443])
    said = rules(allow=(below, exact))
    assert said.allowed(at("a.com", 80)) is exact
    assert said.allowed(at("a.com", 443)) is below
    assert said.allowed(at("a.com", 8080)) is None
    assert said.allowed(at("a.org", 443)) is None


def test_a_snapshot_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        world().policy = policy()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        rules().permit = ()  # type: ignore[misc]


def test_attack_2_17_a_policy_says_where_proxyd_will_be_reached_as_far_as_it_can() -> None:
    """Addresses on which it listens are this host's; loopback is anyway."""
    places = (Endpoint(IPAddress("10.0.0.5"), 3128), Endpoint(IPAddress("127.0.0.1"), 0))
    own = Own.of(replace(policy(), listen=Listen(http=places)))
    assert own.ports == {3128}
    assert own.holds(IPAddress("10.0.0.5"), 3128)
    assert own.holds(IPAddress("127.0.0.9"), 3128)
    assert not own.holds(IPAddress("10.0.0.6"), 3128)
