"""Where a request goes: the upstream that serves its model, and those that stand in for it.

It is tried again only before the first byte of an answer: when there was no connection, so nothing ran; and at a model
provider also when it did not answer or said that it cannot now. An agent gateway may have run tools by then, and is not
asked twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping

import msgspec

from checkrein.connectors import openai
from checkrein.connectors.metering import Tariff
from checkrein.model import NotFound, UpstreamUnavailable, UpstreamUnreachable
from checkrein.ports import Reply, Upstream

#: what a provider answers that may work a moment later, or elsewhere
BUSY = frozenset({429, 500, 502, 503, 504})
#: seconds before the second try; twice as long before each further one
PAUSE_S = 0.1


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream, the models it serves, and the names of those that stand in for it, in order.

    `agent` says that it is an agent gateway, which wants a turn's handle as `user`. `aliases` are models that the
    upstream knows under another name. `tariff` is what it takes for its tokens.
    """

    upstream: Upstream
    models: tuple[str, ...] = ("*",)
    agent: bool = False
    aliases: Mapping[str, str] = {}
    fallback: tuple[str, ...] = ()
    retries: int = 0
    tariff: Tariff = Tariff()


class Sent(msgspec.Struct, frozen=True):
    """The reply that came in the end, from which route, and the upstreams that were tried, in order."""

    reply: Reply
    route: Route
    tried: tuple[str, ...]


class Routes:
    """Every configured upstream by its name."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._models = {name: route.models for name, route in routes.items()}

    def serving(self, model: str) -> str:
        """The name of the first upstream whose patterns fit; raises `NotFound`."""
        return openai.route(model, self._models)

    def tariff(self, name: str) -> Tariff:
        """What this upstream takes for its tokens."""
        return self._routes[name].tariff

    def goes_to(self, model: str) -> str:
        """The same, empty if nobody serves it."""
        try:
            return self.serving(model)
        except NotFound:
            return ""

    def named(self) -> set[str]:
        """The models that the configuration names."""
        patterns = {model for route in self._routes.values() for model in (*route.models, *route.aliases)}
        return {model for model in patterns if not set("*?[") & set(model) and self.goes_to(model)}

    def open(self) -> list[tuple[str, Upstream]]:
        """The upstreams that serve patterns, of which only they know what fits."""
        wild = [name for name, models in self._models.items() if any(set("*?[") & set(model) for model in models)]
        return [(name, self._routes[name].upstream) for name in wild]

    async def send(self, name: str, path: str, payload: Callable[[Route], bytes], headers: Mapping[str, str]) -> Sent:
        """POST to the upstream, or to one that stands in for it.

        Raises `UpstreamUnavailable` when no answer comes, `UpstreamUnreachable` when nothing was ever sent.
        """
        tried: list[str] = []
        certain = True  # that nothing ran anywhere
        tries = [*self._tries(name)]
        for number, (route, pause_s) in enumerate(tries):
            if pause_s:
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - spreads callers, guards nothing
            last = number + 1 == len(tries)
            tried.append(route.upstream.name)
            try:
                reply = await route.upstream.send(path, payload(route), headers)
            except UpstreamUnavailable as error:
                certain = certain and isinstance(error, UpstreamUnreachable)
                if last or (route.agent and not isinstance(error, UpstreamUnreachable)):
                    raise error if certain or not isinstance(error, UpstreamUnreachable) else _perhaps(error) from None
                continue
            if last or route.agent or reply.status not in BUSY:
                return Sent(reply, route, tuple(tried))
            certain = False
            await reply.close()
        raise UpstreamUnavailable("no upstream was tried", hint="look at `[upstreams]` in checkrein.toml")

    def _tries(self, name: str) -> Iterator[tuple[Route, float]]:
        """Each try with the seconds to wait before it."""
        for one in (name, *self._routes[name].fallback):
            route = self._routes[one]
            yield route, 0.0
            for number in range(route.retries):
                yield route, PAUSE_S * 2**number


def _perhaps(error: UpstreamUnreachable) -> UpstreamUnavailable:
    """This one was not reached, but one before it may have run the request."""
    return UpstreamUnavailable(str(error), hint=error.hint)
