"""The ASGI application: the guard, the routes, and an answer for every error."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.routing import compile_path, request_response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from checkrein.connectors.dialects import DIALECTS
from checkrein.model import (
    Caller,
    CheckreinError,
    MethodNotAllowed,
    RouteNotFound,
)
from checkrein.services.refusals import Refusals
from checkrein.services.search import Sought
from checkrein.services.waiting import Drain
from checkrein.web import refused, trace
from checkrein.web.access_requests import TASK, AccessRequestRoutes
from checkrein.web.admin import Admin
from checkrein.web.approvals import EDIT, EVENTS, LIST, ONE, VOTE, ApprovalRoutes
from checkrein.web.authzen import EVALUATION, EVALUATIONS, METADATA, REQUESTS, SEARCH, AuthZen
from checkrein.web.body import Gone
from checkrein.web.control import KILL, KILLED, LIMITS, REVIVE, Control
from checkrein.web.errors import error_response
from checkrein.web.guard import Guard
from checkrein.web.headers import HEADERS, Headers
from checkrein.web.invoke import PATH as INVOKE
from checkrein.web.invoke import Invoke
from checkrein.web.metrics import PATH as METRICS
from checkrein.web.metrics import Metrics
from checkrein.web.models import MODEL, MODELS, Models
from checkrein.web.openapi import PATH as OPENAPI
from checkrein.web.openapi import openapi
from checkrein.web.openclaw import ROOT as OPENCLAW
from checkrein.web.openclaw import OpenClaw
from checkrein.web.pages import PAGE, PAGES, Pages
from checkrein.web.proxy import PREFIX, Proxy
from checkrein.web.search import SearchRoutes
from checkrein.web.standing import DELEGATIONS, END, GIVE, GRANTS, REVOKE, StandingRoutes

log = logging.getLogger("checkrein.web")
GET = ("GET", "HEAD")
POST = ("POST",)


class Application:
    """What a server serves; the server says so when it begins to stop, and when it refuses a request by itself.

    `routes` are the methods of each path.
    """

    def __init__(self, app: ASGIApp, drain: Drain, refusals: Refusals, routes: Mapping[str, tuple[str, ...]]) -> None:
        self._app = app
        self._drain = drain
        self._refusals = refusals
        self.routes = routes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._app(scope, receive, send)

    def stopping(self) -> None:
        """Answer at once whoever is kept waiting."""
        self._drain.begin()

    def refused(self, reason: str) -> None:
        """Count what never became a request here."""
        self._refusals.note(reason)


def create_app(
    guard: Guard,
    proxy: Proxy,
    authzen: AuthZen,
    searches: SearchRoutes,
    admin: Admin,
    figures: Metrics,
    models: Models,
    control: Control,
    approvals: ApprovalRoutes,
    standing: StandingRoutes,
    requests: AccessRequestRoutes,
    openclaw: OpenClaw,
    invoke: Invoke,
    pages: Pages,
    *,
    drain: Drain,
    refusals: Refusals,
    stop: Callable[[], Awaitable[None]],
) -> Application:
    """`stop` is awaited when the server shuts down, `drain` begins before."""
    routes: dict[str, tuple[tuple[str, ...], ASGIApp]] = {
        **{PREFIX + dialect.path: (POST, proxy.at(dialect)) for dialect in DIALECTS},
        INVOKE: (POST, request_response(invoke.invoke)),
        EVALUATION: (POST, request_response(authzen.evaluation)),
        EVALUATIONS: (POST, request_response(authzen.evaluations)),
        **{SEARCH + sought: (POST, request_response(searches.search)) for sought in Sought},
        REQUESTS: (POST, request_response(requests.submit)),
        METADATA: (GET, request_response(authzen.metadata)),
        "/healthz": (GET, request_response(admin.healthz)),
        "/readyz": (GET, request_response(admin.readyz)),
        MODELS: (GET, request_response(models.every)),
        "/api/v1/audit/records": (GET, request_response(admin.records)),
        "/api/v1/activities": (GET, request_response(admin.activities)),
        METRICS: (GET, request_response(figures.metrics)),
        OPENAPI: (GET, request_response(openapi)),
        KILL: (POST, request_response(control.kill)),
        REVIVE: (POST, request_response(control.revive)),
        KILLED: (GET, request_response(control.killed)),
        LIMITS: (GET, request_response(control.limits)),
        LIST: (GET, request_response(approvals.list)),
        EVENTS: (GET, request_response(approvals.events)),
        GRANTS: (GET, request_response(standing.grants)),
        DELEGATIONS: (GET, request_response(standing.delegations)),
        GIVE: (POST, request_response(standing.give)),
        END: (POST, request_response(standing.end)),
        f"{OPENCLAW}/heartbeat": (POST, request_response(openclaw.heartbeat)),
        f"{OPENCLAW}/result": (POST, request_response(openclaw.result)),
        f"{OPENCLAW}/approval": (GET, request_response(openclaw.approval)),
        f"{OPENCLAW}/gateways": (GET, request_response(openclaw.gateways)),
    }
    #: paths that name something, looked through where none above fits
    naming: dict[str, tuple[tuple[str, ...], ASGIApp]] = {
        MODEL: (GET, request_response(models.one)),
        ONE: (GET, request_response(approvals.one)),
        VOTE: (POST, request_response(approvals.vote)),
        EDIT: (POST, request_response(approvals.edit)),
        REVOKE: (POST, request_response(standing.revoke)),
        TASK: (GET, request_response(requests.task)),
        PAGE: ((*GET, *POST), request_response(pages.page)),
    }
    patterns = [(compile_path(path)[0], *served) for path, served in naming.items()]

    def found(scope: Scope) -> tuple[tuple[str, ...], ASGIApp | None]:
        for pattern, methods, route in patterns:
            if match := pattern.match(scope["path"]):
                scope["path_params"] = match.groupdict()
                return methods, route
        return (), None

    def serving(scope: Scope) -> ASGIApp:
        """What serves the path by this method; raises `RouteNotFound` or `MethodNotAllowed`."""
        methods, route = routes.get(scope["path"]) or found(scope)
        if route is None:
            raise RouteNotFound(
                f"there is nothing at `{scope['path'][:200]}`", hint="`/openapi.json` describes every route"
            )
        if scope["method"] not in methods:
            allowed = ", ".join(methods)
            raise MethodNotAllowed("this path is not served by that method", allowed=allowed, hint=f"use {allowed}")
        return route

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send, stop)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = scope[HEADERS] = Headers(scope)
        path: str = scope["path"]
        send = _echo(headers.get("x-request-id"), send)
        try:
            guard.check_host(headers)
            if not path.startswith(PAGES):  # a page asks for the key itself
                scope["checkrein.key"] = await guard.caller(headers)
        except CheckreinError as error:
            refusals.note(refused.reason(error) or refused.UNAVAILABLE)
            await error_response(path, error)(scope, receive, send)
            return
        begun = False

        def watched(message: Message) -> Awaitable[None]:
            nonlocal begun
            begun = True  # what comes first is the head of the answer
            return send(message)

        # whatever escapes a route becomes an answer without a traceback; the log has the rest
        try:
            await serving(scope)(scope, receive, watched)
        except Gone:
            return
        except CheckreinError as error:
            known = error
            if reason := refused.reason(error):
                refusals.note(reason, _key_of(scope))
        except Exception:
            trace_id = trace.trace_id(scope, headers)
            log.exception("an error nobody expected, at %s, in trace %s", path, trace_id)
            hint = f"the server's log has it under trace {trace_id}"
            known = CheckreinError("something went wrong here; nothing more was run", hint=hint)
        else:
            return
        if not begun:
            await error_response(path, known, trace.trace_id(scope, headers))(scope, receive, send)

    served = {path: methods for path, (methods, _) in {**routes, **naming}.items()}
    return Application(app, drain, refusals, served)


def _key_of(scope: Scope) -> str:
    """The id of the key a request came with; empty for a page, which asks for it itself."""
    key = scope.get("checkrein.key")
    return key.id if isinstance(key, Caller) else ""


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
