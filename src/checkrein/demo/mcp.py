"""The demo's tools as an MCP server, so that a real agent gateway can call them: the Model Context Protocol's
"streamable HTTP", as far as `initialize`, `tools/list` and `tools/call` go. Each answer is one JSON object.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from checkrein import __version__
from checkrein.demo.tools import INPUTS, Sandbox, ToolError
from checkrein.model import BadRequest
from checkrein.model.json import dumps, load_object

PATH = "/mcp"
#: spoken where the client names none
PROTOCOL = "2025-06-18"
_METHOD_NOT_FOUND, _INVALID_PARAMS = -32601, -32602


def create_app(sandbox: Sandbox, token: str) -> ASGIApp:
    """The server over a sandbox; `token` is the bearer token of its client."""
    server = _Server(sandbox, token)
    return Starlette(routes=[Route(PATH, server.serve, methods=["POST"])])


class _Server:
    def __init__(self, sandbox: Sandbox, token: str) -> None:
        self._sandbox = sandbox
        self._token = f"Bearer {token}"

    async def serve(self, http: Request) -> Response:
        if not hmac.compare_digest(http.headers.get("authorization", "").encode(), self._token.encode()):
            return Response(status_code=401)
        try:
            message = load_object(await http.body())
        except BadRequest:
            return Response(status_code=400)
        if "id" not in message:  # a notification
            return Response(status_code=202)
        params = message.get("params")
        answer = await self._answer(message.get("method"), params if isinstance(params, dict) else {})
        return Response(dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), media_type="application/json")

    async def _answer(self, method: object, params: Mapping[str, object]) -> dict[str, object]:
        if method == "initialize":
            about = {"name": "checkrein-demo", "version": __version__}
            version = params.get("protocolVersion", PROTOCOL)
            return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}}
        if method == "ping":
            return {"result": {}}
        if method == "tools/list":
            return {"result": {"tools": [_described(name) for name in INPUTS]}}
        if method == "tools/call":
            return await self._call(params.get("name"), params.get("arguments", {}))
        return {"error": {"code": _METHOD_NOT_FOUND, "message": "there is no such method"}}

    async def _call(self, name: object, arguments: object) -> dict[str, object]:
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return {"error": {"code": _INVALID_PARAMS, "message": "`name` or `arguments` is missing"}}
        try:
            text, failed = dumps(await asyncio.to_thread(self._sandbox.run, name, arguments)).decode(), False
        except ToolError as error:
            text, failed = str(error), True
        return {"result": {"content": [{"type": "text", "text": text}], "isError": failed}}


def _described(name: str) -> dict[str, object]:
    kind = INPUTS[name]
    _, parts = msgspec.json.schema_components([kind])
    shape = {key: value for key, value in parts[kind.__name__].items() if key in ("type", "properties", "required")}
    return {"name": name, "description": f"{name.replace('_', ' ')}, in the demo's folder", "inputSchema": shape}
