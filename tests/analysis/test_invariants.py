from __future__ import annotations

from collections.abc import Callable

import pytest

from checkrein.analysis.invariants import Checked, Invariant, check, read_invariants
from checkrein.analysis.logic import Verdict
from checkrein.model import Outcome
from checkrein.policy.bundle import Bundle
from checkrein.policy.source import read_yaml

Make = Callable[..., Bundle]
GRANT = '@id("grant") permit (principal in Role::"treasury", action, resource);\n'
NO_EGRESS = '@id("out") forbid (principal, action, resource) when { context.labels.contains("pii") };\n'


def read(made: Bundle, text: str) -> tuple[tuple[Invariant, ...], tuple[str, ...]]:
    return read_invariants(read_yaml(text.encode(), "tests/a.yaml"), made.schema)


def checked(made: Bundle, never: str) -> Checked:
    invariants, problems = read(made, f"invariants:\n  - name: it\n    never: {never}\n")
    assert problems == ()
    (result,) = check(made, invariants)
    return result


def test_an_invariant_that_holds_is_proved(bundle: Make) -> None:
    result = checked(bundle(GRANT + NO_EGRESS), """{outcome: allow, when: 'context.labels.contains("pii")'}""")
    assert result.holds
    assert str(result) == "tests/a.yaml:2: the invariant `it` holds"


def test_one_that_is_broken_is_shown_by_a_request(bundle: Make) -> None:
    made = bundle(GRANT + NO_EGRESS)
    when = 'action == Action::"pay" && context.input.amount > 10'
    result = checked(made, f"{{outcome: [allow, require_review], when: '{when}'}}")
    assert (result.holds, result.confirmed, result.outcome) == (False, True, Outcome.ALLOW)
    assert result.witness is not None
    assert result.witness.request.action.input["amount"] > 10
    assert str(result) == "tests/a.yaml:2: the invariant `it` is broken: allow, decided by `grant`"


def test_without_a_condition_the_outcome_must_never_be(bundle: Make) -> None:
    made = bundle(GRANT)
    assert checked(made, "{outcome: require_review}").holds
    assert not checked(made, "{outcome: deny}").holds


def test_an_outcome_is_meant_exactly(bundle: Make) -> None:
    made = bundle(GRANT + '@id("r") @outcome("redact") @redact("pii") forbid (principal, action, resource);')
    assert checked(made, "{outcome: allow}").holds
    assert checked(made, "{outcome: ALLOW_WITH_REDACTION}").broken is Verdict.YES


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("invariants: x", "tests/a.yaml:1: `invariants` is text, not a list"),
        ("invariants: [x]", "tests/a.yaml:1: an invariant is text, not a mapping"),
        ("invariants:\n - {never: {outcome: allow}}", "tests/a.yaml:2: the invariant has no `name`"),
        ("invariants:\n - {name: a}", "tests/a.yaml:2: `a` has no mapping `never`"),
        ("invariants:\n - {name: a, never: {outcome: x}}", "tests/a.yaml:2: `never` names no outcome"),
        ("invariants:\n - {name: a, never: {outcome: []}}", "tests/a.yaml:2: `never` names no outcome"),
        ("invariants:\n - {name: a, never: {outcome: deny, if: x}}", "tests/a.yaml:2: unknown member `if`"),
        ("invariants:\n - {name: a, never: {outcome: deny, when: 5}}", "tests/a.yaml:2: `when` is a whole number"),
        ("invariants:\n - {name: a, never: {outcome: deny, when: 'a ='}}", "tests/a.yaml:2: `when`: "),
        (
            "invariants:\n - {name: a, never: {outcome: deny, when: 'true} when {true'}}",
            "tests/a.yaml:2: `when`: it is more than one condition",
        ),
        (
            "invariants:\n - {name: a, never: {outcome: deny, when: "
            "'true}; forbid (principal, action, resource) when {true'}}",
            "tests/a.yaml:2: `when`: it is more than one condition",
        ),
        (
            "invariants:\n - {name: a, never: {outcome: deny, when: 'context.rsk.score > 1'}}",
            "tests/a.yaml:2: `when`: attribute `rsk` in context",
        ),
        (
            "invariants:\n - {name: a, never: {outcome: deny}}\n - {name: a, never: {outcome: deny}}",
            "tests/a.yaml:3: the name `a` stands twice",
        ),
    ],
)
def test_what_cannot_be_read_has_its_place(bundle: Make, text: str, problem: str) -> None:
    _, problems = read(bundle(GRANT), text)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_a_file_without_invariants_has_none(bundle: Make) -> None:
    assert read(bundle(GRANT), "tests: []") == ((), ())
    assert check(bundle(GRANT), ()) == ()
