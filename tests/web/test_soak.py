"""The gateway under load for a while: its memory stays what it was.

`python -m benchmarks gateway --soak` is the same for ten minutes, with what it costs.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from benchmarks.soak import readings

from crash.figures import show

SECONDS = float(os.environ.get("CHECKREIN_SOAK_SECONDS", "75"))
STRETCHES = 15
MOST_MB = 150
#: what pools and caches may still take when two thirds are over: of some 18,000 requests, 170 bytes each
GROWTH_MB = 3


@pytest.mark.deep
@pytest.mark.timeout(SECONDS + 240)
def test_memory_is_flat_under_load(capsys: pytest.CaptureFixture[str]) -> None:
    read: list[Any] = list(readings(STRETCHES, SECONDS / STRETCHES))
    rss = [one.rss_mb for one in read]
    show(
        capsys,
        f"{sum(one.answers for one in read):,} answers, RSS {rss[0]:.1f} to {rss[-1]:.1f} MB, most {max(rss):.1f}",
    )
    assert max(rss) < MOST_MB
    second, last = rss[STRETCHES // 3 : 2 * STRETCHES // 3], rss[2 * STRETCHES // 3 :]
    assert max(last) - max(second) < GROWTH_MB
