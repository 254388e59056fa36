"""`POST /v1/chat/completions`: read, govern, forward, answer.

Plain ASGI with a watcher on the connection: when the caller leaves, the upstream call is cancelled and the end is
recorded as `cancelled`. What is answered is decided before the caller sees it, and the last part of an
answer is sent only after its end is on disk. An answer that is whole, a stream too, is kept for the caller's
`Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter_ns

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from checkrein.connectors import openai, openclaw
from checkrein.connectors.chunks import Chunks
from checkrein.connectors.completions import Whole, failure
from checkrein.connectors.metering import Meter
from checkrein.model import (
    Caller,
    CheckreinError,
    Decision,
    Permission,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from checkrein.model.json import dumps
from checkrein.ports import Reply
from checkrein.services.answers import Answers, Proposal, Verdict
from checkrein.services.arms import Arms
from checkrein.services.gateway import Gateway
from checkrein.services.governed import Governed
from checkrein.services.idempotency import Replay
from checkrein.services.payloads import MAX_ANSWER_BYTES as MAX_KEPT_BYTES
from checkrein.services.payloads import MAX_RESULT_BYTES
from checkrein.services.speech import Speech, Withheld
from checkrein.services.turns import TURN
from checkrein.services.waiting import Hold
from checkrein.web import body, trace
from checkrein.web.guard import allow
from checkrein.web.headers import idempotency_key, preferred_wait, require_json
from checkrein.web.routes import Route, Routes

PATH = "/v1/chat/completions"
#: an upstream's JSON answer is held whole; a longer one is refused
MAX_ANSWER_BYTES = 32 * 1024 * 1024
#: headers of the upstream's answer that the caller may see
ANSWER_HEADERS = ("content-type", "openai-processing-ms", "x-request-id", "x-backend")


class Proxy:
    """`hold` says how long a caller is kept waiting for people before it is told to come back."""

    def __init__(
        self,
        gateway: Gateway,
        routes: Routes,
        *,
        max_body_bytes: int,
        retry_after_s: int,
        arms: Arms,
        hold: Hold,
    ) -> None:
        self._gateway = gateway
        self._answers = Answers(gateway)
        self._routes = routes
        self._limit = max_body_bytes
        self._retry_after_s = retry_after_s
        self._arms = arms
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one chat completion; ends early, with everything cancelled, when the caller leaves."""
        headers = Headers(scope=scope)
        key = allow(scope, Permission.CALL)
        require_json(headers)
        try:
            data = await body.read(headers, receive, self._limit)
        except body.Gone:
            return
        once, trace_id = idempotency_key(headers), trace.trace_id(scope, headers)
        work = asyncio.current_task()
        watch = asyncio.ensure_future(_left(receive))
        gone = False

        def leave(_: object) -> None:
            nonlocal gone
            if work and not watch.cancelled():
                gone = True
                work.cancel()

        watch.add_done_callback(leave)
        try:
            await self._serve(key, trace_id, once, data, send, self._hold.within(preferred_wait(headers)))
        except asyncio.CancelledError:
            if not gone or not work or work.uncancel():  # the server is stopping, not the caller leaving
                raise
        finally:
            watch.remove_done_callback(leave)
            watch.cancel()

    async def _serve(self, key: Caller, trace_id: str, once: str, data: bytes, send: Send, hold: Hold) -> None:
        answer = Answer(send, trace_id)
        keys = self._gateway.idempotency
        try:
            chat = openclaw.in_turn(openai.read_chat(data, key), key)
            name, part = self._arms.route(self._routes.serving(chat.model), chat.request)
            claimed = keys.once(once, caller=key.id, operation=PATH, body=data) if once else None
            answer.keeps = MAX_KEPT_BYTES if claimed else MAX_RESULT_BYTES if self._gateway.keeps_results else 0
            answer.meter = meter = Meter(chat, self._routes.tariff(name))
            last = b""
            async with self._gateway.action(
                chat.request,
                caller=key.id,
                trace_id=trace_id,
                once=claimed,
                part=part,
                hold=hold,
                wish=meter.wish,
            ) as governed:
                answer.decided(governed.decision)
                answer.decide = _left_to_the_gateway
                if chat.request.subject.type != TURN:
                    answer.decide = lambda asked: self._answers.decide(governed, asked)
                last = await self._run(chat, governed, name, answer)
            await answer.end(last)
        except Replay as before:
            kept = msgspec.msgpack.decode(before.answer, type=Kept)
            await answer.give(msgspec.structs.replace(kept, headers={**kept.headers, "idempotent-replayed": "true"}))
        except CheckreinError as error:
            if answer.begun:
                await answer.cut(error)
                return
            await answer.give(self._refusal(error, answer))

    async def _run(self, chat: openai.Chat, governed: Governed, name: str, answer: Answer) -> bytes:
        """Forward; whatever the caller is told in the end is handed over to be kept."""
        try:
            last = await self._forward(chat, governed, name, answer)
        except UpstreamUnreachable:
            governed.never_ran()
            raise
        except (UpstreamUnavailable, Withheld) as error:
            if not answer.begun:
                governed.replies(msgspec.msgpack.encode(self._refusal(error, answer)))
            raise
        else:
            if governed.claim and answer.whole:
                governed.replies(msgspec.msgpack.encode(answer.kept()))
            return last
        finally:
            governed.answered(bytes(answer.said))
            if answer.meter:
                governed.consumed(*answer.meter.tally(answer.status))

    def _refusal(self, error: CheckreinError, answer: Answer) -> Kept:
        refused = openai.refusal(error, retry_after_s=self._retry_after_s, trace_id=answer.trace_id)
        headers = answer.headers({"content-type": "application/json", **refused.headers})
        return Kept(refused.status, headers, dumps(refused.body))

    async def _forward(self, chat: openai.Chat, governed: Governed, name: str, answer: Answer) -> bytes:
        """Send the action upstream and its answer down; returns the last part, to be sent once all is recorded."""

        def payload(route: Route) -> bytes:
            if answer.meter:
                answer.meter.tariff = route.tariff
            handle = self._gateway.turn(governed).handle if route.agent else ""
            model = route.aliases.get(chat.model, "")
            return openai.upstream_body(chat, governed.request, redacted=governed.redacted, handle=handle, model=model)

        traceparent = trace.parent(governed.decision.trace_id)
        # not the caller's key: under our credential it would be one and the same for all callers
        sent_ns = perf_counter_ns()
        sent = await self._routes.send(name, "/chat/completions", payload, {"traceparent": traceparent})
        first_us = (perf_counter_ns() - sent_ns) // 1000
        reply, speech = sent.reply, self._answers.speech(governed)
        about: dict[str, object] = {"upstream": sent.tried[-1], "http_status": reply.status, "first_us": first_us}
        if len(sent.tried) > 1:
            about["tried"] = list(sent.tried)
        try:
            speech.begin()
            last, detail = await self._answer(chat, reply, answer, speech)
            detail |= await self._answers.record(governed, speech)
        except UpstreamUnavailable:
            governed.ended("failed", error="UpstreamUnavailable", detail=about)
            raise
        except Withheld:
            detail = await self._answers.record(governed, speech)
            governed.ended("failed", error="Withheld", detail={**about, **detail})
            raise
        finally:
            await reply.close()
        status = "ok" if reply.status < 400 else "failed"
        error = "" if status == "ok" else f"http_{reply.status}"
        governed.ended(status, error=error, detail={**about, **detail})
        return last

    async def _answer(
        self, chat: openai.Chat, reply: Reply, answer: Answer, speech: Speech
    ) -> tuple[bytes, dict[str, object]]:
        """The last part of the answer, and what is recorded about it."""
        kept = {name: reply.headers[name] for name in ANSWER_HEADERS if name in reply.headers}
        if chat.stream and "text/event-stream" in kept.get("content-type", ""):
            await answer.begin(reply.status, answer.headers({**kept, "cache-control": "no-store"}))
            return await answer.stream(reply, speech)
        parts: list[bytes] = []
        size = 0
        async for part in reply.body():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamUnavailable(
                    f"the upstream's answer is longer than {MAX_ANSWER_BYTES} bytes", hint="ask for a stream"
                )
            parts.append(part)
        body = b"".join(parts)
        if answer.meter:
            answer.meter.whole(body)
        detail: dict[str, object] = {"bytes": size}
        if reply.status < 400:
            whole = Whole(body, speech)
            verdicts = await answer.verdicts(whole.asked)
            body, detail = whole.settle(verdicts), detail | _calls(verdicts)
        else:
            body = failure(body, speech)
        return answer.prepare(reply.status, answer.headers(kept), body), detail


def _calls(verdicts: Sequence[Verdict]) -> dict[str, object]:
    """What is recorded about the tool calls of an answer."""
    if not verdicts:
        return {}
    return {"tool_calls": len(verdicts), "tool_calls_refused": sum(bool(verdict.refusal) for verdict in verdicts)}


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it was given, to be given again."""

    status: int
    headers: dict[str, str]
    body: bytes


class Answer:
    """One HTTP answer, begun at most once."""

    def __init__(self, send: Send, trace_id: str) -> None:
        self._send = send
        self.trace_id = trace_id
        self._about: dict[str, str] = {}
        self._status, self._headers = 0, dict[str, str]()
        self.begun = False
        #: what counts the tokens of the answer
        self.meter: Meter | None = None
        #: how much of the body is remembered in `said`, and whether that is all of it
        self.keeps = 0
        self.said = bytearray()
        self.whole = True
        #: decides tool calls; set once the prompt is let through
        self.decide: Callable[[Sequence[Proposal]], Awaitable[tuple[Verdict, ...]]] = _undecided

    async def verdicts(self, asked: Sequence[Proposal]) -> tuple[Verdict, ...]:
        return await self.decide(asked) if asked else ()

    @property
    def status(self) -> int:
        """That of the answer; 0 before there is one."""
        return self._status

    def decided(self, decision: Decision) -> None:
        self.trace_id = decision.trace_id
        self._about = {
            "x-checkrein-outcome": decision.outcome.wire,
            "x-checkrein-risk": decision.risk.level.value,
        }

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        return {trace.HEADER: self.trace_id, **self._about, **given}

    def prepare(self, status: int, headers: dict[str, str], body: bytes) -> bytes:
        """Set what an answer that is sent whole will begin with; returns its body."""
        self._status, self._headers = status, headers
        self._remember(body)
        return body

    async def begin(self, status: int, headers: dict[str, str]) -> None:
        self.begun = True
        self._status, self._headers = status, headers
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def stream(self, reply: Reply, speech: Speech) -> tuple[bytes, dict[str, object]]:
        """Send each event once it is decided, but keep what closes the stream in hand, from `[DONE]` on."""
        chunks = Chunks(speech)
        verdicts: list[Verdict] = []
        size = 0
        async for part in reply.body():
            size += len(part)
            if self.meter:
                self.meter.chunk(part)
            await self._tell(chunks.feed(part), chunks, verdicts)
        await self._tell(chunks.close(), chunks, verdicts)
        self._remember(chunks.rest)
        return chunks.rest, {"bytes": size, **_calls(verdicts)}

    async def _tell(self, part: bytes, chunks: Chunks, verdicts: list[Verdict]) -> None:
        """Send what may be seen; while calls ask for verdicts, get them and go on."""
        while True:
            if part:
                self._remember(part)
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
            if not chunks.asked:
                return
            given = await self.verdicts(chunks.asked)
            verdicts += given
            part = chunks.settle(given)

    def kept(self) -> Kept:
        """The answer whose last part is about to be sent."""
        return Kept(self._status, self._headers, bytes(self.said))

    async def end(self, last: bytes) -> None:
        if not self.begun:
            await self.begin(self._status, {**self._headers, "content-length": str(len(last))})
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def give(self, kept: Kept) -> None:
        """Give a whole answer."""
        self._status, self._headers = kept.status, kept.headers
        await self.end(kept.body)

    async def cut(self, error: CheckreinError) -> None:
        """End a stream that failed midway with an event that says so; the closing `[DONE]` never comes."""
        said = {"message": "the answer broke off", "type": "upstream_error", "code": "broken_stream"}
        if isinstance(error, Withheld):
            said = {"message": str(error), "type": "policy_denied", "code": "denied"}
        event = b"data: " + dumps({"error": said}) + b"\n\n"
        await self._send({"type": "http.response.body", "body": event, "more_body": False})

    def _remember(self, part: bytes) -> None:
        left = self.keeps - len(self.said)
        self.whole = self.whole and len(part) <= left
        if left > 0:
            self.said += part[:left]


async def _undecided(asked: Sequence[Proposal]) -> tuple[Verdict, ...]:
    raise RuntimeError("no prompt was let through yet")


async def _left_to_the_gateway(asked: Sequence[Proposal]) -> tuple[Verdict, ...]:
    """In a turn the agent's own gateway asks about each tool call, before it runs."""
    return tuple(Verdict() for _ in asked)


async def _left(receive: Receive) -> None:
    """Returns when the caller has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
