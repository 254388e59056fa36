"""How long the long tests are, and where their figures go."""

from __future__ import annotations

import os
from typing import Any

#: set by `make test-deep`
DEEP = bool(os.environ.get("CHECKREIN_DEEP"))


def show(capsys: Any, text: str) -> None:
    """A figure for the person who ran the deep tests; in the quick ones it is seen with `pytest -s` only."""
    if DEEP:
        with capsys.disabled():
            print(f"\n  {text}")
    else:
        print(text)
