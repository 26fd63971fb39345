"""What a report remembers: exactly what was reached, within bounds, and only a report of ours is believed."""

from __future__ import annotations

import json

import pytest

from proxyd.observe import known as known_module
from proxyd.observe.known import BEGIN, Known, embedded, known_by


def page_of(block: str) -> str:
    """A page with that in it."""
    return f"{BEGIN}<body>\n{block}\n</body>\n</html>\n"


@pytest.mark.parametrize(
    "known",
    [
        Known(),
        Known(frozenset({"a.com:443", "[::1]:80"})),
        Known(frozenset({"a.com:443"}), complete=False),
        Known(frozenset({"</script><script>alert(1)</script>", "<!--", "&lt;", "\u2028", "\ud800", '"', "\\"})),
    ],
)
def test_what_is_embedded_comes_back_and_cannot_end_its_block(known: Known) -> None:
    block = embedded(known)
    assert known_by(page_of(block)) == known
    assert block.count("<") == 2
    assert block.isascii()


ODD: tuple[object, ...] = ([], None, 5, {}, {"destinations": []}, {"destinations": 5}, {"destinations": [[]]})


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<!doctype html>\n<html>\n",
        embedded(Known()),
        BEGIN,
        f" {page_of(embedded(Known()))}",
        *(page_of(f'<script type="application/json" id="known">{json.dumps(document)}</script>') for document in ODD),
        page_of('<script type="application/json" id="known">{"complete":true,"destinations":[5]}</script>'),
        page_of('<script type="application/json" id="known">{"complete":tr</script>'),
        page_of(f'<script type="application/json" id="known">{"[" * 100_000}</script>'),
    ],
)
def test_what_is_no_report_of_ours_is_not_believed(page: str) -> None:
    assert known_by(page) is None


def test_what_is_new_and_what_is_known_after_it() -> None:
    before = Known(frozenset({"a:1", "b:1"}))
    assert before.new(["b:1", "d:1", "c:1", "d:1"]) == ["c:1", "d:1"]
    assert before.and_also(["c:1", "b:1"]) == Known(frozenset({"a:1", "b:1", "c:1"}))


def test_attack_8_names_that_are_made_up_do_not_fill_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was reached now is kept first; that there was no room for the rest is remembered for good."""
    monkeypatch.setattr(known_module, "MOST", 3)
    full = Known(frozenset({"a:1", "b:1"})).and_also(["y:1", "z:1"])
    assert full == Known(frozenset({"a:1", "y:1", "z:1"}), complete=False)
    assert not full.and_also(["a:1"]).complete
    assert len(Known().and_also(f"{number}:1" for number in range(9)).destinations) == 3
