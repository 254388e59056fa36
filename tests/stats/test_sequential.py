"""A canary and its control, looked at after every tick."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.stats.sequential import NOTHING, evidence, observe, threshold


def test_nothing_observed_is_no_evidence():
    assert evidence(NOTHING) == pytest.approx(0)


def test_threshold_is_villes_inequality_shared_among_the_tests():
    assert threshold(0.01) == pytest.approx(math.log(100))
    assert threshold(0.01, looks=3) == pytest.approx(math.log(300))


@pytest.mark.parametrize(("canary_exposed", "control_exposed"), [(0, 100), (100, 0)])
def test_without_a_control_errors_say_nothing(canary_exposed: int, control_exposed: int):
    seen = observe(NOTHING, canary=9, control=9, canary_exposed=canary_exposed, control_exposed=control_exposed)
    assert seen == NOTHING


counts = st.integers(0, 40)
exposed = st.integers(40, 100_000)


@given(canary=counts, control=counts, of_canary=exposed, of_control=exposed)
def test_an_error_more_on_the_canary_is_more_evidence(canary: int, control: int, of_canary: int, of_control: int):
    def seen(errors: int) -> float:
        exposures = {"canary_exposed": of_canary, "control_exposed": of_control}
        return evidence(observe(NOTHING, canary=errors, control=control, **exposures))

    assert seen(canary + 1) > seen(canary) - 1e-9


@given(canary=counts, control=counts, of_canary=exposed, of_control=exposed, odds=st.floats(1.0, 5.0))
def test_tolerance_only_lowers_the_evidence_of_a_worse_canary(
    canary: int, control: int, of_canary: int, of_control: int, odds: float
):
    events = {"canary": canary, "control": 0, "canary_exposed": of_canary, "control_exposed": of_control}
    assert evidence(observe(NOTHING, **events, null_odds=odds)) <= evidence(observe(NOTHING, **events)) + 1e-9


@given(share=st.floats(0.01, 0.9), theta=st.floats(0.05, 1.0), odds=st.floats(1.0, 3.0))
def test_evidence_is_a_supermartingale_under_the_null(share: float, theta: float, odds: float):
    """Whatever truth the null admits, the mean of the likelihood ratio of one event is at most 1."""
    exposures = {"canary_exposed": round(share * 10**6), "control_exposed": 10**6 - round(share * 10**6)}
    share = exposures["canary_exposed"] / 10**6
    truth = theta * odds * share / (1 - share + theta * odds * share)
    on_canary = evidence(observe(NOTHING, canary=1, control=0, **exposures, null_odds=odds))
    on_control = evidence(observe(NOTHING, canary=0, control=1, **exposures, null_odds=odds))
    assert truth * math.exp(on_canary) + (1 - truth) * math.exp(on_control) <= 1 + 1e-9


def test_looking_all_the_time_keeps_the_false_alarm_rate():
    """2,000 healthy canaries, looked at after each of 300 errors: far fewer than alpha are called bad."""
    alarms = 0
    for seed in range(2_000):
        draw = random.Random(seed)  # noqa: S311
        logs = NOTHING
        for _ in range(300):
            hit = draw.random() < 0.1
            logs = observe(logs, canary=hit, control=not hit, canary_exposed=100, control_exposed=900)
            if evidence(logs) >= threshold(0.05):
                alarms += 1
                break
    assert alarms / 2_000 <= 0.05
