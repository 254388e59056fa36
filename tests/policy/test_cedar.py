from __future__ import annotations

import pytest

from checkrein.model import Factor, PolicyInvalid, Requirement
from checkrein.model.requirement import Step
from checkrein.policy.cedar import Kind, Policy, duplicates, read_policies
from checkrein.policy.engine import PolicySet

FILE = "policies/x.cedar"


def read(text: str) -> Policy:
    policies, problems = read_policies(text, FILE, strict=True)
    assert problems == ()
    return policies[0]


def problems(text: str, *, strict: bool = True) -> list[str]:
    return list(read_policies(text, FILE, strict=strict)[1])


def test_a_permit_is_a_grant() -> None:
    policy = read('// who may\n@id("a") @owner("team") @reason("because")\npermit (principal, action, resource);')
    assert (policy.id, policy.kind, policy.reason, policy.place) == ("a", Kind.GRANT, "because", "policies/x.cedar:2")


def test_a_plain_forbid_denies() -> None:
    assert read('@id("a") forbid (principal, action, resource);').kind is Kind.FORBID


def test_a_review_names_its_approvers_and_its_time() -> None:
    text = '@id("a") @outcome("require_review") @approvers("2 of finance and 1 of legal") @expires("30m")'
    policy = read(f"{text} forbid (principal, action, resource);")
    assert policy.kind is Kind.REVIEW
    assert policy.requirement == Requirement((Factor(2, "finance"), Factor(1, "legal")), 1_800)


def test_a_review_lasts_four_hours_unless_it_says_otherwise() -> None:
    policy = read('@id("a") @outcome("require_review") @approvers("1 of x") forbid (principal, action, resource);')
    assert policy.requirement == Requirement((Factor(1, "x"),), 4 * 3_600)


def test_a_review_may_escalate_and_ask_for_a_reason() -> None:
    text = '@id("a") @outcome("require_review") @approvers("1 of x") @escalate("30m: y; 2h: z") @reason_required'
    policy = read(f"{text} forbid (principal, action, resource);")
    steps = (Step(1_800, "y"), Step(7_200, "z"))
    assert policy.requirement == Requirement((Factor(1, "x", steps),), 4 * 3_600, reason_required=True)


def test_a_redaction_names_its_classes() -> None:
    policy = read('@id("a") @outcome("redact") @redact("pii.email, pii.card") forbid (principal, action, resource);')
    assert (policy.kind, policy.redact) == (Kind.REDACT, ("pii.card", "pii.email"))


REST = "forbid (principal, action, resource);"
ASKS = '@id("a") @outcome("require_review") @approvers("1 of a")'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (REST, "no `@id`"),
        (f'@id("") {REST}', "no `@id`"),
        (f'@id("a b") {REST}', "no plain name"),
        (f'@id("a") @ownr("x") {REST}', "unknown annotation `@ownr`"),
        (f'@id("a") @outcome("revew") {REST}', "unknown outcome `revew`"),
        (f'@id("a") @outcome("require_review") {REST}', "without `@approvers`"),
        (f'@id("a") @outcome("require_review") @approvers("finance") {REST}', "`finance` names no approvers"),
        (f'@id("a") @outcome("require_review") @approvers("1 of a") @expires("soon") {REST}', "`soon` is not"),
        (f'{ASKS} @escalate("soon: b") {REST}', "`@escalate`: `soon` is not a length of time"),
        (f'{ASKS} @escalate("4h: b") {REST}', "`@escalate`: the step at 4h would come after the end, at 4h"),
        (f'{ASKS} @reason_required("no") {REST}', "`@reason_required` takes no value"),
        (f'@id("a") @escalate("1h: b") {REST}', "`@escalate` has no effect here"),
        (f'{ASKS} @grant("max 1h, 5 uses") {REST}', "`@grant`: a grant needs a time, a number of uses, and what"),
        (f'@id("a") @grant("max 1h, 5 uses, same to") {REST}', "`@grant` has no effect here"),
        (f'@id("a") @reason_required {REST}', "`@reason_required` has no effect here"),
        (f'@id("a") @outcome("redact") {REST}', "does not name its classes"),
        (f'@id("a") @outcome("redact") @redact("a,,b") {REST}', "does not name its classes"),
        (f'@id("a") @approvers("1 of a") {REST}', "`@approvers` has no effect here"),
        (f'@id("a") @redact("pii") {REST}', "`@redact` has no effect here"),
        ('@id("a") @outcome("redact") @redact("x") permit (principal, action, resource);', "a duty never grants"),
        ('@id("a") permit (principal == ?principal, action, resource);', "is a template"),
    ],
)
def test_a_rule_that_would_be_quietly_dead_is_a_problem(text: str, said: str) -> None:
    (line,) = problems(f"\n{text}")
    assert line.startswith("policies/x.cedar:2: ")
    assert said in line
    assert line.endswith(")")


@pytest.mark.parametrize(
    "annotations", ['@outcome("revew")', '@outcome("redact")', '@outcome("require_review") @approvers("x")']
)
def test_a_broken_duty_is_a_problem_in_any_text(annotations: str) -> None:
    with pytest.raises(PolicyInvalid):
        PolicySet.from_cedar(f"{annotations} {REST}")


def test_plain_cedar_needs_no_annotations() -> None:
    text = f"{REST}\n@advice permit (principal, action, resource);"
    assert [policy.id for policy in PolicySet.from_cedar(text).policies] == ["policy0", "policy1"]


def test_the_annotation_at_fault_is_named_by_its_own_line() -> None:
    assert problems(f'@id("a")\n@outcome("nope")\n{REST}')[0].startswith("policies/x.cedar:2: ")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("permit (principal, action, resource)\nwhen { 1 + };", 2, "unexpected token `}`"),
        (f'// permit(\n@id("a;b")\n{REST}\npermit (principal\n action, resource);', 5, "unexpected token `action`"),
        (f"{REST}\npermit (principal, action, resource)\n", 2, "unexpected end of input"),
        (f"{REST}\npermit (principal, action, resource)\n{REST}", 3, "unexpected token"),
        ("permit (principal, action, resource) when {\n context.x.nothing(1) };", 2, "`nothing` is not a valid method"),
        ('permit (principal, action, resource)\nwhen { context.s == "\n };', 2, "invalid token"),
        ("permit (principal, action, resource) when {\n99999999999999999999 == 1 };", 2, "integer parse error"),
        ("nonsense", 1, ""),
    ],
)
def test_a_syntax_error_has_its_line(text: str, line: int, said: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"policies/x.cedar:{line}: ")
    assert said in found


def test_policies_are_found_whatever_strings_and_comments_hold() -> None:
    text = """\
@id("one") // permit (principal, action, resource);
permit (principal, action, resource)
when { context.s == "a; permit (\\"x\\") // no comment" };
// forbid;
@id("two")
forbid (principal, action, resource); @id("three") permit (principal, action, resource);
"""
    policies, _ = read_policies(text, FILE, strict=True)
    assert [(policy.id, policy.line) for policy in policies] == [("one", 1), ("two", 5), ("three", 6)]


def test_more_than_ten_policies_keep_their_lines() -> None:
    text = "\n".join(f'@id("p{number}") {REST}' for number in range(12))
    policies, _ = read_policies(text, FILE, strict=True)
    assert [(policy.id, policy.line) for policy in policies] == [(f"p{n}", n + 1) for n in range(12)]


def test_an_id_belongs_to_one_policy() -> None:
    policies, _ = read_policies(f'@id("a") {REST}\n@id("a") {REST}', FILE, strict=True)
    (line,) = duplicates(policies)
    assert line.startswith("policies/x.cedar:2: the id `a` is taken by policies/x.cedar:1")


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 3_000 + "true" + ")" * 3_000,
        "{a:" * 3_000 + "1" + "}" * 3_000 + " == 1",
        "if true then true else " * 9_000 + "true",
        "context has " + ".".join(["a"] * 9_000),
        " && ".join(["context.a"] * 1_400),
    ],
)
def test_a_condition_too_deep_for_the_parser_is_a_problem_and_no_crash(condition: str) -> None:
    (line,) = problems(f"permit (principal, action, resource) when {{ {condition} }};", strict=False)
    assert "split it into several policies" in line
