"""What operators and monitors ask: is it alive, is it ready, what was recorded.

`/api/v1/audit/records` and `/api/v1/activities` need a key that may `audit`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from checkrein.model import BadRequest, Permission
from checkrein.model.json import dumps, loads
from checkrein.services import filters
from checkrein.services.audit import Audit
from checkrein.web.guard import allow

MAX_ROWS = 1000
_PARAMETERS = (*filters.NAMES, "after_seq", "limit", "order")
_ORDERS = ("asc", "desc")


class Admin:
    """`failing` names what is not in order right now; an empty tuple means ready.

    `warnings` are what to look at; they keep nothing from running.
    """

    def __init__(
        self,
        audit: Audit,
        failing: Callable[[], tuple[str, ...]],
        warnings: Callable[[], tuple[str, ...]],
        *,
        now_us: Callable[[], int],
    ) -> None:
        self._audit = audit
        self._failing = failing
        self._warnings = warnings
        self._now_us = now_us

    async def healthz(self, http: HttpRequest) -> Response:
        """The process answers."""
        return JSONResponse({"ok": True, "status": "live"})

    async def readyz(self, http: HttpRequest) -> Response:
        """503 while something would keep actions from being decided or recorded.

        A new policy version that is refused is a warning: the one before it decides.
        """
        failing = self._failing()
        answer = {"ready": not failing, "failing": list(failing), "warnings": list(self._warnings())}
        return JSONResponse(answer, status_code=503 if failing else 200)

    async def records(self, http: HttpRequest) -> Response:
        """Records as JSON, newest first unless `order=asc`. `services.filters` names the filters; they add up."""
        allow(http.scope, Permission.AUDIT)
        given = _given(http, _PARAMETERS)
        order = given.get("order", "desc")
        if order not in _ORDERS:
            raise BadRequest(f"`{order[:40]}` is no order", hint=f"choose {', '.join(_ORDERS)}")
        query = msgspec.structs.replace(
            filters.query(given, now_us=self._now_us()),
            after_seq=_number(given.get("after_seq"), -1),
            limit=_limit(given.get("limit")),
            newest_first=order == "desc",
        )
        records = await asyncio.to_thread(lambda: list(self._audit.records(query)))
        return _json({"records": [loads(record.data) for record in records]})

    async def activities(self, http: HttpRequest) -> Response:
        """What happened, one row an action, newest first."""
        allow(http.scope, Permission.AUDIT)
        given = _given(http, ("user", "limit"))
        rows = self._audit.activities(user=given.get("user", ""), limit=_limit(given.get("limit")))
        return _json({"activities": [msgspec.to_builtins(row) for row in rows]})


def _given(http: HttpRequest, known: tuple[str, ...]) -> Mapping[str, str]:
    """The parameters; one that is not understood must not look as if it had been applied."""
    for name in http.query_params:
        if name not in known:
            raise BadRequest(f"`{name[:80]}` is no filter", hint=f"there are {', '.join(known)}")
    return http.query_params


def _json(value: object) -> Response:
    return Response(dumps(value), media_type="application/json")


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise BadRequest(f"`{text[:40]}` is not a number", hint="send digits")
    return int(text)


def _limit(text: str | None) -> int:
    limit = _number(text, 100)
    if not 0 < limit <= MAX_ROWS:
        raise BadRequest(f"`limit` is not between 1 and {MAX_ROWS}", hint="page with `after_seq`")
    return limit
