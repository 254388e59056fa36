"""OpenID AuthZEN Authorization API 1.0: `/access/v1/evaluation` and `/access/v1/evaluations`.

A denial is HTTP 200 with `"decision": false`; 400, 401, 403 and 503 speak only about the call itself. Within a
batch they stand at the item they are about, and the items before it keep their answers.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein.model import ApiKey, BadRequest, Permission, Request, StoreUnavailable, Unauthorized
from checkrein.model.json import dumps, load_object
from checkrein.services.gateway import Gateway
from checkrein.web import body
from checkrein.web.guard import allow

#: an evaluation for each would keep one caller busy for long
MAX_EVALUATIONS = 100
MEMBERS = ("subject", "action", "resource", "context")
#: the obligation types of the AuthZEN profile that a redaction needs the caller to know
REDACTION_TYPE = "custom"
#: stop rules of a batch, by the value of `options.evaluations_semantic`
STOP_AFTER: Mapping[str, bool | None] = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}
#: status of an error that is about one item of a batch
ITEM_STATUS: Mapping[type[Exception], int] = {BadRequest: 400, Unauthorized: 403, StoreUnavailable: 503}


class AuthZen:
    def __init__(self, gateway: Gateway, *, max_body_bytes: int) -> None:
        self._gateway = gateway
        self._limit = max_body_bytes

    async def evaluation(self, http: HttpRequest) -> Response:
        """One decision, recorded before it is given."""
        value, key = await self._read(http)
        return _one(await self._evaluate(value, key))

    async def evaluations(self, http: HttpRequest) -> Response:
        """A batch: top-level members are defaults; one item that errs is a denial of that item."""
        value, key = await self._read(http)
        items = value.get("evaluations", [])
        if not isinstance(items, list) or len(items) > MAX_EVALUATIONS:
            raise BadRequest(
                f"`evaluations` is not a list of at most {MAX_EVALUATIONS} items", hint="send several batches"
            )
        stop_after = _stop_after(value.get("options", {}))
        defaults = {name: value[name] for name in MEMBERS if name in value}
        if not items:
            return _one(await self._evaluate(defaults, key))
        answers: list[Mapping[str, object]] = []
        for item in items:
            answers.append(await self._item(item, defaults, key))
            if answers[-1]["decision"] is stop_after:
                break
        return Response(dumps({"evaluations": answers}), media_type="application/json")

    async def _read(self, http: HttpRequest) -> tuple[dict[str, object], ApiKey]:
        key = allow(http.scope, Permission.DECIDE, Permission.CALL)
        if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise BadRequest("the body is not declared as JSON", hint="send `Content-Type: application/json`")
        return load_object(await body.read(http.headers, http.receive, self._limit)), key

    async def _item(self, item: object, defaults: Mapping[str, object], key: ApiKey) -> Mapping[str, object]:
        try:
            if not isinstance(item, dict):
                raise BadRequest("the item is not an object")
            return await self._evaluate({**defaults, **item}, key)
        except (BadRequest, Unauthorized, StoreUnavailable) as error:
            status = next(status for kind, status in ITEM_STATUS.items() if isinstance(error, kind))
            return {"decision": False, "context": {"error": {"status": status, "message": str(error)}}}

    async def _evaluate(self, value: Mapping[str, object], key: ApiKey) -> Mapping[str, object]:
        request = as_caller(Request.from_json(value), key)
        supported = request.context.get("supported_obligations", ())
        made = await self._gateway.evaluate(request, caller=key.id)
        return made.to_json(obligations_supported=isinstance(supported, list) and REDACTION_TYPE in supported)


def as_caller(request: Request, key: ApiKey) -> Request:
    """The request with a subject the key may speak for.

    A key that may `decide` is an enforcement point and names the subject. Any other key speaks for its owner
    only, with the key's own roles and agent.
    """
    if Permission.DECIDE in key.permissions:
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
    return Response(dumps(answer), media_type="application/json", headers={"x-checkrein-trace-id": trace_id})
