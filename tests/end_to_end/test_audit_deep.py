"""`proxyd audit --deep` on proxies that run, and on what is none: whether it refuses what it must, and what it is.

R1, R5, R11 and R12; ATTACKS 7.1 and 7.8. Only findings about the daemon count here; the others are in `test_audit.py`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import pytest

from tests.adversarial.tls import certificates
from tests.end_to_end.deployment import AGENTS_UID, HASH, OURS, PASSWORD, Deployment, audited, command, sound

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["sound"]

pytestmark = pytest.mark.usefixtures("accounts")

HOLE: Final = (
    '[[permit]]\nhost = "127.0.0.1"\nports = ["1024-65535"]\nnetworks = ["127.0.0.1/32"]\nreason = "planted trouble"\n'
)
BY_CREDENTIAL: Final = f'networks = ["127.0.0.0/8"]\n[client.credential]\nuser = "agent"\npassword = "{HASH}"'


def deeply(deployment: Deployment, *more: str) -> dict[str, str]:
    """What is found about the daemon, by id."""
    _, _, told = audited(deployment, "--deep", *more)
    return {each["id"]: each["what"] for each in told["findings"] if each["id"].startswith("daemon.")}


@contextmanager
def answering(port: int, answer: bytes) -> Iterator[None]:
    """Something else on that port, which says the same to everybody."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=_answer_all, args=(listener, answer))
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _answer_all(listener: socket.socket, answer: bytes) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            with suppress(OSError), client:
                client.recv(65536)
                client.sendall(answer)


def test_r5_a_hole_to_loopback_is_found_though_only_the_agent_would_get_through(sound: Deployment) -> None:
    """Root is nobody's client, and is refused whatever the policy permits: it asks in the agent's name."""
    sound.add(HOLE)
    sound.start()
    found = deeply(sound)
    assert found.keys() == {"daemon.reaches"}
    assert "does not refuse 127.0.0.1:" in found["daemon.reaches"]


def test_who_asks_for_less_is_not_taken_for_who_does_not_refuse(sound: Deployment) -> None:
    """429 is no hole: it is waited for."""
    sound.change("requests_per_second = 2000", "requests_per_second = 60")
    sound.start()
    assert deeply(sound) == {}


def test_where_nobody_listens_that_is_said(sound: Deployment) -> None:
    assert deeply(sound) == {
        "daemon.silent": f"{sound.control}: No such file or directory",
        "daemon.down": f"http://127.0.0.1:{sound.port}: Connection refused",
    }


def test_attack_7_8_another_policy_than_the_file_is_found_until_it_is_reloaded(sound: Deployment) -> None:
    sound.start()
    sound.add("# reviewed")
    assert deeply(sound).keys() == {"daemon.other_policy"}
    reload = [sys.executable, "-m", "proxyd", "reload", "--policy", str(sound.policy)]
    subprocess.run(reload, check=True, capture_output=True)  # noqa: S603 - our own program
    assert deeply(sound) == {}


def test_r12_whose_account_it_runs_as_is_found(sound: Deployment) -> None:
    sound.start(0)
    assert deeply(sound) == {"daemon.root": "proxyd runs as root"}


def test_r12_that_it_runs_as_the_agent_is_found(sound: Deployment) -> None:
    for path in (sound.log, sound.log.parent, sound.folder / "run"):
        os.chown(path, AGENTS_UID, AGENTS_UID)
    sound.start(AGENTS_UID)
    assert deeply(sound) == {"daemon.same_account": "proxyd runs as account nobody, as the agent does"}


def test_a_proxy_that_wants_a_credential_is_asked_with_one(sound: Deployment) -> None:
    """R7: it is shown nowhere."""
    sound.change('users = ["nobody"]', BY_CREDENTIAL)
    sound.start()
    where = f"127.0.0.1:{sound.port}"
    assert deeply(sound) == {"daemon.unasked": f"http://{where}: wants a credential"}
    assert deeply(sound, "--proxy-url", f"http://agent:{PASSWORD}@{where}") == {}
    wrong = "--policy", str(sound.policy), "--deep", "--proxy-url", f"http://agent:gue%53sed@{where}"
    for done in (command(*wrong), command(*wrong, "--json")):
        assert f"http://…@{where}: does not take this credential" in done.stdout.replace("\\u2026", "…")
        assert not any(secret in done.stdout + done.stderr for secret in ("gue", HASH, PASSWORD))


@pytest.mark.parametrize(
    ("answer", "found", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "daemon.unproven", "never says that it refuses"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "daemon.unproven", "never says that it refuses"),
        (b"SSH-2.0-x\r\n", "daemon.down", "its answer is no HTTP"),
        (b"", "daemon.down", "its answer is no HTTP"),
    ],
)
def test_another_kind_of_server_is_not_taken_for_a_proxy_with_holes(
    sound: Deployment, answer: bytes, found: str, said: str
) -> None:
    with answering(sound.port, answer):
        assert said in deeply(sound, "--proxy-url", f"http://127.0.0.1:{sound.port}")[found]


def test_a_wildcard_is_asked_on_loopback(sound: Deployment) -> None:
    sound.change("[listen]", "[listen]\ndangerously_public_listener = true")
    sound.change(f'http = ["127.0.0.1:{sound.port}"]', f'http = ["0.0.0.0:{sound.port}", "[::]:{sound.port}"]')
    sound.add('[[client]]\nname = "far"\nnetworks = ["10.0.0.0/24"]')
    sound.start()
    assert deeply(sound) == {}


def test_where_there_is_no_address_to_ask_that_is_said(sound: Deployment) -> None:
    sound.change(f"127.0.0.1:{sound.port}", f"unix:{sound.folder}/run/proxy")
    sound.start()
    assert deeply(sound) == {"daemon.unasked": f"unix:{sound.folder}/run/proxy: is no address to ask at"}


def test_a_tls_listener_is_asked_over_tls(sound: Deployment) -> None:
    """Of an authority that this host does not know, it is said how to ask."""
    tls = certificates(sound.folder, [], ["127.0.0.1"])
    key = sound.folder / "origin.key"
    os.chown(key, OURS, OURS)
    sound.change(
        f'http = ["127.0.0.1:{sound.port}"]',
        f'https = ["127.0.0.1:{sound.port}"]\ncertificate = "{sound.folder}/origin.pem"\nprivate_key = "{key}"',
    )
    sound.start()
    where = f"https://127.0.0.1:{sound.port}"
    assert deeply(sound) == {"daemon.unasked": f"{where}: TLS: CERTIFICATE_VERIFY_FAILED"}
    done = command(*("--policy", str(sound.policy), "--deep"), env=os.environ | {"SSL_CERT_FILE": str(tls.authority)})
    assert (done.returncode, done.stdout) == (0, "0 critical, 0 warnings, 0 remarks\n")
