"""The operator's commands against real proxies: a sound one is found sound, and planted trouble is found (R11)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.end_to_end.daemon import read_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

HOLE = (
    '[[permit]]\nhost = "127.0.0.1"\nports = ["1024-65535"]\nnetworks = ["127.0.0.1/32"]\nreason = "planted trouble"\n'
)


def proxyd(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of proxyd to its end."""
    command = [sys.executable, "-m", "proxyd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - our own program


def validated(proxy: Daemon, scene: Scene, *more: str) -> tuple[int, dict[str, Any]]:
    """What `validate` finds."""
    answer = proxyd(
        *("validate", "--json", "--proxy-url", f"http://127.0.0.1:{proxy.port}", "--allowed-url", scene.url, *more)
    )
    assert answer.stderr == ""
    return answer.returncode, json.loads(answer.stdout)


def test_r11_a_sound_proxy_is_found_sound(scene: Scene, proxy: Daemon) -> None:
    status, told = validated(proxy, scene, "--denied-url", "http://10.0.0.5:8080/")
    assert (status, told["counts"]["FAIL"], told["counts"]["unproven"]) == (0, 0, 0)
    assert told["counts"]["pass"] > 150
    assert {record["verdict"] for record in proxy.decisions()} == {"allow", "deny"}


def test_r11_a_hole_to_loopback_is_found(scene: Scene) -> None:
    """A permit that is much too wide: the canary is reached, and that is what is said of it."""
    status, told = validated(scene.start(HOLE), scene)
    assert status == 1
    failed = [each for each in told["results"] if each["verdict"] == "FAIL"]
    assert {each["said"] for each in failed} == {"the canary on loopback was reached"}
    assert {(each["way"], each["target"].partition(":")[0]) for each in failed} == {
        ("CONNECT", "127.0.0.1"),
        ("GET", "127.0.0.1"),
    }


def test_r11_a_public_url_that_does_not_pass_is_found(scene: Scene, proxy: Daemon) -> None:
    """A lookup that fails is a failure and no denial."""
    status, told = validated(
        proxy, scene, "--allowed-url", "https://no-such.test/", "--denied-url", "https://no-such.test/"
    )
    assert status == 1
    failed = [each for each in told["results"] if each["verdict"] == "FAIL"]
    assert [each["target"] for each in failed] == ["no-such.test:443"] * 3
    assert all(each["said"].startswith("502 ") for each in failed)


def test_a_proxy_that_is_not_there_proves_nothing() -> None:
    answer = proxyd("validate", "--proxy-url", "http://127.0.0.1:9")
    assert answer.returncode == 1
    assert "0 as they should be, 1 not" in answer.stdout
    assert "Traceback" not in answer.stderr


def test_the_log_of_a_real_proxy_is_told(scene: Scene, proxy: Daemon) -> None:
    """A request, a refusal, and a tunnel that opens and ends."""
    with proxy.connect() as client:
        client.sendall(f"CONNECT {scene.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in read_until(client, b"\r\n\r\n")
    with proxy.connect() as client:
        client.sendall(b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 403 " in read_until(client, b"\r\n\r\n")
    proxy.stop()
    answer = proxyd("log", str(proxy.audit))
    assert answer.returncode == 0
    lines = [line.split("  ", 1)[1] for line in answer.stdout.splitlines()[1:]]
    assert [line.split()[0] for line in lines] == ["start", "tester", "tester", "tester", "stop"]
    assert [line.split()[-1] for line in lines if " open" in line] == ["open"]
    denied = proxyd("log", "--denied", str(proxy.audit)).stdout.splitlines()
    assert len(denied) == 2
    assert "169.254.169.254:80  address_locked by cloud-metadata  refused" in denied[1]


@pytest.mark.parametrize(("more", "status"), [("", 0), (HOLE, 1)])
def test_r8_a_pull_request_that_opens_something_fails_its_check(
    proxy: Daemon, tmp_path: Path, more: str, status: int
) -> None:
    new = tmp_path / "new.toml"
    new.write_text(proxy.policy.read_text() + more)
    answer = proxyd("diff", str(proxy.policy), str(new), "--markdown")
    assert answer.returncode == status
    assert ("**opens**" in answer.stdout) == bool(status)
