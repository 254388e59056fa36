"""z3 with what is known folded away: a term is a Python value for as long as its value is known.

Everything z3 is imported here, and only when an analysis is asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from checkrein.model import CheckreinError

#: z3 has no types of its own: a `Bool` is a Python bool or a z3 one, an `Int` likewise
Bool = Any
Int = Any
Term = Any

#: what one question may cost, in z3's own units: the same question has the same answer on any machine
EFFORT = 20_000_000
#: and in milliseconds, for questions on which z3 forgets to count
PATIENCE_MS = 10_000


class Verdict(enum.Enum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Answer(msgspec.Struct, frozen=True):
    """Whether there is a request as asked for. `model` is one; `core` the assumptions that exclude each other."""

    verdict: Verdict
    model: Any = None
    core: tuple[Term, ...] = ()


def load() -> Any:
    """The z3 module; raises `CheckreinError` where it is not installed."""
    try:
        import z3
    except ImportError as error:
        raise CheckreinError(
            "the analysis of policies needs z3, which is not installed", hint="pip install 'checkrein[analysis]'"
        ) from error
    return z3


class Logic:
    """Makes terms, all in a z3 context of their own, so that analyses do not share state."""

    def __init__(self) -> None:
        self._z3 = load()
        self._context = self._z3.Context()

    def boolean(self, name: str) -> Bool:
        return self._z3.Bool(name, self._context)

    def integer(self, name: str) -> Int:
        return self._z3.Int(name, self._context)

    def predicate(self, name: str) -> Any:
        """A property of integers that is known only by the facts about it."""
        return self._z3.Function(name, self._z3.IntSort(self._context), self._z3.BoolSort(self._context))

    def holds(self, predicate: Any, number: Int) -> Bool:
        return predicate(self._z3.IntVal(number, self._context) if isinstance(number, int) else number)

    def every(self, terms: Iterable[Bool]) -> Bool:
        left = []
        for term in terms:
            if term is False:
                return False
            if term is not True:
                left.append(term)
        if len(left) <= 1:
            return left[0] if left else True
        return self._z3.And(left)

    def some(self, terms: Iterable[Bool]) -> Bool:
        left = []
        for term in terms:
            if term is True:
                return True
            if term is not False:
                left.append(term)
        if len(left) <= 1:
            return left[0] if left else False
        return self._z3.Or(left)

    def negate(self, term: Bool) -> Bool:
        if isinstance(term, bool):
            return not term
        if self._z3.is_not(term):
            return term.arg(0)
        return self._z3.Not(term)

    def implies(self, one: Bool, other: Bool) -> Bool:
        return self.some([self.negate(one), other])

    def same(self, one: Term, other: Term) -> Bool:
        """Equality of two booleans or of two integers."""
        if not self.is_term(one) and not self.is_term(other):
            return one == other
        if self.is_term(one) and self.is_term(other) and one.eq(other):
            return True
        for known, term in ((one, other), (other, one)):
            if isinstance(known, bool):
                return term if known else self.negate(term)
        return one == other

    def choose(self, test: Bool, yes: Term, no: Term) -> Term:
        if isinstance(test, bool):
            return yes if test else no
        if not self.is_term(yes) and not self.is_term(no):
            if yes == no:
                return yes
            if isinstance(yes, bool):
                return test if yes else self.negate(test)
        return self._z3.If(test, yes, no)

    def is_term(self, value: object) -> bool:
        """Whether it has to be solved for, rather than being known."""
        return isinstance(value, self._z3.ExprRef)

    def name(self, value: Term) -> str:
        """What only the same term is written as."""
        return str(value.sexpr()) if self.is_term(value) else repr(value)

    def key(self, term: Term) -> int:
        """A number that only the same term has."""
        return int(term.get_id())

    def solver(self) -> Solver:
        return Solver(self._z3, self._context)


class Solver:
    """One set of facts that questions are asked about."""

    def __init__(self, z3: Any, context: Any) -> None:
        self._z3 = z3
        self._solver = z3.SimpleSolver(ctx=context)
        self._solver.set("rlimit", EFFORT)
        self._solver.set("timeout", PATIENCE_MS)
        self._solver.set("random_seed", 1)
        self._false = z3.BoolVal(False, context)

    def add(self, terms: Iterable[Bool]) -> None:
        for term in terms:
            if term is not True:
                self._solver.add(self._false if term is False else term)

    def ask(self, assumptions: Sequence[Bool] = ()) -> Answer:
        """Whether the facts and the assumptions hold together. A known assumption is not among the core."""
        if any(term is False for term in assumptions):
            return Answer(Verdict.NO)
        asked = [term for term in assumptions if term is not True]
        found = self._solver.check(*asked)
        if found == self._z3.sat:
            return Answer(Verdict.YES, self._solver.model())
        if found == self._z3.unsat:
            return Answer(Verdict.NO, core=tuple(self._solver.unsat_core()))
        return Answer(Verdict.UNKNOWN)
