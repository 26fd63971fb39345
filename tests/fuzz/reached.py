"""What a corpus reaches of what it was made for, as JSON: `python -m tests.fuzz.reached NAME CORPUS`.

outcomes: how many inputs came to what. lines and branches: of the modules that the target is about, how many were
reached, and of how many. A process of its own: it must measure from the first import on.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import coverage

from tests.fuzz.target import target


def main(name: str, corpus: str) -> None:
    """Play the corpus, and print what it reached."""
    meter = coverage.Coverage(branch=True, config_file=False, data_file=None)
    meter.start()
    found = target(name)
    outcomes = Counter(found.attempt(each.read_bytes()) for each in sorted(Path(corpus).iterdir()))
    meter.stop()
    with tempfile.TemporaryDirectory() as folder:
        meter.json_report(outfile=f"{folder}/json", include=[_file_of(module) for module in found.about])
        totals = json.loads(Path(folder, "json").read_text())["totals"]
    json.dump(
        {
            "outcomes": outcomes,
            "lines": [totals["covered_lines"], totals["num_statements"]],
            "branches": [totals["covered_branches"], totals["num_branches"]],
        },
        sys.stdout,
    )


def _file_of(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None, module
    return str(spec.origin)


if __name__ == "__main__":
    main(*sys.argv[1:])
