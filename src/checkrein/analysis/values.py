"""What an expression may be: alternatives, each under its guard. Where no guard holds, the expression errs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from checkrein.analysis.logic import Bool, Logic, Term
from checkrein.analysis.texts import Text
from checkrein.analysis.types import RecordOf
from checkrein.policy.extension import Datetime, Decimal, Duration, Ip
from checkrein.policy.values import Uid

#: kinds whose term is one boolean or one integer
SCALARS = ("bool", "long", "decimal", "datetime", "duration")


class NotAnalysed(Exception):
    """A construct that is not encoded."""


class Alternative(NamedTuple):
    """`term` is of `kind` where `guard` holds; guards of one value exclude each other.

    bool: a boolean. long, decimal, datetime, duration: an integer (ten-thousandths, milliseconds). string: `Text`.
    ip: `Ip`. entity: `Uid`, or the name of a variable. set: `world.BroughtSet` or a tuple of values. record: `Brought`
    or a dict of values.
    """

    guard: Bool
    kind: str
    term: Term


Value = tuple[Alternative, ...]


class Test(NamedTuple):
    """A boolean: whether it has a value at all, and whether it is true (then it has one)."""

    defined: Bool
    true: Bool


class Owner(NamedTuple):
    """Which types a record has, and what that depends on: `variable` is `action`, `principal` or `resource`."""

    variable: str
    cases: tuple[tuple[frozenset[int], RecordOf], ...]


class Brought(NamedTuple):
    """A record that the request brings."""

    path: str
    owner: Owner


def known(kind: str, term: Term) -> Value:
    return (Alternative(True, kind, term),)


def constant(value: object) -> Value | None:
    """A literal of Cedar; None for a text, which a world numbers, and for a set or a record."""
    if isinstance(value, bool):
        return known("bool", value)
    if isinstance(value, int):
        return known("long", value)
    if isinstance(value, Uid):
        return known("entity", value)
    if isinstance(value, Decimal):
        return known("decimal", value.units)
    if isinstance(value, Datetime):
        return known("datetime", value.ms)
    if isinstance(value, Duration):
        return known("duration", value.ms)
    return known("ip", value) if isinstance(value, Ip) else None


def defined(logic: Logic, value: Value) -> Bool:
    return logic.some(alternative.guard for alternative in value)


def merged(logic: Logic, alternatives: Iterable[Alternative]) -> Value:
    """The alternatives that can be, those of one kind as one."""
    found: dict[str, Alternative] = {}
    others: list[Alternative] = []
    for alternative in alternatives:
        guard, kind, term = alternative
        if guard is False:
            continue
        if kind not in (*SCALARS, "string"):
            others.append(alternative)
        elif kind not in found:
            found[kind] = alternative
        else:
            first = found[kind]
            found[kind] = Alternative(logic.some([first.guard, guard]), kind, _chosen(logic, first, term))
    return (*found.values(), *others)


def _chosen(logic: Logic, first: Alternative, otherwise: Term) -> Term:
    if first.kind != "string":
        return logic.choose(first.guard, first.term, otherwise)
    code = logic.choose(first.guard, first.term.code, otherwise.code)
    return Text(code, first.term.sources | otherwise.sources) if logic.is_term(code) else Text(code)


def pairs(logic: Logic, one: Value, other: Value) -> Sequence[tuple[Bool, Alternative, Alternative]]:
    """Both values at once: under which guard they are which."""
    found = [(logic.every([left.guard, right.guard]), left, right) for left in one for right in other]
    return [(guard, left, right) for guard, left, right in found if guard is not False]


# --- booleans


def truth(logic: Logic, value: Value) -> Test:
    found = [alternative for alternative in value if alternative.kind == "bool"]
    is_there = logic.some(alternative.guard for alternative in found)
    return Test(is_there, logic.some(logic.every([a.guard, a.term]) for a in found))


def negation(logic: Logic, test: Test) -> Test:
    return Test(test.defined, logic.every([test.defined, logic.negate(test.true)]))


def conjunction(logic: Logic, tests: Sequence[Test]) -> Test:
    """In order; what stands after one that is false is left out."""
    is_there: Bool = True
    for test in reversed(tests):
        rest = logic.some([logic.negate(test.true), is_there])
        is_there = logic.every([test.defined, rest])
    return Test(is_there, logic.every(test.true for test in tests))


def disjunction(logic: Logic, tests: Sequence[Test]) -> Test:
    return negation(logic, conjunction(logic, [negation(logic, test) for test in tests]))


def as_value(logic: Logic, test: Test) -> Value:
    return merged(logic, [Alternative(test.defined, "bool", test.true)])


def combinations(logic: Logic, arguments: Sequence[Value]) -> list[tuple[Bool, tuple[Alternative, ...]]]:
    """All values at once: under which guard they are which."""
    found: list[tuple[Bool, tuple[Alternative, ...]]] = [(True, ())]
    for argument in arguments:
        found = [(logic.every([guard, a.guard]), (*chosen, a)) for guard, chosen in found for a in argument]
    return [(guard, chosen) for guard, chosen in found if guard is not False]
