"""What each conjunct of a policy demands, read from Cedar's JSON form: the part of a condition that an index can use.

A policy is satisfied if all its conjuncts hold, in order. A `Constraint` says exactly which values of one attribute
path make a conjunct hold; the `Need`s say what must be there, and of which type, for the conjunct not to err. A
conjunct without a constraint is left to its closure; one whose `needs` are None may err for other reasons too, so
nothing behind it may be decided before it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import msgspec

from checkrein.policy.expression import chain, expression, pieces_of
from checkrein.policy.extension import CONSTRUCTORS, METHODS, Datetime, Duration
from checkrein.policy.node import Test, test_of
from checkrein.policy.operators import negation
from checkrein.policy.values import MAX_LONG, MIN_LONG, Key, Uid, Value, key


class Tag(NamedTuple):
    """A step of a path that asks an entity for a tag."""

    name: str


#: a variable, then attributes and tags: `("context", "input", "amount")`
Path = tuple[str | Tag, ...]

VARIABLES = ("context", "principal", "resource", "action")


class What(enum.Enum):
    """What a constraint asks of the value at its path."""

    HAS = "is there"
    CONSTANT = "is one of these values"
    RANGE = "is a long within bounds"
    LIKE = "is a text that fits a pattern"
    CONTAINS = "is a set that holds one of these"
    IN = "is an entity in one of these"
    IS = "is an entity of one of these types"


class Constraint(msgspec.Struct, frozen=True):
    """`among` are keys of values, uids or names of types; `low` and `high` bound a RANGE, both included."""

    path: Path
    what: What
    positive: bool = True
    among: frozenset[Key] = frozenset()
    low: int = MIN_LONG
    high: int = MAX_LONG
    pieces: tuple[str, ...] = ()


class Need(msgspec.Struct, frozen=True):
    """Without a value of one of `kinds` (None: any) at `path` the conjunct may err.

    Unless one of `guards` is what is missing: then a `has` before has already told so.
    """

    path: Path
    kinds: frozenset[type] | None
    guards: frozenset[Path]


class Conjunct(msgspec.Struct, frozen=True):
    """One conjunct. `needs` None: it may err for reasons not told here. `asserts` is there once it holds."""

    test: Test
    constraint: Constraint | None
    needs: tuple[Need, ...] | None
    asserts: frozenset[Path]


def conjuncts(est: object, *, negated: bool = False) -> list[Conjunct]:
    """The conjuncts of a condition, or of its negation; raises `NotCompiled` as `expression` does."""
    parts = [part for part in _parts(est, negated) if not _always(*part)]
    return [_conjunct(part, minus) for part, minus in parts]


def opaque(test: Test) -> Conjunct:
    """A conjunct of which nothing is known but its closure."""
    return Conjunct(test, None, None, frozenset())


def _conjunct(est: object, negated: bool) -> Conjunct:
    test = test_of(expression(est))
    reader = _Needs()
    try:
        reader.read(est, frozenset(), _BOOL)
        needs = tuple(reader.found)
    except _MayErrError:
        return opaque(negation(test) if negated else test)
    constraint = _constraint(est, negated)
    if constraint is not None and constraint.path == ("context",):
        constraint = None
    return Conjunct(negation(test) if negated else test, constraint, needs, _asserts(est, negated))


def _parts(est: object, negated: bool) -> Iterator[tuple[object, bool]]:
    """`a && b`, `!(a || b)` and `a is T in b` taken apart in the order in which Cedar evaluates them."""
    for part in chain("||" if negated else "&&", est):
        operator, argument = _operator(part)
        if operator == "!":
            yield from _parts(argument["arg"], not negated)
        elif operator == ("||" if negated else "&&"):
            yield from _parts(part, negated)
        elif operator == "is" and "in" in argument and not negated:
            yield {"is": {"left": argument["left"], "entity_type": argument["entity_type"]}}, False
            yield {"in": {"left": argument["left"], "right": argument["in"]}}, False
        else:
            yield part, negated


def _always(est: object, negated: bool) -> bool:
    return isinstance(est, Mapping) and est.get("Value") is (not negated)


def _operator(est: object) -> tuple[str, Mapping[str, object]]:
    """The operator and its arguments; no expression that an index could use has others than by name."""
    if isinstance(est, Mapping) and len(est) == 1:
        ((operator, argument),) = est.items()
        return cast("str", operator), cast("Mapping[str, object]", argument)
    return "", {}


def path_of(est: object) -> Path | None:
    """The path that an expression reads, if it does nothing else."""
    steps: list[str | Tag] = []
    while True:
        operator, argument = _operator(est)
        if operator == "Var":
            return (str(argument), *reversed(steps))
        if operator == ".":
            steps.append(cast("str", argument["attr"]))
        elif operator == "getTag" and isinstance(name := _known(argument["right"]), str):
            steps.append(Tag(name))
        else:
            return None
        est = argument["left"]


def _known(est: object) -> Value | None:
    """The value of an expression that is the same for every request."""
    operator, _ = _operator(est)
    if operator in ("Value", "Set", *CONSTRUCTORS):
        return expression(est).constant
    if operator == "neg":
        number = _known(_operator(est)[1]["arg"])
        return -number if type(number) is int and number != MIN_LONG else None
    return None


# --- what must hold


def _constraint(est: object, negated: bool) -> Constraint | None:
    operator, argument = _operator(est)
    positive = not negated
    if (path := path_of(est)) is not None:
        return Constraint(path, What.CONSTANT, among=frozenset([key(positive)])) if len(path) > 1 else None
    if operator == "||" and positive:
        return _union([_constraint(part, False) for part in chain("||", est)])
    if operator in _COMPARISONS:
        return _range(operator, argument, negated)
    if operator in ("==", "!="):
        return _equality(argument, positive is (operator == "=="))
    if operator not in _ASKING:
        return None
    left = path_of(argument["left"])
    right = _known(argument["right"]) if "right" in argument else None
    if operator == "contains" and left is None:
        all = _known(argument["left"])
        if type(all) is frozenset and (asked := path_of(argument["right"])) is not None:
            return Constraint(asked, What.CONSTANT, positive, all)
        return None
    if left is None:
        return None
    match operator:
        case "has":
            return Constraint((*left, cast("str", argument["attr"])), What.HAS, positive)
        case "hasTag" if isinstance(right, str):
            return Constraint((*left, Tag(right)), What.HAS, positive)
        case "like":
            pieces = tuple(pieces_of(cast("list[object]", argument["pattern"])))
            if len(pieces) == 1:
                return Constraint(left, What.CONSTANT, positive, frozenset(pieces))
            return Constraint(left, What.LIKE, positive, pieces=pieces)
        case "contains" if right is not None:
            return Constraint(left, What.CONTAINS, positive, frozenset([key(right)]))
        case "containsAny" if type(right) is frozenset:
            return Constraint(left, What.CONTAINS, positive, right)
        case "containsAll" if type(right) is frozenset and len(right) == 1:
            return Constraint(left, What.CONTAINS, positive, right)
        case "in" if type(right) is Uid:
            return Constraint(left, What.IN, positive, frozenset([right]))
        case "in" if type(right) is frozenset:
            return Constraint(left, What.IN, positive, right)
        case "is" if "in" not in argument:
            return Constraint(left, What.IS, positive, frozenset([argument["entity_type"]]))
    return None


def _equality(argument: Mapping[str, object], positive: bool) -> Constraint | None:
    for one, other in (("left", "right"), ("right", "left")):
        path, value = path_of(argument[one]), _known(argument[other])
        if path is not None and value is not None:
            return Constraint(path, What.CONSTANT, positive, frozenset([key(value)]))
    return None


_ASKING = ("has", "hasTag", "like", "contains", "containsAny", "containsAll", "in", "is")
_COMPARISONS = ("<", "<=", ">", ">=")
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def _range(operator: str, argument: Mapping[str, object], negated: bool) -> Constraint | None:
    path, limit = path_of(argument["left"]), _known(argument["right"])
    if path is None:
        path, limit = path_of(argument["right"]), _known(argument["left"])
        operator = _TURNED[operator]
    if path is None or type(limit) is not int:
        return None
    operator = _NEGATED[operator] if negated else operator
    low = limit + (operator == ">") if operator in (">", ">=") else MIN_LONG
    high = limit - (operator == "<") if operator in ("<", "<=") else MAX_LONG
    return Constraint(path, What.RANGE, low=low, high=high)


_JOINED = (What.CONSTANT, What.CONTAINS, What.IN, What.IS)


def _union(parts: list[Constraint | None]) -> Constraint | None:
    """`x == "a" || x == "b"`: one constraint, where all parts ask the same of the same path."""
    first = parts[0]
    if first is None or first.what not in _JOINED:
        return None
    among: frozenset[Key] = frozenset()
    for part in parts:
        if part is None or not part.positive or (part.path, part.what) != (first.path, first.what):
            return None
        among |= part.among
    return Constraint(first.path, first.what, among=among)


# --- what must be there


def _asserts(est: object, negated: bool) -> frozenset[Path]:
    """The paths that are there once the expression is true, or false."""
    operator, argument = _operator(est)
    if operator == "!":
        return _asserts(argument["arg"], not negated)
    if operator == ("||" if negated else "&&"):
        return frozenset().union(*(_asserts(part, negated) for part in chain(operator, est)))
    if operator in ("has", "hasTag") and not negated:
        constraint = _constraint(est, False)
        return frozenset() if constraint is None else frozenset([constraint.path])
    return frozenset()


class _MayErrError(Exception):
    """The expression may err although all that it reads is there and of its type."""


_BOOL, _LONG, _TEXT = frozenset([bool]), frozenset([int]), frozenset([str])
_ENTITY, _SET, _OWNER = frozenset([Uid]), frozenset([frozenset]), frozenset([dict, Uid])
_ORDERED = (int, Datetime, Duration)
_INFALLIBLE = frozenset(METHODS) - {"offset", "durationSince", "toDate"}
_ROOTS: Mapping[str | Tag, type] = {"context": dict, "principal": Uid, "resource": Uid, "action": Uid}


class _Needs:
    """Walks an expression and collects what it needs; it may ask for more than is needed, never for less."""

    def __init__(self) -> None:
        self.found: list[Need] = []

    def read(self, est: object, guards: frozenset[Path], kinds: frozenset[type] | None) -> None:
        """`kinds` are the types that do not err where the expression stands; None: any."""
        given = self._kind(est, guards, kinds)
        if given is not None and kinds is not None and given not in kinds:
            raise _MayErrError

    def _kind(self, est: object, guards: frozenset[Path], kinds: frozenset[type] | None) -> type | None:
        """The type that the expression gives; None where `kinds` has been seen to already."""
        path = path_of(est)
        if path is not None:
            if len(path) == 1:
                return _ROOTS[path[0]]
            self.found.append(Need(path, kinds, guards))
            return None
        if (known := _known(est)) is not None:
            return type(known)
        operator, argument = _operator(est)
        if operator == "if-then-else":
            self.read(argument["if"], guards, _BOOL)
            self.read(argument["then"], guards | _asserts(argument["if"], False), kinds)
            self.read(argument["else"], guards | _asserts(argument["if"], True), kinds)
            return None
        if operator in METHODS:
            return self._method(operator, argument, guards)
        if operator in ("Set", "Record"):
            items = argument.values() if operator == "Record" else argument
            for item in items:
                self.read(item, guards, None)
            return frozenset if operator == "Set" else dict
        self._test(operator, argument, est, guards)
        return bool

    def _method(self, operator: str, argument: object, guards: frozenset[Path]) -> type | None:
        items, wanted = cast("list[object]", argument), METHODS[operator][0]
        if operator not in _INFALLIBLE or len(items) != len(wanted):
            raise _MayErrError
        for item, kind in zip(items, wanted, strict=True):
            self.read(item, guards, frozenset([kind]))
        return int if operator.startswith("to") and operator != "toTime" else Duration if operator == "toTime" else bool

    def _test(self, operator: str, argument: Mapping[str, object], est: object, guards: frozenset[Path]) -> None:
        match operator:
            case "&&" | "||":
                for part in chain(operator, est):
                    self.read(part, guards, _BOOL)
                    guards |= _asserts(part, operator == "||")
            case "!":
                self.read(argument["arg"], guards, _BOOL)
            case "==" | "!=":
                self._both(argument, guards, None, None)
            case "<" | "<=" | ">" | ">=":
                known = _known(argument["left"]), _known(argument["right"])
                ordered = next((frozenset([type(value)]) for value in known if type(value) in _ORDERED), _LONG)
                self._both(argument, guards, ordered, ordered)
            case "contains":
                self._both(argument, guards, _SET, None)
            case "containsAll" | "containsAny":
                self._both(argument, guards, _SET, _SET)
            case "isEmpty":
                self.read(argument["arg"], guards, _SET)
            case "like":
                self.read(argument["left"], guards, _TEXT)
            case "has":
                self.read(argument["left"], guards, _OWNER)
            case "hasTag":
                self._both(argument, guards, _ENTITY, _TEXT)
            case "is" | "in":
                self.read(argument["left"], guards, _ENTITY)
                container = argument.get("in", argument.get("right"))
                if container is not None and not _uids(_known(container)):
                    self.read(container, guards, _ENTITY)
            case _:
                raise _MayErrError

    def _both(
        self,
        argument: Mapping[str, object],
        guards: frozenset[Path],
        left: frozenset[type] | None,
        right: frozenset[type] | None,
    ) -> None:
        self.read(argument["left"], guards, left)
        self.read(argument["right"], guards, right)


def _uids(value: Value | None) -> bool:
    return type(value) is frozenset and all(type(item) is Uid for item in value)
