"""The verdict of a gate, from figures alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.flow.limits import Limits
from checkrein.flow.promotion import Answered, Check, Outcome, State, decide, judge


def answers(count: int, *, failed: int = 0, wrong: int = 0, **more: Any) -> list[Answered]:
    """So many answers: the first ones failed, the next ones wrong, the rest right."""
    given = {"latency_ms": 100.0, "tokens": 1000, "cost": 0.01, **more}
    return [Answered(case=f"c{n}", ok=n >= failed, score=float(n >= failed + wrong), **given) for n in range(count)]


def state(found: Any, name: str) -> State:
    return next(check.state for check in found.checks if check.name == name)


def test_a_challenger_that_keeps_every_limit_surely_is_promoted():
    found = judge(answers(400), answers(400), Limits())
    assert found.outcome is Outcome.PROMOTE
    assert {check.state for check in found.checks} == {State.PASSED}


def test_few_cases_are_not_enough_and_the_number_is_told():
    found = judge(answers(50), answers(50), Limits())
    assert found.outcome is Outcome.NOT_ENOUGH_EVIDENCE
    assert state(found, "error rate") is State.OPEN
    assert next(check.needed for check in found.checks if check.name == "error rate") == 299
    assert found.needed >= 299


@pytest.mark.parametrize(
    ("challenger", "name"),
    [
        (answers(400, failed=20), "error rate"),
        (answers(400, latency_ms=2500.0), "latency"),
        (answers(400, cost=0.09), "cost"),
        (answers(400, wrong=60), "success"),
    ],
)
def test_one_broken_limit_refuses(challenger: list[Answered], name: str):
    found = judge(answers(400), challenger, Limits())
    assert found.outcome is Outcome.REFUSE
    assert state(found, name) is State.FAILED


def test_slightly_worse_than_the_champion_is_tolerated_only_when_that_is_sure():
    few = judge(answers(200), answers(200, wrong=2), Limits())
    assert state(few, "success") is State.OPEN
    many = judge(answers(4000), answers(4000, wrong=40), Limits())
    assert state(many, "success") is State.PASSED


def test_what_cannot_be_judged_is_skipped_and_promotes_nothing():
    silent = [Answered(case=f"c{n}", ok=True, latency_ms=1.0) for n in range(400)]
    found = judge(silent, silent, Limits())
    assert state(found, "cost") is State.SKIPPED
    assert state(found, "success") is State.SKIPPED
    assert found.outcome is Outcome.PROMOTE
    assert decide([Check(name="x", state=State.SKIPPED, told="")]) is Outcome.NOT_ENOUGH_EVIDENCE
    assert decide([]) is Outcome.NOT_ENOUGH_EVIDENCE


def test_what_was_checked_elsewhere_counts():
    bad = Check(name="governance", state=State.FAILED, told="one is decided otherwise")
    assert judge(answers(400), answers(400), Limits(), [bad]).outcome is Outcome.REFUSE


def test_no_answers_at_all_are_no_evidence():
    assert judge([], [], Limits()).outcome is Outcome.NOT_ENOUGH_EVIDENCE


@given(count=st.integers(1, 600), failed=st.integers(0, 30))
def test_one_failure_more_never_helps(count: int, failed: int):
    order = [Outcome.REFUSE, Outcome.NOT_ENOUGH_EVIDENCE, Outcome.PROMOTE]
    fewer = judge(answers(count), answers(count, failed=min(failed, count)), Limits()).outcome
    more = judge(answers(count), answers(count, failed=min(failed + 1, count)), Limits()).outcome
    assert order.index(more) <= order.index(fewer)
