"""Text as matchers see it."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checkrein.decide.fold import BACKSLASHES, fold, image


def test_case_width_accents_spacing_and_invisible_characters_fold_away() -> None:
    assert fold("  Wíre\u200b \u00a0MONEY\n\ttoday ") == "wire money today"
    assert fold("\uff37\uff29\uff32\uff25") == "wire"
    assert fold("STRASSE") == fold("straße")


@pytest.mark.parametrize("char", ["\u2065", "\ufff0", "\U000e0041", "\U000e0100", "\ufe0f", "\u3164", "\u180e"])
def test_what_is_shown_as_nothing_hides_nothing(char: str) -> None:
    assert fold(f"wi{char}re") == "wire"
    assert image(f"4111{char}1111")[0] == b"41111111"


def test_punctuation_becomes_ascii_and_sentence_ends_stay_sentence_ends() -> None:
    assert fold("\u201ca\u201d \u2013 b\u3002c") == ",a, - b.c"


def test_an_image_has_a_byte_for_each_visible_character() -> None:
    assert image("plain") == (b"plain", None)
    assert image("é日😀") == (b"\xe9\xe9\xb7", None)
    assert image("a\u200bb") == (b"ab", [0, 2])


#: what is a line end, or a tab, behind a backslash
LINE_ENDS = {"n": "\n", "r": "\r", "t": "\t"}


@example("\\n")
@example("a\uff3cr")
@given(st.text())
def test_offsets_of_an_image_point_into_the_text(text: str) -> None:
    data, offsets = image(text)
    places = list(range(len(text))) if offsets is None else offsets
    assert len(places) == len(data)
    assert places == sorted(set(places))
    shown = re.sub(f"[{re.escape(BACKSLASHES)}]([nrt])", lambda escape: f" {LINE_ENDS[escape[1]]}", text)
    assert all(shown[place] == chr(byte) for place, byte in zip(places, data, strict=True) if shown[place].isascii())


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)
