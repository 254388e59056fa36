"""Placeholders instead of personal data and secrets."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.detect import detect
from checkrein.decide.redact import Placeholders, detect_json, redact_json, redact_text

ALL = ("pii", "secret")


def clean(text: str, classes: tuple[str, ...] = ALL) -> str:
    return redact_text(text, classes, Placeholders())


def test_a_value_becomes_a_token_of_its_class() -> None:
    text = "Write to jane.doe@example.com, card 4111 1111 1111 1111, that her refund is on its way."
    assert clean(text) == "Write to <EMAIL_1>, card <CARD_1>, that her refund is on its way."


def test_quotes_around_an_address_stay():
    assert clean("mail -s hi 'jane@example.com' \"o'hara@example.com\"") == "mail -s hi '<EMAIL_1>' \"<EMAIL_2>\""


def test_only_the_named_classes_are_replaced() -> None:
    text = "jane@example.com, 4111 1111 1111 1111"
    assert clean(text, ("pii.card",)) == "jane@example.com, <CARD_1>"


def test_same_value_same_placeholder() -> None:
    placeholders = Placeholders()
    first = redact_text("a@example.com b@example.com a@example.com", ALL, placeholders)
    second = redact_text("b@example.com", ALL, placeholders)
    assert first == "<EMAIL_1> <EMAIL_2> <EMAIL_1>"
    assert second == "<EMAIL_2>"
    assert placeholders.counts == {"pii.email": 4}


def test_a_token_that_the_user_wrote_is_not_given_to_a_value() -> None:
    assert clean("<EMAIL_1> is not a@example.com") == "<EMAIL_1> is not <EMAIL_2>"


def test_tokens_anywhere_in_a_body_are_reserved_before_the_first_value() -> None:
    body = ["a@example.com", {"later": "<EMAIL_1>"}]
    assert redact_json(body, ALL, Placeholders()) == ["<EMAIL_2>", {"later": "<EMAIL_1>"}]


def test_json_is_redacted_at_any_depth_in_names_and_in_numbers() -> None:
    body = {"to": [{"a@example.com": "x"}], "card": 4111111111111111, "phone": "4155552671", "n": 1.5}
    assert redact_json(body, ALL, Placeholders()) == {
        "to": [{"<EMAIL_1>": "x"}],
        "card": "<CARD_1>",
        "phone": "<PHONE_1>",
        "n": 1.5,
    }


def test_names_that_become_equal_keep_both_members() -> None:
    body = {"a@example.com": 1, "<EMAIL_2>": 2}
    assert redact_json(body, ALL, Placeholders()) == {"<EMAIL_1>": 1, "<EMAIL_2>": 2}


def test_a_value_without_findings_is_returned_itself() -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "n": [1, None, True]}
    assert redact_json(body, ALL, Placeholders()) is body


def test_what_is_clean_is_shared_and_the_original_is_not_changed() -> None:
    body = {"clean": {"x": 1}, "dirty": "a@example.com"}
    before = json.dumps(body)
    redacted = redact_json(body, ALL, Placeholders())
    assert isinstance(redacted, dict)
    assert redacted["clean"] is body["clean"]
    assert json.dumps(body) == before


PIECES = st.sampled_from(
    ["jane@example.com", "4111 1111 1111 1111", "4111111111111111", "219-09-9998", "phone ", "4155552671",
     "SSN ", "219099998", "\u200b", "é", "password=", "a1b2c3d4", "-----BEGIN PRIVATE KEY-----", "//u:", ":",
     "DE89370400440532013000", "203.0.113.9", " ", ".", "@", "-", "<EMAIL_1>", "<PHONE_2>", "Bearer ", "\ud800"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=14).map("".join)
CLASSES = st.sampled_from([ALL, ("pii",), ("secret",), ("pii.email", "pii.card"), ("pii.phone", "pii.ssn")])
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


@given(TEXTS, CLASSES)
def test_redacted_text_contains_no_span(text: str, classes: tuple[str, ...]) -> None:
    assert detect(clean(text, classes), classes) == ()


@given(TEXTS, CLASSES)
def test_redaction_is_idempotent(text: str, classes: tuple[str, ...]) -> None:
    placeholders = Placeholders()
    once = redact_text(text, classes, placeholders)
    assert redact_text(once, classes, placeholders) == once
    assert clean(once, classes) == once


@given(VALUES, CLASSES)
def test_redacted_json_contains_no_span(value: object, classes: tuple[str, ...]) -> None:
    redacted = redact_json(value, classes, Placeholders())
    assert not detect_json(redacted, classes)
    assert (redacted is value) == (not detect_json(value, classes))


@given(TEXTS)
def test_a_text_without_findings_is_unchanged(text: str) -> None:
    if not detect(text):
        assert clean(text) == text
