"""A Containerfile, read as its builders read it (Dockerfile reference): stages, and their instructions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_INSTRUCTION: Final = re.compile(r"([A-Z]+) (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of them, its lines joined."""

    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """Its exec form. Raises ValueError where it is in the shell form, for which an image needs a shell."""
        return [str(word) for word in json.loads(self.value.removeprefix("CMD "))]


def stages(path: Path) -> list[list[Instruction]]:
    """The instructions of each stage, from its FROM on."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    found: list[list[Instruction]] = []
    for text in re.split(r"(?<!\\)\n", "\n".join(lines)):
        if (match := _INSTRUCTION.fullmatch(re.sub(r"\\\n\s*", "", text))) is None:
            raise ValueError(f"no instruction: {text}")
        if match[1] == "FROM":
            found.append([])
        found[-1].append(Instruction(match[1], match[2]))
    return found


def all_of(stage: list[Instruction], name: str) -> list[Instruction]:
    """Those of one name."""
    return [each for each in stage if each.name == name]
