"""Functions as tools: `@governed` turns a call into a `Request`, and runs it only with a recorded decision.

The arguments by name are the action's input. Where policy redacts, the function gets the redacted arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, cast

from checkrein.model import Action, BadRequest, ConfigError, Request, Resource, Subject
from checkrein.services.gateway import Gateway, Governed

P = ParamSpec("P")
R = TypeVar("R")
#: what the ledger names as the caller of a function in this process
CALLER = "python"


def governed(
    gateway: Gateway,
    *,
    tool: str,
    who: Callable[[], Subject | None],
    agent: str = "",
    resource: str = "",
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a sync or async function as the tool `tool`; `who` gives the acting subject at each call."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        def read(*args: P.args, **kwargs: P.kwargs) -> tuple[Request, inspect.BoundArguments]:
            subject = who()
            if subject is None:
                raise ConfigError(
                    f"nobody is acting: the call of `{tool}` has no subject",
                    hint="pass `subject=` to `governed`, or call inside `with governor.acting_as(...)`",
                )
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            context = {"agent": {"id": agent}} if agent else {}
            action = Action(tool, {"input": _input(tool, bound)})
            return Request(subject, action, Resource("tool", resource or tool), context), bound

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> object:
                request, bound = read(*args, **kwargs)
                async with gateway.action(request, caller=CALLER) as governed_action:
                    _rebind(bound, governed_action)
                    return await cast("Awaitable[object]", function(*bound.args, **bound.kwargs))

            return cast("Callable[P, R]", awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            request, bound = read(*args, **kwargs)
            with gateway.action_sync(request, caller=CALLER) as governed_action:
                _rebind(bound, governed_action)
                return function(*bound.args, **bound.kwargs)

        return called

    return decorate


def _input(tool: str, bound: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments by name, as JSON; `self` is not an argument of the tool."""
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            given.update(value)
        elif name != "self":
            given[name] = list(value) if kind is inspect.Parameter.VAR_POSITIONAL else value
    for name, value in given.items():
        if not _is_json(value):
            raise BadRequest(
                f"the argument `{name}` of `{tool}` is a {type(value).__name__}, which no policy can look into",
                hint="pass text, numbers, true or false, lists and dicts",
            )
    return given


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_json(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)


def _rebind(bound: inspect.BoundArguments, action: Governed) -> None:
    """Put the redacted arguments in the place of the given ones."""
    if not action.redacted:
        return
    clean = action.request.action.input
    for name in bound.arguments:
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            bound.arguments[name] = {key: clean[key] for key in bound.arguments[name]}
        elif name in clean:
            positional = kind is inspect.Parameter.VAR_POSITIONAL
            bound.arguments[name] = tuple(clean[name]) if positional else clean[name]
