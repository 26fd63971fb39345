"""The house stands: imports go down only, pure floors stay pure, each module has its own test file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"policy": 1, "http": 2, "audit": 3, "net": 4, "observe": 5, "serve": 6, "cli": 7}
PURE = {"policy", "http"}
IMPURE_IMPORTS = {"trio", "socket", "os", "time", "structlog", "dns", "random", "secrets", "subprocess"}
MODULES = sorted((ROOT / "proxyd").rglob("*.py"))


def named(module: Path) -> str:
    return ".".join(module.relative_to(ROOT).with_suffix("").parts)


def floor_of(name: str) -> int:
    """The floor of a dotted name; the door (proxyd and proxyd.__main__) is above them all."""
    return FLOORS.get(name.split(".")[1], 8) if "." in name else 0


def imports(module: Path) -> list[str]:
    """Every module that a file imports, those for type checking too."""
    found: list[str] = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found.append(node.module or "")
    return found


def test_every_package_has_a_floor() -> None:
    packages = {path.name for path in (ROOT / "proxyd").iterdir() if (path / "__init__.py").exists()}
    assert packages == FLOORS.keys()


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_imports_go_only_down(module: Path) -> None:
    own = floor_of(named(module))
    above = [name for name in imports(module) if name.startswith("proxyd.") and floor_of(name) > own]
    assert above == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.parent.name in PURE], ids=named)
def test_pure_floors_import_nothing_that_reads_the_world(module: Path) -> None:
    assert {name.partition(".")[0] for name in imports(module)} & IMPURE_IMPORTS == set()


def test_no_import_runs_in_a_circle() -> None:
    """What is imported at run time: imports for type checking may look both ways."""
    below = {named(module): _run_time_imports(module) for module in MODULES}
    while leaves := {name for name, needs in below.items() if not needs & below.keys()}:
        below = {name: needs for name, needs in below.items() if name not in leaves}
    assert below == {}


def _run_time_imports(module: Path) -> set[str]:
    tree = ast.parse(module.read_text())
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("proxyd."):
            children = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module or ""} | children
    return found - {named(module)}


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_every_file_opens_with_what_it_is_for(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_a_package_opens_with_a_list_of_its_modules(package: str) -> None:
    """Who is new guesses the right file first time, or finds it there."""
    modules = {module.stem for module in MODULES if module.parent.name == package} - {"__init__", "__main__"}
    said = ast.get_docstring(ast.parse((ROOT / "proxyd" / package / "__init__.py").read_text())) or ""
    assert modules - set(re.findall(r"\w+", said)) == set()


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_every_module_has_its_own_test_file(module: Path) -> None:
    if module.name in ("__init__.py", "__main__.py"):
        return
    mirror = ROOT / "tests" / module.parent.name / f"test_{module.name}"
    assert mirror.exists(), f"write {mirror.relative_to(ROOT)}"


def test_the_supervisor_and_the_commands_do_without_what_only_a_worker_needs() -> None:
    """Ten megabytes and a quarter of a second, for every start and every `check`."""
    heavy = "trio", "dns", "h11"
    code = f"import sys, proxyd.cli; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603 - our own package
    assert said.stdout == "[]\n"
