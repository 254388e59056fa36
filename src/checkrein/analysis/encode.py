"""Policies to terms of a world: when each fires, and when it errs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from checkrein.analysis.expression import Encoder
from checkrein.analysis.hierarchy import Hierarchy
from checkrein.analysis.logic import Bool
from checkrein.analysis.texts import Match
from checkrein.analysis.values import Test, conjunction, negation
from checkrein.analysis.world import View
from checkrein.policy.cedar import Policy
from checkrein.policy.expression import Est
from checkrein.policy.source import problem
from checkrein.policy.values import Uid


class Encoded(NamedTuple):
    """A policy as terms. `actions` are the numbers of those its scope admits."""

    policy: Policy
    fires: Bool
    errs: Bool
    actions: frozenset[int]
    matches: frozenset[Match]
    notes: tuple[str, ...] = ()


def encode(view: View, policy: Policy) -> Encoded:
    """When a policy fires and when it errs, for the requests that reach the policies."""
    world = view.world
    logic = world.logic
    world.texts.asked = set()
    everything = frozenset(range(len(world.actions)))
    notes: dict[str, None] = {}
    scope, actions = _action_scope(view, cast("Est", policy.est["action"]), everything)
    encoder = Encoder(view, actions, notes)
    heads = [_scope(encoder.things, name, cast("Est", policy.est[name])) for name in ("principal", "resource")]
    inside = logic.every([scope, *heads])
    condition = _conditions(encoder, cast("Sequence[Est]", policy.est["conditions"]))
    return Encoded(
        policy,
        logic.every([view.asked, inside, condition.true]),
        logic.every([view.asked, inside, logic.negate(condition.defined)]),
        actions,
        frozenset(world.texts.asked),
        tuple(problem(policy.place, f"not analysed in `{policy.id}`: {note}") for note in notes),
    )


def _action_scope(view: View, est: Est, everything: frozenset[int]) -> tuple[Bool, frozenset[int]]:
    """Whether the action is in scope, and the actions that can be."""
    world = view.world
    if est["op"] == "All":
        return True, everything
    named = cast("Sequence[object]", est["entities"]) if "entities" in est else [est["entity"]]
    uids = [Uid.from_json(item) for item in named]
    numbers = frozenset(number for uid in uids if (number := view.uid_of_action(uid)) is not None)
    terms = [world.is_action(numbers)]
    if est["op"] == "in":
        for uid in uids:
            term = view.in_group(uid.id, everything) if uid.type == "Action" else False
            terms.append(term)
            last = len(world.actions) - 1
            numbers |= {number for number in everything if uid.id in view.groups[number]}
            numbers |= everything - {0} if uid.id == "mcp" else frozenset()
            numbers |= {last} if uid.id in world.undeclared else frozenset()
    return world.logic.some(terms), numbers


def _scope(things: Hierarchy, variable: str, est: Est) -> Bool:
    match est["op"]:
        case "All":
            return True
        case "==":
            return things.same_entity(variable, Uid.from_json(est["entity"]))
        case "in":
            return things.is_within(variable, Uid.from_json(est["entity"]))
    terms = [things.is_a(variable, cast("str", est["entity_type"]))]
    if "in" in est:
        terms.append(things.is_within(variable, Uid.from_json(cast("Est", est["in"])["entity"])))
    return things.logic.every(terms)


def _conditions(encoder: Encoder, clauses: Sequence[Est]) -> Test:
    logic = encoder.logic
    tests = []
    for clause in clauses:
        test = encoder.test(clause["body"])
        tests.append(test if clause["kind"] == "when" else negation(logic, test))
    return conjunction(logic, tests)
