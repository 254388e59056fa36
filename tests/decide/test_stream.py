"""Redaction of text that comes in pieces, and the way back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkrein.decide import scan
from checkrein.decide.detect import BUILT_IN, detect
from checkrein.decide.redact import Placeholders, Stream, redact_json, redact_text
from checkrein.decide.restore import Restore, restore_json, restore_text

ALL = ("pii", "secret")
TEXT = (
    "Jane (jane.doe@example.com) has no order 4155552671 at our shop; her phone 4155552671, card 4111 1111 1111 1111, "
    "IBAN DE89 3704 0044 0532 0130 00. password: hunter2hunter9 -----BEGIN PRIVATE KEY-----\nabc\n"
    "-----END PRIVATE KEY----- <EMAIL_7> Bearer abcdefghij0123456789, 203.0.113.9. The end."
)
PIECES = st.sampled_from(
    ["jane@example.com", "4111 1111 1111 1111", "4111111111111111", "219-09-9998", "phone ", "4155552671", "+",
     "SSN ", "219099998", "\u200b", "é", "password=", "a1b2c3d4", "-----BEGIN PRIVATE KEY-----", "//u:", ":",
     "DE89370400440532013000", "203.0.113.9", " ", ".", "@", "-", "<EMAIL_1>", "<PHONE_1>", "<", "_1>", "Bearer ",
     "a word ", "\n", "-----END PRIVATE KEY-----", "sk-", "ghp_aB3daB3daB3daB3daB3daB3daB3daB3daB3d", "2001:db8::"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=16).map("".join)
CUTS = st.lists(st.integers(0, 200), max_size=30)


def pieces(text: str, cuts: Iterable[int]) -> list[str]:
    """The text, cut at these places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[first:last] for first, last in itertools.pairwise(places)]


def streamed(parts: Iterable[str], placeholders: Placeholders | None = None) -> str:
    stream = Stream(BUILT_IN, ALL, Placeholders() if placeholders is None else placeholders)
    return "".join([*map(stream.feed, parts), stream.finish()])


@given(TEXTS, CUTS)
def test_the_output_is_the_same_over_every_chunking(text: str, cuts: list[int]) -> None:
    whole = redact_text(text, ALL, Placeholders())
    assert streamed(pieces(text, cuts)) == whole
    assert streamed(text) == whole


@pytest.mark.parametrize("size", range(1, 12))
def test_a_text_with_much_to_hide_streams_as_it_redacts(size: int) -> None:
    expected = (
        "Jane (<EMAIL_1>) has no order 4155552671 at our shop; her phone <PHONE_1>, card <CARD_1>, IBAN <IBAN_1>. "
        "password: <PASSWORD_1> <PRIVATE_KEY_1> <EMAIL_7> Bearer <BEARER_TOKEN_1>, <IP_1>. The end."
    )
    assert redact_text(TEXT, ALL, Placeholders()) == expected
    assert streamed(pieces(TEXT, range(0, len(TEXT), size))) == expected


@given(TEXTS, CUTS)
def test_a_value_that_was_redacted_is_restored_exactly(text: str, cuts: list[int]) -> None:
    placeholders = Placeholders()
    clean = streamed(pieces(text, cuts), placeholders)
    if "<WITHHELD_1>" not in clean:
        assert restore_text(clean, placeholders, ALL) == text
        restore = Restore(placeholders, ALL)
        assert "".join([*map(restore.feed, pieces(clean, cuts)), restore.finish()]) == text


@given(TEXTS)
def test_redacted_json_is_restored_exactly(text: str) -> None:
    placeholders = Placeholders()
    value = {"a": [text, {text: text}], "n": None}
    clean = redact_json(value, ALL, placeholders)
    if placeholders.counts["withheld"] == 0:
        assert restore_json(clean, placeholders, ALL) == value


def test_text_is_released_as_soon_as_nothing_that_follows_can_change_it() -> None:
    stream = Stream(BUILT_IN, ALL, Placeholders())
    assert stream.feed("Hello wor") == "Hello "
    assert stream.feed("ld, mail jane@exa") == "world, mail "
    assert stream.feed("mple.com now") == "<EMAIL_1> "
    assert stream.finish() == "now"


def test_a_number_waits_for_the_word_that_gives_it_a_meaning() -> None:
    stream = Stream(BUILT_IN, ALL, Placeholders())
    assert stream.feed("It is 4155552671 (her ") == "It is "
    assert stream.feed("mobile), they say that it is so") == "<PHONE_1> (her mobile), they say that it is "
    assert stream.finish() == "so"


@given(CUTS)
def test_an_extension_belongs_to_its_number(cuts: list[int]) -> None:
    text = "Desk: (898)666-3621x0135 and 898.666.3621 ext. 42\nFax: 345-899-3560x4587"
    expected = "Desk: <PHONE_1> and <PHONE_2>\nFax: <PHONE_3>"
    assert streamed(pieces(text, cuts)) == expected


def test_a_session_has_one_placeholder_for_a_value_over_requests_and_answers() -> None:
    placeholders = Placeholders()
    body = redact_json({"content": "mail bob@example.com"}, ALL, placeholders)
    assert body == {"content": "mail <EMAIL_1>"}
    answer = streamed(["I mailed <EMA", "IL_1> and bob@exam", "ple.com and al@example.com"], placeholders)
    assert answer == "I mailed <EMAIL_1> and <EMAIL_1> and <EMAIL_2>"
    assert restore_text(answer, placeholders, ALL).count("bob@example.com") == 2


def test_text_that_looks_like_a_placeholder_of_this_text_gets_one_of_its_own() -> None:
    placeholders = Placeholders()
    clean = streamed(["a@example.com, not <EMAIL_1>"], placeholders)
    assert clean == "<EMAIL_1>, not <PLACEHOLDER_1>"
    assert restore_text(clean, placeholders, ALL) == "a@example.com, not <EMAIL_1>"


def test_a_target_sees_only_the_classes_it_may_see() -> None:
    placeholders = Placeholders()
    clean = redact_text("a@example.com 4111111111111111", ALL, placeholders)
    assert restore_text(clean, placeholders, ("pii.email",)) == "a@example.com <CARD_1>"
    assert restore_json({"<EMAIL_1>": [clean, 1]}, placeholders, ()) == {"<EMAIL_1>": [clean, 1]}


def test_a_token_that_was_never_given_stays() -> None:
    assert restore_text("<EMAIL_1> <NOTHING_1>", Placeholders(), ALL) == "<EMAIL_1> <NOTHING_1>"


def test_a_value_that_looks_like_a_token_is_not_restored_again() -> None:
    placeholders = Placeholders()
    placeholders.token("pii.email", "<CARD_1>")
    placeholders.token("pii.card", "4111111111111111")
    assert restore_text("<EMAIL_1>", placeholders, ALL) == "<CARD_1>"


def test_what_never_settles_is_withheld_from_there_on() -> None:
    chain = "jane@example.com" + "+14155552671" * 6
    assert detect(redact_text(chain, ALL, Placeholders())) == ()
    assert streamed(chain) == redact_text(chain, ALL, Placeholders())


RUNS = {
    "letters": "a" * 50_000,
    "digits": "4 " * 25_000,
    "key": "-----BEGIN PRIVATE KEY-----" + "aB3d" * 12_500,
    "password": "password=" + "a1b2c3d4" * 6_000,
    "ats": "a@" * 25_000,
    "brackets": "<" * 50_000,
    "spaces": "password" + " " * 50_000,
}


@pytest.mark.parametrize("name", RUNS)
def test_an_endless_run_is_held_within_bounds_and_restored_exactly(name: str) -> None:
    text = f"see {RUNS[name]} jane@example.com"
    placeholders = Placeholders()
    stream = Stream(BUILT_IN, ALL, placeholders)
    released = ""
    for part in pieces(text, range(0, len(text), 1_000)):
        released += stream.feed(part)
    waiting = len(text) - len(restore_text(released, placeholders, ALL))
    assert waiting <= 5 * scan.LIMIT
    released += stream.finish()
    assert detect(released) == ()
    assert restore_text(released, placeholders, ALL) == text
    assert released == redact_text(text, ALL, Placeholders())


def test_a_secret_longer_than_what_is_held_is_hidden_whole() -> None:
    clean = redact_text(f"x {RUNS['key']} y\n-----END PRIVATE KEY----- z", ALL, Placeholders())
    assert set(clean.replace("<PRIVATE_KEY_", "").replace(">", "")) <= set("x z0123456789")


@pytest.mark.parametrize("place", range(scan.LIMIT - 40, scan.LIMIT + 8))
def test_a_number_in_an_endless_run_is_found_wherever_the_run_is_cut(place: int) -> None:
    text = ("1 " * scan.LIMIT)[:place] + " 4111 1111 1111 1111" + " 1" * 400
    assert "4111" not in redact_text(text, ("pii.card",), Placeholders())


@settings(deadline=None, max_examples=30)
@given(TEXTS, CUTS)
def test_runs_that_are_cut_are_cut_alike_over_every_chunking(text: str, cuts: list[int]) -> None:
    long = f"{text}{'1 ' * 200}{text}{'a' * 300}{text}-----BEGIN PRIVATE KEY-----{'ab' * 500}{text}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "LIMIT", 700)
        assert streamed(pieces(long, [cut * 13 for cut in cuts])) == streamed([long])
