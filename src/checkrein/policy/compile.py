"""Policies to closures and conjuncts, once at load: the action scope picks the policies, the index uses the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import cedarpy
import msgspec

from checkrein.policy.cedar import Kind, Policy
from checkrein.policy.conjunct import Conjunct, conjuncts, opaque
from checkrein.policy.expression import Est, NotCompiled, expression
from checkrein.policy.failure import EvaluationError
from checkrein.policy.node import Env, Test, test_of
from checkrein.policy.operators import every
from checkrein.policy.values import Uid, to_json


class ActionScope(msgspec.Struct, frozen=True):
    """The actions a policy speaks of: all, exactly `uids` (`==`), or whatever is in one of them (`in`)."""

    uids: frozenset[Uid] | None = None
    exact: bool = False


class Compiled(msgspec.Struct, frozen=True):
    """A policy ready to run. `test` tells whether it is satisfied once its action scope is: whether its conjuncts
    hold, in order.

    `native` is False where `cedarpy` evaluates it at run time.
    """

    id: str
    kind: Kind
    action: ActionScope
    conjuncts: tuple[Conjunct, ...]
    test: Test
    native: bool = True


def compile_policy(policy: Policy) -> Compiled:
    """Compile one policy; a construct that is not known here is left to `cedarpy`."""
    action = _action_scope(cast("Est", policy.est["action"]))
    native = True
    try:
        parts = [part for est in _scopes(policy.est) for part in conjuncts(est)]
        for clause in cast("Sequence[Est]", policy.est["conditions"]):
            parts += conjuncts(clause["body"], negated=clause["kind"] == "unless")
    except NotCompiled:
        native = False
        parts = [opaque(_foreign(policy))]
    return Compiled(policy.id, policy.kind, action, tuple(parts), every([part.test for part in parts]), native)


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


def scope_tests(variable: str, est: Est) -> list[Test]:
    """What must hold of `principal` or `resource` for the policy to speak of the request at all."""
    return [test_of(expression(condition)) for condition in _scope(variable, est)]


def _scopes(est: Est) -> Iterator[Est]:
    for variable in ("principal", "resource"):
        yield from _scope(variable, cast("Est", est[variable]))


def _scope(variable: str, est: Est) -> list[Est]:
    """The scope of `principal` or `resource` as conditions."""
    operator, asked = est["op"], {"Var": variable}
    if operator == "All":
        return []
    if operator in ("==", "in"):
        return [{operator: {"left": asked, "right": _value(est)}}]
    if operator == "is":
        conditions: list[Est] = [{"is": {"left": asked, "entity_type": est["entity_type"]}}]
        if "in" in est:
            conditions.append({"in": {"left": asked, "right": _value(cast("Est", est["in"]))}})
        return conditions
    raise NotCompiled(f"the scope `{operator}`")


def _value(est: Est) -> Est:
    return {"Value": {"__entity": est["entity"]}}
