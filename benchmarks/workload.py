"""The generated workload of `benchmarks.policy`, the same for every engine, and a naive reading of it.

Five policies a tool; 70 % speak of one tool, 20 % of a category of tools, 10 % of a role; of all, 40 % ask for a role
and 10 % for an agent; one to three conditions each, on thresholds, equality, prefixes, text within, labels and an hour
window; 50 % permit, 20 % deny, 15 % ask for review, 15 % redact.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from checkrein.model import Outcome

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
        return f'@id("{self.id}") {HEADS[self.outcome]} ({principal}, {action}, resource) when {{ {when} }};'

    def holds(self, asked: Asked) -> bool:
        if (self.tool and self.tool != asked.tool) or (self.category and self.category != asked.category):
            return False
        if self.role and self.role not in asked.roles:
            return False
        return all(NAIVE[operator](at(asked.context, path), operand) for path, operator, operand in self.conditions)


HEADS = {
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


def at(context: dict[str, Any], path: str) -> Any:
    """The value of a member, such as `risk.score`."""
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
        outcome = random.choices(list(HEADS), weights=[50, 20, 15, 15])[0]
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
    found = {outcome: [rule.id for rule in rules if rule.outcome is outcome and rule.holds(asked)] for outcome in HEADS}
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
