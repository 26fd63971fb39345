"""R11: `openclaw proxy validate` with the proxy of its configuration: what it says, and what proxyd has on record.

README shows this output and says how to read it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

from tests import namespace
from tests.e2e_openclaw.origin import HTTPS
from tests.e2e_openclaw.set_up import CREDENTIALS, PASSWORDS, TLS, USER
from tests.end_to_end.nameserver import Says

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e_openclaw.conftest import Outside, Scene
    from tests.e2e_openclaw.installation import Installation

APPLE: Final = "api.sandbox.push.apple.com"
PASSED, FAILED = 0, 1
EXAMPLE: Final = {"kind": "allowed", "url": "https://example.com/", "ok": True, "status": 200}
UNREACHED: Final = {"kind": "allowed", "url": "https://example.com/", "ok": False, "error": "fetch failed"}
DENIED: Final = {
    "http://169.254.169.254/": (Says(), ("deny", "address_locked", 403)),
    "https://intranet.origin.test/": (Says(a=("10.0.0.5",)), ("deny", "address_denied", 403)),
    "https://dead.origin.test/": (Says(a=(namespace.OTHER_4,)), ("error", "connect_refused", 502)),
    "https://nowhere.origin.test/": (Says(rcode="NXDOMAIN"), ("error", "dns_error", 502)),
}
"""What --denied-url asks for, and how it ends: by two denials, and by two mere failures."""
CANNOT_TELL: Final = "Denied destination failed without a verifiable proxy-deny signal: fetch failed"


@pytest.fixture
def apple(installation: Installation, outside: Outside) -> Iterator[None]:
    """Apple's push service, behind its name."""
    outside.nameserver.zone[APPLE] = Says(a=(namespace.OTHER_4,))
    keys = outside.folder / "origin"
    command = [str(installation.node), str(Path(__file__).with_name("apple.mjs")), namespace.OTHER_4, str(HTTPS)]
    command += [str(keys / "origin.pem"), str(keys / "origin.key")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:  # noqa: S603 - our own script
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield
        server.kill()


def validate(scene: Scene, *arguments: str) -> tuple[int, dict[str, Any]]:
    """`openclaw proxy validate --json`: its exit status, and what it says. Never a password."""
    run = scene.openclaw.run("proxy", "validate", "--json", *arguments)
    assert not [password for password in PASSWORDS.values() if password in run.stdout + run.stderr]
    return run.returncode, json.loads(run.stdout)


def test_r11_it_passes(scene: Scene) -> None:
    status, said = validate(scene)
    assert (status, said["ok"]) == (PASSED, True)
    assert (said["config"]["source"], said["config"]["errors"]) == ("config", [])
    example, canary = said["checks"]
    assert example == EXAMPLE
    place = urlsplit(canary["url"])
    assert canary == {"kind": "denied", "url": f"http://127.0.0.1:{place.port}/", "ok": True, "error": "fetch failed"}
    [denied] = [record for record in scene.proxy.decided() if record["port"] == place.port]
    assert (denied["host"], denied["reason"]) == ("127.0.0.1", "address_denied")


def test_r11_its_denied_urls_cannot_pass_and_only_the_audit_log_tells_a_denial_from_a_failure(scene: Scene) -> None:
    hosts = {url: str(urlsplit(url).hostname) for url in DENIED}
    scene.outside.nameserver.zone.update({hosts[url]: says for url, (says, _) in DENIED.items()})
    before = {url: len(scene.ended(host)) for url, host in hosts.items()}
    asked = [argument for url in DENIED for argument in ("--denied-url", url)]
    status, said = validate(scene, *asked)
    assert (status, said["ok"]) == (FAILED, False)
    failed = [{"kind": "denied", "url": url, "ok": False, "error": CANNOT_TELL} for url in DENIED]
    assert said["checks"] == [EXAMPLE, *failed]
    ended = {url: scene.ended(host)[before[url] :] for url, host in hosts.items()}
    assert ended == {url: [expected] for url, (_, expected) in DENIED.items()}
    assert scene.outside.intruders() == 0


@pytest.mark.usefixtures("apple")
def test_r4_apples_push_service_speaks_http_2_in_a_tunnel(scene: Scene) -> None:
    status, said = validate(scene, "--apns-reachable")
    assert status == PASSED
    assert said["checks"][-1] == {"kind": "apns", "url": f"https://{APPLE}", "ok": True, "status": 403}
    assert set(scene.decided(APPLE)) == {("CONNECT", "connect", HTTPS, "allow", None)}


@pytest.mark.parametrize("scene", [CREDENTIALS], indirect=True)
def test_r2_it_fails_with_a_wrong_password(scene: Scene) -> None:
    status, said = validate(scene, "--proxy-url", f"http://{USER}:wrong@127.0.0.1:{scene.proxy.port}")
    assert (status, said["checks"][0]) == (FAILED, UNREACHED)


@pytest.mark.parametrize("scene", [TLS], indirect=True)
def test_it_fails_where_the_proxys_certificate_is_not_trusted(scene: Scene) -> None:
    status, said = validate(scene, "--proxy-ca-file", str(scene.outside.authority))
    assert (status, said["checks"][0]) == (FAILED, UNREACHED)
