"""README, "Other agents": every recipe is run as it is written there, through the real daemon.

R3, R6, R11: what it fetches comes through proxyd; and once the same name resolves to a private address (DNS rebinding,
ATTACKS 3), nothing does, and the program shows what the README says of a refusal.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.policy.password import new_hash
from tests import namespace
from tests.adversarial.tls import certificates
from tests.end_to_end.agents import AGENTS, PROXY, trusting
from tests.end_to_end.conftest import POLICIES
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.goods import stock
from tests.end_to_end.mirror import Mirror
from tests.end_to_end.nameserver import Nameserver, Says
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    not namespace.isolated, reason="no network of our own: ports 80, 443 and 3128 may be somebody's here"
)

README: Final = (Path(__file__).parents[2] / "README.md").read_text()
SECTION: Final = README.partition("\n## Other agents\n")[2].partition("\n## ")[0]
PRIVATE: Final = "10.0.0.5"
PATIENCE: Final = 60.0  # seconds for a program to end; none is decided by time


@dataclass(frozen=True)
class Recipe:
    """A row of the README's table."""

    own: str
    environment: str
    credential: str
    tls: str
    refusal: str


def _code(cell: str) -> str:
    """What stands between its backquotes."""
    return cell.split("`")[1]


def _rows() -> dict[str, Recipe]:
    rows = {}
    for row in re.findall(r"^\|.*\|$", SECTION, re.MULTILINE)[2:]:
        name, own, environment, credential, tls, refusal = re.split(r" \| ", row.strip("| "))
        rows[name] = Recipe(_code(own), environment, credential, tls, _code(refusal))
    return rows


ROWS: Final = _rows()
EXPORTS: Final = "\n".join(re.findall(r"^export .*$", SECTION, re.MULTILINE))
CREDENTIAL: Final = "http://agent:s3cret%40word@127.0.0.1:3130"
TLS: Final = "https://127.0.0.1:3129"
NEITHER: Final = "unset http_proxy https_proxy no_proxy"
SPELLINGS: Final = (EXPORTS, EXPORTS.split("\n")[0], f"{EXPORTS}\n{NEITHER}")


@dataclass
class Stage:
    """A daemon at the address that the README has, one that asks for a password, and the public web behind both."""

    nameserver: Nameserver
    mirror: Mirror
    proxy: Daemon
    guarded: Daemon
    home: Path
    environment: dict[str, str]

    def resolve(self, address: str) -> None:
        """What every name resolves to from now on."""
        for agent in AGENTS.values():
            self.nameserver.zone |= {host: Says(a=(address,), ttl=0) for host in agent.hosts}
        self.seen = {id(daemon): len(daemon.decisions()) for daemon in (self.proxy, self.guarded)}
        self.mirror.reached.clear()

    def fetch(self, name: str, code: str, url: str, exports: str = "", proxy: str = PROXY) -> tuple[bool, str]:
        """One agent, in an empty home, where nothing is cached: whether it got what it asks for, and what it said."""
        AGENTS[name].look_for(self.environment["PATH"])
        folder = self.home / "agent"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.home / "empty", folder)
        with subprocess.Popen(  # noqa: S603 - what the README says
            [tool("bash"), "-euc", f"{exports}\n{AGENTS[name].command(code, url, proxy, folder)}"],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as run:
            try:
                said, _ = run.communicate(timeout=PATIENCE)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(run.pid, signal.SIGKILL)  # whatever it has started
        return run.returncode == 0 and AGENTS[name].shows in said, said

    def served(self, name: str, plain: str, exports: str) -> bool:
        """Whether something comes through proxyd to a program to which only its environment says so."""
        self.resolve(namespace.ORIGIN_4)
        served, said = self.fetch(name, plain, AGENTS[name].url.replace("https:", "http:"), exports)
        asked = {host for host, _, _ in self.decided(self.proxy)}
        assert served == bool(asked & {*AGENTS[name].hosts}), said  # and where not, proxyd was not asked
        return served

    def decided(self, daemon: Daemon) -> set[tuple[str, str, str | None]]:
        """The hosts that a proxyd was asked for since they resolve as they do, its verdicts, and why."""
        decisions = daemon.decisions()[self.seen[id(daemon)] :]
        return {(each["host"], each["verdict"], each["reason"]) for each in decisions}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The cast."""
    home = tmp_path_factory.mktemp("recipes")
    hosts = sorted({host for agent in AGENTS.values() for host in agent.hosts})
    issued = certificates(home, hosts, ["127.0.0.1"])
    stock(home / "web")
    mirror, nameserver = Mirror(home / "web", (namespace.ORIGIN_4, PRIVATE), issued.context), Nameserver()
    files = f'certificate = "{home}/origin.pem"\nprivate_key = "{home}/origin.key"\n'
    hashed = new_hash("s3cret@word", bytes(16))
    listen = f'http = ["127.0.0.1:3128"]\nhttps = ["127.0.0.1:3129"]\n{files}'
    proxy = _daemon(home, nameserver, "open", listen, "")
    asks = f'[client.credential]\nuser = "agent"\npassword = "{hashed}"'
    guarded = _daemon(home, nameserver, "guarded", 'http = ["127.0.0.1:3130"]', asks)
    yield Stage(nameserver, mirror, proxy, guarded, home, trusting(home))
    for each in (proxy, guarded):
        each.stop()
    mirror.close()
    nameserver.close()


def _daemon(folder: Path, nameserver: Nameserver, name: str, listen: str, credential: str) -> Daemon:
    shutil.copy(POLICIES / "denylist.toml", folder)
    policy, audit, errors = folder / f"{name}.toml", folder / f"{name}.jsonl", folder / f"{name}.errors"
    policy.write_text(f"""\
schema = 1
name = "{name}"
include = ["denylist.toml"]
[listen]
{listen}
[destinations]
default = "allow"
[dns]
servers = ["127.0.0.1:{nameserver.port}"]
[[client]]
name = "agent"
networks = ["127.0.0.0/8"]
{credential}
""")
    for file in (audit, errors):
        file.touch()
    daemon = Daemon(policy, audit, errors)
    daemon.wait_for_start()
    return daemon


def test_every_recipe_is_run_here() -> None:
    assert ROWS.keys() == AGENTS.keys()
    assert EXPORTS.count("\n") == 1


@pytest.mark.parametrize("name", AGENTS)
def test_r3_a_recipe_fetches_through_proxyd_and_a_refusal_reads_as_it_says(stage: Stage, name: str) -> None:
    agent, recipe = AGENTS[name], ROWS[name]
    stage.resolve(namespace.ORIGIN_4)
    served, said = stage.fetch(name, recipe.own, agent.url)
    assert served, said
    assert stage.decided(stage.proxy) >= {(host, "allow", None) for host in agent.hosts}
    assert stage.mirror.reached >= {(namespace.ORIGIN_4, host) for host in agent.hosts}

    stage.resolve(PRIVATE)
    _, said = stage.fetch(name, recipe.own, agent.url)
    assert recipe.refusal in said
    assert stage.decided(stage.proxy) >= {(agent.hosts[0], "deny", "address_denied")}
    assert not stage.mirror.reached


@pytest.mark.parametrize("name", AGENTS)
def test_r3_the_environment_does_what_the_readme_says(stage: Stage, name: str) -> None:
    """In both spellings, in small letters, in capitals; what asks nobody there would have gone around proxyd."""
    stage.resolve(namespace.ORIGIN_4)
    reads, agent = ROWS[name].environment, AGENTS[name]
    always = (reads == "yes",) * 3
    expected = (True, True, False) if reads == "lower case" else always
    assert tuple(stage.served(name, agent.plain, each) for each in SPELLINGS) == expected
    if "`" in reads:
        exports, plain = _helped(agent.plain, reads)
        assert all(stage.served(name, plain, f"{each}\n{exports}") for each in SPELLINGS)


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize(("column", "proxy"), [("credential", CREDENTIAL), ("tls", TLS)], ids=["credential", "tls"])
def test_r2_a_credential_in_the_url_and_tls_are_for_whom_it_says(
    stage: Stage, name: str, column: str, proxy: str
) -> None:
    """A proxyd that asks everybody for a password; and one that speaks TLS."""
    stage.resolve(namespace.ORIGIN_4)
    agent, cell = AGENTS[name], getattr(ROWS[name], column)
    exports, code = _helped(ROWS[name].own, cell) if "`" in cell else ("", ROWS[name].own)
    served, said = stage.fetch(name, code, agent.url, exports, proxy)
    assert served == (cell != "no"), said
    decided = stage.decided(stage.guarded if column == "credential" else stage.proxy)
    assert ({(host, "allow", None) for host in agent.hosts} <= decided) == served
    if "`" in cell:
        assert not stage.fetch(name, ROWS[name].own, agent.url, "", proxy)[0], "it needs no help"


BY_ENVIRONMENT: Final = [name for name, recipe in ROWS.items() if recipe.environment in ("yes", "lower case")]


@pytest.mark.parametrize("name", BY_ENVIRONMENT)
def test_what_no_proxy_names_goes_around(stage: Stage, name: str) -> None:
    around = ",".join(AGENTS[name].hosts)
    assert not stage.served(name, AGENTS[name].plain, f"{EXPORTS}; export no_proxy={around} NO_PROXY={around}")


@pytest.mark.parametrize("name", [name for name in BY_ENVIRONMENT if AGENTS[name].hosts == ("example.com",)])
def test_r5_loopback_goes_around_proxyd_for_whom_it_says(stage: Stage, name: str) -> None:
    """With nothing in no_proxy."""
    stage.resolve(namespace.ORIGIN_4)
    plain, url = (text.replace("example.com", "localhost:8080") for text in (AGENTS[name].plain, AGENTS[name].url))
    assert not stage.fetch(name, plain, url, EXPORTS)[0]
    around = re.findall(r"^- \*\*Loopback\*\*: (.*?) go", SECTION, re.MULTILINE)[0]
    asked = {host for host, _, _ in stage.decided(stage.proxy)}
    assert ("localhost" in asked) == (name not in around.replace(" and ", ", ").split(", "))


def test_r5_chromium_asks_proxyd_for_loopback_as_its_recipe_says(stage: Stage) -> None:
    stage.resolve(namespace.ORIGIN_4)
    stage.fetch("Chromium", ROWS["Chromium"].own.replace("https://example.com/", "http://localhost:8080/"), "")
    assert ("localhost", "deny", "name_denied") in stage.decided(stage.proxy)


def _helped(code: str, cell: str) -> tuple[str, str]:
    """What to export, and the code, where a cell says how: a variable, an option, or other code."""
    helps = _code(cell)
    if helps.startswith("-"):
        return "", f"{code} {helps}"
    return (f"export {helps}", code) if re.match(r"[A-Z_]+=", helps) else ("", helps)
