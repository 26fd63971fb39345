"""Who contends, each set up as a fair operator would: our daemon, its peers where they are installed, and nobody.

Everybody keeps a log in a file, caches nothing, gives an idle tunnel an hour, and may open all the files it can.
Those that can judge addresses judge them by the documented denylist. Squid is the plain one, a single process: SMP
workers need shared memory that not every host gives.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench.contenders import ROOT, CannotRun, Contender
from tests.bench.works import ECHO, HTTP, MOST_IDLE_TUNNELS, SINK, SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable

_HOUR: Final = 3600
_MOST_TUNNELS: Final = MOST_IDLE_TUNNELS + 1000
_DENYLIST: Final = ROOT / "policies" / "denylist.toml"


def _proxyd(program: str, directory: Path) -> list[str]:
    """The policy to start with, a worker for each core, and room in each for as many as the bench opens."""
    policy = directory / "policy.toml"
    policy.write_text(_policy((ROOT / "policies" / "default.toml").read_text(), directory / PROXYD.audit))
    (directory / _DENYLIST.name).write_text(_DENYLIST.read_text())
    return [program, "-m", "proxyd", "--policy", str(policy)]


def _policy(text: str, audit: Path) -> str:
    schema, stdout = "\nschema = 1\n", '\nto = "stdout"\n'
    if any(text.count(each) != 1 for each in (schema, stdout, f'\nhttp = ["{PROXYD.address}"]')):
        raise CannotRun("policies/default.toml is not what the bench takes it for: adapt tests/bench/peers.py")
    return (
        text.replace(schema, f'{schema}workers = "auto"\n').replace(stdout, f'\nto = "{audit}"\n')
        + '\n[dns]\nservers = ["127.0.0.1"]\n'
        + f"\n[limits]\nconnections = {_MOST_TUNNELS * (os.cpu_count() or 1)}\nidle_seconds = {_HOUR}\n"
    )


def _squid(program: str, directory: Path) -> list[str]:
    """Its shipped rules with the bench's ports in them, and the denylist's. It must not find the name in a file."""
    tunnels = f"{ECHO} {SINK} {SOURCE}"
    rows = tomllib.loads(_DENYLIST.read_text())["deny"]
    lines = (
        *(f"acl blocked dst {network}" for row in rows for network in row.get("networks", ())),
        *(f"acl blocked_names dstdomain {host}" for row in rows for host in row.get("hosts", ())),
        f"acl SSL_ports port 443 {tunnels}",
        f"acl Safe_ports port 80 443 {HTTP} {tunnels}",
        "http_access deny !Safe_ports",
        "http_access deny CONNECT !SSL_ports",
        "http_access deny blocked",
        "http_access deny blocked_names",
        "http_access allow localhost",
        "http_access deny all",
        f"http_port {SQUID.address}",
        "dns_nameservers 127.0.0.1",
        "hosts_file none",
        "cache deny all",
        f"max_filedescriptors {_files()}",
        "pinger_enable off",
        "visible_hostname squid.test",
        "shutdown_lifetime 0 seconds",
        f"pid_filename {directory}/pid",
        f"cache_log {directory}/cache.log",
        f"access_log stdio:{directory}/access.log",
    )
    return [program, "-N", "-f", _written(directory / "squid.conf", lines)]


def _traffic_server(program: str, directory: Path) -> list[str]:
    """A forward proxy of two threads, away from where the system would put its files."""
    port = TRAFFIC_SERVER.address.rpartition(":")[2]
    settings = (
        f"http.server_ports STRING {port}:ip-in=127.0.0.1",
        "url_remap.remap_required INT 0",
        "reverse_proxy.enabled INT 0",
        f"http.connect_ports STRING 443 {HTTP}-{SOURCE}",
        "exec_thread.autoconfig INT 0",
        "exec_thread.limit INT 2",
        "http.cache.http INT 0",
        "dns.nameservers STRING 127.0.0.1",
        f"http.transaction_no_activity_timeout_in INT {_HOUR}",
        f"http.transaction_no_activity_timeout_out INT {_HOUR}",
        "admin.user_id STRING #-1",  # the account that it was started by
        "crash_log_helper STRING NULL",
    )
    _written(directory / "records.config", (f"CONFIG proxy.config.{each}" for each in settings))
    networks = [each for row in tomllib.loads(_DENYLIST.read_text())["deny"] for each in row.get("networks", ())]
    rules = ["{apply: in, ip_addrs: 127.0.0.1, action: allow, methods: ALL}"]
    rules += [f"{{apply: out, ip_addrs: '{each}', action: deny, methods: ALL}}" for each in networks]
    _written(directory / "ip_allow.yaml", ("ip_allow:", *(f"  - {each}" for each in rules)))
    line = "%<cqtq> %<ttms> %<chi> %<crc>/%<pssc> %<psql> %<cqhm> %<pquc>"
    log = (
        "logging:",
        f"  formats: [{{name: line, format: '{line}'}}]",
        "  logs: [{filename: access, format: line}]",
    )
    _written(directory / "logging.yaml", log)
    _written(directory / "storage.config", ())
    kinds = "prefix exec_prefix sbindir sysconfdir datadir includedir libdir libexecdir localstatedir runtimedir logdir"
    places = dict.fromkeys(f"{kinds} cachedir".split(), str(directory)) | {"bindir": str(Path(program).parent)}
    root = _written(directory / "runroot.yaml", [f"{kind}: {place}" for kind, place in places.items()])
    return [program, f"--run-root={root}"]


def _tinyproxy(program: str, directory: Path) -> list[str]:
    """As Debian sets it up, with more clients and time."""
    host, _, port = TINYPROXY.address.rpartition(":")
    lines = (
        f"Listen {host}",
        f"Port {port}",
        f"Timeout {_HOUR}",
        f'LogFile "{directory}/log"',
        "LogLevel Info",
        f"MaxClients {_MOST_TUNNELS}",
        "Allow 127.0.0.1",
        'ViaProxyName "tinyproxy"',
    )
    return [program, "-d", "-c", _written(directory / "tinyproxy.conf", lines)]


def _mitmproxy(program: str, directory: Path) -> list[str]:
    """Tunnels are passed on and not looked into, and large bodies are not collected."""
    host, _, port = MITMPROXY.address.rpartition(":")
    settings = ("--set", f"confdir={directory}", "--set", "ignore_hosts=.*", "--set", "stream_large_bodies=1m")
    return [program, "--listen-host", host, "--listen-port", port, *settings]


def _proxy_py(program: str, directory: Path) -> list[str]:
    """A worker for each core, as it is by default."""
    host, _, port = PROXY_PY.address.rpartition(":")
    options = {
        "--hostname": host,
        "--port": port,
        "--timeout": str(_HOUR),
        "--open-file-limit": str(_files()),
        "--data-dir": str(directory),
    }
    return [program, *(word for pair in options.items() for word in pair)]


def _pproxy(program: str, _directory: Path) -> list[str]:
    """One process; -v makes it log."""
    return [program, "-l", f"http://{PPROXY.address}", "-v"]


def _smokescreen(program: str, _directory: Path) -> list[str]:
    """Private addresses are refused, the others allowed: its own default."""
    host, _, port = SMOKESCREEN.address.rpartition(":")
    return [program, "--listen-ip", host, "--listen-port", port]


def _written(path: Path, lines: Iterable[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def _files() -> int:
    return os.sysconf("SC_OPEN_MAX")


PROXYD: Final = Contender(
    "proxyd", "127.0.0.1:3128", sys.executable, _proxyd, ("-m", "proxyd", "--version"), audit="log"
)
STRAIGHT: Final = Contender("straight", "-")  # load.c's word for no proxy
SQUID: Final = Contender("squid", "127.0.0.1:3129", "squid", _squid, ("-v",), refuses_root=True)
TRAFFIC_SERVER: Final = Contender("ATS", "127.0.0.1:3130", "traffic_server", _traffic_server)
TINYPROXY: Final = Contender("tinyproxy", "127.0.0.1:3131", "tinyproxy", _tinyproxy, ("-v",))
MITMPROXY: Final = Contender("mitmproxy", "127.0.0.1:3132", "mitmdump", _mitmproxy)
PROXY_PY: Final = Contender("proxy.py", "127.0.0.1:3133", "proxy", _proxy_py)
PPROXY: Final = Contender("pproxy", "127.0.0.1:3134", "pproxy", _pproxy)
SMOKESCREEN: Final = Contender("smokescreen", "127.0.0.1:3135", "smokescreen", _smokescreen)

OURS: Final = (PROXYD, STRAIGHT)
PEERS: Final = (SQUID, TRAFFIC_SERVER, TINYPROXY, MITMPROXY, PROXY_PY, PPROXY, SMOKESCREEN)
