"""The three set-ups: proxyd under the default policy, changed as little as can be, and OpenClaw that is told of it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from proxyd.policy.password import SALT_OCTETS, new_hash
from tests.e2e_openclaw.openclaw import OpenClaw
from tests.end_to_end.conftest import POLICIES
from tests.end_to_end.daemon import Daemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e_openclaw.conftest import Outside
    from tests.e2e_openclaw.installation import Installation

PLAIN, CREDENTIALS, TLS = SET_UPS = "plain", "credentials", "tls"
AWKWARD: Final = "awkward"
"""One more: a password that a URL must escape."""
USER: Final = "gateway"
PASSWORDS: Final = {CREDENTIALS: "s3cret-word_1", AWKWARD: "s3cret:w@rd/1"}  # planted, to be looked for

_NETWORKS: Final = 'networks = ["127.0.0.0/8", "::1/128"]\n'


def start_proxyd(name: str, outside: Outside, folder: Path) -> Daemon:
    """proxyd under the default policy, but for what a set-up must say."""
    text = (POLICIES / "default.toml").read_text()
    listen = 'http = ["127.0.0.1:0"]\n'
    if name == TLS:
        certificate, key = outside.folder / "proxy" / "origin.pem", outside.folder / "proxy" / "origin.key"
        listen += f'https = ["127.0.0.2:0"]\ncertificate = "{certificate}"\nprivate_key = "{key}"\n'
    text = _instead(text, '\nhttp = ["127.0.0.1:3128"]', f"\n{listen}")
    text = _instead(text, "#[dns]\n#servers = [", f'[dns]\nservers = ["127.0.0.1:{outside.nameserver.port}"] #')
    if name in PASSWORDS:
        hashed = new_hash(PASSWORDS[name], bytes(SALT_OCTETS))
        credential = f'[client.credential]\nuser = "{USER}"\npassword = "{hashed}"\n'
        text = _instead(text, _NETWORKS, _NETWORKS + credential)
    shutil.copy(POLICIES / "denylist.toml", folder)
    policy, audit, errors = folder / "default.toml", folder / "audit.jsonl", folder / "errors"
    policy.write_text(text)
    proxy = Daemon(policy, audit, errors)
    proxy.wait_for_start()
    return proxy


def _instead(text: str, old: str, new: str) -> str:
    """The shipped policy with one place changed. An assertion, where it no longer stands there."""
    assert text.count(old) == 1, f"policies/default.toml no longer says {old!r}"
    return text.replace(old, new)


def url_of(name: str, proxy: Daemon) -> str:
    """What OpenClaw is told of the proxy."""
    if name == TLS:
        port = proxy.complaints().partition("tls 127.0.0.2:")[2].partition(";")[0]
        return f"https://127.0.0.2:{int(port)}"
    login = f"{USER}:{quote(PASSWORDS[name], safe='')}@" if name in PASSWORDS else ""
    return f"http://{login}127.0.0.1:{proxy.port}"


def set_up_openclaw(url: str, plain_port: int, installation: Installation, outside: Outside, folder: Path) -> OpenClaw:
    """OpenClaw with this proxy.

    It knows the authority of the proxy's certificate by caFile alone. Child processes, which know no caFile, find both
    authorities in one file.
    """
    both, proxys = folder / "authorities.pem", outside.proxys.authority
    both.write_text(outside.authority.read_text() + proxys.read_text())
    home = folder / "home"
    home.mkdir()
    if url.startswith("https:"):
        # git with libcurl-gnutls waits for ever for what it has already read of TLS inside TLS, whatever the proxy.
        (home / ".gitconfig").write_text(f"[http]\n\tproxy = http://127.0.0.1:{plain_port}\n")
    (home / ".curlrc").write_text(f'proxy-cacert = "{proxys}"\n')
    trusted = ("CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "GIT_PROXY_SSL_CAINFO", "PIP_CERT", "npm_config_cafile")
    environment = {
        **dict.fromkeys(trusted, str(both)),
        "NODE_EXTRA_CA_CERTS": str(outside.authority),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "npm_config_update_notifier": "false",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    proxy: dict[str, Any] = {"enabled": True, "proxyUrl": url}
    if url.startswith("https:"):
        proxy["tls"] = {"caFile": str(proxys)}
    return OpenClaw(installation, home, proxy, environment)
