"""One target under atheris, in a process of its own: `python -m tests.fuzz.guided NAME CORPUS ARGUMENT…`.

The arguments are libFuzzer's. It ends the process itself: with 0 when the time is up, else with the input that broke
the target in a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped] # it has no types


def main(name: str, corpus: str, *arguments: str) -> None:
    """Fuzz, and never return."""
    with atheris.instrument_imports(include=["proxyd", "h11", "tests.fuzz.targets"]):
        from tests.fuzz.target import target  # noqa: PLC0415 - what is imported from here on is instrumented

        found = target(name)
    for number, seed in enumerate(found.seeds.values()):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    known = Path(corpus).with_suffix(".words")
    known.write_text("".join(f'"{_spelt(word)}"\n' for word in (b"\0", *found.words)))
    atheris.Setup([sys.argv[0], corpus, f"-max_len={found.longest}", f"-dict={known}", *arguments], found.attempt)
    atheris.Fuzz()


def _spelt(word: bytes) -> str:
    """A word as libFuzzer's dictionaries have it."""
    return "".join(f"\\x{octet:02x}" for octet in word)


if __name__ == "__main__":
    main(*sys.argv[1:])
