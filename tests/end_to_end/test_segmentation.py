"""Where a client's outbound connections leave from: as its [client.egress] says, or not at all (R2, R12; ATTACKS 3.12).

What the origin sees decides, and what cannot be had is an error: no connection is made in another way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from proxyd.policy.password import SALT_OCTETS, new_hash
from tests import namespace
from tests.end_to_end.asking import basic, connect, get
from tests.end_to_end.nameserver import Says
from tests.end_to_end.origin import Listener, read_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

pytestmark = pytest.mark.skipif(not namespace.isolated, reason="no network of our own, and no addresses to leave from")

FIRST, SECOND = "100.64.0.1", "10.0.0.5"
"""Addresses that this host has: any may be left from, whatever may be gone to."""


def client(name: str, network: str, egress: str) -> str:
    """A client in the policy, and where it leaves from."""
    return f'\n[[client]]\nname = "{name}"\nnetworks = ["{network}"]\n[client.egress]\n{egress}\n'


@dataclass
class Seeing:
    """An origin that answers every request with the address that it came from, and keeps them."""

    addresses: tuple[str, ...]
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        listener = Listener(self._serve, self.addresses)
        self.port, self.close = listener.port, listener.close

    def _serve(self, connection: socket.socket) -> None:
        source = connection.getpeername()[0]
        self.seen.append(source)
        while read_head(connection)[0]:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(source)}\r\n\r\n"
            connection.sendall((head + source).encode())


@pytest.fixture
def seeing(scene: Scene) -> Iterator[Seeing]:
    """The origin that sees where a client comes from."""
    origin = Seeing(scene.origin.addresses)
    yield origin
    origin.close()


def seen(proxy: Daemon, url: str, source: str = "127.0.0.1") -> list[str]:
    """What the origin says through a plain request, and through a tunnel; or the word of the refusal."""
    said = []
    with proxy.connect(source) as plain, proxy.connect(source) as tunnel:
        answer = get(plain, url)
        said.append(answer.body.decode() if answer.status == 200 else answer.reason)
        answer = connect(tunnel, url.removeprefix("http://").removesuffix("/"))
        said.append(get(tunnel, "/").body.decode() if answer.status == 200 else answer.reason)
    return said


def test_each_client_leaves_from_an_address_of_its_own(scene: Scene, seeing: Seeing) -> None:
    scene.nameserver.zone["second.test"] = Says(a=(namespace.OTHER_4, namespace.origin_4()))  # a race, too
    plain = '\n[[client]]\nname = "plain"\nnetworks = ["127.0.0.0/8"]\n'
    proxy = scene.start(
        client("first", "127.0.0.1/32", f'addresses = ["{FIRST}"]')
        + client("second", "127.0.0.2/32", f'addresses = ["{SECOND}", "fc00::1"]')
        + plain
    )
    for host in ("origin.test", "second.test"):
        url = f"http://{host}:{seeing.port}/"
        assert seen(proxy, url) == [FIRST] * 2
        assert seen(proxy, url, "127.0.0.2") == [SECOND] * 2
        assert not {FIRST, SECOND} & set(seen(proxy, url, "127.0.0.3"))
    six = f"http://six.test:{seeing.port}/"
    assert seen(proxy, six, "127.0.0.2") == ["fc00::1"] * 2
    before = len(seeing.seen)
    assert seen(proxy, six) == ["egress_unavailable"] * 2  # a family without an address is not used
    assert len(seeing.seen) == before
    both = f"http://both.test:{seeing.port}/"
    assert seen(proxy, both) == [FIRST] * 2
    assert seen(proxy, both, "127.0.0.2") == ["fc00::1"] * 2
    refused = [each for each in proxy.decisions() if each["host"] == "six.test" and each["client"] == "first"]
    assert len(refused) == 2
    closings = [each for each in proxy.closings() if each["host"] == "six.test" and each["client"] == "first"]
    assert [(each["reason"], each["status"], each["address"]) for each in closings] == [
        ("egress_unavailable", 503, None)
    ] * 2


def test_r12_what_cannot_be_had_is_an_error_and_never_another_way_out(scene: Scene, seeing: Seeing) -> None:
    """An address that this host does not have, an interface that there is not, and one that does not lead there."""
    cases = {
        "127.0.1.1": 'addresses = ["203.0.113.99"]',
        "127.0.1.2": 'interface = "none0"',
        "127.0.1.3": f'addresses = ["{FIRST}"]\ninterface = "none0"',
        "127.0.1.4": 'addresses = ["2001:db8::77"]',
        "127.0.1.5": 'interface = "lo"',
        "127.0.1.6": "mark = 7",
        "127.0.1.7": f'addresses = ["{FIRST}"]\ninterface = "lo"\nmark = 7',
    }
    rows = [client(f"c{number}", f"{source}/32", egress) for number, (source, egress) in enumerate(cases.items())]
    proxy = scene.start("".join(rows))
    url = f"http://origin.test:{seeing.port}/"
    said = {source: seen(proxy, url, source) for source in cases}
    for source in ("127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"):
        assert said[source] == ["egress_unavailable"] * 2, cases[source]
    assert len(seeing.seen) == 6
    assert said["127.0.1.5"] == said["127.0.1.6"]
    assert said["127.0.1.7"] == [FIRST] * 2


@pytest.mark.usefixtures("accounts", "unprivileged")
def test_r12_a_mark_that_this_account_may_not_set_is_an_error(scene: Scene, seeing: Seeing) -> None:
    rows = client("marked", "127.0.0.1/32", "mark = 7") + client("plain", "127.0.0.2/32", f'addresses = ["{FIRST}"]')
    proxy = scene.start(rows)
    url = f"http://origin.test:{seeing.port}/"
    assert seen(proxy, url) == ["egress_unavailable"] * 2
    assert seeing.seen == []
    assert seen(proxy, url, "127.0.0.2") == [FIRST] * 2


def test_attack_3_12_a_kept_connection_of_one_client_is_not_anothers(scene: Scene, seeing: Seeing) -> None:
    """Two clients on one connection, told apart by their credentials: what was dialled for one is no other's."""
    rows = "".join(
        f'\n[[client]]\nname = "{name}"\n[client.credential]\nuser = "{name}"\n'
        f'password = "{new_hash(name, b"s" * SALT_OCTETS)}"\n[client.egress]\naddresses = ["{address}"]\n'
        for name, address in (("first", FIRST), ("second", SECOND))
    )
    proxy = scene.start(rows)
    order = ("first", "first", "second", "first")
    with proxy.connect() as sock:
        said = [get(sock, f"http://origin.test:{seeing.port}/", basic(name, name)).body.decode() for name in order]
    assert said == [FIRST, FIRST, SECOND, FIRST]
    assert seeing.seen == [FIRST, SECOND, FIRST]  # and that of the first was kept, as long as he was the one who asked


def test_a_reload_changes_where_a_client_leaves_from(scene: Scene, seeing: Seeing) -> None:
    proxy = scene.start(client("first", "127.0.0.1/32", f'addresses = ["{FIRST}"]'))
    url = f"http://origin.test:{seeing.port}/"
    with proxy.connect() as sock:
        assert get(sock, url).body.decode() == FIRST
        done = proxy.reload(proxy.policy.read_text().replace(FIRST, SECOND))
        assert done["changes"] == [f"client first: egress.addresses: [{FIRST}] -> [{SECOND}]"]
        assert get(sock, url).body.decode() == SECOND
