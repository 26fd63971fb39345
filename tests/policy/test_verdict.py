"""The judge, against every attack class that is a judgement: what is asked, what DNS says, what a permit may open.

R3-R6, R9, R12; ATTACKS 1.8, 2.3-2.17, 3.2-3.4, 3.6, 3.11, 4.9, 7.5, 7.6. Names and answers here are data: nothing is
looked up.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from proxyd.policy.address import Destination, Resolution, parse_authority
from proxyd.policy.client import Egress
from proxyd.policy.dns import Dns
from proxyd.policy.embedded import embedded_ipv4
from proxyd.policy.snapshot import Own, Snapshot
from proxyd.policy.special import BAD_PORTS, LOCALHOST_ADDRESSES, locked_address, metadata_name, special_address
from proxyd.policy.verdict import (
    NEED_ADDRESSES,
    STEP_OF,
    Allow,
    Deny,
    NeedAddresses,
    Reason,
    Step,
    decide,
)
from tests.policy.worlds import CLIENT, PUBLIC_4, PUBLIC_6, TODAY, addresses, allow, deny, nets, permit, world

if TYPE_CHECKING:
    from proxyd.policy.rows import PermitRow

ANYWHERE = ("0.0.0.0/0", "::/0")


def judge(target: str, snapshot: Snapshot, *answer: str, chain: tuple[str, ...] = ()) -> Allow | Deny | NeedAddresses:
    """The verdict on `target`, before DNS or with its answer."""
    found = Resolution(addresses(*answer), chain) if answer else None
    return decide(parse_authority(target), CLIENT, snapshot, found)


def refused(verdict: Allow | Deny | NeedAddresses, reason: Reason, rule: str | None = None) -> Deny:
    """The verdict is a refusal for this reason, and by this rule if one is given."""
    assert isinstance(verdict, Deny)
    assert verdict.reason == reason
    assert rule is None or verdict.rule == rule
    return verdict


def granted(verdict: Allow | Deny | NeedAddresses) -> Allow:
    assert isinstance(verdict, Allow)
    return verdict


# What a request is asked to be, and what it is asked of


def test_a_public_name_needs_addresses_and_is_then_allowed_with_those_addresses() -> None:
    assert judge("example.com:443", world()) is NEED_ADDRESSES
    verdict = granted(judge("example.com:443", world(), str(PUBLIC_4), str(PUBLIC_6), chain=("cdn.example.net",)))
    assert verdict.destination == Destination("example.com", 443)
    assert verdict.addresses == (PUBLIC_4, PUBLIC_6)
    assert (verdict.rule, verdict.permitted, verdict.would) == ("default", False, None)


@pytest.mark.parametrize("literal", ["93.184.216.34", "[2606:2800:220:1:248:1893:25c8:1946]"])
def test_a_public_literal_needs_no_dns_and_what_dns_said_is_ignored(literal: str) -> None:
    asked = parse_authority(f"{literal}:443")
    for found in (None, Resolution(addresses("127.0.0.1"), ("metadata.google.internal",))):
        assert granted(decide(asked, CLIENT, world(), found)).addresses == (asked.address,)


def test_r2_nobody_is_refused_before_anything_is_looked_at() -> None:
    for target in ("example.com:443", "metadata.google.internal:22", "8.8.8.8:443", "[2606:4700::1]:443"):
        assert decide(parse_authority(target), None, world()) == Deny(Reason.CLIENT_UNKNOWN, "client")


# The capability


def test_a_verdict_has_no_truth_value() -> None:
    for verdict in (judge("8.8.8.8:443", world()), judge("10.0.0.1:443", world()), judge("example.com:443", world())):
        with pytest.raises(TypeError, match="not a truth value"):
            bool(verdict)


def test_r4_an_allow_cannot_be_made_elsewhere() -> None:
    for seal in (None, object(), True):
        with pytest.raises(TypeError, match="only decide"):
            Allow(
                Destination("example.com", 443),
                (PUBLIC_4,),
                "default",
                permitted=False,
                would=None,
                egress=Egress(),
                seal=seal,
            )


def test_r4_an_allow_cannot_be_changed() -> None:
    verdict = granted(judge("8.8.8.8:443", world()))
    with pytest.raises(AttributeError):
        verdict.addresses = addresses("127.0.0.1")  # type: ignore[misc]


def test_r4_an_allow_cannot_be_copied_with_other_addresses() -> None:
    verdict = granted(judge("8.8.8.8:443", world()))
    with pytest.raises((TypeError, ValueError)):
        replace(verdict, addresses=addresses("127.0.0.1"))  # type: ignore[call-arg] # mypy sees it too


def test_the_seal_is_no_part_of_what_an_allow_says() -> None:
    verdict = judge("8.8.8.8:443", world())
    assert "seal" not in repr(verdict)
    assert verdict == judge("8.8.8.8:443", world())


# The order of the steps


@pytest.mark.parametrize(
    ("target", "answer", "reason"),
    [
        ("metadata.google.internal:22", "127.0.0.1", Reason.PORT_DENIED),
        ("printer.local:22", "127.0.0.1", Reason.PORT_DENIED),
        ("169.254.169.254:22", "127.0.0.1", Reason.PORT_DENIED),
        ("metadata.google.internal:443", "127.0.0.1", Reason.NAME_LOCKED),
        ("denied.local:443", "127.0.0.1", Reason.NAME_DENIED),
        ("printer.local:443", "127.0.0.1", Reason.NAME_RESERVED),
        ("missed.example:443", "127.0.0.1", Reason.NOT_ALLOWLISTED),
        ("169.254.169.254:443", "127.0.0.1", Reason.NOT_ALLOWLISTED),
        ("good.example:443", "0.0.0.0", Reason.ADDRESS_LOCKED),
        ("good.example:443", "127.0.0.1", Reason.ADDRESS_DENIED),
    ],
)
def test_the_first_step_that_refuses_wins(target: str, answer: str, reason: Reason) -> None:
    said = world(
        default="deny", deny=(deny(hosts=["denied.local", "metadata.google.internal"]),), allow=(allow("good.example"),)
    )
    assert STEP_OF[refused(judge(target, said, answer), reason).reason] is STEP_OF[reason]


def test_every_denial_has_a_step_and_the_reasons_stand_in_the_order_of_the_steps() -> None:
    steps = [list(Step).index(STEP_OF[reason]) for reason in Reason if reason in STEP_OF]
    assert len(steps) == len(STEP_OF)
    assert all(former <= latter for former, latter in pairwise(steps))
    assert set(STEP_OF.values()) == set(Step)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("example.com:22", Reason.PORT_DENIED),
        ("metadata.goog:443", Reason.NAME_LOCKED),
        ("denied.example:443", Reason.NAME_DENIED),
        ("a.tracker.example:443", Reason.NAME_DENIED),
        ("x.onion:443", Reason.NAME_RESERVED),
        ("missed.example:443", Reason.NOT_ALLOWLISTED),
        ("good.example:80", Reason.NOT_ALLOWLISTED),
    ],
)
def test_attack_3_6_a_refused_name_is_never_looked_up(target: str, reason: Reason) -> None:
    denied = deny(hosts=["denied.example", "*.tracker.example"])
    said = world(default="deny", deny=(denied,), allow=(allow("good.example", "*.example.com"),))
    refused(judge(target, said), reason)
    assert judge("good.example:443", said) is NEED_ADDRESSES


# Ports


@pytest.mark.parametrize("port", [1, 22, 25, 6667, 10080])
def test_attack_4_9_bad_ports_are_refused_by_default(port: int) -> None:
    refused(judge(f"example.com:{port}", world(), str(PUBLIC_4)), Reason.PORT_DENIED, f"port {port}")


@pytest.mark.parametrize("port", [22, 25, 6379, 2379, 6443, 10250, 11434, 442, 444, 8080])
def test_attack_4_9_a_list_of_ports_is_the_only_ports(port: int) -> None:
    refused(judge(f"example.com:{port}", world(ports=[80, 443]), str(PUBLIC_4)), Reason.PORT_DENIED)
    granted(judge("example.com:443", world(ports=[80, 443]), str(PUBLIC_4)))


@pytest.mark.parametrize("port", [2379, 6443, 10250, 11434])
def test_attack_4_9_an_open_port_opens_no_address(port: int) -> None:
    refused(judge(f"127.0.0.1:{port}", world()), Reason.ADDRESS_DENIED, "loopback")


def test_a_policy_may_open_a_bad_port() -> None:
    granted(judge("example.com:22", world(ports=[22]), str(PUBLIC_4)))


# Names


@pytest.mark.parametrize(
    "name", ["localhost", "foo.localhost", "localhost.", "LOCALHOST", "localhost.localdomain", "ip6-localhost"]
)
def test_attack_1_8_localhost_is_refused_by_name(name: str) -> None:
    refused(judge(f"{name}:443", world()), Reason.NAME_RESERVED, "loopback name")


@pytest.mark.parametrize("name", ["127.0.0.1.nip.io", "localtest.me"])
def test_attack_1_8_a_public_name_for_loopback_is_refused_by_its_address(name: str) -> None:
    assert judge(f"{name}:443", world()) is NEED_ADDRESSES
    refused(judge(f"{name}:443", world(), "127.0.0.1"), Reason.ADDRESS_DENIED, "loopback")


def test_the_rule_of_a_denied_name_is_the_most_specific_row() -> None:
    rows = (deny(hosts=["*.example.com"], name="wide"), deny(hosts=["a.example.com"], name="narrow"))
    refused(judge("a.example.com:443", world(deny=rows)), Reason.NAME_DENIED, "narrow")
    refused(judge("b.example.com:443", world(deny=rows)), Reason.NAME_DENIED, "wide")
    assert judge("example.com:443", world(deny=rows)) is NEED_ADDRESSES


def test_a_metadata_name_is_locked_and_the_rule_is_the_policys_row_where_it_has_one() -> None:
    target = "metadata.google.internal:80"
    refused(judge(target, world()), Reason.NAME_LOCKED, "cloud metadata service (Google)")
    named = world(deny=(deny(hosts=["metadata.google.internal"], name="page-6"),))
    refused(judge(target, named), Reason.NAME_LOCKED, "page-6")


def test_attack_2_16_no_permit_opens_a_metadata_name() -> None:
    opened = world(permit=(permit("metadata.google.internal", *ANYWHERE, ports=[80]),))
    refused(judge("metadata.google.internal:80", opened, str(PUBLIC_4)), Reason.NAME_LOCKED)


def test_a_denied_literal_is_denied_by_its_spelling() -> None:
    refused(judge("93.184.216.34:443", world(deny=(deny(hosts=["93.184.216.34"]),))), Reason.NAME_DENIED)


# The allowlist


def test_attack_7_5_an_empty_allowlist_allows_nothing() -> None:
    refused(judge("example.com:443", world(default="deny"), str(PUBLIC_4)), Reason.NOT_ALLOWLISTED, "allowlist")
    refused(judge("93.184.216.34:443", world(default="deny")), Reason.NOT_ALLOWLISTED, "allowlist")


def test_an_allowed_host_is_allowed_on_its_ports_by_the_name_of_its_row() -> None:
    said = world(default="deny", allow=(allow("*.example.com", name="wide"), allow("a.example.com", name="exact")))
    assert granted(judge("a.example.com:443", said, str(PUBLIC_4))).rule == "exact"
    assert granted(judge("b.example.com:443", said, str(PUBLIC_4))).rule == "wide"
    refused(judge("example.com:443", said), Reason.NOT_ALLOWLISTED)
    refused(judge("a.example.com:80", said), Reason.NOT_ALLOWLISTED)


@pytest.mark.parametrize("answer", ["10.0.0.5", "127.0.0.1", "fd00::1", "::ffff:10.0.0.5"])
def test_attack_3_11_r6_an_allowed_name_is_judged_by_its_addresses(answer: str) -> None:
    said = world(default="deny", allow=(allow("api.example.com"),))
    refused(judge("api.example.com:443", said, answer), Reason.ADDRESS_DENIED)


def test_an_allowed_address_literal_is_judged_as_an_address() -> None:
    refused(judge("10.0.0.5:443", world(default="deny", allow=(allow("10.0.0.5"),))), Reason.ADDRESS_DENIED)


def test_report_mode_lets_a_miss_of_the_allowlist_through_and_says_so() -> None:
    said = world(default="deny", mode="report")
    assert judge("example.com:443", said) is NEED_ADDRESSES
    assert granted(judge("example.com:443", said, str(PUBLIC_4))).would == Deny(Reason.NOT_ALLOWLISTED, "allowlist")
    listed = world(default="deny", mode="report", allow=(allow("example.com"),))
    assert granted(judge("example.com:443", listed, str(PUBLIC_4))).would is None


@pytest.mark.parametrize(
    ("target", "answer", "reason"),
    [
        ("example.com:22", "1.1.1.1", Reason.PORT_DENIED),
        ("metadata.goog:80", "1.1.1.1", Reason.NAME_LOCKED),
        ("denied.example:443", "1.1.1.1", Reason.NAME_DENIED),
        ("printer.local:443", "1.1.1.1", Reason.NAME_RESERVED),
        ("example.com:443", "169.254.169.254", Reason.ADDRESS_LOCKED),
        ("example.com:443", "10.0.0.1", Reason.ADDRESS_DENIED),
    ],
)
def test_report_mode_relaxes_no_other_step(target: str, answer: str, reason: Reason) -> None:
    said = world(default="deny", mode="report", deny=(deny(hosts=["denied.example"]),))
    refused(judge(target, said, answer), reason)


# Addresses

CARRIED = [
    pytest.param("127.0.0.1", id="2.3-plain"),
    pytest.param("::ffff:127.0.0.1", id="2.3-mapped"),
    pytest.param("::7f00:1", id="2.4-compatible"),
    pytest.param("::ffff:0:7f00:1", id="2.5-siit"),
    pytest.param("64:ff9b::7f00:1", id="2.6-nat64"),
    pytest.param("64:ff9b::808:808", id="2.6-nat64-of-a-public-address-undeclared"),
    pytest.param("64:ff9b:1:a9fe:a9:fe00::", id="2.7-local-use-48"),
    pytest.param("64:ff9b:1:808:808:808:a9fe:a9fe", id="2.7-local-use-96"),
    pytest.param("64:ff9b:1::7f00:1", id="2.7-local-use"),
    pytest.param("2002:7f00:1::", id="2.9-6to4"),
    pytest.param("2002:808:808::1", id="2.9-6to4-of-a-public-address"),
    pytest.param("2001:0:7f00:1::", id="2.10-teredo-server"),
    pytest.param("2001:0:4136:e378:8000:63bf:80ff:fffe", id="2.10-teredo-client"),
    pytest.param("2606:4700::5efe:7f00:1", id="2.11-isatap"),
    pytest.param("2606:4700::200:5efe:808:808", id="2.11-isatap-of-a-public-address"),
    pytest.param("fec0::1", id="2.12-site-local"),
    pytest.param("100::1", id="2.12-discard"),
    pytest.param("3fff::1", id="2.12-3fff"),
    pytest.param("5f00::1", id="2.12-5f00"),
    pytest.param("2001:db8::1", id="2.12-documentation"),
    pytest.param("2001:20::1", id="2.12-orchid"),
    pytest.param("ff0e::1", id="2.12-multicast"),
    pytest.param("4000::1", id="2.12-unassigned"),
    pytest.param("0.1.2.3", id="2.13-this-network"),
    pytest.param("100.64.0.1", id="2.14-cgnat"),
    pytest.param("198.18.0.1", id="2.15-benchmarking"),
    pytest.param("192.0.0.1", id="2.15-protocol"),
    pytest.param("192.88.99.1", id="2.15-6to4-relay"),
    pytest.param("240.0.0.1", id="2.15-reserved"),
    pytest.param("255.255.255.255", id="2.15-broadcast"),
    pytest.param("224.0.0.1", id="2.15-multicast"),
    pytest.param("203.0.113.9", id="2.15-test-net"),
]


@pytest.mark.parametrize("address", CARRIED)
def test_attack_2_r5_special_addresses_are_refused_as_literals_and_as_answers(address: str) -> None:
    literal = Destination(str(IPAddress(address)), 443, IPAddress(address))
    for verdict in (decide(literal, CLIENT, world()), judge("example.com:443", world(), address)):
        assert isinstance(verdict, Deny)
        assert STEP_OF[verdict.reason] is Step.ADDRESSES
        assert verdict.address == IPAddress(address)


@pytest.mark.parametrize(
    ("address", "reason", "rule"),
    [
        ("10.0.0.1", Reason.ADDRESS_DENIED, "private network"),
        ("::ffff:10.0.0.1", Reason.ADDRESS_DENIED, "IPv4-mapped"),
        ("::ffff:169.254.169.254", Reason.ADDRESS_LOCKED, "cloud metadata service"),
        ("64:ff9b::a83f:8110", Reason.ADDRESS_LOCKED, "platform services (Azure), a public address"),
        ("2606:4700::5efe:0:0", Reason.ADDRESS_LOCKED, "unspecified address"),
        ("64:ff9b:1::808:808", Reason.ADDRESS_DENIED, "NAT64 local-use prefix"),
        ("64:ff9b:1::", Reason.ADDRESS_LOCKED, "unspecified address"),
        ("2002:a9fe:a9fe::1", Reason.ADDRESS_LOCKED, "cloud metadata service"),
        ("168.63.129.16", Reason.ADDRESS_LOCKED, "platform services (Azure), a public address"),
        ("::", Reason.ADDRESS_LOCKED, "unspecified address"),
    ],
)
def test_the_refusal_names_the_built_in_row(address: str, reason: Reason, rule: str) -> None:
    assert refused(judge("example.com:443", world(), address), reason, rule).address == IPAddress(address)


def test_the_rule_is_the_narrowest_deny_row_before_the_built_in_one() -> None:
    rows = (deny(networks=["10.0.0.0/8"], name="wide"), deny(networks=["10.1.0.0/16", "169.254.0.0/16"], name="narrow"))
    said = world(deny=rows)
    refused(judge("10.1.2.3:443", said), Reason.ADDRESS_DENIED, "narrow")
    refused(judge("10.2.2.3:443", said), Reason.ADDRESS_DENIED, "wide")
    refused(judge("172.16.0.1:443", said), Reason.ADDRESS_DENIED, "private network")
    refused(judge("169.254.169.254:443", said), Reason.ADDRESS_LOCKED, "narrow")


def test_a_deny_row_refuses_a_public_range() -> None:
    said = world(deny=(deny(networks=["93.184.216.0/24"], name="corp"),))
    refused(judge("example.com:443", said, str(PUBLIC_4)), Reason.ADDRESS_DENIED, "corp")
    refused(judge("93.184.216.34:443", said), Reason.ADDRESS_DENIED, "corp")
    granted(judge("example.com:443", said, "93.184.215.255"))


@pytest.mark.parametrize("bad", ["10.0.0.1", "::1", "169.254.169.254", "64:ff9b::7f00:1"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_attack_3_2_and_3_3_one_bad_answer_refuses_all(bad: str, place: int) -> None:
    answer = [str(PUBLIC_4), str(PUBLIC_6)]
    answer.insert(place, bad)
    verdict = judge("example.com:443", world(), *answer)
    assert isinstance(verdict, Deny)
    assert verdict.address == IPAddress(bad)


def test_what_is_locked_is_said_before_what_is_denied() -> None:
    verdict = refused(judge("example.com:443", world(), "10.0.0.1", "169.254.169.254"), Reason.ADDRESS_LOCKED)
    assert verdict.address == IPAddress("169.254.169.254")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("metadata.google.internal", Reason.NAME_LOCKED),
        ("x.internal", Reason.NAME_RESERVED),
        ("localhost", Reason.NAME_RESERVED),
        ("ads.tracker.example", Reason.NAME_DENIED),
    ],
)
def test_attack_3_4_every_name_of_the_chain_is_judged(name: str, reason: Reason) -> None:
    said = world(default="deny", deny=(deny(hosts=["*.tracker.example"]),), allow=(allow("example.com"),))
    for chain in ((name,), ("cdn.example.net", name), (name, "cdn.example.net")):
        verdict = judge("example.com:443", said, str(PUBLIC_4), chain=chain)
        assert refused(verdict, reason).name == name
    granted(judge("example.com:443", said, str(PUBLIC_4), chain=("not-on-the-allowlist.example",)))


def test_a_permit_covers_the_chain_of_its_name_but_no_metadata_name() -> None:
    said = world(default="deny", permit=(permit("nas.example", "10.0.0.0/8"),), deny=(deny(hosts=["denied.example"]),))
    granted(judge("nas.example:443", said, "10.0.0.1", chain=("nas.home.arpa", "denied.example")))
    verdict = judge("nas.example:443", said, "10.0.0.1", chain=("nas.home.arpa", "metadata.goog"))
    assert refused(verdict, Reason.NAME_LOCKED).name == "metadata.goog"


# Permits


def test_r9_a_permit_opens_one_host_on_its_ports_into_its_networks() -> None:
    said = world(default="deny", permit=(permit("nas.local", "10.0.0.0/30", ports=[22]),))
    assert judge("nas.local:22", said) is NEED_ADDRESSES
    verdict = granted(judge("nas.local:22", said, "10.0.0.3"))
    assert (verdict.rule, verdict.permitted, verdict.would) == ("permitted", True, None)
    refused(judge("nas.local:22", said, "10.0.0.4"), Reason.ADDRESS_DENIED)
    refused(judge("nas.local:22", said, "10.0.0.3", "10.0.0.4"), Reason.ADDRESS_DENIED)
    refused(judge("nas.local:23", said, "10.0.0.3"), Reason.PORT_DENIED)
    refused(judge("nas.local:443", said, "10.0.0.3"), Reason.NAME_RESERVED)
    refused(judge("a.nas.local:443", said, "10.0.0.3"), Reason.NAME_RESERVED)
    refused(judge("10.0.0.3:22", said), Reason.PORT_DENIED)


@pytest.mark.parametrize(
    ("target", "said", "reason"),
    [
        ("nas.example:22", {}, Reason.PORT_DENIED),
        ("nas.example:8443", {"ports": [443]}, Reason.PORT_DENIED),
        ("nas.example:443", {"deny": (deny(hosts=["nas.example"]),)}, Reason.NAME_DENIED),
        ("nas.local:443", {}, Reason.NAME_RESERVED),
        ("nas.example:443", {"default": "deny"}, Reason.NOT_ALLOWLISTED),
        ("nas.example:443", {"default": "deny", "allow": (allow("nas.example", ports=[80]),)}, Reason.NOT_ALLOWLISTED),
        ("nas.example:443", {"deny": (deny(networks=["93.184.216.0/24"]),)}, Reason.ADDRESS_DENIED),
    ],
)
def test_r9_a_permit_whose_host_resolves_to_a_public_address_is_judged_as_anybodys(
    target: str, said: dict[str, Any], reason: Reason
) -> None:
    """Port, name, allowlist and addresses: else whoever answers for the host would go anywhere on any port."""
    asked = parse_authority(target)
    row = permit(asked.host, "10.0.0.0/8", ports=[asked.port])
    permitted = world(permit=(row,), **said)
    assert judge(target, permitted) is NEED_ADDRESSES
    assert granted(judge(target, permitted, "10.0.0.1")).permitted
    for answer in ((str(PUBLIC_4),), (str(PUBLIC_4), str(PUBLIC_6))):
        assert judge(target, permitted, *answer) == refused(judge(target, world(**said), *answer), reason)


def test_r9_where_public_addresses_are_allowed_a_permit_for_others_vouches_for_nothing() -> None:
    said = world(permit=(permit("nas.example", "10.0.0.0/8"),))
    verdict = granted(judge("nas.example:443", said, str(PUBLIC_4)))
    assert (verdict.rule, verdict.permitted, verdict.would) == ("default", False, None)
    listed = world(default="deny", permit=(permit("nas.example", "10.0.0.0/8"),), allow=(allow("nas.example"),))
    verdict = granted(judge("nas.example:443", listed, str(PUBLIC_4)))
    assert (verdict.rule, verdict.permitted, verdict.would) == ("allowed", False, None)
    reported = world(default="deny", mode="report", permit=(permit("nas.example", "10.0.0.0/8"),))
    verdict = granted(judge("nas.example:443", reported, str(PUBLIC_4)))
    assert (verdict.permitted, verdict.would) == (False, Deny(Reason.NOT_ALLOWLISTED, "allowlist"))


@pytest.mark.parametrize("answer", [("10.0.0.1", str(PUBLIC_4)), (str(PUBLIC_4), "10.0.0.1")])
def test_r9_one_address_outside_the_networks_of_a_permit_leaves_it_without_effect(answer: tuple[str, str]) -> None:
    said = world(permit=(permit("nas.example", "10.0.0.0/8"),))
    assert refused(judge("nas.example:443", said, *answer), Reason.ADDRESS_DENIED).address == IPAddress("10.0.0.1")


def test_r9_a_permit_for_public_networks_opens_them_too() -> None:
    said = world(default="deny", permit=(permit("nas.example", "93.184.216.34/32", ports=[22]),))
    verdict = granted(judge("nas.example:22", said, str(PUBLIC_4)))
    assert (verdict.rule, verdict.permitted) == ("permitted", True)


def test_r9_the_permits_for_a_host_and_port_hold_together_and_the_rule_opens_the_first_address() -> None:
    rows = (permit("nas.local", "10.0.0.0/8", name="a"), permit("nas.local", "192.168.0.0/16", name="b"))
    said = world(default="deny", permit=rows)
    for answer, rule in (
        (("10.0.0.1",), "a"),
        (("192.168.0.1",), "b"),
        (("10.0.0.1", "192.168.0.1"), "a"),
        (("192.168.0.1", "10.0.0.1"), "b"),
    ):
        verdict = granted(judge("nas.local:443", said, *answer))
        assert (verdict.rule, verdict.permitted) == (rule, True)
    refused(judge("nas.local:443", said, "10.0.0.1", "192.168.0.1", "172.16.0.1"), Reason.ADDRESS_DENIED)


def test_a_permit_is_the_only_exception_to_a_deny_row() -> None:
    rows = (deny(hosts=["nas.example"], networks=["93.184.216.0/24"]),)
    said = world(deny=rows, permit=(permit("nas.example", "93.184.216.34/32"),))
    granted(judge("nas.example:443", said, str(PUBLIC_4)))
    refused(judge("nas.example:443", said, "93.184.216.35"), Reason.ADDRESS_DENIED, "denied")
    refused(judge("other.example:443", said, str(PUBLIC_4)), Reason.ADDRESS_DENIED, "denied")


def test_attack_7_6_no_allow_row_opens_what_a_deny_row_refuses() -> None:
    rows = (deny(hosts=["api.example.com"]), deny(networks=["93.184.216.0/24"], name="corp"))
    said = world(default="deny", deny=rows, allow=(allow("api.example.com", "b.example.com", "93.184.216.34"),))
    refused(judge("api.example.com:443", said), Reason.NAME_DENIED)
    refused(judge("b.example.com:443", said, str(PUBLIC_4)), Reason.ADDRESS_DENIED, "corp")
    refused(judge("93.184.216.34:443", said), Reason.ADDRESS_DENIED, "corp")


@pytest.mark.parametrize("address", ["127.0.0.2", "10.0.0.1", "fd00::1"])
def test_attack_7_6_a_permit_for_everything_opens_only_its_own_host(address: str) -> None:
    said = world(permit=(permit("nas.example", *ANYWHERE),))
    granted(judge("nas.example:443", said, address))
    refused(judge("other.example:443", said, address), Reason.ADDRESS_DENIED)
    refused(judge("nas.example:80", said, address), Reason.ADDRESS_DENIED)


@pytest.mark.parametrize(
    "carrier",
    [
        pytest.param("::ffff:127.0.0.1", id="2.3-mapped"),
        pytest.param("::7f00:1", id="2.4-compatible"),
        pytest.param("::ffff:0:7f00:1", id="2.5-siit"),
        pytest.param("64:ff9b::7f00:1", id="2.6-nat64"),
        pytest.param("64:ff9b:1::7f00:1", id="2.7-local-use"),
        pytest.param("2002:7f00:1::", id="2.9-6to4"),
        pytest.param("2001:0:7f00:1::", id="2.10-teredo"),
        pytest.param("fd00::5efe:7f00:1", id="2.11-isatap"),
    ],
)
def test_attack_2_a_permit_never_opens_a_carrier_form(carrier: str) -> None:
    said = world(permit=(permit("nas.example", "127.0.0.0/8", "::/0"),))
    granted(judge("nas.example:443", said, "127.0.0.1"))
    assert isinstance(judge("nas.example:443", said, carrier), Deny)


def test_attack_2_7_r9_a_permit_opens_a_local_use_address_that_carries_a_public_one() -> None:
    """The zeros at the positions of other lengths once made it 0.0.0.0, which no permit opens."""
    said = world(permit=(permit("nas.example", "64:ff9b:1::/48"),))
    granted(judge("nas.example:443", said, "64:ff9b:1:808:8:800::"))
    refused(judge("nas.example:443", said, "64:ff9b:1:a00:0:500::"), Reason.ADDRESS_DENIED, "private network")


@pytest.mark.parametrize(
    "locked",
    [
        *("0.0.0.0", "::", "169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16"),
        *("192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe", "169.254.0.23"),
        *("169.254.42.42", "fd00:c1::a9fe:a9fe", "fd00:a9fe:a9fe::1", "fd00:100::100:200", "fd00:42::42"),
        *("192.80.8.124", "100.96.0.96", "100.80.80.80", "100.88.222.5", "169.254.169.250", "169.254.169.252"),
        *("::ffff:169.254.169.254", "::a9fe:a9fe", "64:ff9b::a9fe:a9fe", "2002:a83f:8110::"),
    ],
)
def test_attack_2_16_no_permit_opens_a_locked_address(locked: str) -> None:
    address = IPAddress(locked)
    said = world(permit=(permit("nas.example", *ANYWHERE), permit(str(address), *ANYWHERE)))
    refused(judge("nas.example:443", said, locked), Reason.ADDRESS_LOCKED)
    refused(decide(Destination(str(address), 443, address), CLIENT, said), Reason.ADDRESS_LOCKED)


@pytest.mark.parametrize(
    ("network", "locked"),
    [
        ("100.64.0.0/10", ("100.80.80.80", "100.88.222.5", "100.96.0.96", "100.100.100.200")),
        ("169.254.0.0/16", ("169.254.0.23", "169.254.169.250", "169.254.169.252", "169.254.169.254", "169.254.170.2")),
    ],
)
def test_attack_2_16_a_permit_for_the_range_around_it_opens_no_metadata_address(
    network: str, locked: tuple[str, ...]
) -> None:
    said = world(permit=(permit("nas.example", network),))
    for address in locked:
        neighbour = str(IPAddress(address) + 7)
        assert granted(judge("nas.example:443", said, neighbour)).addresses == addresses(neighbour)
        refused(judge("nas.example:443", said, address), Reason.ADDRESS_LOCKED)
        refused(judge("nas.example:443", said, neighbour, address), Reason.ADDRESS_LOCKED)


@pytest.mark.parametrize(
    ("carrier", "port", "reason", "rule"),
    [
        pytest.param("2002:a9fe:a9fe::1", 443, Reason.ADDRESS_LOCKED, "cloud metadata service", id="locked"),
        pytest.param("2002:909:909::", 3128, Reason.ADDRESS_LOCKED, "proxyd itself", id="own"),
        pytest.param("2002:808:808::1", 443, Reason.ADDRESS_DENIED, "denied", id="deny-row"),
        pytest.param("2002:a00:1::", 443, Reason.ADDRESS_DENIED, "private network", id="special"),
    ],
)
def test_attack_2_9_the_refused_address_is_the_one_answered_and_not_the_ipv4_inside(
    carrier: str, port: int, reason: Reason, rule: str
) -> None:
    """The log must name what DNS said. A permit opens the carrier itself here, so that what it carries is judged."""
    said = world(
        own=Own(frozenset({3128}), frozenset(nets("9.9.9.9/32"))),
        permit=(permit("nas.example", "2002::/16", ports=[443, 3128]),),
        deny=(deny(networks=["8.8.8.0/24"]),),
    )
    verdict = refused(judge(f"nas.example:{port}", said, carrier), reason, rule)
    assert verdict.address == IPAddress(carrier)


@pytest.mark.parametrize("answer", [("10.0.0.1", "192.168.0.1"), ("192.168.0.1", "10.0.0.1")])
def test_r9_of_a_mixed_answer_the_address_outside_the_permit_is_the_one_refused(answer: tuple[str, str]) -> None:
    said = world(permit=(permit("nas.local", "10.0.0.0/8"),))
    verdict = refused(judge("nas.local:443", said, *answer, chain=("x.internal",)), Reason.ADDRESS_DENIED)
    assert verdict.address == IPAddress("192.168.0.1")


def test_r9_the_rule_of_what_is_both_allowed_and_permitted_is_the_permits() -> None:
    """The allowlist alone would not have opened it."""
    said = world(default="deny", allow=(allow("nas.example"),), permit=(permit("nas.example", "10.0.0.0/8"),))
    verdict = granted(judge("nas.example:443", said, "10.0.0.1"))
    assert (verdict.rule, verdict.permitted) == ("permitted", True)
    verdict = granted(judge("nas.example:443", said, str(PUBLIC_4)))
    assert (verdict.rule, verdict.permitted) == ("allowed", False)


def test_a_permit_for_a_literal_opens_that_literal() -> None:
    said = world(default="deny", permit=(permit("::1", "::1/128", ports=[11434]),))
    assert granted(judge("[::1]:11434", said)).addresses == addresses("::1")
    assert granted(judge("[0:0::1]:11434", said)).addresses == addresses("::1")
    refused(judge("127.0.0.1:11434", said), Reason.NOT_ALLOWLISTED)


@pytest.mark.parametrize(
    ("networks", "reached"),
    [
        (("127.0.0.1/32", "::1/128"), ("127.0.0.1", "::1")),
        (("127.0.0.0/8",), ("127.0.0.1",)),
        (("::1/128",), ("::1",)),
    ],
)
def test_r9_a_permitted_localhost_is_the_address_that_the_permit_opens(
    networks: tuple[str, ...], reached: tuple[str, ...]
) -> None:
    said = world(default="deny", permit=(permit("localhost", *networks, ports=[11434]),))
    assert granted(judge("localhost:11434", said)).addresses == addresses(*reached)
    refused(judge("localhost:11435", said), Reason.NAME_RESERVED)


def test_a_permit_that_opens_no_loopback_address_leaves_localhost_closed() -> None:
    refused(
        judge("localhost:443", world(permit=(permit("localhost", "10.0.0.0/8"),))), Reason.ADDRESS_DENIED, "loopback"
    )


def test_what_dns_is_supposed_to_say_of_localhost_is_ignored() -> None:
    said = world(permit=(permit("localhost", "127.0.0.0/8"),))
    for chain in ((), ("metadata.google.internal",)):
        assert granted(judge("localhost:443", said, str(PUBLIC_4), chain=chain)).addresses == addresses("127.0.0.1")


def test_a_permit_holds_through_its_last_day_and_not_a_day_longer() -> None:
    rows = (permit("nas.local", "10.0.0.0/8", expires=TODAY),)
    granted(judge("nas.local:443", world(permit=rows), "10.0.0.1"))
    later = world(permit=rows, today=TODAY + timedelta(days=1))
    refused(judge("nas.local:443", later, "10.0.0.1"), Reason.NAME_RESERVED)


# Translators and ourselves


def nat64(*prefixes: str, **said: Any) -> Snapshot:  # noqa: ANN401
    """A world with these translators."""
    return world(dns=Dns(nat64=tuple(IPNetwork(each) for each in prefixes)), **said)


@pytest.mark.parametrize(
    ("prefix", "public", "private"),
    [
        pytest.param("64:ff9b::/96", "64:ff9b::808:808", "64:ff9b::a00:1", id="2.6-well-known"),
        pytest.param("64:ff9b:1::/48", "64:ff9b:1:808:8:800::", "64:ff9b:1:a00:0:100::", id="2.7-local-use"),
        pytest.param("2001:db8:64::/96", "2001:db8:64::808:808", "2001:db8:64::a00:1", id="2.8-operator"),
    ],
)
def test_attack_2_8_behind_a_declared_translator_the_ipv4_address_is_judged(
    prefix: str, public: str, private: str
) -> None:
    said = nat64(prefix)
    assert granted(judge("example.com:443", said, public)).addresses == addresses(public)
    refused(judge("example.com:443", said, private), Reason.ADDRESS_DENIED, "private network")
    assert isinstance(judge("example.com:443", world(), public), Deny)


def test_attack_2_6_metadata_stays_locked_behind_a_translator() -> None:
    said = nat64("64:ff9b::/96", permit=(permit("nas.example", *ANYWHERE),))
    refused(judge("nas.example:443", said, "64:ff9b::a9fe:a9fe"), Reason.ADDRESS_LOCKED, "cloud metadata service")
    refused(judge("nas.example:443", said, "64:ff9b::a00:1"), Reason.ADDRESS_DENIED, "private network")


@pytest.mark.parametrize("prefix", ["fd00:100::/96", "fd00:100::/64", "fd00:100::/32"])
def test_attack_2_16_no_translator_opens_a_locked_address(prefix: str) -> None:
    said = nat64(prefix, permit=(permit("nas.example", *ANYWHERE),))
    assert isinstance(judge("example.com:443", said, "fd00:100::100:200"), Deny)
    assert isinstance(judge("nas.example:443", said, "fd00:100::100:200"), Deny)


OWN = Own(
    frozenset({3128, 9128}), frozenset(nets("93.184.216.34/32", "10.0.0.9/32", "2001:db8:64::1/128", "9.9.9.0/24"))
)


@pytest.mark.parametrize("port", [3128, 9128])
@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "93.184.216.34", "10.0.0.9", "::ffff:127.0.0.1", "2002:5db8:d822::"),
        pytest.param("9.9.9.7", id="a local route"),
        pytest.param("2002:909:907::", id="a local route in a carrier"),
    ],
)
def test_attack_2_17_proxyd_is_reached_by_nobody_through_proxyd(address: str, port: int) -> None:
    said = world(own=OWN, permit=(permit("self.example", *ANYWHERE, ports=[port]),))
    refused(judge(f"self.example:{port}", said, address), Reason.ADDRESS_LOCKED, "proxyd itself")


def test_attack_2_17_localhost_is_no_way_around_it() -> None:
    said = world(own=OWN, permit=(permit("localhost", "127.0.0.0/8", "::1/128", ports=[3128, 3129]),))
    refused(judge("localhost:3128", said), Reason.ADDRESS_LOCKED, "proxyd itself")
    granted(judge("localhost:3129", said))


def test_other_ports_of_this_host_and_the_same_port_elsewhere_are_not_proxyd() -> None:
    granted(judge("example.com:443", world(own=OWN), str(PUBLIC_4)))
    granted(judge("example.com:3128", world(own=OWN), "8.8.8.8"))


# Properties, over worlds in which rows, names and addresses meet often

HOSTS = ("nas.local", "a.example.com", "example.com", "localhost", "metadata.goog")
ADDRESSES = addresses(
    *("10.0.0.1", "93.184.216.34", "8.8.8.8", "127.0.0.1", "169.254.169.254", "::1", "fd00::1", "2606:4700::1"),
    *("::ffff:10.0.0.1", "64:ff9b::808:808", "64:ff9b::a00:1", "2002:a00:1::", "2606:4700::5efe:a00:1"),
)
NETWORKS = ("0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.1/32", "127.0.0.0/8", "::1/128", "fd00::/8", "8.8.8.0/24")
PORTS = (443, 443, 443, 22)
DESTINATIONS = (
    *(Destination(host, port) for host in HOSTS for port in PORTS),
    *(Destination(str(each), port, each) for each in ADDRESSES for port in PORTS),
)

denies = st.builds(
    lambda hosts, networks: deny(hosts=hosts, networks=networks),
    st.lists(st.sampled_from((*HOSTS, "*.example.com", "*.com", "*.local")), max_size=1),
    st.lists(st.sampled_from(NETWORKS), max_size=2),
)
allows = st.builds(
    lambda host, port: allow(host, ports=[port]), st.sampled_from((*HOSTS, "*.com")), st.sampled_from(PORTS)
)
answers = st.builds(
    lambda found, chain: Resolution(tuple(found), tuple(chain)),
    st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3),
    st.lists(st.sampled_from(HOSTS), max_size=1),
)


def permits(destination: Destination) -> st.SearchStrategy[PermitRow]:
    """Permits that mostly name this destination, and sometimes miss it by host or port."""
    hosts = st.sampled_from((destination.host, destination.host, *HOSTS))
    ports = st.sampled_from((destination.port, destination.port, *PORTS))
    networks = st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=2)
    return st.builds(lambda host, port, each: permit(host, *each, ports=[port]), hosts, ports, networks)


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], Destination]:
    """What a policy says, and a destination that it has something to say about."""
    destination = draw(st.sampled_from(DESTINATIONS))
    said = {
        "default": draw(st.sampled_from(("allow", "deny"))),
        "mode": draw(st.sampled_from(("enforce", "report"))),
        "permit": tuple(draw(st.lists(permits(destination), max_size=3))),
        "deny": tuple(draw(st.lists(denies, max_size=2))),
        "allow": tuple(draw(st.lists(allows, max_size=2))),
    }
    return said, destination


OPENED = (
    {"permit": (permit("nas.local", "10.0.0.0/8", "::/0"),), "deny": (deny(networks=["::/0"]),)},
    Destination("nas.local", 443),
)


@given(requests(), answers)
@example(OPENED, Resolution(addresses("10.0.0.1", "::1")))
@example(OPENED, Resolution(addresses("10.0.0.1", "::ffff:10.0.0.1")))
@example(OPENED, Resolution(addresses("10.0.0.1", "127.0.0.1")))
def test_r5_no_special_address_is_allowed_unless_a_permit_names_host_port_and_network(
    request: tuple[dict[str, Any], Destination], answer: Resolution
) -> None:
    said, destination = request
    snapshot = world(**said)
    verdict = decide(destination, CLIENT, snapshot, answer)
    if not isinstance(verdict, Allow):
        return
    assert metadata_name(destination.host) is None
    for address in verdict.addresses:
        assert locked_address(address) is None
        assert not any(special_address(each) for each in embedded_ipv4(address))
        if special_address(address) is not None or snapshot.rules(CLIENT).denied_address(address) is not None:
            assert any(
                row.host == destination.host
                and any(destination.port in span for span in row.ports)
                and any(address in network for network in row.networks)
                for row in snapshot.policy.permit
            )


@given(requests(), answers)
def test_an_allow_carries_exactly_what_was_judged(
    request: tuple[dict[str, Any], Destination], answer: Resolution
) -> None:
    said, destination = request
    verdict = decide(destination, CLIENT, world(**said), answer)
    if not isinstance(verdict, Allow):
        return
    assert verdict.destination == destination
    if destination.address is not None:
        assert verdict.addresses == (destination.address,)
    else:
        assert set(verdict.addresses) <= {*answer.addresses, *LOCALHOST_ADDRESSES}
        assert destination.host == "localhost" or verdict.addresses == answer.addresses


@given(requests(), answers, denies)
def test_one_more_deny_row_never_allows_anything(
    request: tuple[dict[str, Any], Destination], answer: Resolution, more: object
) -> None:
    said, destination = request
    stricter = world(**{**said, "deny": (*said["deny"], more)})
    for found in (None, answer):
        if isinstance(decide(destination, CLIENT, world(**said), found), Deny):
            assert isinstance(decide(destination, CLIENT, stricter, found), Deny)


@given(requests(), answers)
@example(
    ({"permit": (permit("metadata.goog", "10.0.0.0/8"),)}, Destination("metadata.goog", 443)),
    Resolution(addresses("127.0.0.1")),
)
def test_what_is_refused_before_dns_is_refused_for_the_same_reason_after_it(
    request: tuple[dict[str, Any], Destination], answer: Resolution
) -> None:
    said, destination = request
    before = decide(destination, CLIENT, world(**said))
    after = decide(destination, CLIENT, world(**said), answer)
    assert after is not NEED_ADDRESSES
    if isinstance(before, Deny):
        assert after == before


@given(requests(), st.lists(st.sampled_from(ADDRESSES), min_size=2, max_size=4, unique=True))
def test_attack_3_2_an_answer_is_allowed_only_if_each_of_its_addresses_is(
    request: tuple[dict[str, Any], Destination], found: list[IPAddress]
) -> None:
    said, destination = request
    verdict = decide(destination, CLIENT, world(**said), Resolution(tuple(found)))
    for each in found:
        alone = decide(destination, CLIENT, world(**said), Resolution((each,)))
        assert isinstance(verdict, Deny) or isinstance(alone, Allow)


@given(requests(), answers)
@example(OPENED, Resolution(addresses("10.0.0.1", "8.8.8.8")))
def test_r9_permits_that_do_not_hold_every_address_are_as_good_as_none(
    request: tuple[dict[str, Any], Destination], answer: Resolution
) -> None:
    said, destination = request
    snapshot = world(**said)
    verdict = decide(destination, CLIENT, snapshot, answer)
    without = decide(destination, CLIENT, world(**{**said, "permit": ()}), answer)
    named = snapshot.rules(CLIENT).permits(destination)
    found = (destination.address,) if destination.address is not None else answer.addresses
    if destination.host == "localhost":
        found = LOCALHOST_ADDRESSES if not isinstance(verdict, Allow) else verdict.addresses
    held = bool(named) and all(any(row.opens(each) for row in named) for each in found)
    if isinstance(verdict, Allow):
        assert verdict.permitted is held
        assert held or verdict == without
    elif not held and destination.host != "localhost":
        assert isinstance(without, Deny)


@given(requests(), answers)
def test_report_mode_differs_in_the_allowlist_alone(
    request: tuple[dict[str, Any], Destination], answer: Resolution
) -> None:
    said, destination = request
    enforced = decide(destination, CLIENT, world(**{**said, "mode": "enforce"}), answer)
    reported = decide(destination, CLIENT, world(**{**said, "mode": "report"}), answer)
    if isinstance(enforced, Deny) and enforced.reason is Reason.NOT_ALLOWLISTED:
        assert isinstance(reported, Deny) or granted(reported).would == enforced
    else:
        assert reported == enforced


def test_the_ports_of_these_worlds_are_both_good_and_bad() -> None:
    assert [port in BAD_PORTS for port in PORTS] == [False, False, False, True]
