"""`POST /v1/chat/completions`: read, govern, forward, answer.

Plain ASGI with a watcher on the connection: when the caller leaves, the upstream call is cancelled and the end is
recorded as `cancelled`. The last part of an answer is sent only after its end is on disk.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from time import perf_counter_ns

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from checkrein.connectors import openai
from checkrein.model import CheckreinError, Decision, Permission, UpstreamUnavailable
from checkrein.model.json import dumps
from checkrein.ports import Reply, Upstream
from checkrein.services.arms import Arms
from checkrein.services.gateway import Gateway, Governed
from checkrein.services.ids import fresh
from checkrein.web import body
from checkrein.web.guard import allow

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
#: an upstream's JSON answer is held whole; a longer one is refused
MAX_ANSWER_BYTES = 32 * 1024 * 1024
#: what ends a stream; it is sent only when the end is on disk, and the connection is not ended before that either
DONE = b"[DONE]"
MAX_HELD_BYTES = 64 * 1024
#: headers of the upstream's answer that the caller may see
ANSWER_HEADERS = ("content-type", "openai-processing-ms", "x-request-id", "x-backend")


class Route:
    """An upstream with the models it serves; `handles` says whether it wants a turn's handle as `user`."""

    def __init__(self, upstream: Upstream, models: tuple[str, ...], *, handles: bool) -> None:
        self.upstream = upstream
        self.models = models
        self.handles = handles


class Proxy:
    def __init__(
        self, gateway: Gateway, routes: Mapping[str, Route], *, max_body_bytes: int, retry_after_s: int, arms: Arms
    ) -> None:
        self._gateway = gateway
        self._routes = routes
        self._limit = max_body_bytes
        self._retry_after_s = retry_after_s
        self._arms = arms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one chat completion; ends early, with everything cancelled, when the caller leaves."""
        headers = Headers(scope=scope)
        try:
            data = await body.read(headers, receive, self._limit)
        except body.Gone:
            return
        work = asyncio.ensure_future(self._serve(scope, headers, data, send))
        watch = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            await asyncio.gather(work, return_exceptions=False)
        except asyncio.CancelledError:
            if not watch.done():  # the server is stopping, not the caller leaving
                raise
        finally:
            watch.cancel()
            work.cancel()

    async def _serve(self, scope: Scope, headers: Headers, data: bytes, send: Send) -> None:
        trace_id = _trace_id(headers)
        answer = Answer(send, trace_id)
        try:
            key = allow(scope, Permission.CALL)
            chat = openai.read_chat(data, key)
            name = openai.route(chat.model, {n: r.models for n, r in self._routes.items()})
            name, part = self._arms.route(name, chat.request)
            route = self._routes[name]
            last = b""
            async with self._gateway.action(chat.request, caller=key.id, trace_id=trace_id, part=part) as governed:
                answer.decided(governed.decision)
                last = await self._forward(chat, governed, route, answer)
            await answer.end(last)
        except CheckreinError as error:
            if answer.begun:
                await answer.cut()
                return
            refused = openai.refusal(error, retry_after_s=self._retry_after_s, trace_id=answer.trace_id)
            await answer.begin(refused.status, {"content-type": "application/json", **refused.headers})
            await answer.end(dumps(refused.body))

    async def _forward(self, chat: openai.Chat, governed: Governed, route: Route, answer: Answer) -> bytes:
        """Send the action upstream and its answer down; returns the last part, to be sent once all is recorded."""
        handle = self._gateway.turn(governed).handle if route.handles else ""
        payload = openai.upstream_body(chat, governed.request, redacted=governed.redacted, handle=handle)
        sent_ns = perf_counter_ns()
        reply = await route.upstream.send(
            "/chat/completions", payload, {"traceparent": _traceparent(governed.decision.trace_id)}
        )
        first_us = (perf_counter_ns() - sent_ns) // 1000
        try:
            last, size = await self._answer(chat, reply, answer)
        except UpstreamUnavailable:
            governed.ended("failed", error="UpstreamUnavailable", detail={"upstream": route.upstream.name})
            raise
        finally:
            await reply.close()
        status = "ok" if reply.status < 400 else "failed"
        error = "" if status == "ok" else f"http_{reply.status}"
        detail = {"upstream": route.upstream.name, "http_status": reply.status, "bytes": size, "first_us": first_us}
        governed.ended(status, error=error, detail=detail)
        return last

    async def _answer(self, chat: openai.Chat, reply: Reply, answer: Answer) -> tuple[bytes, int]:
        kept = {name: reply.headers[name] for name in ANSWER_HEADERS if name in reply.headers}
        if chat.stream and "text/event-stream" in kept.get("content-type", ""):
            await answer.begin(reply.status, {**kept, "cache-control": "no-store"})
            return await answer.stream(reply.body())
        parts: list[bytes] = []
        size = 0
        async for part in reply.body():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamUnavailable(
                    f"the upstream's answer is longer than {MAX_ANSWER_BYTES} bytes", hint="ask for a stream"
                )
            parts.append(part)
        answer.prepared = (reply.status, kept)
        return b"".join(parts), size


class Answer:
    """One HTTP answer, begun at most once."""

    def __init__(self, send: Send, trace_id: str) -> None:
        self._send = send
        self.trace_id = trace_id
        self._about: dict[str, str] = {}
        self.begun = False
        #: status and headers of an answer that is sent whole
        self.prepared: tuple[int, dict[str, str]] | None = None

    def decided(self, decision: Decision) -> None:
        self.trace_id = decision.trace_id
        self._about = {
            "x-checkrein-outcome": decision.outcome.wire,
            "x-checkrein-risk": decision.risk.level.value,
        }

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.begun = True
        given = {"x-checkrein-trace-id": self.trace_id, **self._about, **headers}
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def stream(self, parts: AsyncIterator[bytes]) -> tuple[bytes, int]:
        """Send each part as it comes, but keep what closes the stream in hand, from `[DONE]` on."""
        held = b""
        size = 0
        async for part in parts:
            size += len(part)
            if held or DONE in part:
                held += part
                if len(held) > MAX_HELD_BYTES:
                    raise UpstreamUnavailable("the upstream goes on after it said `[DONE]`", hint="look at its log")
            else:
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
        return held, size

    async def end(self, last: bytes) -> None:
        if self.prepared is not None and not self.begun:
            status, headers = self.prepared
            await self.begin(status, {**headers, "content-length": str(len(last))})
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def cut(self) -> None:
        """End a stream that failed midway with an event that says so; the closing `[DONE]` never comes."""
        event = b'data: {"error":{"message":"the answer broke off","type":"upstream_error","code":"broken_stream"}}\n\n'
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


async def _left(receive: Receive) -> None:
    """Returns when the caller has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _trace_id(headers: Headers) -> str:
    """The trace id of an incoming `traceparent` (W3C Trace Context), or a new one."""
    match = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return match[1] if match and match[1].strip("0") else fresh("", 16)


def _traceparent(trace_id: str) -> str:
    return f"00-{trace_id}-{fresh('', 8)}-01"
