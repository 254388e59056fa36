"""The embedded agent gateway: the HTTP surface of the OpenClaw Gateway over `agent` and the sandbox.

Paths, ids, error bodies and shapes are those measured on the real one. Two things differ on purpose: every
answer says that it is not the real one (header `x-backend: embedded`, member `"backend": "embedded"`), and a
`traceparent` that comes in is continued, where the real gateway starts a new trace.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from checkrein.demo.agent import Agent, Answer, BlockedError, DecideTool, Run
from checkrein.demo.model import text_of
from checkrein.demo.tools import TOOLS, Sandbox, ToolError
from checkrein.model import BadRequest, CheckreinError, ConfigError, Unauthorized
from checkrein.model.json import dumps, load_object

MAX_BODY = 2 * 1024 * 1024
MODELS = ("openclaw", "openclaw/default", "openclaw/main")

_LABEL = {"x-backend": "embedded"}
_ROLES = ("system", "developer", "user", "assistant", "tool")
_USER_SESSION = "agent:main:openai-user:"
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_log = logging.getLogger(__name__)

T = TypeVar("T")


def create_app(sandbox: Path | Sandbox, token: str, decide_tool: DecideTool) -> ASGIApp:
    """The gateway over a folder. `decide_tool` is asked before every tool call; `token` opens every `/v1` and
    `/tools` route. Pass a `Sandbox` to count its runs.
    """
    if not token:
        raise ConfigError("the embedded gateway needs a token", hint="give it one of 32 random characters")
    room = sandbox if isinstance(sandbox, Sandbox) else Sandbox(sandbox)
    gateway = _Gateway(room, Agent(room, decide_tool), token)
    return Starlette(
        routes=[
            Route("/healthz", gateway.health),
            Route("/health", gateway.health),
            Route("/readyz", gateway.ready),
            Route("/ready", gateway.ready),
            Route("/v1/models", gateway.models),
            Route("/v1/models/{id:path}", gateway.model),
            Route("/v1/chat/completions", gateway.chat, methods=["POST"]),
            Route("/tools/invoke", gateway.invoke, methods=["POST"]),
        ],
        exception_handlers={
            BadRequest: _bad_request,
            Unauthorized: _unauthorized,
            HTTPException: _http_error,
            ClientDisconnect: _nobody_there,
            CheckreinError: _internal_error,
            Exception: _internal_error,
        },
    )


class _Chat(msgspec.Struct, frozen=True):
    """The members of a chat body that are understood; others are ignored, as the real gateway does."""

    messages: list[dict[str, object]]
    model: str = "openclaw"
    stream: bool | None = None
    stream_options: dict[str, object] | None = None
    user: str = ""


class _Invoke(msgspec.Struct, frozen=True, rename="camel"):
    tool: str
    args: dict[str, object] = {}
    session_key: str = "main"


class _Gateway:
    def __init__(self, sandbox: Sandbox, agent: Agent, token: str) -> None:
        self._sandbox = sandbox
        self._agent = agent
        self._token = hashlib.sha256(token.encode()).digest()
        self._started = time.monotonic()

    async def health(self, request: Request) -> Response:
        return _json(200, {"ok": True, "status": "live"})

    async def ready(self, request: Request) -> Response:
        failing = [] if await asyncio.to_thread(self._sandbox.documents.is_dir) else ["sandbox"]
        uptime_ms = int((time.monotonic() - self._started) * 1000)
        body = {"ready": not failing, "failing": failing, "uptimeMs": uptime_ms}
        return _json(503 if failing else 200, body)

    async def models(self, request: Request) -> Response:
        self._authenticate(request)
        return _json(200, {"object": "list", "data": [_model(name) for name in MODELS]})

    async def model(self, request: Request) -> Response:
        self._authenticate(request)
        name = str(request.path_params["id"])
        if name not in MODELS:
            return _error(404, f"Model '{name[:200]}' not found.", "invalid_request_error")
        return _json(200, _model(name))

    async def chat(self, request: Request) -> Response:
        self._authenticate(request)
        chat = _read_chat(await _body(request))
        run_id = f"chatcmpl_{uuid.uuid4()}"
        session_key = f"{_USER_SESSION}{chat.user}" if chat.user else f"agent:main:openai:{uuid.uuid4()}"
        run = Run(run_id=run_id, user=chat.user, session_key=session_key, traceparent=_traceparent(request))
        envelope = {"id": run_id, "created": int(time.time()), "model": chat.model, "backend": "embedded"}
        if chat.stream:
            options = chat.stream_options or {}
            with_usage = options.get("include_usage") is True
            events = self._events(chat, run, envelope, with_usage=with_usage)
            # StreamingResponse watches for the client's leaving, and then cancels the turn inside `events`
            return StreamingResponse(events, media_type="text/event-stream", headers=_LABEL)
        answer = await _while_connected(request, self._agent.answer(chat.messages, run))
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": "stop",
        }
        return _json(200, envelope | {"object": "chat.completion", "choices": [choice], "usage": _usage(answer)})

    async def invoke(self, request: Request) -> Response:
        self._authenticate(request)
        wanted = _convert(await _body(request), _Invoke)
        if wanted.tool not in TOOLS:
            return _tool_error(404, "not_found", f"Tool not available: {wanted.tool[:200]}")
        user = wanted.session_key.removeprefix(_USER_SESSION)
        run = Run(
            run_id=f"invoke_{uuid.uuid4()}",
            user=user if user != wanted.session_key else "",
            session_key="agent:main:main" if wanted.session_key == "main" else wanted.session_key,
            traceparent=_traceparent(request),
        )
        call = self._agent.call_tool(wanted.tool, wanted.args, f"call_{uuid.uuid4().hex}", run)
        try:
            result = await _while_connected(request, call)
        except BlockedError as error:
            return _tool_error(403, "tool_call_blocked", str(error), requiresApproval=error.requires_approval)
        except ToolError as error:
            return _tool_error(500, "tool_error", str(error))
        return _json(200, {"ok": True, "result": result})

    async def _events(
        self, chat: _Chat, run: Run, envelope: dict[str, object], *, with_usage: bool
    ) -> AsyncIterator[bytes]:
        envelope = envelope | {"object": "chat.completion.chunk"}

        def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
            return _event(envelope | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        yield chunk({"role": "assistant"})
        try:
            answer = await self._agent.answer(chat.messages, run)
        except Exception as error:  # noqa: BLE001 - the status is sent: the stream itself says that it failed
            _note(error)
            yield _event({"error": {"message": "internal error", "type": "api_error"}, "backend": "embedded"})
        else:
            for piece in re.findall(r"\s*\S+\s*", answer.text):
                yield chunk({"content": piece})
            yield chunk({}, "stop")
            if with_usage:
                yield _event(envelope | {"choices": [], "usage": _usage(answer)})
        yield b"data: [DONE]\n\n"

    def _authenticate(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(token.encode()).digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._token):
            raise Unauthorized("Unauthorized", hint="send the gateway's token as `Authorization: Bearer ...`")


def _event(value: Mapping[str, object]) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


async def _while_connected(request: Request, work: Coroutine[object, object, T]) -> T:
    """Do the work; when the client leaves, cancel it. Nothing else tells a handler that the client left."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _body(request: Request) -> dict[str, object]:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY:
            raise HTTPException(413, "Request body too large")
    body = load_object(bytes(data))
    try:
        dumps(body)
    except UnicodeEncodeError as error:
        raise BadRequest("a text in the body is not Unicode", hint="send no lone surrogates") from error
    return body


def _read_chat(body: dict[str, object]) -> _Chat:
    chat = _convert(body, _Chat)
    if chat.model not in MODELS:
        raise BadRequest(f"Invalid `model`. Use one of {', '.join(MODELS)}.")
    if any(message.get("role") not in _ROLES for message in chat.messages):
        raise BadRequest("Invalid `role` in `messages`.")
    if not any(message["role"] == "user" and text_of(message.get("content")) for message in chat.messages):
        raise BadRequest("Missing user message in `messages`.")
    return chat


def _convert(body: dict[str, object], kind: type[T]) -> T:
    try:
        return msgspec.convert(body, kind, strict=True)
    except msgspec.ValidationError as error:  # names members and types, never values
        raise BadRequest(str(error)) from error


def _traceparent(request: Request) -> str:
    given = request.headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "openclaw", "backend": "embedded"}


def _usage(answer: Answer) -> dict[str, int]:
    words_in, words_out = answer.usage.prompt_tokens, answer.usage.completion_tokens
    return {
        "prompt_tokens": words_in,
        "completion_tokens": words_out,
        "total_tokens": words_in + words_out,
    }


def _json(status: int, body: Mapping[str, object]) -> Response:
    labelled = {**body, "backend": "embedded"}
    return Response(dumps(labelled), status, media_type="application/json", headers=_LABEL)


def _error(status: int, message: str, kind: str) -> Response:
    return _json(status, {"error": {"message": message, "type": kind}})


def _tool_error(status: int, kind: str, message: str, **more: object) -> Response:
    return _json(status, {"ok": False, "error": {"type": kind, "message": message, **more}})


async def _bad_request(request: Request, error: Exception) -> Response:
    return _error(400, str(error), "invalid_request_error")


async def _unauthorized(request: Request, error: Exception) -> Response:
    return _error(401, "Unauthorized", "unauthorized")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "internal error"
    return _error(status, detail, "not_found" if status == 404 else "invalid_request_error")


async def _internal_error(request: Request, error: Exception) -> Response:
    _note(error)
    return _error(500, "internal error", "api_error")


def _note(error: Exception) -> None:
    """An error raised on purpose explains itself; any other is a fault and needs its traceback."""
    _log.error("an answer failed: %s", error, exc_info=None if isinstance(error, CheckreinError) else error)


async def _nobody_there(request: Request, error: Exception) -> Response:
    return Response(status_code=499, headers=_LABEL)
