"""Who may do what with a file: what is said here is what the kernel lets that account do, when it tries.

R2, R12. Real files of real owners, and other accounts by fork(2) and setresuid(2).
"""

from __future__ import annotations

import json
import os
import pwd
import stat
import tempfile
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from proxyd.net.access import Access, Account, anybody_in, may_reach, on_the_way_to, room_beside
from tests.tools import give_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AGENT: Final = Account("agent", 4321, frozenset({4321, 4400}))
"""It need have no name on this host. 4400 is a group that it is in besides its own."""

OWNERS: Final = {"its": 4321, "another's": 4322, "root's": 0}
GROUPS: Final = {"its": 4321, "a further one of its": 4400, "another's": 4322, "root's": 0}
CLASSES: Final = tuple(product((0, 7), range(8), range(8)))  # rights of the owner, of the group, of others


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every account gets to; pytest's own are for this one only."""
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split()[:2] != ["0", "0"]:
        give_up("only root can be another account")
    with tempfile.TemporaryDirectory() as name:
        path = Path(os.path.realpath(name))
        path.chmod(0o755)
        assert may_reach(AGENT, path)
        yield path


def tried(account: Account, trial: Callable[[], Any], *, by_name: bool = False) -> Any:  # noqa: ANN401 - whatever is asked
    """What comes of a trial by that account, in a process of its own. by_name: in the groups that the host says."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:  # nothing of pytest's may run here
            gid = pwd.getpwnam(account.name).pw_gid if by_name else account.uid
            os.initgroups(account.name, gid) if by_name else os.setgroups(sorted(account.groups))
            os.setresgid(gid, gid, gid)
            os.setresuid(account.uid, account.uid, account.uid)
            os.write(writing, json.dumps(trial()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(child, 0)
    return json.loads(said)


def made(path: Path, mode: int, *, uid: int = 0, gid: int = 0) -> Path:
    """Give a file or folder this mode and these owners."""
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def opens(path: Path, flags: int) -> bool:
    """Whether it can be opened so, by whoever gives himself the right first if it is his."""
    with suppress(PermissionError):
        path.chmod(0o700)
    try:
        os.close(os.open(path, flags))
    except PermissionError:
        return False
    return True


def replaces_in(folder: Path) -> bool:
    """Whether what is in a folder can be moved out of the way."""
    with suppress(PermissionError):
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o700)
    try:
        (folder / "file").rename(folder / "aside")
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize("whose", OWNERS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("what", "flags"), [("read", os.O_RDONLY), ("write", os.O_WRONLY)])
def test_r2_who_may_read_or_write_a_file_is_who_can_open_it(
    folder: Path, whose: str, group: str, what: str, flags: int
) -> None:
    """For every mode there is."""
    files = [folder / str(number) for number in range(len(CLASSES))]
    for path, (owner, its_group, others) in zip(files, CLASSES, strict=True):
        path.touch()
        made(path, owner << 6 | its_group << 3 | others, uid=OWNERS[whose], gid=GROUPS[group])
    said = [getattr(Access.of(path), f"may_{what}")(AGENT) for path in files]
    assert said == tried(AGENT, lambda: [opens(path, flags) for path in files])
    assert True in said
    assert whose == "its" or False in said


@pytest.mark.parametrize("whose", OWNERS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("sticky", [0, stat.S_ISVTX])
def test_r2_who_may_write_a_folder_is_who_can_replace_what_is_in_it(
    folder: Path, whose: str, group: str, sticky: int
) -> None:
    """In a sticky one only its owner; what is in it is root's."""
    folders = [folder / str(number) for number in range(len(CLASSES))]
    for path, (owner, its_group, others) in zip(folders, CLASSES, strict=True):
        path.mkdir()
        (path / "file").touch()
        made(path, sticky | owner << 6 | its_group << 3 | others, uid=OWNERS[whose], gid=GROUPS[group])
    said = [Access.of(path).may_write(AGENT) for path in folders]
    assert said == tried(AGENT, lambda: [replaces_in(path) for path in folders])
    assert (True in said, False in said) == (whose == "its" or not sticky, whose != "its")


@pytest.mark.parametrize("whose", ["another's", "root's"])
@pytest.mark.parametrize("group", GROUPS)
def test_r2_who_reaches_a_file_is_who_can_go_through_every_folder_above_it(
    folder: Path, whose: str, group: str
) -> None:
    """An open file in a closed folder is open to nobody; a right to read a folder is none to go through it."""
    files = [folder / str(number) / "a" / "file" for number in range(len(CLASSES))]
    for path, (owner, its_group, others) in zip(files, CLASSES, strict=True):
        path.parent.mkdir(parents=True)
        path.touch(0o666)
        mode = owner << 6 | its_group << 3 | others
        made(path.parent.parent, mode, uid=OWNERS[whose], gid=GROUPS[group])
    said = [may_reach(AGENT, path) for path in files]
    assert said == tried(AGENT, lambda: [os.access(path, os.F_OK) for path in files])
    assert {True, False} == set(said)


@pytest.mark.parametrize("mode", [0, 0o600, 0o1700])
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_root_may_do_everything(folder: Path, mode: int, make: Callable[[Path], None]) -> None:
    make(folder / "x")
    access = Access.of(made(folder / "x", mode, uid=4322, gid=4322))
    root = Account("root", 0, frozenset({0}))
    assert (access.may_read(root), access.may_write(root), access.may_search(root)) == (True, True, True)


@pytest.mark.parametrize(
    ("mode", "gid", "everybody", "group"),
    [
        (0o600, 4400, False, False),
        (0o640, 4400, False, False),
        (0o660, 4400, False, True),
        (0o660, 0, False, False),
        (0o666, 4400, True, True),
        (0o1666, 4400, True, True),
        (0o606, 4400, True, False),
        (0o666, 0, True, False),
        (0o602, 0, True, False),
    ],
)
def test_everybody_is_who_owns_nothing_and_a_group_is_anybody_in_it(
    folder: Path, mode: int, gid: int, *, everybody: bool, group: bool
) -> None:
    """Root's group has no other members worth a word."""
    (folder / "x").touch()
    access = Access.of(made(folder / "x", mode, gid=gid))
    assert (access.may_write(anybody_in()), access.group_writes) == (everybody, group)
    assert anybody_in().name == "every account of this host"


@pytest.mark.parametrize(
    ("mode", "writes"), [(0o1777, False), (0o777, True), (0o775, True), (0o1775, False), (0o765, False)]
)
def test_a_group_may_write_a_folder_unless_it_is_sticky(folder: Path, mode: int, *, writes: bool) -> None:
    """As /tmp is; and who cannot go into it replaces nothing there."""
    (folder / "x").mkdir()
    assert Access.of(made(folder / "x", mode, gid=4400)).group_writes is writes


@pytest.mark.parametrize(
    ("mode", "bits", "left"), [(0o666, 0o022, 0o644), (0o640, 0o022, 0o640), (0o4755, 0o7, 0o4750)]
)
def test_rights_are_taken_away_and_nothing_else_is(tmp_path: Path, mode: int, bits: int, left: int) -> None:
    path = tmp_path / "x"
    path.touch()
    path.chmod(mode)
    assert Access.of(path).without(bits) == left
    assert stat.S_IMODE(path.stat().st_mode) == left


def test_what_is_not_there_has_no_rights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Access.of(tmp_path / "nothing")


# Accounts


@pytest.mark.parametrize("entry", pwd.getpwall(), ids=lambda entry: entry.pw_name)
def test_an_account_of_this_host_has_the_groups_that_login_gives_it(entry: pwd.struct_passwd) -> None:
    """initgroups(3); found by its name, and by its number."""
    account = Account.of(entry.pw_name)
    assert (account.name, account.uid) == (entry.pw_name, entry.pw_uid)
    assert Account.of(entry.pw_uid).uid == entry.pw_uid
    if os.geteuid() == 0:
        assert account.groups == set(tried(account, os.getgroups, by_name=True))


@pytest.mark.parametrize("user", ["no-such-account", 4_294_967_001])
def test_an_account_that_this_host_has_not_is_none(user: str | int) -> None:
    with pytest.raises(KeyError):
        Account.of(user)


# Links


def places(path: Path, below: Path) -> list[str]:
    """What is on the way there, as far as it is below a folder."""
    found = [each.path for each in on_the_way_to(path)]
    return [str(each.relative_to(below)) for each in found if each.is_relative_to(below)]


def test_r2_on_the_way_to_a_file_are_the_folders_above_it(tmp_path: Path) -> None:
    """All of them, to the root: who writes one of them puts another in the place of the next."""
    path = tmp_path / "a" / "file"
    path.parent.mkdir()
    path.touch()
    assert [each.path for each in on_the_way_to(path)] == [path, *path.parents]


def test_r2_on_the_way_to_a_link_is_where_it_leads_and_where_it_is(tmp_path: Path) -> None:
    """Who may replace one of several links in a row decides what is read in the end."""
    for each in ("a", "b", "c"):
        (tmp_path / each).mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "b" / "second").symlink_to("../a/file")
    (tmp_path / "c" / "first").symlink_to(tmp_path / "b" / "second")
    found = places(tmp_path / "c" / "first", tmp_path)
    assert list(dict.fromkeys(found)) == ["a/file", "a", ".", "c/first", "c", "b/second", "b"]


def test_r2_a_folder_on_the_way_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "inner" / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to("../real")
    found = places(tmp_path / "elsewhere" / "link" / "inner" / "file", tmp_path)
    assert list(dict.fromkeys(found)) == [
        *("real/inner/file", "real/inner", "real", ".", "elsewhere/link", "elsewhere"),
    ]


def test_r2_a_relative_path_begins_where_this_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    monkeypatch.chdir(tmp_path)
    assert places(Path("link"), tmp_path) == ["file", ".", "link", "."]


def test_of_a_link_only_its_owner_counts(folder: Path) -> None:
    """Its mode is 0777 whatever it leads to (symlink(7))."""
    (folder / "file").touch(0o600)
    (folder / "link").symlink_to("file")
    os.chown(folder / "link", AGENT.uid, 0, follow_symlinks=False)
    (link,) = [each for each in on_the_way_to(folder / "link") if each.path.name == "link"]
    assert (link.may_write(AGENT), link.may_write(anybody_in(0))) == (True, False)
    assert Access.of(folder / "link").may_write(AGENT) is False


def test_links_that_lead_nowhere_or_to_themselves_are_errors(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "dangling").symlink_to("nothing")
    for each in ("circle", "dangling"):
        with pytest.raises(OSError, match=each if each == "circle" else "nothing"):
            list(on_the_way_to(tmp_path / each))


# Room


def test_room_is_what_is_left_for_others_than_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As df(1) has it: what is kept for root is no room."""
    fragment, blocks, free, free_for_all = 4096, 1000, 300, 200
    found = os.statvfs_result((65536, fragment, blocks, free, free_for_all, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: {Path("/var/log"): found}[path])
    assert room_beside(Path("/var/log")) == (200 * 4096, 0.2)


def test_a_disk_without_blocks_has_no_room() -> None:
    """Such as /proc, which is none."""
    assert room_beside(Path("/proc")) == (0, 0.0)


def test_of_a_folder_that_is_not_there_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        room_beside(tmp_path / "nothing")
