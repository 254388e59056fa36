"""Cedar's values in Python, and the JSON form they arrive in.

bool, long (`int` within 64 bits), string (`str`), entity (`Uid`), record (`dict`), set (`frozenset` of keys) and
the extension types of `extension`. Python holds `True == 1`, Cedar does not: whatever is compared or put into a
set goes through `key` first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from checkrein.model import BadRequest
from checkrein.policy.extension import CONSTRUCTORS, Datetime, Decimal, Duration, Ip
from checkrein.policy.failure import EvaluationError

MIN_LONG = -(2**63)
MAX_LONG = 2**63 - 1
MAX_DEPTH = 128


class Uid(NamedTuple):
    """The name of an entity, such as `User::"alice"`."""

    type: str
    id: str

    @classmethod
    def from_json(cls, value: object) -> Uid:
        """Read `{"type": ..., "id": ...}`, also within `__entity`; raises `BadRequest` for anything else."""
        if type(value) is cls:
            return value
        if type(value) is dict or isinstance(value, Mapping):
            inner = value.get("__entity", value)
            if type(inner) is dict or isinstance(inner, Mapping):
                kind, id = inner.get("type"), inner.get("id")
                if isinstance(kind, str) and isinstance(id, str) and is_type_name(kind):
                    return tuple.__new__(cls, (kind, id if id.isascii() else _text(id)))
        raise BadRequest("an entity is not named in Cedar's form", hint='write `{"type": "User", "id": "alice"}`')


Value = bool | int | str | Uid | dict[str, "Value"] | frozenset["Key"] | Decimal | Ip | Datetime | Duration
#: what stands for a value in a set or a comparison
Key = object


def is_type_name(text: str) -> bool:
    """Whether `text` can name an entity type: `User`, `Bank::Account`."""
    if text.isascii() and text.isidentifier():
        return True
    return all(part.isascii() and part.isidentifier() for part in text.split("::"))


_TRUE, _FALSE, _RECORD = object(), object(), object()


def key(value: Value) -> Key:
    """A hashable that is equal exactly where Cedar holds two values equal."""
    kind = type(value)
    if kind is bool:
        return _TRUE if value else _FALSE
    if isinstance(value, dict):
        return (_RECORD, frozenset([(name, key(item)) for name, item in value.items()]))
    return value


def key_type(item: Key) -> type:
    """The type of the value that a key stands for."""
    if item is _TRUE or item is _FALSE:
        return bool
    return dict if type(item) is tuple else type(item)


def to_json(value: Value | Key) -> object:
    """The Cedar JSON form of a value or of its key."""
    if value is _TRUE or value is _FALSE:
        return value is _TRUE
    if isinstance(value, Uid):
        return {"__entity": value._asdict()}
    if isinstance(value, tuple):
        return {name: to_json(item) for name, item in value[1]}
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, Decimal | Ip | Duration):
        return extension_json(_NAMES[type(value)].removesuffix("addr"), str(value))
    if isinstance(value, Datetime):
        arguments = [extension_json("datetime", "1970-01-01"), to_json(Duration(value.ms))]
        return {"__extn": {"fn": "offset", "args": arguments}}
    return value


def extension_json(fn: str, argument: str) -> dict[str, object]:
    return {"__extn": {"fn": fn, "arg": argument}}


def equal(left: Value, right: Value) -> bool:
    return key(left) == key(right)


_NAMES: Mapping[type, str] = {
    bool: "bool",
    int: "long",
    str: "string",
    dict: "record",
    frozenset: "set",
    Decimal: "decimal",
    Ip: "ipaddr",
    Datetime: "datetime",
    Duration: "duration",
}


def type_name(value: Value) -> str:
    """The type as Cedar names it; never the value."""
    return f"entity of type `{value.type}`" if type(value) is Uid else _NAMES[type(value)]


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRequest("a text holds half a surrogate pair", hint="send well-formed Unicode") from None
    return value


def from_json(value: object, depth: int = MAX_DEPTH) -> Value:
    """Read Cedar's JSON form of a value; raises `BadRequest` for what Cedar has no value for."""
    # on the path of every request: exact types first, `isinstance` against an ABC is ten times slower
    kind = type(value)
    if kind is str:
        return _text(value)  # type: ignore[arg-type]
    if kind is int:
        return _long(value)  # type: ignore[arg-type]
    if kind is bool:
        return value  # type: ignore[return-value]
    if kind is Read:
        return value.value  # type: ignore[attr-defined,no-any-return]
    if depth <= 0:
        raise BadRequest(f"a value is nested deeper than {MAX_DEPTH} levels", hint="flatten it")
    if kind is dict or isinstance(value, Mapping):
        if len(value) == 1:  # type: ignore[arg-type]
            escaped = _escaped(value, depth)  # type: ignore[arg-type]
            if escaped is not None:
                return escaped
        return record_from_json(value, depth)  # type: ignore[arg-type]
    if kind is list or (isinstance(value, list | tuple) and kind is not Uid):
        return _set(value, depth)  # type: ignore[arg-type]
    if isinstance(value, Uid | Decimal | Ip | Datetime | Duration):
        return value
    if isinstance(value, str):
        return _text(str.__str__(value))
    name = "null" if value is None else kind.__name__
    raise BadRequest(f"Cedar has no {name}", hint="leave nulls out and write decimals as `__extn`")


def record_from_json(value: Mapping[str, object], depth: int = MAX_DEPTH) -> dict[str, Value]:
    """Read a record, such as the context, whose own member names are never escapes."""
    record: dict[str, Any] = dict(value)
    for name, item in value.items():
        kind = type(item)
        if kind is str:
            if not item.isascii():  # type: ignore[attr-defined]
                _text(item)  # type: ignore[arg-type]
        elif kind is int:
            if not MIN_LONG <= item <= MAX_LONG:  # type: ignore[operator]
                _long(item)  # type: ignore[arg-type]
        elif kind is Read:
            record[name] = item.value  # type: ignore[attr-defined]
        elif kind is not bool:
            record[name] = from_json(item, depth - 1)
    return record


class Read(dict[str, object]):
    """A record in Cedar's JSON form that stands in many requests, with its `value`, which is read once.

    Nobody may change it; a deep copy is an ordinary record.
    """

    __slots__ = ("value",)

    def __init__(self, record: Mapping[str, object]) -> None:
        super().__init__(record)
        self.value = record_from_json(record)

    def __deepcopy__(self, memo: dict[int, object]) -> dict[str, object]:
        return copy.deepcopy(dict(self), memo)


def _set(items: Sequence[object], depth: int) -> frozenset[Key]:
    try:
        plain = "".join(items).isascii()  # type: ignore[arg-type]
    except TypeError:
        plain = False
    if plain:
        return frozenset(items)
    return frozenset([key(from_json(item, depth - 1)) for item in items])


def _long(value: int) -> int:
    if MIN_LONG <= value <= MAX_LONG:
        return value
    raise BadRequest("a number is beyond 64 bits", hint="send it as text")


def _escaped(value: Mapping[str, object], depth: int) -> Value | None:
    (name, inner), *_ = value.items()
    if name == "__entity" and isinstance(inner, Mapping):
        if isinstance(inner.get("type"), str) and isinstance(inner.get("id"), str):
            return Uid.from_json(inner)
    elif name == "__extn" and isinstance(inner, Mapping):
        fn = inner.get("fn")
        if isinstance(fn, str) and ("arg" in inner or "args" in inner):
            arguments = inner["args"] if "args" in inner else [inner["arg"]]
            return _extension(fn, arguments, depth)
    elif name == "__expr" and isinstance(inner, str):
        raise BadRequest("the `__expr` escape has no meaning", hint="send the value itself")
    return None


def _extension(fn: str, arguments: object, depth: int) -> Value:
    if not isinstance(arguments, list | tuple):
        raise BadRequest("`args` of `__extn` is not a list", hint='write `{"fn": "decimal", "arg": "1.50"}`')
    values = [from_json(item, depth - 1) for item in arguments]
    try:
        if fn in CONSTRUCTORS and len(values) == 1 and isinstance(values[0], str):
            return CONSTRUCTORS[fn](values[0])
        if fn == "offset" and len(values) == 2:
            moment, span = values
            if isinstance(moment, Datetime) and isinstance(span, Duration):
                return moment.offset(span)
    except EvaluationError as error:
        raise BadRequest(f"`__extn`: {error}", hint=f"known: {', '.join(CONSTRUCTORS)}") from None
    raise BadRequest("`__extn` names no constructor of one text", hint=f"known: {', '.join(CONSTRUCTORS)}")
