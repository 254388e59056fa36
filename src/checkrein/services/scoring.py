"""How good an answer is, by what the case says of it: a share between 0 and 1, the least of what each scorer gives."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable

import msgspec
import re2

from checkrein.model import BadRequest, ConfigError
from checkrein.services.golden import Golden

#: asks a model whether something is true of an answer
Judge = Callable[[Golden, str, str], Awaitable[bool]]


async def score(case: Golden, text: str, judge: Judge | None) -> float | None:
    """None if the case does not say what a good answer is. Raises `BadRequest` for a scorer that cannot be used."""
    found: list[float] = []
    for name, wanted in case.answer.items():
        if name == "judge":
            if judge is None:
                raise BadRequest(f"{case.place}: nobody judges", hint="name a model with `--judge upstream:NAME/MODEL`")
            found.append(float(await judge(case, text, str(wanted))))
        else:
            found.append(_SCORERS[name](case, text, wanted))
    return min(found, default=None)


def _exact(case: Golden, text: str, wanted: object) -> float:
    return float(text.strip() == str(wanted).strip())


def _contains(case: Golden, text: str, wanted: object) -> float:
    parts = wanted if isinstance(wanted, list) else [wanted]
    return float(all(str(part).casefold() in text.casefold() for part in parts))


def _regex(case: Golden, text: str, wanted: object) -> float:
    options = re2.Options()
    options.log_errors = False
    try:
        return float(re2.search(str(wanted), text, options) is not None)
    except re2.error:
        raise BadRequest(f"{case.place}: the pattern is no RE2 pattern", hint="RE2 has no look-around") from None


def _schema(case: Golden, text: str, wanted: object) -> float:
    try:
        import jsonschema
    except ImportError:
        raise ConfigError(
            f"{case.place}: JSON Schema needs a library", hint="install it: `pip install 'checkrein[gate]'`"
        ) from None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError):
        return 0.0
    try:
        jsonschema.validate(value, wanted)
    except jsonschema.ValidationError:
        return 0.0
    except jsonschema.SchemaError as error:
        raise BadRequest(f"{case.place}: the schema is no JSON Schema: {error.message}", hint="mend it") from None
    return 1.0


def _python(case: Golden, text: str, wanted: object) -> float:
    given = function(str(wanted))(msgspec.to_builtins(case), text)
    if not isinstance(given, int | float) or not 0 <= given <= 1:
        raise BadRequest(
            f"{case.place}: `{wanted}` gave no share between 0 and 1", hint="return true, false or a share"
        )
    return float(given)


_SCORERS: dict[str, Callable[[Golden, str, object], float]] = {
    "exact": _exact,
    "contains": _contains,
    "regex": _regex,
    "schema": _schema,
    "python": _python,
}


def function(name: str) -> Callable[..., object]:
    """The function `module:name`; raises `ConfigError`."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"`{name}` cannot be imported: {error}", hint="write `module:function`, with the module on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ConfigError(f"`{name}` is no function", hint="write `module:function`")
    return found  # type: ignore[no-any-return]
