"""The kernel fails proxyd, one call at a time: it is told as what it is, costs nobody else anything, and passes (R12).

ATTACKS 8: EMFILE that kills or spins the accept loop, and everything else that a call may say. `faulty.c` lets a call
fail; while it lasts it is on the victims' connections only, or bounded in number, and all that is done here is one
long ordeal for everybody else. What takes from everybody is in `test_shortages.py`.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.serve.listener import PAUSE_SECONDS
from tests import namespace
from tests.end_to_end.asking import answer, get
from tests.end_to_end.daemon import read_all, ticks
from tests.faults.difficult import asking, tell
from tests.faults.faulty import Faults
from tests.faults.ordeal import ordeal
from tests.faults.victims import Victims, a_scene, another_origin, echoed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.daemon import Daemon
    from tests.faults.bystander import Bystander

SHORT: Final = (503, "out_of_resources")
UNREACHABLE: Final = (502, "connect_unreachable")
SERVED: Final = (200, "OK")
STORM: Final = 1000


@dataclass(frozen=True)
class Expected:
    """What a call that fails on the way to an origin is told as."""

    call: str
    error: int
    told: tuple[int, str]


TOLD: Final = (
    *(Expected("connect", each, SHORT) for each in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)),
    *(Expected("connect", each, SHORT) for each in (errno.EADDRNOTAVAIL, errno.EAGAIN)),
    *(Expected("epoll_ctl", each, SHORT) for each in (errno.ENOMEM, errno.ENOSPC)),
    *(Expected("connect", each, UNREACHABLE) for each in (errno.EPERM, errno.EACCES, errno.EINVAL)),
    *(Expected("connect", each, UNREACHABLE) for each in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)),
    Expected("connect", errno.ECONNREFUSED, (502, "connect_refused")),
    Expected("connect", errno.ETIMEDOUT, (504, "connect_timeout")),
)


@dataclass(frozen=True)
class Stage:
    """What all of these tests are done to: a daemon, its origin for victims, and a bystander."""

    proxy: Daemon
    faults: Faults
    target: str
    bystander: Bystander


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One ordeal for all of them: what it finds in the end is an error of the last."""
    faults = Faults(tmp_path_factory.mktemp("faults"))
    with another_origin() as other, a_scene(tmp_path_factory.mktemp("scene")) as scene:
        proxy = scene.start(env=faults.env)
        with ordeal(scene, proxy) as bystander:
            yield Stage(proxy, faults, f"{namespace.OTHER_4}:{other.port}", bystander)


@pytest.fixture
def faults(stage: Stage) -> Faults:
    """Nothing fails yet."""
    return stage.faults


@pytest.fixture
def victims(stage: Stage) -> Iterator[Victims]:
    """Some that nobody else has been; others go on at the end, too."""
    yield Victims(stage.proxy, stage.target)
    stage.bystander.go_on()


def test_r12_what_fails_on_the_way_to_an_origin_is_told_as_what_it_is(
    victims: Victims, faults: Faults, figures: dict[str, str], *, long: bool
) -> None:
    """Each is refused with the reason that README names for it, on record twice, and over when the fault is."""
    times = 200 if long else 32
    for each in TOLD:
        with faults.failing(each.call, each.error, peer=namespace.OTHER_4):
            told = Counter(ask() for _ in range(times) for ask in (victims.get, victims.ask_for_tunnel))
            assert told == {each.told: 2 * times}, errno.errorcode[each.error]
        assert faults.tried(each.call).failed == 2 * times
        assert victims.get() == SERVED
    expected = sum((Counter({each.told: 2 * times}) for each in TOLD), Counter({(200, "complete"): len(TOLD)}))
    assert victims.ended() == expected
    figures["calls that fail on the way"] = f"{len(TOLD)} kinds, {2 * times * len(TOLD)} failures, 0 files left open"


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM])
def test_r12_an_origin_that_cannot_be_heard_is_an_origin_that_closed(
    victims: Victims, faults: Faults, error: int
) -> None:
    """502 for each, and the connection to the origin is let go of."""
    with faults.failing("recv", error, peer=namespace.OTHER_4):
        assert {victims.get() for _ in range(50)} == {(502, "origin_closed")}
    assert victims.ended() == {(502, "origin_closed"): 50}


def test_r12_an_origin_that_cannot_be_told_is_given_up_when_nothing_moves(victims: Victims, faults: Faults) -> None:
    """It might answer all the same: until `idle_seconds` are over. Nobody else waits for that."""
    with faults.failing("send", errno.ENOBUFS, peer=namespace.OTHER_4):
        with soon_idle(victims.proxy):
            clients = [victims.connect() for _ in range(20)]
            for client in clients:
                client.sendall(asking(victims.url))
            next(None for _ in ticks() if faults.tried("send").failed == 20)
        assert {answer(client).reason for client in clients} == {"origin_timeout"}
        for client in clients:
            client.close()
    assert victims.ended() == {(504, "origin_timeout"): 20}


@contextmanager
def soon_idle(proxy: Daemon) -> Iterator[None]:
    """What is asked meanwhile may stand still for 5 s. What stands already, the bystander's tunnel too, for an hour."""
    policy = proxy.policy.read_text()
    assert proxy.reload(f"{policy}[limits]\nidle_seconds = 5\n")["outcome"] == "done"
    yield
    assert proxy.reload(policy)["outcome"] == "done"


@pytest.mark.parametrize("call", ["recv", "epoll_ctl"])
@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC])
def test_r12_a_client_that_cannot_be_heard_is_let_go_and_that_is_no_bug(
    victims: Victims, faults: Faults, call: str, error: int
) -> None:
    """Nothing was asked, so nothing is on record."""
    with faults.failing(call, error, peer=victims.home):
        for _ in range(20):
            with victims.connect() as client, suppress(ConnectionResetError):
                assert read_all(client) == b""
        assert faults.tried(call).failed == 20
    assert victims.get() == SERVED
    assert victims.ended() == {(200, "complete"): 1}


def test_r12_a_client_that_cannot_be_told_is_a_client_that_is_gone(victims: Victims, faults: Faults) -> None:
    """What it asked for is on record, with the status that it was to be told."""
    with faults.failing("send", errno.ENOBUFS, peer=victims.home):
        for _ in range(20):
            with victims.connect() as client, suppress(ConnectionResetError):
                client.sendall(asking(victims.url))
                assert read_all(client) == b""
        assert victims.ended() == {(200, "client_gone"): 20}


@pytest.mark.parametrize(
    ("call", "error", "whose"),
    [
        *(("recv", each, whose) for each in (errno.EAGAIN, errno.EINTR) for whose in ("client", "origin")),
        *(("send", each, whose) for each in (errno.EAGAIN, errno.EINTR) for whose in ("client", "origin")),
        *(("accept4", each, "anybody") for each in (errno.EAGAIN, errno.EINTR)),
        ("epoll_wait", errno.EINTR, "anybody"),
    ],
)
def test_attack_8_a_storm_of_nothing_yet_and_try_again_delays_and_costs_nothing_else(
    victims: Victims, faults: Faults, call: str, error: int, whose: str
) -> None:
    """A thousand of them in a row, and whoever met them is served."""
    peer = {"client": victims.home, "origin": namespace.OTHER_4, "anybody": ""}[whose]
    with faults.failing(call, error, STORM, peer):
        while faults.tried(call).failed < STORM:
            assert victims.get() == SERVED
    assert set(victims.ended()) == {(200, "complete")}


@pytest.mark.parametrize(
    "error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPROTO, errno.EPERM, errno.ENETDOWN]
)
def test_attack_8_an_accept_that_fails_neither_ends_nor_spins(
    stage: Stage, victims: Victims, faults: Faults, error: int
) -> None:
    """Who connects meanwhile waits in the kernel and is served; proxyd asks again after a pause each time."""
    began = time.monotonic()
    with faults.failing("accept4", error, 4):
        next(None for _ in ticks() if faults.tried("accept4").failed == 4)
        assert victims.get() == SERVED
    assert time.monotonic() - began >= 4 * PAUSE_SECONDS, "it did not pause"
    assert f"a connection could not be accepted: {os.strerror(error)}\n" in stage.proxy.complaints()


def test_attack_8_connections_aborted_in_a_row_take_nothing_from_those_that_stand(
    victims: Victims, faults: Faults, *, long: bool
) -> None:
    """Whoever is inside is served on; newcomers wait in the kernel, and are served when it is over."""
    most = 200_000 if long else 10_000
    with victims.connect() as kept, victims.tunnel() as tunnel, ExitStack() as stack:
        assert get(kept, victims.url).status == 200
        with faults.failing("accept4", errno.ECONNABORTED):
            newcomer = stack.enter_context(victims.connect())
            newcomer.sendall(asking(victims.url))
            next(None for _ in ticks() if faults.tried("accept4").failed)
            assert get(kept, victims.url).status == 200
            assert echoed(tunnel, b"an echo")
            next(None for _ in ticks() if faults.tried("accept4").failed >= most)
        assert answer(newcomer).status == 200


@pytest.mark.parametrize("call", ["recv", "send"])
@pytest.mark.parametrize("whose", ["client", "origin"])
def test_attack_8_a_tunnel_that_the_kernel_fails_ends_and_no_other(
    victims: Victims, faults: Faults, call: str, whose: str
) -> None:
    """As a connection that broke, and so it is on record."""
    peer = {"client": victims.home, "origin": namespace.OTHER_4}[whose]
    with victims.tunnel() as another:
        for _ in range(10):
            with victims.tunnel() as tunnel, faults.failing(call, errno.ENOBUFS, 1, peer):
                tunnel.sendall(b"an echo")
                with suppress(ConnectionResetError):
                    assert tunnel.recv(100) == b""
        assert echoed(another, b"an echo")
    assert victims.ended() == {(200, "reset"): 10, (200, "closed"): 1}


def test_attack_8_a_tunnel_that_cannot_be_watched_ends_at_once(victims: Victims, faults: Faults) -> None:
    """The account watches as many files as it may (epoll(7), max_user_watches): its client is let go, nothing hangs."""
    tries = tunnels = 0
    while tunnels < 10:
        tries += 1
        assert tries < 100, "it is never the pool that fails to watch"
        with victims.connect() as client:
            assert get(client, victims.url).status == 200  # so that only the pool has not watched it yet …
            with faults.failing("epoll_ctl", errno.ENOSPC, peer=victims.home):
                told = tell(client, asking(victims.target, "CONNECT"))
                assert told.status in (200, None)
                if told.status is None:
                    continue  # … unless what waits for the next request begins to only now
                tunnels += 1
                assert faults.tried("epoll_ctl").failed == 1
    assert victims.ended() == {(200, "complete"): tries, (200, "aborted"): 10}
