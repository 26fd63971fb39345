"""The JSON Schema of a policy file, generated from `model`, so that editors complete and check policies.

`python -m proxyd.policy.schema` prints it; `policy.schema.json` beside this file is that output, and a test
holds the two together. No rule lives here.
"""

from __future__ import annotations

import json
from typing import Any

from proxyd.policy.model import Policy
from proxyd.policy.shape import Table


def policy_schema() -> dict[str, Any]:
    """The schema of a whole policy file (an included file is held to its rows only)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "proxyd policy",
        **Table(Policy).schema(),
    }


def rendered() -> str:
    """The schema as the file beside this one spells it."""
    return json.dumps(policy_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(rendered(), end="")  # noqa: T201 - that is what the command is for
