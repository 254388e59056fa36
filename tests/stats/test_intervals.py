"""What a sample proves, held against figures that can be looked up and against simulation."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.stats.intervals import (
    cases_for_difference,
    cases_for_quantile,
    cases_for_rate,
    paired_difference,
    proportion,
    quantile,
    ratio,
)


def test_nothing_seen_proves_nothing():
    assert (proportion(0, 0).low, proportion(0, 0).high) == (0, 1)
    assert math.isinf(quantile([], 0.95).high)
    assert (paired_difference(0, 0, 0).low, paired_difference(0, 0, 0).high) == (-1, 1)


@pytest.mark.parametrize(("count", "upper"), [(100, 0.0295), (300, 0.0099), (500, 0.0060), (1000, 0.0030)])
def test_no_failure_in_n_proves_what_the_rule_of_three_says(count: int, upper: float):
    assert proportion(0, count).high == pytest.approx(upper, abs=5e-5)
    assert proportion(count, count).low == pytest.approx(1 - upper, abs=5e-5)


def test_the_sample_that_would_settle_it():
    assert cases_for_rate(0.01) == 299
    assert cases_for_quantile(0.95) == 59
    assert cases_for_difference(0.02, 0.05) == pytest.approx(773, abs=1)
    assert cases_for_difference(0.05, 0.08) == pytest.approx(198, abs=1)


@given(hits=st.integers(0, 200), more=st.integers(0, 200))
def test_bounds_hold_the_estimate(hits: int, more: int):
    found = proportion(hits, hits + more or 1)
    assert found.low <= found.value <= found.high


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0.05, 0.99))
def test_quantile_bounds_are_values_of_the_sample_around_the_quantile(values: list[float], q: float):
    found = quantile(values, q)
    assert found.low <= found.value <= found.high
    assert found.high in values or math.isinf(found.high)


def test_the_bounds_are_wrong_as_seldom_as_they_say():
    """2,000 samples of 120: the truth lies beyond a 5 % bound in about 5 % of them, never in many more."""
    draw = random.Random(1)  # noqa: S311
    missed_rate = missed_quantile = missed_pair = 0
    for _ in range(2_000):
        hits = sum(draw.random() < 0.07 for _ in range(120))
        missed_rate += proportion(hits, 120).high < 0.07
        times = [draw.expovariate(1) for _ in range(120)]
        missed_quantile += quantile(times, 0.9).high < math.log(10)
        gained, lost = sum(draw.random() < 0.05 for _ in range(120)), sum(draw.random() < 0.05 for _ in range(120))
        missed_pair += paired_difference(gained, lost, 120).low > 0
    assert missed_rate / 2_000 <= 0.065
    assert missed_quantile / 2_000 <= 0.065
    assert missed_pair / 2_000 <= 0.065


def test_a_ratio_is_of_sums_and_not_of_means():
    found = ratio([1.0, 9.0, 2.0, 8.0], [1.0, 3.0, 1.0, 3.0])
    assert found.value == pytest.approx(20 / 8)
    assert found.low < found.value < found.high
    assert math.isinf(ratio([1.0], [1.0]).high)
