"""Latency of policy evaluation at 10, 100, 1,000 and 10,000 policies: Python dict in, outcome and policy ids out.

One generated workload for every engine: five policies a tool; 70 % speak of one tool, 20 % of a category of tools, 10 %
of a role; of all, 40 % ask for a role and 10 % for an agent; one to three conditions each, on thresholds, equality,
prefixes, text within, labels and an hour window; 50 % permit, 20 % deny, 15 % ask for review, 15 % redact.

Beside ours, in the same run: `cedarpy`, the official engine, with its policies and entities parsed beforehand; and
`agent-governance-toolkit-core` in an environment of its own. Every engine's answers are first held against a naive
reading of the same rules.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cedarpy
import msgspec

from checkrein.model import Outcome
from checkrein.policy.engine import PolicyResult, PolicySet
from checkrein.policy.entities import Entities

SIZES = (10, 100, 1_000, 10_000)
#: requests that are timed; a linear engine needs 70 ms for one at 10,000 policies
OURS = 4_000
CEDARPY = {10: 1_000, 100: 1_000, 1_000: 400, 10_000: 60}
TOOLKIT = {10: 400, 100: 200, 1_000: 60, 10_000: 12}
CHECKED = 100
RIVAL = Path(__file__).parent.parent / ".venv/rivals/bin/python"

CATEGORIES = [f"category{number}" for number in range(10)]
ROLES = [f"role{number}" for number in range(10)]
AGENTS = [f"agent{number}" for number in range(50)]
USERS = [f"user{number}" for number in range(100)]
ENVIRONMENTS = ["production", "staging", "development"]
RISKS = ["green", "amber", "red"]
LABELS = ["pii", "secret", "external", "untrusted", "financial", "health"]
SCOPES = ["customer_data", "payments", "source", "internal", "public"]
PREFIXES = [f"/{area}/{team}/" for area in ("srv", "home", "data", "etc") for team in ("a", "b", "c")]
WORDS = ["salary", "password", "select", "export", "drop", "invoice"]

#: what a condition asks of the request: (member, operator, operand)
Condition = tuple[str, str, Any]
CEDAR = {
    ">": "context.{0} > {1}", "<=": "context.{0} <= {1}", ">=": "context.{0} >= {1}", "==": "context.{0} == {1}",
    "prefix": "context.{0} like {1}", "within": "context.{0} like {1}", "has": "context.{0}.contains({1})",
    "any": "context.{0}.containsAny({1})", "one of": "{1}.contains(context.{0})",
    "between": "context.{0} >= {1[0]} && context.{0} < {1[1]}",
}  # fmt: skip
NAIVE: dict[str, Callable[[Any, Any], bool]] = {
    ">": lambda value, limit: value > limit,
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "==": lambda value, other: value == other,
    "prefix": lambda value, text: value.startswith(text),
    "within": lambda value, text: text in value,
    "has": lambda value, label: label in value,
    "any": lambda value, labels: not set(value).isdisjoint(labels),
    "one of": lambda value, known: value in known,
    "between": lambda value, hours: hours[0] <= value < hours[1],
}


class Rule(msgspec.Struct, frozen=True):
    """One policy. `tool`, `category` and `role` are its scope, where they are not empty."""

    id: str
    outcome: Outcome
    conditions: list[Condition]
    tool: str = ""
    category: str = ""
    role: str = ""

    def cedar(self) -> str:
        principal = f'principal in Role::"{self.role}"' if self.role else "principal"
        action = f'action in Action::"{self.category}"' if self.category else "action"
        action = f'action == Action::"{self.tool}"' if self.tool else action
        when = " && ".join(_cedar(condition) for condition in self.conditions)
        return f'@id("{self.id}") {_HEADS[self.outcome]} ({principal}, {action}, resource) when {{ {when} }};'

    def holds(self, asked: Asked) -> bool:
        if (self.tool and self.tool != asked.tool) or (self.category and self.category != asked.category):
            return False
        if self.role and self.role not in asked.roles:
            return False
        return all(NAIVE[operator](_at(asked.context, path), operand) for path, operator, operand in self.conditions)


_HEADS = {
    Outcome.ALLOW: "permit",
    Outcome.DENY: "forbid",
    Outcome.REQUIRE_REVIEW: '@outcome("require_review") @approvers("1 of ops") forbid',
    Outcome.ALLOW_WITH_REDACTION: '@outcome("redact") @redact("pii") forbid',
}


def _cedar(condition: Condition) -> str:
    path, operator, operand = condition
    if operator == "between":
        return CEDAR[operator].format(path, operand)
    text = f"*{operand}*" if operator == "within" else f"{operand}*" if operator == "prefix" else operand
    return CEDAR[operator].format(path, json.dumps(text))


class Asked(msgspec.Struct, frozen=True):
    """One request."""

    user: str
    roles: list[str]
    tool: str
    category: str
    context: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "principal": {"type": "User", "id": self.user},
            "action": {"type": "Action", "id": self.tool},
            "resource": {"type": "Tool", "id": self.tool},
            "context": self.context,
        }

    @property
    def entities(self) -> list[dict[str, Any]]:
        """The few entities that a gateway sends with one request."""
        return [
            _entity("User", self.user, "Role", self.roles),
            _entity("Action", self.tool, "Action", [self.category]),
            _entity("Tool", self.tool, "Tool", []),
        ]


def _entity(kind: str, id: str, above: str, parents: Sequence[str]) -> dict[str, Any]:
    listed = [{"type": above, "id": parent} for parent in parents]
    return {"uid": {"type": kind, "id": id}, "attrs": {}, "parents": listed}


def _at(context: dict[str, Any], path: str) -> Any:
    value: Any = context
    for name in path.split("."):
        value = value[name]
    return value


class Workload:
    """The rules, and the requests about them; the same for the same size."""

    def __init__(self, size: int, count: int) -> None:
        self._random = random.Random(size)
        self.tools = [f"tool{number}" for number in range(max(1, size // 5))]
        self.category = {tool: self._random.choice(CATEGORIES) for tool in self.tools}
        self.roles = {user: self._random.sample(ROLES, self._random.randint(1, 3)) for user in USERS}
        self.rules = [self._rule(number) for number in range(size)]
        self.asked = [self._asked() for _ in range(count)]

    def _rule(self, number: int) -> Rule:
        random = self._random
        outcome = random.choices(list(_HEADS), weights=[50, 20, 15, 15])[0]
        where = random.random()
        role = random.choice(ROLES) if where >= 0.9 or random.random() < 1 / 3 else ""
        conditions = [self._condition(kind) for kind in random.sample(range(11), random.randint(1, 3))]
        if random.random() < 0.1:
            conditions.append(("agent", "==", random.choice(AGENTS)))
        tool = random.choice(self.tools) if where < 0.7 else ""
        category = random.choice(CATEGORIES) if 0.7 <= where < 0.9 else ""
        return Rule(f"policy-{number:05}", outcome, conditions, tool, category, role)

    def _condition(self, kind: int) -> Condition:
        random = self._random
        choices: tuple[Callable[[], Condition], ...] = (
            lambda: ("input.amount", ">", random.randrange(0, 10_000, 50)),
            lambda: ("input.rows", "<=", random.randrange(0, 5_000, 25)),
            lambda: ("risk.score", ">=", random.randrange(100)),
            lambda: ("environment", "==", random.choice(ENVIRONMENTS)),
            lambda: ("risk.level", "==", random.choice(RISKS)),
            lambda: ("input.path", "prefix", random.choice(PREFIXES)),
            lambda: ("input.query", "within", random.choice(WORDS)),
            lambda: ("labels", "has", random.choice(LABELS)),
            lambda: ("labels", "any", random.sample(LABELS, 2)),
            lambda: ("scope", "one of", random.sample(SCOPES, 2)),
            lambda: ("time.hour", "between", (start := random.randrange(16), start + 8)),
        )
        return choices[kind]()

    def _asked(self) -> Asked:
        random = self._random
        user, tool = random.choice(USERS), random.choice(self.tools)
        context = {
            "input": {
                "amount": random.randrange(10_000),
                "rows": random.randrange(5_000),
                "path": random.choice(PREFIXES) + "report.csv",
                "query": f"please {random.choice(WORDS)} the {random.choice(WORDS)} list",
                "recipients": random.randrange(20),
            },
            "agent": random.choice(AGENTS),
            "environment": random.choice(ENVIRONMENTS),
            "scope": random.choice(SCOPES),
            "time": {"hour": random.randrange(24)},
            "labels": random.sample(LABELS, random.randint(0, 2)),
            "risk": {"level": random.choice(RISKS), "score": random.randrange(101)},
        }
        return Asked(user, self.roles[user], tool, self.category[tool], context)

    def entities(self) -> list[dict[str, Any]]:
        """All entities of the deployment, for a handle that is parsed once."""
        users = [_entity("User", user, "Role", roles) for user, roles in self.roles.items()]
        return users + [_entity("Action", tool, "Action", [group]) for tool, group in self.category.items()]


# --- the naive reading


def naive(rules: Sequence[Rule], asked: Asked) -> tuple[Outcome, list[str]]:
    found = {
        outcome: [rule.id for rule in rules if rule.outcome is outcome and rule.holds(asked)] for outcome in _HEADS
    }
    if found[Outcome.DENY] or not found[Outcome.ALLOW]:
        return Outcome.DENY, found[Outcome.DENY]
    for outcome in (Outcome.REQUIRE_REVIEW, Outcome.ALLOW_WITH_REDACTION):
        if found[outcome]:
            return outcome, found[outcome]
    return Outcome.ALLOW, found[Outcome.ALLOW]


def naive_cedar(rules: Sequence[Rule], asked: Asked) -> tuple[bool, list[str]]:
    """As the official engine reads the same rules: whatever is no permit forbids."""
    permits = [rule.id for rule in rules if rule.outcome is Outcome.ALLOW and rule.holds(asked)]
    forbids = [rule.id for rule in rules if rule.outcome is not Outcome.ALLOW and rule.holds(asked)]
    allowed = bool(permits) and not forbids
    return allowed, sorted(permits if allowed else forbids)


# --- the engines


def main() -> None:
    print("microseconds a request; `x` is how many times ours with a list of entities at p50\n")
    print(f"{'policies':>8}  {'engine':<52}{'requests':>9}{'p50':>10}{'p99':>10}{'x':>9}")
    for size in SIZES:
        workload = Workload(size, OURS)
        yardstick = _ours(size, workload)
        _cedarpy(size, workload, yardstick)
        _toolkit(size, workload, yardstick)
    print(
        "\nours and cedarpy: outcome and ids of 100 requests a row equal a naive reading of the rules (cedarpy reads a"
        "\nreview or a redaction as a forbid). list: the user, the action and the tool come with each request; handle:"
        "\nall entities of the deployment, parsed once."
        "\nagent-governance-toolkit-core 5: each rule holds one condition (its scope, else its first), since it has no"
        "\nprefixes, sets or redaction; joining conditions costs it more. Allowed or not equals a naive reading."
    )


def _ours(size: int, workload: Workload) -> float:
    begun = time.perf_counter()
    policies = PolicySet.from_cedar("\n".join(rule.cedar() for rule in workload.rules))
    took = time.perf_counter() - begun
    assert not policies.not_compiled
    handle = Entities.from_json(workload.entities())
    for asked in workload.asked[:CHECKED]:
        listed = policies.evaluate(**asked.arguments, entities=asked.entities)
        assert (listed.outcome, list(listed.determining)) == naive(workload.rules, asked)
        assert listed == policies.evaluate(**asked.arguments, entities=handle)

    def calls(entities: Callable[[Asked], Any]) -> list[Callable[[], PolicyResult]]:
        return [_call(policies, asked.arguments, entities(asked)) for asked in workload.asked]

    yardstick = _row(size, f"ours, list of 3 entities (load {took:.1f} s)", calls(lambda asked: asked.entities))
    _row(size, "ours, Entities handle", calls(lambda asked: handle), yardstick)
    return yardstick


def _call(policies: PolicySet, arguments: dict[str, Any], entities: Any) -> Callable[[], PolicyResult]:
    principal, action, resource, context = arguments.values()
    evaluate = policies.evaluate
    return lambda: evaluate(principal, action, resource, context, entities)


def _cedarpy(size: int, workload: Workload, yardstick: float) -> None:
    policies = cedarpy.PolicySet.from_str("\n".join(rule.cedar() for rule in workload.rules))
    handle = cedarpy.Entities.from_json_str(json.dumps(workload.entities()))
    asked = workload.asked[: CEDARPY[size]]
    for one in asked[:CHECKED]:
        result = cedarpy.is_authorized(one.arguments, policies, handle)
        ids = sorted(result.diagnostics.id_annotations_by_reason[reason] for reason in result.diagnostics.reasons)
        assert (result.decision is cedarpy.Decision.Allow, ids) == naive_cedar(workload.rules, one)
    calls = [_official(one.arguments, policies, handle) for one in asked]
    _row(size, f"cedarpy {_version()}, PolicySet and Entities handles", calls, yardstick)


def _official(arguments: dict[str, Any], policies: Any, entities: Any) -> Callable[[], object]:
    return lambda: cedarpy.is_authorized(arguments, policies, entities)


def _version() -> str:
    from importlib.metadata import version

    return version("cedarpy")


def _row(size: int, name: str, calls: Sequence[Callable[[], object]], yardstick: float = 0.0) -> float:
    """Time every call once, after some to warm up; returns p50 in microseconds."""
    for call in calls[:50]:
        call()
    gc.collect()
    taken = []
    for call in calls:
        begun = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - begun) / 1_000)
    return _print(size, name, taken, yardstick)


def _print(size: int, name: str, taken: list[float], yardstick: float) -> float:
    taken.sort()
    p50, p99 = statistics.median(taken), taken[int(len(taken) * 0.99)]
    ratio = f"{p50 / yardstick:.1f}" if yardstick else ""
    print(f"{size:>8,}  {name:<52}{len(taken):>9,}{p50:>10,.1f}{p99:>10,.1f}{ratio:>9}", flush=True)
    return p50


# --- agent-governance-toolkit-core, in an environment of its own

_COMPARED = {">": ">", "<=": "<=", ">=": ">="}


def _toolkit(size: int, workload: Workload, yardstick: float) -> None:
    if not RIVAL.exists():
        print(f"{size:>8,}  agent-governance-toolkit-core: not installed; `make bench` installs it")
        return
    rules = [_single(rule) for rule in workload.rules]
    asked = workload.asked[: TOOLKIT[size]]
    contexts = [{"action": {"type": one.tool, "category": one.category}, **_objects(one.context)} for one in asked]
    question = {
        "rules": [{"name": rule["id"], "condition": rule["text"], "action": rule["action"]} for rule in rules],
        "contexts": contexts,
    }
    done = subprocess.run(
        [str(RIVAL), "-W", "ignore", "-c", _PROGRAM],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"the toolkit's run failed: {done.stderr[-2_000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    for one, allowed in zip(asked, answer["allowed"], strict=True):
        matching = {rule["action"] for rule in rules if rule["test"](one)}
        assert allowed == (matching == {"allow"})
    _print(size, "toolkit 5, PolicyEngine.evaluate, 1 condition a rule", answer["engine"], yardstick)
    _print(size, "toolkit 5, govern(), 1 condition a rule", answer["govern"], yardstick)


def _single(rule: Rule) -> dict[str, Any]:
    """The rule cut down to one condition that the toolkit can express."""
    action = "deny" if rule.outcome is Outcome.DENY else "allow"
    if rule.tool:
        return _expressed(rule, action, f"action.type == '{rule.tool}'", lambda one: one.tool == rule.tool)
    if rule.category:
        text = f"action.category == '{rule.category}'"
        return _expressed(rule, action, text, lambda one: one.category == rule.category)
    for path, operator, operand in rule.conditions:
        if operator in _COMPARED:
            return _expressed(rule, action, f"{path} {operator} {operand}", _naively(path, operator, operand))
    return _expressed(rule, action, "environment.value == 'staging'", _naively("environment", "==", "staging"))


def _expressed(rule: Rule, action: str, text: str, test: Callable[[Asked], bool]) -> dict[str, Any]:
    return {"id": rule.id, "action": action, "text": text, "test": test}


def _naively(path: str, operator: str, operand: object) -> Callable[[Asked], bool]:
    return lambda one: NAIVE[operator](_at(one.context, path), operand)


def _objects(context: dict[str, Any]) -> dict[str, Any]:
    """As `govern()` passes arguments on: what is no object becomes `{"value": ...}`."""
    return {name: value if isinstance(value, dict) else {"value": value} for name, value in context.items()}


#: reads the rules and requests from its standard input, so that nothing of ours runs in that environment
_PROGRAM = """
import contextlib, json, logging, sys, time
logging.disable(logging.CRITICAL)
given = json.load(sys.stdin)
with contextlib.redirect_stdout(sys.stderr):
    from agentmesh.governance.govern import GovernanceConfig, GovernedCallable
    from agentmesh.governance.policy import Policy, PolicyEngine, PolicyRule
    policy = Policy(name="bench", agents=["*"], rules=[PolicyRule(**rule) for rule in given["rules"]])
    engine = PolicyEngine(conflict_strategy="deny_overrides")
    engine.load_policy(policy)
    governed = GovernedCallable(
        lambda **arguments: True, GovernanceConfig(policy=policy, on_deny=lambda decision: False)
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

    engine_taken, decisions = timed(lambda context: engine.evaluate("*", context))
    govern_taken, ran = timed(lambda context: governed(**context))
    allowed = [decision.allowed for decision in decisions]
    assert allowed == ran
print(json.dumps({"engine": engine_taken, "govern": govern_taken, "allowed": allowed}))
"""

if __name__ == "__main__":
    main()
