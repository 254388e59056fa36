"""What every detector promises, so that a text is looked at no more often than it must be."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.detectors import RULES
from checkrein.decide.patterns import latin
from checkrein.decide.rule import Rule, near

#: the others ask for the beginning of a word by their pattern
SHORT = [rule for rule in RULES if rule.short and not rule.pattern.startswith((rb"\b", rb"(?i)\b"))]


def fitting(rule: Rule) -> st.SearchStrategy[bytes]:
    return st.from_regex(re.compile(rule.pattern), fullmatch=True)


@given(st.sampled_from([rule for rule in RULES if rule.least > Rule("", b"").least]), st.data())
def test_no_candidate_is_shorter_than_its_rule_says(rule: Rule, data: st.DataObject):
    assert len(data.draw(fitting(rule))) >= rule.least


@given(st.sampled_from(SHORT), st.data())
def test_nothing_short_is_confirmed_that_begins_within_a_word(rule: Rule, data: st.DataObject):
    word = data.draw(st.sampled_from([b"a", b"7", b"x1"]))
    text = word + data.draw(fitting(rule))
    assert rule.check is not None
    assert not list(rule.check(text, len(word), len(text), b""))


@pytest.mark.parametrize(
    ("text", "field", "found"),
    [
        (b"card 1234", b"", True),
        (b"1234 card", b"", True),
        (b"1234", b"card", True),
        (b"1234\ncard", b"", False),
        (b"card" + b" " * 40 + b"1234", b"", False),
        (b"ca\n1234", b"rd", False),
    ],
)
def test_a_word_stands_near_before_on_the_same_line_behind_or_in_the_name(text: bytes, field: bytes, found: bool):
    start = text.index(b"1234")
    assert near(latin(rb"\bcard\b"), text, start, start + 4, field) is found
