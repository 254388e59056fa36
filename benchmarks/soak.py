"""The gateway under load for minutes: whether its memory stays flat and its CPU the same, minute by minute.

Callers send JSON and streams, and some of them leave theirs in the middle.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import aiohttp

from benchmarks.contenders import Contender, checkrein
from benchmarks.processes import cpu_seconds, free_port, pin, rss_mb, running
from benchmarks.upstream import BODIES

CALLERS = 16
MINUTES = 10
#: of so many requests one is a stream, and of so many streams one is left in the middle
STREAMS, LEAVES = 4, 10


class Reading(NamedTuple):
    """One stretch of the load: milliseconds of CPU and of waiting for a request, and megabytes at its end."""

    answers: int
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    rss_mb: float


def main() -> None:
    print(f"\n{CALLERS} callers for {MINUTES} minutes")
    print(f"{'minute':>8}{'answers':>9}{'CPU ms':>9}{'p50 ms':>8}{'p99':>8}{'RSS MB':>8}")
    for minute, read in enumerate(readings(MINUTES, 60), start=1):
        print(
            f"{minute:>8}{read.answers:>9}{read.cpu_ms:>9.3f}{read.p50_ms:>8.1f}{read.p99_ms:>8.1f}{read.rss_mb:>8.1f}",
            flush=True,
        )


def readings(count: int, seconds: float) -> Iterator[Reading]:
    """So many stretches of so many seconds, one after the other, of one gateway."""
    port, cores = free_port(), sorted(os.sched_getaffinity(0))
    with running([sys.executable, "-m", "benchmarks.upstream", str(port)], port) as upstream, checkrein(port) as ours:
        pin(upstream, cores[-1])
        pin(ours.pid, cores[0])
        for _ in range(count):
            before = cpu_seconds(ours.pid)
            taken = sorted(asyncio.run(_load(ours, time.monotonic() + seconds)))
            cpu_ms = (cpu_seconds(ours.pid) - before) * 1000 / len(taken)
            p99_ms = taken[int(len(taken) * 0.99)]
            yield Reading(len(taken), cpu_ms, statistics.median(taken), p99_ms, rss_mb(ours.pid))


async def _load(contender: Contender, until: float) -> list[float]:
    """Milliseconds of each request."""
    taken: list[float] = []
    numbers = itertools.takewhile(lambda _: time.monotonic() < until, itertools.count())
    headers = {**contender.headers, "content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=CALLERS)
    async with aiohttp.ClientSession(contender.url, connector=connector, headers=headers) as session:
        await asyncio.gather(*(_caller(session, numbers, taken) for _ in range(CALLERS)))
    return taken


async def _caller(session: aiohttp.ClientSession, numbers: Iterator[int], taken: list[float]) -> None:
    for number in numbers:
        begun = time.perf_counter()
        kind = "json" if number % STREAMS else "sse"
        async with session.post("/v1/chat/completions", data=BODIES[kind]) as reply:
            reply.raise_for_status()
            if kind == "sse" and number % (STREAMS * LEAVES) == 0:
                await reply.content.readany()
                reply.close()
            else:
                await reply.read()
        taken.append((time.perf_counter() - begun) * 1000)
