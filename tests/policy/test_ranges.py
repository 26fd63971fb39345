"""RangeTable against the plain search that it stands for: of all networks that hold an address, the narrowest."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from proxyd.policy.ranges import RangeTable

Rows = list[tuple[IPNetwork, int]]

WIDTH = {4: 32, 6: 128}


def tree(version: Literal[4, 6]) -> st.SearchStrategy[IPNetwork]:
    """Networks that meet each other often: few high bits vary, and both ends of the address space are among them."""

    def cut(corner: int, low: int, length: int) -> IPNetwork:
        return IPNetwork(f"{IPAddress(corner ^ low, version)}/{length}").cidr

    top = 2 ** WIDTH[version] - 1
    lengths = st.sampled_from((0, 1, 8, WIDTH[version] - 3, WIDTH[version] - 1, WIDTH[version]))
    return st.builds(cut, st.sampled_from((0, top, top // 2)), st.integers(0, 15), lengths)


networks = st.one_of(tree(4), tree(6))


def naive(rows: Rows, address: IPAddress) -> int | None:
    """What the table must say: widest prefix length first, and of equal networks the first given."""
    holding = [(each, value) for each, value in rows if address in each]
    return max(holding, key=lambda row: row[0].prefixlen)[1] if holding else None


def edges(network: IPNetwork) -> list[IPAddress]:
    """The first and last address of a network, and those just outside."""
    inside = (network.first - 1, network.first, network.last, network.last + 1)
    return [IPAddress(each, network.version) for each in inside if 0 <= each < 2 ** WIDTH[network.version]]


@given(st.lists(networks, max_size=8))
def test_the_table_answers_as_a_search_of_every_row_would(given_networks: list[IPNetwork]) -> None:
    rows = [(each, index) for index, each in enumerate(given_networks)]
    table = RangeTable(rows)
    probes = [address for each in given_networks for address in edges(each)]
    for address in (*probes, IPAddress("128.0.0.7"), IPAddress("8000::7")):
        assert table.find(address) == naive(rows, address)


def test_the_narrowest_network_wins_in_whatever_order_they_come() -> None:
    rows = [(IPNetwork("10.0.0.0/8"), "wide"), (IPNetwork("10.1.0.0/16"), "narrow"), (IPNetwork("10.1.1.1/32"), "one")]
    for table in (RangeTable(rows), RangeTable(reversed(rows))):
        asked = (
            "9.255.255.255",
            "10.0.0.0",
            "10.1.0.0",
            "10.1.1.1",
            "10.1.1.2",
            "10.2.0.0",
            "10.255.255.255",
            "11.0.0.0",
        )
        found = [table.find(IPAddress(each)) for each in asked]
        assert found == [None, "wide", "narrow", "one", "narrow", "wide", "wide", None]


def test_of_equal_networks_the_first_counts() -> None:
    table = RangeTable([(IPNetwork("::/0"), "first"), (IPNetwork("::/0"), "second")])
    assert table.find(IPAddress("::1")) == "first"


def test_neighbours_do_not_run_into_each_other() -> None:
    table = RangeTable([(IPNetwork("10.0.0.0/9"), "low"), (IPNetwork("10.128.0.0/9"), "high")])
    asked = ("10.127.255.255", "10.128.0.0", "10.255.255.255", "11.0.0.0")
    assert [table.find(IPAddress(each)) for each in asked] == ["low", "high", "high", None]


def test_a_network_that_ends_where_one_inside_it_begins_goes_on_until_then() -> None:
    networks = ("10.0.0.0/24", "10.0.0.252/30", "10.0.0.255/32")
    table = RangeTable((IPNetwork(each), each) for each in networks)
    asked = ("10.0.0.251", "10.0.0.252", "10.0.0.254", "10.0.0.255", "10.0.1.0")
    assert [table.find(IPAddress(each)) for each in asked] == [
        *("10.0.0.0/24", "10.0.0.252/30", "10.0.0.252/30", "10.0.0.255/32"),
        None,
    ]


def test_the_ends_of_the_address_space_are_in_it() -> None:
    table = RangeTable([(IPNetwork("0.0.0.0/0"), "all"), (IPNetwork("255.255.255.255/32"), "last")])
    assert [table.find(IPAddress(each)) for each in ("0.0.0.0", "255.255.255.254", "255.255.255.255")] == [
        "all",
        "all",
        "last",
    ]


def test_an_ipv4_network_holds_no_ipv6_address_of_the_same_number() -> None:
    table = RangeTable([(IPNetwork("0.0.0.0/0"), "four")])
    assert table.find(IPAddress("::1.2.3.4")) is None


def test_an_empty_table_holds_nothing() -> None:
    assert RangeTable[int]([]).find(IPAddress("::")) is None
