"""From a pattern, the pattern of what may still become a match."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.detectors import RULES, Rule
from checkrein.decide.partial import loose, viable
from checkrein.decide.patterns import latin


def held(text: bytes, *patterns: bytes) -> bytes:
    match = viable(patterns).search(text)
    assert match is not None
    return text[match.start() :]


def test_the_longest_end_that_a_match_can_begin_with_is_held() -> None:
    assert held(b"a word@exam", rb"[a-z]+@[a-z]+\.com") == b"word@exam"
    assert held(b"a word!", rb"[a-z]+@[a-z]+\.com") == b""
    assert held(b"ABxABx", rb"(?i)ab") == b""
    assert held(b"xAB", rb"(?i)abc|x{2,3}y") == b"AB"


def test_a_counted_repetition_ends_where_it_is_full() -> None:
    assert held(b"1234", rb"\d{3}-") == b"234"
    assert held(b"12ab", rb"(?:\d{2}[a-b]){2}") == b""
    assert held(b"12a34", rb"(?:\d{2}[a-b]){2}") == b"12a34"


def test_hexadecimal_escapes_are_one_character() -> None:
    assert held(b"a\xe9", rb"\xe9+z") == b"\xe9"


@pytest.mark.parametrize("pattern", [rb"^a", rb"a$", rb"(?=a)b", rb"a(", rb"a)", rb"(?s)a"])
def test_what_is_not_understood_is_refused(pattern: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        viable((pattern,))


@given(st.sampled_from(RULES), st.data())
def test_every_beginning_of_a_match_is_held(rule: Rule, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(rule.pattern.replace(rb"\b", b""), fullmatch=True))
    if latin(rule.pattern).fullmatch(text):
        size = data.draw(st.integers(0, len(text)))
        assert held(text[:size], rule.pattern) == text[:size]


@given(st.sampled_from(RULES), st.data())
def test_a_loose_pattern_fits_wherever_the_pattern_does(rule: Rule, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(rule.pattern.replace(rb"\b", b""), fullmatch=True))
    if latin(rule.pattern).search(text):
        assert latin(loose(rule.pattern)).search(text)


def test_a_loose_pattern_counts_less() -> None:
    assert loose(rb"(?i)\d{3}[a-z]{0,9}(?:x{2,5})?") == rb"(?i:\d{2,}[a-z]*(?:x{2,}){0,1})"
