"""Each module is covered, lines and branches, by its own test file: a number over all files would hide a gap.

Run after `pytest --cov`; it reads what that wrote, and fails for a module that is not at 100 %. What no module has for
its own is not measured, and what is measured is noted by file and not by test: both save time.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import coverage

ROOT = Path(__file__).parents[1]
PACKAGES = {each.name for each in (ROOT / "proxyd").iterdir() if each.is_dir()}


class Notes:
    """Notes of each line that is reached which test file reached it, where coverage is measured."""

    def __init__(self) -> None:
        self._measured: coverage.Coverage | None = None
        self._file = ""

    def turn_to(self, file: str) -> None:
        """This is the one from now on."""
        self._measured = self._measured or coverage.Coverage.current()  # which is nobody while it is stopped
        if self._measured is None or file == self._file:
            return
        self._file = file
        self._measured.stop()
        if Path(file).parent.name in PACKAGES:
            self._measured.start()
            self._measured.switch_context(file)


def main() -> int:
    """Print what each module lacks; 1 if any lacks something."""
    data = coverage.Coverage(config_file=str(ROOT / "pyproject.toml"))
    data.load()
    gaps = 0
    for module in sorted((ROOT / "proxyd").rglob("*.py")):
        own = _own_test(module)
        report = io.StringIO()
        # What runs at import runs in no test: it counts for every test file.
        total = data.report(include=[str(module)], contexts=["^$", f"^{own}$"], file=report, show_missing=True)
        if total < 100:
            gaps += 1
            print(f"{module.relative_to(ROOT)} by {own}:\n{report.getvalue()}")  # noqa: T201 - the point of the command
    print(f"{gaps} modules are not covered by their own tests")  # noqa: T201
    return 1 if gaps else 0


def _own_test(module: Path) -> str:
    package = module.parent.name
    if module.name == "__init__.py" or module == ROOT / "proxyd" / "__main__.py":
        return "tests/cli/test_cli(_on_[a-z]+)?.py"
    return f"tests/{package}/test_{module.stem.replace('__', '')}(_on_[a-z]+)?.py"  # "…_on_sockets": the same, for real


if __name__ == "__main__":
    sys.exit(main())
