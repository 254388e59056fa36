"""Fixtures and a matrix: many tests in few lines, and every slip named with its line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from checkrein.model import Outcome
from checkrein.policy.casefile import MAX_COMBINATIONS, read_cases

FILE = """\
now: 2026-01-05T09:00:00Z
subjects:
  alice: {roles: [treasury]}
  bob: {roles: [staff]}
  robot: {type: agent, id: r-1}
resources:
  bank: {type: tool, id: bank-1}
tests:
  - name: who may pay
    tool: transfer_funds
    resource: bank
    matrix:
      subject: [alice, bob]
      input: [{to: ACME, amount: 5}, {to: ACME, amount: 5000}]
    expect:
      - {for: {subject: bob}, outcome: deny}
      - {for: {input: {to: ACME, amount: 5}}, outcome: allow}
      - {outcome: require_review, policies: [pay-large]}
  - name: a robot asks
    subject: robot
    prompt: hello
    expect: {outcome: allow}
"""


def problems(text: str) -> str:
    return "\n".join(read_cases(text.encode(), "tests/t.yaml")[1])


def test_a_matrix_makes_a_test_of_each_combination_with_the_row_that_fits():
    cases, wrong = read_cases(FILE.encode(), "tests/t.yaml")
    assert wrong == ()
    told = [(c.request.subject.id, c.request.action.input.get("amount"), c.expect.outcome) for c in cases[:4]]
    assert told == [
        ("alice", 5, Outcome.ALLOW),
        ("alice", 5000, Outcome.REQUIRE_REVIEW),
        ("bob", 5, Outcome.DENY),
        ("bob", 5000, Outcome.DENY),
    ]
    assert cases[1].expect.policies == ("pay-large",)
    assert cases[0].name == 'who may pay [alice, {"to":"ACME","amount":5}]'
    assert {case.place for case in cases[:4]} == {"tests/t.yaml:9"}


def test_fixtures_stand_for_whole_subjects_and_resources():
    cases, _ = read_cases(FILE.encode(), "tests/t.yaml")
    assert cases[0].request.subject.roles == ("treasury",)
    assert (cases[0].request.resource.type, cases[0].request.resource.id) == ("tool", "bank-1")
    assert (cases[4].request.subject.type, cases[4].request.subject.id) == ("agent", "r-1")


def test_a_subject_that_is_no_fixture_is_a_slip_once_there_are_fixtures():
    assert "tests/t.yaml:20: `robbot` is not among `subjects`" in problems(
        FILE.replace("subject: robot", "subject: robbot")
    )


def test_a_resource_that_is_no_fixture_is_a_slip():
    assert "`bnk` is not among `resources`" in problems(FILE.replace("resource: bank", "resource: bnk"))


def test_a_combination_without_a_row_is_a_slip():
    text = FILE.replace("      - {outcome: require_review, policies: [pay-large]}\n", "")
    assert "no row fits the combination [alice" in problems(text)


def test_a_row_for_what_does_not_vary_is_a_slip():
    assert "`tool` is not in the matrix" in problems(FILE.replace("for: {subject: bob}", "for: {tool: x}"))


def test_what_varies_stands_in_the_matrix_only():
    text = FILE.replace("    tool: transfer_funds\n", "    tool: transfer_funds\n    subject: bob\n")
    assert "`subject` stands beside the matrix too" in problems(text)


def test_an_empty_or_unknown_dimension_is_a_slip():
    assert "no list with items" in problems(FILE.replace("subject: [alice, bob]", "subject: []"))
    assert "unknown member `colour`" in problems(FILE.replace("subject: [alice, bob]", "colour: [red]"))


def test_a_matrix_is_bounded():
    many = ", ".join(f"{{to: x, amount: {n}}}" for n in range(MAX_COMBINATIONS))
    text = FILE.replace("{to: ACME, amount: 5}, {to: ACME, amount: 5000}", many)
    assert f"more than {MAX_COMBINATIONS} combinations" in problems(text)


@given(st.text(max_size=200))
def test_whatever_stands_in_the_file_is_read_or_named(text: str):
    cases, wrong = read_cases(text.encode("utf-8", "surrogatepass"), "tests/t.yaml")
    assert cases == () or not wrong
    assert wrong or cases == ()
