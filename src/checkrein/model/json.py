"""Strict JSON in, canonical JSON out.

In: duplicate keys, NaN and Infinity, more than `MAX_DEPTH` levels, invalid UTF-8 and halves of surrogate pairs are
refused, because two readers of the same bytes must see the same value. Out: RFC 8785 for the values the ledger admits
(no floats, integers within 2^53-1, ASCII keys), where sorting by code point and by UTF-16 unit agree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from checkrein.model.errors import BadRequest

JsonObject = Mapping[str, object]

MAX_DEPTH = 64
MAX_INTEGER = 2**53 - 1
_encoder = msgspec.json.Encoder(order="sorted")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadRequest(f"the key `{key[:80]}` stands twice in one JSON object", hint="send it once")
            seen.add(key)
    return value


def _constant(name: str) -> object:
    raise BadRequest(f"`{name}` is not JSON", hint="send a finite number or leave the member out")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise BadRequest(f"the number `{text[:40]}` is too large", hint="send a number that fits a double")
    return value


def loads(data: bytes | str) -> object:
    """Parse JSON strictly; raises `BadRequest` with the position of what is wrong."""
    try:
        text = str.__str__(data) if isinstance(data, str) else data.decode("utf-8")  # msgspec takes no subclass
    except UnicodeDecodeError as error:
        raise BadRequest("the body is not UTF-8", hint="encode JSON as UTF-8") from error
    try:
        value = _decode(text)
        sure = not _may_lack_a_twin(text, value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        sure = False
    if not sure:
        value = _read(text)
    if text.count("{") + text.count("[") > MAX_DEPTH and _is_too_deep(value):
        raise BadRequest(f"the JSON is nested deeper than {MAX_DEPTH} levels", hint="flatten it")
    return value


def _may_lack_a_twin(text: str, value: object) -> bool:
    """Whether a key may stand twice in `text`: msgspec keeps the last one silently. All else it refuses as we do.

    A member that was dropped took its colon along, so there are fewer when the value is written again. None is written
    as an escape, so one that was escaped before would make up for it.
    """
    if "\\" in text and "\\u003" in text:
        return True
    return text.count(":") != _encode(value).count(b":")


def _read(text: str) -> object:
    """`loads` but for depth, member by member: it finds what is wrong and says where."""
    try:
        value: object = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except RecursionError as error:
        raise BadRequest(f"the JSON is nested deeper than {MAX_DEPTH} levels", hint="flatten it") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise BadRequest(f"the body is not JSON: {error.msg.lower()} at {place}", hint="mend the JSON") from error
    except ValueError as error:  # an integer with more digits than Python converts
        raise BadRequest("a number in the body is too long", hint="send integers within 64 bits") from error
    if "\\ud" in text or "\\uD" in text:  # only an escape can hold half a pair
        _require_unicode(value)
    return value


def _is_too_deep(value: object) -> bool:
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for outer in level
            for item in (outer.values() if type(outer) is dict else outer)
            if type(item) is dict or type(item) is list
        ]
    return bool(level)


def _require_unicode(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequest("a text in the body is half a surrogate pair", hint="send well-formed Unicode") from error


def load_object(data: bytes | str) -> dict[str, object]:
    """Parse a JSON object strictly; anything else raises `BadRequest`."""
    value = loads(data)
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object", hint='send `{"...": ...}`')
    return cast("dict[str, object]", value)


def as_json(value: object, *, levels: int = MAX_DEPTH) -> object:
    """A copy of a Python value in JSON's own types: a tuple becomes a list, a text-like enum its text.

    Raises `BadRequest` for what strict JSON cannot hold, so that no one decides on less than what was meant.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value) if math.isfinite(value) else _constant(str(value))
    if not isinstance(value, Mapping | list | tuple):
        raise BadRequest(f"a {type(value).__name__} is not JSON", hint="pass text, numbers, lists and dicts")
    if not levels:
        raise BadRequest(f"the value is nested deeper than {MAX_DEPTH} levels", hint="flatten it")
    if isinstance(value, list | tuple):
        return [as_json(item, levels=levels - 1) for item in value]
    if not all(isinstance(key, str) for key in value):
        raise BadRequest("a key that is not text is not JSON", hint="name the members of a dict by text")
    return {str.__str__(key): as_json(item, levels=levels - 1) for key, item in value.items()}


_SHOWN: Mapping[type, type] = {
    **{kind: kind for kind in (str, dict, list, int, float, bool, type(None))},
    tuple: list,
}
_BASES: tuple[tuple[type, type], ...] = ((str, str), (Mapping, dict), (list, list), (tuple, list))


def json_type(value: object) -> type:
    """`str`, `dict` or `list` for what stands in JSON as one of these, else the value's own type.

    On the path of every request: asking `isinstance` for each in turn costs several times as much.
    """
    kind = type(value)
    if kind in _SHOWN:
        return _SHOWN[kind]
    return next((shown for base, shown in _BASES if isinstance(value, base)), kind)


def dumps(value: object) -> bytes:
    """Compact JSON bytes with sorted keys, for answers and files."""
    return _encoder.encode(value)


def canonical(value: object) -> bytes:
    """RFC 8785 bytes of a value the ledger admits; raises `ValueError` for any other."""
    try:
        data = _encoder.encode(value)  # which refuses halves of surrogate pairs, and members not named by text
    except TypeError as error:
        raise ValueError(f"it has no place in a record: {str(error).lower()}") from error
    _admit(value)
    if not data.isascii():
        _require_ascii_keys(value)
    return data


def _admit(value: object) -> None:
    """Raise `ValueError` for what the encoder writes and the ledger does not admit."""
    # on the path of every record: one loop over all there is, exact types, and no call for a plain value
    every: list[Any] = [value]
    for item in every:  # which grows meanwhile
        kind = type(item)
        if kind is str:
            continue
        if kind is dict:
            every += item.values()
        elif kind is int:
            if not -MAX_INTEGER <= item <= MAX_INTEGER:
                raise ValueError("an integer beyond 2^53-1 has no place in a record")
        elif kind is list or kind is tuple:
            every += item
        elif item is not None and kind is not bool:
            every.append(_plain(item))


def _require_ascii_keys(value: object) -> None:
    every: list[Any] = [value]
    for item in every:
        if isinstance(item, Mapping):
            for key in item:
                if not key.isascii():
                    raise ValueError(f"the key {key!r} is not ASCII text")
            every += item.values()
        elif isinstance(item, list | tuple):
            every += item


def _plain(value: object) -> object:
    """A subclass of a type that is admitted, as that type; raises `ValueError` for anything else."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return list(value)
    raise ValueError(f"a {type(value).__name__} has no place in a record")


def fold(value: Any) -> object:
    """The same JSON value with what `canonical` does not admit written as tagged text.

    Used for digests of foreign JSON (arguments, prompts): floats become `["float", repr]`, big integers
    `["int", digits]`, an object `["object", [[key, value], ...]]` with sorted keys. It is injective, so two
    different values never share a digest.
    """
    kind = type(value)
    if kind is str:
        return ["hex", value.encode("utf-8", "surrogatepass").hex()] if _lonely(value) else ["text", value]
    if kind is dict or isinstance(value, Mapping):
        members: list[object] = []
        for key in sorted(value):
            item = value[key]  # a prompt is mostly plain text under plain names: no call for those
            name = ["text", key] if type(key) is str and key.isascii() else fold(key)
            members.append([name, ["text", item] if type(item) is str and item.isascii() else fold(item)])
        return ["object", members]
    if kind is list or isinstance(value, list | tuple):
        return ["list", [fold(item) for item in value]]
    if isinstance(value, float):
        return ["float", repr(value)]
    if isinstance(value, int) and kind is not bool:
        return int(value) if abs(value) <= MAX_INTEGER else ["int", str(value)]
    if isinstance(value, str):
        return fold(str.__str__(value))
    if value is None or kind is bool:
        return value
    raise ValueError(f"a {kind.__name__} has no place in a record")


def fold_bytes(value: object) -> bytes:
    """`canonical` of the folded value; raises `ValueError` for what is no JSON."""
    return _encoder.encode(fold(value))


def _lonely(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
