"""Sets: those written out in a policy, and those a request brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from checkrein.analysis.logic import Bool, Int, Term
from checkrein.analysis.values import Alternative, Value, combinations, merged, pairs
from checkrein.analysis.world import BroughtSet, World

#: equality of two alternatives, where both are so
Equal = Callable[[Alternative, Alternative], Bool]


class Sets:
    def __init__(self, world: World, equal: Equal) -> None:
        self.world = world
        self.logic = world.logic
        self._equal = equal

    def contains(self, one: Value, other: Value) -> Value:
        found = [
            Alternative(guard, "bool", self._element(those.term, item))
            for guard, those, item in pairs(self.logic, one, other)
            if those.kind == "set"
        ]
        return merged(self.logic, found)

    def contains_all(self, one: Value, other: Value) -> Value:
        return self._of_sets(lambda those, wanted: self._all_in(wanted, those), one, other)

    def contains_any(self, one: Value, other: Value) -> Value:
        return self._of_sets(self._any_in, one, other)

    def is_empty(self, those: Value) -> Value:
        return self._of_sets(lambda term: self._all_in(term, ()), those)

    def equal(self, one: Term, other: Term) -> Bool:
        return self.logic.every([self._all_in(one, other), self._all_in(other, one)])

    def _of_sets(self, holds: Callable[..., Bool], *sets: Value) -> Value:
        found = [
            Alternative(guard, "bool", holds(*(a.term for a in chosen)))
            for guard, chosen in combinations(self.logic, sets)
            if all(a.kind == "set" for a in chosen)
        ]
        return merged(self.logic, found)

    def _element(self, those: Term, item: Alternative) -> Bool:
        if isinstance(those, BroughtSet):
            return self.world.contains(those, _number(item)) if item.kind == those.kind else False
        return self.logic.some(self.logic.every([a.guard, self._equal(a, item)]) for value in those for a in value)

    def _all_in(self, one: Term, other: Term) -> Bool:
        """Whether every element of one is in the other."""
        if not isinstance(one, BroughtSet):
            return self._over(one, lambda item: self._element(other, item), self.logic.every)
        inside, within = self._test(one, one.kind), self._test(other, one.kind)
        for item in () if isinstance(other, BroughtSet) else other:
            for a in item:
                if a.kind == one.kind:
                    self.world.element(a.kind, _number(a))
        name = f"all in: {one} {self._name(other)}"
        return self.world.of_all(name, one.kind, lambda e: self.logic.implies(inside(e), within(e)))

    def _any_in(self, one: Term, other: Term) -> Bool:
        if isinstance(one, BroughtSet) and isinstance(other, BroughtSet):
            if one.kind != other.kind:
                return False
            first, second = self._test(one, one.kind), self._test(other, one.kind)
            apart = self.world.of_all(
                f"apart: {sorted([one, other])}",
                one.kind,
                lambda e: self.logic.negate(self.logic.every([first(e), second(e)])),
            )
            return self.logic.negate(apart)
        if isinstance(one, BroughtSet):
            one, other = other, one
        return self._over(one, lambda item: self._element(other, item), self.logic.some)

    def _over(
        self, items: Sequence[Value], test: Callable[[Alternative], Bool], join: Callable[[Sequence[Bool]], Bool]
    ) -> Bool:
        return join([self.logic.some(self.logic.every([a.guard, test(a)]) for a in item) for item in items])

    def _test(self, those: Term, kind: str) -> Callable[[Int], Bool]:
        """Whether an element, given by its number, is in a set."""
        if isinstance(those, BroughtSet):
            return self.world.member_test(those) if those.kind == kind else lambda element: False
        terms = [(a.guard, _number(a)) for value in those for a in value if a.kind == kind]
        return lambda e: self.logic.some(self.logic.every([guard, self.logic.same(term, e)]) for guard, term in terms)

    def _name(self, those: Term) -> str:
        """A name that only the same set has."""
        if isinstance(those, BroughtSet):
            return str(those)
        members = [(self.logic.name(a.guard), a.kind, self.logic.name(_number(a))) for value in those for a in value]
        return repr(members)


def _number(item: Alternative) -> Int:
    return item.term.code if item.kind == "string" else item.term
