"""Functions as tools: `@governed` turns a call into a `Request`, and runs it only with a recorded decision.

The arguments by name are the action's input. What is decided is what runs: the function gets copies of lists and
dicts, taken before the decision, and the redacted values where policy redacts. What it returns or raises is decided
too; what it returns is kept beside the ledger, where it is JSON.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import ParamSpec, TypeVar, cast

import msgspec

from checkrein.model import Action, BadRequest, CheckreinError, ConfigError, Request, Resource, Subject
from checkrein.model.json import as_json
from checkrein.model.request import PROMPT, TOOL
from checkrein.services.gateway import Gateway
from checkrein.services.governed import Governed
from checkrein.services.idempotency import Once, Replay
from checkrein.services.results import Result, Results
from checkrein.services.speech import Withheld

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
#: what the ledger names as the caller of a function in this process
CALLER = "python"
#: a first parameter of this name is what a method is bound to, and no argument of the tool
_BOUND_TO = ("self", "cls")
_OCTETS = (bytes, bytearray, memoryview)
_VAR_POSITIONAL, _VAR_KEYWORD = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def governed(
    gateway: Gateway,
    *,
    tool: str,
    who: Callable[[], Subject | None],
    agent: str = "",
    resource: str = "",
    idempotency_key: Callable[..., str] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a sync or async function as the tool `tool`; `who` gives the acting subject at each call.

    `idempotency_key` makes a key of the arguments: a call under a key that was used before returns what the first one
    returned, as JSON has it, and does not run.

    Raises `ConfigError` for what cannot be governed: a generator, whose body runs after the call has ended.
    """
    if not tool or len(tool) > 512 or tool == PROMPT:
        raise ConfigError(f"`{tool[:80]}` is no name of a tool", hint="name it as in tools.yaml")

    results = Results(gateway)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        _refuse_ungovernable(tool, function)
        arguments = _Arguments(tool, inspect.signature(function))

        def read(*args: P.args, **kwargs: P.kwargs) -> tuple[Request, inspect.BoundArguments]:
            subject = who()
            if subject is None:
                raise ConfigError(
                    f"nobody is acting: the call of `{tool}` has no subject",
                    hint="pass `subject=` to `governed`, or call inside `with governor.acting_as(...)`",
                )
            bound = arguments.bind(args, kwargs)
            context = {"agent": {"id": agent}} if agent else {}
            action = Action(tool, {"input": arguments.input(bound)})
            return Request(subject, action, Resource(TOOL, resource or tool), context), bound

        def once(request: Request, bound: inspect.BoundArguments) -> Once | None:
            if idempotency_key is None:
                return None
            key = idempotency_key(*bound.args, **bound.kwargs)
            return gateway.idempotency.once_for(key, request, caller=CALLER, operation=tool)

        def told(action: Governed, returned: object, result: Result) -> object:
            """What the caller gets of what the function returned or raised; raises `Withheld`."""
            if gateway.keeps_results and not isinstance(returned, _Raised):
                action.answered(_text(returned))
            if not result.made.outcome.runs:
                action.ended("failed", error=Withheld.__name__, detail=result.detail())
            result.check()
            if isinstance(returned, _Raised):
                action.ended("failed", error=type(returned.error).__name__, detail=result.detail())
                raise returned.error
            action.ended("ok", detail=result.detail())
            heard = result.value if result.changed else returned
            if action.claim:
                action.replies(_text(heard))
            return heard

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> object:
                request, bound = read(*args, **kwargs)
                try:
                    async with gateway.action(request, caller=CALLER, once=once(request, bound)) as action:
                        arguments.redact(bound, request, action)
                        returned: object = None
                        try:
                            running = cast("Awaitable[object]", function(*bound.args, **bound.kwargs))
                            returned = _ended(tool, await running)
                        except CheckreinError:
                            raise
                        except Exception as error:  # noqa: BLE001 - what it says is an answer too
                            returned = _Raised(error)
                        result = _decided(results, action, returned)
                        await results.record(action, result)
                        return told(action, returned, result)
                except Replay as before:
                    return json.loads(before.answer)

            return cast("Callable[P, R]", awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            request, bound = read(*args, **kwargs)
            try:
                with gateway.action_sync(request, caller=CALLER, once=once(request, bound)) as action:
                    arguments.redact(bound, request, action)
                    returned: object = None
                    try:
                        returned = _ended(tool, function(*bound.args, **bound.kwargs))
                    except CheckreinError:
                        raise
                    except Exception as error:  # noqa: BLE001 - what it says is an answer too
                        returned = _Raised(error)
                    result = _decided(results, action, returned)
                    results.record_sync(action, result)
                    return cast("R", told(action, returned, result))
            except Replay as before:
                return cast("R", json.loads(before.answer))

        return called

    return decorate


class _Arguments:
    """How a function's arguments become the action's input, and a redacted input becomes arguments again."""

    def __init__(self, tool: str, signature: inspect.Signature) -> None:
        self._tool = tool
        self._signature = signature
        names = list(signature.parameters)
        named = names[1:] if names and names[0] in _BOUND_TO else names
        self._kinds = {name: signature.parameters[name].kind for name in named}

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> inspect.BoundArguments:
        """The arguments by name, with defaults, as copies that nobody else can change meanwhile."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        self.input(bound)  # what is not JSON may not be copied either
        for name in self._kinds:
            if isinstance(bound.arguments[name], dict | list | tuple):
                bound.arguments[name] = copy.deepcopy(bound.arguments[name])
        return bound

    def input(self, bound: inspect.BoundArguments) -> dict[str, object]:
        """The arguments as JSON; raises `BadRequest` for what no policy could look into."""
        given: dict[str, object] = {}
        for name, kind in self._kinds.items():
            value = bound.arguments[name]
            if kind is _VAR_KEYWORD:
                if hidden := sorted(self._kinds.keys() & value.keys()):
                    raise BadRequest(
                        f"`{hidden[0]}` is given twice to `{self._tool}`, by place and by name",
                        hint="one of the two would be hidden from policy; give another name",
                    )
                given |= {key: self._json(key, item) for key, item in value.items()}
            else:
                given[name] = self._json(name, value)
        return given

    def redact(self, bound: inspect.BoundArguments, asked: Request, action: Governed) -> None:
        """Put redacted or edited values in the place of the given ones; what was not changed stays as it was."""
        if not action.changed:
            return
        before, after = asked.action.input, action.request.action.input
        if unknown := sorted(after.keys() - before.keys()) if _VAR_KEYWORD not in self._kinds.values() else []:
            raise BadRequest(f"`{self._tool}` takes no argument `{unknown[0]}`", hint="people edited it in: ask anew")
        for name, kind in self._kinds.items():
            if kind is _VAR_KEYWORD:
                # a name can hold personal data too, and is then another name
                more = {key: item for key, item in after.items() if key not in self._kinds}
                if more != {key: before[key] for key in bound.arguments[name]}:
                    bound.arguments[name] = more
            elif name not in after:
                bound.arguments[name] = self._default(name)
            elif after[name] != before[name]:
                is_tuple = isinstance(bound.arguments[name], tuple)
                bound.arguments[name] = tuple(after[name]) if is_tuple else after[name]

    def _default(self, name: str) -> object:
        default = self._signature.parameters[name].default
        if default is inspect.Parameter.empty:
            raise BadRequest(f"`{self._tool}` needs the argument `{name}`", hint="people edited it away: ask anew")
        return default

    def _json(self, name: str, value: object) -> object:
        try:
            return as_json(value)
        except BadRequest as error:
            raise BadRequest(
                f"no policy can look into the argument `{name}` of `{self._tool}`: {error}", hint=error.hint
            ) from error


def _refuse_ungovernable(tool: str, function: object) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(
            f"`{tool}` is a generator: it would run after its end is recorded",
            hint="return a list, or govern the function that is called for each item",
        )
    if isinstance(function, staticmethod | classmethod | type) or not callable(function):
        raise ConfigError(
            f"`{tool}` is a {type(function).__name__}, not a function",
            hint="put `governed` directly above the `def`",
        )


class _Raised:
    """What the function raised in the place of returning something."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def says(self) -> list[str]:
        """Its words, its notes, and those of the errors that it came of or holds."""
        said: list[str] = []
        seen: list[BaseException] = []
        every: list[BaseException | None] = [self.error]
        for error in every:  # which grows meanwhile
            if error is None or any(error is one for one in seen):
                continue
            seen.append(error)
            said += [str(error), *getattr(error, "__notes__", ())]
            every += [error.__cause__, error.__context__]
            every += error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        return said


def _decided(results: Results, action: Governed, returned: object) -> Result:
    """What the function returned or raised, decided. Of what is no JSON nothing can be taken out: all or nothing."""
    try:
        return results.decide(action, as_json(returned))
    except BadRequest:
        pass
    try:
        result = results.decide(action, _plain(returned))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return results.decide(action, None, opaque=True)
    return results.decide(action, None, opaque=True) if result.changed else result


def _plain(returned: object) -> object:
    """What an object holds or an error says, as JSON has it; raises `ValueError` and the like for what is no data."""
    if isinstance(returned, _Raised):
        try:
            return returned.says()
        except Exception as error:  # its own code may raise anything
            raise ValueError("an error that cannot be told") from error
    return _read(msgspec.to_builtins(returned, builtin_types=_OCTETS, str_keys=True))


def _read(value: object) -> object:
    """The value with the texts that its bytes stand for; raises `UnicodeDecodeError` where they are no text."""
    if isinstance(value, _OCTETS):
        return bytes(value).decode()
    if isinstance(value, dict):
        return {name: _read(item) for name, item in value.items()}
    return [_read(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value


def _text(result: object) -> bytes:
    """The result as JSON, empty if it is none."""
    try:
        return json.dumps(as_json(result), separators=(",", ":")).encode()
    except BadRequest:
        return b""


def _ended(tool: str, result: R) -> R:
    """The result, unless it is something that has yet to run: the end about to be recorded would be none."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
    elif isinstance(result, asyncio.Future):
        result.cancel()
    elif not (inspect.isasyncgen(result) or inspect.isawaitable(result)):
        return result
    raise ConfigError(
        f"`{tool}` returned a {type(result).__name__} that has yet to run",
        hint="govern the `async def` itself, with `governed` directly above it",
    )
