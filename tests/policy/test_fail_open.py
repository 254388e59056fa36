"""Nineteen ways in which a rule was written and the action ran all the same, elsewhere. None runs here.

Each case is a rule meant to stop an action, written as its author would write it in Cedar or as they wrote it there,
and the request that slipped through. Either the folder does not load, and says where, or the request is denied.
"""

from __future__ import annotations

import json

import pytest

from checkrein.decide.classify import Classifier
from checkrein.decide.context import Situation
from checkrein.decide.evaluate import evaluate
from checkrein.model import Action, BadRequest, Outcome, PolicyInvalid, Request, Resource, Subject
from checkrein.model.json import load_object
from checkrein.policy.bundle import Bundle

TYPES = {"statement": "string", "amount": "integer", "flag": "boolean"}
ALLOW_ALL = '@id("all") @owner("o") @reason("everything runs") permit (principal, action, resource);'


def rule(condition: str) -> str:
    head = '@id("stop") @owner("o") @reason("stopped") forbid (principal, action == Action::"run_sql", resource)'
    return f"{head} when {{ {condition} }};"


def tools(condition: str) -> str:
    """The manifest of a tool that takes the arguments its rule speaks of."""
    declared = ", ".join(f"{name}: {kind}" for name, kind in TYPES.items() if name in condition)
    return f"tools:\n  run_sql:\n    effects: [write]\n    input: {{{declared or 'statement: string'}}}\n"


def outcome(policy: str, arguments: str) -> str:
    """`refused at load`, `refused at parse`, or the outcome of a call with these arguments (JSON)."""
    files = {"tools.yaml": tools(policy).encode(), "policies/p.cedar": f"{ALLOW_ALL}\n{policy}".encode()}
    try:
        bundle = Bundle.from_files(files)
    except PolicyInvalid as error:
        assert all(problem.startswith(("policies/p.cedar:", "tools.yaml:")) for problem in error.problems)
        return "refused at load"
    try:
        input = load_object(arguments)
    except BadRequest:
        return "refused at parse"
    request = Request(Subject("user", "mallory"), Action("run_sql", {"input": input}), Resource("tool", "db"))
    classifier = Classifier(bundle.manifests)
    return evaluate(request, bundle, Situation(now_us=0), classifier=classifier).outcome.wire


HARM = json.dumps({"statement": "DROP TABLE users"})
CASES = {
    "upper case": (rule('context.input.statement like "*drop*" || context.input.statement like "*DROP*"'), HARM),
    "a trailing space": (rule('context.input.statement like "DROP TABLE users*"'), '{"statement":"DROP TABLE users "}'),
    "the tool called by its own signature": (rule('context.input has statement'), HARM),
    "positional arguments": (rule('context.input has statement'), json.dumps({"0": "DROP TABLE users"})),
    "equality with a number": (rule("context.input.amount == 100"), '{"amount":100}'),
    "equality with true": (rule("context.input.flag == true"), '{"flag":true}'),
    "not": (rule("!context.input.flag"), '{"flag":false}'),
    "parentheses": (rule("((context.input.amount) > (10))"), '{"amount":11}'),
    "a literal that holds ` or `": (rule('context.input.statement == "this or that"'), '{"statement":"this or that"}'),
    "startswith": (rule('context.input.statement.startswith("DROP")'), HARM),
    "a regular expression": (rule('context.input.statement ~ "DROP.*"'), HARM),
    "an empty condition": (rule(""), HARM),
    "garbage": (rule("%%% nonsense ((("), HARM),
    "a condition of 2,000 characters": (rule(" || ".join(['context.input.statement == "' + "x" * 60 + '"'] * 30)
                                             + ' || context.input.statement like "DROP*"'), HARM),
    "the amount missing": (rule("context.input.amount > 10000"), "{}"),
    "the amount as text": (rule("context.input.amount > 10000"), '{"amount":"99,999"}'),
    "NaN": (rule("context.input.amount > 10000"), '{"amount":NaN}'),
    "a stage that is never evaluated": (rule('context.stage == "pre_input"'), HARM),
    "a duplicate key": (rule("context.input.amount > 10000"), '{"amount":99999,"amount":1}'),
}  # fmt: skip


def test_there_are_nineteen():
    assert len(CASES) == 19


@pytest.mark.parametrize("name", CASES)
def test_it_does_not_run(name: str):
    policy, arguments = CASES[name]
    assert outcome(policy, arguments) in ("refused at load", "refused at parse", Outcome.DENY.wire)


def test_the_rules_that_load_do_let_harmless_calls_run():
    """Else the test above would pass by denying everything."""
    harmless = {
        "upper case": '{"statement":"SELECT 1"}',
        "a trailing space": '{"statement":"SELECT 1"}',
        "equality with a number": '{"amount":99}',
        "equality with true": '{"flag":false}',
        "not": '{"flag":true}',
        "parentheses": '{"amount":9}',
        "a literal that holds ` or `": '{"statement":"this"}',
        "a condition of 2,000 characters": '{"statement":"SELECT 1"}',
        "the amount missing": '{"amount":9}',
    }
    for name, arguments in harmless.items():
        assert outcome(CASES[name][0], arguments) == Outcome.ALLOW.wire, name


def test_a_duplicate_key_in_a_manifest_is_a_problem_with_its_line():
    doubled = tools("") + "  run_sql:\n    effects: [read]\n"
    with pytest.raises(PolicyInvalid, match=r"tools.yaml:\d+"):
        Bundle.from_files({"tools.yaml": doubled.encode(), "policies/p.cedar": ALLOW_ALL.encode()})
