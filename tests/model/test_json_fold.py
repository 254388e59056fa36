"""Foreign JSON, written so that the ledger admits it."""

from __future__ import annotations

from types import MappingProxyType

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from checkrein.model.json import MAX_INTEGER, fold, fold_bytes

texts = st.text(st.characters(), max_size=9)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def said(value: object) -> object:
    """`fold` as its docstring has it."""
    match value:
        case None | bool():
            return value
        case int():
            return value if abs(value) <= MAX_INTEGER else ["int", str(value)]
        case float():
            return ["float", repr(value)]
        case str():
            whole = not any("\ud800" <= char <= "\udfff" for char in value)
            return ["text", value] if whole else ["hex", value.encode("utf-8", "surrogatepass").hex()]
        case list():
            return ["list", [said(item) for item in value]]
        case dict():
            return ["object", [[said(key), said(value[key])] for key in sorted(value)]]
    raise AssertionError(value)


@given(values)
def test_every_json_value_is_folded_by_the_rule(value: object) -> None:
    assert fold(value) == said(value)


@given(values)
def test_folded_values_are_written_as_rfc_8785(value: object) -> None:
    assert fold_bytes(value) == rfc8785.dumps(fold(value))


def test_what_behaves_as_a_json_value_is_folded_as_one() -> None:
    text = type("Text", (str,), {})("a")
    assert fold(MappingProxyType({text: (text, 1.5)})) == fold({"a": ["a", 1.5]})
