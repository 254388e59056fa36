"""What an OpenClaw Gateway's plugin calls beside AuthZEN: its heartbeat, results, and the wait for an approval.

All need a key that may `decide`; the list of gateways needs one that may `audit`.
"""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from checkrein.connectors import openclaw
from checkrein.model import BadRequest, Permission
from checkrein.services.reconcile import Gateways
from checkrein.services.waiting import Drain, Waiting
from checkrein.services.writes import landed
from checkrein.web import body
from checkrein.web.guard import allow
from checkrein.web.headers import require_json

ROOT = "/api/v1/openclaw"
#: how long one question about an approval may be held open
MAX_WAIT_S = 30
MAX_BODY_BYTES = 64 * 1024


class OpenClaw:
    def __init__(self, gateways: Gateways, waiting: Waiting, drain: Drain) -> None:
        self._gateways = gateways
        self._waiting = waiting
        self._drain = drain

    async def heartbeat(self, http: HttpRequest) -> Response:
        """The plugin is there. The answer says whether its gateway is refused, and why."""
        beat = openclaw.read(await _body(http), openclaw.Beat)
        self._gateways.beat(beat.gateway)
        return JSONResponse({"refused": self._gateways.refusal(beat.gateway)})

    async def result(self, http: HttpRequest) -> Response:
        """What became of a call, in the gateway's own words; recorded before it is answered."""
        told = openclaw.read(await _body(http), openclaw.Result)
        written = self._gateways.reported(
            told.gateway, told.run, told.call, status=told.status, duration_us=told.duration_ms * 1000
        )
        await landed(written)
        return JSONResponse({})

    async def approval(self, http: HttpRequest) -> Response:
        """The state of an approval and no more, once people have settled it or after `wait` seconds as it is."""
        allow(http.scope, Permission.DECIDE)
        id, wait = http.query_params.get("id", ""), http.query_params.get("wait", "0")
        if not id.isprintable() or not wait.isascii() or not wait.isdigit() or len(wait) > 4:
            raise BadRequest("`id` or `wait` is not in form", hint="send `?id=apr_...&wait=20`, in seconds")
        approval = await self._waiting.settled(id, min(int(wait), MAX_WAIT_S), self._drain)
        return JSONResponse({"id": id, "state": approval.state.value})

    async def gateways(self, http: HttpRequest) -> Response:
        """How every gateway stands: heard when, decided of observed, refused why."""
        allow(http.scope, Permission.AUDIT)
        return JSONResponse([self._row(name) for name in self._gateways.names()])

    def _row(self, name: str) -> dict[str, object]:
        stand = self._gateways.stand(name)
        return {
            "gateway": name,
            "heard_us": self._gateways.heard_us(name),
            "witnessed": self._gateways.is_witnessed(name),
            "refused": self._gateways.refusal(name),
            "observed": stand.observed,
            "governed": stand.governed,
            "ungoverned": stand.ungoverned,
            "enforcement": stand.enforcement,
        }


async def _body(http: HttpRequest) -> bytes:
    allow(http.scope, Permission.DECIDE)
    require_json(http.headers)
    return await body.read(http.headers, http.receive, MAX_BODY_BYTES)
