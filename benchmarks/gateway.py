"""The gateway beside others, in one run: CPU a request, what it adds to the wait, memory; JSON and 20-chunk streams.

Only Checkrein decides, redacts and records durably; the others forward. CPU is user and system time of the process and
its children, divided by their answers; waits on a shared machine are noisy. Each server is pinned to one core, the
upstream and the callers to another, where there are two. `--rivals` adds LiteLLM and Portkey, `--only=NAME` takes one.
After 64 callers that ask as fast as they are answered come as many that ask at half of that rate: below saturation, and
each wait counts from the moment its request was due, whether or not a caller was free by then. The upstream itself is
asked at that rate beside it. At the end callers leave their streams (`leaving`). `--soak` is another run: ten minutes
of load (`soak`).
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
from benchmarks.contenders import Contender, Start, chosen, direct
from benchmarks.processes import cpu_seconds, free_port, pin, rss_mb, running
from benchmarks.upstream import BODIES

CALLERS = {1: 400, 16: 3200, 64: 6400}
#: a stream is some twenty answers
SHARE = {"json": 1.0, "sse": 0.25}
#: of the rate at which that many callers are answered at once, the share at which they ask below saturation
STEADY, HALF = 64, 0.5
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
                rate = _row(contender, kind, callers, waits)
                if contender.pid and callers == STEADY:
                    _steady(contender, kind, upstream, rate * HALF)
            except Failed as failed:
                print(f"{contender.name:>10}{kind:>6}{callers:>8}  {failed}", flush=True)


def _row(contender: Contender, kind: str, callers: int, waits: Waits) -> float:
    """Prints it; returns the answers a second."""
    count = _count(contender, kind, callers)
    asyncio.run(_load(contender, kind, callers, max(count // 10, callers)))
    before = cpu_seconds(contender.pid) if contender.pid else 0.0
    taken, wall = asyncio.run(_load(contender, kind, callers, count))
    cpu_ms = (cpu_seconds(contender.pid) - before) * 1000 / count if contender.pid else 0.0
    wait = _quantiles(taken)
    p50, p99 = waits.setdefault((kind, callers), wait)
    rss = rss_mb(contender.pid) if contender.pid else 0.0
    print(
        f"{contender.name:>10}{kind:>6}{callers:>8}{count:>9}{cpu_ms:>9.3f}{wait[0] - p50:>11.2f}"
        f"{wait[1] - p99:>8.2f}{count / wall:>8.0f}{rss:>8.0f}",
        flush=True,
    )
    return count / wall


def _steady(contender: Contender, kind: str, upstream: int, rate: float) -> None:
    count, said = _count(contender, kind, STEADY), []
    with direct(upstream) as straight:
        for one in (contender, straight):
            p50, p99 = _quantiles(asyncio.run(_load(one, kind, STEADY, count, rate))[0])
            said.append(f"{one.name} p50 {p50:.2f} p99 {p99:.2f}")
    print(f"{contender.name:>10}{kind:>6}{STEADY:>8}{count:>9}  at {rate:.0f}/s, ms: {', '.join(said)}", flush=True)


def _count(contender: Contender, kind: str, callers: int) -> int:
    return max(int(CALLERS[callers] * contender.share * SHARE[kind]), 20)


def _quantiles(taken: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    return statistics.median(taken), sorted(taken)[int(len(taken) * 0.99)]


async def _load(
    contender: Contender, kind: str, callers: int, count: int, rate: float = 0.0
) -> tuple[list[float], float]:
    """Milliseconds of each request, and the wall time in seconds. Every answer must be whole.

    With `rate` so many requests are due a second; else each caller sends the next one as soon as it has its answer.
    """
    taken: list[float] = []
    left = iter(range(count))
    headers = {**contender.headers, "content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=callers)
    async with aiohttp.ClientSession(contender.url, connector=connector, headers=headers) as session:

        async def caller() -> None:
            for number in left:
                due = time.perf_counter()
                if rate:
                    due = begun + number / rate
                    await asyncio.sleep(due - time.perf_counter())
                async with session.post("/v1/chat/completions", data=BODIES[kind]) as reply:
                    said = await reply.read()
                    if reply.status != 200 or (kind == "sse" and b"[DONE]" not in said):
                        raise Failed(f"status {reply.status}: {said[-100:]!r}")
                taken.append((time.perf_counter() - due) * 1000)

        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return taken, time.perf_counter() - begun
