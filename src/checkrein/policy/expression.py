"""Cedar expressions to Python closures, with Cedar's semantics and errors kept.

Input is Cedar's JSON form of an expression (EST). Every expression becomes a function of the `Env` of one
request that gives a value or raises `EvaluationError`; `&&`, `||` and `if` leave out what Cedar leaves out, and
nothing else. What is known beforehand (`==` gives a bool, a literal is itself) spares checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

from checkrein.policy.entities import Entities
from checkrein.policy.extension import CONSTRUCTORS, METHODS, Datetime, Duration, within
from checkrein.policy.failure import EvaluationError
from checkrein.policy.values import Key, Uid, Value, equal, from_json, key, type_name

#: deeper expressions would risk Python's stack at run time
MAX_NESTING = 100

_T = TypeVar("_T")


class Env:
    """What one request is evaluated against."""

    __slots__ = ("action", "ancestors", "context", "entities", "principal", "resource")

    def __init__(
        self, principal: Uid, action: Uid, resource: Uid, context: dict[str, Value], entities: Entities
    ) -> None:
        self.principal = principal
        self.action = action
        self.resource = resource
        self.context = context
        self.entities = entities.by_uid
        self.ancestors = entities.ancestors


Eval = Callable[[Env], Value]
Test = Callable[[Env], bool]
Est = Mapping[str, object]

_NOBODY: frozenset[Uid] = frozenset()


class NotCompiled(Exception):
    """A construct that is left to `cedarpy` at run time."""


class Node(NamedTuple):
    """A compiled expression; `kind` is the type it always gives, `constant` its value if that is known."""

    run: Eval
    kind: type | None = None
    constant: Value | None = None


def expression(est: object, nesting: int = MAX_NESTING) -> Node:
    """Compile one expression; raises `NotCompiled` for what it does not know."""
    if nesting <= 0:
        raise NotCompiled(f"nested deeper than {MAX_NESTING} levels")
    if not isinstance(est, Mapping) or len(est) != 1:
        raise NotCompiled("not one operator")
    ((operator, argument),) = est.items()
    if operator in METHODS:
        return _method(operator, cast("Sequence[object]", argument), nesting)
    if operator in CONSTRUCTORS:
        return _constructor(operator, cast("Sequence[object]", argument), nesting)
    build = _OPERATORS.get(operator)
    if build is None:
        raise NotCompiled(f"the operator `{operator}`")
    return build(argument, nesting - 1)


def condition(est: object) -> tuple[Test, ...]:
    """The tests that must all hold, in order, for an expression to be true; each checks that it is a bool."""
    return tuple(_bool(expression(part)) for part in _flat("&&", est))


def _part(argument: object, name: str, nesting: int) -> Node:
    return expression(cast("Est", argument)[name], nesting)


def _constant(value: Value) -> Node:
    return Node(lambda env: value, type(value), value)


def _raises(message: str) -> Node:
    def run(env: Env) -> Value:
        raise EvaluationError(message)

    return Node(run)


def _expected(name: str, value: Value) -> EvaluationError:
    return EvaluationError(f"type error: expected {name}, got {type_name(value)}")


def _typed(node: Node, kind: type[_T], name: str) -> Callable[[Env], _T]:
    """The expression with a check that it gives a `kind`."""
    run = node.run
    if node.kind is kind:
        return cast("Callable[[Env], _T]", run)

    def checked(env: Env) -> _T:
        value = run(env)
        if type(value) is kind:
            return value
        raise _expected(name, value)

    return checked


def _bool(node: Node) -> Test:
    return _typed(node, bool, "bool")


def _uid(node: Node) -> Callable[[Env], Uid]:
    return _typed(node, Uid, "entity")


# --- literals, variables, containers


def _value(argument: object, nesting: int) -> Node:
    return _constant(from_json(argument))


def _var(argument: object, nesting: int) -> Node:
    variables: Mapping[object, Node] = {
        "principal": Node(lambda env: env.principal, Uid),
        "action": Node(lambda env: env.action, Uid),
        "resource": Node(lambda env: env.resource, Uid),
        "context": Node(lambda env: env.context, dict),
    }
    if argument not in variables:
        raise NotCompiled("a variable that Cedar does not have")
    return variables[argument]


def _set(argument: object, nesting: int) -> Node:
    nodes = [expression(item, nesting) for item in cast("Sequence[object]", argument)]
    constants = [node.constant for node in nodes if node.constant is not None]
    if len(constants) == len(nodes):
        return _constant(frozenset([key(value) for value in constants]))
    runs = [node.run for node in nodes]
    return Node(lambda env: frozenset([key(run(env)) for run in runs]), frozenset)


def _record(argument: object, nesting: int) -> Node:
    nodes = {name: expression(item, nesting) for name, item in cast("Est", argument).items()}
    runs = {name: node.run for name, node in nodes.items()}
    return Node(lambda env: {name: run(env) for name, run in runs.items()}, dict)


# --- logic


def _flat(operator: str, est: object) -> list[object]:
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


def _and(argument: object, nesting: int) -> Node:
    return Node(every([_bool(expression(part, nesting)) for part in _flat("&&", {"&&": argument})]), bool)


def every(tests: Sequence[Test]) -> Test:
    """Whether all hold, in order, stopping at the first that does not."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda env: first(env) and second(env)

    def run(env: Env) -> bool:
        for test in tests:  # noqa: SIM110 - a generator would cost more than the tests
            if not test(env):
                return False
        return True

    return run


def _or(argument: object, nesting: int) -> Node:
    tests = [_bool(expression(part, nesting)) for part in _flat("||", {"||": argument})]

    def run(env: Env) -> bool:
        for test in tests:  # noqa: SIM110
            if test(env):
                return True
        return False

    return Node(run, bool)


def _not(argument: object, nesting: int) -> Node:
    test = _bool(_part(argument, "arg", nesting))
    return Node(lambda env: not test(env), bool)


def _if(argument: object, nesting: int) -> Node:
    test = _bool(_part(argument, "if", nesting))
    then, otherwise = _part(argument, "then", nesting), _part(argument, "else", nesting)
    yes, no = then.run, otherwise.run
    return Node(lambda env: yes(env) if test(env) else no(env), then.kind if then.kind is otherwise.kind else None)


# --- comparison and arithmetic


def _equals(argument: object, nesting: int) -> Node:
    left, right = _part(argument, "left", nesting), _part(argument, "right", nesting)
    if left.constant is not None:
        left, right = right, left
    run, constant = left.run, right.constant
    if isinstance(constant, str | Uid):
        return Node(lambda env: run(env) == constant, bool)
    other = right.run
    return Node(lambda env: equal(run(env), other(env)), bool)


def _differs(argument: object, nesting: int) -> Node:
    same = _equals(argument, nesting).run
    return Node(lambda env: not same(env), bool)


_ORDERED = (int, Datetime, Duration)


def _rank(value: Value) -> int:
    return value.ms if isinstance(value, Datetime | Duration) else cast("int", value)


def _compare(holds: Callable[[int, int], bool]) -> Callable[[object, int], Node]:
    def build(argument: object, nesting: int) -> Node:
        left, right = _part(argument, "left", nesting), _part(argument, "right", nesting)
        first, second, constant = left.run, right.run, right.constant

        def run(env: Env) -> bool:
            one, two = first(env), second(env)
            if type(one) is int and type(two) is int:
                return holds(one, two)
            if type(one) is type(two) and isinstance(one, Datetime | Duration):
                return holds(_rank(one), _rank(two))
            wrong, name = (one, "long, datetime or duration") if type(one) not in _ORDERED else (two, type_name(one))
            raise _expected(name, wrong)

        def run_against_long(env: Env) -> bool:
            value = first(env)
            if type(value) is int:
                return holds(value, limit)
            raise _expected("long", value)

        if type(constant) is int:
            limit = constant
            return Node(run_against_long, bool)
        return Node(run, bool)

    return build


def _arithmetic(combine: Callable[[int, int], int]) -> Callable[[object, int], Node]:
    def build(argument: object, nesting: int) -> Node:
        first = _typed(_part(argument, "left", nesting), int, "long")
        second = _typed(_part(argument, "right", nesting), int, "long")
        return Node(lambda env: within(combine(first(env), second(env))), int)

    return build


def _negate(argument: object, nesting: int) -> Node:
    number = _typed(_part(argument, "arg", nesting), int, "long")
    return Node(lambda env: within(-number(env)), int)


# --- attributes, tags, entities


def _attribute(argument: object, nesting: int) -> Node:
    run, name = _part(argument, "left", nesting).run, cast("str", cast("Est", argument)["attr"])

    def get(env: Env) -> Value:
        value = run(env)
        if type(value) is dict:
            found = value.get(name)
            if found is not None:
                return found
            raise EvaluationError(f"the record does not have the attribute `{name}`")
        if type(value) is Uid:
            found = _entity_part(env, value, "attrs").get(name)
            if found is not None:
                return found
            raise EvaluationError(f"the {type_name(value)} does not have the attribute `{name}`")
        raise _expected("record or entity", value)

    return Node(get)


def _entity_part(env: Env, uid: Uid, part: str) -> dict[str, Value]:
    entity = env.entities.get(uid)
    if entity is None:
        raise EvaluationError(f"the {type_name(uid)} does not exist")
    return entity.attrs if part == "attrs" else entity.tags


def _has(argument: object, nesting: int) -> Node:
    run, name = _part(argument, "left", nesting).run, cast("str", cast("Est", argument)["attr"])

    def has(env: Env) -> bool:
        value = run(env)
        if type(value) is dict:
            return name in value
        if type(value) is Uid:
            entity = env.entities.get(value)
            return entity is not None and name in entity.attrs
        raise _expected("record or entity", value)

    return Node(has, bool)


def _has_tag(argument: object, nesting: int) -> Node:
    owner = _uid(_part(argument, "left", nesting))
    name = _typed(_part(argument, "right", nesting), str, "string")

    def has(env: Env) -> bool:
        uid, tag = owner(env), name(env)
        entity = env.entities.get(uid)
        return entity is not None and tag in entity.tags

    return Node(has, bool)


def _get_tag(argument: object, nesting: int) -> Node:
    owner = _uid(_part(argument, "left", nesting))
    name = _typed(_part(argument, "right", nesting), str, "string")

    def get(env: Env) -> Value:
        uid, tag = owner(env), name(env)
        found = _entity_part(env, uid, "tags").get(tag)
        if found is not None:
            return found
        raise EvaluationError(f"the {type_name(uid)} does not have the tag")

    return Node(get)


def _is(argument: object, nesting: int) -> Node:
    owner, kind = _uid(_part(argument, "left", nesting)), cast("Est", argument)["entity_type"]
    if "in" not in cast("Est", argument):
        return Node(lambda env: owner(env).type == kind, bool)
    within_of = _membership(_part(argument, "in", nesting))

    def run(env: Env) -> bool:
        uid = owner(env)
        return uid.type == kind and within_of(env, uid)

    return Node(run, bool)


def _in(argument: object, nesting: int) -> Node:
    owner = _uid(_part(argument, "left", nesting))
    within_of = _membership(_part(argument, "right", nesting))
    return Node(lambda env: within_of(env, owner(env)), bool)


def _membership(container: Node) -> Callable[[Env, Uid], bool]:
    """Whether an entity is, or is in, the entity or one of the set of entities that `container` gives."""
    run, constant = container.run, container.constant
    if type(constant) is Uid:
        known = constant
        return lambda env, uid: is_in(env, uid, known)

    def holds(env: Env, uid: Uid) -> bool:
        value = run(env)
        if type(value) is Uid:
            return is_in(env, uid, value)
        if type(value) is frozenset:
            return is_in_any(env, uid, _all_entities(value))
        raise _expected("set or entity", value)

    return holds


def _all_entities(value: frozenset[Key]) -> frozenset[Uid]:
    if all(type(item) is Uid for item in value):
        return cast("frozenset[Uid]", value)
    raise EvaluationError("type error: expected a set of entities")


def is_in(env: Env, uid: Uid, container: Uid) -> bool:
    return uid == container or container in env.ancestors.get(uid, _NOBODY)


def is_in_any(env: Env, uid: Uid, containers: frozenset[Uid]) -> bool:
    return uid in containers or not containers.isdisjoint(env.ancestors.get(uid, _NOBODY))


# --- sets and text


def _contains(argument: object, nesting: int) -> Node:
    members = _typed(_part(argument, "left", nesting), frozenset, "set")
    right = _part(argument, "right", nesting)
    item, constant = right.run, right.constant
    if constant is not None:
        known = key(constant)
        return Node(lambda env: known in members(env), bool)

    def run(env: Env) -> bool:
        all = members(env)
        return key(item(env)) in all

    return Node(run, bool)


def _two_sets(
    holds: Callable[[frozenset[Key], frozenset[Key]], bool],
) -> Callable[[object, int], Node]:
    def build(argument: object, nesting: int) -> Node:
        first = _typed(_part(argument, "left", nesting), frozenset, "set")
        second = _typed(_part(argument, "right", nesting), frozenset, "set")
        return Node(lambda env: holds(first(env), second(env)), bool)

    return build


def _is_empty(argument: object, nesting: int) -> Node:
    members = _typed(_part(argument, "arg", nesting), frozenset, "set")
    return Node(lambda env: not members(env), bool)


def _like(argument: object, nesting: int) -> Node:
    text = _typed(_part(argument, "left", nesting), str, "string")
    pieces = [""]
    for item in cast("Sequence[object]", cast("Est", argument)["pattern"]):
        if item == "Wildcard":
            pieces.append("")
        else:
            pieces[-1] += cast("str", cast("Est", item)["Literal"])
    fits = _wildcards(pieces)
    return Node(lambda env: fits(text(env)), bool)


def _wildcards(pieces: Sequence[str]) -> Callable[[str], bool]:
    """Match the pieces in order with anything between; each is taken as early as it stands."""
    if len(pieces) == 1:
        whole = pieces[0]
        return lambda text: text == whole
    head, tail = pieces[0], pieces[-1]
    middle = [piece for piece in pieces[1:-1] if piece]
    least = len(head) + len(tail)

    def fits(text: str) -> bool:
        if len(text) < least or not text.startswith(head) or not text.endswith(tail):
            return False
        at, end = len(head), len(text) - len(tail)
        for piece in middle:
            found = text.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True

    return fits


# --- extension types


def _constructor(name: str, arguments: Sequence[object], nesting: int) -> Node:
    if len(arguments) != 1:
        raise NotCompiled(f"`{name}` of {len(arguments)} arguments")
    parse, node = CONSTRUCTORS[name], expression(arguments[0], nesting - 1)
    if type(node.constant) is str:
        try:
            return _constant(parse(node.constant))
        except EvaluationError as error:  # Cedar errs when it is evaluated, and only if it is
            return _raises(str(error))
    text = _typed(node, str, "string")
    return Node(lambda env: parse(text(env)))


_NAMES = {"Decimal": "decimal", "Ip": "ipaddr", "Datetime": "datetime", "Duration": "duration"}


def _method(name: str, arguments: Sequence[object], nesting: int) -> Node:
    kinds, call = METHODS[name]
    if len(arguments) != len(kinds):
        raise NotCompiled(f"`{name}` of {len(arguments)} arguments")
    parts: list[Eval] = [
        _typed(expression(argument, nesting - 1), kind, _NAMES[kind.__name__])
        for argument, kind in zip(arguments, kinds, strict=True)
    ]
    if len(parts) == 1:
        (only,) = parts
        return Node(lambda env: cast("Value", call(only(env))))
    first, second = parts
    return Node(lambda env: cast("Value", call(first(env), second(env))))


_OPERATORS: Mapping[str, Callable[[object, int], Node]] = {
    "Value": _value,
    "Var": _var,
    "Set": _set,
    "Record": _record,
    "&&": _and,
    "||": _or,
    "!": _not,
    "if-then-else": _if,
    "==": _equals,
    "!=": _differs,
    "<": _compare(lambda a, b: a < b),
    "<=": _compare(lambda a, b: a <= b),
    ">": _compare(lambda a, b: a > b),
    ">=": _compare(lambda a, b: a >= b),
    "+": _arithmetic(lambda a, b: a + b),
    "-": _arithmetic(lambda a, b: a - b),
    "*": _arithmetic(lambda a, b: a * b),
    "neg": _negate,
    ".": _attribute,
    "has": _has,
    "hasTag": _has_tag,
    "getTag": _get_tag,
    "is": _is,
    "in": _in,
    "contains": _contains,
    "containsAll": _two_sets(lambda a, b: b <= a),
    "containsAny": _two_sets(lambda a, b: not a.isdisjoint(b)),
    "isEmpty": _is_empty,
    "like": _like,
}
