"""AuthZEN's searches: `/access/v1/search/subject`, `/resource` and `/action`, for keys that may `decide`.

A page is at most `services.search.MAX_DECIDED` decisions long and may hold fewer results than were asked for, even
none; `page.next_token` is empty at the end. A token belongs to one search: with another it is a 400.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein.model import BadRequest, Permission, Request
from checkrein.model.json import canonical, dumps, fold, load_object
from checkrein.services.search import MAX_DECIDED, Search, Searches, Sought
from checkrein.web import body, trace
from checkrein.web.authzen import SEARCH
from checkrein.web.guard import allow
from checkrein.web.headers import require_json

_MAX_TOKEN = 4096
#: stands for the name of what is sought while the request is read
_ANY = "*"


class _Token(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page begins: the search it belongs to, its limit (-1 for none), and its first name."""

    search: str
    limit: int
    begin: str


class SearchRoutes:
    def __init__(self, searches: Searches, *, max_body_bytes: int) -> None:
        self._searches = searches
        self._limit = max_body_bytes

    async def search(self, http: HttpRequest) -> Response:
        """Who may, to what, or what may be done; which of them, the path says."""
        key = allow(http.scope, Permission.DECIDE)
        require_json(http.headers)
        data = await body.read(http.headers, http.receive, self._limit)
        value, sought = load_object(data), Sought(http.scope["path"].removeprefix(SEARCH))
        request = _request(value, sought)
        mark = hashlib.sha256(canonical([sought.value, fold(msgspec.to_builtins(request))])).hexdigest()
        limit, begin = _page(value.get("page", {}), mark)
        trace_id = trace.trace_id(http.scope, http.headers)
        found = await self._searches.page(
            Search(
                sought=sought,
                request=request,
                caller=key.id,
                trace_id=trace_id,
                begin=begin,
                limit=MAX_DECIDED if limit < 0 else limit,
                size=len(data),
            )
        )
        token = _sealed(_Token(mark, limit, found.following)) if found.following else ""
        shown = [_shown(sought, request, name) for name in found.found]
        answer = {"page": {"next_token": token, "count": len(shown)}, "results": shown}
        return Response(dumps(answer), media_type="application/json", headers={trace.HEADER: trace_id})


def _request(value: Mapping[str, object], sought: Sought) -> Request:
    """The request without the name of what is sought, and without whatever else the caller says of it."""
    asked = dict(value)
    if sought is Sought.ACTION:
        asked["action"] = {"name": _ANY}
    elif isinstance(given := value.get(sought.value), Mapping):
        asked[sought.value] = {**{name: given[name] for name in ("type",) if name in given}, "id": _ANY}
    request = Request.from_json(asked)
    field = "name" if sought is Sought.ACTION else "id"
    member = msgspec.structs.replace(getattr(request, sought.value), **{field: ""})
    return msgspec.structs.replace(request, **{sought.value: member})


def _page(given: object, mark: str) -> tuple[int, str]:
    """The limit, -1 for none, and the name that the page begins with; raises `BadRequest`."""
    if not isinstance(given, Mapping):
        raise BadRequest("`page` is not an object", hint="leave it out, or send one")
    limit, text = given.get("limit"), given.get("token")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise BadRequest("`page.limit` is not a number from 0 on", hint="leave it out for as many as there are")
    if not text:
        if text not in (None, ""):
            raise _foreign()
        return -1 if limit is None else min(limit, MAX_DECIDED), ""
    token = _opened(text)
    if token.search != mark or (limit is not None and min(limit, MAX_DECIDED) != token.limit):
        raise BadRequest("`page.token` is of another search", hint="send the same request again, with the token")
    return token.limit, token.begin


def _sealed(token: _Token) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode()


def _opened(text: object) -> _Token:
    if not isinstance(text, str) or not text.isascii() or len(text) > _MAX_TOKEN:
        raise _foreign()
    try:
        return msgspec.json.decode(base64.b64decode(text, altchars="-_", validate=True), type=_Token)
    except (binascii.Error, msgspec.MsgspecError) as error:
        raise _foreign() from error


def _foreign() -> BadRequest:
    return BadRequest("`page.token` is not one of this server", hint="send the `next_token` of the page before")


def _shown(sought: Sought, request: Request, name: str) -> dict[str, str]:
    if sought is Sought.ACTION:
        return {"name": name}
    member = request.subject if sought is Sought.SUBJECT else request.resource
    return {"type": member.type, "id": name}
