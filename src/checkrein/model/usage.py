"""What somebody has used so far, as policies and people see it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

import msgspec

from checkrein.model.errors import BadRequest

#: billionths in one unit of money
NANO = 1_000_000_000
#: what no account ever holds
_MOST, _DIGITS = 2**53, 40
_SPENT = ("spend_today", "spend_month")


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """The account of one, at one moment. Spending in billionths, with what the running actions may cost."""

    requests_minute: int = 0
    tokens_minute: int = 0
    running: int = 0
    requests_today: int = 0
    tokens_today: int = 0
    spend_today: int = 0
    spend_month: int = 0


class Usage(msgspec.Struct, frozen=True):
    """What those used who act together: the subject, the agent that acts for it, the key that asks."""

    subject: Used = Used()
    agent: Used = Used()
    key: Used = Used()

    @classmethod
    def claimed(cls, value: object) -> Usage:
        """What a request that nobody has accounts for says of itself, such as one of a policy test.

        The members of the subject, and `agent` and `key` with the same ones; what is not there is 0. Raises
        `BadRequest`.
        """
        if value is None:
            return cls()
        given = _mapping(value)
        others = {name: given.get(name) for name in ("agent", "key")}
        own = {name: item for name, item in given.items() if name not in others}
        return cls(_used(own), *(_used(_mapping(other)) if other is not None else Used() for other in others.values()))


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise BadRequest("`context.usage` is not an object", hint='write `{"spend_today": "2.50"}`')
    return value


def _used(given: Mapping[str, object]) -> Used:
    found: dict[str, int] = {}
    for name, value in given.items():
        if name not in Used.__struct_fields__:
            known = ", ".join(Used.__struct_fields__)
            raise BadRequest(f"`context.usage` has no `{name[:80]}`", hint=f"known: {known}, agent, key")
        found[name] = _number(name, value)
    return Used(**found)


def _number(name: str, value: object) -> int:
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    try:
        number = Decimal(text[:_DIGITS])
    except InvalidOperation:
        number = Decimal("nan")
    if len(text) <= _DIGITS and number.is_finite() and 0 <= number < _MOST:
        number = number * NANO if name in _SPENT else number
        if number < _MOST and number == int(number):
            return int(number)
    raise BadRequest(f"`context.usage.{name}` is not what anybody used", hint="write a number, money as text")
