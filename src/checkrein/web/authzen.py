"""OpenID AuthZEN Authorization API 1.0: `/access/v1/evaluation` and `/access/v1/evaluations`.

A denial is HTTP 200 with `"decision": false`; 400, 401, 403 and 503 speak only about the call itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein.model import ApiKey, BadRequest, Permission, Request, Unauthorized
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
STOP_AFTER = {"execute_all": None, "deny_on_first_deny": False, "permit_on_first_permit": True}


class AuthZen:
    def __init__(self, gateway: Gateway, *, max_body_bytes: int) -> None:
        self._gateway = gateway
        self._limit = max_body_bytes

    async def evaluation(self, http: HttpRequest) -> Response:
        """One decision, recorded before it is given."""
        key = allow(http.scope, Permission.DECIDE, Permission.CALL)
        value = load_object(await body.read(http.headers, http.receive, self._limit))
        return _answer(await self._evaluate(value, key))

    async def evaluations(self, http: HttpRequest) -> Response:
        """A batch: top-level members are defaults; one item that errs is a denial of that item."""
        key = allow(http.scope, Permission.DECIDE, Permission.CALL)
        value = load_object(await body.read(http.headers, http.receive, self._limit))
        defaults = {name: value[name] for name in MEMBERS if name in value}
        items = value.get("evaluations")
        if items is None:
            return _answer(await self._evaluate(defaults, key))
        if not isinstance(items, list) or not 0 < len(items) <= MAX_EVALUATIONS:
            raise BadRequest(f"`evaluations` is not a list of 1 to {MAX_EVALUATIONS} items", hint="send fewer")
        stop_after = _stop_after(value.get("options"))
        answers: list[Mapping[str, object]] = []
        for item in items:
            answers.append(await self._item(item, defaults, key))
            if stop_after is not None and answers[-1]["decision"] is stop_after:
                break
        return _answer({"evaluations": answers})

    async def _item(self, item: object, defaults: Mapping[str, object], key: ApiKey) -> Mapping[str, object]:
        try:
            if not isinstance(item, dict):
                raise BadRequest("the item is not an object")
            return await self._evaluate({**defaults, **item}, key)
        except (BadRequest, Unauthorized) as error:
            status = 403 if isinstance(error, Unauthorized) else 400
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
    if request.subject.id != key.owner:
        raise Unauthorized(
            f"this key speaks for `{key.owner}` only",
            hint="an enforcement point needs a key made with `--can decide`",
            forbidden=True,
        )
    context = {**request.context, "agent": {"id": key.agent}} if key.agent else request.context
    return msgspec.structs.replace(request, subject=key.subject(), context=context)


def _stop_after(options: object) -> bool | None:
    semantic = options.get("evaluations_semantic", "execute_all") if isinstance(options, dict) else "execute_all"
    if not isinstance(semantic, str) or semantic not in STOP_AFTER:
        raise BadRequest("`options.evaluations_semantic` is not known", hint=f"choose one of {', '.join(STOP_AFTER)}")
    return STOP_AFTER[semantic]


def _answer(value: Mapping[str, object]) -> Response:
    return Response(dumps(value), media_type="application/json")
