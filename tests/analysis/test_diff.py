from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from checkrein.analysis import logic
from checkrein.analysis.diff import Difference, Row, compare
from checkrein.decide.classify import Classifier
from checkrein.decide.evaluate import Situation, evaluate
from checkrein.defaults import contents
from checkrein.model import Outcome, Request
from checkrein.policy.bundle import Bundle

Make = Callable[..., Bundle]
GRANT = '@id("grant") permit (principal in Role::"treasury", action == Action::"pay", resource);\n'
REVIEW = '@id("ask") @outcome("require_review") @approvers("2 of finance") forbid (principal, action, resource) '
LARGE = REVIEW + 'when { action == Action::"pay" && context.input.amount > 1000 };\n'
CLEAN = '@id("clean") @outcome("redact") @redact("pii") forbid (principal, action, resource);\n'


def changes(difference: Difference) -> list[tuple[str, str, bool]]:
    assert all(row.confirmed for row in difference.rows)
    return [(row.before.wire, row.after.wire, row.loosening) for row in difference.rows]


def one(difference: Difference) -> Row:
    (row,) = difference.rows
    assert row.confirmed
    return row


def test_a_limit_that_rises_by_one_is_shown_at_the_one(bundle: Make) -> None:
    row = one(compare(bundle(GRANT + LARGE), bundle(GRANT + LARGE.replace("1000", "1001"))))
    assert (row.before, row.after, row.loosening) == (Outcome.REQUIRE_REVIEW, Outcome.ALLOW, True)
    assert (row.policies_before, row.policies_after) == (("ask",), ("grant",))
    assert row.witness is not None
    value: Any = row.witness.to_json()
    assert value["action"]["properties"]["input"]["amount"] == 1001
    assert value["subject"]["properties"] == {"roles": ["treasury"]}


def test_the_other_way_about_is_no_loosening(bundle: Make) -> None:
    difference = compare(bundle(GRANT + LARGE), bundle(GRANT + LARGE.replace("1000", "999")))
    assert changes(difference) == [("allow", "require_review", False)]
    assert not difference.may_loosen


def test_the_witness_is_decided_so_by_the_whole_of_checkrein() -> None:
    files = contents()
    name = "policies/harm.cedar"
    before = Bundle.from_files(files)
    after = Bundle.from_files({**files, name: files[name].replace(b"> 1000", b"> 1001")})
    witness = next(row.witness for row in compare(before, after).rows if row.after is Outcome.ALLOW)
    assert witness is not None
    request = Request.from_json(witness.to_json())
    outcomes = [
        evaluate(request, side, Situation(now_us=0), classifier=Classifier(side.manifests)).outcome
        for side in (before, after)
    ]
    assert outcomes == [Outcome.REQUIRE_REVIEW, Outcome.ALLOW]


def test_every_change_of_outcome_is_a_row_and_the_loosening_ones_come_first(bundle: Make) -> None:
    after = GRANT + '@id("more") permit (principal, action == Action::"look", resource);' + CLEAN
    difference = compare(bundle(GRANT + LARGE), bundle(after))
    assert changes(difference) == [
        ("deny", "allow_with_redaction", True),
        ("require_review", "allow_with_redaction", True),
        ("allow", "allow_with_redaction", False),
    ]


@pytest.mark.parametrize(
    ("before", "after", "duty", "loosening"),
    [
        ("2 of finance", "1 of finance", "2 of finance within 4h -> 1 of finance within 4h", True),
        ("1 of finance", "2 of finance", "1 of finance within 4h -> 2 of finance within 4h", False),
        ("2 of finance", "2 of legal", "2 of finance within 4h -> 2 of legal within 4h", True),
        (
            "1 of finance",
            '1 of finance") @escalate("1h: ciso',
            "1 of finance within 4h -> 1 of finance within 4h, from 1h: ciso",
            True,
        ),
        (
            '1 of finance") @escalate("1h: ciso',
            '1 of finance") @escalate("2h: ciso") @reason_required @severity("high',
            "1 of finance within 4h, from 1h: ciso -> 1 of finance within 4h, from 2h: ciso, with a reason",
            False,
        ),
    ],
)
def test_a_review_that_asks_other_people_is_a_row(
    bundle: Make, before: str, after: str, duty: str, loosening: bool
) -> None:
    sides = [bundle(GRANT + LARGE.replace("2 of finance", text)) for text in (before, after)]
    row = one(compare(*sides))
    assert (row.before, row.after) == (Outcome.REQUIRE_REVIEW, Outcome.REQUIRE_REVIEW)
    assert (row.duty, row.loosening) == (duty, loosening)


@pytest.mark.parametrize(
    ("before", "after", "loosening"),
    [("pii", "pii.email", True), ("pii.email", "pii", False), ("pii", "secret", True)],
)
def test_a_redaction_of_other_classes_is_a_row(bundle: Make, before: str, after: str, loosening: bool) -> None:
    sides = [bundle(GRANT + CLEAN.replace('"pii"', f'"{text}"')) for text in (before, after)]
    row = one(compare(*sides))
    assert (row.duty, row.loosening) == (f"{before} -> {after}", loosening)


EQUIVALENT = [
    (LARGE, LARGE.replace("> 1000", ">= 1001")),
    (LARGE, REVIEW + 'when { action == Action::"pay" } unless { context.input.amount <= 1000 };'),
    (REVIEW + 'when { context.risk.level == "red" };', REVIEW + "when { context.risk.score >= 70 };"),
    (
        REVIEW + 'when { context.labels.contains("a") || context.labels.contains("b") };',
        REVIEW + 'when { context.labels.containsAny(["b", "a"]) };',
    ),
    (REVIEW + "when { context.input == context.input };", REVIEW + ";"),
    (
        REVIEW + 'when { context.risk == {level: "red", score: 90} };',
        REVIEW + 'when { true && context.risk == {level: "red", score: 90} };',
    ),
    (REVIEW + ";", REVIEW.replace('"ask"', '"other"') + ";"),
]


@pytest.mark.parametrize(("before", "after"), EQUIVALENT)
def test_policies_that_say_the_same_in_other_words_are_proved_equivalent(bundle: Make, before: str, after: str) -> None:
    difference = compare(bundle(GRANT + before), bundle(after + GRANT))
    assert difference.rows == ()
    assert difference.equivalent
    assert not difference.may_loosen


def test_a_new_folder_is_equivalent_to_itself_reordered_and_reformatted() -> None:
    files = contents()
    text = b"\n".join(files.pop(name) for name in sorted(files, reverse=True) if name.endswith(".cedar"))
    moved = {**files, "policies/all.cedar": text.replace(b"  ", b" ").replace(b"forbid (", b"forbid(")}
    assert compare(Bundle.from_files(contents()), Bundle.from_files(moved)).equivalent


def test_texts_that_patterns_tell_apart_are_found(bundle: Make) -> None:
    condition = 'when {{ action == Action::"look" && context.input.path like "{}" }};'
    permit = '@id("read") permit (principal, action, resource) '
    row = one(compare(bundle(permit + condition.format("/a/*")), bundle(permit + condition.format("/a/*.txt"))))
    assert row.witness is not None
    path = row.witness.request.action.input["path"]
    assert path.startswith("/a/")
    assert not path.endswith(".txt")


def test_more_classes_than_asked_for_are_said_to_be_there(bundle: Make) -> None:
    grants = "".join(
        f'@id("g{n}") permit (principal in Role::"r{n}", action == Action::"pay", resource);\n' for n in range(4)
    )
    difference = compare(bundle(LARGE), bundle(grants), max_rows=5)
    assert len(difference.rows) == 5
    assert difference.truncated == ("deny -> allow",)


def test_what_hangs_on_what_is_not_analysed_is_confirmed_or_said_to_be_unconfirmed(bundle: Make) -> None:
    odd = '@id("odd") forbid (principal, action, resource) when { context.risk == {level: "red", score: 90} };'
    difference = compare(bundle(GRANT + odd), bundle(GRANT))
    assert difference.may_loosen
    assert all(row.confirmed for row in difference.rows) or difference.unknown
    assert difference.notes


def test_a_tool_that_is_no_longer_declared_is_told_beside_the_rows(bundle: Make) -> None:
    tools = "tools:\n  pay: {effects: [read], input: {amount: integer}}\n"
    permit = '@id("p") permit (principal, action in Action::"read", resource);'
    difference = compare(bundle(permit, tools), bundle(permit, "tools: {}"))
    assert difference.may_loosen
    assert difference.manifests == ("`pay` is no longer declared in tools.yaml",)
    (row,) = difference.rows
    assert (row.before, row.after) == (Outcome.ALLOW, Outcome.DENY)


def test_an_argument_that_is_required_from_now_on_denies_the_calls_without_it(bundle: Make) -> None:
    tools = "tools:\n  pay: {{effects: [read], input: {{amount: integer, to: {}}}}}\n"
    permit = '@id("p") permit (principal, action, resource);'
    difference = compare(bundle(permit, tools.format("string?")), bundle(permit, tools.format("string")))
    (row,) = difference.rows
    assert (row.before, row.after, row.confirmed) == (Outcome.ALLOW, Outcome.DENY, True)
    assert row.witness is not None
    assert row.witness.request.action.input == {"amount": 1}


def test_a_label_that_a_tool_no_longer_bears_is_felt_by_the_policies(bundle: Make) -> None:
    tools = "tools:\n  look: {{effects: [read], labels: [{}]}}\n"
    policies = (
        '@id("p") permit (principal, action, resource); ' + REVIEW + 'when { context.labels.contains("personal") };'
    )
    difference = compare(bundle(policies, tools.format("personal")), bundle(policies, tools.format("")))
    assert [(row.before, row.after) for row in difference.rows] == [(Outcome.REQUIRE_REVIEW, Outcome.ALLOW)]


def test_what_the_solver_cannot_tell_counts_as_laxer(bundle: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logic, "EFFORT", 1)
    difference = compare(bundle(GRANT + LARGE), bundle(GRANT + LARGE.replace("1000", "999")))
    assert difference.unknown
    assert difference.may_loosen
    assert not difference.equivalent


def test_a_call_over_mcp_is_shown_as_one(bundle: Make) -> None:
    stop = '@id("stop") forbid (principal, action in Action::"mcp", resource);'
    row = one(compare(bundle(GRANT + stop), bundle(GRANT)))
    assert row.witness is not None
    value: Any = row.witness.to_json()
    assert value["context"]["protocol"] == "mcp"


def test_a_difference_is_told_in_json(bundle: Make) -> None:
    value: Any = compare(bundle(GRANT + LARGE), bundle(GRANT)).to_json()
    assert (value["equivalent"], value["may_loosen"], value["unknown"]) == (False, True, [])
    (row,) = value["rows"]
    assert (row["before"], row["after"], row["loosening"], row["confirmed"]) == ("require_review", "allow", True, True)
    assert row["witness"]["action"]["name"] == "pay"
