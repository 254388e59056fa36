"""The ASGI application. Every request passes the guard; the proxy is plain ASGI, the rest are Starlette routes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from checkrein.connectors import openai
from checkrein.model import (
    BadRequest,
    CheckreinError,
    NotFound,
    StoreUnavailable,
    Unauthorized,
    UpstreamUnavailable,
)
from checkrein.web.admin import Admin
from checkrein.web.authzen import AuthZen
from checkrein.web.body import Gone, TooLarge
from checkrein.web.guard import Guard
from checkrein.web.proxy import Proxy

log = logging.getLogger("checkrein.web")
CHAT = "/v1/chat/completions"
#: status of an error about the call itself; the first kind that fits
STATUS: dict[type[CheckreinError], int] = {
    TooLarge: 413,
    BadRequest: 400,
    Unauthorized: 401,
    NotFound: 404,
    UpstreamUnavailable: 502,
    StoreUnavailable: 503,
}


def status_of(error: CheckreinError) -> int:
    if isinstance(error, Unauthorized) and error.forbidden:
        return 403
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


def error_response(path: str, error: CheckreinError) -> Response:
    """The error in the words of the protocol that was spoken: OpenAI's, AuthZEN's, or RFC 9457 for ours."""
    status = status_of(error)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if status == 503:
        headers["retry-after"] = "1"
    if path.startswith("/v1/"):
        refused = openai.refusal(error, retry_after_s=1)
        return JSONResponse(refused.body, status_code=status, headers={**refused.headers, **headers})
    message = f"{error} ({error.hint})" if error.hint else str(error)
    if path.startswith("/access/"):
        return PlainTextResponse(message, status_code=status, headers=headers)
    problem = {"type": "about:blank", "title": str(error), "status": status, "detail": error.hint}
    return JSONResponse(problem, status_code=status, headers=headers, media_type="application/problem+json")


def create_app(
    guard: Guard, proxy: Proxy, authzen: AuthZen, admin: Admin, *, stop: Callable[[], Awaitable[None]]
) -> ASGIApp:
    """`stop` is awaited when the server shuts down."""
    routes = [
        HttpRoute("/healthz", admin.healthz),
        HttpRoute("/readyz", admin.readyz),
        HttpRoute("/v1/models", admin.models),
        HttpRoute("/access/v1/evaluation", authzen.evaluation, methods=["POST"]),
        HttpRoute("/access/v1/evaluations", authzen.evaluations, methods=["POST"]),
        HttpRoute("/api/v1/audit/records", admin.records),
        HttpRoute("/api/v1/activities", admin.activities),
    ]
    pages = Starlette(routes=routes, exception_handlers={CheckreinError: _known, 404: _missing, 405: _method})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send, stop)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        path: str = scope["path"]
        try:
            guard.check_host(headers)
            scope["checkrein.key"] = guard.key(headers)
        except CheckreinError as error:
            await error_response(path, error)(scope, receive, send)
            return
        send = _echo(headers.get("x-request-id"), send)
        if path == CHAT and scope["method"] == "POST":
            await _guarded(proxy, path, scope, receive, send)
        else:
            await _guarded(pages, path, scope, receive, send)

    return app


async def _guarded(app: ASGIApp, path: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Whatever escapes a route becomes an answer without a traceback; the log has the rest."""
    begun = False

    async def watched(message: dict[str, object]) -> None:
        nonlocal begun
        begun = begun or message["type"] == "http.response.start"
        await send(message)

    try:
        await app(scope, receive, watched)  # type: ignore[arg-type]
    except Gone:
        return
    except CheckreinError as error:
        if not begun:
            await error_response(path, error)(scope, receive, send)
    except Exception:
        log.exception("an error nobody expected, at %s", path)
        if not begun:
            unexpected = CheckreinError("something went wrong here; nothing more was run", hint="see the server's log")
            await error_response(path, unexpected)(scope, receive, send)


async def _known(http: HttpRequest, error: Exception) -> Response:
    if not isinstance(error, CheckreinError):
        raise error
    return error_response(http.url.path, error)


async def _missing(http: HttpRequest, error: Exception) -> Response:
    return error_response(http.url.path, NotFound(f"there is nothing at `{http.url.path[:200]}`"))


async def _method(http: HttpRequest, error: Exception) -> Response:
    problem = CheckreinError(f"`{http.method}` is not served at this path")
    response = error_response(http.url.path, problem)
    response.status_code = 405
    return response


def _echo(request_id: str | None, send: Send) -> Send:
    """Give back the caller's `X-Request-ID`, as AuthZEN asks, when it is a plain token."""
    if request_id is None or len(request_id) > 200 or not request_id.isprintable() or not request_id.isascii():
        return send
    pair = (b"x-request-id", request_id.encode("latin-1"))

    async def echoing(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            given = message.get("headers", ())
            kept = [header for header in given if header[0] != pair[0]]  # type: ignore[attr-defined]
            message = {**message, "headers": [*kept, pair]}
        await send(message)

    return echoing  # type: ignore[return-value]


async def _lifespan(receive: Receive, send: Send, stop: Callable[[], Awaitable[None]]) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await stop()
    await send({"type": "lifespan.shutdown.complete"})
