"""The witness: watches what an OpenClaw Gateway really runs, over its WebSocket, without the plugin's help.

It only reads. The gateway shows every tool call of every session, with its end (`sessions.subscribe`); calls of
`/tools/invoke` it does not show.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from checkrein import __version__
from checkrein.connectors.openclaw import seen
from checkrein.services.reconcile import Gateways

#: the gateway's protocol that this was written for
PROTOCOL = 4
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
#: seconds before the connection is tried again, at first and at most
RETRY_S = (0.5, 5.0)
#: how long the gateway may take to let the witness in
ANSWER_S = 20.0

log = logging.getLogger("checkrein.gateways")


class Watched(msgspec.Struct, frozen=True):
    """One gateway: its root address, and its token."""

    name: str
    url: str
    token: str


class Refused(Exception):
    """The gateway did not let the witness in."""


class Observer:
    """While the block runs, every gateway is watched, in a thread of its own."""

    def __init__(self, gateways: Gateways, watched: list[Watched]) -> None:
        self._gateways = gateways
        self._watched = watched
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="checkrein-observer", daemon=True)
        self._work: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        if self._watched:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watched:
            self._loop.call_soon_threadsafe(self._stop)
            self._thread.join()
        self._loop.close()

    def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._work = self._loop.create_task(self._all())
        try:
            self._loop.run_until_complete(self._work)
        except asyncio.CancelledError:
            return

    async def _all(self) -> None:
        await asyncio.gather(*(self._keep_watching(one) for one in self._watched))

    async def _keep_watching(self, one: Watched) -> None:
        pause_s, said = RETRY_S[0], ""
        while True:
            try:
                async with aiohttp.ClientSession(trust_env=False) as session:
                    await self._watch(session, one)
                why = "the gateway ended the connection"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, Refused) as error:
                # the types alone: texts of aiohttp hold addresses and headers
                why = str(error) if isinstance(error, Refused) else type(error).__name__
            if self._gateways.witnessed(one.name, now=False):
                pause_s, said = RETRY_S[0], ""
            if why != said:
                log.warning("gateway `%s` is not watched: %s", one.name, why)
                said = why
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_S[1])

    async def _watch(self, session: aiohttp.ClientSession, one: Watched) -> None:
        """Connect, subscribe, and look until the connection ends."""
        async with session.ws_connect(one.url, max_msg_size=MAX_MESSAGE_BYTES, heartbeat=20) as socket:
            async with asyncio.timeout(ANSWER_S):
                await _event(socket, "connect.challenge")
                await _ask(socket, "connect", _hello(one.token))
                await _ask(socket, "sessions.subscribe", {})
            self._gateways.witnessed(one.name, now=True)
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._look(one.name, msgspec.json.decode(message.data))

    def _look(self, name: str, event: object) -> None:
        found = seen(event)
        if found is None:
            return
        if found.ran is None:
            self._gateways.started(name, found.call)
        else:
            self._gateways.ended(name, found.call, ran=found.ran)


def _hello(token: str) -> dict[str, object]:
    client = {"id": "gateway-client", "version": __version__, "platform": "python", "mode": "backend"}
    return {
        "minProtocol": PROTOCOL,
        "maxProtocol": PROTOCOL,
        "client": client,
        "role": "operator",
        "scopes": ["operator.read"],
        "caps": ["tool-events"],
        "auth": {"token": token},
    }


async def _event(socket: aiohttp.ClientWebSocketResponse, name: str) -> None:
    while (await _next(socket)).get("event") != name:
        pass


async def _ask(socket: aiohttp.ClientWebSocketResponse, method: str, params: dict[str, object]) -> None:
    await socket.send_json({"type": "req", "id": method, "method": method, "params": params})
    while (message := await _next(socket)).get("id") != method:
        pass
    if message.get("ok") is not True:
        raise Refused(f"it refused `{method}`")


async def _next(socket: aiohttp.ClientWebSocketResponse) -> dict[str, object]:
    message = await socket.receive()
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise Refused("it closed the door")
    value = msgspec.json.decode(message.data)
    return value if isinstance(value, dict) else {}
