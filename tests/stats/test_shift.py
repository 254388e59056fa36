"""Whether two samples come from one world: laws, references, and what the tests promise when they are simulated."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from checkrein.stats import shift

DEEP = bool(os.environ.get("CHECKREIN_DEEP"))
REPEATS = 1000 if DEEP else 200
ALPHA = 0.01
NAMES = [f"tool-{at}" for at in range(40)]
ZIPF = 1 / np.arange(1, 41) / (1 / np.arange(1, 41)).sum()
#: five points more of the rarest tool
SHIFTED = np.append(ZIPF[:-1] * 0.95, ZIPF[-1] * 0.95 + 0.05)

counts = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(1, 300), min_size=1, max_size=20)
values = st.dictionaries(st.integers(0, 50), st.integers(1, 40), min_size=1, max_size=20)
pairs = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 500)), min_size=2, max_size=30).filter(
    lambda found: any(one for one, _ in found)
)
ps = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def drawn(generator: np.random.Generator, size: int, shares: np.ndarray) -> dict[str, int]:
    return dict(zip(NAMES, generator.multinomial(size, shares).tolist(), strict=True))


def few(hits: int, rate: float) -> bool:
    """Whether so many hits are no sign that the true rate is above `rate`; wrong once in ten thousand."""
    return bool(stats.binom.sf(hits - 1, REPEATS, rate) > 1e-4)


# --- shares


@given(counts, counts)
def test_merging_loses_nothing_and_leaves_no_rare_bin(golden, production):
    found = shift.merged(golden, production)
    n, m = sum(golden.values()), sum(production.values())
    assert (sum(one for one, _ in found), sum(other for _, other in found)) == (n, m)
    share = min(n, m) / (n + m)
    assert len(found) == 1 or all(sum(pair) * share >= shift.LEAST for pair in found)


@given(counts, counts)
def test_order_is_irrelevant(golden, production):
    turned = dict(reversed(golden.items()))
    assert shift.categories(golden, production) == shift.categories(turned, dict(reversed(production.items())))


@given(counts, st.integers(1, 5))
def test_what_has_the_same_shares_has_not_shifted(golden, times):
    found = shift.categories(golden, {name: count * times for name, count in golden.items()})
    assert (round(found.shift.p, 6), round(found.shift.size, 9)) == (1.0, 0.0)
    assert found.psi <= found.psi_floor + 0.01


@given(pairs)
def test_chi_square_is_scipys(given_pairs):
    statistic, p = shift.chi_square(given_pairs)
    reference = stats.chi2_contingency(np.array(given_pairs).T, correction=False)
    assert statistic == pytest.approx(reference.statistic, rel=1e-9, abs=1e-9)
    assert p == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-12)


def test_the_surer_of_two_tests_counts_double():
    golden, production = {"a": 700, "b": 300}, {"a": 5000, "b": 5000}
    alone = shift.chi_square([(300, 5000), (700, 5000)])[1]
    assert shift.categories(golden, production).shift.p == pytest.approx(2 * alone, rel=1e-9, abs=0)
    rare = {**dict.fromkeys(NAMES[:3], 30)}, {**dict.fromkeys(NAMES[:3], 3000), "new": 600}
    alone = shift.chi_square(shift.merged(*rare))[1]
    assert shift.categories(*rare).shift.p < alone  # PSI sees first what is new


@given(pairs)
def test_psi_is_what_its_formula_says(given_pairs):
    n, m = (sum(pair[side] + 0.5 for pair in given_pairs) for side in (0, 1))
    shares = [((one + 0.5) / n, (other + 0.5) / m) for one, other in given_pairs]
    assert shift.psi(given_pairs) == pytest.approx(sum((p - q) * math.log(p / q) for p, q in shares))


def test_the_same_seed_has_the_same_noise():
    golden, production = {"a": 60, "b": 40}, {"a": 500, "b": 500}
    assert shift.categories(golden, production, seed=1) == shift.categories(golden, production, seed=1)
    assert shift.categories(golden, production, seed=1) != shift.categories(golden, production, seed=2)


@pytest.mark.parametrize(("golden", "production"), [({}, {}), ({"a": 1}, {}), ({}, {"a": 1}), ({"a": 9}, {"a": 9})])
def test_nothing_to_compare_is_no_shift(golden, production):
    assert shift.categories(golden, production).shift == shift.NOTHING


@pytest.mark.parametrize("size", [100, 200, 500, 1000, 2000])
def test_chance_alarms_no_more_often_than_alpha_says(size):
    generator = np.random.default_rng(size)
    alarms = crossed = usual = 0
    for at in range(REPEATS):
        found = shift.categories(drawn(generator, size, ZIPF), drawn(generator, 10_000, ZIPF), alpha=ALPHA, seed=at)
        alarms += found.shift.p <= ALPHA
        crossed += found.psi > found.psi_floor
        usual += found.shift.size > 0.02
    assert few(alarms, ALPHA)
    assert few(crossed, 2 * ALPHA)  # the floor is itself drawn
    assert usual > REPEATS / 2  # the distance alone would have alarmed


#: what simulation gave for chi-square alone, without merging; ours must not be worse
@pytest.mark.parametrize(("size", "power"), [(100, 0.05), (200, 0.13), (500, 0.41), (1000, 0.88), (2000, 0.99)])
def test_five_points_more_of_one_rare_tool_are_noticed(size, power):
    generator = np.random.default_rng(size)
    noticed = sum(
        shift.categories(drawn(generator, size, ZIPF), drawn(generator, 10_000, SHIFTED), seed=at).shift.p <= ALPHA
        for at in range(REPEATS)
    )
    assert noticed / REPEATS >= power


def test_what_is_beyond_chance_is_the_true_shift():
    """Over many samples: neither nothing where much shifted, nor much where nothing did."""
    generator = np.random.default_rng(7)
    still, moved = (
        [
            shift.categories(drawn(generator, 1000, ZIPF), drawn(generator, 10_000, shares), seed=at).shift.beyond
            for at in range(50)
        ]
        for shares in (ZIPF, SHIFTED)
    )
    assert np.mean(still) < 0.025
    assert 0.035 < np.mean(moved) < 0.075


# --- numbers


@given(values, values)
def test_the_distance_of_numbers_is_scipys(golden, production):
    one, other = (np.repeat(list(found), list(found.values())) for found in (golden, production))
    found = shift.numbers(golden, production)
    reference = stats.ks_2samp(one, other, method="exact")
    assert found.size == pytest.approx(reference.statistic)
    # where it matters, the limit is the more careful of the two, but for a few hundredths of a small p
    assert found.p >= 0.95 * min(0.1, reference.pvalue)


@pytest.mark.parametrize("size", [100, 1000])
def test_chance_makes_numbers_alarm_no_more_often_than_alpha_says(size):
    generator = np.random.default_rng(size)
    alarms = 0
    for _ in range(REPEATS):
        one, other = (np.unique(generator.geometric(0.02, count), return_counts=True) for count in (size, 10_000))
        found = shift.numbers(*(dict(zip(at.tolist(), many.tolist(), strict=True)) for at, many in (one, other)))
        alarms += found.p <= ALPHA
    assert few(alarms, ALPHA)


def test_longer_arguments_are_noticed():
    generator = np.random.default_rng(3)
    one, other = generator.poisson(100, 500), generator.poisson(110, 5000)
    found = shift.numbers(*(dict(zip(*map(list, np.unique(x, return_counts=True)), strict=True)) for x in (one, other)))
    assert found.p < 1e-6
    assert found.beyond > 0.2


# --- what was never seen


def test_what_a_small_golden_set_must_lack_is_no_shift():
    """A tenth of production is never seen, and nothing has shifted: so many values are just rare."""
    generator = np.random.default_rng(5)
    shares = 1 / np.arange(1, 2001)
    alarms, absent = 0, []
    for _ in range(REPEATS):
        draws = (generator.choice(2000, size, p=shares / shares.sum()) for size in (300, 3000))
        golden, production = (
            {str(at): int(many) for at, many in zip(*np.unique(found, return_counts=True), strict=True)}
            for found in draws
        )
        found = shift.never_seen(golden, production)
        alarms += found.p <= ALPHA
        absent.append(found.size)
        assert found.chance == pytest.approx(found.size, abs=0.12)
    assert np.mean(absent) > 0.1
    assert few(alarms, ALPHA)


@given(counts, counts)
def test_the_bound_is_never_below_the_true_chance(golden, production):
    """Divide everything anew, many times: as much absent as was seen is no rarer than the bound says."""
    found = shift.never_seen(golden, production)
    names = sorted(golden.keys() | production.keys())
    pooled = np.array([golden.get(name, 0) + production.get(name, 0) for name in names])
    generator = np.random.default_rng(0)
    one = generator.multivariate_hypergeometric(pooled, sum(golden.values()), size=200, method="marginals")
    absent = np.where(one == 0, pooled, 0).sum(1) / sum(production.values())
    hits = int((absent >= found.size - 1e-12).sum())
    assert stats.binom.sf(hits - 1, 200, found.p) > 1e-9


def test_a_new_tool_is_a_shift_at_every_size():
    golden = {"search": 60, "refund": 40}
    assert shift.never_seen(golden, {"search": 600, "refund": 400}).p == 1.0
    found = shift.never_seen(golden, {"search": 580, "refund": 390, "delete_all": 100})
    assert found.p < 0.001
    assert found.size == pytest.approx(100 / 1070)


def test_a_share_of_new_tools_below_the_floor_is_none():
    golden, production = {"search": 20_000}, {"search": 19_900, "delete_all": 100}
    assert shift.never_seen(golden, production).p < 1e-9
    assert shift.never_seen(golden, production, floor=0.02).p == 1.0
    assert shift.never_seen(golden, production, floor=0.004).p == pytest.approx(
        stats.binomtest(100, 20_000, 0.004, alternative="greater").pvalue
    )


def test_a_golden_set_of_other_things_altogether():
    found = shift.never_seen({"a": 50}, {"b": 50})
    assert found.size == 1.0
    assert found.p < 1e-6


# --- texts


def rows(generator: np.random.Generator, count: int, tilt: float = 0.0) -> np.ndarray:
    weights = np.ones(32)
    weights[0] += tilt
    found = generator.multinomial(12, weights / weights.sum(), size=count) + 0.0
    return np.sqrt(found / 12)


def test_chance_makes_texts_alarm_no_more_often_than_alpha_says():
    generator = np.random.default_rng(2)
    repeats = REPEATS // 10
    alarms = sum(shift.profiles(rows(generator, 60), rows(generator, 200), seed=at).p <= 0.05 for at in range(repeats))
    assert stats.binom.sf(alarms - 1, repeats, 0.05) > 1e-4


def test_other_words_are_noticed():
    generator = np.random.default_rng(4)
    found = shift.profiles(rows(generator, 100), rows(generator, 400, tilt=3))
    assert found.p <= 1 / 1000
    assert found.size > found.chance


def test_texts_with_nothing_in_common_are_as_far_apart_as_can_be():
    one, other = np.zeros((30, 4)), np.zeros((50, 4))
    one[:, 0], other[:, 3] = 1.0, 1.0
    assert shift.profiles(one, other).size == pytest.approx(1.0)


def test_the_same_text_everywhere_is_no_shift():
    same = np.ones((20, 4)) / 2
    assert shift.profiles(same, same).p == 1.0


# --- many questions at once, and what could be answered


@given(ps)
def test_benjamini_hochberg_is_scipys(given_ps):
    assert shift.benjamini_hochberg(given_ps) == pytest.approx(list(stats.false_discovery_control(given_ps)))


@given(ps)
def test_many_questions_make_no_answer_surer(given_ps):
    assert all(after >= before for before, after in zip(given_ps, shift.benjamini_hochberg(given_ps), strict=True))


@pytest.mark.parametrize("size", [300, 1000])
def test_the_smallest_detectable_shift_is_found_four_times_in_five(size):
    generator, bins = np.random.default_rng(size), 10
    gain = shift.smallest_shift(bins, size, 10_000, alpha=ALPHA)
    before = np.full(bins, 1 / bins)
    after = before * (1 - gain / (1 - 1 / bins))
    after[0] = 1 / bins + gain
    found = sum(
        shift.chi_square(
            list(zip(generator.multinomial(size, before), generator.multinomial(10_000, after), strict=True))
        )[1]
        <= ALPHA
        for _ in range(REPEATS)
    )
    assert 0.65 < found / REPEATS < 0.93


@given(st.integers(2, 60), st.integers(1, 5000), st.integers(1, 100_000))
def test_more_golden_cases_notice_no_less(bins, golden, production):
    one, other = (shift.smallest_shift(bins, size, production, alpha=ALPHA) for size in (golden, golden * 2))
    assert other <= one + 1e-9


@given(st.integers(2, 60), st.floats(0.02, 0.3), st.integers(1, 100_000))
def test_the_cases_asked_for_are_enough_and_no_fewer_are(bins, gain, production):
    needed = shift.cases_for_shift(gain, bins, production, alpha=ALPHA)
    if not needed:
        assert shift.smallest_shift(bins, 1_000_000, production, alpha=ALPHA) > gain
        return
    assert shift.smallest_shift(bins, needed, production, alpha=ALPHA) <= gain
    assert shift.smallest_shift(bins, needed - 1, production, alpha=ALPHA) > gain


def test_nothing_is_noticed_in_nothing():
    assert shift.smallest_shift(1, 100, 100, alpha=ALPHA) == 1.0
    assert shift.smallest_shift(5, 0, 100, alpha=ALPHA) == 1.0
    assert shift.cases_for_shift(0.1, 5, 0, alpha=ALPHA) == 0
