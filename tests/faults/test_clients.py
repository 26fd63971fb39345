"""Clients that say nothing, drip, flood, leave and never read: each is let go of in time, others notice nothing.

R10, ATTACKS 8. What bounds them: a head has 15 s, a TLS handshake 10, a first octet 60; a body or an answer that stands
still `idle_seconds` (3,600, here 12); an answer of our own that is not read, 10 s. A body may drip as long as it comes.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from proxyd.policy.password import SALT_OCTETS, new_hash
from proxyd.serve.listener import HANDSHAKES
from tests.end_to_end.asking import answer, basic, connect, get
from tests.end_to_end.daemon import ticks
from tests.end_to_end.nameserver import Says
from tests.end_to_end.test_listeners import Secured
from tests.end_to_end.vitals import MB
from tests.faults.difficult import (
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
    drip,
    dripping,
    end,
    ended,
    follow,
    for_ever,
    hear,
    homes,
    is_open,
    leave,
    of,
    open_tunnel,
    pause,
    reset,
    stay,
    tell,
    until_stuck,
)
from tests.faults.ordeal import GROWTH, at_rest, ordeal, recovered, warm_up
from tests.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

A_CLIENT: Final = 32 * 1024
"""Octets that a client may cost a worker who is there and has asked for nothing yet."""

DENIED: Final = asking("http://10.0.0.5/", "GET", "Connection: close")
FLOOD: Final = asking("http://10.0.0.5/") * 20_000
"""Its answers are more than the kernel takes for one connection (tcp_wmem)."""


# One client each


@dataclass(frozen=True)
class Row:
    """What a client does once it is connected, and what must come of it.

    told: the status that it hears, if any. noted: outcome, reason and status on record.
    """

    what: str
    script: tuple[Step, ...]
    told: int | None
    noted: tuple[str, str | None, int | None]


OPEN: Final = b"GET http://{origin}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
LENGTH: Final = OPEN.replace(b"GET", b"POST") + b"Content-Length: 5\r\n\r\n"
CHUNKED: Final = OPEN.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
TUNNEL: Final = b"CONNECT {origin} HTTP/1.1\r\nHost: x\r\n\r\n"
STALLING: Final = b"GET http://{stalling}/ HTTP/1.1\r\nHost: x\r\n\r\n"
MUCH: Final = b"G" * 64 * 1024
"""More than is read of a client that waits for its answer."""

UNHEARD: Final = ("refused", "malformed_request", 400)
TOO_LARGE: Final = ("refused", "head_too_large", 431)
SERVED: Final = ("complete", None, 200)
GONE: Final = ("client_gone", "aborted", None)
GONE_MEANWHILE: Final = ("client_gone", None, None)

ROWS: Final = (
    Row("ends in the head", (OPEN, end), 400, UNHEARD),
    Row("resets in the head", (OPEN, reset), None, GONE),
    Row("says fields for ever", (OPEN, for_ever(b"X: y\r\n")), 431, TOO_LARGE),
    Row("says one field for ever", (OPEN + b"X: ", for_ever(b"y")), 431, TOO_LARGE),
    Row("says a target for ever", (b"GET http://x/", for_ever(b"y")), 431, TOO_LARGE),
    Row("says what is no HTTP", (b"\x16\x03\x01\x02\x00\x01",), 400, UNHEARD),
    Row("says empty lines for ever", (for_ever(b"\r\n"),), 400, UNHEARD),
    Row("drips its head and comes to its end", (dripping(DENIED, 0.01),), 403, ("refused", "address_denied", 403)),
    Row("ends its side with the request", (OPEN + b"\r\n", end), 200, SERVED),
    Row("sends no body", (LENGTH,), 408, ("refused", "body_timeout", 408)),
    Row("sends half a body", (LENGTH + b"hel",), 408, ("refused", "body_timeout", 408)),
    Row("ends in the body", (LENGTH + b"hel", end), 400, UNHEARD),
    Row("resets in the body", (LENGTH + b"hel", reset), None, GONE_MEANWHILE),
    Row("sends half a chunk", (CHUNKED + b"5\r\nhel",), 408, ("refused", "body_timeout", 408)),
    Row("ends without the last chunk", (CHUNKED, end), 400, UNHEARD),
    Row("extends a chunk for ever", (CHUNKED + b"1;", for_ever(b"x")), 400, UNHEARD),
    Row("extends chunks for ever", (CHUNKED, for_ever(b"1;%b\r\na\r\n" % (b"x" * 900))), 400, UNHEARD),
    Row("says trailers for ever", (CHUNKED + b"0\r\n", for_ever(b"X: y\r\n")), 431, TOO_LARGE),
    Row("drips a chunk's size for ever", (CHUNKED, dripping(b"0" * 1000, 0.1)), 408, ("refused", "body_timeout", 408)),
    Row("drips a body", (LENGTH, dripping(b"hello", 0.1)), 200, SERVED),
    Row("drips a body for longer than the idle time", (LENGTH, dripping(b"hello", SLOWLY)), 200, SERVED),
    Row("asks, and resets while the origin stalls", (STALLING, reset), None, GONE_MEANWHILE),
    Row("asks, says too much, and resets while the origin stalls", (STALLING + MUCH, reset), None, GONE_MEANWHILE),
    Row("asks, and ends while the origin stalls", (STALLING, pause(8), end), 504, ("refused", "origin_timeout", 504)),
    Row(
        "asks, and resets while DNS is silent",
        (b"GET http://silent.test/ HTTP/1.1\r\nHost: x\r\n\r\n", reset),
        None,
        ("client_gone", "dns_timeout", 504),
    ),
    Row("opens a tunnel and is silent", (TUNNEL,), 200, ("idle", None, 200)),
    Row("opens a tunnel and ends", (TUNNEL, end), 200, ("closed", None, 200)),
    Row("speaks into a tunnel at once", (TUNNEL + b"GET / HTTP/1.1\r\n\r\n", end), 200, ("closed", None, 200)),
)


def play(proxy: Daemon, row: Row, where: dict[bytes, str], home: str) -> Told:
    """Be that client."""

    def filled(step: Step) -> Step:
        if isinstance(step, bytes):
            for name, place in where.items():
                step = step.replace(name, place.encode())
        return step

    with proxy.connect(home) as client:
        speaker = threading.Thread(target=_speak, args=(tuple(map(filled, row.script)), client), daemon=True)
        speaker.start()
        if reset in row.script:
            speaker.join(LONG_ENOUGH)
            return Told(b"", "reset")
        return tell(client, b"")


def _speak(script: tuple[Step, ...], client: socket.socket) -> None:
    with suppress(OSError):
        follow(script, client)


def test_whatever_a_client_does_it_is_told_and_nobody_else_notices(
    scene: Scene, origins: Origins, figures: dict[str, str]
) -> None:
    """Every client that listens hears its own answer, and each request has its record."""
    proxy = scene.start(IDLE)
    scene.nameserver.zone["silent.test"] = Says(silent=True)
    where = {
        b"{origin}": f"{scene.origin.addresses[0]}:{scene.origin.port}",
        b"{stalling}": origins.add(hear, stay),
    }
    rows = dict(zip(homes(1), ROWS, strict=False))
    with ordeal(scene, proxy) as bystander, ThreadPoolExecutor(len(ROWS)) as everybody:
        told = dict(zip(rows, everybody.map(lambda home: play(proxy, rows[home], where, home), rows), strict=True))
        bystander.go_on()
    noted = {each["client_address"]: each for each in proxy.closings()}
    came = {row.what: (told[home].status, *_noted(noted[home])) for home, row in rows.items()}
    assert came == {row.what: (row.told, *row.noted) for row in ROWS}
    figures["clients' faults"] = f"{len(ROWS)}, {bystander.asked.total()} requests of others beside"


def _noted(closing: dict[str, Any]) -> tuple[str, str | None, int | None]:
    """Outcome, reason and status."""
    return closing["outcome"], closing["reason"], closing["status"]


# Crowds


def test_attack_8_slow_heads_silence_and_floods_end_by_themselves(
    scene: Scene, secured: Secured, crowds: Crowds, figures: dict[str, str], *, long: bool
) -> None:
    """408 after 15 s to each slow head, nothing to a handshake that stalls, an end to who takes no answers."""
    proxy, (drippers, silent) = secured.daemon, (2000, 1500) if long else (300, 1000)
    with ordeal(scene, proxy, growth=GROWTH + (drippers + silent) * A_CLIENT) as bystander:
        nobody = crowds.gather(proxy, silent, 1)
        slow = [*crowds.gather(proxy, drippers, 2), *crowds.gather(proxy, drippers // 4, 3)]
        for client in slow[drippers:]:
            client.sendall(b"GET http://x/ HTTP/1.1\r\nHo")  # and never goes on
        count = len(slow)
        shaking = crowds.add(*(secured.plain() for _ in range(HANDSHAKES + 50)))
        for number, client in enumerate(shaking):
            client.sendall(RECORD if number % 2 else GARBAGE)
        flooding = crowds.add(flood(proxy, "127.0.4.1"))
        bystander.go_on()
        told = drip(slow, drippers)
        ended(shaking)
        ended(flooding)
        bystander.go_on()
        leave(nobody)
        leave(slow)
    assert Counter(each.status for each in told) == {408: count}
    closings = proxy.closings()
    assert Counter(map(_noted, of(closings, 2) + of(closings, 3))) == {("refused", "head_timeout", 408): count}
    assert of(closings, 1) == []
    floods = of(closings, 4)
    assert [each["outcome"] for each in floods] == ["refused"] * (len(floods) - 1) + ["client_gone"]
    figures["clients who wait"] = (
        f"{silent} silent, {count} slow heads, {HANDSHAKES + 50} handshakes, {len(floods)} answers never taken"
    )


def test_attack_8_who_connects_and_leaves_at_once_costs_nothing(
    scene: Scene, origins: Origins, crowds: Crowds, figures: dict[str, str], *, long: bool
) -> None:
    """Storms of resets: before a word, while DNS or an origin is silent, of a thousand tunnels; all is let go of."""
    proxy = scene.start()
    storm, crowd, tunnels = (20_000, 1000, 3000) if long else (3000, 300, 1000)
    scene.nameserver.zone |= {f"n{number}.silent.test": Says(silent=True) for number in range(crowd)}
    stalling, tunnelled = origins.add(hear, stay), origins.add(stay)
    with ordeal(scene, proxy, growth=GROWTH + tunnels * A_CLIENT) as bystander:
        for number in range(0, storm, 100):
            leave(crowds.gather(proxy, 100, 1), (reset, socket.socket.close, end)[number // 100 % 3])
        bystander.go_on()
        resolving = crowds.gather(proxy, crowd, 3)
        for number, client in enumerate(resolving):
            client.sendall(asking(f"http://n{number}.silent.test/"))
        next(None for _ in ticks() if scene.nameserver.asked)
        leave(resolving)
        waiting = crowds.gather(proxy, crowd, 2)
        for client in waiting:
            client.sendall(asking(f"http://{stalling}/"))
        opened = crowds.gather(proxy, tunnels, 4)
        for client in opened:
            client.sendall(asking(tunnelled, "CONNECT"))
        assert {answer(client).status for client in opened} == {200}
        bystander.go_on()
        leave(opened)
        leave(waiting)
    closings = proxy.closings()
    assert of(closings, 1) == []
    assert [each["outcome"] for each in of(closings, 2)] == ["client_gone"] * crowd
    assert Counter(map(_noted, of(closings, 3))) == {("client_gone", "dns_timeout", 504): crowd}
    assert [each["outcome"] for each in of(closings, 4)] == ["reset"] * tunnels
    figures["clients who leave"] = f"{storm} at once, {2 * crowd} while they wait, {tunnels} tunnels"


def test_what_a_client_does_not_read_is_not_read_from_its_origin_either(
    scene: Scene, proxy: Daemon, origins: Origins, crowds: Crowds, figures: dict[str, str]
) -> None:
    """Of an answer, a tunnel and a WebSocket of 500 MB the kernel takes its share, the worker next to nothing."""
    pumps: list[Pump] = []

    def offer(connection: socket.socket) -> None:
        pump = Pump(connection, OFFERED)
        pumps.append(pump)
        pump.over.wait(LONG_ENOUGH)

    whole = OK + f"Content-Length: {OFFERED}\r\n\r\n".encode()
    with ordeal(scene, proxy) as bystander:
        clients = crowds.add(
            open_tunnel(proxy, origins.add(offer), "127.0.1.1", websocket=False),
            open_tunnel(proxy, origins.add(hear, SWITCHING, offer), "127.0.1.2", websocket=True),
            proxy.connect("127.0.1.3"),
        )
        clients[2].sendall(asking(f"http://{origins.add(hear, whole, offer)}/"))
        next(None for _ in ticks() if len(pumps) == len(clients))
        held = until_stuck(pumps, bystander.go_on)
        leave(clients)
        assert all(each.over.wait(LONG_ENOUGH) for each in pumps), "an origin is not told that its client is gone"
    assert held < 3 * KERNELS
    outcomes = {each["client_address"]: each["outcome"] for each in of(proxy.closings(), 1)}
    assert outcomes == {"127.0.1.1": "reset", "127.0.1.2": "reset", "127.0.1.3": "client_gone"}
    figures["clients that do not read"] = f"3 with 500 MB offered to each, {held >> 20} MB taken by the kernel"


def test_beyond_the_limit_of_connections_the_silent_make_room_and_who_is_busy_goes_on(
    scene: Scene, crowds: Crowds, figures: dict[str, str]
) -> None:
    """The silent could hold all places, for 60 s and again: who comes and asks is served in the place of one."""
    proxy = scene.start("[limits]\nconnections = 1000\n")
    warm_up(scene, proxy)
    before = at_rest(proxy)
    with ExitStack() as stack:
        tunnel = stack.enter_context(proxy.connect())
        assert connect(tunnel, scene.target).status == 200
        silent = crowds.gather(proxy, 999, 1)
        served = [stack.enter_context(proxy.connect(home)) for home, _ in zip(homes(2), range(200), strict=False)]
        assert {get(newcomer, f"{scene.url}/").status for newcomer in served} == {200}
        assert sum(is_open(client) for client in silent) == 999 - 200
        assert get(tunnel, "/").status == 200
    leave(silent)
    recovered(proxy, before)
    assert Counter(each["status"] for each in of(proxy.closings(), 2)) == {200: 200}
    figures["the limit of connections"] = "1,000 taken, 999 of them by who is silent, 200 more served"


def test_r2_who_guesses_passwords_slows_nobody_but_those_beside_him(
    scene: Scene, crowds: Crowds, figures: dict[str, str]
) -> None:
    """One hash at a time, in turns by address: who knows the password is let in, who needs none notices nothing."""
    known = new_hash(PASSWORD, b"s" * SALT_OCTETS)
    proxy = scene.start(CLIENTS.format(password=known))
    with ordeal(scene, proxy, growth=GROWTH + A_HASH) as bystander:
        guessing = crowds.gather(proxy, 200, 2, places=2)
        for number, client in enumerate(guessing):
            client.sendall(asking(f"{scene.url}/", "GET", "Connection: close", basic("agent", f"guess {number}")))
        bystander.go_on()
        with let_in(proxy, f"{scene.url}/") as client:
            assert get(client, f"{scene.url}/", basic("agent", PASSWORD)).status == 200
        bystander.go_on()
        told = Counter(answer(client).reason for client in guessing)
        leave(guessing)
    assert told.keys() <= {"credential_required", "overloaded"}
    assert Counter(each["reason"] for each in of(proxy.closings(), 2)) == told
    figures["guesses of a password"] = ", ".join(f"{count} {reason}" for reason, count in told.items())


def let_in(proxy: Daemon, url: str) -> socket.socket:
    """Somebody who knows the password, served: where so few hashes take all the time for an answer, in the end."""
    for _ in ticks():
        before = hashed(proxy)
        client = proxy.connect("127.0.1.1")
        told = get(client, url, basic("agent", PASSWORD))
        if told.status == 200:
            return client
        client.close()
        assert told.reason == "overloaded"
        assert hashed(proxy) - before <= HASHES_BEFORE, "others had more turns"
    raise AssertionError("never let in")


def hashed(proxy: Daemon) -> int:
    """How many guesses have had their turn."""
    return sum(each["reason"] == "credential_required" for each in proxy.decided())


HASHES_BEFORE: Final = 4
"""That the third place may have to wait for: one under way, three turns of the two others."""

PASSWORD: Final = "known to few"  # noqa: S105 - planted
A_HASH: Final = 32 * MB
"""Octets that scrypt(7) takes for one password, as our hashes are made."""

CLIENTS: Final = """
[[client]]
name = "tester"
networks = ["127.0.0.0/24"]

[[client]]
name = "agent"
networks = ["127.0.1.0/24", "127.0.2.0/24"]
[client.credential]
user = "agent"
password = "{password}"
"""


def test_attack_8_a_client_cannot_have_us_renegotiate(secured: Secured) -> None:
    """TLS 1.2: each renegotiation would cost us ten times what it costs the client (RFC 5246 §7.4.1.1)."""
    command = [tool("openssl"), "s_client", "-connect", f"127.0.0.2:{secured.port}", "-tls1_2"]
    done = subprocess.run(command, input=b"R\n", capture_output=True, check=False, timeout=LONG_ENOUGH)  # noqa: S603 - fixed
    assert b"RENEGOTIATING" in done.stderr + done.stdout
    assert b"no renegotiation" in done.stderr + done.stdout
    assert secured.daemon.decided() == []


@pytest.fixture
def secured(scene: Scene, tmp_path: Path) -> Secured:
    """A daemon that also speaks TLS."""
    return Secured(scene, tmp_path)


GARBAGE: Final = b"GET / HTTP/1.1\r\n\r\n"
RECORD: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"
"""The beginning of a ClientHello of which the rest does not come (RFC 8446 §5.1)."""


def flood(proxy: Daemon, home: str) -> socket.socket:
    """Very many requests in a row, of which no answer is taken."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.bind((home, 0))
    client.connect(("127.0.0.1", proxy.port))
    client.settimeout(LONG_ENOUGH)
    threading.Thread(target=_speak, args=((FLOOD,), client), daemon=True).start()
    return client
