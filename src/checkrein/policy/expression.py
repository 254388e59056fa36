"""Cedar's JSON form of an expression (EST) to a `Node`: this walks the form, `operators` and `hierarchy` know
what each operator does.

Cedar's semantics and errors are kept: `&&`, `||` and `if` leave out what Cedar leaves out, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from checkrein.policy import hierarchy, operators
from checkrein.policy.extension import CONSTRUCTORS, METHODS
from checkrein.policy.node import Node, Test, constant, test_of
from checkrein.policy.values import Uid, from_json

#: deeper expressions would risk Python's stack at run time
MAX_NESTING = 100

Est = Mapping[str, object]


class NotCompiled(Exception):
    """A construct that is left to `cedarpy` at run time."""


def condition(est: object) -> list[Test]:
    """The tests that must all hold, in order, for an expression to be true; each checks that it is a bool."""
    return [test_of(expression(part)) for part in chain("&&", est)]


def expression(est: object, nesting: int = MAX_NESTING) -> Node:
    """Compile one expression; raises `NotCompiled` for what it does not know."""
    if nesting <= 0:
        raise NotCompiled(f"nested deeper than {MAX_NESTING} levels")
    if not isinstance(est, Mapping) or len(est) != 1:
        raise NotCompiled("not one operator")
    ((operator, argument),) = est.items()

    def part(name: str) -> Node:
        return expression(argument[name], nesting - 1)

    def each(parts: Sequence[object]) -> list[Node]:
        return [expression(item, nesting - 1) for item in parts]

    if operator in _BINARY:
        return _BINARY[operator](part("left"), part("right"))
    if operator in _CHAINS:
        tests = [test_of(node) for node in each(chain(operator, est))]
        return Node(_CHAINS[operator](tests), bool)
    if operator in _UNARY:
        return _UNARY[operator](part("arg"))
    if operator in METHODS or operator in CONSTRUCTORS:
        return operators.call(operator, each(argument))
    match operator:
        case "Value":
            return constant(from_json(argument))
        case "Var" if argument in _VARIABLES:
            return _VARIABLES[argument]
        case "Set":
            return operators.set_of(each(argument))
        case "Record":
            return operators.record_of(dict(zip(argument, each(argument.values()), strict=True)))
        case ".":
            return hierarchy.attribute(part("left"), argument["attr"])
        case "has":
            return hierarchy.has(part("left"), argument["attr"])
        case "is":
            container = part("in") if "in" in argument else None
            return hierarchy.is_of_type(part("left"), argument["entity_type"], container)
        case "like":
            return operators.like(part("left"), pieces_of(argument["pattern"]))
        case "if-then-else":
            return operators.choice(part("if"), part("then"), part("else"))
    raise NotCompiled(f"the operator `{operator}`")


def chain(operator: str, est: object) -> list[object]:
    """`a && b && c` as `[a, b, c]`, however it is bracketed; no recursion, since chains may be long."""
    parts: list[object] = []
    waiting = [est]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping) and len(item) == 1 and operator in item:
            sides = cast("Est", item[operator])
            waiting += [sides["right"], sides["left"]]
        else:
            parts.append(item)
    return parts


def pieces_of(pattern: Sequence[object]) -> list[str]:
    """What stands between the wildcards of a pattern; one piece is a pattern without any."""
    pieces = [""]
    for item in pattern:
        if item == "Wildcard":
            pieces.append("")
        else:
            pieces[-1] += cast("str", cast("Est", item)["Literal"])
    return pieces


_VARIABLES: Mapping[object, Node] = {
    "principal": Node(lambda env: env.principal, Uid),
    "action": Node(lambda env: env.action, Uid),
    "resource": Node(lambda env: env.resource, Uid),
    "context": Node(lambda env: env.context, dict),
}

_CHAINS: Mapping[str, Callable[[Sequence[Test]], Test]] = {"&&": operators.every, "||": operators.some}

_UNARY: Mapping[str, Callable[[Node], Node]] = {
    "!": lambda argument: Node(operators.negation(test_of(argument)), bool),
    "neg": operators.negative,
    "isEmpty": operators.is_empty,
}

_BINARY: Mapping[str, Callable[[Node, Node], Node]] = {
    **operators.BINARY,
    "in": hierarchy.member,
    "hasTag": hierarchy.has_tag,
    "getTag": hierarchy.get_tag,
}
