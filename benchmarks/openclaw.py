"""What the plugin adds to one tool call of a real OpenClaw Gateway: the same turns, guard off and on, interleaved.

Both go straight to the gateway, so that what differs is the plugin alone: its question over HTTP, the decision, the
durable record. A third kind goes through Checkrein, as callers do. The model is a stand-in (a fake) that asks for the
same tool a number of times and then stops; the tool is `ls` on a small folder.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.connectors.openclaw_home import Folder, Home
from checkrein.connectors.openclaw_process import GatewayProcess
from checkrein.connectors.openclaw_runtime import find
from checkrein.model import Permission
from checkrein.ports import RecordQuery
from checkrein.web.server import BackgroundServer

CALLS = 20
ROUNDS = 10
MODEL = "bench-model"
POLICIES = '@id("all") permit (principal, action, resource);\n'
TOOLS = "tools:\n  ls:\n    effects: [read]\n    input: {path: string}\n"


def main() -> None:
    runtime = find(tell=print)
    with tempfile.TemporaryDirectory() as root, _stage(Path(root), runtime.node, runtime.entry) as stage:
        stage.turn(direct=False)  # the first turn takes the gateway long
        took: dict[str, list[float]] = {"off": [], "on": [], "through": []}
        for _ in range(ROUNDS):
            stage.switch(on=False)
            took["off"].append(stage.turn(direct=True))
            stage.switch(on=True)
            took["on"].append(stage.turn(direct=True))
            took["through"].append(stage.turn(direct=False))
        decided = stage.decisions()
    print(f"{ROUNDS} turns of {CALLS} `ls` calls each, off and on in turn; {decided} calls decided and reported")
    base = statistics.median(took["off"])
    for name, what in (("off", "plugin off"), ("on", "plugin on"), ("through", "on, and through Checkrein")):
        middle = statistics.median(took[name])
        spread = f"{min(took[name]):.1f} to {max(took[name]):.1f}"
        print(f"  {what:26} {middle:7.1f} ms a call ({spread}), {middle - base:+6.1f} ms, ratio {middle / base:.2f}")


class _Stage:
    def __init__(self, system: System, folder: Folder, url: str, gateway: str, key: str) -> None:
        self._system, self._folder, self._url, self._gateway, self._key = system, folder, url, gateway, key

    def turn(self, *, direct: bool) -> float:
        """Milliseconds for each tool call of one turn."""
        address, key = (self._gateway, self._folder.token()) if direct else (self._url, self._key)
        body = {"model": "openclaw/default", "messages": [{"role": "user", "content": "read it"}]}
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310
        begun = time.perf_counter()
        with urllib.request.urlopen(request, timeout=300) as reply:  # noqa: S310
            said = json.loads(reply.read())["choices"][0]["message"]["content"]
        assert said == f"{CALLS} calls", said
        return (time.perf_counter() - begun) * 1000 / CALLS

    def switch(self, *, on: bool) -> None:
        """Switch the plugin, and wait until it is heard again."""
        before_us = self._system.clock.now_us()
        asyncio.run(_set_enabled(self._gateway, self._folder.token(), on=on))
        while on and self._system.gateways.heard_us("bench") < before_us:
            time.sleep(0.05)

    def decisions(self) -> int:
        """How many tool calls were decided for the gateway, and not for what its model proposed."""
        query = RecordQuery(kinds=("execution.reported",))
        return sum(1 for _ in self._system.store.records(query))


@contextmanager
def _stage(root: Path, node: Path, entry: Path) -> Iterator[_Stage]:
    governance = root / "governance"
    (governance / "policies").mkdir(parents=True)
    (governance / "checkrein.toml").write_text('environment = "bench"\n')
    (governance / "tools.yaml").write_text(TOOLS)
    (governance / "policies/all.cedar").write_text(POLICIES)
    folder, port = Folder(root / "gateway"), _free_port()
    folder.prepare()
    for number in range(CALLS):
        (folder.workspace / f"folder-{number}").mkdir()
    with ExitStack() as running:
        model = running.enter_context(BackgroundServer(_model())).url
        claw = UpstreamConfig(
            base_url=f"http://127.0.0.1:{port}/v1",
            kind="openclaw",
            models=("openclaw/*",),
            api_key_file=str(folder.token_file),
            witness_timeout=0,  # here the plugin is switched off on purpose
        )
        upstreams = {"bench": claw, "model": UpstreamConfig(base_url=f"{model}/v1", models=(MODEL,))}
        system = running.enter_context(closing(open_system(governance, upstreams=upstreams)))
        _, inside = system.keys.create("gateway", permissions=(Permission.DECIDE, Permission.CALL), by="bench")
        _, caller = system.keys.create("caller", by="bench")
        url = running.enter_context(BackgroundServer(system.app())).url
        home = Home(gateway="bench", url=url, port=port, node=str(node), entry=str(entry), model=MODEL)
        folder.write(home, inside)
        gateway = running.enter_context(GatewayProcess(folder, home))
        stage = _Stage(system, folder, url, gateway.url, caller)
        stage.switch(on=True)
        yield stage


def _model() -> Starlette:
    """A model that lists one folder after the other, and then says how many it listed."""

    async def chat(http: Request) -> Response:
        messages = (await http.json())["messages"]
        done = sum(message["role"] == "tool" for message in messages)
        function = {"name": "ls", "arguments": json.dumps({"path": f"folder-{done}"})}
        call = {"index": 0, "id": f"call_{time.time_ns()}", "type": "function", "function": function}
        said = {"tool_calls": [call]} if done < CALLS else {"content": f"{done} calls"}
        base = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
        deltas = [({"role": "assistant", **said}, None), ({}, "tool_calls" if done < CALLS else "stop")]
        chunks = [{**base, "choices": [{"index": 0, "delta": one, "finish_reason": end}]} for one, end in deltas]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        return Response(body, media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


async def _set_enabled(url: str, token: str, *, on: bool) -> None:
    """Switch the plugin over the gateway's WebSocket, as an operator would."""
    client = {"id": "gateway-client", "version": "1", "platform": "python", "mode": "backend"}
    hello = {"minProtocol": 4, "maxProtocol": 4, "client": client, "role": "operator", "auth": {"token": token}}
    hello |= {"scopes": ["operator.admin"], "caps": []}
    asked: tuple[tuple[str, dict[str, Any]], ...] = (
        ("connect", hello),
        ("plugins.setEnabled", {"pluginId": "checkrein", "enabled": on}),
    )
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=2**25) as ws:
        await ws.receive()
        for method, params in asked:
            await ws.send_json({"type": "req", "id": method, "method": method, "params": params})
            while (answer := json.loads((await ws.receive()).data)).get("id") != method:
                pass
            assert answer["ok"], answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
