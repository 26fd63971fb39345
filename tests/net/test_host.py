"""Facts of this machine, read from files that may be odd or missing (R12); options and limits on the real kernel."""

from __future__ import annotations

import importlib.util
import resource
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
from netaddr import IPAddress, IPNetwork

from proxyd.net import host
from proxyd.net.host import (
    SPARE_FILES,
    file_limit,
    own_addresses,
    raise_file_limit,
    read_hosts,
    system_servers,
    tune,
    tunnels_within,
)
from proxyd.policy.address import Endpoint
from tests import namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIB_TRIE: Final = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.17
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 198.51.100.0/24 2 0 2
        |-- 198.51.100.7
           /32 link UNICAST
           /32 host LOCAL
     |-- 203.0.113.0
        /24 host LOCAL
"""
IF_INET6: Final = """\
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000021122fffe334455 02 40 20 80     eth0
20010db8000000000000000000000017 02 40 00 80     eth0
"""
IPV6_ROUTE: Final = "".join(
    f"{to:032x} {length:02x} {0:032x} 00 {0:032x} {metric:08x} 00000001 00000000 {flags:08x} {interface:>8}\n"
    for to, length, metric, flags, interface in (
        (0x20010DB8 << 96, 64, 0x100, 0x00000001, "eth0"),
        (0x20010DB8 << 96, 128, 0, 0x00300001, "eth0"),
        (0x20010DB8 << 96 | 0x17, 128, 0, 0x80200001, "eth0"),
        (0x26062800 << 96, 64, 0x400, 0x80000001, "lo"),
        (0xFF << 120, 8, 0x100, 0x00000001, "eth0"),
        (0, 0, 0xFFFFFFFF, 0x00200200, "lo"),
    )
)
"""A network, the anycast address of its routers, an address, a local route, multicast, and what has no route."""
OWN_PROC_NET: Final = Path("/proc/thread-self/net")
OWN_4: Final = {"127.0.0.0/8", "127.0.0.1/32", "192.0.2.17/32", "198.51.100.7/32", "203.0.113.0/24"}
OWN_6: Final = {"::1/128", "fe80::211:22ff:fe33:4455/128", "2001:db8::17/128", "2606:2800::/64"}
LOOPBACK: Final = {IPNetwork("127.0.0.1/32"), IPNetwork("::1/128")}


@pytest.fixture
def proc_net(tmp_path: Path) -> Path:
    """A /proc/net as Linux has it."""
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    (tmp_path / "ipv6_route").write_text(IPV6_ROUTE)
    return tmp_path


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Callable[[str | bytes], tuple[Endpoint, ...]]:
    """What is made of the text of a resolv.conf."""

    def read(text: str | bytes) -> tuple[Endpoint, ...]:
        path = tmp_path / "resolv.conf"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return system_servers(path)

    return read


@pytest.fixture
def hard_limit() -> Iterator[int]:
    """The hard limit of open files; whatever the test does, the limits are as before when it is over."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def own(proc_net: Path) -> set[str]:
    """What that Linux calls its own."""
    return {str(each) for each in own_addresses(proc_net)}


def servers(*addresses: str) -> tuple[Endpoint, ...]:
    """Resolvers on the usual port."""
    return tuple(Endpoint(IPAddress(each), 53) for each in addresses)


# Our own addresses


def test_attack_2_17_every_address_of_this_host_is_known(proc_net: Path) -> None:
    assert own(proc_net) == OWN_4 | OWN_6


@pytest.mark.parametrize("local", ["203.0.113.0/24", "2606:2800::/64"])
def test_attack_2_17_a_network_that_a_local_route_makes_ours_is_ours(proc_net: Path, local: str) -> None:
    """`ip route add local 203.0.113.0/24 dev lo` ("AnyIP"): a listener on a wildcard is reached at all of it."""
    assert local in own(proc_net)


@pytest.mark.skipif(not namespace.isolated, reason="no network of our own, and a route cannot be added to this one")
def test_attack_2_17_a_real_kernel_tells_of_its_local_routes() -> None:
    assert not own(OWN_PROC_NET) & {"0.0.0.0/0", "::/0"}
    with namespace.everywhere():
        assert own(OWN_PROC_NET) >= {"0.0.0.0/0", "::/0", "127.0.0.1/32", "::1/128"}


@pytest.mark.parametrize(
    "other",
    [
        *("0.0.0.0", "192.0.2.0", "192.0.2.255", "203.0.112.255", "203.0.114.0"),
        *("::", "2001:db8::", "2001:db8::18", "2606:2800:0:1::", "ff02::1"),
    ],
)
def test_other_networks_and_broadcast_addresses_are_none_of_ours(proc_net: Path, other: str) -> None:
    assert not any(IPAddress(other) in network for network in own_addresses(proc_net))


def test_a_mark_without_a_leaf_is_nobodys(proc_net: Path) -> None:
    (proc_net / "fib_trie").write_text("Main:\n   /32 host LOCAL\n")
    assert {each.version for each in own_addresses(proc_net)} == {6}


def test_a_host_without_ipv6_has_its_ipv4_addresses(proc_net: Path) -> None:
    (proc_net / "if_inet6").unlink()
    (proc_net / "ipv6_route").unlink()
    assert own(proc_net) == OWN_4


def test_r12_attack_2_17_not_to_know_our_addresses_is_not_to_have_none(tmp_path: Path) -> None:
    """Else proxyd would be reached through proxyd wherever /proc is hidden."""
    with pytest.raises(FileNotFoundError):
        own_addresses(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        own_addresses(tmp_path)


def test_r12_attack_2_17_a_kernel_with_ipv6_has_to_tell_its_routes(proc_net: Path) -> None:
    (proc_net / "ipv6_route").unlink()
    with pytest.raises(FileNotFoundError):
        own_addresses(proc_net)


@pytest.mark.parametrize("name", ["fib_trie", "if_inet6", "ipv6_route"])
def test_r12_attack_2_17_a_file_of_addresses_that_cannot_be_read_is_an_error(proc_net: Path, name: str) -> None:
    (proc_net / name).unlink()
    (proc_net / name).mkdir()
    with pytest.raises(IsADirectoryError):
        own_addresses(proc_net)


def test_r12_a_kernel_without_ipv6_still_has_to_tell_its_ipv4_addresses(proc_net: Path) -> None:
    (proc_net / "fib_trie").unlink()
    with pytest.raises(FileNotFoundError):
        own_addresses(proc_net)


def test_elsewhere_than_on_linux_there_is_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "platform", "darwin")
        found = own_addresses(tmp_path / "nowhere")
    assert found == frozenset()


def test_an_interface_may_be_called_anything_the_kernel_allows(proc_net: Path) -> None:
    """`ip link add é type dummy` is possible, and its name stands in if_inet6."""
    for name, text in (("if_inet6", IF_INET6), ("ipv6_route", IPV6_ROUTE)):
        (proc_net / name).write_bytes(text.replace("eth0", "\u00e9").encode())
    assert own(proc_net) == OWN_4 | OWN_6


def test_this_very_host_is_at_loopback() -> None:
    assert own_addresses() & LOOPBACK


# The resolvers


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nameserver 192.0.2.53\n", ["192.0.2.53"]),
        ("nameserver 192.0.2.53\nnameserver 2001:db8::53\n", ["192.0.2.53", "2001:db8::53"]),
        ("nameserver 2001:db8::53\nnameserver 192.0.2.53\n", ["2001:db8::53", "192.0.2.53"]),
        ("# nameserver 192.0.2.1\n; nameserver 192.0.2.2\n\nnameserver 192.0.2.53 # ours\n", ["192.0.2.53"]),
        ("search example.com\noptions ndots:5 timeout:x\nnameserver\t192.0.2.53", ["192.0.2.53"]),
        ("nameserver\nnameserver 192.0.2.53\n", ["192.0.2.53"]),
        ("nameserver 127.0.0.53\n", ["127.0.0.53"]),
    ],
)
def test_resolvers_are_asked_in_the_order_in_which_they_are_named(
    resolv_conf: Callable[[str | bytes], tuple[Endpoint, ...]], text: str, named: list[str]
) -> None:
    assert resolv_conf(text) == servers(*named)


def test_a_resolver_with_a_zone_id_cannot_be_asked_and_takes_no_other_with_it(
    resolv_conf: Callable[[str | bytes], tuple[Endpoint, ...]],
) -> None:
    assert resolv_conf("nameserver fe80::1%eth0\nnameserver 192.0.2.53\n") == servers("192.0.2.53")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nameserver 192.0.2.53\n",
        "search example.com\n",
        "nameserver fe80::1%eth0\n",
        "nameserver dns.example\n",
        "nameserver 127.1\n",
        b"nameserver \xff\xfe\n",
    ],
)
def test_r12_a_file_that_names_no_resolver_gives_none(
    resolv_conf: Callable[[str | bytes], tuple[Endpoint, ...]], text: str | bytes
) -> None:
    assert resolv_conf(text) == ()


def test_r12_a_missing_file_gives_no_resolver(tmp_path: Path) -> None:
    assert system_servers(tmp_path / "nowhere") == ()


@pytest.mark.parametrize(
    "odd",
    [
        "search a..b",
        "search " + "a" * 64,
        "domain a..b",
        "nameserver https://dns.example/",
        "nameserver dns.example",
    ],
)
def test_a_line_that_is_none_of_our_business_spoils_no_resolver(
    resolv_conf: Callable[[str | bytes], tuple[Endpoint, ...]], odd: str
) -> None:
    assert resolv_conf(f"{odd}\nnameserver 192.0.2.53\n") == servers("192.0.2.53")


@pytest.mark.parametrize("name", ["a" * 64, "a..b", ""])
def test_the_name_of_this_host_spoils_no_resolver(
    resolv_conf: Callable[[str | bytes], tuple[Endpoint, ...]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Linux takes any 64 octets as one."""
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert resolv_conf("nameserver 192.0.2.53\n") == servers("192.0.2.53")


# Sockets and files


def test_attack_8_the_kernel_looks_for_a_peer_that_vanished() -> None:
    with socket.socket() as sock:
        tune(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [60, 15, 4]


def test_a_peer_that_vanished_is_found_after_two_minutes() -> None:
    assert host.KEEPALIVE_IDLE + host.KEEPALIVE_COUNT * host.KEEPALIVE_INTERVAL == 120


async def test_a_socket_of_trio_is_kept_alive_too() -> None:
    with trio.socket.socket() as sock:
        tune(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_little_that_is_sent_is_not_held_back_to_go_with_more() -> None:
    with socket.socket() as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        tune(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_what_is_set_on_a_listener_holds_for_all_that_are_accepted_from_it() -> None:
    """tcp(7): it costs no call for each of them."""
    with socket.socket() as listener:
        tune(listener)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = (socket.TCP_NODELAY, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [accepted.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [1, 60, 15, 4]


def test_a_system_without_an_option_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    keepidle = socket.TCP_KEEPIDLE
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    spec = importlib.util.spec_from_file_location("host_of_another_system", host.__file__)
    assert spec is not None
    assert spec.loader is not None
    elsewhere = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, elsewhere)
    spec.loader.exec_module(elsewhere)
    with socket.socket() as sock:
        before = sock.getsockopt(socket.IPPROTO_TCP, keepidle)
        elsewhere.tune(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, keepidle) == before != host.KEEPALIVE_IDLE
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == host.KEEPALIVE_COUNT


def test_attack_8_the_limit_of_files_is_raised_to_what_the_system_grants(hard_limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard_limit), hard_limit))
    assert raise_file_limit() == hard_limit == file_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit, hard_limit)


def test_a_limit_that_is_as_high_as_it_goes_is_left_alone(hard_limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    with monkeypatch.context() as patched:
        patched.delattr(resource, "setrlimit")
        assert raise_file_limit() == hard_limit == file_limit()


def test_attack_8_the_limit_that_holds_is_the_soft_one(hard_limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard_limit), hard_limit))
    assert file_limit() == min(256, hard_limit)


@pytest.mark.parametrize(
    ("files", "tunnels"),
    [(0, 1), (256, 1), (SPARE_FILES, 1), (SPARE_FILES + 3, 1), (SPARE_FILES + 4, 2), (1024, 192), (65_536, 32_448)],
)
def test_attack_8_a_worker_holds_as_many_tunnels_as_its_files_are_enough_for(files: int, tunnels: int) -> None:
    """With SPARE_FILES for everything else; and one where there are hardly any, or it would serve nobody for ever."""
    assert tunnels_within(files) == tunnels


def test_an_empty_line_of_the_kernel_is_no_address(proc_net: Path) -> None:
    for name, text in (("if_inet6", IF_INET6), ("ipv6_route", IPV6_ROUTE)):
        (proc_net / name).write_text(text + "\n")
    assert own(proc_net) == OWN_4 | OWN_6


# The hosts file


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("", {}),
        ("# 10.0.0.1 db\n\n   \n", {}),
        ("10.0.0.1 db", {"db": ["10.0.0.1"]}),
        ("10.0.0.1\tdb.corp.example db # the database\n", {"db.corp.example": ["10.0.0.1"], "db": ["10.0.0.1"]}),
        ("10.0.0.1 db\nfd00::1 db\n10.0.0.2 db\n10.0.0.1 db\n", {"db": ["10.0.0.1", "fd00::1", "10.0.0.2"]}),
        ("10.0.0.1 DB.Corp.Example.\n", {"db.corp.example": ["10.0.0.1"]}),
        ("10.0.0.1 db#comment\n", {"db": ["10.0.0.1"]}),
        ("10.0.0.1\n", {}),
        ("0.0.0.0 ads.example\n", {"ads.example": ["0.0.0.0"]}),
        ("::ffff:127.0.0.1 carrier\n", {"carrier": ["::ffff:127.0.0.1"]}),
        ("10.0.0.1 10.0.0.2 [::1] 127.1 0x7f.1 ::1 good\n", {"good": ["10.0.0.1"]}),
        ("10.0.0.1 a..b *.corp.example -x b\u00fccher.example good\n", {"good": ["10.0.0.1"]}),
        ("fe80::1%lo0 localhost\n127.1 db\n010.0.0.1 db\ndb 10.0.0.1\n300.1.1.1 db\n", {}),
        (b"\xff\xfe 10.0.0.1 db\n10.0.0.1 \xff good\n", {"good": ["10.0.0.1"]}),
    ],
)
def test_r3_a_hosts_file_names_what_it_names_and_no_line_spoils_another(
    text: str | bytes, known: dict[str, list[str]]
) -> None:
    """hosts(5). A name that no request can have, and an address in an odd spelling, are passed over (ATTACKS 2.1)."""
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    assert {name: [str(address) for address in found] for name, found in read_hosts(said).items()} == known
