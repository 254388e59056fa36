"""Strings as numbers: each text that policies name has a code, every other text is some other number.

Equality of texts is equality of numbers. `like` is a predicate of them; what two patterns have to do with each
other is told beforehand where it is cheap (two prefixes, a pattern and a named text), and otherwise learnt when a
solution turns out to ask for a text that cannot be (`realise`). What is learnt is exact, so "none" stays a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from checkrein.analysis.logic import Bool, Int, Logic
from checkrein.analysis.patterns import Pieces, TooManyStates, find_text, fits


class Text(NamedTuple):
    """A string: its code, and the variables it may come from (none if it is one of the named texts)."""

    code: Int
    sources: frozenset[str] = frozenset()


#: a string that is matched by a pattern
Match = tuple[Int, Pieces]


class Unrealisable(Exception):
    """A solution asks for texts that cannot be, or not be found; if something was learnt, ask again."""

    def __init__(self, *, learnt: bool) -> None:
        super().__init__()
        self.learnt = learnt


class _Family:
    """Variables that are compared with each other, and what they are compared with and matched by."""

    def __init__(self) -> None:
        self.texts: set[int] = set()
        self.patterns: set[Pieces] = set()


class Texts:
    def __init__(self, logic: Logic, tell: Callable[[Bool], None]) -> None:
        self._logic = logic
        self._tell = tell
        self._codes: dict[str, int] = {}
        #: the named texts by their code; 0 is none of them, since a string nobody asks about is solved as 0
        self.named: dict[int, str] = {}
        self._families: dict[str, _Family] = {}
        self._predicates: dict[Pieces, Any] = {}
        self._decided: set[tuple[Pieces, int]] = set()
        #: every pattern that a string is matched by, in order: string -> pattern -> predicate
        self._matched: dict[Int, dict[Pieces, Bool]] = {}
        #: what was asked of `like` since somebody last emptied it
        self.asked: set[Match] = set()

    def constant(self, text: str) -> Text:
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self.named) + 1
            self.named[code] = text
        return Text(code)

    def variable(self, name: str) -> Text:
        return Text(self._logic.integer(name), frozenset([name]))

    def equal(self, one: Text, other: Text) -> Bool:
        if one.sources or other.sources:
            family = self._family(one.sources | other.sources)
            for text in (one, other):
                if isinstance(text.code, int):
                    family.texts.add(text.code)
                    self._decide(family.patterns, [text.code])
        return self._logic.same(one.code, other.code)

    def like(self, text: Text, pieces: Pieces) -> Bool:
        if not text.sources:  # one of the named texts, and which one may hang on the request
            fitting = [code for code, named in self.named.items() if fits(pieces, named)]
            return self._logic.some([self._logic.same(text.code, code) for code in fitting])
        if len(pieces) == 1:
            return self.equal(text, self.constant(pieces[0]))
        if not any(pieces):
            return True
        matched = self._matched.setdefault(text.code, {})
        if pieces not in matched:
            family = self._family(text.sources)
            family.patterns.add(pieces)
            self._decide([pieces], family.texts)
            this = self._logic.holds(self._predicate(pieces), text.code)
            for other, that in matched.items():
                self._tell(self._relation(pieces, this, other, that))
            matched[pieces] = this
        self.asked.add((text.code, pieces))
        return matched[pieces]

    def _family(self, sources: Iterable[str]) -> _Family:
        """The one family of all these variables."""
        families = {id(found): found for name in sources if (found := self._families.get(name))}
        family, *others = families.values() or [_Family()]
        for other in others:
            self._decide(family.patterns, other.texts)
            self._decide(other.patterns, family.texts)
            family.texts |= other.texts
            family.patterns |= other.patterns
        for name, found in list(self._families.items()):
            if found in others:
                self._families[name] = family
        for name in sources:
            self._families[name] = family
        return family

    def _predicate(self, pieces: Pieces) -> Any:
        if pieces not in self._predicates:
            self._predicates[pieces] = self._logic.predicate(f"like {pieces!r}")
        return self._predicates[pieces]

    def _decide(self, patterns: Iterable[Pieces], codes: Iterable[int]) -> None:
        """Tell which of the named texts the patterns fit."""
        for pieces in patterns:
            for code in codes:
                if (pieces, code) not in self._decided:
                    self._decided.add((pieces, code))
                    term = self._logic.holds(self._predicate(pieces), code)
                    self._tell(term if fits(pieces, self.named[code]) else self._logic.negate(term))

    def _relation(self, one: Pieces, this: Bool, other: Pieces, that: Bool) -> Bool:
        """What holds of two patterns that are both a prefix, or both a suffix."""
        for at, whole in ((0, str.startswith), (1, str.endswith)):
            if len(one) == len(other) == 2 and not one[1 - at] and not other[1 - at]:
                if whole(one[at], other[at]):
                    return self._logic.implies(this, that)
                if whole(other[at], one[at]):
                    return self._logic.implies(that, this)
                return self._logic.negate(self._logic.every([this, that]))
        return True

    # --- solutions

    def realise(self, solution: Solution, matches: Iterable[Match]) -> dict[int, str]:
        """A text for every number that these matches ask something of; raises `Unrealisable`."""
        wanted: dict[int, dict[Pieces, bool]] = {}
        for code, pieces in sorted(matches, key=str):
            fit = solution.boolean(self._matched[code][pieces])
            wanted.setdefault(solution.integer(code), {})[pieces] = fit
        found: dict[int, str] = {}
        learnt = False
        for number, fate in sorted(wanted.items()):
            if number in self.named:
                wrong = [pieces for pieces, fit in fate.items() if fits(pieces, self.named[number]) != fit]
                self._decide(wrong, [number])
                learnt = learnt or bool(wrong)
                continue
            text = self._find(fate, {*self.named.values(), *found.values()})
            if text is not None:
                found[number] = text
                continue
            text = self._find(fate, self.named.values()) if found else None
            if text is not None:  # two strings want the same text, and only that one: give it a number
                code = self.constant(text).code
                self._decide(list(self._predicates), [code])
            else:
                self._learn(fate)
            learnt = True
        if learnt:
            raise Unrealisable(learnt=True)
        return found

    def _find(self, fate: Mapping[Pieces, bool], avoid: Collection[str]) -> str | None:
        try:
            return find_text([p for p, fit in fate.items() if fit], [p for p, fit in fate.items() if not fit], avoid)
        except TooManyStates:
            raise Unrealisable(learnt=False) from None

    def _learn(self, fate: Mapping[Pieces, bool]) -> None:
        """There is no text of this fate but for named ones: tell so, of as few patterns as show it."""
        core = dict(fate)
        for pieces in list(core):
            rest = {p: fit for p, fit in core.items() if p != pieces}
            if self._find(rest, self.named.values()) is None:
                core = rest
        left = [
            code for code, text in self.named.items() if all(fits(pieces, text) == fit for pieces, fit in core.items())
        ]
        for string, matched in self._matched.items():
            if core.keys() <= matched.keys():
                terms = [matched[p] if fit else self._logic.negate(matched[p]) for p, fit in core.items()]
                named = self._logic.some([self._logic.same(string, code) for code in left])
                self._tell(self._logic.implies(self._logic.every(terms), named))


class Solution:
    """A solution of the solver, completed: what nothing was asked of is false or zero."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def boolean(self, term: Bool) -> bool:
        return term if isinstance(term, bool) else str(self._model.eval(term, model_completion=True)) == "True"

    def integer(self, term: Int) -> int:
        return term if isinstance(term, int) else int(self._model.eval(term, model_completion=True).as_long())
