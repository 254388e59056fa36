"""`GET /v1/models`: what can be asked for here.

Models that the configuration names are listed as they are. For patterns (`gpt-*`, `*`) the upstream is asked for its
own list, and of it stands here what would go to that upstream. An upstream that does not answer is left out.
"""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein.connectors.completions import Json
from checkrein.connectors.sse import load, unreadable
from checkrein.model import CheckreinError, NotFound, Permission
from checkrein.model.json import dumps
from checkrein.ports import Upstream
from checkrein.web.guard import allow
from checkrein.web.routes import Routes

log = logging.getLogger("checkrein.web")
MODELS = "/v1/models"
#: names of models may hold slashes
MODEL = f"{MODELS}/{{model:path}}"
#: seconds that an upstream's list is remembered, and seconds it may take
FRESH_S, PATIENCE_S = 60.0, 5.0
MAX_LIST_BYTES = 4 * 1024 * 1024
#: what is told of a model, where the upstream says it in that type
_MEMBERS: dict[str, type] = {"created": int, "owned_by": str, "backend": str}


class Models:
    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._known: dict[str, tuple[float, list[Json]]] = {}

    async def every(self, http: HttpRequest) -> Response:
        allow(http.scope, Permission.CALL)
        return _json({"object": "list", "data": await self._all()})

    async def one(self, http: HttpRequest) -> Response:
        allow(http.scope, Permission.CALL)
        name = http.path_params["model"]
        found = next((model for model in await self._all() if model["id"] == name), None)
        if found is None:
            raise NotFound(f"there is no model `{name[:200]}`", hint="`/v1/models` lists them")
        return _json(found)

    async def _all(self) -> list[Json]:
        named: list[Json] = [
            {"id": model, "object": "model", "owned_by": "checkrein"} for model in self._routes.named()
        ]
        lists = await asyncio.gather(*(self._asked(name, upstream) for name, upstream in self._routes.open()))
        models = {str(model["id"]): model for given in lists for model in given} | {str(m["id"]): m for m in named}
        return [models[name] for name in sorted(models)]

    async def _asked(self, name: str, upstream: Upstream) -> list[Json]:
        at, known = self._known.get(name, (0.0, []))
        if at and time.monotonic() - at < FRESH_S:
            return known
        try:
            async with asyncio.timeout(PATIENCE_S):
                known = await self._read(name, upstream)
        except (CheckreinError, TimeoutError) as error:
            log.warning("the models of `%s` are not listed: %s", name, str(error) or "no answer in time")
            known = []
        self._known[name] = (time.monotonic(), known)
        return known

    async def _read(self, name: str, upstream: Upstream) -> list[Json]:
        reply = await upstream.get("/models", {})
        data = b""
        try:
            async for part in reply.body():
                data += part
                if len(data) > MAX_LIST_BYTES:
                    raise unreadable("a list of models that does not end")
        finally:
            await reply.close()
        given = load(data, "a list of models").get("data") if reply.status == 200 else None
        if not isinstance(given, list):
            raise unreadable("no list of models")
        ids = [item for item in given if isinstance(item, dict) and isinstance(item.get("id"), str)]
        return [_told(item) for item in ids if self._routes.goes_to(str(item["id"])) == name]


def _told(item: Json) -> Json:
    known = {name: item[name] for name, kind in _MEMBERS.items() if isinstance(item.get(name), kind)}
    return {"id": item["id"], "object": "model", **known}


def _json(value: object) -> Response:
    return Response(dumps(value), media_type="application/json")
