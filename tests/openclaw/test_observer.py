"""The witness on the gateway's WebSocket, with a stand-in for the gateway: a fake that speaks its protocol."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from checkrein.connectors.openclaw import seen
from checkrein.connectors.openclaw_observer import Observer, Watched
from checkrein.services.reconcile import Call, Gateways, Terms
from checkrein.storage.memory import MemoryStore

TOKEN = "token-of-the-gateway"


class Clock:
    def now_us(self) -> int:
        return time.time_ns() // 1000


class FakeGateway:
    """Lets in whoever knows the token, and shows what it is told to. `connections` counts who came."""

    def __init__(self) -> None:
        self.connections = 0
        self.url = ""
        self._sockets: list[web.WebSocketResponse] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FakeGateway:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def show(self, data: dict[str, Any], event: str = "session.tool") -> None:
        told = json.dumps({"type": "event", "event": event, "payload": {"runId": "run-1", "data": data}})
        asyncio.run_coroutine_threadsafe(self._sockets[-1].send_str(told), self._loop).result(10)

    def drop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._sockets[-1].close(), self._loop).result(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        self.connections += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n"}})
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            asked = json.loads(message.data)
            fine = asked["method"] != "connect" or asked["params"]["auth"]["token"] == TOKEN
            if asked["method"] == "sessions.subscribe":
                self._sockets.append(socket)
            await socket.send_json({"type": "event", "event": "tick"})
            await socket.send_json({"type": "res", "id": asked["id"], "ok": fine})
        return socket


@pytest.fixture
def claw() -> Iterator[FakeGateway]:
    with FakeGateway() as running:
        yield running


@pytest.fixture
def gateways() -> Gateways:
    return Gateways(MemoryStore(Clock()), Clock(), {"claw": Terms(heartbeat_s=0, witness_s=60, quarantine=True)})


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def watching(claw: FakeGateway, gateways: Gateways, token: str = TOKEN) -> Observer:
    return Observer(gateways, [Watched("claw", claw.url, token)])


def test_a_call_that_nobody_decided_is_found(claw: FakeGateway, gateways: Gateways) -> None:
    with watching(claw, gateways):
        until(lambda: gateways.is_witnessed("claw"))
        claw.show({"phase": "start", "toolCallId": "call_1", "name": "exec", "args": {}})
        claw.show({"phase": "update", "toolCallId": "call_1", "name": "exec"})
        claw.show({"phase": "result", "toolCallId": "call_1", "name": "exec", "isError": False, "result": {}})
        until(lambda: gateways.refusal("claw"))
    gateways.tick()
    assert gateways.stand("claw").ungoverned == 1


def test_a_connection_that_breaks_is_made_again(claw: FakeGateway, gateways: Gateways) -> None:
    with watching(claw, gateways):
        until(lambda: gateways.is_witnessed("claw"))
        claw.drop()
        until(lambda: claw.connections == 2 and gateways.is_witnessed("claw"))


def test_a_gateway_that_does_not_let_the_witness_in_is_told_without_the_token(
    claw: FakeGateway, gateways: Gateways, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), watching(claw, gateways, "another-token"):
        until(lambda: claw.connections >= 2)
    assert not gateways.is_witnessed("claw")
    assert "gateway `claw` is not watched: it refused `connect`" in caplog.text
    assert "another-token" not in caplog.text
    assert "gateway `claw` is not watched" in list(gateways.warnings())


def test_a_gateway_that_is_not_there_is_waited_for(claw: FakeGateway, gateways: Gateways) -> None:
    with Observer(gateways, [Watched("claw", "http://127.0.0.1:1", TOKEN)]):
        assert not gateways.is_witnessed("claw")


BLOCKED = {"details": {"status": "blocked", "deniedReason": "plugin-before-tool-call"}}


@pytest.mark.parametrize(
    ("data", "ran"),
    [
        ({"phase": "start"}, None),
        ({"phase": "result", "isError": False, "result": {"details": []}}, True),
        ({"phase": "result", "isError": True, "result": {}}, True),
        ({"phase": "result", "isError": True, "result": BLOCKED}, False),
        ({"phase": "result", "isError": False, "result": BLOCKED}, True),
        ({"phase": "result", "isError": True, "result": {"details": {"status": "blocked"}}}, True),
    ],
)
def test_only_the_gateway_itself_can_say_that_a_call_was_stopped(data: dict[str, Any], ran: bool | None) -> None:
    payload = {"runId": "run-1", "data": {"toolCallId": "call_1", "name": "read", **data}}
    found = seen({"type": "event", "event": "session.tool", "payload": payload})
    assert found is not None
    assert (found.call, found.ran) == (Call(run="run-1", call="call_1", tool="read"), ran)


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        {"event": "agent"},
        {"event": "session.tool"},
        {"event": "session.tool", "payload": {"data": {"phase": "start"}}},
        {"event": "session.tool", "payload": {"data": {"phase": "update", "name": "exec", "toolCallId": "c"}}},
    ],
)
def test_every_other_event_shows_nothing(event: object) -> None:
    assert seen(event) is None
