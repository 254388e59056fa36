"""How long a model goes on after its caller has left: from the caller's close to the close of the upstream connection.

The upstream stands in this process, so that one clock times both ends. It begins a stream, and then says either nothing
more, so that only the caller's own connection tells that nobody listens, or a few words every few milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import re
import time

from benchmarks.contenders import Contender, checkrein
from benchmarks.upstream import STREAM

#: streams that are left, and how many are open at a time
LEFT, OPEN = 1_000, 16
PAUSE_S = 0.005
#: an upstream call that lives longer goes on for ever
PATIENCE_S = 5.0
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MARK = re.compile(rb"stream number (\d+)\.")


class _Upstream(asyncio.Protocol):
    """One connection to the model; `gone` hears the number of its stream once it is closed."""

    def __init__(self, gone: dict[int, asyncio.Future[float]], *, talks: bool) -> None:
        self._gone, self._talks = gone, talks
        self._asked = b""
        self._number = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._asked += data
        if found := _MARK.search(self._asked):
            self._number, self._asked = int(found[1]), b""
            self._transport.write(_HEAD)
            self._say(STREAM[0])

    def _say(self, event: bytes = STREAM[1]) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            if self._talks:
                asyncio.get_running_loop().call_later(PAUSE_S, self._say)

    def connection_lost(self, exc: Exception | None) -> None:
        waiting = self._gone.get(self._number)
        if waiting is not None and not waiting.done():
            waiting.set_result(time.perf_counter())


class _Caller(asyncio.Protocol):
    """Asks for a stream and hears its first event."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._said = b""
        self.heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._said += data
        if b"data:" in self._said and not self.heard.done():
            self.heard.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.heard.done():
            self.heard.set_exception(ConnectionError(self._said[-200:]))


def main() -> None:
    print(f"\n{LEFT} callers leave their streams, {OPEN} at a time: milliseconds until the upstream call is closed")
    for what, talks in (("silent", False), ("talking", True)):
        asyncio.run(_measured(what, talks=talks))


async def _measured(what: str, *, talks: bool) -> None:
    gone: dict[int, asyncio.Future[float]] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Upstream(gone, talks=talks), "127.0.0.1")
    taken: list[float] = []
    with checkrein(server.sockets[0].getsockname()[1]) as contender:
        numbers = iter(range(1, LEFT + 1))

        async def callers() -> None:
            for number in numbers:
                gone[number] = loop.create_future()
                left = await _leave(contender, number)
                taken.append((await asyncio.wait_for(gone[number], PATIENCE_S) - left) * 1000)

        await asyncio.gather(*(callers() for _ in range(OPEN)))
    server.close()
    taken.sort()
    print(f"{what:>10}  p50 {taken[LEFT // 2]:.1f}  p99 {taken[int(LEFT * 0.99)]:.1f}  max {taken[-1]:.1f}", flush=True)


async def _leave(contender: Contender, number: int) -> float:
    """Ask for a stream, hear its first event and go; when that was."""
    prompt = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": f"stream number {number}."}]}
    body = json.dumps(prompt).encode()
    where = contender.url.removeprefix("http://")
    headers = {"host": where, "content-type": "application/json", "content-length": len(body), **contender.headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + body
    host, _, port = where.partition(":")
    transport, caller = await asyncio.get_running_loop().create_connection(lambda: _Caller(request), host, int(port))
    await asyncio.wait_for(caller.heard, PATIENCE_S)
    transport.close()
    return time.perf_counter()
