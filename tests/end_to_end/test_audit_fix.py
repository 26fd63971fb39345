"""`proxyd audit --fix` on real deployments: it tightens, says what it did, and leaves alone what is good.

R2, R8 and R12. How a policy may be spelt is in `tests/cli/test_mend.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests import namespace
from tests.end_to_end.deployment import AGENTS_UID, HASH, OURS, Deployment, as_account, audited, command, sound
from tests.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["sound"]

pytestmark = pytest.mark.usefixtures("accounts")


def state(deployment: Deployment) -> dict[Path, tuple[Any, ...]]:
    """Every file: what is in it, its mode and owner, and when it was changed."""
    found = {}
    for path in deployment.folder.rglob("*"):
        about = path.lstat()
        said = path.read_bytes() if path.is_file() else b""
        found[path] = (said, about.st_mode, about.st_uid, about.st_gid, about.st_mtime_ns, about.st_ino)
    return found


def mended(deployment: Deployment) -> tuple[int, list[str], list[str]]:
    """The exit status, what was done, and what is found afterwards."""
    status, ids, told = audited(deployment, "--fix")
    assert told["left"] == []
    return status, told["mended"], ids


def asked_by_the_agent(deployment: Deployment) -> str:
    """The status with which the agent is answered that asks for what is on no list."""
    ask = [tool("curl"), "-q", "-sS", "-m", "60", "-x", f"http://127.0.0.1:{deployment.port}", "-w", "%{http_code}"]
    full = [*as_account(AGENTS_UID), *ask, "-o", os.devnull, f"http://{namespace.OTHER_4}:81/"]
    return subprocess.run(full, capture_output=True, text=True, check=True).stdout  # noqa: S603 - a fixed program


def test_r12_report_mode_is_ended_and_the_daemon_enforces_after_a_reload(sound: Deployment) -> None:
    sound.change('mode = "enforce" ', "mode = 'report'")
    sound.start()
    assert asked_by_the_agent(sound) == "502"  # let through, and nobody there
    done = [f"{sound.policy}: mode report -> enforce; `proxyd reload` takes it into use"]
    assert mended(sound) == (0, done, [])
    assert "mode = 'enforce'" in sound.text
    assert asked_by_the_agent(sound) == "502"
    reload = [sys.executable, "-m", "proxyd", "reload", "--policy", str(sound.policy)]
    subprocess.run(reload, check=True, capture_output=True)  # noqa: S603 - our own program
    assert asked_by_the_agent(sound) == "403"
    assert audited(sound, "--deep")[:2] == (0, [])


def test_r2_rights_of_others_are_taken_and_what_is_good_stays_as_it_is(sound: Deployment) -> None:
    """Once; then there is nothing to do, and no byte or time of a file changes."""
    sound.add('[[client]]\nname = "other"\n[client.limits]\ntunnels = 1\n[client.credential]\nuser = "a"\nfile = "a"')
    secret = sound.folder / "a"
    secret.write_text(HASH)
    os.chown(secret, OURS, OURS)
    modes = {sound.policy: 0o666, sound.folder / "denylist.toml": 0o664, secret: 0o644, sound.log: 0o666}
    for path, mode in modes.items():
        path.chmod(mode)
    status, done, ids = mended(sound)
    assert (status, ids) == (0, [])
    assert sorted(done) == sorted(
        [
            f"{sound.policy}: mode 0666 -> 0644",
            f"{sound.folder}/denylist.toml: mode 0664 -> 0644",
            f"{secret}: mode 0644 -> 0640",
            f"{sound.log}: mode 0666 -> 0640",
        ]
    )
    before = state(sound)
    assert mended(sound) == (0, [], [])
    assert state(sound) == before
    sound.start()
    assert audited(sound, "--deep")[:2] == (0, ["daemon.unasked"])  # of the other client, who has a password


def test_of_a_sound_deployment_no_byte_is_changed(sound: Deployment) -> None:
    before = state(sound)
    assert mended(sound) == (0, [], [])
    assert state(sound) == before


def test_who_may_not_is_told_so_and_changes_nothing(sound: Deployment) -> None:
    sound.change('mode = "enforce" ', 'mode = "report"')
    sound.policy.chmod(0o664)
    before = state(sound)
    done = command("--policy", str(sound.policy), "--fix", account=AGENTS_UID)
    assert done.returncode == 78
    assert f"{sound.policy}: Operation not permitted; run this as its owner, or as root" in done.stderr
    assert f"{sound.policy}: Permission denied; run this as its owner, or as root" in done.stderr
    assert "destinations.report_mode" in done.stdout
    assert state(sound) == before


def test_a_file_in_a_folder_of_the_agents_is_left_alone(sound: Deployment) -> None:
    """He could put a link to any file of root's in its place: an agent must not choose what root changes."""
    target = sound.folder / "of-the-system"
    target.write_text("x")
    target.chmod(0o644)
    os.chown(sound.log.parent, AGENTS_UID, AGENTS_UID)
    sound.log.unlink()
    sound.log.symlink_to(target)
    done = command("--policy", str(sound.policy), "--fix", "--json")
    assert done.returncode == 78
    told = json.loads(done.stdout)
    assert told["mended"] == []
    assert told["left"] == [
        f"{sound.log}: left as it is: account nobody may write {sound.log.parent}; mend that first, by hand"
    ]
    assert "file.writable" in [each["id"] for each in told["findings"]]
    assert target.stat().st_mode & 0o777 == 0o644
