from __future__ import annotations

from pathlib import Path

from checkrein.flow.diagram import page

ROOT = Path(__file__).parents[2]


def test_the_diagrams_are_drawn_from_the_tables():
    assert (ROOT / "docs/flow.md").read_text() == page(), "run `make docs`"
