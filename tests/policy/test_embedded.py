"""Which IPv4 addresses an IPv6 address carries: every carrier's RFC, its edges, and RFC 6052's own examples.

ATTACKS 2.3-2.11. Whether such an address may be had is `verdict`'s.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from proxyd.policy.embedded import (
    ISATAP_SLOT,
    RFC6052_LENGTHS,
    embedded_ipv4,
    is_isatap,
    rfc6052,
    slots,
    translated,
)

ipv4s = st.integers(0, 2**32 - 1)
OCTETS = {32: (4, 5, 6, 7), 40: (5, 6, 7, 9), 48: (6, 7, 9, 10), 56: (7, 9, 10, 11), 64: (9, 10, 11, 12)} | {
    96: (12, 13, 14, 15)
}
"""Where RFC 6052 §2.2 puts the four octets; octet 8 is reserved."""


def embed(prefix: int, length: int, ipv4: int, rest: int = 0) -> int:
    """An address under `prefix` with `ipv4` in its place and `rest` in every other octet behind the prefix."""
    octets = bytearray(IPAddress(prefix, 6).packed)
    for position in range(length // 8, 16):
        octets[position] = rest
    for position, octet in zip(OCTETS[length], ipv4.to_bytes(4, "big"), strict=True):
        octets[position] = octet
    return int.from_bytes(octets, "big")


def carried(text: str) -> list[str]:
    return [str(each) for each in embedded_ipv4(IPAddress(text))]


def test_the_lengths_are_those_of_rfc_6052() -> None:
    assert tuple(OCTETS) == RFC6052_LENGTHS


@pytest.mark.parametrize(
    ("address", "length"),
    [
        ("2001:db8:c000:221::", 32),
        ("2001:db8:1c0:2:21::", 40),
        ("2001:db8:122:c000:2:2100::", 48),
        ("2001:db8:122:3c0:0:221::", 56),
        ("2001:db8:122:344:c0:2:2100:0", 64),
        ("2001:db8:122:344::192.0.2.33", 96),
    ],
)
def test_the_examples_of_rfc_6052_section_2_4(address: str, length: int) -> None:
    assert rfc6052(int(IPAddress(address)), length) == int(IPAddress("192.0.2.33"))


@pytest.mark.parametrize("length", RFC6052_LENGTHS)
@given(prefix=st.integers(0, 2**128 - 1), ipv4=ipv4s, rest=st.integers(0, 255))
def test_what_was_embedded_comes_out_again_at_every_length(length: int, prefix: int, ipv4: int, rest: int) -> None:
    assert rfc6052(embed(prefix, length, ipv4, rest), length) == ipv4


LOW_32 = ("::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::")


@pytest.mark.parametrize("prefix", LOW_32)
@given(ipv4=st.integers(2, 2**32 - 1))
def test_attack_2_3_to_2_6_the_last_32_bits_are_the_ipv4_address(prefix: str, ipv4: int) -> None:
    assert list(embedded_ipv4(IPAddress(int(IPAddress(prefix)) | ipv4, 6))) == [IPAddress(ipv4, 4)]


@given(ipv4=ipv4s, rest=st.integers(0, 2**80 - 1))
def test_attack_2_9_the_6to4_router_is_carried_whatever_follows(ipv4: int, rest: int) -> None:
    address = IPAddress(0x2002 << 112 | ipv4 << 80 | rest, 6)
    assert next(embedded_ipv4(address)) == IPAddress(ipv4, 4)


@given(server=ipv4s, flags=ipv4s, client=ipv4s)
def test_attack_2_10_teredo_carries_its_server_and_its_client_flipped(server: int, flags: int, client: int) -> None:
    address = IPAddress(0x20010000 << 96 | server << 64 | flags << 32 | client ^ 0xFFFFFFFF, 6)
    assert list(embedded_ipv4(address))[:2] == [IPAddress(server, 4), IPAddress(client, 4)]


@given(prefix=st.integers(0, 2**64 - 1), ipv4=ipv4s, bits=st.sampled_from((0x0000, 0x0100, 0x0200, 0x0300)))
def test_attack_2_11_isatap_carries_its_host_under_any_prefix(prefix: int, ipv4: int, bits: int) -> None:
    address = IPAddress(prefix << 64 | bits << 48 | 0x5EFE << 32 | ipv4, 6)
    assert is_isatap(address)
    assert IPAddress(ipv4, 4) in embedded_ipv4(address)


@pytest.mark.parametrize("length", [48, 56, 64, 96])
@given(ipv4=st.integers(1, 2**32 - 1), rest=st.integers(0, 255))
def test_attack_2_7_the_local_use_prefix_is_read_at_every_length(length: int, ipv4: int, rest: int) -> None:
    address = IPAddress(embed(int(IPAddress("64:ff9b:1::")), length, ipv4, rest), 6)
    assert IPAddress(ipv4, 4) in embedded_ipv4(address)


@pytest.mark.parametrize(
    ("address", "carries"),
    [
        pytest.param("::ffff:a9fe:a9fe", ["169.254.169.254"], id="2.3-mapped"),
        pytest.param("::7f00:1", ["127.0.0.1"], id="2.4-compatible"),
        pytest.param("::ffff:0:7f00:1", ["127.0.0.1"], id="2.5-siit"),
        pytest.param("64:ff9b::a9fe:a9fe", ["169.254.169.254"], id="2.6-nat64"),
        pytest.param("2002:a9fe:a9fe::1", ["169.254.169.254"], id="2.9-6to4"),
        pytest.param("2001:0:4136:e378:8000:63bf:5601:5601", ["65.54.227.120", "169.254.169.254"], id="2.10-client"),
        pytest.param("2001:0:7f00:1::", ["127.0.0.1", "255.255.255.255"], id="2.10-server"),
        pytest.param("2606:4700::5efe:a9fe:a9fe", ["169.254.169.254"], id="2.11-isatap"),
        pytest.param("2606:4700::200:5efe:7f00:1", ["127.0.0.1"], id="2.11-isatap-universal"),
        pytest.param("2002:102:304::5efe:506:708", ["1.2.3.4", "5.6.7.8"], id="2.11-isatap-in-6to4"),
        pytest.param("::2", ["0.0.0.2"], id="first-compatible"),
        pytest.param("::ffff:ffff", ["255.255.255.255"], id="last-compatible"),
        pytest.param("2002::", ["0.0.0.0"], id="first-6to4"),
    ],
)
def test_attack_2_what_a_carrier_carries(address: str, carries: list[str]) -> None:
    assert carried(address) == carries


@pytest.mark.parametrize(
    "address", ["64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:808:808:808:a9fe:a9fe", "64:ff9b:1::a9fe:a9fe"]
)
def test_attack_2_7_metadata_in_any_local_use_position_is_seen(address: str) -> None:
    assert "169.254.169.254" in carried(address)


@pytest.mark.parametrize(
    ("address", "carries"),
    [
        pytest.param("64:ff9b:1::808:808", ["0.0.0.8", "8.8.8.8"], id="96"),
        pytest.param("64:ff9b:1:808:8:800::", ["8.8.8.8", "8.8.8.0", "8.8.0.0"], id="48"),
        pytest.param("64:ff9b:1:8:8:808::", ["0.8.8.8", "8.8.8.8", "8.8.8.0"], id="56"),
        pytest.param("64:ff9b:1::", ["0.0.0.0"] * 4, id="zero and nothing else"),
    ],
)
def test_attack_2_7_a_zero_at_a_position_that_is_a_guess_is_no_embedded_address(
    address: str, carries: list[str]
) -> None:
    """It fills the positions of the other lengths; 0.0.0.0, which no permit opens, would be in almost every one."""
    assert carried(address) == carries


@pytest.mark.parametrize(
    "address",
    [
        *(
            "::",
            "::1",
            "::1:0:0",
            "::fffe:ffff:ffff",
            "::1:0:0:0",
            "::fffe:ffff:ffff:ffff",
            "::ffff:1:0:0",
        ),
        *(
            "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff",
            "64:ff9b::1:0:0",
            "64:ff9b:0:ffff:ffff:ffff:ffff:ffff",
            "64:ff9b:2::",
        ),
        *("2001:1::", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:ffff::1", "2003::"),
        *("2606:4700::5efd:a9fe:a9fe", "2606:4700::5eff:a9fe:a9fe", "2606:4700::400:5efe:a9fe:a9fe"),
        *("2606:4700::1:5efe:a9fe:a9fe", "2606:4700::8000:5efe:a9fe:a9fe", "2606:4700::5efe:a9fe:a9fe:0"),
        *("127.0.0.1", "0.0.0.2", "255.255.255.255"),
    ],
)
def test_neighbours_of_the_carriers_carry_nothing(address: str) -> None:
    assert carried(address) == []


def test_an_ipv4_address_is_never_isatap() -> None:
    assert not is_isatap(IPAddress("0.0.94.254"))
    assert not is_isatap(IPAddress(0x5EFE, 4))


@pytest.mark.parametrize("length", RFC6052_LENGTHS)
@given(ipv4=ipv4s, rest=st.integers(0, 255))
def test_attack_2_8_a_declared_translator_is_read_at_its_own_length(length: int, ipv4: int, rest: int) -> None:
    prefix = IPNetwork(f"2001:db8::/{length}")
    address = IPAddress(embed(prefix.first, length, ipv4, rest), 6)
    assert translated(address, (IPNetwork("64:ff9b::/96"), prefix)) == IPAddress(ipv4, 4)


@pytest.mark.parametrize(
    "address", ["64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", "64:ff9b::1:0:0", "2606:4700::1", "8.8.8.8"]
)
def test_an_address_outside_every_translator_is_itself(address: str) -> None:
    asked = IPAddress(address)
    assert translated(asked, (IPNetwork("64:ff9b::/96"),)) is asked
    assert translated(asked, ()) is asked


@given(ipv4=st.integers(1, 2**32 - 1), rest=st.integers(0, 2**128 - 1), number=st.integers(0, 10))
def test_what_is_put_into_a_slot_is_carried(ipv4: int, rest: int, number: int) -> None:
    """The inverse of what is read: of each form."""
    every = [slot for each in _carriers() for slot in slots(each.first, each.last, ())]
    slot = every[number]
    address = slot.network.first | slot.put(ipv4, rest) & (slot.network.last - slot.network.first)
    assert IPAddress(ipv4, 4) in (*embedded_ipv4(IPAddress(address, 6)), IPAddress(1, 4))
    assert len(every) == 11


def _carriers() -> list[IPNetwork]:
    texts = "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"
    return [IPNetwork(each) for each in texts]


@pytest.mark.parametrize("length", RFC6052_LENGTHS)
@given(ipv4=ipv4s, rest=st.integers(0, 2**128 - 1))
def test_attack_2_8_what_is_put_behind_a_translator_is_read_there(length: int, ipv4: int, rest: int) -> None:
    prefix = IPNetwork(f"2a00:1450::/{length}")
    (slot,) = slots(prefix.first, prefix.last, (prefix, IPNetwork("2a01::/32")))
    address = prefix.first | slot.put(ipv4, rest) & (prefix.last - prefix.first)
    assert translated(IPAddress(address, 6), (prefix,)) == IPAddress(ipv4, 4)


@given(ipv4=ipv4s, rest=st.integers(0, 2**128 - 1))
def test_attack_2_11_what_is_put_into_isataps_slot_is_isatap(ipv4: int, rest: int) -> None:
    address = IPAddress(ISATAP_SLOT.put(ipv4, rest), 6)
    assert is_isatap(address)
    assert IPAddress(ipv4, 4) in (*embedded_ipv4(address), IPAddress(0, 4), IPAddress(1, 4))


@pytest.mark.parametrize(
    ("block", "network", "room"),
    [
        ("2002::/16", "2002::/16", [("0.0.0.0", "255.255.255.255")]),
        ("2002:808::/32", "2002::/16", [("8.8.0.0", "8.8.255.255")]),
        ("2002:808:808:1::/64", "2002::/16", [("8.8.8.8", "8.8.8.8")]),
        (
            *("2001:0:808::/48", "2001::/32"),
            [("8.8.0.0", "8.8.255.255"), ("0.0.0.0", "255.255.255.255")],
        ),
        ("2001::f7f7:0/112", "2001::/32", [("0.0.0.0", "0.0.0.0"), ("8.8.0.0", "8.8.255.255")]),
    ],
)
def test_the_room_of_a_block_is_what_its_fixed_bits_leave(
    block: str, network: str, room: list[tuple[str, str]]
) -> None:
    within, whole = IPNetwork(block), IPNetwork(network)
    found = [slot.room(within) for slot in slots(whole.first, whole.last, ())]
    assert found == [(int(IPAddress(first)), int(IPAddress(last))) for first, last in room]


@pytest.mark.parametrize(
    ("block", "fits"),
    [("2606::/32", True), ("2606::5efe:0:0/96", True), ("2606::5eff:0:0/96", False), ("2606::/96", False)],
)
def test_attack_2_11_a_block_has_room_for_isatap_if_it_may_bear_its_mark(block: str, *, fits: bool) -> None:
    assert (ISATAP_SLOT.room(IPNetwork(block)) is not None) is fits
