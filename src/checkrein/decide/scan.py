"""One pass of detectors over an image that comes in pieces.

What a `Scanner` finds does not depend on where the pieces end: it decides on text only when nothing that follows
can change what is found there. Held back is what may still be inside a match (`partial.viable`), and what stands
so near the end that words after it could give it a meaning. At most `LIMIT` bytes are held: of a longer run the
beginning is decided as if the text ended there, and a match that goes on beyond is found in parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import re2

from checkrein.decide.partial import loose, viable
from checkrein.decide.patterns import PatternSet, latin
from checkrein.decide.rule import CONTEXT, Rule

#: stands in an image for what was found; no pattern of a rule fits it, except in the middle of what is longer
BARRIER = b"<"
#: bytes of an image that are held back at most
LIMIT = 16 * 1024
#: what is kept of a text that was decided on, for checks that look back
_BEFORE = CONTEXT + 8
#: a run that is cut keeps so much of its end: longer than what any check accepts
_OVERLAP = 256
#: so much of the beginning of a match says that what follows belongs to it
_HEAD = 512
#: the rest of a word or number
_REST = re.compile(rb"[A-Za-z0-9]*")
#: names of fields that are remembered
_NAMES = 4096


class Found(NamedTuple):
    """Bytes `start` to `end` of an image are of class `cls`."""

    start: int
    end: int
    cls: str


class Decided(NamedTuple):
    """A part of the image, where each byte stands in the original, and what was found in the part."""

    data: bytes
    places: Sequence[int]
    found: tuple[Found, ...]


class Rules(Protocol):
    """What a `Scanner` looks for."""

    #: fits the longest end of a text that may still become a match
    viable: re2._Regexp

    def scan(self, data: bytes, start: int, hold: int, context: bytes, *, final: bool) -> tuple[list[Found], int]:
        """What stands from `start` on, and up to where that is certain; matches from `hold` on are left for later."""


class Pass(Protocol):
    """One reading of a text that comes in pieces."""

    @property
    def pending(self) -> int | None:
        """Where in the original the first byte stands that is held back, if one is."""

    def feed(self, data: bytes, places: Sequence[int]) -> Iterator[Decided]:
        """`places` says where each byte stands in the original."""

    def finish(self) -> Iterator[Decided]:
        """The text is over."""


class Ruleset:
    """Rules, compiled: which of them may match in one pass, each of them, and what may still become a match."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.patterns = tuple(rule.pattern for rule in rules)
        self.compiled = tuple(map(latin, self.patterns))
        self._rules = tuple((rule, pattern, pattern.groups) for rule, pattern in zip(rules, self.compiled, strict=True))
        #: what must be seen behind a candidate, and what the candidates are that ask for it
        self.after = max((rule.after for rule in rules), default=0)
        waiting = b"|".join(b"(?:%s)" % rule.pattern for rule in rules if rule.after)
        self.waiting = latin(waiting) if waiting else None
        words = tuple(dict.fromkeys(rule.word for rule in rules if rule.word))
        self._word = latin(b"|".join(b"(?i:%s)" % word.removeprefix(b"(?i)") for word in words)) if words else None
        self._named: dict[bytes, bool] = {}
        self._any = PatternSet([loose(rule.pattern) for rule in rules], latin=True)
        self.viable = viable(self.patterns)

    def quiet(self, data: bytes) -> bool:
        """Whether no rule can find anything in an image, or in a part of it."""
        return all(self.compiled[index].search(data) is None for index in self._any.match(data))

    def scan(self, data: bytes, start: int, hold: int, context: bytes, *, final: bool) -> tuple[list[Found], int]:
        """What stands from `start` on, and up to where that is certain; matches from `hold` on are left for later."""
        cut = hold
        found: list[tuple[int, int, int, str]] = []
        taken: list[tuple[int, int]] = []
        matching = self._any.match(data)
        worded = not final or not matching or self._has_word(data, context)
        for index in matching:
            rule, pattern, group = self._rules[index]
            if rule.word and not worded:
                continue
            place = start
            while len(data) - place >= rule.least and (match := pattern.search(data, place)) is not None:
                begin, stop = match.span()
                if begin >= hold:
                    break
                if rule.short and begin and data[begin - 1 : begin].isalnum():
                    place = max(begin + 1, _REST.match(data, begin).end())  # type: ignore[union-attr]
                    continue
                if not final and stop + rule.after > len(data) and b"\n" not in data[stop:]:
                    cut = min(cut, begin)
                    break
                first, last = match.span(group) if group else (begin, stop)
                spans = ((first, last),) if rule.check is None else tuple(rule.check(data, first, last, context))
                found.extend((first, last, rule.strength, rule.cls) for first, last in spans)
                place = max((stop, *(last for _, last in spans)))
                if rule.short:
                    place = spans[-1][1] if spans else begin + 1
                taken.append((begin, place))
        if cut < len(data):
            for begin, stop in sorted(taken, reverse=True):
                if begin < cut < stop:
                    cut = begin
        return _merge(found, cut), cut

    def _has_word(self, data: bytes, context: bytes) -> bool:
        """Whether a word stands there, or in the field's name, without which some rules confirm nothing."""
        if self._word is None:
            return False
        named = self._named.get(context)
        if named is None:
            named = self._word.search(context) is not None
            if len(self._named) < _NAMES:
                self._named[context] = named
        return named or self._word.search(data) is not None


class Scanner:
    """A pass over a text: `feed` it with pieces, then `finish` it; each decides on what can be decided.

    `past` is what was decided of the text before.
    """

    def __init__(self, rules: Rules, context: bytes = b"", *, again: bool = False, past: bytes = b"") -> None:
        self._rules = rules
        self._context = context
        #: a pass over what another one left: where nothing was taken out, it finds nothing
        self._again = again
        self._data = past
        self._start = len(past)
        #: bytes at the start of what is pending that only stand for a match that was cut
        self._head = 0
        self._places: list[int] = []

    @property
    def pending(self) -> int | None:
        """Where in the original the first byte stands that is held back, if one is."""
        return self._places[0] if self._places else None

    def state(self) -> tuple[bytes, bytes, Sequence[int]]:
        """What is kept of what was decided, and what is pending, with its places."""
        begin = self._start + self._head
        return self._data[: self._start], self._data[begin:], self._places[self._head :]

    def alike(self, other: Scanner) -> bool:
        """Whether both go on alike: they have seen enough of the same, and hold the same."""
        same = self._start == other._start >= _BEFORE and not (self._head or other._head)
        return same and self._data == other._data

    def feed(self, data: bytes, places: Sequence[int]) -> Iterator[Decided]:
        """`places` says where each byte stands in the original."""
        fed = 0
        while fed < len(data):
            size = min(len(data) - fed, LIMIT - len(self._places))
            self._data += data[fed : fed + size]
            self._places.extend(places[fed : fed + size])
            fed += size
            match = self._rules.viable.search(self._data, self._start)
            hold = self._start if match is None else match.start()
            if hold > self._start:
                found, cut = self._rules.scan(self._data, self._start, hold, self._context, final=False)
                if cut > self._start:
                    yield self._decide(cut, found)
            if len(self._places) == LIMIT:
                yield self._cut_run()

    def all(self, data: bytes, places: Sequence[int]) -> Decided:
        """A text of at most `LIMIT` bytes, decided at once."""
        found, _ = self._rules.scan(data, 0, len(data), self._context, final=True)
        return Decided(data, places, tuple(found))

    def finish(self) -> Iterator[Decided]:
        if self._places:
            yield self._decide(len(self._data), self._finally())

    def _decide(self, cut: int, found: Sequence[Found]) -> Decided:
        begin, size = self._start + self._head, cut - self._start
        decided = Decided(
            self._data[begin:cut],
            self._places[self._head : size],
            tuple(Found(max(0, first - begin), last - begin, cls) for first, last, cls in found if begin < last <= cut),
        )
        self._head = max(0, self._head - size)
        del self._places[:size]
        dropped = max(0, cut - _BEFORE)
        self._data = self._data[dropped:]
        self._start = cut - dropped
        return decided

    def _cut_run(self) -> Decided:
        """Decide on the beginning of a run that is too long to hold."""
        end, found = len(self._data), self._finally()
        cut, head = end - _OVERLAP, b""
        for first, last, _ in found:
            if first < cut < last:
                cut = last
                if last == end:
                    head = self._goes_on(self._data[max(self._start, first - _BEFORE) : first + _HEAD])
        decided = self._decide(cut, found)
        if head:
            self._data = self._data[: self._start] + head + self._data[self._start :]
            self._places[:0] = [decided.places[-1] + 1] * len(head)
            self._head = len(head)
        return decided

    def _finally(self) -> list[Found]:
        """What stands in all that is pending, as if the text ended there."""
        if self._again and BARRIER not in self._data:
            return []
        return self._rules.scan(self._data, self._start, len(self._data), self._context, final=True)[0]

    def _goes_on(self, head: bytes) -> bytes:
        found, _ = self._rules.scan(head, 0, len(head), self._context, final=True)
        return head if found and found[-1].end == len(head) else b""


def _merge(found: list[tuple[int, int, int, str]], cut: int) -> list[Found]:
    """The findings before the cut, those that overlap as one: of the class of the strongest, then longest."""
    spans: list[Found] = []
    best = (0, 0)
    for start, end, strength, cls in sorted(found):
        if start >= cut:
            break
        rank = (strength, end - start)
        if spans and start < spans[-1].end:
            last = spans[-1]
            spans[-1] = Found(last.start, max(last.end, end), cls if rank > best else last.cls)
            best = max(best, rank)
        else:
            spans.append(Found(start, end, cls))
            best = rank
    return spans
