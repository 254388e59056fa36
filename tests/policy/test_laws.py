"""What holds for every set of policies, and the four outcomes beside a naive model written from the design."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkrein.model import Outcome
from checkrein.policy.engine import PolicyResult, PolicySet

#: how often a law is tried; `make test-deep` tries forty times as often
thorough = settings(max_examples=20_000 if os.environ.get("CHECKREIN_DEEP") == "1" else 500)
pytestmark = pytest.mark.timeout(1_200)

WHO = {"type": "User", "id": "alice"}
ACT = {"type": "Action", "id": "pay"}
WHAT = {"type": "Tool", "id": "bank"}

HEADS = {
    "grant": "permit (principal, action, resource)",
    "forbid": "forbid (principal, action, resource)",
    "review": '@outcome("require_review") @approvers("1 of a") forbid (principal, action, resource)',
    "redact": '@outcome("redact") @redact("pii") forbid (principal, action, resource)',
}
FIELDS = ("a", "b", "c", "d")

#: conditions that ask for values and never whether a field is there (`has`), which is the author's own choice
CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(FIELDS), st.integers(0, 2)).map(lambda t: f"context.{t[0]} == {t[1]}"),
        st.tuples(st.sampled_from(FIELDS), st.integers(0, 2)).map(lambda t: f"context.{t[0]} > {t[1]}"),
        st.sampled_from(["true", "false"]),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda t: f"({t[0]} && {t[1]})"),
        st.tuples(inner, inner).map(lambda t: f"({t[0]} || {t[1]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"(if {t[0]} then {t[1]} else {t[2]})"),
        inner.map(lambda text: f"!({text})"),
    ),
    max_leaves=4,
)
RULES = st.tuples(st.sampled_from(sorted(HEADS)), CONDITIONS)
DUTIES = st.tuples(st.sampled_from(sorted(HEADS.keys() - {"grant"})), CONDITIONS)
RULE_SETS = st.lists(RULES, max_size=6)
CONTEXTS = st.dictionaries(st.sampled_from(FIELDS), st.one_of(st.integers(0, 2), st.just("text")))


def policy(name: str, rule: tuple[str, str]) -> str:
    return f'@id("{name}") {HEADS[rule[0]]} when {{ {rule[1]} }};'


def decide(policies: list[str], context: dict[str, object]) -> PolicyResult:
    return PolicySet.from_cedar("\n".join(policies)).evaluate(WHO, ACT, WHAT, context)


def named(rules: list[tuple[str, str]]) -> list[str]:
    return [policy(f"p{place}", rule) for place, rule in enumerate(rules)]


@thorough
@given(RULE_SETS, CONTEXTS)
def test_deny_trumps_everything(rules: list[tuple[str, str]], context: dict[str, object]) -> None:
    result = decide([*named(rules), policy("stop", ("forbid", "true"))], context)
    assert result.outcome is Outcome.DENY
    assert "stop" in result.determining


@thorough
@given(RULE_SETS, CONTEXTS)
def test_default_is_deny(rules: list[tuple[str, str]], context: dict[str, object]) -> None:
    duties = [rule for rule in rules if rule[0] != "grant"]
    assert decide(named(duties), context).outcome is Outcome.DENY


@thorough
@given(RULE_SETS, DUTIES, CONTEXTS)
def test_adding_a_forbid_never_loosens(
    rules: list[tuple[str, str]], added: tuple[str, str], context: dict[str, object]
) -> None:
    before, after = decide(named(rules), context), decide([*named(rules), policy("added", added)], context)
    assert after.outcome >= before.outcome


@thorough
@given(RULE_SETS, CONTEXTS, st.sampled_from(FIELDS))
def test_removing_a_context_field_never_loosens(
    rules: list[tuple[str, str]], context: dict[str, object], field: str
) -> None:
    less = {name: value for name, value in context.items() if name != field}
    assert decide(named(rules), less).outcome >= decide(named(rules), context).outcome


@thorough
@given(RULE_SETS.flatmap(lambda rules: st.tuples(st.just(named(rules)), st.permutations(named(rules)))), CONTEXTS)
def test_order_is_irrelevant(orders: tuple[list[str], list[str]], context: dict[str, object]) -> None:
    assert decide(orders[0], context) == decide(orders[1], context)


# --- the naive model: each policy is said beforehand to hold, not to hold, or to err

FATES = {"holds": "true", "not": "false", "errs": "context.gone"}
FATED = st.lists(st.tuples(st.sampled_from(sorted(HEADS)), st.sampled_from(sorted(FATES))), max_size=6)


def model(policies: list[tuple[str, str]]) -> tuple[str, set[int]]:
    """The outcome and the places of the determining policies, as the design words it."""

    def those(kind: str, fate: str) -> set[int]:
        return {place for place, fated in enumerate(policies) if fated == (kind, fate)}

    if those("forbid", "holds"):
        return "deny", those("forbid", "holds")
    if not those("grant", "holds"):
        return "deny", set()
    if those("forbid", "errs") or those("review", "errs") or those("redact", "errs"):
        return "deny", set()
    if those("review", "holds"):
        return "require_review", those("review", "holds")
    if those("redact", "holds"):
        return "allow_with_redaction", those("redact", "holds")
    return "allow", those("grant", "holds")


@thorough
@given(FATED)
def test_the_four_outcomes_are_those_of_the_design(policies: list[tuple[str, str]]) -> None:
    result = decide(named([(kind, FATES[fate]) for kind, fate in policies]), {})
    outcome, places = model(policies)
    assert result.outcome.wire == outcome
    assert set(result.determining) == {f"p{place}" for place in places}
    assert set(result.errors) == {f"p{place}" for place, (_, fate) in enumerate(policies) if fate == "errs"}


@thorough
@given(FATED, st.sets(st.integers(0, 5)))
def test_discharging_reviews_is_deciding_without_them(policies: list[tuple[str, str]], approved: set[int]) -> None:
    result = decide(named([(kind, FATES[fate]) for kind, fate in policies]), {})
    fates = [
        (kind, "not" if kind == "review" and fate == "holds" and place in approved else fate)
        for place, (kind, fate) in enumerate(policies)
    ]
    outcome, places = model(fates)
    after = result.without(frozenset(f"p{place}" for place in approved))
    assert (after.outcome.wire, set(after.determining)) == (outcome, {f"p{place}" for place in places})
