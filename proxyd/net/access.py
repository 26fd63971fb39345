"""Who may do what with a file, and how much room there is beside it, as the kernel's permission bits say.

Access lists and capabilities are not looked at: what is said here can be too little, and never too much.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ: Final = (stat.S_IRGRP, stat.S_IROTH)
_WRITE: Final = (stat.S_IWGRP, stat.S_IWOTH)
_SEARCH: Final = (stat.S_IXGRP, stat.S_IXOTH)
_NOBODYS_UID: Final = -1


@dataclass(frozen=True, slots=True)
class Account:
    """A local account, and the groups that it is in."""

    name: str
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, user: str | int) -> Account:
        """The account of that name or number. Raises KeyError if this host has none."""
        entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
        return cls(entry.pw_name, entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def anybody_in(*groups: int) -> Account:
    """Some account that owns nothing, in these groups only."""
    return Account("every account of this host", _NOBODYS_UID, frozenset(groups))


@dataclass(frozen=True, slots=True)
class Access:
    """Whose a file is, and what its mode lets others do (inode(7))."""

    path: Path
    mode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, path: Path) -> Access:
        """As it is now; of a link, what it leads to. Raises OSError."""
        found = path.stat()
        return cls(path, found.st_mode, found.st_uid, found.st_gid)

    def may_read(self, account: Account) -> bool:
        """Whether this account may read it, or give itself the right."""
        return self._may(account, _READ)

    def may_search(self, account: Account) -> bool:
        """Whether this account may go through this folder."""
        return self._may(account, _SEARCH)

    def may_write(self, account: Account) -> bool:
        """Whether this account may write it, or, where it is a folder, put something else in the place of what is in
        it. In a sticky folder only owners replace what is theirs.
        """
        if self._is_sticky_folder:
            return account.uid in (0, self.uid)
        return self._may(account, _WRITE) and (not stat.S_ISDIR(self.mode) or self.may_search(account))

    @property
    def group_writes(self) -> bool:
        """Whether the accounts of a group other than root's may write it."""
        return self.gid != 0 and self.may_write(anybody_in(self.gid))

    def without(self, bits: int) -> int:
        """Take these rights away from it: the mode that it has then. Raises OSError."""
        mode = stat.S_IMODE(self.mode) & ~bits
        self.path.chmod(mode)
        return mode

    @property
    def _is_sticky_folder(self) -> bool:
        return stat.S_ISDIR(self.mode) and bool(self.mode & stat.S_ISVTX)

    def _may(self, account: Account, bits: tuple[int, int]) -> bool:
        """Its group, or else the others: the first that fits counts (path_resolution(7)). Its owner can have it all."""
        group, others = bits
        return account.uid in (0, self.uid) or bool(self.mode & (group if self.gid in account.groups else others))


def on_the_way_to(path: Path) -> Iterator[Access]:
    """A file, and every folder above it, the nearest first; then the links that lead there, and the folders above
    those: who replaces one of them has the file. Raises OSError.
    """
    real = Path(os.path.realpath(path, strict=True))
    yield from map(Access.of, (real, *real.parents))
    for link in dict.fromkeys(_links_to(path.absolute())):
        found = link.lstat()
        yield Access(link, stat.S_IFLNK, found.st_uid, found.st_gid)  # its mode says nothing (symlink(7))
        yield from map(Access.of, link.parents)


def _links_to(path: Path) -> Iterator[Path]:
    """Every link that is followed to get there, each where it really is."""
    for each in (path, *path.parents):
        if each.is_symlink():
            yield Path(os.path.realpath(each.parent), each.name)
            yield from _links_to(each.parent / each.readlink())


def may_reach(account: Account, path: Path) -> bool:
    """Whether this account may go through every folder above `path`, which has no links in it. Raises OSError."""
    return all(Access.of(folder).may_search(account) for folder in path.parents)


def room_beside(path: Path) -> tuple[int, float]:
    """How many octets may still be written there, and what part of the disk that is. Raises OSError."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_bavail / max(found.f_blocks, 1)
