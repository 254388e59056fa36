"""What one look lets go, all passes would have let go; where it cannot tell, they read the text."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from checkrein.decide import stream
from checkrein.decide.calm import held
from checkrein.decide.detect import BUILT_IN
from checkrein.decide.redact import Placeholders, Stream
from checkrein.decide.stream import PASSES

thorough = settings(max_examples=10_000 if os.environ.get("CHECKREIN_DEEP") == "1" else 120)
ALL = ("pii", "secret", "net")
#: words with which something may begin, and what they may go on with
PIECES = st.sampled_from(
    ["jane", "@example", ".com", "aws ", "secret ", "access ", "key ", "is ", "token", ": ", "bearer ", "basic ",
     "the ", "and so it goes ", "her ", "phone ", "555", " 12", "2024 ", "AB ", "99 ", "SSN", "passport ", "x at y ",
     "dot ", "com ", "%", "4", "0", "&", "#64;", "\\", "u0040", "n", "\\n", "\\t", "<", "EMAIL", "_1>", "a < b ",
     "R&D ", "5% ", "www.",
     "https", "://", "-", "--", "-----BEGIN ", "a1b2c3d4", "aGVsbG8gd29ybGQgYW5k", "\n", "é", "—", "\u200b", '"', "'",
     "a longer sentence in which there is nothing at all to find, so that all is well. "]
)  # fmt: skip
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=24).map("".join)
CUTS = st.lists(st.integers(0, 400), max_size=40)


def pieces(text: str, cuts: Iterable[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[first:last] for first, last in itertools.pairwise(places)]


def told(parts: Iterable[str], passes: int) -> list[str]:
    """What comes out with each piece."""
    reading = Stream(BUILT_IN, ALL, Placeholders(), passes=passes, forms=True)
    return [*map(reading.feed, parts), reading.finish()]


@thorough
@given(TEXTS, CUTS)
@example("janejanejanesecret access ", [])
def test_one_look_lets_go_what_all_passes_let_go(text: str, cuts: list[int]) -> None:
    parts = pieces(text, cuts)
    looked, redacted = told(parts, 1), told(parts, PASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "held", lambda *_: None)
        assert looked == told(parts, 1)
        assert "".join(redacted) == "".join(told(parts, PASSES))


@given(st.lists(st.sampled_from(["Here ", "are some ", "words", " of an answer, ", "and more. ", "It's fine\n"])))
def test_plain_words_need_no_passes(words: list[str]) -> None:
    def unneeded(*_: object) -> None:
        raise AssertionError("plain words were read by the passes")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "Passes", unneeded)
        assert "".join(told(words, 1)) == "".join(words)


@pytest.mark.parametrize("text", ["jane@example.com", "j%40x", "a &#6", "<EMAIL_1>", "see <EM", "x at y dot com"])
def test_one_look_does_not_tell_of_what_may_be_something(text: str) -> None:
    assert held(BUILT_IN.ruleset(ALL), text.encode(), 0) is None


@pytest.mark.parametrize("text", ["a < b", "R&D ", "it costs 5% ", "in 42 ways ", "a backslash \\ ", "<div>"])
def test_signs_that_stand_for_nothing_are_calm(text: str) -> None:
    assert held(BUILT_IN.ruleset(ALL), text.encode(), 0) is not None
