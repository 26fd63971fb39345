"""The small worlds that the tests of this floor share: policies, the files they stand in, and who asks."""

from __future__ import annotations

import errno
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from netaddr import IPAddress, IPNetwork

from proxyd.policy.client import Client, Destinations
from proxyd.policy.listen import Listen
from proxyd.policy.load import PolicyError, load
from proxyd.policy.model import Policy
from proxyd.policy.rows import AllowRow, DenyRow, PermitRow
from proxyd.policy.snapshot import Own, Rules, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxyd.policy.load import ReadFile

TODAY: Final = date(2026, 8, 1)
CLIENT: Final = Client(name="agent", networks=(IPNetwork("127.0.0.0/8"),))

MINIMAL: Final = """\
schema = 1
name = "gateway"
[listen]
http = ["127.0.0.1:3128"]
[destinations]
default = "deny"
[[client]]
name = "agent"
networks = ["127.0.0.0/8", "::1/128"]
"""
"""A policy with every key that must be there, and no other. It ends in a [[client]]."""

HUGE: Final = "0x" + "f" * 4000
"""A number that TOML can write, and Python cannot: `str` of it is a ValueError."""

SESAME: Final = "open sesame"
HASH: Final = "$scrypt$ln=10,r=1,p=1$AAECAwQFBgcICQoLDA0ODw$7w0mFuAflAam6vHw4Zcg2+InaSp2qhaVIWEWyD6kf8Q"
"""The hash of SESAME, as cheap as one may be."""

FULL: Final = f"""\
schema = 1
name = "gateway"
include = ["rows.toml"]
workers = "auto"

[listen]
http = ["127.0.0.1:3128", "[::1]:0", "unix:/run/proxyd/proxyd.sock"]
https = ["127.0.0.1:3129", "systemd:tls"]
certificate = "/etc/proxyd/tls.pem"
private_key = "/etc/proxyd/tls.key"
unix_mode = "0660"
unix_group = "agents"
control = "/run/proxyd/control"
dangerously_public_listener = true

[destinations]
default = "deny"
mode = "report"
ports = [443, "8000-8099"]
tls_name = "match"
identity_headers = ["X-Team"]

[dns]
servers = ["9.9.9.9", "tls://[2620:fe::fe]#dns.example"]
hosts_file = "/etc/hosts"
uniform_errors = true
nat64 = ["64:ff9b::/96"]
dangerously_allow_fake_ip = ["198.18.0.0/15"]

[[dns.zone]]
suffix = "corp.example"
servers = ["tcp://10.0.0.53"]

[parent]
address = "192.0.2.7:3128"
credential_file = "parent"

[audit]
to = "/var/log/proxyd.jsonl"
dangerously_prefer_availability = true

[admin]
listen = "127.0.0.1:9128"
token_file = "/etc/proxyd/token"

[limits]
connections = 100
idle_seconds = 60
drain_seconds = 0
requests_per_second = 500
burst = 1000
tunnels_per_second = 50
tunnels = 2000
requests = 300

[[client]]
name = "agent"
networks = ["127.0.0.0/8", "::1/128", "::ffff:0.0.0.0/96"]
users = ["openclaw", 1001]

[client.credential]
user = "agent"
password = "{HASH}"

[client.destinations]
default = "deny"
mode = "enforce"
ports = [443]
tls_name = "off"
identity_headers = ["X-Agent"]

[client.limits]
requests_per_second = 50
burst = 100
tunnels_per_second = 5
tunnels = 200
requests = 30

[client.egress]
addresses = ["10.0.0.7", "fd00::7"]
interface = "eth0"
mark = 7

[[client.deny]]
name = "agents-corp"
reason = "not for this one"
hosts = ["agents.example"]
networks = ["192.0.2.0/24"]

[[client.allow]]
name = "agents-models"
reason = "its own providers"
hosts = ["models.example"]
ports = [443]

[[client.permit]]
name = "agents-nas"
reason = "its storage"
host = "nas.local"
ports = [443]
networks = ["10.0.0.0/24"]
expires = 2027-01-31

[[client]]
name = "other"
credential = {{user = "other", file = "hash"}}

[[deny]]
name = "corp"
reason = "unsere eigenen — “ours”"
hosts = ["*.corp.example", "xn--bcher-kva.example"]
networks = ["203.0.112.0/22"]

[[allow]]
name = "models"
reason = "model providers"
hosts = ["api.example.com", "*.example.net"]
ports = [443]

[[permit]]
name = "ollama"
reason = "Ollama on this host"
host = "localhost"
ports = [11434, "1234-1235"]
networks = ["127.0.0.1/32", "::1/128"]
expires = 2027-01-31

[[test]]
name = "metadata"
url = "http://metadata.goog:443/"
client = "agent"
expect = "deny"
reason = "name_locked"

[[test]]
url = "https://api.example.com"
expect = "deny"
addresses = ["93.184.216.34"]
cnames = ["x.internal"]
"""
"""A policy that uses every key there is."""

BESIDE_FULL: Final[dict[str, Any]] = {"rows": "", "hash": HASH, "parent": "proxyd:a secret"}
"""The files that FULL names."""

# Any unicast public address would do: these have names because tests read better so.
PUBLIC_4: Final = IPAddress("93.184.216.34")
PUBLIC_6: Final = IPAddress("2606:2800:220:1:248:1893:25c8:1946")


def deny(*, hosts: Iterable[str] = (), networks: Iterable[str] = (), name: str = "denied") -> DenyRow:
    """A [[deny]] row."""
    return DenyRow(name=name, reason="a test", hosts=tuple(hosts), networks=nets(*networks))


def allow(*hosts: str, ports: Iterable[int] = (443,), name: str = "allowed") -> AllowRow:
    """An [[allow]] row."""
    return AllowRow(name=name, reason="a test", hosts=hosts, ports=spans(*ports))


def permit(
    host: str, *networks: str, ports: Iterable[int] = (443,), expires: date | None = None, name: str = "permitted"
) -> PermitRow:
    """A [[permit]] row."""
    return PermitRow(
        name=name, reason="a test", host=host, ports=spans(*ports), networks=nets(*networks), expires=expires
    )


def nets(*texts: str) -> tuple[IPNetwork, ...]:
    """Networks from their spelling."""
    return tuple(IPNetwork(text) for text in texts)


def spans(*ports: int) -> tuple[range, ...]:
    """Each port as the span that holds only it."""
    return tuple(range(port, port + 1) for port in ports)


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    """Addresses from their spelling."""
    return tuple(IPAddress(text) for text in texts)


def policy(
    *,
    default: str = "allow",
    mode: str = "enforce",
    ports: Iterable[int] = (),
    client: Iterable[Client] = (CLIENT,),
    **more: Any,  # noqa: ANN401
) -> Policy:
    """A policy built without a file: everything public is allowed, unless said otherwise."""
    return Policy(
        schema=1,
        name="gateway",
        listen=Listen(http=()),
        destinations=Destinations(default=default, mode=mode, ports=spans(*ports)),
        client=tuple(client),
        **more,
    )


def world(own: Own | None = None, today: date = TODAY, **said: Any) -> Snapshot:  # noqa: ANN401
    """What `decide` judges by: `policy(**said)` as of today."""
    return Snapshot.of(policy(**said), today, own or Own())


def rules(**said: Any) -> Rules:  # noqa: ANN401
    """What holds for CLIENT in that world."""
    return world(**said).rules(CLIENT)


def files(**texts: str | bytes) -> ReadFile:
    """A folder with a file `/NAME.toml`, or `/NAME`, for each keyword."""

    def read(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:  # noqa: ARG001
        assert beside is None or beside.startswith("/")
        text = texts.get(name.removesuffix(".toml"))
        if text is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        return f"/{name}", text if isinstance(text, bytes) else text.encode()

    return read


def loaded(main: str | bytes = MINIMAL, today: date = TODAY, **included: str | bytes) -> Policy:
    """The policy in main.toml and the files it includes."""
    return load("main.toml", files(main=main, **included), today)


def problems(main: str | bytes, today: date = TODAY, **included: str | bytes) -> list[str]:
    """What the loader has against main.toml: nothing, or a line for each thing to mend."""
    try:
        loaded(main, today, **included)
    except PolicyError as error:
        return error.problems
    return []
