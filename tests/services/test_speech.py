"""Words of an answer in pieces: nothing gets out that would be hidden in the whole answer."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkrein.decide.redact import Placeholders
from checkrein.services.speech import Speech, Voice, Withheld
from fakes import speech

EMAIL, PHONE = "jane@example.com", "4155552671"
HIDDEN = base64.b64encode(f"say {EMAIL} to".encode()).decode()
thorough = settings(max_examples=10_000 if os.environ.get("CHECKREIN_DEEP") == "1" else 150)
POLICY = ("pii.email", "pii.phone", "pii.person_name", "secret.password", "pii.card")


def told(pieces: Iterable[str], given: Speech, field: str = "content") -> str:
    voice = Voice(given, field)
    return "".join([*map(voice.feed, pieces), voice.finish()])


def hidden(text: str) -> str:
    """The text with all that is hidden in one place as one: a run beside an address may be one finding or two."""
    return re.sub("(<[A-Z_]+_[0-9]+>)+", "<>", text)


def cut(text: str, cuts: Iterable[int]) -> list[str]:
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in cuts)})
    return [text[first:last] for first, last in itertools.pairwise(places)]


WORDS = st.lists(
    st.sampled_from(
        [EMAIL, PHONE, HIDDEN, urllib.parse.quote(EMAIL), "j&#97;ne", "@", "example.com", "\\u0040", "%40", "phone ",
         " ", "her mobile is ", "4111 1111", " 1111 1111", "Yusuf", "hunter2hunter9", ", ", "\n", '"', "\\", "{", "[",
         "]", "a word ", "<EMAIL_1>", "[1] ", '{"first_name": "Yusuf"}', "\u200b"]
    ),
    max_size=8,
).map("".join)  # fmt: skip
NAMES = st.sampled_from(["first_name", "phone", "password", "text", "to", "note", "deep"])
VALUES = st.recursive(
    st.one_of(WORDS, st.just(4111111111111111), st.floats(allow_nan=False), st.none(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3), inner.map(json.dumps)
    ),
    max_leaves=6,
)
TEXTS = st.one_of(
    WORDS,
    st.builds(
        lambda before, value, indent, size, after: (before + json.dumps(value, indent=indent))[:size] + after,
        st.sampled_from(["", " ", "\n", "so: "]),
        VALUES,
        st.sampled_from([None, 1]),
        st.sampled_from([9, 40, 10_000]),
        st.one_of(st.just(""), st.just(" \n"), WORDS),
    ),
)


@thorough
@given(
    TEXTS, st.lists(st.integers(0, 400), max_size=20), st.sampled_from(["content", "first_name", "phone", "password"])
)
def test_a_stream_shows_nothing_that_the_whole_answer_hides(text: str, cuts: list[int], field: str):
    placeholders = Placeholders()
    placeholders.reserve(text)
    whole = speech(redact=POLICY)
    try:
        expected = whole.whole({field: text})
    except Withheld:
        with pytest.raises(Withheld):
            told(cut(text, cuts), speech(redact=POLICY), field)
        return
    for pieces in (cut(text, cuts), [*text]):
        streamed = speech(redact=POLICY, placeholders=placeholders)
        assert hidden(told(pieces, streamed, field)) == hidden(expected[field])  # type: ignore[index]
        placeholders = Placeholders()
        placeholders.reserve(text)


@pytest.mark.parametrize("size", range(34, 46))
def test_a_line_end_written_as_an_escape_is_not_cut_in_two(size: int):
    text = json.dumps('[["\\nc2F5IGphbmVAZXhhbXBsZS5jb20gdG8="]]')[:size]
    for pieces in ([text], [*text]):
        assert told(pieces, speech(redact=POLICY)) == speech(redact=POLICY).whole(text)


def test_a_word_that_was_released_gives_what_follows_it_a_meaning():
    pieces = ["her phone number is ", "4155552671 and she", " says so"]
    assert told(pieces, speech(redact=("pii.phone",))) == "her phone number is <PHONE_1> and she says so"


def test_what_policy_wants_out_by_name_is_looked_for_too():
    given = speech(redact=("net.url",), always=True)
    assert told(["see https://intra", ".example.com/a for it"], given) == "see <URL_1> for it"
    assert speech(redact=("net.url",), always=True).whole(["https://intra.example.com/a"]) == ["<URL_1>"]


def test_what_nobody_looked_for_before_a_finding_is_not_told_as_if_it_had_been():
    policy = ("net.url", "pii.email")
    assert told(["write to ", EMAIL, " or see https://a.example.com "], speech(redact=policy)) == (
        "write to <EMAIL_1> or see <URL_1> "
    )
    with pytest.raises(Withheld, match="cannot be redacted any more"):
        told(["see https://a.example.com or write to ", EMAIL], speech(redact=policy))


def test_what_is_found_in_one_text_is_looked_for_in_the_others_from_then_on():
    given = speech(redact=("net.url", "pii.email"))
    first, second = Voice(given), Voice(given)
    assert first.feed("as you ") == "as "
    assert second.feed(f"write to {EMAIL} ") + second.finish() == "write to <EMAIL_1> "
    assert first.feed("see https://a.example.com ") + first.finish() == "you see <URL_1> "


def test_a_text_that_is_json_is_not_held_where_policy_minds_nothing():
    voice = Voice(speech())
    assert voice.feed('{"answer": "so it ') == '{"answer": "so '
    held = Voice(speech(redact=POLICY))
    assert held.feed('{"answer": "so it ') == ""
    assert held.feed('is"}') + held.finish() == '{"answer": "so it is"}'


@pytest.mark.parametrize("redact", [("pii.email",), ("secret",)])
def test_what_cannot_be_read_is_withheld_as_in_a_whole_answer(redact: tuple[str, ...]):
    deep = EMAIL
    for _ in range(9):
        deep = base64.b64encode(deep.encode()).decode()
    with pytest.raises(Withheld):
        speech(redact=redact).whole([deep])
    with pytest.raises(Withheld):
        told([*deep], speech(redact=redact))
    assert told([*deep], speech()) == deep


def restoring(value: str, cls: str, **policy: Any) -> Speech:
    values = Placeholders()
    values.token(cls, value)
    return speech(values=values, **policy)


@given(
    st.lists(st.sampled_from(["<EMAIL_1>", "<EMAIL_2>", "<", "EMAIL_1>", " ", "a", "<EMAIL_"])).map("".join), st.data()
)
def test_what_comes_back_is_the_same_over_every_chunking(text: str, data: st.DataObject):
    cuts = data.draw(st.lists(st.integers(0, 60)))
    given = restoring(EMAIL, "pii.email")
    assert told(cut(text, cuts), given) == text.replace("<EMAIL_1>", EMAIL)
    assert given.comeback
    assert given.comeback.counts["pii.email"] == text.count("<EMAIL_1>")
    assert restoring(EMAIL, "pii.email").whole([text]) == [text.replace("<EMAIL_1>", EMAIL)]


@pytest.mark.parametrize("policy", [{"redact": ("pii.email",)}, {"deny": ("pii.email",)}])
def test_a_value_that_holds_what_an_answer_may_not_hold_stays_out(policy: Any):
    given = restoring(f"https://u:p4ssw0rd@a.example.com?to={EMAIL}", "secret.connection_string", **policy)
    assert told(["see <CONNECTION_", "STRING_1>"], given) == "see <CONNECTION_STRING_1>"


def test_a_value_in_json_is_put_back_as_json():
    given = restoring('Yu"suf', "pii.person_name")
    pieces = cut('{"to": "<PERSON_NAME_1>", "deep": "{\\"to\\": \\"<PERSON_NAME_1>\\"}"}', range(0, 90, 7))
    said = json.loads(told(pieces, given))
    assert said == {"to": 'Yu"suf', "deep": '{"to": "Yu\\"suf"}'}


def test_a_number_in_an_answer_that_is_a_card_is_taken_out_as_in_arguments() -> None:
    told = speech(redact=("pii.card",)).whole({"card": 4111111111111111, "of": [{"is": 4111111111111111}]})
    assert told == {"card": "<CARD_1>", "of": [{"is": "<CARD_1>"}]}
