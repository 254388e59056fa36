"""Texts as rows of numbers: enough to compare, too little to read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.stats import ngrams, shift

REFUNDS = [f"How long does the refund for order {at} take?" for at in range(60)]
TRANSFERS = [f"Please wire {at} dollars to the vendor's account" for at in range(60)]


@given(st.lists(st.text(), max_size=5))
def test_each_row_has_length_one_or_says_nothing(texts):
    found = ngrams.rows(texts)
    assert found.shape == (len(texts), ngrams.WIDTH)
    assert all(length == pytest.approx(1) or length == 0 for length in np.linalg.norm(found, axis=1))


def test_case_and_numbers_do_not_count():
    one, other = ngrams.rows(["Refund order 17", "refund ORDER 42"])
    assert (one == other).all()


def test_other_questions_are_another_language_and_the_same_are_not():
    same = shift.profiles(ngrams.rows(REFUNDS[::2]), ngrams.rows(REFUNDS[1::2]))
    other = shift.profiles(ngrams.rows(REFUNDS), ngrams.rows(TRANSFERS))
    assert same.p > 0.05
    assert other.p < 0.001
    assert other.size > 0.8


def test_a_long_text_costs_no_more_than_its_beginning():
    assert (ngrams.rows(["a b " * 100_000]) == ngrams.rows(["a b " * (ngrams.MAX_CHARS // 4)])).all()
