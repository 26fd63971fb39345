"""No secret that passes through any door is said anywhere: not in the log, on stderr, in a refusal, to anybody else.

R7, ATTACKS 9. A host name is no secret, and is recorded on purpose. tests/adversarial/secrets.py has what is planted.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxyd.cli import main
from tests import namespace
from tests.adversarial.crashes import CRASHES, crashing
from tests.adversarial.doors import DOORS, Answer, Asked, Connection
from tests.adversarial.secrets import (
    EXPLAINED,
    IN_FLIGHT,
    MALFORMED,
    PIECE,
    PLACES,
    RAW,
    REPLIES,
    SECTIONS,
    TYPED,
    Find,
    Finder,
    Place,
    Plant,
    Watch,
)
from tests.end_to_end.daemon import PATIENCE, Daemon, policy_text, read_all, read_until, status
from tests.end_to_end.nameserver import Says

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeVar

    from tests.end_to_end.conftest import Scene

    T = TypeVar("T")

DOOR_NAMES = frozenset(door.name for door in DOORS)
STRIDE = 4  # of the short form, coprime with the numbers of doors, verdicts and cuts: it is spread over all of them
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(scope="module")
def watch(figures: dict[str, str]) -> Iterator[Watch]:
    """One watch for the whole module: a secret of one test is looked for in what all later ones said, too."""
    watch = Watch()
    yield watch
    figures["secrets"] = (
        f"{len(watch.finder.plants)} planted in {len(watch.places)} places "
        f"through {len(watch.doors & DOOR_NAMES)} doors, "
        f"{len(watch.surfaces)} surfaces searched: {len(watch.leaks)} found"
    )


def spread(everything: Iterable[T], *, long: bool) -> Sequence[T]:
    """All of it, or a part that is spread over it."""
    return list(everything)[:: 1 if long else STRIDE]


def destinations(scene: Scene) -> dict[str, bytes]:
    """One destination for each verdict and for each step that comes to it."""
    scene.nameserver.zone["inner.test"] = Says(a=("10.0.0.5",))
    with socket.socket() as unused:
        unused.bind((namespace.origin_4(), 0))
        closed = unused.getsockname()[1]
    return {
        "allowed": scene.target.encode(),
        "refused": b"10.0.0.5:80",
        "refused after its lookup": b"inner.test:80",
        "failed in DNS": b"missing.test:80",
        "failed to connect": f"{namespace.origin_4()}:{closed}".encode(),
    }


def asked(place: Place, plant: Plant, at: bytes, opener: bytes) -> Asked:
    """The request that has the plant in its place."""
    authority = plant.written(place.authority).replace(b"{at}", at)
    return Asked(authority, plant.written(place.path), plant.written(place.fields), plant.written(place.body), opener)


def test_the_finder_finds_a_plant_in_a_log_in_every_spelling(scene: Scene, proxy: Daemon) -> None:
    """The search itself: in a copy of a real log it finds nothing, and finds what is put there."""
    proxy.ask(b"GET http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert len(proxy.records()) == 2
    log = proxy.audit.read_bytes()
    first, _, rest = log.partition(b"\n")
    finder = Finder(seed=1)
    plant, other = finder.plant("here"), finder.plant("elsewhere")
    secret = plant.secret.encode()
    spellings = {
        "verbatim": secret,
        "upper case": secret.upper(),
        "percent-encoded": plant.written(b"{percent}"),
        "percent-encoded in part": secret[:6] + b"%%%02x" % secret[6] + secret[7:],
        "hexadecimal": secret.hex().encode(),
        "hexadecimal in capitals": secret.hex().upper().encode(),
        "escaped as JSON does": "".join(f"\\u{ord(each):04x}" for each in plant.secret).encode(),
        "escaped as Python does, twice": "".join(f"\\\\x{ord(each):02x}" for each in plant.secret).encode(),
        **{f"base64 behind {n}": base64.b64encode(b":" * n + secret + b"!" * n) for n in range(4)},
        "its beginning": secret[:8],
        "its end": secret[-8:],
        "backwards": secret[::-1],
        "in two records": secret[:12] + b'"}\n{"time":"' + secret[12:],
    }
    assert finder.find(log) == set()
    for spelling, text in spellings.items():
        found = finder.find(first + text + b"\n" + rest)
        assert {find.plant for find in found} == {plant}, spelling
    assert finder.find(log + secret[:7]) == set()
    assert Find(other, "verbatim") in finder.find(log + other.secret.encode())
    assert scene.origin.connections == 0


def test_attack_9_no_secret_of_a_well_formed_request_is_said_anywhere(
    scene: Scene, watch: Watch, *, long: bool
) -> None:
    ways = list(product(PLACES.items(), DOORS, destinations(scene).items()))
    proxy = scene.start(workers=2)
    proxy.wait_for_start(workers=2)
    sent, travelled, at_origin = 0, set[Plant](), set[Plant]()
    for (name, place), door, (verdict, at) in spread(ways, long=long):
        allowed = verdict == "allowed"
        if door.tunnels and not allowed and not place.fields:
            continue  # it would stand inside a tunnel that there is not
        plant = watch.plant(name, door.name, verdict)
        answer = door.ask(proxy, asked(place, plant, at, scene.target.encode()))
        assert (answer.status < 400) == allowed, (name, door.name, verdict)
        if watch.hear(answer, plant):
            travelled.add(plant)
        if allowed and (place.travels or door.tunnels):
            at_origin.add(plant)
        sent += 2 if door.opens else 1
    watch.look_behind(scene, proxy, at_origin)
    arrived = watch.look("origin", b"".join(scene.origin.heads + scene.origin.bodies), at_origin)
    assert arrived | travelled == at_origin  # they were there to be found, every one
    assert len(proxy.decisions()) == sent


def test_attack_9_no_secret_of_a_malformed_request_is_said_anywhere(scene: Scene, watch: Watch, *, long: bool) -> None:
    proxy = scene.start()
    at, sent = scene.target.encode(), 0
    for (name, place), door in spread(product(MALFORMED.items(), DOORS), long=long):
        plant = watch.plant(name, door.name, "malformed")
        answer = door.ask(proxy, asked(place, plant, at, at))
        watch.hear(answer, plant)
        assert 400 <= answer.status <= 505, (name, door.name)
        sent += 2 if door.opens else 1
    for (name, raw), first in product(RAW.items(), (b"", b"GET http://%b/ HTTP/1.1\r\nHost: x\r\n\r\n" % at)):
        plant = watch.plant(name, "a second one" if first else "a first one", "malformed")
        with proxy.connect() as client:
            client.sendall(first + plant.written(raw))
            client.shutdown(socket.SHUT_WR)
            last = last_of(read_all(client))
        watch.hear(last, plant)
        assert 400 <= last.status <= 505, name
        sent += 2 if first else 1
    watch.look_behind(scene, proxy)
    assert len(proxy.decisions()) == sent


def last_of(answers: bytes) -> Answer:
    """The last of the answers that came, which is a refusal and quotes nothing."""
    raw = b"HTTP/1.1 " + answers.rpartition(b"HTTP/1.1 ")[2]
    return Answer(status(raw), raw)


class CutShort(socket.socket):
    """A client's connection that ends in the middle of a secret, or right after it, as if the client had crashed."""

    def __init__(self, connected: socket.socket, secret: bytes, kept: int) -> None:
        super().__init__(fileno=connected.detach())
        self._secret, self._kept = secret, kept

    def sendall(self, octets: bytes, flags: int = 0, /) -> None:  # type: ignore[override] # bytes is what doors send
        """Send as far as the connection goes."""
        found = octets.find(self._secret)
        if found < 0:
            return super().sendall(octets, flags)
        super().sendall(octets[: found + self._kept], flags)
        return self.shutdown(socket.SHUT_WR)


def test_attack_9_no_secret_of_a_request_cut_off_is_said_anywhere(scene: Scene, watch: Watch, *, long: bool) -> None:
    proxy = scene.start()
    at_origin: set[Plant] = set()
    places = [(name, place) for name, place in PLACES.items() if b"{t}" in place.path + place.fields + place.body]
    for (name, place), door, kept in spread(product(places, DOORS, (PIECE, 12, 24)), long=long):
        plant = watch.plant(name, door.name, "cut off")
        if place.body or (door.tunnels and not place.fields):
            at_origin.add(plant)  # by then the head was complete, and allowed
        request = asked(place, plant, scene.target.encode(), scene.target.encode())
        with CutShort(proxy.connect(), plant.secret.encode(), kept) as client:
            client.settimeout(PATIENCE)
            with contextlib.suppress(AssertionError, ConnectionError):  # there may be no answer
                watch.hear(door.enter(Connection(client), request), plant)
    watch.look_behind(scene, proxy, at_origin)
    assert proxy.closings() != []


def test_attack_9_no_secret_of_an_origins_answer_is_said_to_anybody_but_its_client(scene: Scene, watch: Watch) -> None:
    proxy = scene.start()
    at = scene.target.encode()
    readers = [door for door in DOORS if not door.tunnels and door.name != "WebSocket upgrade"]
    for number, ((name, reply), door) in enumerate(product(REPLIES.items(), readers)):
        plant = watch.plant(f"{name}, of an answer", door.name, "answered")
        path = f"/{number}"
        scene.origin.scripted[path] = plant.written(reply.octets)
        answer = door.ask(proxy, Asked(at, path.encode(), opener=at))
        ours = b"\r\nProxy-Status: proxyd;" in answer.raw
        found = watch.look("refusals" if ours else "answers", answer.raw, (plant,) if reply.reaches else ())
        assert (plant in found) == reply.reaches, (name, door.name)
    watch.look_behind(scene, proxy)


def test_attack_9_no_client_hears_what_another_has_in_flight(scene: Scene, watch: Watch) -> None:
    """Requests of many clients stand half done, each full of secrets, while others ask at every door."""
    proxy = scene.start()
    at = destinations(scene)
    scene.nameserver.zone["silent.test"] = Says(silent=True)
    own: set[Plant] = set()
    with contextlib.ExitStack() as flight:
        for name, (raw, granted) in IN_FLIGHT.items():
            plant = watch.plant(name, "in flight", "while others ask")
            own.add(plant)
            client = flight.enter_context(proxy.connect())
            client.sendall(plant.written(raw).replace(b"{at}", at["allowed"]))
            assert granted in (read_until(client, b"\r\n") if granted else b"")
        until(lambda: ("silent.test", "A") in scene.nameserver.asked and len(scene.origin.heads) == 3)
        for door, place, (verdict, authority) in product(DOORS, ("body", "second Host"), at.items()):
            request = asked(
                (PLACES | MALFORMED)[place], watch.plant(place, door.name, verdict), authority, at["allowed"]
            )
            watch.hear(door.ask(proxy, request), watch.finder.plants[-1])
        watch.look_at(proxy)
    assert proxy.stop() == 0
    watch.look("stdout", proxy.audit.read_bytes())
    watch.look("stderr", proxy.errors.read_bytes())
    assert watch.fresh() == []


def until(holds: Callable[[], object]) -> None:
    """Wait until that holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.01)


def test_attack_9_no_secret_is_shown_on_a_terminal_or_taken_from_the_environment(
    scene: Scene, watch: Watch, tmp_path: Path
) -> None:
    """The log as coloured lines; and another proxy, with credentials, that the environment names (ATTACKS 6.4)."""
    given = {name: watch.plant(f"{name} of the environment", "no door", "ignored") for name in PROXY_VARIABLES}
    urls = {name: plant.written(b"http://agent:{t}@127.0.0.1:9").decode() for name, plant in given.items()}
    policy, errors = tmp_path / "terminal.toml", tmp_path / "errors"
    policy.write_text(policy_text(scene.nameserver.port, scene.origin.port, ("origin.test",)))
    errors.touch()
    terminal, program = os.openpty()
    shown = bytearray()
    threading.Thread(target=_show, args=(terminal, shown), daemon=True).start()
    at, at_origin, sent = destinations(scene), set[Plant](), 0
    with contextlib.ExitStack() as stack:
        proxy = Daemon(policy, Path(os.ttyname(program)), errors, os.environ | urls)
        stack.callback(proxy.stop)
        os.close(program)
        for (name, place), door, (verdict, authority) in spread(product(PLACES.items(), DOORS, at.items()), long=False):
            plant = watch.plant(name, door.name, f"{verdict}, on a terminal")
            at_origin |= {plant} if place.travels or door.tunnels else set()
            watch.hear(door.ask(proxy, asked(place, plant, authority, at["allowed"])), plant)
            sent += 2 if door.opens else 1
            until(lambda: shown.count(b"outcome") == sent)  # noqa: B023 - called here; a full terminal refuses us
        watch.look_at(proxy, given.values())
    watch.look("terminal", bytes(shown))
    watch.look("stderr", errors.read_bytes())
    watch.look("origin", b"".join(scene.origin.heads + scene.origin.bodies), at_origin)
    assert b"\x1b[" in shown
    assert watch.fresh() == []


def _show(terminal: int, shown: bytearray) -> None:
    """Be a terminal, until the last program at it ends: then reading is EIO."""
    with open(terminal, "rb", buffering=0) as screen, contextlib.suppress(OSError):
        while octets := screen.read(65536):
            shown.extend(octets)


@pytest.mark.parametrize("site", CRASHES)
def test_attack_9_no_secret_of_a_crash_is_said_anywhere(
    scene: Scene, watch: Watch, tmp_path: Path, site: str, *, long: bool
) -> None:
    """A bug, with secrets in what it raises, in what it holds and in the request: stderr says where, and no more."""
    held = watch.plant(f"crash {site}", "every door", "held")
    proxy, mark = crashing(scene, tmp_path, CRASHES[site], held)
    at, at_origin = destinations(scene), set[Plant]()
    ways = product(("cookie", "key in the query", "body"), DOORS, ("allowed", "refused", "refused after its lookup"))
    for place, door, verdict in spread(ways, long=long):
        plant = watch.plant(place, door.name, f"{verdict}, crash {site}")
        at_origin.add(plant)
        with contextlib.suppress(AssertionError, ConnectionError):  # there may be no answer
            watch.hear(door.ask(proxy, asked(PLACES[place], plant, at[verdict], at["allowed"])), plant)
    assert mark.exists()
    watch.look_behind(scene, proxy, at_origin)
    assert "Traceback" not in proxy.complaints()


def test_attack_9_no_secret_of_a_worker_that_dies_is_said_anywhere(scene: Scene, watch: Watch, tmp_path: Path) -> None:
    """A bug in the pool of tunnels, where no session stands between it and the end of its worker."""
    held, plant = (watch.plant(place, "CONNECT", "a worker dies") for place in ("crash of the pool", "cookie"))
    proxy, mark = crashing(scene, tmp_path, ("proxyd.net.tunnels", "Tunnels._turn"), held)
    with proxy.connect() as client:
        client.sendall(
            plant.written(b"CONNECT %b HTTP/1.1\r\nHost: x\r\nCookie: {t}\r\n\r\n{t}" % scene.target.encode())
        )
        with contextlib.suppress(ConnectionError):
            read_all(client)
    until(lambda: "another is started" in proxy.complaints())
    assert mark.exists()
    proxy.wait_for_start(workers=2)  # the one that died, and the other
    watch.look_behind(scene, proxy)
    assert "Traceback" not in proxy.complaints()


@pytest.mark.parametrize("case", TYPED)
def test_attack_9_no_secret_typed_into_a_policy_is_said(
    watch: Watch, tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    """Bad policies are told of in the journal of the service that did not start."""
    plant = watch.plant(f"{case} in a policy", "no door", "bad policy")
    section, text = TYPED[case]
    policy = tmp_path / "typed.toml"
    policy.write_text("\n".join((SECTIONS | {section: text.replace("{t}", plant.secret)}).values()))
    assert main(["check", str(policy)]) == 78
    said = capfd.readouterr()
    assert said.err.startswith("proxyd: ")
    watch.look("check", (said.out + said.err).encode())
    assert watch.fresh() == []


@pytest.mark.parametrize("url", EXPLAINED)
def test_attack_9_no_secret_of_a_url_is_repeated_by_explain(
    watch: Watch, tmp_path: Path, capfd: pytest.CaptureFixture[str], url: str
) -> None:
    plant = watch.plant(url, "no door", "explained")
    policy = tmp_path / "good.toml"
    policy.write_text("\n".join(SECTIONS.values()))
    main(["explain", url.replace("{t}", plant.secret), "--policy", str(policy)])
    said = capfd.readouterr()
    assert "client" in said.out
    watch.look("explain", (said.out + said.err).encode())
    assert watch.fresh() == []


def test_attack_9_enough_was_planted(watch: Watch) -> None:
    """Nothing above may pass because there was nothing to find. Stays the last."""
    assert len(watch.finder.plants) > 500
    assert watch.doors >= DOOR_NAMES
    assert len(watch.surfaces) >= 8
