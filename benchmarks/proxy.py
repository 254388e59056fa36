"""CPU a request of the proxy, governed and durably recorded, at 1, 16 and 64 callers.

Beside it, in the same run, the same upstream called directly by the same client. CPU is user and system time of
the `checkrein serve` process divided by its answers; wall times on a shared machine are noisy.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from checkrein.compose import open_system
from checkrein.defaults import write

CALLERS = {1: 400, 16: 3200, 64: 6400}
BODY = json.dumps(
    {
        "model": "bench",
        "messages": [
            {"role": "system", "content": "You help the finance team. " * 16},
            {"role": "user", "content": "Draft a note that asks for confirmation of the Q1 cloud budget. " * 6},
        ],
    }
).encode()
START_S = 30.0


def main() -> None:
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp) / "governance"
        write(folder)
        upstream_port, port = free_port(), free_port()
        config = folder / "checkrein.toml"
        config.write_text(
            config.read_text() + f'\n[upstreams.bench]\nbase_url = "http://127.0.0.1:{upstream_port}/v1"\n'
        )
        system = open_system(folder)
        _, secret = system.keys.create("bench", owner="bench", roles=("staff",), by="benchmark")
        system.close()
        command = [sys.executable, "-m", "checkrein", "serve", "--dir", str(folder), "--port", str(port)]
        with (
            running([sys.executable, "-m", "benchmarks.upstream", str(upstream_port)], upstream_port),
            running(command, port) as pid,
        ):
            asyncio.run(_measure(upstream_port, port, secret, pid))


async def _measure(upstream_port: int, port: int, secret: str, pid: int) -> None:
    path = "/v1/chat/completions"
    print(
        f"{'callers':>8}{'requests':>10}{'CPU ms':>9}{'p50 ms':>9}{'p99 ms':>9}{'/s':>8}{'direct p50':>12}{'RSS MB':>8}"
    )
    for callers, count in CALLERS.items():
        await _load(f"http://127.0.0.1:{port}{path}", secret, callers, count // 10)
        direct, _ = await _load(f"http://127.0.0.1:{upstream_port}{path}", secret, callers, count)
        before = cpu_seconds(pid)
        taken, wall = await _load(f"http://127.0.0.1:{port}{path}", secret, callers, count)
        cpu_ms = (cpu_seconds(pid) - before) * 1000 / count
        taken.sort()
        print(
            f"{callers:>8}{count:>10}{cpu_ms:>9.3f}{statistics.median(taken):>9.2f}{taken[int(count * 0.99)]:>9.2f}"
            f"{count / wall:>8.0f}{statistics.median(direct):>12.2f}{rss_mb(pid):>8.0f}"
        )


async def _load(url: str, secret: str, callers: int, count: int) -> tuple[list[float], float]:
    """Milliseconds of each request, and the wall time in seconds. Every answer must be 200."""
    taken: list[float] = []
    left = iter(range(count))
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=callers)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def caller() -> None:
            for _ in left:
                begun = time.perf_counter()
                async with session.post(url, data=BODY) as reply:
                    await reply.read()
                    if reply.status != 200:
                        raise RuntimeError(f"status {reply.status}: {await reply.text()}")
                taken.append((time.perf_counter() - begun) * 1000)

        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return taken, time.perf_counter() - begun


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    """A server process that listens; ended at the end."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"`{' '.join(command)}` does not listen") from None
                time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=20)
