"""The other operators of Cedar: logic, comparison, arithmetic, sets, text and the extension types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from checkrein.policy.extension import CONSTRUCTORS, METHODS, Datetime, Decimal, Duration, Ip, within
from checkrein.policy.failure import EvaluationError
from checkrein.policy.node import Env, Eval, Node, Test, constant, expected, test_of, typed
from checkrein.policy.values import Key, Uid, Value, equal, key, type_name

# --- logic


def every(tests: Sequence[Test]) -> Test:
    """Whether all hold, in order, stopping at the first that does not."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda env: first(env) and second(env)

    def run(env: Env) -> bool:
        for test in tests:  # noqa: SIM110 - a generator costs more than the tests
            if not test(env):
                return False
        return True

    return run


def some(tests: Sequence[Test]) -> Test:
    """Whether one holds, in order, stopping at the first that does."""

    def run(env: Env) -> bool:
        for test in tests:  # noqa: SIM110
            if test(env):
                return True
        return False

    return run


def negation(test: Test) -> Test:
    return lambda env: not test(env)


def choice(condition: Node, then: Node, otherwise: Node) -> Node:
    test, yes, no = test_of(condition), then.run, otherwise.run
    kind = then.kind if then.kind is otherwise.kind else None
    return Node(lambda env: yes(env) if test(env) else no(env), kind)


# --- comparison and arithmetic


def equals(left: Node, right: Node) -> Node:
    if left.constant is not None:
        left, right = right, left
    run, other, known = left.run, right.run, right.constant
    if isinstance(known, str | Uid):
        return Node(lambda env: run(env) == known, bool)
    return Node(lambda env: equal(run(env), other(env)), bool)


def differs(left: Node, right: Node) -> Node:
    return Node(negation(cast("Test", equals(left, right).run)), bool)


Binary = Callable[[Node, Node], Node]


def _comparison(holds: Callable[[int, int], bool]) -> Binary:
    def build(left: Node, right: Node) -> Node:
        first, second, known = left.run, right.run, right.constant

        def run(env: Env) -> bool:
            one, two = first(env), second(env)
            if type(one) is int and type(two) is int:
                return holds(one, two)
            if isinstance(one, Datetime) and isinstance(two, Datetime):
                return holds(one.ms, two.ms)
            if isinstance(one, Duration) and isinstance(two, Duration):
                return holds(one.ms, two.ms)
            if type(one) is int or isinstance(one, Datetime | Duration):
                raise expected(type_name(one), two)
            raise expected("long, datetime or duration", one)

        def run_against_long(env: Env) -> bool:
            value = first(env)
            if type(value) is int:
                return holds(value, limit)
            raise expected("long", value)

        if type(known) is int:
            limit = known
            return Node(run_against_long, bool)
        return Node(run, bool)

    return build


def _arithmetic(combine: Callable[[int, int], int]) -> Binary:
    def build(left: Node, right: Node) -> Node:
        first, second = typed(left, int, "long"), typed(right, int, "long")
        return Node(lambda env: within(combine(first(env), second(env))), int)

    return build


def negative(argument: Node) -> Node:
    number = typed(argument, int, "long")
    return Node(lambda env: within(-number(env)), int)


# --- sets


def set_of(items: Sequence[Node]) -> Node:
    known = [item.constant for item in items if item.constant is not None]
    if len(known) == len(items):
        return constant(frozenset([key(value) for value in known]))
    runs = [item.run for item in items]
    return Node(lambda env: frozenset([key(run(env)) for run in runs]), frozenset)


def contains(left: Node, right: Node) -> Node:
    members, item, known = typed(left, frozenset, "set"), right.run, right.constant
    if known is not None:
        wanted = key(known)
        return Node(lambda env: wanted in members(env), bool)

    def run(env: Env) -> bool:
        all = members(env)
        return key(item(env)) in all

    return Node(run, bool)


def _on_sets(holds: Callable[[frozenset[Key], frozenset[Key]], bool]) -> Binary:
    def build(left: Node, right: Node) -> Node:
        first, second = typed(left, frozenset, "set"), typed(right, frozenset, "set")
        return Node(lambda env: holds(first(env), second(env)), bool)

    return build


def is_empty(argument: Node) -> Node:
    members = typed(argument, frozenset, "set")
    return Node(lambda env: not members(env), bool)


# --- records and text


def record_of(members: Mapping[str, Node]) -> Node:
    runs = {name: member.run for name, member in members.items()}
    return Node(lambda env: {name: run(env) for name, run in runs.items()}, dict)


def like(argument: Node, pieces: Sequence[str]) -> Node:
    """`pieces` are what stands between the wildcards; one piece is a pattern without any."""
    text, fits = typed(argument, str, "string"), wildcards(pieces)
    return Node(lambda env: fits(text(env)), bool)


def wildcards(pieces: Sequence[str]) -> Callable[[str], bool]:
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

_NAMES: Mapping[type, str] = {Decimal: "decimal", Ip: "ipaddr", Datetime: "datetime", Duration: "duration"}


def call(name: str, arguments: Sequence[Node]) -> Node:
    """A constructor or a method; what has too few arguments or too many errs, and only if it is evaluated."""
    if name in CONSTRUCTORS and len(arguments) == 1:
        return _construction(name, arguments[0])
    if name in METHODS and len(arguments) == len(METHODS[name][0]):
        return _method(name, arguments)
    return _failing(f"`{name}` does not take {len(arguments)} argument(s)")


def _construction(name: str, argument: Node) -> Node:
    """`decimal("1.50")`; a text that is none errs when it is evaluated, and only if it is."""
    parse = CONSTRUCTORS[name]
    if isinstance(argument.constant, str):
        try:
            return constant(parse(argument.constant))
        except EvaluationError as error:
            return _failing(str(error))
    text = typed(argument, str, "string")
    return Node(lambda env: parse(text(env)))


def _failing(message: str) -> Node:
    def run(env: Env) -> Value:
        raise EvaluationError(message)

    return Node(run)


def _method(name: str, arguments: Sequence[Node]) -> Node:
    kinds, call = METHODS[name]
    parts: list[Eval] = [typed(node, kind, _NAMES[kind]) for node, kind in zip(arguments, kinds, strict=True)]
    if len(parts) == 1:
        (only,) = parts
        return Node(lambda env: cast("Value", call(only(env))))
    first, second = parts
    return Node(lambda env: cast("Value", call(first(env), second(env))))


BINARY: Mapping[str, Binary] = {
    "==": equals,
    "!=": differs,
    "<": _comparison(lambda a, b: a < b),
    "<=": _comparison(lambda a, b: a <= b),
    ">": _comparison(lambda a, b: a > b),
    ">=": _comparison(lambda a, b: a >= b),
    "+": _arithmetic(lambda a, b: a + b),
    "-": _arithmetic(lambda a, b: a - b),
    "*": _arithmetic(lambda a, b: a * b),
    "contains": contains,
    "containsAll": _on_sets(lambda a, b: b <= a),
    "containsAny": _on_sets(lambda a, b: not a.isdisjoint(b)),
}
