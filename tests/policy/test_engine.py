from __future__ import annotations

import pytest

from checkrein.model import BadRequest, Outcome, PolicyInvalid
from checkrein.policy.cedar import Kind
from checkrein.policy.engine import PolicyResult, PolicySet
from checkrein.policy.entities import Entities

ALICE = {"type": "User", "id": "alice"}
PAY = {"type": "Action", "id": "pay"}
BANK = {"type": "Tool", "id": "bank"}
WORLD = [
    {"uid": ALICE, "attrs": {"team": "red"}, "parents": [{"type": "Role", "id": "treasury"}], "tags": {"a": 1}},
    {"uid": {"type": "Role", "id": "treasury"}, "attrs": {}, "parents": [{"type": "Role", "id": "staff"}]},
    {"uid": PAY, "attrs": {}, "parents": [{"type": "Action", "id": "irreversible"}]},
]

POLICIES = """\
@id("grant") permit (principal in Role::"treasury", action == Action::"pay", resource);
@id("stop") forbid (principal, action, resource) when { context.amount > 1000 };
@id("ask") @outcome("require_review") @approvers("2 of finance")
forbid (principal, action in Action::"irreversible", resource) when { context.amount > 100 };
@id("clean") @outcome("redact") @redact("pii.email")
forbid (principal, action, resource) when { context.labels.contains("pii") };
"""


def decide(text: str, context: dict[str, object]) -> PolicyResult:
    return PolicySet.from_cedar(text).evaluate(ALICE, PAY, BANK, context, WORLD)


@pytest.mark.parametrize(
    ("amount", "labels", "outcome", "determining"),
    [
        (5, [], Outcome.ALLOW, ("grant",)),
        (5, ["pii"], Outcome.ALLOW_WITH_REDACTION, ("clean",)),
        (500, ["pii"], Outcome.REQUIRE_REVIEW, ("ask",)),
        (5000, ["pii"], Outcome.DENY, ("stop",)),
    ],
)
def test_the_strictest_duty_wins(
    amount: int, labels: list[str], outcome: Outcome, determining: tuple[str, ...]
) -> None:
    result = decide(POLICIES, {"amount": amount, "labels": labels})
    assert (result.outcome, result.determining, result.errors) == (outcome, determining, {})


def test_nothing_is_allowed_by_no_policy() -> None:
    result = decide("", {})
    assert (result.outcome, result.determining) == (Outcome.DENY, ())


def test_a_duty_never_grants() -> None:
    text = '@outcome("redact") @redact("x") forbid (principal, action, resource);'
    assert decide(text, {}).outcome is Outcome.DENY


def test_an_approval_discharges_the_review_and_leaves_the_redaction() -> None:
    result = decide(POLICIES, {"amount": 500, "labels": ["pii"]})
    after = result.without(frozenset({"ask"}))
    assert (after.outcome, after.determining) == (Outcome.ALLOW_WITH_REDACTION, ("clean",))
    assert result.of_kind(Kind.REVIEW) == ("ask",)


def test_an_approval_discharges_no_forbid() -> None:
    result = decide(POLICIES, {"amount": 5000, "labels": []})
    assert result.without(frozenset({"ask", "stop", "grant"})).outcome is Outcome.DENY


GRANT = '@id("g") permit (principal, action, resource);\n'
REVIEW = '@outcome("require_review") @approvers("1 of a") forbid (principal, action, resource)'
REDACT = '@outcome("redact") @redact("x") forbid (principal, action, resource)'


@pytest.mark.parametrize(
    ("rules", "outcome"),
    [
        ('@id("e") forbid (principal, action, resource) when { context.gone };', Outcome.DENY),
        (f'@id("e") {REVIEW} when {{ context.gone }};', Outcome.DENY),
        (f'@id("e") {REDACT} when {{ context.gone }};', Outcome.DENY),
        (f'@id("e") {REDACT} when {{ context.gone }}; {REDACT};', Outcome.DENY),
        (f'@id("e") {REDACT} when {{ context.gone }}; {REVIEW};', Outcome.DENY),
        (f'@id("e") {REVIEW} when {{ context.gone }}; {REVIEW};', Outcome.DENY),
        (f'@id("e") forbid (principal, action, resource) when {{ context.gone }}; {REVIEW};', Outcome.DENY),
        ('@id("e") permit (principal, action, resource) when { context.gone };', Outcome.ALLOW),
    ],
)
def test_a_policy_that_errs_is_never_skipped(rules: str, outcome: Outcome) -> None:
    result = decide(GRANT + rules, {})
    assert result.outcome is outcome
    assert result.errors == {"e": "the record does not have the attribute `gone`"}


def test_a_review_discharged_over_an_erring_redaction_still_does_not_run() -> None:
    result = decide(f'{GRANT} @id("r") {REVIEW}; {REDACT} when {{ context.gone }};', {})
    assert result.without(frozenset({"r"})).outcome is Outcome.DENY


def test_an_erring_permit_grants_nothing() -> None:
    result = decide("permit (principal, action, resource) when { context.gone };", {})
    assert (result.outcome, list(result.errors)) == (Outcome.DENY, ["policy0"])


@pytest.mark.parametrize(
    ("condition", "context"),
    [
        ("context.amount > 5", {"amount": "s3cr3t"}),
        ("context.amount + 1 > 5", {"amount": 2**63 - 1}),
        ("principal.getTag(context.tag) == 1", {"tag": "s3cr3t"}),
        ("context.who.x == 1", {"who": {"__entity": {"type": "User", "id": "s3cr3t"}}}),
        ('decimal(context.d).lessThan(decimal("1.0"))', {"d": "s3cr3t"}),
        ("context.who in context.set", {"who": {"__entity": ALICE}, "set": ["s3cr3t"]}),
    ],
)
def test_an_error_tells_no_values(condition: str, context: dict[str, object]) -> None:
    text = f"permit (principal, action, resource) when {{ {condition} }};"
    (message,) = decide(text, context).errors.values()
    assert "s3cr3t" not in message
    assert str(2**63 - 1) not in message


@pytest.mark.parametrize("value", [None, 1.5, float("nan"), 2**63, -(2**63) - 1, {"a": [None]}, b"x", "\ud800"])
def test_what_cedar_has_no_value_for_is_not_decided(value: object) -> None:
    with pytest.raises(BadRequest):
        decide(GRANT, {"x": value})


@pytest.mark.parametrize(
    "uid", [{}, {"type": "User"}, {"type": "", "id": "x"}, {"type": "a b", "id": "x"}, {"type": "User", "id": 5}]
)
def test_who_is_not_named_properly_is_not_decided(uid: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        PolicySet.from_cedar(GRANT).evaluate(uid, PAY, BANK, {})


def test_groups_of_groups_are_followed() -> None:
    text = 'permit (principal in Role::"staff", action in Action::"irreversible", resource);'
    assert decide(text, {}).outcome is Outcome.ALLOW


def test_a_schema_brings_its_action_groups() -> None:
    schema = """
        entity User, Tool;
        action "money";
        action "pay" in ["money"] appliesTo { principal: User, resource: Tool };
    """
    engine = PolicySet.from_cedar('permit (principal, action in Action::"money", resource);', schema=schema)
    assert engine.evaluate(ALICE, PAY, BANK, {}).outcome is Outcome.ALLOW
    assert engine.evaluate(ALICE, PAY, BANK, {}, WORLD).outcome is Outcome.DENY, "the caller's entity is believed"


def test_an_action_that_no_one_declared_meets_the_general_policies() -> None:
    engine = PolicySet.from_cedar(
        'forbid (principal, action, resource); permit (principal, action in Action::"x", resource);'
    )
    result = engine.evaluate(ALICE, {"type": "Action", "id": "x"}, BANK, {})
    assert result.satisfied == {Kind.FORBID: ("policy0",), Kind.GRANT: ("policy1",)}


def test_a_policy_is_found_by_its_id() -> None:
    engine = PolicySet.from_cedar(POLICIES)
    assert engine.policy("ask").line == 3
    with pytest.raises(KeyError):
        engine.policy("nobody")


def test_an_id_is_the_annotation_or_what_cedar_counts_templates_and_all() -> None:
    given = "permit (principal, action, resource)"
    template = "permit (principal == ?principal, action, resource);"
    engine = PolicySet.from_cedar(f'@id("named") {given}; {given}; @id("") {given}; {template} {given};')
    assert engine.evaluate(ALICE, PAY, BANK, {}).determining == ("named", "policy1", "policy2", "policy4")


def test_ids_that_clash_are_a_problem_even_in_plain_text() -> None:
    with pytest.raises(PolicyInvalid):
        PolicySet.from_cedar(f'@id("policy1") {GRANT[9:]} {GRANT[9:]}')


DEEP = "true"
for _ in range(120):
    DEEP = f"(if {DEEP} then context.a == 1 else false)"


@pytest.mark.parametrize(
    ("context", "outcome", "errors"),
    [
        ({"a": 1}, Outcome.ALLOW, {}),
        ({"a": 2}, Outcome.DENY, {}),
        ({}, Outcome.DENY, {"deep": "the condition could not be evaluated"}),
    ],
)
def test_a_condition_too_deep_to_compile_is_evaluated_by_the_official_engine(
    context: dict[str, object], outcome: Outcome, errors: dict[str, str]
) -> None:
    values = {
        "s": [1, True, "x"], "d": {"__extn": {"fn": "decimal", "arg": "-1.50"}}, "r": [{"t": True}],
        "i": {"__extn": {"fn": "ip", "arg": "::1/64"}}, "t": {"__extn": {"fn": "datetime", "arg": "2026-01-01"}},
        "p": {"__extn": {"fn": "duration", "arg": "-1h"}}, "e": {"__entity": ALICE},
    }  # fmt: skip
    alike = (
        'context.s == [true, "x", 1] && context.d == decimal("-1.5") && context.r == [{t: true}] && '
        'context.i == ip("::1/64") && context.t == datetime("2026-01-01") && context.p == duration("-1h") && '
        'context.e == principal && principal.team == "red" && principal.getTag("a") == 1'
    )
    engine = PolicySet.from_cedar(f'@id("deep") permit (principal, action, resource) when {{ {alike} && {DEEP} }};')
    assert engine.not_compiled == ("deep",)
    result = engine.evaluate(ALICE, PAY, BANK, {**values, **context}, Entities.from_json(WORLD))
    assert (result.outcome, result.errors) == (outcome, errors)


def test_a_long_chain_is_compiled() -> None:
    chain = " || ".join(f"context.n == {number}" for number in range(300))
    engine = PolicySet.from_cedar(f"permit (principal, action, resource) when {{ {chain} }};")
    assert engine.not_compiled == ()
    assert engine.evaluate(ALICE, PAY, BANK, {"n": 299}).outcome is Outcome.ALLOW
