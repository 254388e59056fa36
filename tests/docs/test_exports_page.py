from __future__ import annotations

from pathlib import Path

from checkrein.services.mapping import page

ROOT = Path(__file__).parents[2]


def test_the_export_tables_are_drawn_from_the_mapping():
    assert (ROOT / "docs/exports.md").read_text() == page(), "run `make docs`"
