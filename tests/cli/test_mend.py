"""What `proxyd audit --fix` does: it only ever tightens, changes one word in its place, or nothing at all (R2, R12)."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.cli import mend as mend_module
from proxyd.cli.mend import Mended, mend
from proxyd.policy.load import PolicyError
from proxyd.policy.password import SALT_OCTETS, new_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD: Final = 'schema = 1\nname = "x"\n'
CLIENT: Final = '[[client]]\nname = "agent"\nusers = ["agent-of-another-host"]\n'
ALLOW: Final = '[[allow]]\nhosts = ["a.example"]\nports = [443]\nreason = "r"\n'
LISTEN: Final = '[listen]\nhttp = ["127.0.0.1:3128"]\n'
REST: Final = LISTEN + CLIENT + ALLOW
REPORT: Final = '[destinations]\ndefault = "deny"\nmode = "report"\n'
POLICY: Final = HEAD + REPORT + REST
ENFORCE: Final = '[destinations]\ndefault = "deny"\n'
HASH: Final = str(new_hash("x", b"s" * SALT_OCTETS))
DONE: Final = "mode report -> enforce; `proxyd reload` takes it into use"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody gets to, and that only we may write."""
    folder = Path(tempfile.mkdtemp(prefix="proxyd-mend-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def policy(folder: Path) -> Path:
    """A policy that reports."""
    return written(folder / "policy.toml", POLICY)


def written(path: Path, text: str, mode: int = 0o644) -> Path:
    """A file with that in it."""
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files_beside(path: Path) -> list[Path]:
    return list(path.parent.iterdir())


# Enforcement

SPELLINGS: Final = {
    "a table": POLICY,
    "single quotes": POLICY.replace('"report"', "'report'"),
    "no spaces": POLICY.replace('mode = "report"', 'mode="report"'),
    "tabs": POLICY.replace('mode = "report"', 'mode\t=\t"report"'),
    "indented": POLICY.replace('mode = "report"', '  mode = "report"'),
    "a quoted key": POLICY.replace("mode =", '"mode" ='),
    "a key in single quotes": POLICY.replace("mode =", "'mode' ="),
    "three quotes": POLICY.replace('"report"', '"""report"""'),
    "three single quotes": POLICY.replace('"report"', "'''report'''"),
    "dotted": HEAD + 'destinations.default = "deny"\ndestinations.mode = "report"\n' + REST,
    "dotted with spaces": HEAD + 'destinations . default = "deny"\ndestinations . mode = "report"\n' + REST,
    "inline": HEAD + 'destinations = { default = "deny", mode = "report" }\n' + REST,
    "inline and tight": HEAD + "destinations={mode='report',default='deny'}\n" + REST,
    "a client's": HEAD + ENFORCE + LISTEN + CLIENT + '[client.destinations]\nmode = "report"\n' + ALLOW,
    "a client's, inline": HEAD + ENFORCE + LISTEN + CLIENT + 'destinations = { mode = "report" }\n' + ALLOW,
    "a client's, dotted": HEAD + ENFORCE + LISTEN + CLIENT + 'destinations.mode = "report"\n' + ALLOW,
    "everybody's and a client's": POLICY.replace(ALLOW, '[client.destinations]\nmode = "report"\n' + ALLOW),
    "everybody's, and no client's": POLICY.replace(ALLOW, '[client.destinations]\nmode = "enforce"\n' + ALLOW),
    "without a final newline": HEAD + REST + REPORT.rstrip(),
    "CRLF": POLICY.replace("\n", "\r\n"),
    "comments": '# mode = "report" for now\n' + POLICY.replace('"report"', '"report" # mode = "report", not "enforce"'),
    "another text that says so": POLICY.replace('reason = "r"', "reason = 'was mode = \"report\" before'"),
    "a text of many lines that says so": POLICY.replace('"r"', '"""was\\\nmode = \'report\'"""'),
    "unfamiliar letters": POLICY.replace('"r"', '"für später \u2028 mode"'),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_r12_report_mode_ends_however_it_is_spelt(policy: Path, spelling: str) -> None:
    """One word becomes another, and not an octet beside it changes."""
    before = SPELLINGS[spelling]
    written(policy, before)
    assert mend(str(policy)) == Mended([f"{policy}: {DONE}"], [])
    after = policy.read_bytes().decode()
    assert tomllib.loads(after) == enforcing(tomllib.loads(before)) != tomllib.loads(before)
    assert after.replace("enforce", "report") == before.replace("enforce", "report")
    assert [line for line in after.splitlines() if line.startswith("#")] == [
        line for line in before.splitlines() if line.startswith("#")
    ]
    assert mend(str(policy)) == Mended()


def enforcing(document: dict[str, Any]) -> dict[str, Any]:
    """The document as it ought to be."""
    for each in (document, *document["client"]):
        if "mode" in each.get("destinations", {}):
            each["destinations"]["mode"] = "enforce"
    return document


def test_a_comment_behind_it_stays(policy: Path) -> None:
    written(policy, POLICY.replace('"report"', '"report"  # not mode = "report" for long'))
    mend(str(policy))
    assert 'mode = "enforce"  # not mode = "report" for long\n' in policy.read_text()


@pytest.mark.parametrize("word", [r'"rep\u006frt"', '"""\nreport"""'])
def test_what_cannot_be_told_is_left_to_its_author(policy: Path, word: str) -> None:
    written(policy, POLICY.replace('"report"', word))
    before = policy.read_bytes()
    why = 'where it says report cannot be told; write mode = "enforce" by hand'
    assert mend(str(policy)) == Mended([], [f"{policy}: {why}"])
    assert (policy.read_bytes(), files_beside(policy)) == (before, [policy])


def test_r12_a_policy_that_would_not_load_enforced_is_left_as_it_is(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests are judged as enforced at all times, so that it takes more: an include that changes meanwhile."""
    included = written(policy.parent / "rows.toml", "")
    written(policy, f'include = ["rows.toml"]\n{POLICY}')
    enforcing_ = mend_module._enforcing  # noqa: SLF001 - the moment to change it

    def meanwhile(text: str) -> str:
        included.write_text("bad")
        return enforcing_(text)

    monkeypatch.setattr(mend_module, "_enforcing", meanwhile)
    before = policy.read_bytes()
    [left] = mend(str(policy)).left
    assert left.startswith(f"{policy}: cannot enforce: {included}: is not TOML")
    assert (policy.read_bytes(), sorted(files_beside(policy))) == (before, [policy, included])


def test_a_policy_that_does_not_load_is_none_to_mend(policy: Path) -> None:
    written(policy, 'mode = "report"\n', 0o666)
    with pytest.raises(PolicyError):
        mend(str(policy))
    assert mode_of(policy) == 0o666


def test_of_a_link_the_file_is_changed_and_the_link_stays(policy: Path) -> None:
    link = policy.parent / "link.toml"
    link.symlink_to(policy.name)
    assert mend(str(link)).done == [f"{link}: {DONE}"]
    assert link.is_symlink()
    assert 'mode = "enforce"' in policy.read_text()


def test_the_file_keeps_its_mode_and_is_whole_at_any_time(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another file that takes the place of this one, once all of it is written."""
    policy.chmod(0o640)
    before, replace = policy.stat(), os.replace

    def looked_at(source: str, target: Path) -> None:
        assert policy.read_text() == POLICY
        assert Path(source).read_text() == POLICY.replace("report", "enforce")
        replace(source, target)

    monkeypatch.setattr(os, "replace", looked_at)
    mend(str(policy))
    after = policy.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


@pytest.mark.parametrize("name", ["fchown", "fsync", "replace"])
def test_a_disk_that_fails_leaves_the_file_as_it_was_and_none_beside_it(
    policy: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    assert mend(str(policy)).left == [f"{policy}: No space left on device; run this as its owner, or as root"]
    assert (policy.read_text(), files_beside(policy)) == (POLICY, [policy])


# Rights


@given(st.integers(0, 0o7777))
def test_r2_rights_are_only_ever_taken(mode: int) -> None:
    """Of the policy, what it includes, a credential and the log: whatever they were."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = (
            f'[[client]]\nname = "b"\n[client.credential]\nuser = "b"\nfile = "secret"\n[audit]\nto = "{folder}/log"\n'
        )
        policy = written(folder / "policy.toml", HEAD + 'include = ["rows.toml"]\n' + ENFORCE + LISTEN + text, mode)
        paths = [policy, written(folder / "rows.toml", ALLOW, mode), written(folder / "secret", HASH, mode)]
        paths.append(written(folder / "log", "", mode))
        before = list(map(mode_of, paths))
        if os.geteuid() != 0 and not all(each & stat.S_IRUSR for each in before):
            return
        mended = mend(str(policy))
        after = list(map(mode_of, paths))
        taken = [0o022, 0o022, 0o027, 0o027]
        assert after == [old & ~bits for old, bits in zip(before, taken, strict=True)]
        assert len(mended.done) == sum(old != new for old, new in zip(before, after, strict=True))
        assert mended.left == []


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "missing"])
def test_a_log_that_is_no_file_is_left_alone(policy: Path, folder: Path, kind: str) -> None:
    log = Path(os.devnull) if kind == "device" else folder / "log"
    if kind == "fifo":
        os.mkfifo(log)
    elif kind == "folder":
        log.mkdir()
    written(policy, POLICY.replace("report", "enforce") + f'[audit]\nto = "{log}"\n')
    before = mode_of(log) if log.exists() else None
    assert mend(str(policy)) == Mended()
    assert (mode_of(log) if log.exists() else None) == before


def test_where_somebody_else_may_replace_it_nothing_is_changed(policy: Path, folder: Path) -> None:
    """What is changed must be what was looked at; the rest is mended all the same."""
    policy.chmod(0o666)
    folder.chmod(0o777)
    mended = mend(str(policy))
    who = "every account of this host"
    assert mended.left == [f"{policy}: left as it is: {who} may write {folder}; mend that first, by hand"]
    assert mended.done == [f"{policy}: {DONE}"]
    assert mode_of(policy) == 0o666


def test_who_may_not_is_told_so_for_each_and_what_can_be_is_done(
    policy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written(folder / "log", "", 0o666)
    written(policy, f'{POLICY}[audit]\nto = "{log}"\n', 0o666)
    chmod = Path.chmod

    def refuse(path: Path, mode: int) -> None:
        if path == log:
            raise PermissionError(1, "Operation not permitted")
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", refuse)
    mended = mend(str(policy))
    assert mended.left == [f"{log}: Operation not permitted; run this as its owner, or as root"]
    assert mended.done == [f"{policy}: mode 0666 -> 0644", f"{policy}: {DONE}"]


def test_a_file_that_two_policies_include_is_tightened_once(folder: Path) -> None:
    rows = written(folder / "rows.toml", ALLOW, 0o666)
    text = HEAD + 'include = ["rows.toml"]\n' + ENFORCE + LISTEN + CLIENT
    first, second = (written(folder / name, text) for name in ("a.toml", "b.toml"))
    assert mend(str(first)).done == [f"{rows}: mode 0666 -> 0644"]
    assert mend(str(second)) == Mended()


def test_what_was_written_meanwhile_is_not_lost(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits it wins."""
    check = mend_module._with_enforcement  # noqa: SLF001 - between its reading and its writing

    def edited(document: Any) -> Any:  # noqa: ANN401 - passed through
        policy.write_text(POLICY + "# edited\n")
        return check(document)

    monkeypatch.setattr(mend_module, "_with_enforcement", edited)
    assert mend(str(policy)).left == [f"{policy}: somebody changed it meanwhile; run this again"]
    assert policy.read_text() == POLICY + "# edited\n"
