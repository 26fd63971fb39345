"""Policy files that change while proxyd reads them, or are no files any more (R12; ATTACKS 7.7, 8).

What holds: the policy in force is one that its files held, as a whole, at one moment. A set that is changed one file
after the other is, for a moment, a mixture on the disk; a reload in that moment takes the mixture, and the digest in
every record says that it is neither the old one nor the new. A folder that is changed as a whole is never mixed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

import pytest

from tests import namespace
from tests.end_to_end.asking import get
from tests.end_to_end.daemon import Daemon, files_of
from tests.end_to_end.test_workers import until
from tests.faults.ordeal import ordeal
from tests.faults.patrons import Returning
from tests.faults.replaced import Folder, deny, digest, is_in_force, loads, renamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import Scene

pytestmark = pytest.mark.skipif(
    not namespace.isolated, reason="no network of our own: what stands in for public addresses is permitted, not denied"
)

SIDES: Final = ("one.test", "two.test")
"""Each of two policies denies one of them."""
ENOUGH: Final = 5
"""Sets that are in force one after the other, at least."""


@pytest.fixture
def sides(scene: Scene) -> None:
    """Both names lead to the origin."""
    for host in SIDES:
        scene.nameserver.zone[host] = scene.nameserver.zone["origin.test"]


def asking(scene: Scene, proxy: Daemon) -> Returning:
    """Who asks for both, again and again, and is content with any verdict: the records are looked at in the end."""

    def ask(which: int) -> int:
        with proxy.connect() as client:
            status = get(client, f"http://{SIDES[which]}:{scene.origin.port}/").status
            return 200 if status in (200, 403) else status

    return Returning(ask, (200, 200), 2)


def verdicts(proxy: Daemon) -> dict[str, dict[str, set[str]]]:
    """For each policy that was in force, by its digest, what it said of each host."""
    found: dict[str, dict[str, set[str]]] = {}
    for each in proxy.decisions():
        if each["host"] in SIDES:
            found.setdefault(each["digest"], {}).setdefault(each["host"], set()).add(each["verdict"])
    return found


class Storm:
    """As a context: a SIGHUP as soon as the last one has been done, in a thread."""

    def __init__(self, proxy: Daemon) -> None:
        self._proxy = proxy
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._blow)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _blow(self) -> None:
        while not self._over.is_set():
            self._proxy.signal(signal.SIGHUP)
            self._over.wait(0.002)


# Replaced


@pytest.mark.usefixtures("sides")
def test_r12_a_policy_that_is_renamed_a_thousand_times_is_at_each_moment_one_of_the_two(
    scene: Scene, figures: dict[str, str], *, long: bool
) -> None:
    """Every record's digest is of one of them, and every verdict is that one's."""
    turns = 10_000 if long else 1000
    proxy = scene.start(workers=2)
    proxy.wait_for_start(2)
    plain = proxy.policy.read_text()
    texts = [plain + deny(host) for host in SIDES]
    known = {}
    for text, denied, allowed in zip(texts, SIDES, reversed(SIDES), strict=True):
        renamed(proxy.policy, text)
        known[digest(proxy)] = {denied: {"deny"}, allowed: {"allow"}}
    with ordeal(scene, proxy) as bystander, asking(scene, proxy) as crowd:
        renamed(proxy.policy, texts[0])
        assert digest(proxy) == next(iter(known))
        crowd.go_on(2)
        with Storm(proxy):
            for turn in range(turns):
                renamed(proxy.policy, texts[turn % 2])
                if turn % 100 == 0:
                    crowd.go_on()
                    bystander.go_on()
        until(lambda: is_in_force(proxy), "the last file is never in force")
        last = digest(proxy)
        crowd.go_on(2)
    reloads = proxy.reloads()
    assert {each["outcome"] for each in reloads} <= {"done", "refused"}
    assert all("changes while it is read" in problem for each in reloads for problem in each["problems"])
    assert {each["digest"] for each in reloads} == set(known)
    found = verdicts(proxy)
    assert set(found) == set(known)
    for each, said in found.items():
        assert all(said[host] <= known[each][host] for host in said)
    assert last == list(known)[(turns - 1) % 2]
    figures["two policies renamed"] = (
        f"{turns} times, {len(reloads)} reloads, {sum(crowd.answers.values())} verdicts, each its policy's"
    )


@pytest.mark.usefixtures("sides")
@pytest.mark.parametrize("how", ["link", "exchange"])
def test_r12_a_folder_of_files_that_is_replaced_as_a_whole_is_never_read_half_and_half(
    scene: Scene, tmp_path: Path, how: str, figures: dict[str, str], *, long: bool
) -> None:
    """The policy's name stands in one file, and the row in another: in every record they are of the same set."""
    turns = 10_000 if long else 400
    first = scene.start()
    first.stop()
    folder, earlier = Folder(tmp_path, first.policy.read_text(), how), len(first.lines())
    first.errors.write_text("")
    proxy = Daemon(folder.policy, first.audit, first.errors)
    try:
        with ordeal(scene, proxy) as bystander:
            with asking(scene, proxy), Storm(proxy):
                for turn in range(turns):
                    folder.turn()
                    if turn % 100 == 0:
                        bystander.go_on()
                until(lambda: another_was_in_force(proxy, folder), "few sets are in force")
            until(lambda: proxy.reload()["outcome"] == "done", "the last set is never in force")
        records = proxy.lines()[earlier:]
    finally:
        proxy.stop()
    denied = [each for each in records if each["event"] == "decision" and each["host"] == "one.test"]
    assert {(each["policy"] == each["rule"], each["reason"]) for each in denied} == {(True, "name_denied")}
    sets = {(each["policy"], each["digest"]) for each in records}
    assert len(sets) == len(dict(sets)) > ENOUGH
    reloads = Counter(each["outcome"] for each in records if each["event"] == "reload")
    figures[f"a folder replaced by {how}"] = f"{turns} times, reloads: {dict(reloads)}, {len(sets)} in force, 0 mixed"


def another_was_in_force(proxy: Daemon, folder: Folder) -> bool:
    """Whether enough of the sets were; if not, here is one more."""
    if len({each["digest"] for each in proxy.reloads() if each["outcome"] == "done"}) > ENOUGH:
        return True
    folder.turn()
    return False


# Written in place


@pytest.mark.usefixtures("sides")
def test_r12_a_policy_that_is_written_in_pieces_is_what_the_loader_says_of_each_piece(
    scene: Scene, figures: dict[str, str], *, long: bool
) -> None:
    """Of an allowlist: a piece that is no policy leaves the old one, and one that is opens nothing."""
    rows = "".join(f'\n[[allow]]\nhosts = ["{host}"]\nports = [{scene.origin.port}]\nreason = "x"\n' for host in SIDES)
    proxy = scene.start(rows, workers=2)
    proxy.wait_for_start(2)
    whole = proxy.policy.read_text()
    outside = f"http://origin.test:{scene.origin.port}/"
    ends = [at for at, octet in enumerate(whole) if octet == "\n"]
    cuts = sorted({*range(0, len(whole), 7 if long else 97), *ends, len(whole)})
    outcomes: Counter[str] = Counter()
    with proxy.connect() as kept:
        for cut in cuts:
            before = proxy.lines()[-1]["digest"]
            done = proxy.reload(whole[:cut])
            outcomes[done["outcome"]] += 1
            assert (done["outcome"] == "done") is (loads(proxy.policy) == done["digest"]), cut
            if done["outcome"] == "refused":
                assert (bool(done["problems"]), done["digest"]) == (True, before)
            assert get(kept, outside).status == 403
            with proxy.connect() as fresh:
                assert get(fresh, outside).status == 403
        assert get(kept, f"http://{SIDES[1]}:{scene.origin.port}/").status == 200
    assert {each["verdict"] for each in proxy.decisions() if each["host"] == "origin.test"} == {"deny"}
    assert min(outcomes["refused"], outcomes["done"]) > 5
    figures["a policy written in pieces"] = f"{len(cuts)} pieces: {dict(outcomes)}, nothing opened"


# No file any more


def deleted(file: Path) -> None:
    file.unlink()


def a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def linked_to(target: str) -> Callable[[Path], None]:
    """In its place, a link."""

    def link(file: Path) -> None:
        file.unlink()
        file.symlink_to(target.format(file=file))

    return link


def huge(file: Path) -> None:
    """A gigabyte, of which nothing is on the disk."""
    os.truncate(file, 1 << 30)


def a_socket(file: Path) -> None:
    file.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(file))


def without_its_folder(file: Path) -> None:
    """As where the disk was taken away."""
    file.parent.rename(file.parent.with_name("away"))


def with_an_empty_folder(file: Path) -> None:
    """As where another disk is mounted over it."""
    without_its_folder(file)
    file.parent.mkdir()


FATES: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "deleted": (deleted, "No such file"),
    "a FIFO": (a_fifo, "it is no regular file"),
    "a folder": (a_folder, "Is a directory"),
    "a socket": (a_socket, "No such device or address"),
    "an endless device": (linked_to("/dev/zero"), "it is no regular file"),
    "the terminal": (linked_to("/dev/tty"), "cannot be read"),
    "a link to itself": (linked_to("{file}"), "cannot be read"),
    "a link to nothing": (linked_to("{file}.none"), "No such file"),
    "a file that cannot be read": (linked_to("/proc/self/mem"), "Input/output error"),
    "a gigabyte": (huge, "larger than 1048576 bytes"),
    "empty": (lambda file: file.write_text(""), "is missing"),
    "not UTF-8": (lambda file: file.write_bytes(b"\xff\xfe"), "is not UTF-8 text"),
    "octets of nothing": (lambda file: file.write_bytes(bytes(4096)), "is not TOML"),
    "without its folder": (without_its_folder, "No such file"),
    "with an empty folder": (with_an_empty_folder, "No such file"),
}


@contextmanager
def put_back(file: Path) -> Iterator[None]:
    """In the end the folder is as it was."""
    copy = file.parent.with_name("copy")
    shutil.copytree(file.parent, copy)
    try:
        yield
    finally:
        shutil.rmtree(file.parent, ignore_errors=True)
        shutil.rmtree(file.parent.with_name("away"), ignore_errors=True)
        copy.rename(file.parent)


@pytest.mark.parametrize("which", ["policy.toml", "rows.toml"])
def test_r12_whatever_becomes_of_a_file_the_policy_in_force_stays_until_there_is_another(
    scene: Scene, tmp_path: Path, which: str, figures: dict[str, str]
) -> None:
    """Every reload is refused, recorded and says why, within its bounds; others notice nothing."""
    first = scene.start()
    first.stop()
    place = tmp_path / "policies"
    place.mkdir()
    shutil.copy(tmp_path / "denylist.toml", place)
    text = first.policy.read_text().replace('["denylist.toml"]', '["denylist.toml", "rows.toml"]')
    (place / "policy.toml").write_text(text)
    (place / "rows.toml").write_text(deny("one.test"))
    first.errors.write_text("")
    proxy = Daemon(place / "policy.toml", first.audit, first.errors)
    try:
        good = digest(proxy)
        files = len(files_of(proxy.pid))
        with ordeal(scene, proxy) as bystander:
            for fate, (befall, why) in FATES.items():
                with put_back(place / which):
                    befall(place / which)
                    refused = proxy.reload()
                    if (which, fate) == ("rows.toml", "empty"):  # as good as any file: but what it opens is on record
                        assert (refused["outcome"], refused["changes"]) == ("done", ["deny: -one.test"])
                    else:
                        assert (refused["outcome"], refused["digest"]) == ("refused", good), fate
                        assert any(why in problem for problem in refused["problems"]), (fate, refused["problems"])
                    bystander.go_on(1)
                assert digest(proxy) == good
        until(lambda: len(files_of(proxy.pid)) <= files, "a file is left open")
    finally:
        proxy.stop()
    figures[f"fates of {which}"] = f"{len(FATES)}, each refused and said"
