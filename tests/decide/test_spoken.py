"""A text that comes in pieces, read as JSON where it is JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkrein.decide import spoken
from checkrein.decide.redact import Placeholders
from checkrein.decide.spoken import Spoken

ALL = ("pii", "secret")
VALUES = st.recursive(
    st.one_of(
        st.text(max_size=6), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.none(), st.booleans()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=50)
@given(
    st.one_of(st.lists(VALUES), st.dictionaries(st.text(max_size=4), VALUES)), st.sampled_from([None, 2]), st.booleans()
)
def test_json_is_held_until_it_is_over(value: object, indent: int | None, ascii: bool) -> None:
    reading = Spoken((), Placeholders())
    given = f"\n {json.dumps(value, indent=indent, ensure_ascii=ascii)}\n"
    assert [reading.feed(char) for char in given] == [""] * len(given)
    assert reading.finish() == given


def test_fields_within_json_are_read_and_it_is_written_anew() -> None:
    reading = Spoken(ALL, Placeholders())
    for piece in ('{"first_na', 'me":"Yu', 'suf", "deep": "{\\"password\\": \\"hun', 'ter2hunter9\\"}"}'):
        assert reading.feed(piece) == ""
    assert json.loads(reading.finish()) == {"first_name": "<PERSON_NAME_1>", "deep": '{"password": "<PASSWORD_1>"}'}


@pytest.mark.parametrize(
    "text",
    ["[a link](to it) ", "{name} ", "[1] as they say ", '{"a": 1, } ', "{1: 2} ", "[1 2 ", '["a" "b ', "[tru th ",
     "[[1}, ", "hello you ", "\n\n- {} ", "[1,,2 ", "]} ", "[NaN, "],
)  # fmt: skip
def test_what_cannot_become_json_any_more_is_released(text: str) -> None:
    assert Spoken(ALL, Placeholders()).feed(text) != ""


def test_json_that_is_too_long_to_hold_is_opaque_and_read_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken, "HELD", 100)
    placeholders = Placeholders()
    reading = Spoken(ALL, placeholders)
    said = "".join(map(reading.feed, ["[", *['"jane@example.com", '] * 9])) + reading.finish()
    assert said == "[" + '"<EMAIL_1>", ' * 9
    assert placeholders.counts["opaque"] == 1


def test_a_field_whose_whole_value_is_of_a_class_is_held() -> None:
    reading = Spoken(ALL, Placeholders(), field="first_name")
    assert reading.feed("Yusuf ") + reading.feed("Rossi") == ""
    assert reading.finish() == "<PERSON_NAME_1>"
