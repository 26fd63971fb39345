"""The daemon as an operator meets it: bad policies, busy ports, log rotation, signals, full disks (R1, R2, R12)."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import namespace
from tests.end_to_end.conftest import POLICIES, Scene
from tests.end_to_end.daemon import Daemon, read_all, read_until, refuses, status, ticks

EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_CONFIG = 2, 69, 78


def proxyd(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of proxyd to its end."""
    command = [sys.executable, "-m", "proxyd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - our own program


@pytest.mark.parametrize("policy", ["default", "allowlist", "local-models"])
def test_every_shipped_policy_is_good(policy: str) -> None:
    """The one warning is meant: a clone is tried before there is an account for the agent."""
    answer = proxyd("check", str(POLICIES / f"{policy}.toml"))
    assert answer.returncode == 0
    assert [line.partition("warning: client ")[2].split(" ", 1)[1] for line in answer.stderr.splitlines()] == [
        "is every account on this host; write users = [ … ] or [client.credential], if others than the agent work here"
    ]


def test_r12_a_bad_policy_stops_the_start_with_every_problem_and_78(tmp_path: Path) -> None:
    policy = tmp_path / "bad.toml"
    policy.write_text('schema = 1\nname = "bad"\n[listen]\nhttp = ["everywhere"]\n[destination]\ndefault = "allow"\n')
    answer = proxyd("--policy", str(policy))
    assert answer.returncode == EXIT_CONFIG
    assert "listen.http[0]" in answer.stderr
    assert 'destination: unknown key; did you mean "destinations"?' in answer.stderr
    assert "client: is missing" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_port_in_use_is_69_and_one_line(proxy: Daemon, tmp_path: Path) -> None:
    policy = tmp_path / "second.toml"
    policy.write_text(proxy.policy.read_text().replace("127.0.0.1:0", f"127.0.0.1:{proxy.port}"))
    answer = proxyd("--policy", str(policy))
    assert (answer.returncode, answer.stderr.count("\n")) == (EXIT_UNAVAILABLE, 1)
    assert "somebody listens there already" in answer.stderr


@pytest.mark.parametrize("arguments", [(), ("--polcy", "x"), ("explain",), ("explain", "x"), ("check",)])
def test_bad_usage_is_2(arguments: tuple[str, ...]) -> None:
    answer = proxyd(*arguments)
    assert answer.returncode == EXIT_USAGE
    assert "Traceback" not in answer.stderr


def test_explain_answers_as_the_daemon_does(proxy: Daemon) -> None:
    answer = proxyd("explain", "http://[::ffff:10.0.0.1]/", "--policy", str(proxy.policy))
    assert answer.returncode == 1
    refused = proxy.ask(b"GET http://[::ffff:10.0.0.1]/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    [decision] = proxy.decisions()
    assert status(refused) == 403
    assert f"deny: {decision['reason']}, by {decision['rule']}" in answer.stdout


def test_sigterm_lets_a_tunnel_finish_and_ends_idle_connections(scene: Scene, proxy: Daemon) -> None:
    with proxy.connect() as idle, proxy.connect() as busy:
        busy.sendall(f"CONNECT {scene.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        read_until(busy, b"\r\n\r\n")
        proxy.signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        busy.sendall(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_until(busy, b"octets").endswith(b"and 0 octets")
        next(None for _ in ticks() if refuses(proxy.port))
    assert proxy.wait() == 0
    assert proxy.lines()[-1]["event"] == "stop"


def test_a_second_sigterm_ends_at_once(scene: Scene, proxy: Daemon) -> None:
    with proxy.connect() as busy:
        busy.sendall(f"CONNECT {scene.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        read_until(busy, b"\r\n\r\n")
        proxy.signal(signal.SIGTERM)
        read_eof_of_listener(proxy)
        proxy.signal(signal.SIGTERM)
        assert proxy.wait() == 0
    assert proxy.closings()[0]["outcome"] == "aborted"


def read_eof_of_listener(proxy: Daemon) -> None:
    """Wait until nobody accepts any more, so that the first signal was heard."""
    while True:
        try:
            proxy.connect().close()
        except OSError:
            return


def test_a_renamed_log_is_found_again_and_sigusr1_reopens(scene: Scene, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = scene.start(f'[audit]\nto = "{log}"\n')
    request = f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    proxy.ask(request)
    log.rename(tmp_path / "audit.log.1")
    proxy.signal(signal.SIGUSR1)
    while not log.exists():
        pass
    proxy.ask(request)
    assert '"event":"decision"' in log.read_text()
    assert (tmp_path / "audit.log.1").read_text().count('"event":"decision"') == 1
    assert log.stat().st_mode & 0o007 == 0


def test_r12_no_audit_no_connection(scene: Scene) -> None:
    proxy = scene.start('[audit]\nto = "/dev/full"\n')
    answer = proxy.ask(f"CONNECT {scene.target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert b"503 Service Unavailable: audit_unwritable" in answer
    assert scene.origin.connections == 0
    assert "audit log: a decision record could not be written" in proxy.complaints()


def test_r12_availability_is_preferred_only_in_so_many_words(scene: Scene) -> None:
    proxy = scene.start('[audit]\nto = "/dev/full"\ndangerously_prefer_availability = true\n')
    answer = proxy.ask(f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert status(answer) == 200


def test_r2_a_client_that_no_row_names_is_refused(scene: Scene) -> None:
    proxy = scene.start()
    proxy.stop()
    text = proxy.policy.read_text().replace('networks = ["127.0.0.0/8"]', 'networks = ["10.9.9.0/24"]', 1)
    proxy.policy.write_text(text)
    second = Daemon(proxy.policy, proxy.audit, _fresh(proxy.errors))
    try:
        answer = second.ask(f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    finally:
        second.stop()
    assert b"403 Forbidden: client_unknown" in answer
    assert scene.nameserver.asked == []


def _fresh(path: Path) -> Path:
    path.write_text("")
    return path


def test_attack_8_the_limit_of_connections_is_said_and_recorded(scene: Scene) -> None:
    proxy = scene.start("[limits]\nconnections = 1\n")
    with proxy.connect() as first:
        first.sendall(f"CONNECT {scene.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        read_until(first, b"\r\n\r\n")
        answer = proxy.ask(b"GET http://origin.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"503 Service Unavailable: connection_limit" in answer
    assert [each["reason"] for each in proxy.decisions()] == [None, "connection_limit"]


def test_r2_attack_8_strangers_take_no_place_of_a_client(scene: Scene) -> None:
    """They say nothing and stay; nor does a full house keep a stranger from being refused as one."""
    proxy = scene.start("[limits]\nconnections = 1\n")
    proxy.stop()
    proxy.policy.write_text(
        proxy.policy.read_text().replace('networks = ["127.0.0.0/8"]', 'networks = ["127.0.0.1/32"]')
    )
    second = Daemon(proxy.policy, proxy.audit, _fresh(proxy.errors))
    request = f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    try:
        with contextlib.ExitStack() as strangers:
            crowd = [strangers.enter_context(_stranger(second)) for _ in range(10)]
            assert status(second.ask(request)) == 200
            with second.connect() as client:
                client.sendall(b"G")
                crowd[0].sendall(request)
                assert b"403 Forbidden: client_unknown" in read_all(crowd[0])
    finally:
        second.stop()


def _stranger(proxy: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 20, source_address=("127.0.0.2", 0))


@pytest.mark.skipif(not namespace.isolated, reason="no network of our own, and a route cannot be added to this one")
@pytest.mark.parametrize("host", ["93.184.216.7", "[2606:2800::9]"])
def test_attack_2_17_a_local_route_makes_no_way_to_proxyd_itself(scene: Scene, host: str) -> None:
    """No interface has that address, and a listener on a wildcard is reached there ("AnyIP")."""
    with namespace.everywhere():
        proxy = scene.start()
        answer = proxy.ask(f"CONNECT {host}:{proxy.port} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert b"403 Forbidden: address_locked" in answer
    assert proxy.decisions()[0]["rule"] == "proxyd itself"


def test_attack_8_out_of_files_ends_nothing(scene: Scene) -> None:
    proxy = scene.start()
    proxy.wait_for_start()
    [worker] = proxy.workers()
    most = len(list(Path(f"/proc/{worker}/fd").iterdir())) + 3
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, most))
    crowd = [socket.create_connection(("127.0.0.1", proxy.port), 20) for _ in range(30)]
    for each in crowd:
        each.close()
    where = f"{scene.origin.addresses[0]}:{scene.origin.port}"
    answer = proxy.ask(f"GET http://{where}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert status(answer) in (200, 503)
    assert status(proxy.ask(b"GET http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) == 403


def test_report_mode_lets_a_miss_through_and_says_so(scene: Scene) -> None:
    rows = '[[allow]]\nhosts = ["only.test"]\nports = [443]\nreason = "x"\n'
    proxy = scene.start(rows)
    proxy.stop()
    proxy.policy.write_text(proxy.policy.read_text().replace('default = "deny"', 'default = "deny"\nmode = "report"'))
    second = Daemon(proxy.policy, proxy.audit, _fresh(proxy.errors))
    try:
        request = f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert status(second.ask(request.encode())) == 200
        [decision] = second.decisions()
    finally:
        second.stop()
    if scene.origin.addresses[0].startswith("127."):
        assert decision["would"] is None  # a permit stands in for the public address, and covers the miss
    else:
        assert (decision["verdict"], decision["would"]) == ("allow", "deny")


def test_attack_6_4_the_environment_names_no_proxy_for_us(scene: Scene) -> None:
    proxy = scene.start(
        env={"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "PATH": "/usr/bin"}
    )
    answer = proxy.ask(f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert status(answer) == 200


def test_attack_8_a_full_stderr_and_stdout_stop_nobody(scene: Scene, tmp_path: Path) -> None:
    """Both go into one pipe that nobody reads: requests are refused, others are answered, SIGTERM is heard."""
    policy = tmp_path / "piped.toml"
    policy.write_text(scene.start().policy.read_text())
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "proxyd", "--policy", str(policy)], stdout=writer, stderr=writer, cwd=tmp_path
    ) as process:
        said = b""
        while b"listening on" not in said:
            said += os.read(reader, 65536)
        port = int(said.partition(b"127.0.0.1:")[2].partition(b";")[0])
        with contextlib.suppress(BlockingIOError):
            while os.write(writer, b"x" * 512):
                pass
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port), 20) as client:
                client.sendall(f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert client.recv(100).startswith(b"HTTP/1.1 503 Service Unavailable: audit_unwritable")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    os.close(reader)
    os.close(writer)


def test_a_fifo_that_nobody_reads_is_no_audit_log_and_no_policy(scene: Scene, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    policy = tmp_path / "fifo.toml"
    policy.write_text(scene.start().policy.read_text() + f'[audit]\nto = "{fifo}"\n')
    assert proxyd("--policy", str(policy)).returncode == EXIT_CONFIG
    assert proxyd("check", str(fifo)).returncode == EXIT_CONFIG


def test_sighup_with_the_same_policy_changes_nothing_and_ends_nothing(scene: Scene, proxy: Daemon) -> None:
    """What else it does is in test_reload.py."""
    done = proxy.reload()
    assert (done["outcome"], done["changes"], done["revoked"]) == ("done", [], 0)
    assert status(proxy.ask(f"GET {scene.url}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())) == 200
    assert "reloaded: policy test, " in proxy.complaints()


def test_attack_9_a_refusal_names_a_rule_and_never_a_file(scene: Scene) -> None:
    proxy = scene.start('[[deny]]\nname = "ours"\nhosts = ["denied.test"]\nreason = "x"\n')
    answer = proxy.ask(b"GET http://denied.test/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'"rule": "ours"' in answer
    assert b".toml" not in answer
