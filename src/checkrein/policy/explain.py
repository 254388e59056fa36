"""Why a decision came out as it did: every policy that speaks of the action, its conditions, and their values.

Slow and thorough, for people: nothing here is on the path of a request. Values stand in the open, so an explanation
is for those who may see the request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import cedarpy
import msgspec

from checkrein.model import Outcome
from checkrein.policy.cedar import Kind, Policy
from checkrein.policy.compile import scope_tests
from checkrein.policy.engine import EntitiesJson, PolicyResult, PolicySet, UidJson
from checkrein.policy.expression import NotCompiled, chain, expression
from checkrein.policy.failure import EvaluationError
from checkrein.policy.node import Env, test_of
from checkrein.policy.values import to_json

Est = Mapping[str, object]


class Condition(msgspec.Struct, frozen=True):
    """One condition as Cedar text; `verdict` is `true`, `false`, `not reached` or `error: ...`.

    `values` are the attributes it looks at, by their path.
    """

    text: str
    verdict: str
    values: dict[str, object] = {}


class PolicyExplained(msgspec.Struct, frozen=True, kw_only=True):
    """One policy that speaks of the action. `state` is `satisfied`, `not satisfied` or `erring`.

    `without` is the outcome if it were not there (for one that is satisfied or erring), or if it were satisfied (for
    one that is not), where that is another outcome; else empty.
    """

    id: str
    place: str
    kind: Kind
    reason: str
    state: str
    scope: bool
    conditions: tuple[Condition, ...]
    otherwise: str = ""


def explain(
    policies: PolicySet,
    principal: UidJson,
    action: UidJson,
    resource: UidJson,
    context: Mapping[str, object],
    entities: EntitiesJson = (),
) -> tuple[PolicyExplained, ...]:
    """Explain `policies.evaluate` of the same arguments: determining and erring policies first."""
    result = policies.evaluate(principal, action, resource, context, entities)
    env = policies.environment(principal, action, resource, context, entities)
    found = [_explained(policies.policy(id), env, result) for id in policies.speaking_of(env)]
    order = {"erring": 0, "satisfied": 1, "not satisfied": 2}
    return tuple(sorted(found, key=lambda item: (order[item.state], not item.scope, item.id)))


def _explained(policy: Policy, env: Env, result: PolicyResult) -> PolicyExplained:
    state = "erring" if policy.id in result.errors else "not satisfied"
    if policy.id in result.of_kind(policy.kind):
        state = "satisfied"
    in_scope = all(
        _holds(test, env) for name in ("principal", "resource") for test in scope_tests(name, _part(policy, name))
    )
    other = _otherwise(policy, state, result)
    return PolicyExplained(
        id=policy.id,
        place=policy.place,
        kind=policy.kind,
        reason=policy.reason,
        state=state,
        scope=in_scope,
        conditions=tuple(_conditions(policy, env)) if in_scope else (),
        otherwise="" if other is result.outcome else other.wire,
    )


def _part(policy: Policy, name: str) -> Est:
    return cast("Est", policy.est[name])


def _holds(test: object, env: Env) -> bool:
    try:
        return bool(test(env))  # type: ignore[operator]
    except EvaluationError:
        return False


def _otherwise(policy: Policy, state: str, result: PolicyResult) -> Outcome:
    satisfied = {kind: tuple(id for id in ids if id != policy.id) for kind, ids in result.satisfied.items()}
    erring = {kind: tuple(id for id in ids if id != policy.id) for kind, ids in result.erring.items()}
    if state == "not satisfied":
        satisfied[policy.kind] = (*satisfied.get(policy.kind, ()), policy.id)
    return PolicyResult.of(satisfied, erring, {}).outcome


def _conditions(policy: Policy, env: Env) -> Iterator[Condition]:
    """Each `when` part by part, each `unless` as one; what stands behind a false part was not reached."""
    reached = True
    for clause in cast("Sequence[Est]", policy.est["conditions"]):
        negated = clause["kind"] == "unless"
        for part in [clause["body"]] if negated else chain("&&", clause["body"]):
            text = ("unless " if negated else "") + _text(part)
            if not reached:
                yield Condition(text, "not reached")
                continue
            verdict = _verdict(part, env)
            yield Condition(text, verdict, dict(_values(part, env)))
            reached = verdict == ("false" if negated else "true")


def _verdict(part: object, env: Env) -> str:
    try:
        return "true" if test_of(expression(part))(env) else "false"
    except EvaluationError as error:
        return f"error: {error}"
    except (NotCompiled, RecursionError):
        return "error: nested too deeply to explain"


def _values(part: object, env: Env) -> Iterator[tuple[str, object]]:
    """Every attribute path in the expression (`context.input.amount`) with its value, outermost only."""
    if isinstance(part, list):
        for item in part:
            yield from _values(item, env)
    if not isinstance(part, Mapping):
        return
    path = _path(part)
    if path and "." in path:
        try:
            yield path, to_json(expression(part).run(env))
        except (EvaluationError, NotCompiled):
            yield path, None
        return
    for item in part.values():
        yield from _values(item, env)


def _path(part: object) -> str:
    """`context.input.amount` for a chain of attributes on a variable, else an empty string."""
    if not isinstance(part, Mapping) or len(part) != 1:
        return ""
    ((operator, argument),) = part.items()
    if operator == "Var":
        return str(argument)
    if operator == "." and isinstance(argument, Mapping):
        left = _path(argument["left"])
        return f"{left}.{argument['attr']}" if left else ""
    return ""


def _text(part: object) -> str:
    """The expression as Cedar text."""
    everything = {"op": "All"}
    policy = {
        "effect": "permit",
        "principal": everything,
        "action": everything,
        "resource": everything,
        "conditions": [{"kind": "when", "body": part}],
    }
    document = {"staticPolicies": {"p": policy}, "templates": {}, "templateLinks": []}
    text = str(cedarpy.policies_from_json_str(json.dumps(document)))
    return " ".join(text[text.index("{") + 1 : text.rindex("}")].split())
