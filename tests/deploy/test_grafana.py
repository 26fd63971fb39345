"""The dashboard: every expression of it goes through promtool, asks for what there is, and every panel is explained."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.deploy.exposed import DASHBOARD, misspelt, promtool

if TYPE_CHECKING:
    from pathlib import Path

BOARD: Final[dict[str, Any]] = json.loads(DASHBOARD.read_text())
PANELS: Final = {panel["title"]: panel for panel in BOARD["panels"] if panel["type"] != "row"}
VARIABLES: Final = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
EXPRESSIONS: Final[dict[str, str]] = {
    f"{title} {target['refId']}": target["expr"] for title, panel in PANELS.items() for target in panel["targets"]
} | {each["name"]: each["expr"] for each in BOARD["annotations"]["list"] if "expr" in each}
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
WIDTH: Final = 24

BUILT_IN: Final = {"__rate_interval": "1m", "__range": "6h"}
"""Grafana's own variables, and what they could be."""


def substituted(expression: str) -> str:
    """As Grafana would ask it when all instances and clients are chosen."""
    chosen = BUILT_IN | {name: variable.get("allValue", "") for name, variable in VARIABLES.items()}
    return re.sub(r"\$(\w+)", lambda found: chosen[found[1]], expression)


def test_promtool_finds_every_expression_good(tmp_path: Path) -> None:
    """Those of the variables are of Grafana's own kind, around a selector."""
    selectors = {
        name: re.sub(r"label_values\((.*), \w+\)", r"\1", variable["definition"])
        for name, variable in VARIABLES.items()
        if variable["type"] == "query"
    }
    rules = [
        {"record": f"panel:{number}", "expr": substituted(expression)}
        for number, expression in enumerate((EXPRESSIONS | selectors).values())
    ]
    assert len(rules) > len(PANELS) > 20
    file = tmp_path / "panels.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_everything_that_is_asked_for_is_exposed(where: str) -> None:
    assert misspelt(EXPRESSIONS[where]) == []


def test_the_variables_ask_for_what_is_exposed() -> None:
    asked = {name: variable["definition"] for name, variable in VARIABLES.items() if variable["type"] == "query"}
    assert asked == {
        "instance": "label_values(proxyd_build_info, instance)",
        "client": 'label_values(proxyd_open{instance=~"$instance"}, client)',
    }
    assert misspelt("".join(asked.values()) + 'proxyd_open{client=""}') == []


def test_every_variable_that_is_used_is_declared() -> None:
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text()))
    assert used <= VARIABLES.keys() | BUILT_IN.keys() | {"__all"}


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_says_what_it_shows_and_in_which_unit(title: str) -> None:
    panel = PANELS[title]
    assert len(panel["description"]) > 15
    assert panel["datasource"] == SOURCE
    assert all(target["datasource"] == SOURCE for target in panel["targets"])
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["type"] == "table" or (defaults["unit"] and all(target["legendFormat"] for target in panel["targets"]))
    assert defaults["thresholds"]["steps"][0]["value"] is None


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_listens_to_the_variables(title: str) -> None:
    """A client where there is one, and an instance everywhere."""
    for target in PANELS[title]["targets"]:
        asked = re.findall(r"(?:proxyd_\w+|\bup)\{([^}]*)\}", target["expr"])
        assert asked
        assert all('instance=~"$instance"' in each for each in asked)


def test_a_quantity_of_clients_can_be_narrowed_to_some() -> None:
    for where, expression in EXPRESSIONS.items():
        for labels in re.findall(r"proxyd_(?:decisions_total|requests_total|bytes_total|open)\{([^}]*)\}", expression):
            assert 'client=~"$client"' in labels, where


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= WIDTH
        taken |= cells


def test_it_can_be_imported_as_it_is() -> None:
    """By Grafana 10 and later: no id of another Grafana, and no source of data but the one that is chosen there."""
    assert BOARD["id"] is None
    assert BOARD["schemaVersion"] >= 38
    identifiers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    assert len(PANELS) + sum(panel["type"] == "row" for panel in BOARD["panels"]) == len(identifiers)
    assert VARIABLES["datasource"]["query"] == "prometheus"
