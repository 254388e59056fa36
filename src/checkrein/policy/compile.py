"""Policies to closures, once at load: scope and conditions become one test, the action scope an index key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import cedarpy
import msgspec

from checkrein.policy.cedar import Kind, Policy
from checkrein.policy.expression import Est, NotCompiled, condition
from checkrein.policy.failure import EvaluationError
from checkrein.policy.hierarchy import is_in
from checkrein.policy.node import Env, Test
from checkrein.policy.operators import every, negation
from checkrein.policy.values import Uid, to_json


class ActionScope(msgspec.Struct, frozen=True):
    """The actions a policy speaks of: all, exactly `uids` (`==`), or whatever is in one of them (`in`)."""

    uids: frozenset[Uid] | None = None
    exact: bool = False


class Compiled(msgspec.Struct, frozen=True):
    """A policy ready to run. `test` tells whether it is satisfied once its action scope is; None: always.

    `native` is False where `cedarpy` evaluates it at run time.
    """

    id: str
    kind: Kind
    action: ActionScope
    test: Test | None
    native: bool = True


def compile_policy(policy: Policy) -> Compiled:
    """Compile one policy; a construct that is not known here is left to `cedarpy`."""
    action = _action_scope(cast("Est", policy.est["action"]))
    try:
        tests = _tests(policy.est)
    except NotCompiled:
        return Compiled(policy.id, policy.kind, action, _foreign(policy), native=False)
    return Compiled(policy.id, policy.kind, action, every(tests) if tests else None)


def _tests(est: Est) -> list[Test]:
    tests: list[Test] = []
    tests += _scope("principal", cast("Est", est["principal"]))
    tests += _scope("resource", cast("Est", est["resource"]))
    for clause in cast("Sequence[Est]", est["conditions"]):
        body = condition(clause["body"])
        tests += body if clause["kind"] == "when" else [negation(every(body))]
    return tests


def _foreign(policy: Policy) -> Test:
    """Ask `cedarpy` about this one policy: it reports a satisfied policy as a reason, whatever its effect."""
    handle = cedarpy.PolicySet.from_str(policy.text)

    def test(env: Env) -> bool:
        request = {name: getattr(env, name)._asdict() for name in ("principal", "action", "resource")}
        request["context"] = to_json(env.context)
        entities = [
            {
                "uid": uid._asdict(),
                "attrs": to_json(entity.attrs),
                "parents": [parent._asdict() for parent in entity.parents],
                "tags": to_json(entity.tags),
            }
            for uid, entity in env.entities.items()
        ]
        answer = cedarpy.is_authorized(request, handle, entities)
        if answer.decision is cedarpy.Decision.NoDecision or answer.diagnostics.errors:
            raise EvaluationError("the condition could not be evaluated")
        return bool(answer.diagnostics.reasons)

    return test


def _action_scope(est: Est) -> ActionScope:
    if est["op"] == "All":
        return ActionScope()
    if est["op"] == "==":
        return ActionScope(frozenset([Uid.from_json(est["entity"])]), exact=True)
    named = cast("Sequence[object]", est["entities"]) if "entities" in est else [est["entity"]]
    return ActionScope(frozenset([Uid.from_json(item) for item in named]))


def _scope(variable: str, est: Mapping[str, object]) -> list[Test]:
    operator = est["op"]
    if operator == "All":
        return []
    if operator in ("==", "in"):
        return [_entity_test(variable, operator, Uid.from_json(est["entity"]))]
    if operator == "is":
        tests = [_type_test(variable, cast("str", est["entity_type"]))]
        if "in" in est:
            tests.append(_entity_test(variable, "in", Uid.from_json(cast("Est", est["in"])["entity"])))
        return tests
    raise NotCompiled(f"the scope `{operator}`")


def _type_test(variable: str, kind: str) -> Test:
    if variable == "principal":
        return lambda env: env.principal.type == kind
    return lambda env: env.resource.type == kind


def _entity_test(variable: str, operator: str, uid: Uid) -> Test:
    if variable == "principal":
        if operator == "==":
            return lambda env: env.principal == uid
        return lambda env: is_in(env, env.principal, uid)
    if operator == "==":
        return lambda env: env.resource == uid
    return lambda env: is_in(env, env.resource, uid)
