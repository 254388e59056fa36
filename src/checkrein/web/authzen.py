"""OpenID AuthZEN Authorization API 1.0: `/access/v1/evaluation`, `/access/v1/evaluations` and the metadata.

A denial is HTTP 200 with `"decision": false`; 400, 401, 403 and 503 speak only about the call itself. Within a
batch they stand at the item they are about, and the items before it keep their answers.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein.connectors import openclaw
from checkrein.decide.redact import Placeholders
from checkrein.model import (
    BadRequest,
    Caller,
    Decision,
    IdempotencyConflict,
    Outcome,
    Permission,
    Request,
    StoreUnavailable,
    Unauthorized,
)
from checkrein.model.json import dumps, load_object
from checkrein.model.vocabulary import Vocabulary
from checkrein.services.gateway import Gateway
from checkrein.services.idempotency import Once
from checkrein.services.reconcile import Call, Gateways
from checkrein.services.refusals import Refusals
from checkrein.services.search import Sought
from checkrein.services.spans import TraceParent
from checkrein.web import body, refused, trace
from checkrein.web.guard import allow
from checkrein.web.headers import idempotency_key, require_json

EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"
#: what of this a search is for follows; `search` serves it
SEARCH = "/access/v1/search/"
METADATA = "/.well-known/authzen-configuration"
#: where a denial that people may lift is submitted; `access_requests` serves it
REQUESTS = "/access/v1/requests"
ACCESS_REQUESTS = "urn:openid:authzen:capability:access-request"

#: an evaluation for each would keep one caller busy for long
MAX_EVALUATIONS = 100
MEMBERS = ("subject", "action", "resource", "context")
#: stop rules of a batch, by the value of `options.evaluations_semantic`
STOP_AFTER: Mapping[str, bool | None] = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}
#: status of an error that is about one item of a batch
ITEM_STATUS: Mapping[type[Exception], int] = {
    BadRequest: 400,
    Unauthorized: 403,
    IdempotencyConflict: 409,
    StoreUnavailable: 503,
}


class _Call(msgspec.Struct, frozen=True):
    """What holds for every item of a call: whose it is, its `traceparent` if it has one, its idempotency key."""

    key: Caller
    parent: TraceParent
    once: Once | None


class AuthZen:
    """`public_url` is where callers find this server, if that is not what they write into `Host`; `vocabulary` is what
    they call things.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        vocabulary: Vocabulary,
        max_body_bytes: int,
        refusals: Refusals,
        public_url: str = "",
        gateways: Gateways | None = None,
    ) -> None:
        self._gateway = gateway
        self._vocabulary = vocabulary
        self._refusals = refusals
        self._gateways = gateways
        self._limit = max_body_bytes
        self._public_url = public_url

    async def metadata(self, http: HttpRequest) -> Response:
        """Where the endpoints are; only those that exist."""
        base = base_url(http, self._public_url)
        found = {
            "policy_decision_point": base,
            "access_evaluation_endpoint": base + EVALUATION,
            "access_evaluations_endpoint": base + EVALUATIONS,
            **{f"search_{sought}_endpoint": f"{base}{SEARCH}{sought}" for sought in Sought},
            "access_request_endpoint": base + REQUESTS,
            "capabilities": [ACCESS_REQUESTS],
        }
        return Response(dumps(found), media_type="application/json")

    async def evaluation(self, http: HttpRequest) -> Response:
        """One decision, recorded before it is given."""
        value, call = await self._read(http)
        return _one(await self._evaluate(value, call, call.once))

    async def evaluations(self, http: HttpRequest) -> Response:
        """A batch: top-level members are defaults; one item that errs is a denial of that item."""
        value, call = await self._read(http)
        items = value.get("evaluations", [])
        if not isinstance(items, list) or len(items) > MAX_EVALUATIONS:
            raise BadRequest(
                f"`evaluations` is not a list of at most {MAX_EVALUATIONS} items", hint="send several batches"
            )
        stop_after = _stop_after(value.get("options", {}))
        defaults = {name: value[name] for name in MEMBERS if name in value}
        for name, default in defaults.items():
            if not isinstance(default, dict):
                raise BadRequest(f"`{name}` is not an object", hint="leave it out, or send one")
        if not items:
            return _one(await self._evaluate(defaults, call, call.once))
        answers: list[Mapping[str, object]] = []
        for index, item in enumerate(items):
            answers.append(await self._item(index, item, defaults, call))
            if answers[-1]["decision"] is stop_after:
                break
        return Response(dumps({"evaluations": answers}), media_type="application/json")

    async def _read(self, http: HttpRequest) -> tuple[dict[str, object], _Call]:
        key = allow(http.scope, Permission.DECIDE, Permission.CALL)
        require_json(http.headers)
        given = idempotency_key(http.headers)
        data = await body.read(http.headers, http.receive, self._limit)
        value = load_object(data)
        keys, path = self._gateway.idempotency, http.url.path
        once = keys.once(given, caller=key.id, operation=path, body=data) if given else None
        return value, _Call(key, trace.given(http.headers), once)

    async def _item(
        self, index: int, item: object, defaults: Mapping[str, object], call: _Call
    ) -> Mapping[str, object]:
        try:
            if not isinstance(item, dict):
                raise BadRequest("the item is not an object")
            once = self._gateway.idempotency.item(call.once, index) if call.once else None
            return await self._evaluate({**defaults, **item}, call, once)
        except (BadRequest, Unauthorized, IdempotencyConflict, StoreUnavailable) as error:
            if reason := refused.reason(error):
                self._refusals.note(reason, call.key.id)
            status = next(status for kind, status in ITEM_STATUS.items() if isinstance(error, kind))
            return {"decision": False, "context": {"error": {"status": status, "message": str(error)}}}

    async def _evaluate(self, value: Mapping[str, object], call: _Call, once: Once | None) -> Mapping[str, object]:
        request = in_our_words(Request.from_json(value), call.key, self._vocabulary)
        # only an enforcement point is believed when it says that it asks for a gateway
        told = openclaw.asked(request.context) if self._gateways and believed(call.key) else None
        if told and self._gateways:
            self._gateways.admit(told.gateway)
        made = await self._gateway.evaluate(
            request,
            caller=call.key.id,
            parent=call.parent,
            once=once,
            supported_obligations=request.context.get("supported_obligations"),
        )
        if told and self._gateways:
            self._gateways.decided(told.gateway, Call(run=told.run, call=told.call, tool=told.tool), made)
        clean = (
            self._gateway.redacted(request, made, Placeholders())
            if made.outcome is Outcome.ALLOW_WITH_REDACTION
            else None
        )
        return _answer(request, made, clean)


def _answer(request: Request, made: Decision, clean: object) -> Mapping[str, object]:
    """The answer to a request.

    To a redaction belong the arguments as they may leave (`clean`), for callers that cannot redact; to an approval that
    was presented, that the decision rests on it, or what to do now where it did not help.
    """
    answer = made.to_json()
    context = answer["context"]
    if not isinstance(context, dict):
        return answer
    if made.outcome is Outcome.ALLOW_WITH_REDACTION:
        context["input"] = clean
    if made.outcome.runs and made.approval_id:
        context["approval"] = {"id": made.approval_id, "approved_until": made.approval_expires_at}
    elif request.context.get("approval") is not None and not made.outcome.runs:
        context["next_action"] = "request" if made.outcome is Outcome.REQUIRE_REVIEW else "none"
    return answer


def base_url(http: HttpRequest, public_url: str) -> str:
    """Where callers find this server: what was configured, else what this caller wrote."""
    return public_url.rstrip("/") or f"{http.url.scheme}://{http.headers['host']}"


def believed(key: Caller) -> bool:
    """Whether it is an enforcement point: that names the subject, and knows what it asks about."""
    return Permission.DECIDE in key.permissions


def in_our_words(request: Request, key: Caller, vocabulary: Vocabulary) -> Request:
    """The request as it is decided: who the key may speak for, what is asked for, and what is known of it."""
    return vocabulary.inward(as_caller(request, key), believed=believed(key))


def as_caller(request: Request, key: Caller) -> Request:
    """The request with a subject the key may speak for.

    A key that may `decide` is an enforcement point and names the subject. Any other key speaks for its owner
    only, with the key's own roles and agent.
    """
    if believed(key):
        return request
    if (request.subject.type, request.subject.id) != ("user", key.owner):
        raise Unauthorized(
            f"this key speaks for the user `{key.owner}` only",
            hint="an enforcement point needs a key made with `--can decide`",
            forbidden=True,
        )
    context = {name: value for name, value in request.context.items() if name != "agent"}
    if key.agent:
        context["agent"] = {"id": key.agent}
    return msgspec.structs.replace(request, subject=key.subject(), context=context)


def _stop_after(options: object) -> bool | None:
    """The decision that ends a batch; None when none does."""
    if not isinstance(options, dict):
        raise BadRequest("`options` is not an object", hint="leave it out, or send one")
    semantic = options.get("evaluations_semantic", "execute_all")
    if not isinstance(semantic, str) or semantic not in STOP_AFTER:
        raise BadRequest("`options.evaluations_semantic` is not known", hint=f"choose one of {', '.join(STOP_AFTER)}")
    return STOP_AFTER[semantic]


def _one(answer: Mapping[str, object]) -> Response:
    context = answer["context"]
    trace_id = context["trace_id"] if isinstance(context, dict) else ""
    return Response(dumps(answer), media_type="application/json", headers={trace.HEADER: trace_id})
