"""What the page on redaction shows is executed."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/redaction.md").read_text()


def test_the_snippets_of_the_page_run():
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "docs/redaction.md", "exec"), {})  # noqa: S102 - our own page
