"""deploy/container: an image without a shell or root, of locked files, that proxyd serves from as its first process.

What an engine would do with it is done here with the kernel's own means, on this system's root; `python -m
tests.deploy.image` builds the image itself and does the same in it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from netaddr import IPAddress, IPNetwork
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proxyd.cli import new_parser
from tests.deploy.containerfile import all_of, stages
from tests.deploy.recipes import DEPLOY, ROOT, documents, finds_good, policy, unsound
from tests.end_to_end.daemon import PATIENCE, ticks
from tests.tools import give_up, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.specifiers import SpecifierSet

FOLDER: Final = DEPLOY / "container"
BUILD, IMAGE = stages(FOLDER / "Containerfile")
ENTRYPOINT, COMMAND, HEALTHCHECK = (all_of(IMAGE, name)[0] for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"))
HEALTH: Final = [str(word) for word in re.findall(r'"([^"]+)"', HEALTHCHECK.value.partition("CMD ")[2])]
POLICY: Final = FOLDER / "policy.toml"
COMPOSE: Final[dict[str, Any]] = documents(FOLDER / "compose.yaml")[0]
PROXY, AGENT = COMPOSE["services"]["proxyd"], COMPOSE["services"]["openclaw"]


def test_hadolint_finds_the_containerfile_good() -> None:
    finds_good("hadolint", FOLDER / "Containerfile")


def test_the_image_needs_no_shell_and_is_not_root() -> None:
    """Nothing runs in its stage, all its commands are in the exec form, and its account is a number."""
    assert not all_of(IMAGE, "RUN") + all_of(IMAGE, "ADD")
    assert ENTRYPOINT.words == ["proxyd"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", all_of(IMAGE, "USER")[0].value)
    assert [each.value for each in all_of(IMAGE, "STOPSIGNAL")] == ["SIGTERM"]


def test_what_the_image_runs_is_a_command_of_proxyd() -> None:
    """Where a mistyped one would only be seen in production."""
    parser = new_parser()
    assert parser.parse_args(COMMAND.words).run_policy == "/etc/proxyd/policy.toml"
    assert HEALTH[0] == "proxyd"
    assert parser.parse_args(HEALTH[1:]).command == "health"


def test_what_is_built_from_is_there_and_not_ignored() -> None:
    """A build context without it fails, or worse: lacks a file."""
    ignored = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
    assert [line for line in ignored if not line.startswith(("#", "!"))] == ["*", "**/__pycache__"]
    seen = [each for line in ignored if line.startswith("!") for each in ROOT.glob(line[1:])]
    for copied in (each.value.split()[:-1] for each in all_of(BUILD, "COPY")):
        assert {ROOT / each for each in copied} <= set(seen)


def test_nothing_is_installed_without_a_hash_that_was_reviewed() -> None:
    """No code of a dependency runs while it is built either: wheels only."""
    commands = " && ".join(each.value for each in all_of(BUILD, "RUN")).split(" && ")
    pip = [each for each in commands if "pip" in each and "-m venv" not in each and "apt-get" not in each]
    assert len(pip) == 4
    for each in pip:
        assert "--no-index --no-deps" in each or "--only-binary :all: --require-hashes" in each


def _locked(name: str) -> dict[str, str]:
    """Project -> version, of a lock; each with hashes and nothing else."""
    text = (FOLDER / name).read_text().replace(" \\\n    ", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+( --hash=sha256:[0-9a-f]{64})+", line), line
    return dict(line.split(" ")[0].split("==") for line in lines)


def _needed(requirements: list[str]) -> dict[str, SpecifierSet]:
    """What these need in turn, as installed here: project -> which versions will do."""
    found: dict[str, SpecifierSet] = {}
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        each = waiting.pop()
        name = canonicalize_name(each.name)
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        if name not in found:
            waiting += map(Requirement, requires(name) or [])
        found[name] = found.get(name, each.specifier) & each.specifier
    return found


def test_the_lock_is_what_proxyd_depends_on_and_nothing_else() -> None:
    """After a change of pyproject.toml: deploy/container/lock.sh."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked, needed = _locked("requirements.lock"), _needed(project["project"]["dependencies"])
    assert locked.keys() == needed.keys()
    assert [name for name, fits in needed.items() if not fits.contains(locked[name])] == []


def test_the_other_lock_has_what_makes_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked = _locked("build.lock")
    for requirement in map(Requirement, project["build-system"]["requires"]):
        assert requirement.specifier.contains(locked[requirement.name])


def test_the_compose_file_is_one() -> None:
    finds_good("check-jsonschema", "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml")


def test_r2_the_agents_network_leads_nowhere_and_only_the_proxy_is_in_another() -> None:
    """No route, no address of the host's in it, nothing published, no door through another namespace."""
    agents = COMPOSE["networks"]["agents"]
    assert agents["internal"] is True
    assert agents["driver_opts"] == {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}
    assert set(AGENT["networks"]) == {"agents"}
    assert set(PROXY["networks"]) == {"agents", "outside"}
    for service in (AGENT, PROXY):
        assert not service.keys() & {"ports", "network_mode", "privileged", "pid", "ipc", "extra_hosts", "devices"}
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


def test_r1_proxyd_listens_where_the_compose_file_puts_it_and_hears_the_agent_alone() -> None:
    """Their addresses are in both files; a mistake in one would be an agent without a way out."""
    served = policy(POLICY)
    here, agent = (each["networks"]["agents"]["ipv4_address"] for each in (PROXY, AGENT))
    (subnet,) = (IPNetwork(each["subnet"]) for each in COMPOSE["networks"]["agents"]["ipam"]["config"])
    assert {IPAddress(here), IPAddress(agent)} <= set(subnet.iter_hosts()) - {subnet[1]}
    assert [str(each) for each in served.listen.endpoints] == [f"{here}:3128"]
    assert [str(network) for client in served.client for network in client.networks] == [f"{agent}/32"]
    urls = {key: value for key, value in AGENT["environment"].items() if key.lower() != "no_proxy"}
    assert set(urls.values()) == {f"http://{here}:3128"}
    assert {"OPENCLAW_PROXY_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} == urls.keys()


def test_r10_the_engine_waits_for_the_drain_and_mounts_what_proxyd_writes() -> None:
    served = policy(POLICY)
    assert PROXY["read_only"] is True
    assert int(PROXY["stop_grace_period"].removesuffix("s")) > served.limits.drain_seconds
    sockets = {served.listen.control, str(served.admin.listen).removeprefix("unix:")}
    assert {str(Path(each).parent) for each in sockets} == {PROXY["tmpfs"][0].partition(":")[0]}
    assert PROXY["volumes"] == [f"./policy.toml:{COMMAND.words[1]}:ro"]
    assert served.audit.to == "stdout"


def test_the_policy_is_sound() -> None:
    """Nothing but remarks, which say what it leaves open on purpose."""
    assert unsound(POLICY) == set()


CONTAINED: Final = """
mount -t tmpfs tmpfs /run
cp "$1" /run/policy.toml
mkdir -m 0700 /run/proxyd
chown 65532:65532 /run/proxyd
mount -o remount,bind,ro /
shift
exec setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs --bounding-set=-all,+dac_read_search \
    --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search "$@"
"""
"""What an engine does to a container, as far as it matters here; its one right is to read where this Python may be."""


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """proxyd as the image starts it: its own first process, on a root that cannot be written to, without privileges."""
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split()[:2] != ["0", "0"]:
        give_up("only root can make what an engine makes: run this as root")
    served = tmp_path / "policy.toml"
    here = {'"172.30.53.2:3128"': '"127.0.0.1:0"', '["172.30.53.3/32"]': '["127.0.0.0/8"]\nusers = [0]'}
    served.write_text(re.sub("|".join(map(re.escape, here)), lambda found: here[found[0]], POLICY.read_text()))
    started = _in_place([*ENTRYPOINT.words, *COMMAND.words])
    command = [tool("unshare"), "--mount", "--pid", "--fork", "--mount-proc"]
    with subprocess.Popen(  # noqa: S603 - our own program
        [*command, tool("sh"), "-euc", CONTAINED, "sh", str(served), *started],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)},
    ) as process:
        first = _first_of(process)
        yield process
        if process.poll() is None:
            os.kill(first, signal.SIGKILL)  # it would not end with its parent


def _first_of(process: subprocess.Popen[str]) -> int:
    """Its PID 1, as it is called here."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return next(int(children.read_text()) for _ in ticks() if children.read_text())


def _in_place(words: list[str]) -> list[str]:
    """The image's words, with what stands here for what is there."""
    here = {"/etc/proxyd/policy.toml": ["/run/policy.toml"], "proxyd": [sys.executable, "-m", "proxyd"]}
    return [place for word in words for place in here.get(word, [word])]


def test_r12_as_the_first_process_it_is_healthy_and_ends_by_sigterm(contained: subprocess.Popen[str]) -> None:
    """PID 1 has no default for SIGTERM: what does not hear it is killed in the end, with its tunnels."""
    said = contained.stderr
    assert said is not None
    assert "listening on 127.0.0.1:" in said.readline()
    first = _first_of(contained)
    status = Path(f"/proc/{first}/status").read_text()
    assert re.search(r"NSpid:\t\d+\t1\n", status)
    assert re.search(r"Uid:\t65532\t65532\t65532\t65532\n", status)
    assert re.search(r"CapEff:\t0*4\n", status)
    root = Path(f"/proc/{first}/mountinfo").read_text()
    assert re.search(r" / / ro[, ]", root)
    inside = [tool("nsenter"), f"--target={first}", "--mount", "--pid"]
    for words in (HEALTH, [*HEALTH, "--alive"]):
        _wait_until_healthy([*inside, *_in_place(words)])
    os.kill(first, signal.SIGTERM)
    records, complaints = contained.communicate(timeout=PATIENCE)
    assert (contained.returncode, complaints) == (0, "")
    assert [json.loads(line)["event"] for line in records.splitlines()] == ["start", "stop"]


def _wait_until_healthy(command: list[str]) -> None:
    """It listens a moment before its worker serves; an engine, too, asks again."""
    for _ in ticks():
        asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
        if (asked.returncode, asked.stdout) == (0, "ok\n"):
            return
    raise AssertionError(asked)
