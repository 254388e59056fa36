"""Expressions in Cedar's JSON form to values of a world.

Value and error are kept apart: `&&`, `||` and `if` leave out what Cedar leaves out, and nothing else. A part that is
not encoded stands for any boolean, and may err; the same part stands for the same one everywhere, and is noted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from checkrein.analysis import values
from checkrein.analysis.hierarchy import Hierarchy
from checkrein.analysis.logic import Bool, Int, Term
from checkrein.analysis.sets import Sets
from checkrein.analysis.values import (
    Alternative,
    Brought,
    NotAnalysed,
    Owner,
    Test,
    Value,
    as_value,
    combinations,
    conjunction,
    disjunction,
    known,
    merged,
    negation,
    pairs,
    truth,
)
from checkrein.analysis.world import View, context_types
from checkrein.policy.expression import MAX_NESTING, Est, chain, pieces_of
from checkrein.policy.extension import CONSTRUCTORS, METHODS, Datetime, Decimal, Duration
from checkrein.policy.failure import EvaluationError
from checkrein.policy.values import MAX_LONG, MIN_LONG, from_json


class Encoder:
    """Encodes expressions for requests whose action is one of `actions`."""

    def __init__(self, view: View, actions: frozenset[int], notes: dict[str, None]) -> None:
        self.view = view
        self.world = view.world
        self.logic = view.world.logic
        self.texts = view.world.texts
        self.things = Hierarchy(view, actions)
        self.sets = Sets(view.world, self._equal)
        self.notes = notes
        types = context_types(view, sorted(actions))
        self._context = Brought("context", Owner("action", tuple((of, record) for record, of in types.items())))

    # --- booleans

    def test(self, est: object, nesting: int = MAX_NESTING) -> Test:
        """A boolean expression. What is not encoded is noted, and stands for any boolean or error."""
        try:
            return self._test(est, nesting)
        except NotAnalysed as reason:
            self.notes[str(reason)] = None
            defined, true = self.world.unencoded(json.dumps([est, self.view.key], sort_keys=True))
            return Test(defined, self.logic.every([defined, true]))

    def _test(self, est: object, nesting: int) -> Test:
        operator, argument = _operator(est, nesting)
        if operator in ("&&", "||"):
            parts = [self.test(part, nesting - 1) for part in chain(operator, est)]
            return (conjunction if operator == "&&" else disjunction)(self.logic, parts)
        if operator == "!":
            return negation(self.logic, self.test(cast("Est", argument)["arg"], nesting - 1))
        return truth(self.logic, self.value(est, nesting))

    # --- values

    def value(self, est: object, nesting: int = MAX_NESTING) -> Value:
        """Any expression; raises `NotAnalysed`."""
        operator, argument = _operator(est, nesting)
        parts = cast("Est", argument)

        def part(name: str) -> Value:
            return self.value(parts[name], nesting - 1)

        if operator in ("&&", "||", "!"):
            return as_value(self.logic, self.test(est, nesting))
        if operator in _BINARY:
            return _BINARY[operator](self, part("left"), part("right"))
        if operator in METHODS and isinstance(argument, Sequence):
            return self._method(operator, [self.value(item, nesting - 1) for item in argument])
        if operator in CONSTRUCTORS and isinstance(argument, Sequence):
            return self._construction(operator, self.value(argument[0], nesting - 1))
        match operator:
            case "Value":
                return self._literal(argument)
            case "Var":
                return known("record", self._context) if argument == "context" else known("entity", argument)
            case "Set":
                items = tuple(self.value(item, nesting - 1) for item in cast("Sequence[object]", argument))
                return self._whole(items, "set", items)
            case "Record":
                members = {name: self.value(item, nesting - 1) for name, item in parts.items()}
                return self._whole(tuple(members.values()), "record", members)
            case "neg":
                return self._arithmetic(lambda a, b: a - b, known("long", 0), part("arg"))
            case "isEmpty":
                return self.sets.is_empty(part("arg"))
            case ".":
                return self.things.attribute(part("left"), cast("str", parts["attr"]))
            case "has":
                return self.things.has(part("left"), cast("str", parts["attr"]))
            case "is":
                inside = part("in") if "in" in parts else None
                return self.things.is_of_type(part("left"), cast("str", parts["entity_type"]), inside)
            case "like":
                return self._like(part("left"), tuple(pieces_of(cast("Sequence[object]", parts["pattern"]))))
            case "if-then-else":
                test = self.test(parts["if"], nesting - 1)
                return self._choice(test, part("then"), part("else"))
        raise NotAnalysed(f"the operator `{operator}`")

    def _literal(self, argument: object) -> Value:
        value = from_json(argument)
        if isinstance(value, str):
            return known("string", self.texts.constant(value))
        found = values.constant(value)
        if found is None:
            raise NotAnalysed("a set or record written as one value")
        return found

    def _whole(self, items: Sequence[Value], kind: str, term: Term) -> Value:
        """A set or a record, which is there only if all its parts are."""
        guard = self.logic.every(values.defined(self.logic, item) for item in items)
        return merged(self.logic, [Alternative(guard, kind, term)])

    def _choice(self, test: Test, then: Value, otherwise: Value) -> Value:
        no = self.logic.every([test.defined, self.logic.negate(test.true)])
        under = [(test.true, alternative) for alternative in then] + [(no, a) for a in otherwise]
        return merged(self.logic, [a._replace(guard=self.logic.every([guard, a.guard])) for guard, a in under])

    def _each(self, value: Value, kind: str, make: Callable[[Term], tuple[str, Term]]) -> Value:
        """What `make` makes of the alternatives of a kind; the others err."""
        found = [(a.guard, *make(a.term)) for a in value if a.kind == kind]
        return merged(self.logic, [Alternative(*alternative) for alternative in found])

    # --- comparison and arithmetic

    def equals(self, one: Value, other: Value) -> Value:
        found = [Alternative(guard, "bool", self._equal(a, b)) for guard, a, b in pairs(self.logic, one, other)]
        return merged(self.logic, found)

    def _equal(self, one: Alternative, other: Alternative) -> Bool:
        """Equality of two alternatives where both are so."""
        if one.kind != other.kind:
            return False
        if one.kind in values.SCALARS:
            return self.logic.same(one.term, other.term)
        if one.kind == "string":
            return self.texts.equal(one.term, other.term)
        if one.kind == "entity":
            return self.things.same_entity(one.term, other.term)
        if one.kind == "ip":
            return bool(one.term == other.term)
        if one.kind == "set":
            return self.sets.equal(one.term, other.term)
        return self._equal_records(one.term, other.term)

    def _equal_records(self, one: Term, other: Term) -> Bool:
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            return self.logic.every(truth(self.logic, self.equals(one[name], other[name])).true for name in one)
        if one == other:
            return True
        raise NotAnalysed("equality with a record of the request")

    def _compare(self, holds: Callable[[Int, Int], Bool], one: Value, other: Value) -> Value:
        comparable = ("long", "datetime", "duration")
        found = [
            Alternative(guard, "bool", holds(a.term, b.term))
            for guard, a, b in pairs(self.logic, one, other)
            if a.kind == b.kind and a.kind in comparable
        ]
        return merged(self.logic, found)

    def _arithmetic(self, combine: Callable[[Int, Int], Int], one: Value, other: Value) -> Value:
        found = []
        for guard, a, b in pairs(self.logic, one, other):
            if a.kind == b.kind == "long":
                term = combine(a.term, b.term)
                found.append(Alternative(self.logic.every([guard, self._fits(term)]), "long", term))
        return merged(self.logic, found)

    def _fits(self, term: Int) -> Bool:
        """Whether a result is within 64 bits; beyond, Cedar errs."""
        return self.logic.every([term >= MIN_LONG, term <= MAX_LONG])

    # --- text and extension types

    def _like(self, value: Value, pieces: tuple[str, ...]) -> Value:
        return self._each(value, "string", lambda text: ("bool", self.texts.like(text, pieces)))

    def _construction(self, name: str, argument: Value) -> Value:
        (only, *others) = argument or (None,)
        if only is None or others or only.guard is not True or only.kind != "string" or only.term.sources:
            raise NotAnalysed(f"`{name}` of a text that is not written out")
        try:
            made = CONSTRUCTORS[name](self.texts.named[only.term.code])
        except EvaluationError:
            return ()
        return values.constant(made) or ()

    def _method(self, name: str, arguments: Sequence[Value]) -> Value:
        kinds, call = METHODS[name]
        names = tuple(_EXTENSIONS.get(kind, "ip") for kind in kinds)
        found = []
        for guard, alternatives in combinations(self.logic, arguments):
            if tuple(a.kind for a in alternatives) != names:
                continue
            terms = [a.term for a in alternatives]
            if name in _OF_NUMBERS:
                kind, term = _OF_NUMBERS[name](*terms)
                fits = True if kind == "bool" else self._fits(term)
                found.append(Alternative(self.logic.every([guard, fits]), kind, term))
            elif any(map(self.logic.is_term, terms)):
                raise NotAnalysed(f"`{name}` of what the request brings")
            else:
                found += self._called(guard, kinds, terms, call)
        return merged(self.logic, found)

    def _called(
        self, guard: Bool, kinds: Sequence[type], terms: Sequence[Term], call: Callable[..., object]
    ) -> list[Alternative]:
        """A method of known values."""
        given = [kind(term) if kind in _EXTENSIONS else term for kind, term in zip(kinds, terms, strict=True)]
        try:
            made = values.constant(call(*given))
        except EvaluationError:
            return []
        return [a._replace(guard=guard) for a in made or ()]


_EXTENSIONS: Mapping[type, str] = {Decimal: "decimal", Datetime: "datetime", Duration: "duration"}

#: methods that are arithmetic on what may not be known
_OF_NUMBERS: Mapping[str, Callable[..., tuple[str, Term]]] = {
    "lessThan": lambda a, b: ("bool", a < b),
    "lessThanOrEqual": lambda a, b: ("bool", a <= b),
    "greaterThan": lambda a, b: ("bool", a > b),
    "greaterThanOrEqual": lambda a, b: ("bool", a >= b),
    "offset": lambda a, b: ("datetime", a + b),
    "durationSince": lambda a, b: ("duration", a - b),
    "toMilliseconds": lambda a: ("long", a),
}


def _differs(encoder: Encoder, one: Value, other: Value) -> Value:
    same = encoder.equals(one, other)
    return tuple(a._replace(term=encoder.logic.negate(a.term)) for a in same)


_Binary = Callable[[Encoder, Value, Value], Value]


def _comparison(holds: Callable[[Int, Int], Bool]) -> _Binary:
    return lambda encoder, one, other: encoder._compare(holds, one, other)


def _calculation(combine: Callable[[Int, Int], Int]) -> _Binary:
    return lambda encoder, one, other: encoder._arithmetic(combine, one, other)


_BINARY: Mapping[str, _Binary] = {
    "==": Encoder.equals,
    "!=": _differs,
    "<": _comparison(lambda a, b: a < b),
    "<=": _comparison(lambda a, b: a <= b),
    ">": _comparison(lambda a, b: a > b),
    ">=": _comparison(lambda a, b: a >= b),
    "+": _calculation(lambda a, b: a + b),
    "-": _calculation(lambda a, b: a - b),
    "*": _calculation(lambda a, b: a * b),
    "contains": lambda encoder, one, other: encoder.sets.contains(one, other),
    "containsAll": lambda encoder, one, other: encoder.sets.contains_all(one, other),
    "containsAny": lambda encoder, one, other: encoder.sets.contains_any(one, other),
    "in": lambda encoder, one, other: encoder.things.within(one, other),
    "hasTag": lambda encoder, one, other: encoder.things.has_tag(one, other),
    "getTag": lambda encoder, one, other: encoder.things.get_tag(one, other),
}


def _operator(est: object, nesting: int) -> tuple[str, object]:
    if nesting <= 0:
        raise NotAnalysed(f"an expression nested deeper than {MAX_NESTING} levels")
    if not isinstance(est, Mapping) or len(est) != 1:
        raise NotAnalysed("an expression that is not one operator")
    ((operator, argument),) = est.items()
    return operator, argument
