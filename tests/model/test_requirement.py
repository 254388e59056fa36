"""What policies may ask of people, as they write it, and several requirements at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.model import BadRequest, Factor, Requirement
from checkrein.model.requirement import (
    Step,
    Terms,
    combine,
    escalated,
    parse_escalation,
    parse_factors,
    parse_grant,
    parse_span,
    span_text,
)

DAY = 86_400


def asked(approvers: str, expires_s: int = DAY, escalate: str = "", reason: bool = False) -> Requirement:
    factors = parse_factors(approvers)
    steps = parse_escalation(escalate, expires_s) if escalate else ()
    return Requirement(escalated(factors, steps), expires_s, reason)


def test_an_escalation_names_a_time_and_a_role_for_each_step():
    assert parse_escalation("30m: security-oncall; 2h: ciso", DAY) == (
        Step(1800, "security-oncall"),
        Step(7200, "ciso"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a time and a role"),
        ("30m", "not a time and a role"),
        ("30m:", "not a time and a role"),
        ("ciso: 30m", "not a length of time"),
        ("30m: ciso;", "not a time and a role"),
        ("30m: two words", "not a time and a role"),
        ("0m: ciso", "not a length of time"),
        ("2h: ciso; 30m: oncall", "do not rise"),
        ("30m: ciso; 30m: oncall", "do not rise"),
        ("30m: ciso; 2h: ciso", "stands twice"),
        ("30m: a; 1d: b", "would come after the end, at 1d"),
        ("; ".join(f"{n}m: r{n}" for n in range(1, 12)), "more than 10 steps"),
    ],
)
def test_an_escalation_that_would_not_do_what_it_says_is_refused(text: str, words: str):
    with pytest.raises(BadRequest, match=words) as refused:
        parse_escalation(text, DAY)
    assert refused.value.hint


def test_further_roles_are_asked_as_the_approval_grows_older():
    requirement = asked("2 of finance", escalate="30m: oncall; 2h: ciso")
    assert requirement.open_to(0) == ("finance",)
    assert requirement.open_to(1799) == ("finance",)
    assert requirement.open_to(1800) == ("finance", "oncall")
    assert requirement.open_to(7200) == ("finance", "oncall", "ciso")


def test_an_escalation_opens_only_the_factors_of_its_own_policy():
    both = combine((asked("1 of finance", escalate="1h: ciso"), asked("1 of security")))
    assert [factor.open_to(3600) for factor in both.factors] == [("finance", "ciso"), ("security",)]


def test_where_two_policies_ask_one_role_only_what_both_open_is_open_and_later():
    one, other = asked("2 of finance", escalate="1h: oncall; 2h: ciso"), asked("1 of finance", escalate="3h: ciso")
    assert combine((one, other)).factors == (Factor(2, "finance", (Step(10_800, "ciso"),)),)


def test_a_reason_is_asked_for_if_any_policy_asks_for_one():
    assert combine((asked("1 of a"), asked("1 of b", reason=True))).reason_required


def test_the_terms_are_said_in_the_words_of_the_annotations():
    requirement = asked("1 of a and 2 of b", 14_400, "30m: c", reason=True)
    assert requirement.terms() == "1 of a and 2 of b within 4h, from 30m: c, with a reason"
    assert requirement.people == 3


@given(st.integers(1, 10_000_000))
def test_a_length_of_time_is_read_as_it_is_written(seconds: int):
    text = span_text(seconds)
    if len(text) <= 7:
        assert parse_span(text) == seconds


def test_a_grant_names_a_time_a_number_of_uses_and_what_stays_the_same():
    assert parse_grant("max 1h, 5 uses, same to") == Terms(3600, 5, ("to",))
    assert parse_grant("1 use,same a,max 2d,same b,even red") == Terms(2 * DAY, 1, ("a", "b"), red=True)
    assert parse_grant("max 1h, 5 uses, any arguments") == Terms(3600, 5)
    for text in ("max 1h, 5 uses, same to", "max 2d, 1 uses, any arguments, even red"):
        assert str(parse_grant(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "max 1h",
        "max 1h, 5 uses",
        "5 uses, same to",
        "max 1h, same to",
        "max 1h, 5 uses, same to, any arguments",
        "max 1h, max 2h, 5 uses, same to",
        "max 1h, 0 uses, same to",
        "max 1h, 10001 uses, same to",
        "max 91d, 5 uses, same to",
        "max 1h, 5 uses, same .*",
        "max 1h, 5 uses, same to,",
        "max 1h, 5 uses, like to",
    ],
)
def test_a_grant_without_bounds_is_refused(text: str):
    with pytest.raises(BadRequest) as refused:
        parse_grant(text)
    assert refused.value.hint


def test_several_policies_grant_only_what_all_of_them_do():
    wide, narrow = (
        Requirement((Factor(1, "a"),), DAY, grant=parse_grant(text))
        for text in ("max 2h, 9 uses, same to, even red", "max 1h, 20 uses, same amount")
    )
    assert combine((wide, narrow)).grant == Terms(3600, 9, ("to", "amount"))
    assert combine((wide, asked("1 of b"))).grant is None


ROLES = st.sampled_from(["a", "b", "c"])
STEPS = st.dictionaries(ROLES, st.integers(1, 9), max_size=3).map(
    lambda found: tuple(sorted((Step(after, role) for role, after in found.items()), key=lambda s: (s.after_s, s.role)))
)
TERMS = st.none() | st.builds(Terms, st.integers(1, 9), st.integers(1, 9), st.sets(ROLES).map(tuple), st.booleans())
FACTORS = st.lists(
    st.builds(Factor, st.integers(1, 3), ROLES, STEPS), min_size=1, max_size=3, unique_by=lambda f: f.role
)
REQUIREMENTS = st.builds(Requirement, FACTORS.map(tuple), st.integers(10, 99), st.booleans(), TERMS)


@given(st.lists(REQUIREMENTS, min_size=1, max_size=3), st.integers(0, 12))
def test_several_requirements_at_once_are_looser_than_none_of_them(several: list[Requirement], age_s: int):
    whole = combine(tuple(several))
    for one in several:
        assert whole.as_strict_as(one)
        assert whole.expires_s <= one.expires_s
        assert whole.reason_required >= one.reason_required
        for factor in one.factors:
            kept = next(mine for mine in whole.factors if mine.role == factor.role)
            assert kept.count >= factor.count
            assert set(kept.open_to(age_s)) <= set(factor.open_to(age_s))
