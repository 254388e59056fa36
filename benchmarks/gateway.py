"""The gateway beside others, in one run: CPU a request, what it adds to the wait, memory; JSON and 20-chunk streams.

Only Checkrein decides, redacts and records durably; the others forward. CPU is user and system time of the process and
its children, divided by their answers; waits on a shared machine are noisy. Each server is pinned to one core, the
upstream and the callers to another, where there are two. `--rivals` adds LiteLLM and Portkey, `--only=NAME` takes one.
At the end callers leave their streams (`leaving`). `--soak` is another run: ten minutes of load (`soak`).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from itertools import product

import aiohttp

from benchmarks import leaving, soak
from benchmarks.contenders import Contender, Start, chosen
from benchmarks.processes import cpu_seconds, free_port, pin, rss_mb, running
from benchmarks.upstream import BODIES

CALLERS = {1: 400, 16: 3200, 64: 6400}
#: a stream is some twenty answers
SHARE = {"json": 1.0, "sse": 0.25}
#: what the wait is compared with, by kind and number of callers
Waits = dict[tuple[str, int], tuple[float, float]]


class Failed(Exception):
    """A contender did not give a whole answer."""


def main() -> None:
    if "--soak" in sys.argv:
        soak.main()
        return
    rivals, only = "--rivals" in sys.argv, _only()
    port = free_port()
    cores = sorted(os.sched_getaffinity(0))
    with running([sys.executable, "-m", "benchmarks.upstream", str(port)], port) as upstream:
        pin(upstream, cores[-1])
        waits: Waits = {}
        print(
            f"{'':>10}{'':>6}{'callers':>8}{'answers':>9}{'CPU ms':>9}{'added p50':>11}{'p99':>8}{'/s':>8}{'RSS MB':>8}"
        )
        for name, start in chosen(rivals=rivals):
            if name in ("direct", *only) or not only:
                _measure(start, port, cores, waits)
    leaving.main()


def _only() -> list[str]:
    return [given.removeprefix("--only=") for given in sys.argv if given.startswith("--only=")]


def _measure(start: Start, upstream: int, cores: list[int], waits: Waits) -> None:
    with start(upstream) as contender:
        if contender.pid:
            pin(contender.pid, cores[0])
        for kind, callers in product(BODIES, CALLERS):
            try:
                _row(contender, kind, callers, waits)
            except Failed as failed:
                print(f"{contender.name:>10}{kind:>6}{callers:>8}  {failed}", flush=True)


def _row(contender: Contender, kind: str, callers: int, waits: Waits) -> None:
    count = max(int(CALLERS[callers] * contender.share * SHARE[kind]), 20)
    asyncio.run(_load(contender, kind, callers, max(count // 10, callers)))
    before = cpu_seconds(contender.pid) if contender.pid else 0.0
    taken, wall = asyncio.run(_load(contender, kind, callers, count))
    cpu_ms = (cpu_seconds(contender.pid) - before) * 1000 / count if contender.pid else 0.0
    taken.sort()
    wait = (statistics.median(taken), taken[int(count * 0.99)])
    p50, p99 = waits.setdefault((kind, callers), wait)
    rss = rss_mb(contender.pid) if contender.pid else 0.0
    print(
        f"{contender.name:>10}{kind:>6}{callers:>8}{count:>9}{cpu_ms:>9.3f}{wait[0] - p50:>11.2f}"
        f"{wait[1] - p99:>8.2f}{count / wall:>8.0f}{rss:>8.0f}",
        flush=True,
    )


async def _load(contender: Contender, kind: str, callers: int, count: int) -> tuple[list[float], float]:
    """Milliseconds of each request, and the wall time in seconds. Every answer must be whole."""
    taken: list[float] = []
    left = iter(range(count))
    headers = {**contender.headers, "content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=callers)
    async with aiohttp.ClientSession(contender.url, connector=connector, headers=headers) as session:

        async def caller() -> None:
            for _ in left:
                begun = time.perf_counter()
                async with session.post("/v1/chat/completions", data=BODIES[kind]) as reply:
                    said = await reply.read()
                    if reply.status != 200 or (kind == "sse" and b"[DONE]" not in said):
                        raise Failed(f"status {reply.status}: {said[-100:]!r}")
                taken.append((time.perf_counter() - begun) * 1000)

        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return taken, time.perf_counter() - begun
