"""What is released: the wheel and the sdist, made as the README says, and run where nothing else is installed.

R8: the policies that one begins with come along. The tests have no way out of their network: what the wheel says it
needs is taken from this environment, and nothing else of it. .ci/run installs from an index.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from packaging.requirements import Requirement

from proxyd import __version__
from tests import namespace
from tests.end_to_end.daemon import Daemon, policy_text, status
from tests.end_to_end.nameserver import Nameserver, Says
from tests.end_to_end.origin import HttpOrigin
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text()
SHARED: Final = {
    **{f"share/proxyd/policies/{file.name}": file for file in (ROOT / "policies").iterdir()},
    "share/bash-completion/completions/proxyd": ROOT / "deploy/completion/proxyd.bash",
    "share/zsh/site-functions/_proxyd": ROOT / "deploy/completion/_proxyd",
    "share/fish/vendor_completions.d/proxyd.fish": ROOT / "deploy/completion/proxyd.fish",
}
"""Where files are found, below the prefix that the wheel is installed to."""


def _run(*words: object, cwd: Path) -> str:
    """What a program says that succeeds."""
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both, the wheel made of the sdist."""
    folder = tmp_path_factory.mktemp("release")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(made: Path) -> Path:
    """The wheel."""
    return made / f"proxyd-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of an environment that has the wheel and what it needs, and not even pip."""
    prefix = tmp_path_factory.mktemp("installed")
    venv.create(prefix, with_pip=False)
    python = prefix / "bin/python"
    alone = ("--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check")
    _run(sys.executable, "-m", "pip", "--python", python, "install", *alone, wheel, cwd=prefix)
    site = next((prefix / "lib").glob("python*/site-packages"))
    for name in _needed(_requirements(wheel)):
        _take_along(importlib.metadata.distribution(name), site)
    _run(sys.executable, "-m", "pip", "--python", python, "check", cwd=prefix)
    return prefix


def _requirements(wheel: Path) -> list[str]:
    (found,) = importlib.metadata.distributions(name="proxyd", path=[str(wheel)])
    return found.requires or []


def _needed(requirements: list[str]) -> set[str]:
    """The distributions that are asked for here, by those too that are."""
    needed, asked = set(), list(requirements)
    while asked:
        requirement = Requirement(asked.pop())
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name not in needed:
            needed.add(requirement.name)
            asked += importlib.metadata.requires(requirement.name) or []
    return needed


def _take_along(found: importlib.metadata.Distribution, site: Path) -> None:
    """The files of a distribution, but for its programs."""
    for file in found.files or []:
        if ".." not in file.parts and file.suffix != ".pyc":
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).write_bytes(Path(str(found.locate_file(file))).read_bytes())


def test_r8_the_wheel_holds_the_package_the_policies_completion_and_nothing_else(wheel: Path) -> None:
    """Byte for byte; schemas, page and py.typed are the package's own files."""
    package = {file for file in (ROOT / "proxyd").rglob("*") if file.is_file() and file.suffix != ".pyc"}
    expected = {str(file.relative_to(ROOT)): file.read_bytes() for file in package}
    expected |= {f"proxyd-{__version__}.data/data/{path}": file.read_bytes() for path, file in SHARED.items()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert held.keys() == expected.keys()
    assert held == expected


def test_the_sdist_holds_what_is_built_and_tested_and_nothing_that_was_made(made: Path) -> None:
    with tarfile.open(made / f"proxyd-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = {name.partition("/")[0] for name in names if "/" in name}
    assert folders == {"proxyd", "policies", "deploy", "tests"}
    files = {name for name in names if "/" not in name}
    assert files == {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert {"tests/deploy/test_release.py", "deploy/completion/_proxyd", "policies/default.toml"} <= names
    assert not [name for name in names if name.endswith(".pyc") or "__pycache__" in name or "results/" in name]


def test_twine_finds_both_good(made: Path) -> None:
    said = _run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *made.iterdir(), cwd=made)
    assert said.count("PASSED") == 2


def test_the_same_sources_make_the_same_wheel(made: Path, wheel: Path, tmp_path: Path) -> None:
    """Who builds it again can compare."""
    source = next(made.glob("*.tar.gz"))
    _run(tool("tar"), "-xzf", source, cwd=tmp_path)
    _run(sys.executable, "-m", "build", "--no-isolation", "--wheel", tmp_path / source.name[:-7], cwd=tmp_path)
    (again,) = tmp_path.glob("*/dist/*.whl")
    assert again.read_bytes() == wheel.read_bytes()


def test_the_version_is_in_one_place(installed: Path) -> None:
    """`proxyd/__init__.py`: all others read it, or are held to it."""
    assert _run(installed / "bin/proxyd", "--version", cwd=installed) == f"proxyd {__version__}\n"
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1:2] in ([], [__version__]), "the newest release of the changelog is another one"
    assert f"proxyd: {__version__} listening on" in README
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()


def test_r8_the_policies_that_it_brings_are_good_where_they_are(installed: Path) -> None:
    policies = sorted((installed / "share/proxyd/policies").glob("*.toml"))
    assert {file.name for file in policies} == {file.name for file in (ROOT / "policies").iterdir()}
    runnable = [file for file in policies if file.name != "denylist.toml"]  # rows, for the others to include
    said = _run(installed / "bin/proxyd", "check", *runnable, cwd=installed)
    assert said.count(": good: ") == len(runnable)


@pytest.fixture
def served(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Daemon, HttpOrigin]]:
    """The installed proxyd, running, and an origin for it. Nothing of this repository is in its way."""
    monkeypatch.setattr(sys, "executable", str(installed / "bin/python"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    nameserver = Nameserver({"origin.test": Says(a=(namespace.origin_4(),))})
    origin = HttpOrigin((namespace.origin_4(),))
    policy, audit, errors = tmp_path / "policy.toml", tmp_path / "audit.jsonl", tmp_path / "errors"
    text = policy_text(nameserver.port, origin.port, ("origin.test",))
    policy.write_text(text.replace("denylist.toml", f"{installed}/share/proxyd/policies/denylist.toml"))
    daemon = Daemon(policy, audit, errors)
    yield daemon, origin
    daemon.stop()
    origin.close()
    nameserver.close()


def test_r3_it_runs_as_installed_and_says_which_version_it_is(
    served: tuple[Daemon, HttpOrigin], installed: Path
) -> None:
    daemon, origin = served
    daemon.wait_for_start()
    (worker,) = daemon.workers()
    assert str(installed) in Path(f"/proc/{worker}/cmdline").read_text()
    assert f"proxyd: {__version__} listening on" in daemon.complaints()
    asked = f"GET http://origin.test:{origin.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert status(daemon.ask(asked.encode())) == 200
    assert status(daemon.ask(b"GET http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) == 403


def test_the_bill_of_materials_names_what_is_installed(wheel: Path, installed: Path, tmp_path: Path) -> None:
    """The README's command, with the environment's path in the place of its own."""
    (command,) = re.findall(r"^cyclonedx-py environment .*$", README, re.MULTILINE)
    words = [str(installed) if word == ".venv" else word for word in command.split()]
    _run(sys.executable, "-m", "cyclonedx_py", *words[1:], cwd=tmp_path)
    bill = json.loads((tmp_path / words[-1]).read_text())
    assert bill["bomFormat"] == "CycloneDX"
    named = {each["name"] for each in bill["components"]} | {
        bill["metadata"].get("component", {}).get("name", "proxyd")
    }
    assert named == {"proxyd"} | {importlib.metadata.distribution(each).name for each in _needed(_requirements(wheel))}
