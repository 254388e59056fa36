"""`POST /tools/invoke`: one tool of an OpenClaw Gateway, called without a prompt, governed as any other action.

The caller's session never reaches the gateway. The turn's handle stands in its place, so that the plugin inside, which
is asked again, decides for the same person.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein.connectors import openclaw
from checkrein.model import (
    ApprovalRequired,
    BadRequest,
    Denied,
    NotFound,
    Permission,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from checkrein.model.json import dumps, loads
from checkrein.ports import Reply, Upstream
from checkrein.services.gateway import Gateway
from checkrein.services.governed import Governed
from checkrein.services.idempotency import Replay
from checkrein.services.results import Result, Results
from checkrein.services.speech import Withheld
from checkrein.web import body, trace
from checkrein.web.answer import Kept
from checkrein.web.guard import allow
from checkrein.web.headers import idempotency_key, require_json

PATH = "/tools/invoke"
#: names the gateway where several are configured
UPSTREAM_HEADER = "x-checkrein-upstream"
MAX_ANSWER_BYTES = 8 * 1024 * 1024
#: what readers of JSON skip at its beginning, the mark of the byte order too
_BEFORE_JSON = "\ufeff \t\r\n"


class Invoke:
    """`gateways` are the OpenClaw upstreams by name, each at its root."""

    def __init__(self, gateway: Gateway, gateways: Mapping[str, Upstream], *, max_body_bytes: int) -> None:
        self._gateway = gateway
        self._results = Results(gateway)
        self._gateways = gateways
        self._limit = max_body_bytes

    async def invoke(self, http: HttpRequest) -> Response:
        """Decide, record, call the tool, record the end; denials in OpenClaw's words."""
        key = allow(http.scope, Permission.CALL)
        require_json(http.headers)
        once, data = idempotency_key(http.headers), await body.read(http.headers, http.receive, self._limit)
        wanted = openclaw.read_invoke(data)
        upstream = self._named(http.headers.get(UPSTREAM_HEADER, ""))
        parent, keys = trace.parent(http.scope, http.headers), self._gateway.idempotency
        operation = f"{PATH} {upstream.name}"
        claimed = keys.once(once, caller=key.id, operation=operation, body=data) if once else None
        try:
            asked = wanted.request(key, upstream.name)
            async with self._gateway.action(asked, caller=key.id, parent=parent, once=claimed) as governed:
                kept = await self._called(wanted, upstream, governed)
        except Replay as before:
            kept = msgspec.msgpack.decode(before.answer, type=Kept)
            return _told(msgspec.structs.replace(kept, headers={**kept.headers, "idempotent-replayed": "true"}))
        except (Denied, ApprovalRequired) as error:
            return _told(_kept(403, dumps(openclaw.refusal(error)), error.decision.trace_id))
        return _told(kept)

    async def _called(self, wanted: openclaw.Invoke, upstream: Upstream, governed: Governed) -> Kept:
        """Call the tool and say how it ended; what the caller is told."""
        sent = wanted.body(governed.request.action.input, self._gateway.turn(governed).handle)
        try:
            reply = await upstream.send(PATH, sent, trace.sent(governed.context))
        except UpstreamUnreachable:
            governed.never_ran()
            raise
        try:
            answer = await _whole(reply)
        finally:
            await reply.close()
        status = "ok" if reply.status < 400 else "failed"
        error = "" if status == "ok" else f"http_{reply.status}"
        detail = {"upstream": upstream.name, "http_status": reply.status, "bytes": len(answer)}
        governed.answered(answer)
        trace_id = governed.decision.trace_id
        result, told = self._decided(governed, answer)
        await self._results.record(governed, result)
        try:
            result.check()
            kept = _kept(reply.status, told, trace_id)
        except Withheld as withheld:  # the tool ran: this is its answer, under an idempotency key too
            status, error = "failed", "Withheld"
            kept = _kept(403, dumps(openclaw.refusal(withheld)), trace_id)
        governed.ended(status, error=error, detail={**detail, **result.detail()})
        governed.replies(msgspec.msgpack.encode(kept))
        return kept

    def _decided(self, governed: Governed, answer: bytes) -> tuple[Result, bytes]:
        """The answer, decided as the JSON it is or else as a text, and what is left of it."""
        try:
            text = answer.decode()
        except UnicodeDecodeError:  # readers could take it for different texts
            return self._results.decide(governed, "", opaque=True), answer
        try:
            value: object = loads(text)
        except BadRequest:
            if _has_members(text):  # and so could they here
                return self._results.decide(governed, "", opaque=True), answer
            result = self._results.decide(governed, text)
            return result, str(result.value).encode()
        result = self._results.decide(governed, value)
        return result, dumps(result.value) if result.changed else answer

    def _named(self, name: str) -> Upstream:
        if not name and len(self._gateways) == 1:
            return next(iter(self._gateways.values()))
        found = self._gateways.get(name)
        if found is None:
            known = ", ".join(self._gateways) or "none"
            raise NotFound("that is no configured gateway", hint=f"name one in `{UPSTREAM_HEADER}`: {known}")
        return found


def _has_members(text: str) -> bool:
    """Whether a reader that is less strict than we are may find members in what we refuse as JSON."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text.lstrip(_BEFORE_JSON))
    except json.JSONDecodeError:
        return False
    except (RecursionError, ValueError):  # ... of a number that is too long
        return True
    return isinstance(value, dict | list)


async def _whole(reply: Reply) -> bytes:
    data = bytearray()
    async for part in reply.body():
        data += part
        if len(data) > MAX_ANSWER_BYTES:
            raise UpstreamUnavailable(f"the tool's answer is longer than {MAX_ANSWER_BYTES} bytes", hint="ask for less")
    return bytes(data)


def _kept(status: int, answer: bytes, trace_id: str) -> Kept:
    return Kept(status, {"content-type": "application/json", trace.HEADER: trace_id}, answer)


def _told(kept: Kept) -> Response:
    return Response(kept.body, kept.status, kept.headers)
