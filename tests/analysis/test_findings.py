from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest

from checkrein.analysis import logic
from checkrein.analysis.findings import Finding, What, analyse
from checkrein.defaults import contents
from checkrein.model import CheckreinError
from checkrein.policy.bundle import Bundle

GRANT = '@id("grant") permit (principal, action, resource);\n'


def found(bundle: Bundle) -> list[Finding]:
    findings = analyse(bundle)
    assert findings.notes == ()
    return list(findings.found)


def told(bundle: Bundle) -> list[tuple[str, str, list[str]]]:
    return [(finding.what.value, finding.policy.id, [p.id for p in finding.others]) for finding in found(bundle)]


@pytest.mark.parametrize(
    "condition",
    [
        "context.input.amount > 10 && context.input.amount < 5",
        "context.input.amount * 2 == 7",
        "context.time.hour > 23",
        'context.time.weekday == "mon"',
        'context.risk.level == "red" && context.risk.score < 20',
        'context.risk.level == "purple"',
        'context.input.to like "a*" && context.input.to like "b*"',
        'context.input.to like "*ab*" && !(context.input.to like "*a*")',
        'context.input.to like "a*" && context.input.to like "*a" && !(context.input.to like "a*a") '
        '&& context.input.to != "a"',
        'context.input.to == "abc" && !(context.input.to like "*b*")',
        'context.input has memo && context.input.memo == context.input.to && context.input.to like "a*" '
        '&& !(context.input.memo like "a*")',
        'context.input.tags.isEmpty() && context.input.tags.contains("a")',
        '["a"].containsAll(context.input.tags) && !context.input.tags.isEmpty() && !context.input.tags.contains("a")',
        'context.input.tags == ["a"] && context.labels.contains("a") '
        "&& !context.labels.containsAny(context.input.tags)",
        "context.input.codes.contains(3) && [1, 2].containsAll(context.input.codes)",
        "!(context.input has fee) && (context.input has fee && context.input.fee.lessThan(decimal(\"1.0\")))",
        "context.input has fee && context.input.fee.lessThan(decimal(\"1.0\")) && "
        "context.input.fee.greaterThan(decimal(\"0.9999\"))",
        'principal is User && principal == Agent::"a"',
        'principal in Role::"a" && !(principal in Role::"a")',
        'action in Action::"read"',
        'principal.hasTag("a") && principal.getTag("a") == "x" && principal.getTag("a") == "y"',
        'datetime("2026-01-01") > datetime("2026-01-02")',
        'ip("10.0.0.1").isInRange(ip("192.168.0.0/16"))',
        "if context.input.amount > 5 then context.input.amount < 3 else context.input.amount > 6",
        '!context.labels.contains("tool:pay")',
        '(if context.input.amount > 5 then "ab" else "b") like "c*"',
        '(if context.input.amount > 5 then "ab" else "b") like "a*" && context.input.amount < 5',
        '(if context.input.amount > 5 then "ab" else "b") == context.input.to && context.input.to like "*c"',
    ],
)  # fmt: skip
def test_a_policy_that_no_request_satisfies_is_dead(bundle: Callable[[str], Bundle], condition: str) -> None:
    dead = f'@id("dead") permit (principal, action == Action::"pay", resource) when {{ {condition} }};'
    (finding,) = found(bundle(GRANT + dead))
    assert (finding.what, finding.policy.id) == (What.DEAD, "dead")
    assert str(finding).startswith("policies/all.cedar:2: `dead` is dead")


@pytest.mark.parametrize(
    "condition",
    [
        "context.input.amount == 9223372036854775807",
        "context.input.amount * context.input.amount == 49",
        "context.time.hour == 23",
        'context.risk.level == "red" && context.risk.score == 70',
        'context.input.to like "a*" && context.input.to like "*b" && !(context.input.to like "*c*")',
        'context.input.to like "a*" && context.input.to like "*a" && !(context.input.to like "a*a")',
        'context.input has memo && context.input.memo != context.input.to && context.input.to like "a*" '
        '&& context.input.memo like "a*"',
        '!["a"].containsAll(context.input.tags)',
        "context.input.codes.contains(context.input.amount) && context.input.amount > 3",
        'context.input.tags == ["a", "b"] && !context.labels.containsAny(context.input.tags)',
        "context.input has fee && context.input.fee.greaterThan(decimal(\"0.9999\"))",
        'principal in Role::"a" && principal in Role::"b" && principal has department && '
        'principal.department == "x"',
        'principal.hasTag("a") && principal.getTag("a") like "*x*"',
        'action in Action::"mcp" && action in Action::"external"',
        "context.usage.spend_today.lessThan(decimal(\"0.0\"))",
        "context.input has fast && context.input.fast",
        '(if context.input.amount > 5 then "ab" else "b") like "a*b"',
    ],
)  # fmt: skip
def test_a_policy_that_some_request_satisfies_is_not_dead(bundle: Callable[[str], Bundle], condition: str) -> None:
    policy = f'@id("alive") permit (principal, action == Action::"pay", resource) when {{ {condition} }};'
    assert found(bundle(policy)) == []


def test_a_forbid_that_only_errs_is_told_apart_from_a_dead_one(bundle: Callable[[str], Bundle]) -> None:
    condition = "context.input.amount + 9223372036854775807 > 0 && context.input.amount > 1"
    made = bundle(GRANT + f'@id("e") forbid (principal, action == Action::"pay", resource) when {{ {condition} }};')
    (finding,) = found(made)
    assert finding.what is What.ERRS
    assert finding.witness is not None
    (question,) = finding.witness.questions
    assert question is not None
    assert (
        "e"
        in made.policies.evaluate(
            question.principal, question.action, question.resource, question.context, question.entities
        ).errors
    )


BIG = '@id("big") forbid (principal, action == Action::"pay", resource) when { context.input.amount > 1000 };\n'
REVIEW = (
    '@id("ask") @outcome("require_review") @approvers("1 of a") forbid (principal, action == Action::"pay", resource)'
)
REDACT = '@id("clean") @outcome("redact") @redact("pii") forbid (principal, action == Action::"pay", resource)'
PERMIT = '@id("let") permit (principal, action == Action::"pay", resource)'


@pytest.mark.parametrize(("policy", "id"), [(REVIEW, "ask"), (REDACT, "clean"), (PERMIT, "let")])
def test_a_policy_under_a_stricter_one_is_shadowed(bundle: Callable[[str], Bundle], policy: str, id: str) -> None:
    made = bundle(GRANT + BIG + policy + " when { context.input.amount >= 5000 };")
    (finding,) = found(made)
    assert (finding.what, finding.policy.id, [p.id for p in finding.others]) == (What.SHADOWED, id, ["big"])
    assert "`big` (policies/all.cedar:2)" in finding.sentence


def test_two_policies_may_shadow_a_third_together(bundle: Callable[[str], Bundle]) -> None:
    small = (
        '@id("small") forbid (principal, action, resource) '
        'when { action == Action::"pay" && context.input.amount <= 1000 };'
    )
    made = bundle(
        GRANT + BIG + small + REVIEW + ";" + '@id("no") forbid (principal, action == Action::"mail", resource);'
    )
    (finding,) = found(made)
    assert finding.policy.id == "ask"
    assert {policy.id for policy in finding.others} == {"big", "small"}


def test_its_witness_is_a_request_that_both_speak_of(bundle: Callable[[str], Bundle]) -> None:
    made = bundle(GRANT + BIG + REVIEW + " when { context.input.amount >= 5000 };")
    (finding,) = found(made)
    assert finding.witness is not None
    value: Any = finding.witness.to_json()
    assert value["action"] == {
        "name": "pay",
        "properties": {"input": {"to": "example", "amount": 5000, "tags": [], "codes": []}},
    }
    assert value["subject"]["type"] == "user"


@pytest.mark.parametrize(
    "policies",
    [
        BIG + REVIEW + " when { context.input.amount >= 500 };",
        REVIEW + ";" + REDACT + ";",
        REVIEW + ";" + PERMIT + ";",
        BIG + '@id("more") forbid (principal, action == Action::"pay", resource) when { context.input.amount > 2000 };',
        '@id("one") permit (principal, action == Action::"pay", resource); ' + PERMIT + ";",
    ],
)
def test_what_still_has_an_effect_is_left_alone(bundle: Callable[[str], Bundle], policies: str) -> None:
    assert told(bundle(GRANT + policies)) == []


@pytest.mark.parametrize(
    ("policies", "about", "other"),
    [
        (PERMIT + " when { context.input.amount >= 1001 }; " + BIG, "let", "big"),
        (REVIEW + " unless { context.input.amount <= 1000 }; " + BIG, "ask", "big"),
        (REDACT + " when { context.input.amount > 1000 }; " + BIG, "clean", "big"),
        (REVIEW + "; " + REVIEW.replace("ask", "ask2").replace("1 of a", "2 of b") + ";", "ask", "ask2"),
        (REDACT + "; " + REDACT.replace("clean", "clean2").replace("pii", "secret") + ";", "clean", "clean2"),
    ],
)
def test_policies_of_one_scope_that_say_opposite_things_contradict_each_other(
    bundle: Callable[[str], Bundle], policies: str, about: str, other: str
) -> None:
    assert told(bundle(GRANT + policies)) == [("contradiction", about, [other])]


def test_what_is_not_encoded_is_said_and_condemns_nothing(bundle: Callable[[str], Bundle]) -> None:
    whole = 'context.risk == {level: "red", score: 90}'
    made = bundle(GRANT + f'@id("odd") forbid (principal, action == Action::"pay", resource) when {{ {whole} }};')
    findings = analyse(made)
    assert findings.found == ()
    (note,) = findings.notes
    assert note.startswith("policies/all.cedar:2: not analysed in `odd`: equality with a record")


def test_the_policies_of_a_new_folder_all_have_an_effect() -> None:
    assert told(Bundle.from_files(contents())) == []


def test_without_z3_it_says_what_to_install(bundle: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "z3":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CheckreinError) as caught:
        analyse(bundle(GRANT))
    assert caught.value.hint == "pip install 'checkrein[analysis]'"


def test_what_the_solver_cannot_tell_is_unknown_and_never_fine(
    bundle: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logic, "EFFORT", 1)
    (finding,) = found(bundle(BIG))
    assert finding.what is What.UNKNOWN
    assert str(finding).startswith("policies/all.cedar:1: it could not be told of `big` whether it can ever apply")
