"""The special-purpose table, held against the registries and the documented denylist, spelt out here once more.

Each network's first and last address and the two just outside are asked (R5, ATTACKS 2.12-2.16). A row that is
dropped, widened or shifted by one address fails here.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from proxyd.policy.special import _METADATA_NAMES as METADATA_NAMES
from proxyd.policy.special import (
    BAD_PORTS,
    LOCALHOST_ADDRESSES,
    is_localhost,
    locked_address,
    metadata_name,
    reserved_name,
    special_address,
)

# The page of the client that this proxy is for: "Recommended blocked destinations".
DOCUMENTED = """
127.0.0.0/8 ::1/128 0.0.0.0/8 ::/128 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 169.254.0.0/16 fe80::/10 169.254.169.254/32
100.64.0.0/10 198.18.0.0/15 2001:2::/48 192.0.0.0/24 192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32
224.0.0.0/4 ff00::/8 240.0.0.0/4 fc00::/7 fec0::/10 100::/64 2001:20::/28 64:ff9b::/96 64:ff9b:1::/48 2002::/16
2001::/32 ::/96 ::ffff:0:0/96
""".split()  # noqa: SIM905 - a table reads better than quotes

# What the IANA special-purpose registries hold beyond it, and addresses that were returned or never assigned.
REGISTERED = """
0.0.0.0/32 192.0.0.0/29 192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.31.196.0/24
192.52.193.0/24 192.88.99.0/24 192.88.99.2/32 192.175.48.0/24 255.255.255.255/32
::ffff:0:0:0/96 100:0:0:1::/64 2001::/23 2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:3::/32 2001:4:112::/48
2001:10::/28 2001:30::/28 2620:4f:8000::/48 3ffe::/16 3fff::/20 5f00::/16
::/3 4000::/3 6000::/3 8000::/3 a000::/3 c000::/3 e000::/4 f000::/5 f800::/6 fe00::/9
""".split()  # noqa: SIM905

LOCKED = """
0.0.0.0 :: 169.254.169.254 169.254.170.2 169.254.170.23 169.254.0.23 169.254.42.42 100.100.100.200 168.63.129.16
192.0.0.192 192.80.8.124 100.80.80.80 100.88.222.5 100.96.0.96 169.254.169.250 169.254.169.252
fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:a9fe:a9fe::1 fd00:42::42
fd00:100::100:200 fe80::a9fe:a9fe
""".split()  # noqa: SIM905

# Where each metadata name leads, as its vendor says; nowhere in particular for CloudStack's, which is the router's.
GOOGLE = ("169.254.169.254", "fd20:ce::254")
AWS = ("169.254.169.254", "fd00:ec2::254")
LEADS_TO: dict[str, tuple[str, ...]] = {
    "metadata.google.internal": GOOGLE,
    "*.metadata.google.internal": GOOGLE,
    "metadata.goog": GOOGLE,
    "*.metadata.goog": GOOGLE,
    "metadata": GOOGLE,
    "instance-data": AWS,
    "instance-data.ec2.internal": AWS,
    "api.metadata.cloud.ibm.com": ("169.254.169.254",),
    "metadata.platformequinix.com": ("192.80.8.124",),
    "metadata.packet.net": ("192.80.8.124",),
    "data-server": (),
    "rancher-metadata": ("169.254.169.250",),
    "metadata.tencentyun.com": ("169.254.0.23", "100.88.222.5"),
}

# https://fetch.spec.whatwg.org/#port-blocking
FETCH_BAD_PORTS = """
0 1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 77 79 87 95 101 102 103 104 109 110 111 113 115 117 119 123 135
137 139 143 161 179 389 427 465 512 513 514 515 526 530 531 532 540 548 554 556 563 587 601 636 989 990 993 995 1719
1720 1723 2049 3659 4045 4190 5060 5061 6000 6566 6665 6666 6667 6668 6669 6679 6697 10080
""".split()  # noqa: SIM905

NETWORKS = [IPNetwork(each) for each in (*DOCUMENTED, *REGISTERED, *LOCKED)]
LOCKED_ADDRESSES = {IPAddress(each) for each in LOCKED}
ISATAP = {0x5EFE, 0x0100_5EFE, 0x0200_5EFE, 0x0300_5EFE}


def is_special(address: IPAddress) -> bool:
    """What the table must say, by a plain search."""
    if address.version == 6 and int(address) >> 32 & 0xFFFF_FFFF in ISATAP:
        return True
    return any(address in network for network in NETWORKS)


def edges(network: IPNetwork) -> list[IPAddress]:
    """The first and last address of a network, and those just outside."""
    top = 2**32 if network.version == 4 else 2**128
    around = (network.first - 1, network.first, network.last, network.last + 1)
    return [IPAddress(each, network.version) for each in around if 0 <= each < top]


@pytest.mark.parametrize("network", [*DOCUMENTED, *REGISTERED])
def test_r5_each_range_is_special_from_its_first_address_to_its_last_and_no_further(network: str) -> None:
    for address in edges(IPNetwork(network)):
        assert (special_address(address) is not None) == is_special(address), address
    assert special_address(IPNetwork(network).ip) is not None


@pytest.mark.parametrize(
    "address",
    [
        *("1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"),
        *(
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
        ),
        *("192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0"),
        *(
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "168.63.129.15",
            "168.63.129.17",
            "192.80.8.123",
            "192.80.8.125",
        ),
        *("2000::", "2001:200::", "2001:db7:ffff::", "2001:db9::", "2003::", "2620:4f:7fff::", "2620:4f:8001::"),
        *("3ffd:ffff::", "3fff:1000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2606:4700::1", "8.8.8.8"),
    ],
)
def test_neighbours_of_the_ranges_are_public(address: str) -> None:
    assert special_address(IPAddress(address)) is None


@given(st.integers(0, 2**32 - 1))
def test_ipv4_is_special_exactly_where_the_registries_say_so(value: int) -> None:
    assert (special_address(IPAddress(value, 4)) is not None) == is_special(IPAddress(value, 4))


@given(st.one_of(st.integers(0, 2**128 - 1), st.integers(0x2000 << 112, (0x4000 << 112) - 1)))
def test_attack_2_12_ipv6_is_public_only_inside_2000_3_minus_the_table(value: int) -> None:
    address = IPAddress(value, 6)
    assert (special_address(address) is not None) == is_special(address)
    assert special_address(address) is not None or address in IPNetwork("2000::/3")


@pytest.mark.parametrize(
    ("address", "what"),
    [
        pytest.param("127.255.255.255", "loopback", id="2.3-loopback"),
        pytest.param("0.0.0.0", "unspecified address", id="2.13-unspecified"),
        pytest.param("0.1.2.3", "this network", id="2.13-this-network"),
        pytest.param("100.64.0.1", "carrier-grade NAT shared address space", id="2.14-cgnat"),
        pytest.param("100.100.100.200", "cloud metadata service (Alibaba)", id="2.14-alibaba"),
        pytest.param("198.18.0.1", "benchmarking", id="2.15-benchmarking"),
        pytest.param("192.0.0.192", "cloud metadata service (Oracle)", id="2.15-oracle"),
        pytest.param("192.0.0.1", "IPv4 service continuity prefix", id="2.15-ds-lite"),
        pytest.param("192.0.0.100", "IETF protocol assignments", id="2.15-protocol"),
        pytest.param("192.88.99.1", "6to4 relay anycast, deprecated", id="2.15-6to4-relay"),
        pytest.param("192.88.99.2", "6a44 relay anycast", id="2.15-6a44"),
        pytest.param("240.0.0.1", "reserved", id="2.15-reserved"),
        pytest.param("255.255.255.255", "limited broadcast", id="2.15-broadcast"),
        pytest.param("224.0.0.1", "multicast", id="2.15-multicast"),
        pytest.param("169.254.1.1", "link-local", id="2.16-link-local"),
        pytest.param("169.254.169.254", "cloud metadata service", id="2.16-metadata"),
        pytest.param("168.63.129.16", "platform services (Azure), a public address", id="2.16-azure"),
        pytest.param("192.80.8.124", "cloud metadata service (Equinix), a public address", id="2.16-equinix"),
        pytest.param("100.96.0.96", "cloud metadata service (Volcengine)", id="2.16-volcengine"),
        pytest.param("100.80.80.80", "cloud metadata service (UCloud)", id="2.16-ucloud"),
        pytest.param("100.88.222.5", "cloud metadata service (Tencent)", id="2.16-tencent"),
        pytest.param("169.254.169.252", "cloud metadata service (Google GKE)", id="2.16-gke"),
        pytest.param("169.254.169.250", "cloud metadata service (Rancher)", id="2.16-rancher"),
        pytest.param("fd00:ec2::254", "cloud metadata service (AWS)", id="2.16-aws"),
        pytest.param("fd00:ec2::1", "unique local", id="2.16-ula"),
        pytest.param("::", "unspecified address", id="2.12-unspecified"),
        pytest.param("::1", "loopback", id="2.12-loopback"),
        pytest.param("fec0::1", "site-local, deprecated", id="2.12-site-local"),
        pytest.param("100::1", "discard-only", id="2.12-discard"),
        pytest.param("3fff::1", "documentation", id="2.12-3fff"),
        pytest.param("5f00::1", "segment routing SIDs", id="2.12-5f00"),
        pytest.param("2001:db8::1", "documentation", id="2.12-documentation"),
        pytest.param("2001:20::1", "ORCHIDv2", id="2.12-orchid"),
        pytest.param("ff0e::1", "multicast", id="2.12-multicast"),
        pytest.param("4000::1", "not global unicast", id="2.12-unassigned"),
        pytest.param("::7f00:1", "IPv4-compatible", id="2.4-compatible"),
        pytest.param("::ffff:7f00:1", "IPv4-mapped", id="2.3-mapped"),
        pytest.param("::ffff:0:7f00:1", "IPv4-translated (SIIT)", id="2.5-siit"),
        pytest.param("64:ff9b::808:808", "NAT64 well-known prefix", id="2.6-nat64"),
        pytest.param("64:ff9b:1::1", "NAT64 local-use prefix", id="2.7-local-use"),
        pytest.param("2002::1", "6to4", id="2.9-6to4"),
        pytest.param("2001::1", "Teredo", id="2.10-teredo"),
        pytest.param("2606:4700::5efe:808:808", "ISATAP", id="2.11-isatap"),
        pytest.param("2606:4700::300:5efe:808:808", "ISATAP", id="2.11-isatap-both-bits"),
        pytest.param("fe80::5efe:808:808", "ISATAP", id="2.11-isatap-link-local"),
    ],
)
def test_attack_2_the_narrowest_row_says_what_an_address_is(address: str, what: str) -> None:
    row = special_address(IPAddress(address))
    assert row is not None
    assert row.what == what


@pytest.mark.parametrize(
    "address",
    [
        *("::7f00:1", "::ffff:0:7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::"),
        *("2606:4700::5efe:a9fe:a9fe", "fec0::1", "3fff::1", "5f00::1", "192.0.0.192", "192.88.99.1"),
        *("168.63.129.16", "224.0.0.1", "ff0e::1"),
    ],
)
def test_attack_2_what_libraries_call_global_is_special_here(address: str) -> None:
    assert special_address(IPAddress(address)) is not None


@pytest.mark.parametrize("locked", LOCKED)
def test_attack_2_16_metadata_and_unspecified_addresses_are_locked_and_their_neighbours_not(locked: str) -> None:
    for address in edges(IPNetwork(locked)):
        assert (locked_address(address) is not None) == (address in LOCKED_ADDRESSES), address
    assert locked_address(IPAddress(locked)) == special_address(IPAddress(locked))


@given(
    st.one_of(
        st.integers(0, 2**32 - 1).map(lambda value: IPAddress(value, 4)), st.sampled_from(NETWORKS).map(lambda n: n[-1])
    )
)
def test_nothing_else_is_locked(address: IPAddress) -> None:
    row = locked_address(address)
    assert (row is not None) == (address in LOCKED_ADDRESSES)
    assert row is None or row.locked


def test_attack_2_16_where_a_metadata_name_leads_is_locked_too() -> None:
    """Else the name is refused, and its address is one permit for a range away."""
    assert set(LEADS_TO) == {name for name, _ in METADATA_NAMES}
    for each in {address for found in LEADS_TO.values() for address in found}:
        assert locked_address(IPAddress(each)) is not None, each


def test_every_row_says_where_it_is_written() -> None:
    for network in NETWORKS:
        row = special_address(IPAddress(network.first, network.version))
        assert row is not None
        assert row.what
        assert "RFC" in row.source or row.source.startswith("https://")


@pytest.mark.parametrize(
    "name",
    [
        *("metadata.google.internal", "a.metadata.google.internal", "metadata.goog", "a.b.metadata.goog", "metadata"),
        *("instance-data", "instance-data.ec2.internal", "api.metadata.cloud.ibm.com", "metadata.platformequinix.com"),
        *("metadata.packet.net", "data-server", "rancher-metadata", "metadata.tencentyun.com"),
    ],
)
def test_attack_3_4_metadata_names_are_known(name: str) -> None:
    row = metadata_name(name)
    assert row is not None
    assert row.locked
    assert "metadata" in row.what


@pytest.mark.parametrize(
    "name",
    [
        *("google.internal", "xmetadata.google.internal", "metadata.google.com", "metadata.goog.example.com", "goog"),
        *("xmetadata.goog", "metadata.example.com", "cloud.ibm.com", "packet.net", "example.com"),
    ],
)
def test_other_names_are_no_metadata_names(name: str) -> None:
    assert metadata_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("localhost", "foo.localhost", "a.b.localhost", "localhost.localdomain", "localhost6", "ip6-localhost"),
        *("ip6-loopback", "localdomain", "host.localdomain", "local", "printer.local", "internal", "x.internal"),
        *(
            "host.docker.internal",
            "home.arpa",
            "nas.home.arpa",
            "onion",
            "x.onion",
            "alt",
            "x.alt",
            "invalid",
            "x.invalid",
        ),
        *("ipv4only.arpa", "x.ipv4only.arpa"),
    ],
)
def test_attack_1_8_names_for_local_use_are_reserved(name: str) -> None:
    row = reserved_name(name)
    assert row is not None
    assert not row.locked


@pytest.mark.parametrize(
    "name",
    [
        *(
            "example.com",
            "example.org",
            "localhost.example.com",
            "notlocalhost",
            "mylocal",
            "x.mylocal",
            "internal.example.com",
        ),
        *("xinternal", "arpa", "xhome.arpa", "onion.example.com", "127.0.0.1.nip.io", "localtest.me"),
    ],
)
def test_public_names_are_not_reserved(name: str) -> None:
    """`example.com` is the client's own validation probe; what nip.io points to is judged by its address."""
    assert reserved_name(name) is None


@pytest.mark.parametrize("name", ["localhost", "foo.localhost", "a.b.localhost", "localhost.localdomain"])
def test_attack_1_8_the_localhost_tree_never_asks_dns(name: str) -> None:
    assert is_localhost(name)


@pytest.mark.parametrize(
    "name", ["notlocalhost", "localhost.example.com", "x.localhost.localdomain", "localhost6", "127.0.0.1"]
)
def test_other_names_do(name: str) -> None:
    assert not is_localhost(name)


def test_localhost_is_one_address_of_each_family() -> None:
    assert [str(each) for each in LOCALHOST_ADDRESSES] == ["127.0.0.1", "::1"]


def test_attack_4_9_the_bad_ports_are_those_of_the_fetch_standard() -> None:
    assert {0, *BAD_PORTS} == {int(port) for port in FETCH_BAD_PORTS}
    assert len(FETCH_BAD_PORTS) == 83
    assert not BAD_PORTS & {80, 443, 8080, 8443}
