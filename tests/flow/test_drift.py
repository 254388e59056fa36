"""A drift report: what was counted goes in, and what can be said of it comes out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkrein.flow.drift import Acted, Outcome, Report, Seen, State, Texts, judge
from checkrein.flow.limits import QUESTIONS, DriftLimits
from checkrein.stats import shift
from checkrein.stats.shift import Shift

TOOLS = [f"tool-{at}" for at in range(12)]
LIMITS = DriftLimits()


def world(
    seed: int, count: int, *, more: str = "", share: float = 0.0, longer: float = 1.0, denied: float = 0.05
) -> Seen:
    """Actions by chance: `share` of them are of the tool `more`, arguments `longer` times as long."""
    draw, seen = random.Random(seed), Seen()  # noqa: S311
    for _ in range(count):
        tool = more if draw.random() < share else draw.choices(TOOLS, [1 / (at + 1) for at in range(12)])[0]
        risk = draw.choices(["green", "amber", "red"], [8, 3, 1])[0]
        outcome = "deny" if draw.random() < denied else "allow"
        size = int(20 + draw.expovariate(1 / 100) * longer)
        seen.add(Acted(tool, f"tool/{draw.choice('abcdefgh')}", risk, outcome, size))
    return seen


def report(golden: Seen, production: Seen, limits: DriftLimits = LIMITS, texts: Texts | None = None) -> Report:
    return judge(golden, production, limits, named="sha256:00", since_us=0, until_us=1, texts=texts)


def names(found: Report, state: State) -> set[str]:
    return {finding.name for finding in found.findings if finding.state is state}


def test_the_same_world_has_not_drifted():
    found = report(world(1, 1500), world(2, 10_000))
    assert found.outcome is Outcome.NO_DRIFT
    assert names(found, State.NOT_COMPARED) == {"text"}
    assert found.told == "no drift: 10,000 actions look like the 1,500 golden cases"


def test_a_world_that_has_not_changed_is_seldom_called_different():
    """At the sizes golden sets have, over all questions together: 1 % at the most, so 3 of 60 hardly ever."""
    drifted = [report(world(at, 100 + 10 * at), world(1000 + at, 2000)).shifted for at in range(60)]
    assert sum(bool(shifted) for shifted in drifted) <= 3


def test_more_of_one_tool_is_named_with_its_shares():
    found = report(world(1, 1500), world(2, 10_000, more="tool-9", share=0.1))
    assert found.outcome is Outcome.DRIFT
    (action,) = found.shifted
    assert action.name == "action"
    assert action.p < 0.001
    assert action.moved[0].value == "tool-9"
    assert action.moved[0].production > action.moved[0].golden + 0.08
    assert 0.07 < action.beyond < 0.13
    assert action.psi is not None
    assert action.psi_floor is not None
    assert action.psi > action.psi_floor
    assert found.told == "production has drifted from the golden set: action"


def test_longer_arguments_and_more_denials_are_told():
    found = report(world(1, 1500), world(2, 10_000, longer=1.5, denied=0.15))
    assert {finding.name for finding in found.shifted} == {"argument sizes", "outcome"}
    sizes = next(finding for finding in found.shifted if finding.name == "argument sizes")
    assert "median" in sizes.told


def test_tools_the_golden_set_lacks_are_listed_and_are_drift():
    found = report(world(1, 1500), world(2, 10_000, more="delete_all", share=0.05))
    assert {"action", "new actions"} <= {finding.name for finding in found.shifted}
    assert list(found.new) == ["delete_all"]
    assert "delete_all" in next(f.told for f in found.findings if f.name == "new actions")


def test_a_single_new_tool_is_listed_though_it_is_no_drift():
    production = world(2, 10_000)
    production.add(Acted("delete_all", "tool/a", "red", "deny", 30))
    found = report(world(1, 1500), production)
    assert found.outcome is Outcome.NO_DRIFT
    assert found.new == {"delete_all": 1}


def test_what_is_sure_but_small_is_no_drift():
    golden, production = Seen(), Seen()
    for seen, count in ((golden, 50_000), (production, 100_000)):
        share = 0.49 if seen is golden else 0.505
        for at in range(count):
            seen.add(Acted("a" if at < share * count else "b", "tool/x", "green", "allow", 10))
    found = report(golden, production)
    action = next(finding for finding in found.findings if finding.name == "action")
    assert action.p < 0.001
    assert found.outcome is Outcome.NO_DRIFT
    assert report(golden, production, DriftLimits(floor=0.005)).outcome is Outcome.DRIFT


def test_a_golden_set_that_could_not_tell_is_no_agreement():
    found = report(world(1, 40), world(2, 10_000))
    assert found.outcome is Outcome.NOT_ENOUGH_EVIDENCE
    action = next(finding for finding in found.findings if finding.name == "action")
    assert action.state is State.TOO_SMALL
    assert action.told.startswith("golden set too small: smallest detectable shift is ")
    assert found.needed > 40
    assert f"{found.needed:,} cases would do" in found.told


def test_so_many_cases_as_it_asks_for_do_tell():
    needed = report(world(1, 40), world(2, 10_000)).needed
    assert report(world(1, 3 * needed), world(2, 10_000)).outcome is Outcome.NO_DRIFT


@pytest.mark.parametrize(("golden", "production"), [(50, 0), (0, 0)])
def test_without_production_there_is_no_evidence(golden, production):
    found = report(world(1, golden), world(2, production))
    assert found.outcome is Outcome.NOT_ENOUGH_EVIDENCE
    assert found.findings == ()
    assert "production has no actions" in found.told


def test_too_little_of_production_is_said_to_be_production():
    found = report(world(1, 5000), world(2, 30))
    assert found.outcome is Outcome.NOT_ENOUGH_EVIDENCE
    assert "30 actions of production are too few" in found.told
    assert any(finding.told.startswith("production too small") for finding in found.findings)


def test_one_value_that_never_changes_is_alike():
    golden, production = Seen(), Seen()
    for seen, count in ((golden, 30), (production, 300)):
        for _ in range(count):
            seen.add(Acted("prompt", "", "green", "allow", 10))
    action, target, *_ = report(golden, production).findings
    assert (action.state, action.told) == (State.ALIKE, "always `prompt`")
    assert target.state is State.NOT_COMPARED


def test_a_few_bytes_more_in_each_call_are_no_other_arguments():
    golden, production = Seen(), Seen()
    for seen, count, size in ((golden, 1000, 300), (production, 5000, 303)):
        for _ in range(count):
            seen.add(Acted("a", "tool/a", "green", "allow", size))
    assert report(golden, production).outcome is Outcome.NO_DRIFT


def test_records_without_sizes_say_so():
    golden, production = world(1, 500), Seen()
    for at in range(500):
        production.add(Acted(TOOLS[at % 12], "tool/a", "green", "allow", -1))
    sizes = next(finding for finding in report(golden, production).findings if finding.name == "argument sizes")
    assert sizes.state is State.NOT_COMPARED
    assert "did not note sizes" in sizes.told


def test_what_differs_on_purpose_can_be_left_out():
    """A golden set with as many denials as not, to try them: not how production is, and not meant to be."""
    golden, production = world(1, 1500, denied=0.5), world(2, 10_000)
    assert [finding.name for finding in report(golden, production).shifted] == ["outcome"]
    found = report(golden, production, DriftLimits(ignore=("outcome",)))
    assert found.outcome is Outcome.NO_DRIFT
    assert "outcome" in names(found, State.NOT_COMPARED)


def test_where_nothing_is_asked_nothing_agrees():
    found = report(world(1, 1500), world(2, 10_000), DriftLimits(ignore=QUESTIONS))
    assert (found.outcome, found.told) == (Outcome.NOT_ENOUGH_EVIDENCE, "not enough evidence: nothing was compared")


actions = st.builds(
    Acted,
    st.sampled_from(["read", "mail", "\x1b[2J", ""]),
    st.sampled_from(["", "tool/a", "tool/b"]),
    st.sampled_from(["green", "red"]),
    st.sampled_from(["allow", "deny"]),
    st.integers(-1, 10_000),
)
counts = st.lists(st.tuples(actions, st.integers(1, 2000)), max_size=6)


def many(found: list[tuple[Acted, int]]) -> Seen:
    seen = Seen()
    for acted, count in found:
        for _ in range(count):
            seen.add(acted)
    return seen


@given(counts, counts)
@settings(max_examples=60)
def test_whatever_was_counted_has_a_report_that_fits_its_findings(golden, production):
    found = report(many(golden), many(production))
    states = {finding.state for finding in found.findings}
    assert (found.outcome is Outcome.DRIFT) == (State.SHIFTED in states)
    assert found.outcome is not Outcome.NO_DRIFT or states <= {State.ALIKE, State.NOT_COMPARED}
    for finding in found.findings:
        assert 0 <= finding.p <= 1
        assert 0 <= finding.beyond <= finding.size + 1e-9 <= 1 + 2e-9
        assert finding.state is not State.SHIFTED or finding.beyond >= LIMITS.floor
    assert found.told


@given(counts.filter(bool))
@settings(max_examples=30)
def test_what_is_counted_twice_has_not_drifted(golden):
    assert report(many(golden), many(golden)).outcome is not Outcome.DRIFT


def test_every_question_can_be_named():
    found = report(world(1, 100), world(2, 100))
    assert tuple(finding.name for finding in found.findings) == QUESTIONS


def test_texts_are_one_more_question():
    found = report(world(1, 1500), world(2, 10_000), texts=Texts(Shift(0.0005, 0.4, 0.1), 100, 200))
    assert [finding.name for finding in found.shifted] == ["text"]
    assert "40.0% of the words are others, where chance makes 10.0%" in found.shifted[0].told


def test_one_of_many_questions_is_not_answered_as_if_it_were_the_only_one():
    def denied(count: int) -> Seen:
        seen = Seen()
        for at in range(1000):
            seen.add(Acted("a", "tool/a", "green", "deny" if at < count else "allow", 10))
        return seen

    golden = denied(50)
    alone = {count: shift.categories(golden.outcomes, denied(count).outcomes).shift.p for count in range(60, 130)}
    count = next(count for count, p in alone.items() if p < 0.008)
    outcome = next(finding for finding in report(golden, denied(count)).findings if finding.name == "outcome")
    assert alone[count] <= LIMITS.alpha < outcome.p
    assert outcome.state is not State.SHIFTED


def test_every_question_asked_makes_the_others_harder():
    golden, production = world(1, 300), world(2, 3000, denied=0.1)
    one = next(finding for finding in report(golden, production).findings if finding.name == "outcome")
    more = report(golden, production, texts=Texts(Shift(1.0, 0.1, 0.1), 100, 100))
    assert next(finding for finding in more.findings if finding.name == "outcome").p >= one.p
