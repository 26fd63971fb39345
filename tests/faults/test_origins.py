"""Origins that break off, stall, drip, lie and never end: their clients are told, others notice nothing.

R10, ATTACKS 8. What bounds them: DNS and dial together take 4.5 s at most; silence of an origin, and a head however
slowly it comes, take `idle_seconds` (3,600, here 12); a body may come as slowly as it likes, as long as it comes and
its client stays.
"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Final

from tests.end_to_end.asking import answer, get
from tests.faults.difficult import (
    HELLO,
    IDLE,
    KERNELS,
    LONG_ENOUGH,
    OFFERED,
    OK,
    SLOWLY,
    SWITCHING,
    Crowds,
    Origins,
    Pump,
    Step,
    Told,
    asking,
    dripping,
    end,
    for_ever,
    hear,
    hear_octet,
    homes,
    ignore,
    leave,
    leaving,
    of,
    open_tunnel,
    reset,
    stay,
    swallow,
    tell,
    until_stuck,
)
from tests.faults.ordeal import GROWTH, ordeal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

LONGER: Final = OK + b"Content-Length: 100\r\n\r\nhello"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
EARLY: Final = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly"
UPLOAD: Final = 50_000_000
AN_EXCHANGE: Final = 64 * 1024
"""Octets that a request under way may cost a worker."""


def heard(_: socket.socket) -> None:
    """Wait until the client has heard something; `play` puts the waiting in its place."""


@dataclass(frozen=True)
class Row:
    """What an origin does, and what must come of it.

    told: the status that the client hears. noted: outcome and reason on record. body: the client gets exactly that.
    """

    what: str
    script: tuple[Step, ...]
    told: int
    noted: tuple[str, str | None]
    body: bytes | None = None
    upload: int = 0

    @property
    def request(self) -> tuple[str, tuple[str, ...], bytes]:
        """Method, fields and body."""
        if self.upload:
            return "POST", (f"Content-Length: {self.upload}",), bytes(self.upload)
        return "GET", ("Connection: close",), b""


CLOSED, MALFORMED, LATE = (("refused", f"origin_{why}") for why in ("closed", "malformed", "timeout"))
TORN, SPOILT, STOOD = (("aborted", f"origin_{why}") for why in ("closed", "malformed", "timeout"))
WHOLE: Final = ("complete", None)

ROWS: Final = (
    Row("resets at once", (reset,), 502, CLOSED),
    Row("ends at once", (end, stay), 502, CLOSED),
    Row("resets once asked", (hear, reset), 502, CLOSED),
    Row("ends once asked", (hear, end, stay), 502, CLOSED),
    Row("resets in the head", (hear, OK + b"Content-Le", reset), 502, CLOSED),
    Row("ends in the head", (hear, OK + b"Content-Le", end, stay), 502, MALFORMED),
    Row("resets in the body", (hear, LONGER, heard, reset), 200, TORN),
    Row("ends in the body", (hear, LONGER, heard, end, stay), 200, SPOILT),
    Row("resets in a chunk", (hear, CHUNKED + b"a\r\nhel", heard, reset), 200, TORN),
    Row("ends in a chunk", (hear, CHUNKED + b"a\r\nhel", heard, end, stay), 200, SPOILT),
    Row("resets in a chunk's size", (hear, CHUNKED + b"a", heard, reset), 200, TORN),
    Row("resets in the trailers", (hear, CHUNKED + b"0\r\nX: ", heard, reset), 200, TORN),
    Row("ends in the trailers", (hear, CHUNKED + b"0\r\nX: ", heard, end, stay), 200, SPOILT),
    Row("ends without the last chunk", (hear, CHUNKED, heard, end, stay), 200, SPOILT),
    Row("says fields for ever", (hear, OK, for_ever(b"X: y\r\n")), 502, MALFORMED),
    Row("says one field for ever", (hear, OK + b"X: ", for_ever(b"y")), 502, MALFORMED),
    Row("says a status line for ever", (hear, b"HTTP/1.1 200 O", for_ever(b"O")), 502, MALFORMED),
    Row("says 103 for ever", (hear, for_ever(b"HTTP/1.1 103 Early Hints\r\n\r\n")), 502, MALFORMED),
    Row("says 100 for ever", (hear, for_ever(b"HTTP/1.1 100 Continue\r\n\r\n")), 502, MALFORMED),
    Row("says empty lines for ever", (hear, for_ever(b"\r\n")), 502, MALFORMED),
    Row("extends a chunk for ever", (hear, CHUNKED, heard, b"1;", for_ever(b"x")), 200, SPOILT),
    Row("extends chunks for ever", (hear, CHUNKED, heard, for_ever(b"1;%b\r\na\r\n" % (b"x" * 900))), 200, SPOILT),
    Row("writes a chunk's size for ever", (hear, CHUNKED, heard, for_ever(b"0")), 200, SPOILT),
    Row("says trailers for ever", (hear, CHUNKED, heard, b"0\r\n", for_ever(b"X: y\r\n")), 200, SPOILT),
    Row("says more than it said it would", (hear, HELLO + b" and more", stay), 200, WHOLE, b"hello"),
    Row("says more for ever", (hear, HELLO, for_ever(b"more")), 200, WHOLE, b"hello"),
    Row("speaks before it is asked", (HELLO, stay), 200, WHOLE, b"hello"),
    Row("speaks another protocol first", (b"SSH-2.0-x\r\n\r\n", stay), 502, MALFORMED),
    Row("ends its side with the answer", (hear, HELLO, end, stay), 200, WHOLE, b"hello"),
    Row("stays, though it said close", (hear, OK + b"Connection: close\r\n" + HELLO[17:], stay), 200, WHOLE, b"hello"),
    Row("stays, and its end was the end", (hear, OK + b"Connection: close\r\n\r\nhello", stay), 200, STOOD),
    Row("never reads nor answers", (ignore,), 504, LATE),
    Row("stalls before the head", (hear, stay), 504, LATE),
    Row("stalls in the head", (hear, OK + b"Content-Le", stay), 504, LATE),
    Row("stalls in the body", (hear, LONGER, stay), 200, STOOD),
    Row("stalls in a chunk's size", (hear, CHUNKED + b"a", stay), 200, STOOD),
    Row("stalls in the trailers", (hear, CHUNKED + b"0\r\nX: ", stay), 200, STOOD),
    Row("drips its head for ever", (hear, OK, dripping(b"X: " + b"y" * 1000, 0.1)), 504, LATE),
    Row("drips a chunk's size for ever", (hear, CHUNKED, dripping(b"0" * 1000, 0.1)), 200, STOOD),
    Row("drips everything, and comes to its end", (hear, dripping(HELLO, 0.01), stay), 200, WHOLE, b"hello"),
    Row("drips beyond the idle time", (hear, HELLO[:-5], dripping(b"hello", SLOWLY), stay), 200, WHOLE, b"hello"),
    Row("answers an upload unread", (hear, EARLY, ignore), 413, WHOLE, b"early", upload=UPLOAD),
    Row("answers an upload and resets", (hear, EARLY, heard, reset), 413, WHOLE, b"early", upload=UPLOAD),
    Row("takes no upload and says nothing", (ignore,), 504, LATE, upload=UPLOAD),
    Row("resets in an upload", (hear, reset), 502, CLOSED, upload=UPLOAD),
)


def play(proxy: Daemon, origins: Origins, row: Row, home: str) -> Told:
    """Ask an origin that does so, from that address."""
    went_on = threading.Event()

    def wait(_: socket.socket) -> None:
        went_on.wait(LONG_ENOUGH)

    script = tuple(wait if step is heard else step for step in row.script)
    method, fields, body = row.request
    with proxy.connect(home) as client:
        return tell(client, asking(f"http://{origins.add(*script)}/", method, *fields) + body, went_on)


def test_whatever_an_origin_does_its_client_is_told_and_nobody_else_notices(
    scene: Scene, origins: Origins, figures: dict[str, str]
) -> None:
    """Every client hears its own answer, a 502 or 504, or a body that visibly breaks off; each has its record."""
    proxy = scene.start(IDLE)
    places = dict(zip(homes(1), ROWS, strict=False))
    with ordeal(scene, proxy) as bystander, ThreadPoolExecutor(len(ROWS)) as everybody:
        told = dict(
            zip(places, everybody.map(lambda home: play(proxy, origins, places[home], home), places), strict=True)
        )
        bystander.go_on()
    noted = {each["client_address"]: each for each in proxy.closings()}
    assert [
        (row, told[home], noted[home]) for home, row in places.items() if not fits(row, told[home], noted[home])
    ] == []
    figures["origins' faults"] = f"{len(ROWS)}, {bystander.asked.total()} requests of others beside"


def fits(row: Row, told: Told, noted: dict[str, object]) -> bool:
    """Whether that is what the row says. A body that broke off must not look complete."""
    known = (noted["outcome"], noted["reason"], noted["status"]) == (*row.noted, row.told)
    if row.body is not None:
        return known and told.status == row.told and told.body == row.body
    broken = row.noted[0] == "aborted"
    visible = not broken or not told.octets.endswith(b"0\r\n\r\n")
    return known and told.status == row.told and visible


def test_where_nobody_answers_each_of_a_crowd_is_told_and_nobody_else_notices(
    scene: Scene, origins: Origins, crowds: Crowds, figures: dict[str, str], *, long: bool
) -> None:
    """502 where it is refused or no way leads, 504 within 4.5 s where no SYN is answered, and 300 wait as they like."""
    proxy = scene.start()
    each_way, stalling = (600, 1500) if long else (100, 300)
    waiting = origins.add(hear, stay)
    with _deaf(scene) as deaf, ordeal(scene, proxy, growth=GROWTH + stalling * AN_EXCHANGE) as bystander:
        expected = {
            (2, _unused(scene)): (502, "connect_refused"),
            (3, "8.8.8.8:80"): (502, "connect_unreachable"),
            (4, deaf): (504, "connect_timeout"),
        }
        waiters = crowds.gather(proxy, stalling, 1)
        for client in waiters:
            client.sendall(asking(f"http://{waiting}/"))
        for (subnet, where), (status, _) in expected.items():
            crowd = crowds.gather(proxy, each_way, subnet)
            for number, client in enumerate(crowd):
                client.sendall(asking(where, "CONNECT") if number % 2 else asking(f"http://{where}/"))
            bystander.go_on()
            assert {answer(client).status for client in crowd} == {status}, where
            leave(crowd)
        bystander.go_on()
        leave(waiters)
    closings = proxy.closings()
    for (subnet, where), told in expected.items():
        assert [(each["status"], each["reason"]) for each in of(closings, subnet)] == [told] * each_way, where
    assert [each["outcome"] for each in of(closings, 1)] == ["client_gone"] * stalling
    figures["nobody answers"] = f"{3 * each_way} refused, unreachable or silent, {stalling} stalling at once"


def _unused(scene: Scene) -> str:
    """Where nobody listens."""
    with socket.create_server((scene.origin.addresses[0], 0)) as sock:
        return f"{sock.getsockname()[0]}:{sock.getsockname()[1]}"


@contextmanager
def _deaf(scene: Scene) -> Iterator[str]:
    """Where somebody listens, and answers no SYN any more: the queue of those to accept is full (listen(2))."""
    with ExitStack() as stack:
        sock = stack.enter_context(socket.create_server((scene.origin.addresses[0], 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(sock.getsockname())
        yield f"{sock.getsockname()[0]}:{sock.getsockname()[1]}"


@dataclass
class Unread:
    """Three origins that read nothing until `read_on` is set, and then everything: `counts` says how much that was."""

    origins: Origins
    offered: int
    read_on: threading.Event = field(default_factory=threading.Event)
    counts: list[int] = field(default_factory=list)

    def _read_late(self, connection: socket.socket) -> None:
        self.read_on.wait(LONG_ENOUGH)
        self.counts.append(swallow(connection, self.offered))

    def offer(self, proxy: Daemon, go_on: Callable[[int], None]) -> int:
        """Offer so much through a tunnel, a WebSocket and as a body, and let it be read late: what was held up."""
        where = self.origins.add(self._read_late)
        clients = [open_tunnel(proxy, where, "127.0.1.1", websocket=False)]
        where = self.origins.add(hear, SWITCHING, self._read_late)
        clients.append(open_tunnel(proxy, where, "127.0.1.2", websocket=True))
        where = self.origins.add(hear, self._read_late, HELLO)
        clients.append(proxy.connect("127.0.1.3"))
        clients[2].sendall(asking(f"http://{where}/", "POST", f"Content-Length: {self.offered}"))
        pumps = [Pump(client, self.offered) for client in clients]
        held = until_stuck(pumps, go_on)
        self.read_on.set()
        assert all(each.over.wait(LONG_ENOUGH) for each in pumps)
        go_on(2)
        for client in clients[:2]:
            end(client)
        assert [each.recv(1) for each in clients[:2]] == [b"", b""]
        assert answer(clients[2]).body == b"hello"
        leave(clients)
        return held


def test_what_an_origin_does_not_read_is_not_read_from_its_client_either(
    scene: Scene, proxy: Daemon, origins: Origins, figures: dict[str, str]
) -> None:
    """Of 500 MB the kernel takes its share and the worker next to nothing; the rest goes once it is read."""
    Unread(origins, OFFERED // 4).offer(proxy, lambda _: rest(scene, proxy))  # the pipes that it needs stay open
    before = len(of(proxy.closings(), 1))
    with ordeal(scene, proxy) as bystander:
        unread = Unread(origins, OFFERED)
        held = unread.offer(proxy, bystander.go_on)
    assert held < 3 * KERNELS
    assert unread.counts == [OFFERED] * 3
    assert [each["bytes_up"] for each in of(proxy.closings(), 1)[before:]] == [OFFERED] * 3
    figures["origins that do not read"] = f"3 with 500 MB offered to each, {held >> 20} MB taken by the kernel"


def rest(scene: Scene, proxy: Daemon) -> None:
    """Ask for something else meanwhile."""
    with proxy.connect() as client:
        assert get(client, f"{scene.url}/").status == 200


ENDS: Final = {
    "the client resets": ((stay,), reset, "reset"),
    "the origin resets": ((hear_octet, reset), stay, "reset"),
    "the client ends": ((stay,), end, "closed"),
    "the origin ends": ((hear_octet, end, stay), stay, "closed"),
    "the origin says much and resets": ((hear_octet, bytes(10_000), reset), stay, "reset"),
    "the origin is silent": ((stay,), stay, "idle"),
}
"""What happens -> what the origin does, what the client does, and the outcome on record."""


def test_however_a_tunnel_ends_both_sides_of_it_do(scene: Scene, origins: Origins, figures: dict[str, str]) -> None:
    """A reset, an end or silence of either side ends the tunnel, or the WebSocket, and is the outcome on record."""
    proxy = scene.start(IDLE)
    kinds = dict(zip(product(ENDS, (False, True)), homes(1), strict=False))
    left = {kind: threading.Event() for kind in kinds}

    def play_end(kind: tuple[str, bool]) -> None:
        what, websocket = kind
        script, does, _ = ENDS[what]
        opened = (hear, SWITCHING) if websocket else ()
        where = origins.add(*opened, leaving(script, left[kind]))
        with open_tunnel(proxy, where, kinds[kind], websocket=websocket) as client:
            client.settimeout(LONG_ENOUGH)
            client.sendall(b"x")
            with suppress(ConnectionResetError):
                does(client)
                if does is end:
                    stay(client)

    with ordeal(scene, proxy) as bystander, ThreadPoolExecutor(len(kinds)) as everybody:
        list(everybody.map(play_end, kinds))
        bystander.go_on()
        assert [kind for kind, event in left.items() if not event.wait(LONG_ENOUGH)] == []
    outcomes = {each["client_address"]: each["outcome"] for each in proxy.closings()}
    assert {kind: outcomes[home] for kind, home in kinds.items()} == {kind: ENDS[kind[0]][2] for kind in kinds}
    figures["tunnels' ends"] = f"{len(kinds)}"
