from __future__ import annotations

import pytest

from checkrein.model import Action, BadRequest, Decision, Level, Outcome, PolicyError, Request, Resource, Risk, Subject
from checkrein.policy.casefile import read_cases
from checkrein.policy.cases import Case, run

FILE = "tests/pay.yaml"


def read(text: str) -> list[Case]:
    cases, problems = read_cases(text.encode(), FILE)
    assert problems == ()
    return list(cases)


def problems(text: str) -> list[str]:
    return list(read_cases(text.encode(), FILE)[1])


def test_a_prompt_a_tool_call_and_a_request_can_be_tested() -> None:
    prompt, tool, request = read("""\
now: 2026-03-01T09:00:00+01:00
tests:
  - {name: a, prompt: hello there, subject: alice, expect: {outcome: ALLOW, risk: green}}
  - name: b
    tool: pay
    input: {amount: 5}
    subject: {id: bob, roles: [treasury]}
    context: {environment: production}
    expect: {outcome: require_review, policies: [ask]}
  - name: c
    request:
      subject: {type: agent, id: bot}
      action: {name: pay}
      resource: {type: tool, id: bank}
    expect: {outcome: deny}
""")
    assert prompt.request == Request(
        Subject("user", "alice"),
        Action("prompt", {"input": {"messages": [{"role": "user", "content": "hello there"}]}}),
        Resource("model", "default"),
    )
    assert tool.request == Request(
        Subject("user", "bob", {"roles": ["treasury"]}),
        Action("pay", {"input": {"amount": 5}}),
        Resource("tool", "pay"),
        {"environment": "production"},
    )
    assert request.request.subject.type == "agent"
    assert (prompt.expect.risk, tool.expect.policies, tool.expect.outcome) == (
        Level.GREEN,
        ("ask",),
        Outcome.REQUIRE_REVIEW,
    )
    assert prompt.place == "tests/pay.yaml:3"
    assert prompt.now_us == 1_772_352_000_000_000


ONE = "tests:\n  - name: a\n    prompt: hi\n    expect: {outcome: allow}\n"


def test_tests_have_a_time_even_if_none_is_named() -> None:
    assert read(ONE)[0].now_us == 1_767_614_400_000_000


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"nwo: x\n{ONE}", 1, "unknown member `nwo`"),
        (f"now: tomorrow\n{ONE}", 1, "`now` is no time"),
        (f"now: 2026-02-30T00:00:00Z\n{ONE}", 1, "is no moment"),
        ("tests: 5", 1, "no list `tests`"),
        ("", 1, "no list `tests`"),
        ("tests:\n  - prompt: hi\n    expect: {outcome: allow}", 2, "has no `name`"),
        ("tests:\n  - name: a\n    prompt: hi", 2, "`a` expects nothing"),
        ("tests:\n  - name: a\n    expect: {outcome: allow}", 2, "has no request"),
        ("tests:\n  - name: a\n    prompt: hi\n    tool: x\n    expect: {outcome: allow}", 2, "prompt and tool"),
        ("tests:\n  - name: a\n    prompt: hi\n    expect:\n      outcome: alow", 5, "unknown outcome `alow`"),
        (
            "tests:\n  - name: a\n    prompt: hi\n    expect:\n      outcome: deny\n      risk: pink",
            6,
            "unknown risk level",
        ),
        (
            "tests:\n  - name: a\n    prompt: hi\n    expect:\n      outcome: deny\n      polices: []",
            6,
            "unknown member `polices`",
        ),
        ("tests:\n  - name: a\n    promt: hi\n    tool: x\n    expect: {outcome: deny}", 3, "unknown member `promt`"),
        (
            "tests:\n  - name: a\n    prompt: hi\n    input: {}\n    expect: {outcome: deny}",
            4,
            "a prompt has no `input`",
        ),
        ("tests:\n  - name: a\n    request: {}\n    expect: {outcome: deny}", 3, "not in AuthZEN form"),
        (
            "tests:\n  - name: a\n    request: {}\n    subject: x\n    expect: {outcome: deny}",
            4,
            "stands beside `request`",
        ),
        (
            "tests:\n  - name: a\n    tool: x\n    subject: {roles: [y]}\n    expect: {outcome: deny}",
            4,
            "`id` is nothing",
        ),
        (f"{ONE}{ONE[7:]}", 5, "stands twice"),
        ("tests:\n  - hello", 2, "a test is text"),
    ],
)
def test_a_test_that_would_not_test_is_a_problem(text: str, line: int, said: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"tests/pay.yaml:{line}: ")
    assert said in found
    assert found.endswith(")")


def test_a_case_passes_when_everything_is_as_expected() -> None:
    case = read("tests:\n  - {name: a, prompt: hi, expect: {outcome: deny, policies: [x, y], risk: red}}\n")
    made = Decision(outcome=Outcome.DENY, policies=("y", "x"), risk=Risk.of(90))
    seen: list[int] = []

    def decide(request: Request, now_us: int) -> Decision:
        seen.append(now_us)
        return made

    (result,) = run(case, decide)
    assert result.passed
    assert seen == [case[0].now_us]


def test_a_failure_says_what_was_expected_what_came_and_why() -> None:
    case = read("tests:\n  - {name: a, prompt: hi, expect: {outcome: allow, policies: [], risk: green}}\n")
    made = Decision(
        outcome=Outcome.DENY,
        reasons=("no payments at night",),
        policies=("night",),
        errors=(PolicyError("other", "it erred"),),
        risk=Risk.of(90, ("irreversible",)),
    )
    (result,) = run(case, lambda request, now_us: made)
    assert result.failures == (
        "expected allow, got deny because: no payments at night; `other`: it erred",
        "expected it decided by no policy, was `night`",
        "expected risk green, got red (irreversible)",
    )


def test_a_request_that_cannot_be_decided_fails_its_case() -> None:
    def decide(request: Request, now_us: int) -> Decision:
        raise BadRequest("the request is broken")

    (result,) = run(read(ONE), decide)
    assert result.failures == ("no decision: the request is broken",)
