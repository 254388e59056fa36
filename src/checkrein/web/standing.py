"""What holds beyond one request: `/api/v1/grants` that people gave, `/api/v1/delegations` of their votes.

A key that may `approve` or `audit` sees them. A grant is ended, a vote given away and taken back by the owner of a key
that may `approve`, as on the command line; no agent's key does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein.flow.grant import Grant
from checkrein.model import BadRequest, Caller, Permission, Unauthorized
from checkrein.model.json import dumps
from checkrein.ports import Clock
from checkrein.services.delegation import Delegations, StandIn, days, stand_in
from checkrein.services.grants import Grants
from checkrein.services.killswitch import KillSwitch
from checkrein.web import body
from checkrein.web.ballots import Absence, Nothing, Revocation, Said, barred, read
from checkrein.web.guard import allow
from checkrein.web.headers import require_json

GRANTS, DELEGATIONS = "/api/v1/grants", "/api/v1/delegations"
REVOKE = f"{GRANTS}/{{id}}/revoke"
GIVE, END = f"{DELEGATIONS}/give", f"{DELEGATIONS}/end"
_MAX_BODY = 64 * 1024
_FLAGS = {"true": True, "false": False}
Done = TypeVar("Done")


class StandingRoutes:
    def __init__(self, grants: Grants, delegations: Delegations, killswitch: KillSwitch, clock: Clock) -> None:
        self._grants = grants
        self._delegations = delegations
        self._killswitch = killswitch
        self._clock = clock

    async def grants(self, http: HttpRequest) -> Response:
        """Grants, the newest first: those that live, with `?all=true` also those that have ended."""
        allow(http.scope, Permission.APPROVE, Permission.AUDIT)
        _require_known(http, "all")
        every = _FLAGS.get(http.query_params.get("all", "false"))
        if every is None:
            raise BadRequest("`all` is neither `true` nor `false`", hint="leave it out")
        found = await asyncio.to_thread(lambda: self._grants.shown(live=not every))
        return _json({"grants": [grant_json(grant) for grant in found]})

    async def revoke(self, http: HttpRequest) -> Response:
        """End a grant: from the next request on people are asked again."""

        def revoke(key: Caller, said: Revocation) -> Grant:
            return self._grants.revoke(http.path_params["id"], by=key.owner, auth=key.id, reason=said.reason)

        return _json(grant_json(await self._done(http, Revocation, revoke)))

    async def delegations(self, http: HttpRequest) -> Response:
        """Who stands in for whom, now or later."""
        allow(http.scope, Permission.APPROVE, Permission.AUDIT)
        _require_known(http)
        found = await asyncio.to_thread(self._delegations.standing)
        return _json({"delegations": msgspec.to_builtins(found)})

    async def give(self, http: HttpRequest) -> Response:
        """Let somebody else vote with the roles of the key's owner for a time."""

        def give(key: Caller, said: Absence) -> StandIn:
            from_us, until_us = days(said.since, said.until, self._clock.now_us())
            given = self._delegations.give(
                key.owner, said.delegate, from_us=from_us, until_us=until_us, auth=key.id, roles=key.roles or None
            )
            return stand_in(given)

        return _json(msgspec.to_builtins(await self._done(http, Absence, give)))

    async def end(self, http: HttpRequest) -> Response:
        """Take it back."""

        def end(key: Caller, _: Nothing) -> StandIn:
            return stand_in(self._delegations.end(key.owner, auth=key.id))

        return _json(msgspec.to_builtins(await self._done(http, Nothing, end)))

    async def _done(self, http: HttpRequest, kind: type[Said], act: Callable[[Caller, Said], Done]) -> Done:
        """What the key's owner says, done."""
        key = allow(http.scope, Permission.APPROVE)
        require_json(http.headers)
        said = read(await body.read(http.headers, http.receive, _MAX_BODY), kind)

        def done() -> Done:
            if error := barred(key, self._killswitch):
                raise Unauthorized(str(error), hint=error.hint, forbidden=True)
            return act(key, said)

        return await asyncio.to_thread(done)


def grant_json(grant: Grant) -> dict[str, object]:
    """A grant for people and programs, with the uses that are left."""
    return {**msgspec.to_builtins(grant), "left": grant.left}


def _require_known(http: HttpRequest, *filters: str) -> None:
    for name in http.query_params:
        if name not in filters:
            raise BadRequest(f"`{name[:80]}` is no filter", hint="leave it out")


def _json(value: object) -> Response:
    return Response(dumps(value), media_type="application/json", headers={"cache-control": "no-store"})
