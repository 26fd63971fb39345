"""A deployment as an operator ought to make it, for tests that plant trouble in it: nothing about it is to be mended.

The policy is root's, proxyd runs as an account of its own, the agent as another, and a rule of the kernel lets none but
proxyd's out. Root makes all that, in the tests' own network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from proxyd.policy.password import SALT_OCTETS, new_hash
from proxyd.serve.control import ask_status
from tests import namespace
from tests.end_to_end.daemon import PATIENCE, ticks
from tests.tools import free_port, give_up, tool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

AGENTS_UID: Final = 65534  # nobody
OURS: Final = 40_003
PASSWORD: Final = "planted-to-be-looked-for"  # noqa: S105
HASH: Final = str(new_hash(PASSWORD, b"s" * SALT_OCTETS))
POLICIES: Final = Path(__file__).parents[2] / "policies"

POLICY: Final = """\
schema = 1
name = "sound"
include = ["denylist.toml"]

[listen]
http = ["127.0.0.1:{port}"]
control = "{folder}/run/control"

[destinations]
default = "deny"
mode = "enforce"                        # and not "report"

[dns]
servers = ["127.0.0.1:5353"]

[audit]
to = "{folder}/log/audit.jsonl"

[limits]
tunnels = 1000

[[client]]
name = "agent"
users = ["nobody"]
[client.limits]
requests_per_second = 2000
tunnels = 100

[[allow]]
hosts = ["api.example.com"]
ports = [443]
reason = "its model provider"

[[test]]
url = "http://169.254.169.254/"
expect = "deny"
"""
RULES: Final = """\
table inet deployment {{
  chain out {{
    type filter hook output priority 0; policy drop;
    oifname "lo" accept
    meta skuid {ours} accept
  }}
}}
"""


@dataclass
class Deployment:
    """One on this host. Trouble is planted in its files, or in its policy's text."""

    folder: Path
    port: int = field(init=False)
    policy: Path = field(init=False)
    log: Path = field(init=False)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        self.port = free_port()
        self.policy, self.log = self.folder / "policy.toml", self.folder / "log" / "audit.jsonl"
        self.policy.write_text(POLICY.format(folder=self.folder, port=self.port))
        shutil.copy(POLICIES / "denylist.toml", self.folder)
        for file in (self.policy, self.folder / "denylist.toml"):
            file.chmod(0o644)
        for name, mode in (("log", 0o750), ("run", 0o755)):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(mode)
            os.chown(self.folder / name, OURS, OURS)
        self.log.touch(0o640)
        os.chown(self.log, OURS, OURS)
        self.lock()

    @property
    def control(self) -> str:
        """Where it is asked what runs."""
        return f"{self.folder}/run/control"

    @property
    def text(self) -> str:
        """What the policy says."""
        return self.policy.read_text()

    def change(self, before: str, after: str) -> None:
        """Have the policy say something else; it is the same file."""
        assert before in self.text
        self.policy.write_text(self.text.replace(before, after))

    def add(self, more: str) -> None:
        """Have the policy say more."""
        self.policy.write_text(f"{self.text}\n{more}\n")

    def lock(self) -> None:
        """Let nobody but proxyd's account out."""
        self.unlock()
        _nft("-f", "-", rules=RULES.format(ours=OURS))

    def unlock(self) -> None:
        """Let everybody out."""
        _nft("add", "table", "inet", "deployment")
        _nft("delete", "table", "inet", "deployment")

    def start(self, account: int = OURS) -> None:
        """Run proxyd as this account."""
        run = [*as_account(account), sys.executable, "-m", "proxyd", "--policy", str(self.policy)]
        errors = self.folder / "errors"
        with errors.open("wb") as stderr:
            self._processes.append(subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=stderr))  # noqa: S603 - our own program
        for _ in ticks():
            if self._processes[-1].poll() is not None:
                break
            with suppress(OSError):
                status = ask_status(self.control)
                if status.serving == status.workers:
                    return
        raise AssertionError(errors.read_text())

    def stop(self) -> None:
        """End what runs, and let everybody out."""
        for process in self._processes:
            process.terminate()
            process.wait(PATIENCE)
        self.unlock()


def as_account(account: int) -> list[str]:
    """The words by which setpriv(1) runs a program as this account; any but root may read what is in root's home."""
    reads = [f"--{which}=-all,+dac_read_search" for which in ("bounding-set", "inh-caps", "ambient-caps")]
    return [tool("setpriv"), f"--reuid={account}", f"--regid={account}", "--clear-groups", *reads] if account else []


def _nft(*words: str, rules: str = "") -> None:
    """Run nft(8)."""
    command = [tool("nft"), *words]
    subprocess.run(command, input=rules, text=True, check=True, capture_output=True)  # noqa: S603 - a fixed program


@pytest.fixture
def sound() -> Iterator[Deployment]:
    """A deployment without trouble, where other accounts get to as far as its modes let them."""
    if not namespace.isolated:
        give_up("a rule of the kernel is made, and this is not a network of the tests' own")
    folder = Path(tempfile.mkdtemp(prefix="proxyd-audit-"))
    deployment = Deployment(folder)
    yield deployment
    deployment.stop()
    shutil.rmtree(folder)


def command(
    *arguments: str, account: int = 0, within: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `proxyd audit` to its end. within: a program that runs it."""
    full = [*within, *as_account(account), sys.executable, "-m", "proxyd", "audit", *arguments]
    done = subprocess.run(full, capture_output=True, text=True, check=False, timeout=120, env=env)  # noqa: S603 - our own program
    assert "Traceback" not in done.stderr, done.stderr
    return done


def audited(deployment: Deployment, *more: str) -> tuple[int, list[str], dict[str, Any]]:
    """The exit status, the ids of what is found, and everything that a program is told."""
    done = command("--policy", str(deployment.policy), "--json", *more)
    told = json.loads(done.stdout)
    return done.returncode, [each["id"] for each in told.get("findings", [])], told
