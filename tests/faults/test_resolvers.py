"""Resolvers that are dead, slow or lying, and the daemon that asks them (R3, R6, R10, R12; ATTACKS 3, 8).

Nobody is connected to what the true server did not say; whoever cannot be served is told so, once, and nobody else
notices.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.net.nameserver import MOST_ADDRESSES
from proxyd.net.resolver import MOST_OF_ONE, ROUNDS
from tests import namespace
from tests.adversarial.tls import certificates
from tests.end_to_end.asking import get
from tests.end_to_end.daemon import ticks
from tests.end_to_end.origin import Listener
from tests.end_to_end.vitals import MB
from tests.faults import delivery, lies
from tests.faults.lies import FAILED, SERVED, SILENT
from tests.faults.lying import DECOY, TRUE, Asked, Liar, in_tls, tell_the_truth, truncate
from tests.faults.ordeal import ordeal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon
    from tests.faults.lying import Lie

    Outcomes = dict[str, tuple[int, str]]

own_network = pytest.mark.skipif(not namespace.isolated, reason="no network of our own: there is no such address here")
pytestmark = own_network


@pytest.fixture
def over() -> Iterator[None]:
    """What is held back is let go of in the end."""
    delivery.OVER.clear()
    yield
    delivery.OVER.set()


@contextmanager
def decoy(scene: Scene) -> Iterator[None]:
    """Where only a lie leads to: the policy has nothing against it, and nobody may arrive."""
    listener = Listener(lambda _connection: None, (DECOY,), scene.origin.port)
    try:
        yield
        assert listener.connections == 0, "a lie was believed"
    finally:
        listener.close()


@contextmanager
def standing(liar: Liar) -> Iterator[Liar]:
    """It stands until then."""
    try:
        yield liar
    finally:
        liar.die()


def zones(scene: Scene, servers: Mapping[str, tuple[str, ...]], more: str = "") -> str:
    """Policy text: who is asked for which names; for all others, the scene's own nameserver."""
    each = "".join(
        f"[[dns.zone]]\nsuffix = {suffix!r}\nservers = {list(listed)}\n" for suffix, listed in servers.items()
    )
    return f'[dns]\nservers = ["127.0.0.1:{scene.nameserver.port}"]\n{each}{more}'


def url(scene: Scene, name: str) -> str:
    """Of an origin by that name."""
    return f"http://{name}:{scene.origin.port}/"


def ask(proxy: Daemon, target: str, source: str = "127.0.0.1") -> tuple[int, str]:
    """What one is told: the status, and the reason of a refusal."""
    with proxy.connect(source) as client:
        said = get(client, target)
        return said.status, said.reason


def surprises(scene: Scene, proxy: Daemon, expected: Outcomes) -> Outcomes:
    """What came of many names where something else was expected.

    Where silence is expected, as many are asked for at once as one client has turns. Of the others few: the server
    is a program like this one, and who is told in time must not depend on how fast it speaks.
    """
    silent = [name for name in expected if expected[name] == SILENT]
    others = [name for name in expected if expected[name] != SILENT]
    told = outcomes(scene, proxy, silent, MOST_OF_ONE) | outcomes(scene, proxy, others, at_once=4)
    return {name: said for name, said in told.items() if said != expected[name]}


def outcomes(scene: Scene, proxy: Daemon, names: Iterable[str], at_once: int) -> Outcomes:
    """What one is told of each of these names."""
    with ThreadPoolExecutor(at_once) as pool:
        asked = {name: pool.submit(ask, proxy, url(scene, name)) for name in names}
        return {name: each.result() for name, each in asked.items()}


def on_record(proxy: Daemon, names: Iterable[str]) -> dict[str, list[tuple[int, str | None]]]:
    """What the log has of these: the status of each decision, and of each end with the address that was dialled."""
    said: dict[str, list[tuple[int, str | None]]] = {name: [] for name in names}
    for each in proxy.records():
        if each["host"] in said:
            said[each["host"]].append((each["status"], each.get("address")))
    return said


def hold_to_the_record(proxy: Daemon, outcomes: Outcomes) -> None:
    """Each was decided once and ended once, as its client was told; and dialled was the truth, or nobody."""
    for name, entries in on_record(proxy, outcomes).items():
        status, _ = outcomes[name]
        assert len(entries) == 2, name
        assert entries[1] in ([(status, TRUE)] if status == 200 else [(status, None)]), name
    assert "bug" not in proxy.complaints()


# Lies


@pytest.mark.usefixtures("over")
def test_r3_nobody_is_connected_to_what_the_true_server_did_not_say(scene: Scene, figures: dict[str, str]) -> None:
    """Whatever is said on the wire, each client gets one answer, that of a failure, a refusal or the truth."""
    over_udp, over_tcp = (
        {word: lie for word, (lie, _) in table.items()} for table in (delivery.OVER_UDP, delivery.OVER_TCP)
    )
    with standing(Liar(over_udp)) as udp, standing(Liar({}, over_tcp, otherwise=truncate)) as tcp:
        servers = {"udp": f"127.0.0.1:{udp.port}", "after-udp": f"127.0.0.1:{tcp.port}"}
        servers["tcp"] = f"tcp://127.0.0.1:{tcp.port}"
        proxy = scene.start(zones(scene, {f"{how}.test": (server,) for how, server in servers.items()}))
        tables = {"udp": delivery.OVER_UDP, "after-udp": delivery.OVER_TCP, "tcp": delivery.OVER_TCP}
        expected = {f"{word}.{how}.test": said for how, table in tables.items() for word, (_, said) in table.items()}
        with decoy(scene), ordeal(scene, proxy) as bystander:
            assert surprises(scene, proxy, expected) == {}
            bystander.go_on()
            delivery.OVER.set()
        hold_to_the_record(proxy, expected)
        questions = udp.asked.total() + tcp.asked.total()
    figures["lies of a resolver"] = f"{len(expected)} over UDP and TCP, {questions} questions, 0 believed"


# Several servers, and TLS


@pytest.mark.usefixtures("over")
def test_r12_who_is_no_use_is_made_up_for_by_the_next_server_and_by_nothing_else(
    scene: Scene, figures: dict[str, str], tmp_path: Path
) -> None:
    """A zone is answered by the servers that the policy lists for it, in their order, or not at all."""
    with ExitStack() as stack:
        good = stack.enter_context(standing(Liar()))
        authority, servers = useless(stack, tmp_path)
        listed = {
            f"{word}{suffix}.test": (server, *([f"127.0.0.1:{good.port}"] if suffix else []))
            for word, (server, _) in servers.items()
            for suffix in ("", "-then-good")
        }
        proxy = scene.start(zones(scene, listed), env=os.environ | {"SSL_CERT_FILE": str(authority)})
        expected = {f"x.{word}.test": outcome for word, (_, outcome) in servers.items()}
        expected |= {f"x.{word}-then-good.test": SERVED for word in servers} | {"x.nxdomain-then-good.test": FAILED}
        with decoy(scene), ordeal(scene, proxy) as bystander:
            assert surprises(scene, proxy, expected) == {}
            bystander.go_on()
            delivery.OVER.set()
        hold_to_the_record(proxy, expected)
        assert good.questions("x.nxdomain-then-good.test") == 0, "that was an answer, and final"
    figures["resolvers of no use"] = f"{len(servers)}, alone and before a good one: {len(expected)} zones"


def useless(stack: ExitStack, folder: Path) -> tuple[Path, dict[str, tuple[str, tuple[int, str]]]]:
    """Servers that are of no use, each in its way; the authority to be trusted, and what is expected of each alone."""
    for name in ("dns", "stranger"):
        (folder / name).mkdir()
    known = certificates(folder / "dns", ["dns.test"], ["127.0.0.1"])
    stranger = certificates(folder / "stranger", ["dns.test"], ["127.0.0.1"])

    def plain(lie: Lie) -> str:
        return f"127.0.0.1:{stack.enter_context(standing(Liar(otherwise=lie))).port}"

    def tls(serve: Callable[[socket.socket], None], name: str = "dns.test") -> str:
        listener = stack.enter_context(closing(Listener(serve, ("127.0.0.1",))))
        return f"tls://127.0.0.1:{listener.port}#{name}"

    dead = Liar()
    dead.die()
    return known.authority, {
        "dead": (f"127.0.0.1:{dead.port}", FAILED),
        "dead-tcp": (f"tcp://127.0.0.1:{dead.port}", FAILED),
        "dead-tls": (f"tls://127.0.0.1:{dead.port}#dns.test", FAILED),
        "silent": (plain(lambda _: None), SILENT),
        "lying": (plain(lambda asked: asked.say(lies.wrong_id(asked))), SILENT),
        "servfail": (plain(lambda asked: asked.say(asked.answer(rcode="SERVFAIL"))), FAILED),
        "refused": (plain(lambda asked: asked.say(asked.answer(rcode="REFUSED"))), FAILED),
        "nxdomain": (plain(lambda asked: asked.say(asked.answer(rcode="NXDOMAIN"))), FAILED),
        "truncated-for-ever": (plain(truncate), FAILED),
        "other-name": (tls(in_tls(known.context, tell_the_truth), "other.test"), FAILED),
        "stranger": (tls(in_tls(stranger.context, tell_the_truth)), FAILED),
        "stalled-handshake": (tls(delivery.hold_back), SILENT),
        "closed-handshake": (tls(lambda _: None), FAILED),
        "garbage-handshake": (tls(lambda each: each.sendall(b"\xff" * 4096)), FAILED),
        "garbage-for-ever": (tls(delivery.pour), FAILED),
        "stalled-in-tls": (tls(in_tls(known.context, delivery.hold_back)), SILENT),
        "closed-in-tls": (tls(in_tls(known.context, lambda _: None)), FAILED),
        "wrong-id-in-tls": (tls(in_tls(known.context, lambda asked: asked.say(lies.wrong_id(asked)))), FAILED),
        "for-ever-in-tls": (tls(in_tls(known.context, delivery.for_ever(b"\x20\0"))), FAILED),
    }


# Death, and coming back


def test_a_server_that_died_and_came_back_is_asked_again_at_once_and_for_what_failed_after_five_seconds(
    scene: Scene, figures: dict[str, str]
) -> None:
    """Nobody restarts anything: names that were not asked for meanwhile resolve at once, the others from then on."""
    with standing(Liar()) as server:
        proxy = scene.start(zones(scene, {"mortal.test": (f"127.0.0.1:{server.port}",)}))
        with ordeal(scene, proxy) as bystander:
            assert ask(proxy, url(scene, "before.mortal.test")) == SERVED
            server.die()
            assert ask(proxy, url(scene, "failed.mortal.test")) == FAILED
            bystander.go_on()
            server.rise()
            assert ask(proxy, url(scene, "fresh.mortal.test")) == SERVED
            told = [ask(proxy, url(scene, "failed.mortal.test"))]
            for _ in ticks():
                if told[-1] == SERVED:
                    break
                told.append(ask(proxy, url(scene, "failed.mortal.test")))
        assert set(told[:-1]) == {FAILED}
        assert told[-1] == SERVED
        assert server.questions("failed.mortal.test") <= 2 * ROUNDS < len(told), "more than one lookup"
    figures["a resolver comes back"] = f"{len(told) - 1} refusals from memory, 1 lookup, then served"


# Floods

CLIENTS: Final = """
[[client]]
name = "tester"
networks = ["127.0.0.1/32", "127.0.0.99/32"]
[[client]]
name = "flood"
networks = ["127.0.0.2/32"]
"""
FLOODING: Final = "127.0.0.2"
OF_A_FLOOD: Final = {False: 32 * MB, True: 96 * MB}
"""A memory full of the longest answers, 4,096 with 128 addresses each, takes 65 MB."""


def test_r10_a_lookup_that_never_had_its_time_says_nothing_of_the_name_to_others(scene: Scene) -> None:
    """A client that fills its turns with silence, and asks for a name at their end, makes it fail for itself alone."""
    told = threading.Event()

    def speak(asked: Asked) -> None:
        told.wait()
        tell_the_truth(asked)

    with standing(Liar({"shared": speak}, otherwise=lambda _: None)) as liar:
        proxy = scene.start(zones(scene, {"lies.test": (f"127.0.0.1:{liar.port}",)}, CLIENTS))
        with ordeal(scene, proxy), ThreadPoolExecutor(MOST_OF_ONE) as pool:
            silent = [url(scene, f"s{number}.lies.test") for number in range(MOST_OF_ONE)]
            asked = [pool.submit(ask, proxy, each, FLOODING) for each in silent]
            next(None for _ in ticks() if len(liar.asked) == 2 * MOST_OF_ONE)
            assert ask(proxy, url(scene, "shared.lies.test"), FLOODING) == SILENT
            told.set()
            assert ask(proxy, url(scene, "shared.lies.test")) == SERVED
            assert {each.result() for each in asked} == {SILENT}
        assert liar.questions("shared.lies.test") > 2, "its turn never came"


def test_r10_a_flood_of_names_leaves_others_their_lookups_and_the_workers_their_memory(
    scene: Scene, figures: dict[str, str], *, long: bool
) -> None:
    """Thousands of names of one client, with no address or with the most there can be: others' names are looked up."""
    count = 12_000 if long else 1_200
    wide = [lies.record(1, bytes([10, 0, 0, number])) for number in range(MOST_ADDRESSES)]
    wider = [lies.record(28, bytes([0xFD, *[0] * 14, number])) for number in range(MOST_ADDRESSES)]

    def speak(asked: Asked) -> None:
        if asked.name.startswith("n"):
            asked.say(asked.answer(rcode="NXDOMAIN"))
        else:
            asked.say(lies.raw(asked, *(wide if asked.rdtype == "A" else wider)))

    flood = [f"{'nw'[number % 2]}{number}.flood.test" for number in range(count)]
    with standing(Liar(otherwise=speak)) as liar, standing(Liar()) as fresh:
        servers = {"flood.test": (f"127.0.0.1:{liar.port}",), "fresh.test": (f"127.0.0.1:{fresh.port}",)}
        proxy = scene.start(zones(scene, servers, CLIENTS))
        with ordeal(scene, proxy, growth=OF_A_FLOOD[long]) as bystander, ThreadPoolExecutor(MOST_OF_ONE) as pool:
            parts = [pool.submit(ask_in_turn, scene, proxy, flood[at::MOST_OF_ONE]) for at in range(MOST_OF_ONE)]
            others = 0
            while not all(part.done() for part in parts):
                assert ask(proxy, url(scene, f"x{others}.fresh.test")) == SERVED
                others += 1
            bystander.go_on()
            told = sum((part.result() for part in parts), Counter())
        assert told == {FAILED: count // 2, (403, "address_denied"): count // 2}
        assert (len(liar.asked), len(fresh.asked)) == (2 * count, 2 * others)
    figures["a flood of names"] = f"{count} of one client, meanwhile {others} of another, all of which were served"


def ask_in_turn(scene: Scene, proxy: Daemon, names: list[str]) -> Counter[tuple[int, str]]:
    """One after the other on one connection, from where the flood is."""
    told: Counter[tuple[int, str]] = Counter()
    with proxy.connect(FLOODING) as client:
        for name in names:
            said = get(client, url(scene, name))
            told[said.status, said.reason] += 1
    return told
