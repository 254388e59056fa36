"""An explanation says what `evaluate` did, and what would have changed it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from checkrein.policy.engine import PolicySet
from checkrein.policy.explain import PolicyExplained, explain

POLICIES = {
    "may": 'permit (principal in Role::"staff", action == Action::"pay", resource);',
    "large": """@outcome("require_review") @approvers("1 of finance")
forbid (principal, action, resource)
when { context.amount > 1000 && context.to like "AC*" }
unless { principal in Role::"cfo" };""",
    "broken": 'forbid (principal, action == Action::"pay", resource) when { context.missing > 1 };',
    "elsewhere": 'forbid (principal, action == Action::"read", resource);',
}
ALICE = {"type": "User", "id": "alice"}
PAY = {"type": "Action", "id": "pay"}
BANK = {"type": "Tool", "id": "bank"}
STAFF = [{"uid": ALICE, "attrs": {}, "parents": [{"type": "Role", "id": "staff"}]}]


def policies(*left_out: str) -> PolicySet:
    return PolicySet.from_cedar("\n".join(f'@id("{id}") {text}' for id, text in POLICIES.items() if id not in left_out))


def told(amount: int, to: str = "ACME") -> dict[str, PolicyExplained]:
    items = explain(policies(), ALICE, PAY, BANK, {"amount": amount, "to": to}, STAFF)
    return {item.id: item for item in items}


def test_a_satisfied_policy_shows_its_conditions_and_the_values_they_looked_at():
    large = told(5000)["large"]
    assert large.state == "satisfied"
    assert [condition.verdict for condition in large.conditions] == ["true", "true", "false"]
    assert [condition.values for condition in large.conditions] == [
        {"context.amount": 5000},
        {"context.to": "ACME"},
        {},
    ]
    assert "> 1000" in large.conditions[0].text
    assert large.conditions[2].text.startswith("unless")


def test_what_stands_behind_a_false_condition_was_not_reached():
    large = told(5)["large"]
    assert large.state == "not satisfied"
    assert [condition.verdict for condition in large.conditions] == ["false", "not reached", "not reached"]


def test_an_erring_policy_says_so_and_comes_first():
    first = next(iter(told(5).values()))
    assert (first.id, first.state, first.otherwise) == ("broken", "erring", "allow")
    assert first.conditions[0].verdict.startswith("error:")


def test_a_policy_of_another_action_is_not_shown():
    assert "elsewhere" not in told(5)


def test_a_policy_whose_principal_is_another_has_no_conditions():
    only = PolicySet.from_cedar('permit (principal == User::"bob", action, resource) when { context.x };')
    (told_of,) = explain(only, ALICE, PAY, BANK, {"x": True})
    assert (told_of.scope, told_of.conditions, told_of.otherwise) == (False, (), "allow")


@given(st.integers(0, 2000), st.sampled_from(["ACME", "Bolt"]))
def test_otherwise_is_what_the_engine_says_of_the_set_without_the_policy(amount: int, to: str):
    context = {"amount": amount, "to": to}
    whole = policies().evaluate(ALICE, PAY, BANK, context, STAFF).outcome
    for item in told(amount, to).values():
        if item.state != "not satisfied":
            outcome = policies(item.id).evaluate(ALICE, PAY, BANK, context, STAFF).outcome
            assert (item.otherwise or whole.wire) == outcome.wire
