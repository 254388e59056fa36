"""The workload of `benchmarks.policy` in `agent-governance-toolkit-core` 5, run in an environment of its own.

Its rules are text: comparisons, membership and flags, joined by `and` and `or`, without brackets, patterns on text or
redaction. So roles and labels are handed over as flags, conditions on a prefix or on text within are left out, and a
redaction is said as a deny, the reading that runs nothing. Each rule is also cut down to its scope, the one condition
that costs the toolkit least. The answers must equal a naive reading of what was said.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.workload import Asked, Condition, Rule
from checkrein.model import Outcome

#: its interpreter; `make bench` installs it
PYTHON = Path(__file__).parent.parent / ".venv/rivals/bin/python"

_ACTIONS = {Outcome.ALLOW: "allow", Outcome.DENY: "deny", Outcome.REQUIRE_REVIEW: "require_approval"}
_UNSAID = ("prefix", "within")


def run(rules: Sequence[Rule], asked: Sequence[Asked]) -> tuple[dict[str, list[float]], float]:
    """Microseconds of every request by way of asking, and the share of all conditions that could be said."""
    said = [_sayable(rule) for rule in rules]
    scopes = [_scope_only(rule) for rule in said]
    question = {
        "said": [_rule(rule) for rule in said],
        "scopes": [_rule(rule) for rule in scopes],
        "contexts": [_context(one) for one in asked],
    }
    done = subprocess.run(
        [str(PYTHON), "-W", "ignore", "-c", _PROGRAM],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(f"the toolkit's run failed: {done.stderr[-2_000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    for name, given in (("said", said), ("scopes", scopes)):
        assert answer[name] == [_naive(given, one) for one in asked]
    share = sum(len(rule.conditions) for rule in said) / sum(len(rule.conditions) for rule in rules)
    return answer["taken"], share


def _naive(rules: Sequence[Rule], asked: Asked) -> str:
    """Unlike ours, a review here needs no rule that allows."""
    held = {rule.outcome for rule in rules if rule.holds(asked)}
    return next((_ACTIONS[outcome] for outcome in sorted(_ACTIONS, reverse=True) if outcome in held), "deny")


def _sayable(rule: Rule) -> Rule:
    outcome = Outcome.DENY if rule.outcome is Outcome.ALLOW_WITH_REDACTION else rule.outcome
    kept = [condition for condition in rule.conditions if condition[1] not in _UNSAID]
    return msgspec.structs.replace(rule, outcome=outcome, conditions=kept)


def _scope_only(rule: Rule) -> Rule:
    role = "" if rule.tool or rule.category else rule.role
    return msgspec.structs.replace(rule, conditions=[], role=role)


def _rule(rule: Rule) -> dict[str, Any]:
    # a require_approval rule must outrank the rules that allow; that a deny does is the strategy's own
    priority = 1 if rule.outcome is Outcome.REQUIRE_REVIEW else 0
    return {"name": rule.id, "condition": _text(rule), "action": _ACTIONS[rule.outcome], "priority": priority}


def _text(rule: Rule) -> str:
    """The rule's condition as alternatives (`or`) of joined parts (`and`), for there are no brackets."""
    alternatives = [_scope(rule)]
    for condition in rule.conditions:
        alternatives = [[*left, *right] for left in alternatives for right in _parts(condition)]
    return " or ".join(" and ".join(parts) for parts in alternatives)


def _scope(rule: Rule) -> list[str]:
    tool = [f"action.type == '{rule.tool}'"] if rule.tool else []
    category = [f"action.category == '{rule.category}'"] if rule.category else []
    return [*tool, *category, *([f"roles.{rule.role}"] if rule.role else [])]


def _parts(condition: Condition) -> list[list[str]]:
    path, operator, operand = condition
    if operator == "has":
        return [[f"{path}.{operand}"]]
    if operator == "any":
        return [[f"{path}.{label}"] for label in operand]
    path = path if "." in path else f"{path}.value"
    if operator == "between":
        return [[f"{path} >= {operand[0]}", f"{path} < {operand[1]}"]]
    if operator == "one of":
        return [[f"{path} in [{', '.join(operand)}]"]]
    return [[f"{path} {operator} '{operand}'" if operator == "==" else f"{path} {operator} {operand}"]]


def _context(asked: Asked) -> dict[str, Any]:
    """As `govern()` passes arguments on: what is no object becomes `{"value": ...}`."""
    given = {**asked.context, "roles": asked.roles}
    objects = {name: _object(value) for name, value in given.items()}
    return {"action": {"type": asked.tool, "category": asked.category}, **objects}


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return dict.fromkeys(value, True)
    return value if isinstance(value, dict) else {"value": value}


#: reads rules and requests from its standard input, so that nothing of ours runs in that environment
_PROGRAM = """
import contextlib, json, logging, sys, time
logging.disable(logging.CRITICAL)
given = json.load(sys.stdin)
with contextlib.redirect_stdout(sys.stderr):
    from agentmesh.governance.govern import GovernanceConfig, GovernedCallable
    from agentmesh.governance.policy import Policy, PolicyEngine, PolicyRule

    def policy(name):
        return Policy(name=name, agents=["*"], rules=[PolicyRule(**rule) for rule in given[name]])

    def engine(name):
        made = PolicyEngine(conflict_strategy="deny_overrides")
        made.load_policy(policy(name))
        return lambda context: made.evaluate("*", context).action

    governed = GovernedCallable(
        lambda **arguments: True,
        GovernanceConfig(policy=policy("said"), conflict_strategy="deny_overrides", on_deny=lambda decision: False),
    )

    def timed(call):
        call(given["contexts"][0])
        taken, answers = [], []
        for context in given["contexts"]:
            begun = time.perf_counter_ns()
            answer = call(context)
            taken.append((time.perf_counter_ns() - begun) / 1000)
            answers.append(answer)
        return taken, answers

    scopes_taken, scopes = timed(engine("scopes"))
    said_taken, said = timed(engine("said"))
    govern_taken, ran = timed(lambda context: governed(**context))
    assert ran == [action == "allow" for action in said]
taken = {
    "PolicyEngine.evaluate, scopes alone": scopes_taken,
    "PolicyEngine.evaluate": said_taken,
    "govern()": govern_taken,
}
print(json.dumps({"taken": taken, "said": said, "scopes": scopes}))
"""
