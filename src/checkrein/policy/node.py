"""A compiled expression, and what it runs against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, cast

from checkrein.policy.entities import Entities, Entity
from checkrein.policy.failure import EvaluationError
from checkrein.policy.values import Uid, Value, type_name

_T = TypeVar("_T")


class Env:
    """What one request is evaluated against."""

    __slots__ = ("action", "ancestors", "context", "entities", "principal", "resource")

    def __init__(
        self,
        principal: Uid,
        action: Uid,
        resource: Uid,
        context: dict[str, Value],
        entities: Entities,
        stand_in: Entity | None = None,
    ) -> None:
        """`stand_in` is the entity of the action where `entities` have none."""
        self.principal = principal
        self.action = action
        self.resource = resource
        self.context = context
        if stand_in is not None:
            entities = entities.beside(stand_in)
        self.entities: Mapping[Uid, Entity] = entities.by_uid
        self.ancestors: Mapping[Uid, frozenset[Uid]] = entities.ancestors


Eval = Callable[[Env], Value]
Test = Callable[[Env], bool]


class Node(NamedTuple):
    """`run` gives the value or raises `EvaluationError`.

    `kind` is the type it always gives and `constant` its value, where they are known before any request.
    """

    run: Eval
    kind: type | None = None
    constant: Value | None = None


def constant(value: Value) -> Node:
    return Node(lambda env: value, type(value), value)


def expected(name: str, value: Value) -> EvaluationError:
    return EvaluationError(f"type error: expected {name}, got {type_name(value)}")


def typed(node: Node, kind: type[_T], name: str) -> Callable[[Env], _T]:
    """The expression with a check that it gives a `kind`, unless that is known."""
    run = node.run
    if node.kind is kind:
        return cast("Callable[[Env], _T]", run)

    def checked(env: Env) -> _T:
        value = run(env)
        if type(value) is kind:
            return value
        raise expected(name, value)

    return checked


def test_of(node: Node) -> Test:
    return typed(node, bool, "bool")


def uid_of(node: Node) -> Callable[[Env], Uid]:
    return typed(node, Uid, "entity")
