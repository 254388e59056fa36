"""Two readers of the same bytes see the same value, or both refuse: `loads` against Python's own reader."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checkrein.model import BadRequest
from checkrein.model.json import MAX_DEPTH, loads


def reference(text: str) -> object:
    """What strict JSON means, written as plainly as possible; raises `ValueError`."""

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("twins")
        return dict(pairs)

    def number(digits: str) -> float:
        if abs(float(digits)) == float("inf"):
            raise ValueError("too large")
        return float(digits)

    def constant(name: str) -> NoReturn:
        raise ValueError(name)

    value = json.loads(text, object_pairs_hook=members, parse_float=number, parse_constant=constant)
    json.dumps(value, ensure_ascii=False).encode()
    if depth(value) > MAX_DEPTH:
        raise ValueError("too deep")
    return value


def depth(value: object) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


def read(reader: object, given: object) -> str:
    """What a reader makes of a text, types and the order of members included."""
    try:
        return repr(reader(given))  # type: ignore[operator]
    except ValueError:
        return "refused"
    except BadRequest:
        return "refused"


#: names that collide, also where they are written differently, and colons in all their forms
names = st.sampled_from(
    ['"a"', '"b"', '"\\u0061"', '""', '":"', '"\\u003a"', '"\\u003A"', '"\\\\u003a"', '"é"', '"\\u00e9"']
)
texts = names | st.text(max_size=6).map(json.dumps) | st.text(max_size=6).map(lambda text: f'"{text}"')
numbers = st.from_regex(r"-?[0-9]{1,22}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
scalars = (
    texts | numbers | st.sampled_from(["true", "false", "null", "NaN", "-Infinity", "1e999", "01", "+1", "-", "1."])
)
spaces = st.sampled_from(["", "", "", " ", "\n", "\t", "\x0b", "\ufeff"])


def _objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(spaces, names | texts, spaces, inner).map(lambda part: "{}{}{}:{}".format(*part))
    return st.lists(members, max_size=4).map(lambda found: "{" + ",".join(found) + "}")


def _lists(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=4).map(lambda found: "[" + ",".join(found) + "]")


documents = st.recursive(scalars, lambda inner: _objects(inner) | _lists(inner), max_leaves=12)


@given(documents)
@example('{"a":1,"\\u0061":2}')
@example('{"a":1,"a":"\\u003a"}')
@example('{"a":{"b":1,"b":2}}')
@example('{"a":"\\ud83d\\ude00","b":"\\ud83d"}')
def test_reads_what_the_strictest_plain_reader_reads(text: str) -> None:
    assert read(loads, text) == read(reference, text)
    assert read(loads, text.encode()) == read(reference, text)


@given(
    documents, st.integers(0, 60), st.integers(0, 3), st.sampled_from(["", '"', "\\", ",", ":", "{", "]", "\x00", "é"])
)
def test_a_broken_document_is_broken_for_every_reader(text: str, at: int, taken: int, put: str) -> None:
    broken = text[:at] + put + text[at + taken :]
    assert read(loads, broken) == read(reference, broken)


@pytest.mark.parametrize("levels", [1, MAX_DEPTH, MAX_DEPTH + 1, 5000, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}"), ('[1,"[{",', "]")])
@pytest.mark.parametrize("innermost", ["1", "[]", '{"a":1}'])
def test_a_document_ends_at_its_last_level(levels: int, opened: str, closed: str, innermost: str) -> None:
    text = opened * levels + innermost + closed * levels
    assert (read(loads, text) != "refused") is (levels + (innermost != "1") <= MAX_DEPTH)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "the key `a` stands twice"),
        ('{"a": {"b": ":", "\\u0062": "\\u003a"}}', "the key `b` stands twice"),
        ('{"a": NaN}', "`NaN` is not JSON"),
        ("[1e999]", "the number `1e999` is too large"),
        ("9" * 5000, "too long"),
        ('["\\ud800"]', "half a surrogate pair"),
        ('{"a": 1,}', "at line 1 column 9"),
        (b'"\xff"', "not UTF-8"),
    ],
)
def test_says_what_is_wrong(text: str | bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        loads(text)


def test_reads_text_of_a_kind_of_its_own() -> None:
    class Words(str):
        __slots__ = ()

    assert loads(Words('{"a": [1]}')) == {"a": [1]}
