"""What is proved of policies, beside many requests decided by the evaluator.

The policies are written at random and not validated: they read what may be missing or of another type, and they
overflow, so that the errors are analysed too.
"""

from __future__ import annotations

import os
import re
from random import Random
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from checkrein.analysis.diff import compare
from checkrein.analysis.findings import What, analyse
from checkrein.analysis.logic import Verdict
from checkrein.analysis.outcomes import Outcomes
from checkrein.analysis.witness import Search, ask
from checkrein.analysis.world import World
from checkrein.model import Risk
from checkrein.policy.bundle import Bundle
from checkrein.policy.cedar import Kind, read_policies
from checkrein.policy.engine import PolicyResult, PolicySet
from checkrein.policy.entities import Entities, Entity
from checkrein.policy.manifest import Manifests
from checkrein.policy.schema import USED, action_entity, known_actions, schema_text
from checkrein.policy.values import Uid

DEEP = os.environ.get("CHECKREIN_DEEP") == "1"
thorough = settings(max_examples=1_000 if DEEP else 50)
pytestmark = pytest.mark.timeout(1_200)

MANIFESTS = Manifests.from_yaml("""
tools:
  pay:
    effects: [irreversible, external]
    input: {to: string, amount: integer, fee: number?, memo: string?, tags: array}
  look: {effects: [read], input: {to: string, amount: number, limit: integer?}, labels: [personal]}
""")
TEXTS = ["a", "ab", "abc", "b", "red", "prod"]
NUMBERS = [-1, 0, 1, 2, 5, 29, 30, 70, 1000, 1001, 2**63 - 1, -(2**63)]
DECIMALS = ["0.0", "1.5", "-1.5", "1.0"]
LABELS = ["a", "ab", "pii", "personal", "effect:read", "undeclared"]

#: type -> forms; `$type` is an expression of that type
FORMS: dict[str, list[str]] = {
    "bool": [
        "($bool && $bool)", "($bool || $bool)", "!($bool)", "(if $bool then $bool else $bool)",
        "$long < $long", "$long <= $long", "$long > $long", "$long >= $long", "$long == $long",
        "$text == $text", "$text != $text", "$text == $long", "$text like $pattern", "$text like $pattern",
        "$set.contains($text)", "$set.containsAll($set)", "$set.containsAny($set)", "$set == $set",
        "$set.isEmpty()", "$decimal.lessThan($decimal)", "$decimal.greaterThanOrEqual($decimal)",
        "$decimal == $decimal", "context has environment", "context.input has memo", "context.input has fee",
        "context.input has amount", "principal has department", "principal.hasTag($word)", "context.input.to > 5",
        'principal in Role::"a"', 'principal in Role::"b"', "principal is User", 'principal == User::"a"',
        'resource == Tool::"a"', "resource is Model", 'action == Action::"pay"', 'action in Action::"read"',
        'action in Action::"mcp"', 'action in [Action::"external", Action::"llm"]', 'User::"a" in Role::"a"',
        'principal is User in Role::"a"', '[User::"a", User::"b"].contains(principal)', "context.usage.running == 0",
        "context.risk == {level: $text, score: $long}",
    ],
    "long": [
        "$number", "$number", "context.risk.score", "context.time.hour", "context.input.amount",
        "context.input.limit", "($long + $long)", "($long - $long)", "($long * $number)", "-($long)",
        "(if $bool then $long else $long)", "context.usage.requests_today", "context.usage.agent.running",
    ],
    "text": [
        "$word", "$word", "context.environment", "context.input.to", "context.input.memo", "context.risk.level",
        "principal.department", "principal.getTag($word)", "(if $bool then $text else $text)", "context.agent.id",
    ],
    "set": ["context.labels", "context.labels", "context.input.tags", "[$text, $text]", "[]", "[$word]"],
    "decimal": [
        "context.input.fee", "context.input.amount", "$decimal_number", "context.usage.spend_today",
        "context.usage.key.spend_month",
    ],
}  # fmt: skip
PATTERNS = ['"a*"', '"*b"', '"*a*"', '"b*"', '"ab*"', '"a*c"', '"abc"', '"*"', '"*bc"', '"a*b*"']
HEADS = {
    Kind.GRANT: "permit",
    Kind.FORBID: "forbid",
    Kind.REVIEW: '@outcome("require_review") @approvers("1 of a") forbid',
    Kind.REDACT: '@outcome("redact") @redact("pii") forbid',
}


POOLS = {
    "word": [f'"{text}"' for text in TEXTS],
    "number": [str(number) for number in NUMBERS],
    "decimal_number": [f'decimal("{text}")' for text in DECIMALS],
    "pattern": PATTERNS,
}
_HOLE = re.compile(r"\$(\w+)")


def expression(random: Random, kind: str, depth: int) -> str:
    """An expression that is of this type if the request is as it should be."""
    if kind in POOLS:
        return random.choice(POOLS[kind])
    forms = FORMS[kind]
    if depth <= 0:
        forms = [form for form in forms if not set(_HOLE.findall(form)) & {kind, "bool"}]
    return _HOLE.sub(lambda hole: expression(random, hole[1], depth - 1), random.choice(forms))


def policy(random: Random, name: str) -> str:
    kind = random.choice([Kind.GRANT, *Kind])
    action = random.choice(
        ["action", 'action == Action::"pay"', 'action == Action::"look"', 'action in Action::"tool"']
    )
    principal = random.choice(["principal", "principal", 'principal in Role::"a"', "principal is User"])
    clauses = "".join(
        f" {random.choice(['when', 'when', 'unless'])} {{ {expression(random, 'bool', 2)} }}"
        for _ in range(random.choice([0, 1, 1, 1, 2]))
    )
    return f'@id("{name}") {HEADS[kind]} ({principal}, {action}, resource){clauses};'


def bundle_of(policies: list[str]) -> Bundle:
    read, problems = read_policies("\n".join(policies), "p.cedar", strict=False)
    assert problems == ()
    return Bundle("", PolicySet(read, actions=known_actions(MANIFESTS)), MANIFESTS, (), schema_text(MANIFESTS))


Asked = tuple[Uid, Uid, Uid, dict[str, object], Entities]


def request(random: Random) -> Asked:
    """A request as the policies may be asked about it."""

    def sometimes(name: str, value: object) -> dict[str, Any]:
        return {name: value} if random.random() < 0.6 else {}

    def decimal() -> dict[str, object]:
        return {"__extn": {"fn": "decimal", "arg": random.choice(DECIMALS)}}

    def texts(pool: list[str]) -> list[str]:
        return random.sample(pool, random.randrange(3))

    name = random.choice(["pay", "pay", "look", "look", "prompt", "get_x", "send_and_delete_x"])
    effects = MANIFESTS.resolve(name).effects
    borne = [f"effect:{effect}" for effect in effects] if name != "prompt" else []
    input: dict[str, object]
    if name == "pay":
        input = {"to": random.choice(TEXTS), "amount": random.choice(NUMBERS), "tags": texts(TEXTS)}
        input |= {**sometimes("fee", decimal()), **sometimes("memo", random.choice(TEXTS))}
        borne.append("tool:pay")
    elif name == "look":
        input = {"to": random.choice(TEXTS), "amount": decimal(), **sometimes("limit", random.choice(NUMBERS))}
        borne += ["tool:look", "personal"]
    elif name == "prompt":
        input = {"model": "m", "chars": random.randrange(9), "messages": 1}
    else:
        input = {}
        borne += ["undeclared", f"tool:{name}"]
    score = random.choice([0, 1, 5, 29, 30, 69, 70, 100])

    def used() -> dict[str, object]:
        return {name: random.choice([0, 1, 5]) if kind == "Long" else decimal() for name, kind in USED.items()}

    context: dict[str, object] = {
        "agent": {"id": random.choice(TEXTS)},
        "time": {"hour": random.choice([0, 1, 5, 23]), "weekday": "monday", "date": "2026-01-05"},
        "risk": {"level": Risk.of(score).level.value, "score": score},
        "labels": sorted({*borne, *texts(LABELS)}),
        "answer": False,
        "input": input,
        "usage": {**used(), "agent": used(), "key": used()},
        **sometimes("environment", random.choice(TEXTS)),
    }
    principal = Entity(
        Uid(random.choice(["User", "User", "Agent"]), random.choice(["a", "b", "c"])),
        sometimes("department", random.choice(TEXTS)),
        frozenset(Uid("Role", role) for role in random.sample(["a", "b", "c"], random.randrange(3))),
        {**sometimes("a", random.choice(TEXTS)), **sometimes("ab", random.choice(TEXTS))},
    )
    resource = Entity(
        Uid("Model" if name == "prompt" else random.choice(["Tool", "Resource"]), random.choice(["a", "b"]))
    )
    action = action_entity(name, effects, random.choice(["", "mcp"]) if name != "prompt" else "")
    return principal.uid, action.uid, resource.uid, context, Entities([principal, action, resource])


def decide(bundle: Bundle, asked: Asked) -> PolicyResult:
    return bundle.policies.evaluate(*asked)


SEEDS = st.integers(0, 2**32).map(Random)


@thorough
@given(SEEDS)
def test_a_policy_that_is_not_dead_has_a_request_that_the_evaluator_confirms(random: Random) -> None:
    bundle = bundle_of([policy(random, f"p{n}") for n in range(4)])
    world = World(bundle)
    outcomes = Outcomes(world.views[0])
    search = Search(world)
    for item in outcomes.policies:
        for wanted, term in (("satisfied", item.fires), ("errs", item.errs)):

            def right(result: PolicyResult, wanted: str = wanted, id: str = item.policy.id) -> bool:
                return id in result.errors if wanted == "errs" else any(id in ids for ids in result.satisfied.values())

            found = search.show([term], item.matches, lambda w, right=right: right(ask(world.views[0], w.questions[0])))
            event(f"{wanted}: {found.verdict.value}")
            assert found.verdict is not Verdict.YES or found.confirmed or item.notes


@thorough
@given(SEEDS)
def test_nothing_found_is_contradicted_by_a_request(random: Random) -> None:
    bundle = bundle_of([policy(random, f"p{n}") for n in range(5)])
    findings = analyse(bundle).found
    for asked in [request(random) for _ in range(150)]:
        result = decide(bundle, asked)
        fired = {id for ids in result.satisfied.values() for id in ids}
        for finding in findings:
            event(finding.what.value)
            if finding.what in (What.DEAD, What.ERRS):
                assert finding.policy.id not in fired
                assert (
                    finding.what is What.ERRS
                    or finding.policy.kind is Kind.GRANT
                    or finding.policy.id not in result.errors
                )
            elif finding.what is What.SHADOWED:
                assert finding.policy.id not in fired or fired & {other.id for other in finding.others}
            elif finding.what is What.CONTRADICTION:
                assert (finding.policy.id in fired) == (finding.others[0].id in fired)


@thorough
@given(SEEDS)
def test_every_difference_that_a_request_shows_is_in_a_row(random: Random) -> None:
    policies = [policy(random, f"p{n}") for n in range(4)]
    changed = [policy(random, f"p{n}") if random.random() < 0.4 else text for n, text in enumerate(policies)]
    before, after = bundle_of(policies), bundle_of(changed)
    difference = compare(before, after)
    event(f"{'equivalent' if difference.equivalent else 'differs'}")
    assert all(row.confirmed for row in difference.rows) or difference.notes
    told = {(row.before, row.after) for row in difference.rows}
    classes = {(row.before, row.after, row.policies_before, row.policies_after) for row in difference.rows}
    for asked in [request(random) for _ in range(150)]:
        one, other = decide(before, asked), decide(after, asked)
        if one.outcome is not other.outcome:
            assert (one.outcome, other.outcome) in told or difference.unknown
            if not (difference.truncated or difference.unknown):
                assert (one.outcome, other.outcome, one.determining, other.determining) in classes
