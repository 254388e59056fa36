"""The operators of Cedar that look at entities and records: attributes, tags, `has`, `is` and `in`."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from checkrein.policy.failure import EvaluationError
from checkrein.policy.node import Env, Node, expected, typed, uid_of
from checkrein.policy.values import Key, Uid, Value, type_name

_NOBODY: frozenset[Uid] = frozenset()


def attribute(owner: Node, name: str) -> Node:
    run = owner.run

    def get(env: Env) -> Value:
        value = run(env)
        if type(value) is dict:
            found = value.get(name)
            if found is not None:
                return found
            raise EvaluationError(f"the record does not have the attribute `{name}`")
        if type(value) is Uid:
            entity = env.entities.get(value)
            if entity is None:
                raise _missing(value)
            found = entity.attrs.get(name)
            if found is not None:
                return found
            raise EvaluationError(f"the {type_name(value)} does not have the attribute `{name}`")
        raise expected("record or entity", value)

    return Node(get)


def has(owner: Node, name: str) -> Node:
    run = owner.run

    def test(env: Env) -> bool:
        value = run(env)
        if type(value) is dict:
            return name in value
        if type(value) is Uid:
            entity = env.entities.get(value)
            return entity is not None and name in entity.attrs
        raise expected("record or entity", value)

    return Node(test, bool)


def has_tag(owner: Node, name: Node) -> Node:
    uid_in, name_in = uid_of(owner), typed(name, str, "string")

    def test(env: Env) -> bool:
        uid, tag = uid_in(env), name_in(env)
        entity = env.entities.get(uid)
        return entity is not None and tag in entity.tags

    return Node(test, bool)


def get_tag(owner: Node, name: Node) -> Node:
    uid_in, name_in = uid_of(owner), typed(name, str, "string")

    def get(env: Env) -> Value:
        uid, tag = uid_in(env), name_in(env)
        entity = env.entities.get(uid)
        if entity is None:
            raise _missing(uid)
        found = entity.tags.get(tag)
        if found is not None:
            return found
        raise EvaluationError(f"the {type_name(uid)} does not have the tag")

    return Node(get)


def is_of_type(owner: Node, kind: str, container: Node | None) -> Node:
    """`is`, and `is ... in`, which does not look at the container of an entity of another type."""
    uid_in = uid_of(owner)
    if container is None:
        return Node(lambda env: uid_in(env).type == kind, bool)
    holds = _membership(container)

    def test(env: Env) -> bool:
        uid = uid_in(env)
        return uid.type == kind and holds(env, uid)

    return Node(test, bool)


def member(owner: Node, container: Node) -> Node:
    """`in`: the entity is the container, or is below it; the container may be a set of entities."""
    uid_in, holds = uid_of(owner), _membership(container)
    return Node(lambda env: holds(env, uid_in(env)), bool)


def is_in(env: Env, uid: Uid, container: Uid) -> bool:
    return uid == container or container in env.ancestors.get(uid, _NOBODY)


def _membership(container: Node) -> Callable[[Env, Uid], bool]:
    run, known = container.run, container.constant
    if type(known) is Uid:
        only = known
        return lambda env, uid: is_in(env, uid, only)

    def holds(env: Env, uid: Uid) -> bool:
        value = run(env)
        if type(value) is Uid:
            return is_in(env, uid, value)
        if type(value) is frozenset:
            uids = _uids(value)
            return uid in uids or not uids.isdisjoint(env.ancestors.get(uid, _NOBODY))
        raise expected("set or entity", value)

    return holds


def _uids(value: frozenset[Key]) -> frozenset[Uid]:
    if all(type(item) is Uid for item in value):
        return cast("frozenset[Uid]", value)
    raise EvaluationError("type error: expected a set of entities")


def _missing(uid: Uid) -> EvaluationError:
    return EvaluationError(f"the {type_name(uid)} does not exist")
