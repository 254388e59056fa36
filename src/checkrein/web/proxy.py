"""`POST` to the paths of `connectors.dialects`: read, govern, forward, answer.

Plain ASGI. The connection tells when the caller leaves: then the upstream call is cancelled and the end is
recorded as `cancelled`. What is answered is decided before the caller sees it, and the last part of an answer is sent
only after its end is on disk. An answer that is whole, a stream too, is kept for the caller's `Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from time import perf_counter_ns
from typing import cast

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from checkrein.connectors import openai, openclaw
from checkrein.connectors.completions import failure
from checkrein.connectors.dialects import Dialect
from checkrein.connectors.metering import Meter
from checkrein.model import Caller, CheckreinError, Permission, UpstreamUnavailable, UpstreamUnreachable
from checkrein.model.json import dumps
from checkrein.ports import Reply
from checkrein.services.answers import Answers, Proposal, Verdict
from checkrein.services.arms import Arms
from checkrein.services.gateway import Gateway
from checkrein.services.governed import Governed
from checkrein.services.idempotency import Replay
from checkrein.services.payloads import MAX_ANSWER_BYTES as MAX_KEPT_BYTES
from checkrein.services.payloads import MAX_RESULT_BYTES
from checkrein.services.pdp import Part
from checkrein.services.refusals import Refusals
from checkrein.services.spans import TraceParent
from checkrein.services.speech import Speech, Withheld
from checkrein.services.turns import TURN
from checkrein.services.waiting import Hold
from checkrein.web import body, refused, trace
from checkrein.web.answer import Answer, Kept, TooSlow, calls
from checkrein.web.guard import allow
from checkrein.web.headers import HEADERS, idempotency_key, preferred_wait, require_json
from checkrein.web.protocol import PEER, Peer
from checkrein.web.routes import Route, Routes

PREFIX = "/v1"
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
        refusals: Refusals,
    ) -> None:
        self._gateway = gateway
        self._answers = Answers(gateway)
        self._routes = routes
        self._limit = max_body_bytes
        self._retry_after_s = retry_after_s
        self._arms = arms
        self._hold = hold
        self._refusals = refusals

    def at(self, dialect: Dialect) -> ASGIApp:
        """What is served at the path of this dialect."""
        return partial(self._watched, dialect)

    async def _watched(self, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; ends early, with everything cancelled, when the caller leaves."""
        headers = scope[HEADERS]
        key = allow(scope, Permission.CALL)
        require_json(headers)
        try:
            data = await body.read(headers, receive, self._limit)
        except body.Gone:
            return
        once, parent = idempotency_key(headers), trace.parent(scope, headers)
        hold = self._hold.within(preferred_wait(headers))
        work, gone = cast("asyncio.Task[None]", asyncio.current_task()), False
        peer: Peer = scope[PEER]

        def leave() -> None:
            nonlocal gone
            gone = True
            work.cancel()

        peer.left = leave
        try:
            await self._serve(dialect, key, parent, once, data, send, hold)
        except TooSlow:
            peer.left = None
            peer.hang_up()
            await _left(receive)
        except asyncio.CancelledError:
            if not gone or work.uncancel():  # the server is stopping, not the caller leaving
                raise
        finally:
            peer.left = None

    async def _serve(
        self, dialect: Dialect, key: Caller, parent: TraceParent, once: str, data: bytes, send: Send, hold: Hold
    ) -> None:
        answer = Answer(send, parent.trace_id)
        keys = self._gateway.idempotency
        try:
            prompt = openclaw.in_turn(dialect.read(data, key), key)
            serving = self._routes.serving(prompt.model)
            name, _ = self._arms.route(serving, prompt.request)

            def arm() -> Part | None:
                nonlocal name
                name, part = self._arms.route(serving, prompt.request)
                return part

            claimed = keys.once(once, caller=key.id, operation=PREFIX + dialect.path, body=data) if once else None
            answer.keeps = MAX_KEPT_BYTES if claimed else MAX_RESULT_BYTES if self._gateway.keeps_results else 0
            answer.meter = meter = Meter(prompt, self._routes.tariff(name), says=dialect.says)
            last = b""
            async with self._gateway.action(
                prompt.request,
                caller=key.id,
                parent=parent,
                once=claimed,
                arm=arm,
                hold=hold,
                wish=meter.wish,
            ) as governed:
                answer.decided(governed.decision)
                answer.decide = _left_to_the_gateway
                if prompt.request.subject.type != TURN:
                    answer.decide = lambda asked: self._answers.decide(governed, asked)
                last = await self._run(dialect, prompt, governed, name, answer)
            await answer.end(last)
        except Replay as before:
            kept = msgspec.msgpack.decode(before.answer, type=Kept)
            await answer.give(msgspec.structs.replace(kept, headers={**kept.headers, "idempotent-replayed": "true"}))
        except TooSlow:
            raise
        except CheckreinError as error:
            if not answer.is_decided and (reason := refused.reason(error)):
                self._refusals.note(reason, key.id)
            if answer.begun:
                await answer.cut(error)
                return
            await answer.give(self._refusal(error, answer))

    async def _run(
        self, dialect: Dialect, prompt: openai.Prompt, governed: Governed, name: str, answer: Answer
    ) -> bytes:
        """Forward; whatever the caller is told in the end is handed over to be kept."""
        try:
            last = await self._forward(dialect, prompt, governed, name, answer)
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

    async def _forward(
        self, dialect: Dialect, prompt: openai.Prompt, governed: Governed, name: str, answer: Answer
    ) -> bytes:
        """Send the action upstream and its answer down; returns the last part, to be sent once all is recorded."""

        def payload(route: Route) -> bytes:
            if answer.meter:
                answer.meter.tariff = route.tariff
            handle = self._gateway.turn(governed).handle if route.agent else ""
            model = route.aliases.get(prompt.model, "")
            return openai.upstream_body(
                prompt, governed.request, redacted=governed.redacted, handle=handle, model=model
            )

        await self._hosted(prompt, governed)
        # not the caller's key: under our credential it would be one and the same for all callers
        sent_ns = perf_counter_ns()
        sent = await self._routes.send(name, dialect.path, payload, trace.sent(governed.context))
        first_us = (perf_counter_ns() - sent_ns) // 1000
        reply, speech = sent.reply, self._answers.speech(governed)
        about: dict[str, object] = {"upstream": sent.tried[-1], "http_status": reply.status, "first_us": first_us}
        if len(sent.tried) > 1:
            about["tried"] = list(sent.tried)
        try:
            speech.begin()
            last, detail = await self._answer(dialect, prompt, reply, answer, speech)
            detail |= await self._answers.record(governed, speech)
        except UpstreamUnavailable:
            governed.ended("failed", error="UpstreamUnavailable", detail=about)
            raise
        except TooSlow:
            governed.ended("cancelled", error="TooSlow", detail=about)
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

    async def _hosted(self, prompt: openai.Prompt, governed: Governed) -> None:
        """Decide the tools that the upstream would run itself: nobody sees those calls before they run."""
        hosted = [Proposal(kind, setup) for kind, setup in prompt.hosted()]
        for verdict in await self._answers.decide(governed, hosted) if hosted else ():
            if not verdict.passes:
                governed.never_ran()
                raise verdict.error()

    async def _answer(
        self, dialect: Dialect, prompt: openai.Prompt, reply: Reply, answer: Answer, speech: Speech
    ) -> tuple[bytes, dict[str, object]]:
        """The last part of the answer, and what is recorded about it."""
        kept = {name: reply.headers[name] for name in ANSWER_HEADERS if name in reply.headers}
        if prompt.stream and "text/event-stream" in kept.get("content-type", ""):
            await answer.begin(reply.status, answer.headers({**kept, "cache-control": "no-store"}))
            return await answer.stream(reply, dialect.stream(speech))
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
            whole = dialect.whole(body, speech)
            verdicts = await answer.verdicts(whole.asked)
            body, detail = whole.settle(verdicts), detail | calls(verdicts)
        else:
            body = failure(body, speech)
        return answer.prepare(reply.status, answer.headers(kept), body), detail


async def _left_to_the_gateway(asked: Sequence[Proposal]) -> tuple[Verdict, ...]:
    """In a turn the agent's own gateway asks about each tool call, before it runs."""
    return tuple(Verdict() for _ in asked)


async def _left(receive: Receive) -> None:
    """Returns when the caller has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
