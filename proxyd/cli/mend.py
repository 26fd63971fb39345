"""What `proxyd audit --fix` does: takes rights from others, and turns report mode into enforcement. It only tightens.

The policy is changed as its author would, one word in its place, and only if it loads and passes its tests that way.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import tomllib
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.files import today
from proxyd.cli.host_findings import agents_of, as_named, read_whoever_may, secrets_of, who_writes
from proxyd.net.access import Access, on_the_way_to
from proxyd.policy.load import PolicyError, load
from proxyd.serve.handover import Files

if TYPE_CHECKING:
    from proxyd.policy.model import Policy

_REPORT: Final = re.compile(r"""\bmode["']?[ \t]*=[ \t]*(?P<quote>\"{3}|'{3}|["'])(?P<word>report)(?P=quote)""")
_OTHERS_MAY_NOT: Final = stat.S_IWGRP | stat.S_IWOTH
_NO_BUSINESS_OF_OTHERS: Final = stat.S_IWGRP | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Mended:
    """What came of it, a line for each: what was done, and what has to be done by hand, and why."""

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def mend(name: str) -> Mended:
    """Tighten what there is to tighten around the policy in file `name`. Raises PolicyError if it does not load."""
    files = Files()
    policy = load(name, files.remembering(read_whoever_may), today())
    mended = Mended()
    for path, bits in _rights_to_take(policy, files).items():
        _take(policy, path, bits, mended)
    if _reports(policy):
        try:
            _enforce(name)
            mended.done.append(f"{name}: mode report -> enforce; `proxyd reload` takes it into use")
        except _CannotMend as bad:
            mended.left.append(f"{name}: {bad}")
    return mended


class _CannotMend(Exception):  # noqa: N818 - raised and caught here
    """It stays as it is; the text says why, and what to do instead."""


def _rights_to_take(policy: Policy, files: Files) -> dict[Path, int]:
    """What others have and need not, or must not: by file."""
    wanted = {as_named(file): _OTHERS_MAY_NOT for file in files.kept}
    wanted |= dict.fromkeys(secrets_of(policy, files), _NO_BUSINESS_OF_OTHERS)
    if policy.audit.to != "stdout" and os.path.isfile(policy.audit.to):  # noqa: PTH113 - which says no, and never why
        wanted[Path(policy.audit.to)] = _NO_BUSINESS_OF_OTHERS
    return wanted


def _take(policy: Policy, path: Path, bits: int, mended: Mended) -> None:
    """Take rights to a file away; not where somebody else could put another file in its place meanwhile."""
    try:
        access = Access.of(path)
        if not access.mode & bits:
            return
        found = who_writes(islice(on_the_way_to(path), 1, None), list(agents_of(policy)))
        if found is not None:
            who = ", ".join(found[1])
            mended.left.append(f"{path}: left as it is: {who} may write {found[0]}; mend that first, by hand")
            return
        mended.done.append(f"{path}: mode {stat.S_IMODE(access.mode):04o} -> {access.without(bits):04o}")
    except OSError as error:
        mended.left.append(f"{path}: {error.strerror}; run this as its owner, or as root")


def _reports(policy: Policy) -> bool:
    """Whether it says so anywhere, be it for nobody."""
    return "report" in (policy.destinations.mode, *(client.destinations.mode for client in policy.client))


def _enforce(name: str) -> None:
    """Let the policy enforce. Raises _CannotMend, and then the file is as it was."""
    path = Path(os.path.realpath(name))
    try:
        before = path.read_bytes()
        after = _enforcing(before.decode()).encode()
        load(name, _reading(path, after), today())
        if path.read_bytes() != before:
            raise _CannotMend("somebody changed it meanwhile; run this again")
        _replace(path, after)
    except PolicyError as bad:
        raise _CannotMend(f"cannot enforce: {bad.problems[0]}") from None
    except OSError as error:
        raise _CannotMend(f"{error.strerror}; run this as its owner, or as root") from None


def _enforcing(text: str) -> str:
    """The same policy with each `mode` that reports enforcing, and not a letter more changed. Raises _CannotMend."""
    wanted = _with_enforcement(tomllib.loads(text))
    for found in reversed(list(_REPORT.finditer(text))):
        changed = f"{text[: found.start('word')]}enforce{text[found.end('word') :]}"
        said, says = tomllib.loads(text), tomllib.loads(changed)
        if says != said and _with_enforcement(says) == wanted:  # else it is a comment, or inside some other text
            text = changed
    if tomllib.loads(text) != wanted:
        raise _CannotMend('where it says report cannot be told; write mode = "enforce" by hand')
    return text


def _with_enforcement(document: Any) -> Any:  # noqa: ANN401 - whatever TOML can spell
    """The same document, with each `mode` that reports enforcing."""
    if isinstance(document, dict):
        return {
            key: "enforce" if (key, value) == ("mode", "report") else _with_enforcement(value)
            for key, value in document.items()
        }
    return [_with_enforcement(each) for each in document] if isinstance(document, list) else document


def _reading(path: Path, text: bytes) -> Any:  # noqa: ANN401 - a ReadFile
    """Reads policy files, and this text for the one at `path`."""

    def read(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:
        found, data = read_whoever_may(name, beside, secret=secret)
        return found, text if found == str(path) else data

    return read


def _replace(path: Path, data: bytes) -> None:
    """Put a file in the place of another, whole or not at all, with its mode and owner. Raises OSError."""
    before = path.stat()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            os.fsync(file.fileno())
            os.replace(file.name, path)  # noqa: PTH105 - as it was made
        except BaseException:
            os.unlink(file.name)  # noqa: PTH108 - the same
            raise
