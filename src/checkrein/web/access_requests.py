"""`/access/v1/requests` by the OpenID AuthZEN Access Request and Approval profile (draft 1).

A decision that needs people says `context.access_request`; whoever enforces it submits that here, is handed a task, and
looks at the task until it is settled. `approved` lets nothing run: the decision is asked for again with
`context.approval`, and made afresh. Errors are RFC 9457 problems of the types that the profile names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein.model import BadRequest, Caller, Permission, Request
from checkrein.model.json import dumps, fold_bytes, load_object
from checkrein.model.vocabulary import Vocabulary
from checkrein.ports import Clock
from checkrein.services.access_requests import AccessRefused, AccessRequests, Denial, task
from checkrein.services.approvals import Approvals
from checkrein.services.idempotency import Idempotency
from checkrein.services.waiting import Drain, Waiting
from checkrein.web import body
from checkrein.web.authzen import REQUESTS, base_url, in_our_words
from checkrein.web.guard import allow
from checkrein.web.headers import idempotency_key, preferred_wait, require_json

TASK = f"{REQUESTS}/{{id}}"
ERRORS = "urn:openid:authzen:access-request:error:"
#: status of each error that the profile names
STATUS: Mapping[str, int] = {
    "not_requestable": 400,
    "invalid_denial_binding": 400,
    "unknown_task": 404,
    "duplicate_request": 409,
    "expired_denial": 410,
}
#: how long a look at a task may wait for its end (`Prefer: wait`), in seconds
MAX_WAIT_S = 60


class AccessRequestRoutes:
    """`public_url` and `vocabulary` as in `AuthZen`; `retry_after_s` is told to who looks at a task that is pending."""

    def __init__(
        self,
        requests: AccessRequests,
        approvals: Approvals,
        waiting: Waiting,
        keys: Idempotency,
        clock: Clock,
        drain: Drain,
        *,
        vocabulary: Vocabulary,
        max_body_bytes: int,
        retry_after_s: int,
        public_url: str = "",
    ) -> None:
        self._requests = requests
        self._approvals = approvals
        self._waiting = waiting
        self._keys = keys
        self._clock = clock
        self._drain = drain
        self._limit = max_body_bytes
        self._retry_after_s = retry_after_s
        self._public_url = public_url
        self._vocabulary = vocabulary

    async def submit(self, http: HttpRequest) -> Response:
        """202 and the task, 201 if it is settled already; the same one for every submission of the same denial."""
        key = allow(http.scope, Permission.DECIDE, Permission.CALL)
        require_json(http.headers)
        given = idempotency_key(http.headers)
        value = load_object(await body.read(http.headers, http.receive, self._limit))
        request = in_our_words(_request(value), key, self._vocabulary)
        denial = _denial(value.get("denial"))
        once = None
        if given:
            same = fold_bytes(value)
            once = self._keys.once(given, caller=key.id, operation=REQUESTS, body=same)
        approval = await asyncio.to_thread(self._requests.submit, request, denial, once)
        return self._answer(http, approval.id, submitted=True)

    async def task(self, http: HttpRequest) -> Response:
        """The task as it is; with `Prefer: wait=25` once it is settled, or after so many seconds."""
        key, id = allow(http.scope, Permission.DECIDE, Permission.CALL), http.path_params["id"]
        self._require(key, id)
        wait_s = min(preferred_wait(http.headers) or 0, MAX_WAIT_S)
        if wait_s:
            await self._waiting.settled(id, wait_s, self._drain)
        return self._answer(http, id)

    def _require(self, key: Caller, id: str) -> None:
        """Raise `AccessRefused` unless the caller may speak for the subject of this task."""
        stored = self._approvals.find(id)
        own = stored is not None and (stored.requester.type, stored.requester.id) == ("user", key.owner)
        if stored is None or not (own or Permission.DECIDE in key.permissions):
            raise AccessRefused("unknown_task", f"no task `{id[:80]}`", hint="submit the denial first")

    def _answer(self, http: HttpRequest, id: str, *, submitted: bool = False) -> Response:
        now = task(self._approvals.get(id), self._clock.now_us())
        place = f"{base_url(http, self._public_url)}{REQUESTS}/{id}"
        about = {"id": id, "status": now.status, "status_endpoint": place, "expires_at": now.expires_at}
        answer: dict[str, object] = {"task": about}
        headers = {"cache-control": "no-store"}
        status = 200
        if submitted:
            headers["location"] = place
            status = 202 if now.status == "pending" else 201
        if now.status == "pending":
            headers["retry-after"] = str(self._retry_after_s)
        if now.status == "approved":
            approval = {"id": id, "approved_at": now.approved_at, "approved_until": now.expires_at}
            answer["result"] = {"mode": "reevaluate", "approval": approval}
        return Response(dumps(answer), status_code=status, media_type="application/json", headers=headers)


def _request(value: Mapping[str, object]) -> Request:
    if "items" in value:
        raise BadRequest("`items` is not supported", hint="submit each denial by itself")
    return Request.from_json(value)


def _denial(value: object) -> Denial:
    """Raises `AccessRefused` for what binds to no decision."""
    try:
        return msgspec.convert(value, Denial)
    except msgspec.ValidationError as error:
        hint = "send `denial` with the `evaluation_id` and `access_request.expires_at` of the decision"
        raise AccessRefused("invalid_denial_binding", "`denial` is missing or cannot be read", hint=hint) from error
