"""The dialer: an Allow and nothing else, Happy Eyeballs to the tick, and nothing left open (R3, R4, ATTACKS 3.1).

Races run in virtual time over a faked connection; that real ones reach the judged address is tried on loopback.
"""

from __future__ import annotations

import datetime as dt
import errno
import inspect
import math
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from netaddr import IPAddress

from proxyd.net import dialer
from proxyd.net.dialer import MOST_ATTEMPTS, STAGGER_SECONDS, DialError, dial, interleaved
from proxyd.net.stream import TcpStream
from proxyd.policy.address import Destination, Resolution
from proxyd.policy.load import load
from proxyd.policy.snapshot import Peer, Snapshot
from proxyd.policy.verdict import Allow, Reason, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio.testing import MockClock

    from proxyd.policy.client import Egress

    Says = dict[IPAddress, tuple[float | trio.Event, int | None]]

POLICY: Final = b"""\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "allow"
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
[[permit]]
host = "origin.example"
ports = ["1-65535"]
networks = ["127.0.0.0/8", "::1/128"]
reason = "origins of these tests"
"""
SNAPSHOT: Final = Snapshot.of(
    load("main.toml", lambda name, _beside, secret=False: (name, POLICY), dt.date(2026, 8, 1)), dt.date(2026, 8, 1)
)

ONE_4: Final = IPAddress("93.184.216.34")
TWO_4: Final = IPAddress("93.184.216.35")
THREE_4: Final = IPAddress("93.184.216.36")
ONE_6: Final = IPAddress("2606:2800:220:1:248:1893:25c8:1946")
TWO_6: Final = IPAddress("2606:2800:220:1:248:1893:25c8:1947")
LOOPBACK: Final = [IPAddress("127.0.0.1"), IPAddress("::1")]
MANY: Final = [IPAddress(f"93.184.216.{last}") for last in range(1, 65)]
MANY_6: Final = [IPAddress(f"2606:2800::{last:x}") for last in range(1, 65)]


def allow(*addresses: IPAddress, port: int = 443) -> Allow:
    """The judge's permission to connect to these addresses."""
    client = SNAPSHOT.identify(Peer(IPAddress("127.0.0.1")))
    verdict = decide(Destination("origin.example", port), client, SNAPSHOT, Resolution(addresses))
    assert isinstance(verdict, Allow)
    return verdict


def is_closed(connection: TcpStream) -> bool:
    """Whether it has no descriptor any more."""
    return connection.socket.fileno() == -1


@dataclass
class World:
    """What becomes of a connection: (seconds or event, error or None for success). Nothing said: it hangs."""

    says: Says
    began: list[tuple[float, IPAddress]] = field(default_factory=list)
    cancelled: list[IPAddress] = field(default_factory=list)
    made: list[TcpStream] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    async def connect(self, address: IPAddress, port: int, egress: Egress) -> TcpStream:
        """Stands in for a real connection."""
        assert port == 443
        assert not egress.given
        self.began.append((trio.current_time(), address))
        until, error = self.says.get(address, (float("inf"), None))
        try:
            if isinstance(until, trio.Event):
                await until.wait()
            else:
                await trio.sleep(until)
        except trio.Cancelled:
            self.cancelled.append(address)
            raise
        if error is not None:
            raise OSError(error, "no")
        ours, theirs = socket.socketpair()
        self.sockets += ours, theirs
        ours.setblocking(False)  # noqa: FBT003 - the only way to say it
        self.made.append(TcpStream(ours))
        self.meanwhile()
        return self.made[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Says], World]]:
    """Makes the world that connections are tried in."""
    worlds = []

    def make(says: Says) -> World:
        worlds.append(World(says))
        monkeypatch.setattr(dialer, "connect", worlds[-1].connect)
        return worlds[-1]

    yield make
    for each in worlds:
        for sock in each.sockets:
            sock.close()


# The order


def test_attack_3_1_a_dialer_takes_an_allow_and_no_name() -> None:
    [parameter] = inspect.signature(dial, eval_str=True, globals={**vars(dialer), "Allow": Allow}).parameters.values()
    assert parameter.annotation is Allow


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ([ONE_4], [ONE_4]),
        ([ONE_6], [ONE_6]),
        ([ONE_4, ONE_6], [ONE_6, ONE_4]),
        ([ONE_4, TWO_4, ONE_6, TWO_6], [ONE_6, ONE_4, TWO_6, TWO_4]),
        ([ONE_4, TWO_4, THREE_4, ONE_6], [ONE_6, ONE_4, TWO_4, THREE_4]),
        ([ONE_6, TWO_6, ONE_4], [ONE_6, ONE_4, TWO_6]),
        ([ONE_4, TWO_4, ONE_4], [ONE_4, TWO_4]),
        ([], []),
    ],
)
def test_the_families_take_turns_ipv6_first_and_no_address_twice(
    given: list[IPAddress], order: list[IPAddress]
) -> None:
    assert interleaved(given) == tuple(order)


# The race


async def test_an_address_that_answers_is_the_only_one_tried(
    autojump_clock: MockClock, world: Callable[[Says], World]
) -> None:
    tried = world({ONE_6: (0.2, None), ONE_4: (0, None)})
    dialled = await dial(allow(ONE_4, ONE_6))
    assert (dialled.address, dialled.stream) == (ONE_6, tried.made[0])
    assert tried.began == [(0.0, ONE_6)]
    assert autojump_clock.current_time() == 0.2
    assert not is_closed(dialled.stream)


async def test_the_next_address_is_tried_after_exactly_the_stagger(
    autojump_clock: MockClock, world: Callable[[Says], World]
) -> None:
    tried = world({TWO_4: (0.1, None)})
    dialled = await dial(allow(ONE_4, TWO_4, ONE_6, THREE_4))
    assert tried.began == [(0.0, ONE_6), (0.25, ONE_4), (0.5, TWO_4)]
    assert dialled.address == TWO_4
    assert autojump_clock.current_time() == pytest.approx(0.6)
    assert STAGGER_SECONDS == 0.25


async def test_a_failure_starts_the_next_attempt_at_once(
    autojump_clock: MockClock, world: Callable[[Says], World]
) -> None:
    tried = world({ONE_6: (0.125, errno.ENETUNREACH), ONE_4: (0, errno.ECONNREFUSED), TWO_4: (0.5, None)})
    dialled = await dial(allow(ONE_4, TWO_4, ONE_6))
    assert tried.began == [(0.0, ONE_6), (0.125, ONE_4), (0.125, TWO_4)]
    assert (dialled.address, autojump_clock.current_time()) == (TWO_4, 0.625)


async def test_a_slow_attempt_still_wins_while_later_ones_run(
    autojump_clock: MockClock, world: Callable[[Says], World]
) -> None:
    tried = world({ONE_6: (0.375, None)})
    dialled = await dial(allow(ONE_4, ONE_6))
    assert (dialled.address, autojump_clock.current_time()) == (ONE_6, 0.375)
    assert tried.cancelled == [ONE_4]


async def test_a_slow_attempt_still_wins_after_later_ones_failed(
    autojump_clock: MockClock, world: Callable[[Says], World]
) -> None:
    world({ONE_6: (10, None), ONE_4: (0.125, errno.ECONNREFUSED)})
    assert (await dial(allow(ONE_4, ONE_6))).address == ONE_6
    assert autojump_clock.current_time() == 10


async def test_the_losers_are_cancelled(autojump_clock: MockClock, world: Callable[[Says], World]) -> None:
    tried = world({TWO_6: (0, None)})
    await dial(allow(ONE_4, TWO_4, ONE_6, TWO_6))
    assert (set(tried.cancelled), autojump_clock.current_time()) == ({ONE_4, ONE_6}, 0.5)


async def test_every_winner_but_one_is_closed(autojump_clock: MockClock, world: Callable[[Says], World]) -> None:
    both = trio.Event()
    tried = world({ONE_6: (both, None), ONE_4: (both, None), TWO_4: (0, None)})
    tried.meanwhile = both.set
    dialled = await dial(allow(ONE_4, TWO_4, ONE_6))
    assert len(tried.made) == 3, "all connected in the same tick"
    assert autojump_clock.current_time() == 0.5
    assert [is_closed(each) for each in tried.made] == [each is not dialled.stream for each in tried.made]


# Failure


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([errno.ECONNREFUSED], Reason.CONNECT_REFUSED),
        ([errno.ETIMEDOUT], Reason.CONNECT_TIMEOUT),
        ([errno.ENETUNREACH], Reason.CONNECT_UNREACHABLE),
        ([errno.EHOSTUNREACH], Reason.CONNECT_UNREACHABLE),
        ([errno.ECONNRESET], Reason.ORIGIN_CLOSED),
        ([errno.EACCES], Reason.CONNECT_UNREACHABLE),
        ([errno.ENOTCONN], Reason.ORIGIN_CLOSED),
        ([errno.ECONNREFUSED, errno.ENOTCONN], Reason.ORIGIN_CLOSED),
        ([errno.ENOTCONN, errno.EMFILE], Reason.OUT_OF_RESOURCES),
        ([errno.EMFILE], Reason.OUT_OF_RESOURCES),
        ([errno.ENFILE], Reason.OUT_OF_RESOURCES),
        ([errno.ENOBUFS], Reason.OUT_OF_RESOURCES),
        ([errno.ENOMEM], Reason.OUT_OF_RESOURCES),
        ([errno.EADDRNOTAVAIL], Reason.OUT_OF_RESOURCES),
        ([errno.EAGAIN], Reason.OUT_OF_RESOURCES),
        ([errno.ENOSPC], Reason.OUT_OF_RESOURCES),
        ([errno.ETIMEDOUT, errno.ETIMEDOUT], Reason.CONNECT_TIMEOUT),
        ([errno.ETIMEDOUT, errno.ENETUNREACH], Reason.CONNECT_UNREACHABLE),
        ([errno.ETIMEDOUT, errno.ECONNREFUSED], Reason.CONNECT_REFUSED),
        ([errno.ECONNREFUSED, errno.ENETUNREACH], Reason.CONNECT_REFUSED),
        ([errno.ECONNREFUSED, errno.EMFILE, errno.ETIMEDOUT], Reason.OUT_OF_RESOURCES),
    ],
)
async def test_the_most_telling_failure_is_the_reason(
    autojump_clock: MockClock, world: Callable[[Says], World], errors: list[int], reason: Reason
) -> None:
    addresses = (ONE_4, TWO_4, THREE_4)[: len(errors)]
    world({address: (0, error) for address, error in zip(addresses, errors, strict=True)})
    with pytest.raises(DialError) as caught:
        await dial(allow(*addresses))
    assert (caught.value.reason, str(caught.value)) == (reason, reason.value)
    assert autojump_clock.current_time() == 0


async def test_nothing_is_tried_again(autojump_clock: MockClock, world: Callable[[Says], World]) -> None:
    tried = world({ONE_6: (0, errno.ECONNREFUSED), ONE_4: (0, errno.ECONNREFUSED)})
    with pytest.raises(DialError):
        await dial(allow(ONE_4, ONE_6))
    assert tried.began == [(0.0, ONE_6), (0.0, ONE_4)]
    assert autojump_clock.current_time() == 0


@pytest.mark.parametrize(
    ("given", "tried"),
    [
        (MANY, MANY[:8]),
        (MANY[:9], MANY[:8]),
        (MANY[:8], MANY[:8]),
        ([*MANY, *MANY_6], [each for pair in zip(MANY_6[:4], MANY[:4], strict=True) for each in pair]),
    ],
    ids=["64", "9", "8", "64 of each family"],
)
async def test_attack_8_of_many_addresses_that_fail_only_the_first_eight_are_tried(
    autojump_clock: MockClock, world: Callable[[Says], World], given: list[IPAddress], tried: list[IPAddress]
) -> None:
    """An answer with 128 addresses made 128 connections of one request: a port scan, and our files used up."""
    seen = world(dict.fromkeys(given, (0, errno.ECONNREFUSED)))
    with pytest.raises(DialError):
        await dial(allow(*given))
    assert [address for _, address in seen.began] == tried
    assert (MOST_ATTEMPTS, autojump_clock.current_time()) == (8, 0)


async def test_attack_8_of_many_addresses_that_hang_only_the_first_eight_are_tried(
    autojump_clock: MockClock, world: Callable[[Says], World]
) -> None:
    seen = world({MANY[8]: (0, None)})
    with trio.move_on_after(4.5) as scope:
        await dial(allow(*MANY))
    assert (scope.cancelled_caught, autojump_clock.current_time()) == (True, 4.5)
    assert [address for _, address in seen.began] == MANY[:MOST_ATTEMPTS]


async def test_the_caller_sets_the_deadline(autojump_clock: MockClock, world: Callable[[Says], World]) -> None:
    tried = world({})
    with trio.move_on_after(4.5) as scope:
        await dial(allow(ONE_4, ONE_6))
    assert scope.cancelled_caught
    assert autojump_clock.current_time() == 4.5
    assert sorted(map(str, tried.cancelled)) == sorted(map(str, [ONE_4, ONE_6]))


async def test_attack_8_a_winner_that_comes_too_late_is_closed(
    autojump_clock: MockClock, world: Callable[[Says], World]
) -> None:
    """The caller gives up in the very tick in which the connection stands."""
    tried = world({ONE_6: (0.125, None)})
    with trio.CancelScope() as scope:
        tried.meanwhile = scope.cancel
        await dial(allow(ONE_4, ONE_6))
    assert (scope.cancelled_caught, autojump_clock.current_time()) == (True, 0.125)
    assert [is_closed(each) for each in tried.made] == [True]


async def test_attack_8_a_winner_that_is_just_in_time_is_handed_over(
    autojump_clock: MockClock, world: Callable[[Says], World]
) -> None:
    """Without a checkpoint on the way, nobody can lose it."""
    tried = world({ONE_4: (1.0, None)})
    with trio.CancelScope() as scope:
        tried.meanwhile = scope.cancel
        dialled = await dial(allow(ONE_4))
    assert (scope.cancelled_caught, autojump_clock.current_time()) == (False, 1.0)
    assert tried.made == [dialled.stream]
    assert not is_closed(dialled.stream)


async def test_attack_3_1_a_bug_in_one_attempt_closes_what_another_won(
    autojump_clock: MockClock, world: Callable[[Says], World]
) -> None:
    both = trio.Event()
    tried = world({ONE_4: (both, None), TWO_4: (0, None)})

    def bug() -> None:
        both.set()
        tried.meanwhile = crash

    def crash() -> None:
        raise RuntimeError

    tried.meanwhile = bug
    with pytest.RaisesGroup(RuntimeError):
        await dial(allow(ONE_4, TWO_4))
    assert is_closed(tried.made[0])
    assert autojump_clock.current_time() == 0.25


# Real sockets, or almost


class Standin:
    """A socket that connects to nobody, and says of its peer what it is told to say.

    peer: None for one that never answers. answer: of connect(2); outcome: of a connection that was in progress.
    """

    def __init__(self, peer: tuple[Any, ...] | None, answer: int = 0, outcome: int = 0) -> None:
        self.peer = peer
        self.answer = answer
        self.outcome = outcome
        self.connecting: object = None
        self.waited = 0
        self.closed = False

    def connect_ex(self, address: object) -> int:
        """Begin."""
        self.connecting = address
        return errno.EINPROGRESS if self.peer is None else self.answer

    def getsockopt(self, level: int, option: int) -> int:
        """Say what became of it, which is asked only once it is over."""
        assert (level, option, self.waited) == (socket.SOL_SOCKET, socket.SO_ERROR, 1)
        return self.outcome

    def setsockopt(self, *_: object) -> None:
        """Take any."""

    def getsockname(self) -> tuple[Any, ...]:
        """Some port of ours."""
        return ("127.0.0.1", 50_000)

    def getpeername(self) -> tuple[Any, ...]:
        """Say what was given."""
        assert self.peer is not None
        return self.peer

    def close(self) -> None:
        """Remember it."""
        self.closed = True


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Standin], Standin]:
    """Lets the dialer have this socket, and no other."""

    def stand_in(standin: Standin) -> Standin:
        async def wait(sock: object) -> None:
            assert sock is standin
            await trio.sleep(math.inf if standin.peer is None else 0.5)
            standin.waited += 1

        def make(family: int, kind: int) -> Standin:
            assert family == socket.AF_INET
            assert kind == socket.SOCK_STREAM | socket.SOCK_NONBLOCK
            return standin

        monkeypatch.setattr("proxyd.net.dialer.socket.socket", make)
        monkeypatch.setattr(trio.lowlevel, "wait_writable", wait)
        return standin

    return stand_in


@pytest.mark.parametrize(
    "peer",
    [("127.0.0.1", 443), ("93.184.216.35", 443), ("93.184.216.34", 80), ("::ffff:93.184.216.34", 443, 0, 0)],
    ids=str,
)
async def test_attack_3_1_a_connection_to_anyone_else_is_a_bug_and_closed(
    peer: tuple[Any, ...], use: Callable[[Standin], Standin]
) -> None:
    standin = use(Standin(peer))
    with pytest.raises(RuntimeError, match="not judged"):
        await dial(allow(ONE_4))
    assert standin.connecting == ("93.184.216.34", 443)
    assert standin.closed


async def test_attack_8_cancelling_closes_the_socket(
    autojump_clock: MockClock, use: Callable[[Standin], Standin]
) -> None:
    standin = use(Standin(None))
    with trio.move_on_after(1):
        await dial(allow(ONE_4))
    assert (standin.closed, autojump_clock.current_time()) == (True, 1.0)


@pytest.mark.parametrize(
    ("answer", "outcome", "seconds"),
    [(errno.ENETUNREACH, 0, 0.0), (errno.EINPROGRESS, errno.EHOSTUNREACH, 0.5)],
)
async def test_a_connection_that_fails_at_once_or_later_fails_as_the_kernel_says_and_is_closed(
    autojump_clock: MockClock, use: Callable[[Standin], Standin], answer: int, outcome: int, seconds: float
) -> None:
    standin = use(Standin(("93.184.216.34", 443), answer, outcome))
    with pytest.raises(DialError) as caught:
        await dial(allow(ONE_4))
    assert (caught.value.reason, standin.closed) == (Reason.CONNECT_UNREACHABLE, True)
    assert autojump_clock.current_time() == seconds


@pytest.mark.parametrize("answer", [0, errno.EINPROGRESS])
async def test_a_connection_that_stands_at_once_is_not_waited_for(
    autojump_clock: MockClock, use: Callable[[Standin], Standin], answer: int
) -> None:
    """connect(2) may succeed without a wait; nobody else is held up while it does not."""
    standin = use(Standin(("93.184.216.34", 443), answer))
    dialled = await dial(allow(ONE_4))
    assert (dialled.address, standin.waited, standin.closed) == (ONE_4, int(answer != 0), False)
    assert autojump_clock.current_time() == (0.5 if answer else 0.0)


async def test_one_address_runs_no_race(autojump_clock: MockClock, world: Callable[[Says], World]) -> None:
    """Nobody to wait for, and nobody to cancel: the failure is its own, and comes without a group around it."""
    tried = world({ONE_4: (10.0, None)})
    assert (await dial(allow(ONE_4))).address == ONE_4
    assert tried.began == [(0.0, ONE_4)]
    assert autojump_clock.current_time() == 10.0
    tried = world({ONE_4: (0.0, errno.ECONNREFUSED)})
    with pytest.raises(DialError) as caught:
        await dial(allow(ONE_4))
    assert (caught.value.reason, caught.value.__cause__) == (Reason.CONNECT_REFUSED, None)
    assert tried.began == [(10.0, ONE_4)]


@pytest.mark.parametrize("address", LOOPBACK, ids=str)
async def test_r3_a_real_connection_reaches_the_judged_address(address: IPAddress) -> None:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with trio.socket.socket(family) as listener:
        await listener.bind((str(address), 0))
        listener.listen()
        dialled = await dial(allow(address, port=listener.getsockname()[1]))
        accepted, peer = await listener.accept()
        async with dialled.stream, trio.SocketStream(accepted) as origin:
            assert dialled.address == address
            assert dialled.stream.socket.getsockname()[:2] == peer[:2]
            assert dialled.stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert dialled.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            await dialled.stream.send_all(b"ping")
            assert await origin.receive_some() == b"ping"


@pytest.mark.parametrize("address", LOOPBACK, ids=str)
async def test_a_connection_to_itself_is_a_refusal_and_closed(
    address: IPAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port of ours where nobody listens may be the very one that the kernel chose to connect from: TCP allows it."""
    itself = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    itself.setblocking(False)  # noqa: FBT003 - the only way to say it
    itself.bind((str(address), 0))
    monkeypatch.setattr("proxyd.net.dialer.socket.socket", lambda *_: itself)
    with pytest.raises(DialError) as caught:
        await dial(allow(address, port=itself.getsockname()[1]))
    assert (caught.value.reason, itself.fileno()) == (Reason.CONNECT_REFUSED, -1)


async def test_a_real_refusal_at_one_address_leads_to_the_other() -> None:
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        dialled = await dial(allow(*LOOPBACK, port=listener.getsockname()[1]))
        async with dialled.stream:
            assert str(dialled.address) == "127.0.0.1"


async def test_a_port_where_nobody_listens_is_refused() -> None:
    with trio.socket.socket() as bound:
        await bound.bind(("127.0.0.1", 0))  # bound, and not listening: nobody else can have it
        with pytest.raises(DialError) as caught:
            await dial(allow(IPAddress("127.0.0.1"), port=bound.getsockname()[1]))
    assert caught.value.reason is Reason.CONNECT_REFUSED
