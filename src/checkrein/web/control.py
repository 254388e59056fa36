"""What operators do to a running deployment: kill and revive; who used how much of what.

`/api/v1/kill` and `/api/v1/revive` need a key that may `operate`, `/api/v1/killed` and `/api/v1/limits` one that may
`operate` or `audit`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein.model import BadRequest, Caller, Permission, Unauthorized
from checkrein.model.json import JsonObject, dumps, load_object
from checkrein.model.target import Target, holder
from checkrein.services.killswitch import KillSwitch, Switch
from checkrein.services.limits import Limits, wanting
from checkrein.web import body
from checkrein.web.guard import allow
from checkrein.web.headers import require_json

KILL, REVIVE, KILLED, LIMITS = "/api/v1/kill", "/api/v1/revive", "/api/v1/killed", "/api/v1/limits"
#: accounts in one answer
MAX_LINES = 1000
_MAX_BYTES = 64 * 1024
_MEMBERS = ("what", "name", "reason")


class Control:
    def __init__(self, killswitch: KillSwitch, limits: Limits) -> None:
        self._killswitch = killswitch
        self._limits = limits

    async def kill(self, http: HttpRequest) -> Response:
        """`{"what": "agent", "name": "billing-bot", "reason": "..."}`; answers with the switch."""
        return await self._throw(http, self._killswitch.kill)

    async def revive(self, http: HttpRequest) -> Response:
        """The same body; answers with the switch that held it."""
        return await self._throw(http, self._killswitch.revive)

    async def killed(self, http: HttpRequest) -> Response:
        """What is killed now, oldest first."""
        allow(http.scope, Permission.OPERATE, Permission.AUDIT)
        found = await asyncio.to_thread(self._killswitch.killed)
        return _json({"killed": [switch.to_json() for switch in found]})

    async def limits(self, http: HttpRequest) -> Response:
        """What was used, by kind and name; `?what=agent&name=billing-*` asks for some of them."""
        allow(http.scope, Permission.OPERATE, Permission.AUDIT)
        given = http.query_params
        for name in given:
            if name not in ("what", "name"):
                raise BadRequest(f"`{name[:80]}` is no filter", hint="there are what, name")
        wanted = wanting(given.get("what", ""), given.get("name", ""))
        found = await asyncio.to_thread(lambda: list(islice(self._limits.lines(wanted), MAX_LINES)))
        return _json({"limits": [line.to_json() for line in found]})

    async def _throw(self, http: HttpRequest, act: Callable[..., Switch]) -> Response:
        key = allow(http.scope, Permission.OPERATE)
        require_json(http.headers)
        value = load_object(await body.read(http.headers, http.receive, _MAX_BYTES))
        what, name, reason = _read(value)

        def throw() -> Switch:
            self._require_alive(key)
            return act(Target.parse(what, name), reason=reason, by=key.owner)

        switch = await asyncio.to_thread(throw)
        return _json(switch.to_json())

    def _require_alive(self, key: Caller) -> None:
        """A key that is killed, or whose owner or agent is, does not revive itself."""
        if switch := self._killswitch.barring(holder(key)):
            raise Unauthorized(
                f"`{switch.target}` is killed", hint="use another key, or the command line", forbidden=True
            )


def _read(value: JsonObject) -> tuple[str, str, str]:
    for name in value:
        if name not in _MEMBERS:
            raise BadRequest(f"`{name[:80]}` is not a member of this request", hint=f"send {', '.join(_MEMBERS)}")
    texts = [value.get(name, "") for name in _MEMBERS]
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest("a member is not text", hint=f"send {', '.join(_MEMBERS)} as text")
    what, name, reason = map(str, texts)
    return what, name, reason


def _json(value: object) -> Response:
    return Response(dumps(value), media_type="application/json")
