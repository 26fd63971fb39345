"""How the files of a policy are replaced on the disk, as a whole, and what of them is in force then."""

from __future__ import annotations

import ctypes
import os
import shutil
from typing import TYPE_CHECKING

from proxyd.audit.record import DIGEST_DIGITS
from proxyd.cli.files import read_policy_file, today
from proxyd.policy.load import PolicyError, load

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.daemon import Daemon

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def deny(host: str) -> str:
    """A row, named by what it denies."""
    return f'\n[[deny]]\nname = "{host}"\nhosts = ["{host}"]\nreason = "x"\n'


def renamed(policy: Path, text: str) -> None:
    """The way to replace a file."""
    beside = policy.with_suffix(".new")
    beside.write_text(text)
    beside.rename(policy)


def exchange(one: Path, other: Path) -> None:
    """Each has the other's name from now on, at once (renameat2(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "no exchange")


class Folder:
    """Where the policy and what it includes are replaced together, each time by a set that never was before.

    policy: as proxyd knows it. Set 7 has the name set7, and its row, in another file, has it too.
    """

    def __init__(self, place: Path, plain: str, how: str) -> None:
        self._place, self._how = place, how
        self._plain = plain.replace('["denylist.toml"]', '["rows.toml"]')
        self._turn = 0
        self._link = place / "policies"
        first = self._made()
        if how == "link":
            self._link.symlink_to(first)
        else:
            first.rename(self._link)
        self._last = first
        self.policy = self._link / "policy.toml"

    def turn(self) -> None:
        """The next set in the place of the last, at once; that one is removed, as Kubernetes does with a ConfigMap."""
        made = self._made()
        if self._how == "link":
            beside = self._place / "beside"
            beside.symlink_to(made)
            beside.rename(self._link)
            made, self._last = self._last, made
        else:
            exchange(made, self._link)
        shutil.rmtree(made)

    def _made(self) -> Path:
        self._turn += 1
        name = f"set{self._turn}"
        folder = self._place / name
        folder.mkdir()
        (folder / "policy.toml").write_text(self._plain.replace('name = "test"', f'name = "{name}"', 1))
        (folder / "rows.toml").write_text(deny("one.test").replace('name = "one.test"', f'name = "{name}"'))
        return folder


def loads(policy: Path) -> str | None:
    """What a record would call this policy; None where it is none."""
    try:
        return load(str(policy), read_policy_file, today()).digest[:DIGEST_DIGITS]
    except PolicyError:
        return None


def is_in_force(proxy: Daemon) -> bool:
    """Whether the file as it is now was taken into use. A reload that began before it was written is waited for."""
    return bool(proxy.reload()["digest"] == loads(proxy.policy))


def digest(proxy: Daemon) -> str:
    """Of what is in force, by a reload."""
    done = proxy.reload()
    assert done["outcome"] == "done", done
    return str(done["digest"])
