"""The HTTP application of a deployment: every door, and what stands behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from checkrein.compose.facts import ConfiguredNames
from checkrein.compose.outside import upstream
from checkrein.compose.terms import at_root, expected_tokens, gateway_configs, tariff
from checkrein.config import UpstreamConfig
from checkrein.connectors.oidc import Issuers
from checkrein.connectors.openclaw import WatchedUpstream
from checkrein.model.requirement import parse_span
from checkrein.ports import Upstream
from checkrein.services.access_requests import AccessRequests
from checkrein.services.search import Searches
from checkrein.services.waiting import Drain, Hold
from checkrein.web.access_requests import AccessRequestRoutes
from checkrein.web.admin import Admin
from checkrein.web.app import Application, create_app
from checkrein.web.approvals import ApprovalRoutes
from checkrein.web.authzen import AuthZen
from checkrein.web.control import Control
from checkrein.web.guard import Guard
from checkrein.web.invoke import Invoke
from checkrein.web.metrics import Metrics
from checkrein.web.models import Models
from checkrein.web.openclaw import OpenClaw
from checkrein.web.pages import Pages
from checkrein.web.proxy import Proxy
from checkrein.web.routes import Route, Routes
from checkrein.web.search import SearchRoutes
from checkrein.web.standing import StandingRoutes

if TYPE_CHECKING:
    from checkrein.compose.system import System


def application(system: System) -> Application:
    """The HTTP application. Its upstream connections belong to the loop that serves it."""
    routes = {
        name: Route(
            upstream=_upstream(system, name, given),
            models=given.models,
            agent=given.kind == "openclaw",
            aliases=given.aliases,
            fallback=given.fallback,
            retries=given.retries,
            tariff=tariff(given),
        )
        for name, given in system.config.upstreams.items()
    }
    tools = {name: _upstream(system, name, at_root(given)) for name, given in gateway_configs(system.config).items()}
    server = system.config.server

    async def stop() -> None:
        for each in (*(route.upstream for route in routes.values()), *tools.values()):
            await each.close()
        await issuers.close()

    drain, issuers = Drain(), Issuers(expected_tokens(system.config), system.clock)
    where = Routes(routes)
    routed = ApprovalRoutes(
        system.approvals,
        system.edits,
        system.grants,
        system.showing,
        system.waiting,
        system.killswitch,
        system.clock,
        drain,
    )
    return create_app(
        Guard(system.keys, issuers, (server.host, *server.allowed_hosts)),
        Proxy(
            system.gateway,
            where,
            max_body_bytes=server.max_body_bytes,
            retry_after_s=parse_span(system.config.approvals.retry_after),
            arms=system.arms,
            hold=Hold(system.waiting, system.config.approvals.hold, drain),
            refusals=system.refusals,
        ),
        AuthZen(
            system.gateway,
            max_body_bytes=server.max_body_bytes,
            refusals=system.refusals,
            public_url=server.public_url,
            gateways=system.gateways,
            vocabulary=system.config.authzen,
        ),
        SearchRoutes(
            Searches(
                system.pdp,
                ConfiguredNames(system.config, where.named),
                system.config.authzen,
                system.killswitch,
                system.limits,
                system.store,
                system.clock,
                key=system.data.commitment_key(),
            ),
            max_body_bytes=server.max_body_bytes,
        ),
        Admin(system.audit, system.failing, system.warnings, now_us=system.clock.now_us),
        Metrics(system.gateway.live, system.vitals, system.measured),
        Models(where),
        Control(system.killswitch, system.limits),
        routed,
        StandingRoutes(system.grants, system.approvals.electorate.delegations, system.killswitch, system.clock),
        AccessRequestRoutes(
            AccessRequests(system.store, system.pdp, system.approvals, system.gateway.idempotency, system.clock),
            system.approvals,
            system.waiting,
            system.gateway.idempotency,
            system.clock,
            drain,
            max_body_bytes=server.max_body_bytes,
            retry_after_s=parse_span(system.config.approvals.retry_after),
            public_url=server.public_url,
            vocabulary=system.config.authzen,
        ),
        OpenClaw(system.gateways, system.waiting, drain),
        Invoke(system.gateway, tools, max_body_bytes=server.max_body_bytes),
        Pages(
            routed,
            system.approvals,
            system.keys,
            issuers,
            system.clock,
            key=system.data.commitment_key(),
            steering=lambda tool: _steering(system, tool),
            refusals=system.refusals,
        ),
        drain=drain,
        refusals=system.refusals,
        stop=stop,
    )


def _upstream(system: System, name: str, given: UpstreamConfig) -> Upstream:
    """An upstream; an agent gateway gets nothing while it is refused."""
    found = upstream(name, given, system.loaded)
    return WatchedUpstream(found, system.gateways.refusal) if given.kind == "openclaw" else found


def _steering(system: System, tool: str) -> tuple[str, ...]:
    """The arguments of a tool that steer its effect, by its manifest."""
    manifest = system.pdp.bundle.manifests.get(tool)
    return tuple(manifest.control) if manifest else ()
