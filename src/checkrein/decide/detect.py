"""Finds personal data and secrets in text: spans with a class.

A class is a dotted name, `pii.email` or `secret.jwt`; a prefix names all below it (`pii`). Patterns run on
RE2, so their time is linear in the text whatever the text is; what a pattern cannot know (Luhn, IBAN and
country rules, a word nearby) a check decides. Bare digits need such a word: order numbers look like phone
numbers.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec
import re2

from checkrein.decide.detectors import RULES, Rule
from checkrein.decide.fold import image
from checkrein.decide.patterns import PatternSet, latin

#: every class there is
EVERYTHING = ("pii", "secret")


class Span(msgspec.Struct, frozen=True, order=True):
    """Characters `start` to `end` (exclusive) of the text are of class `cls`."""

    start: int
    end: int
    cls: str


def covers(classes: Iterable[str], cls: str) -> bool:
    """Whether one of the classes is `cls` or a prefix of it."""
    return any(cls == name or cls.startswith(name + ".") for name in classes)


def known(cls: str) -> bool:
    """Whether a detector finds this class or one below it."""
    return any(covers((cls,), rule.cls) for rule in RULES)


def detect(text: str, classes: tuple[str, ...] = EVERYTHING, *, field: str = "") -> tuple[Span, ...]:
    """The spans of these classes, in order, none overlapping.

    Where findings overlap, one span covers them all and has the class of the strongest (then longest).
    `field` is the name the text stands under in JSON; it counts as a word nearby.
    """
    data, offsets = image(text)
    if len(data) < 6:
        return ()
    prefilter, rules = _compiled(classes)
    context = image(field.replace("_", " "))[0] if "<" not in field else b""
    found: list[tuple[int, int, int, str]] = []
    for index in prefilter.match(data):
        rule, pattern = rules[index]
        place = 0
        while (match := pattern.search(data, place)) is not None:
            start, end = match.span(pattern.groups)
            spans = ((start, end),) if rule.check is None else tuple(rule.check(data, start, end, context))
            found.extend((first, last, rule.strength, rule.cls) for first, last in spans)
            place = match.end()
            if rule.short:
                place = spans[-1][1] if spans else match.start() + 1
    spans_found = _merge(found)
    if offsets is None:
        return spans_found
    return tuple(Span(offsets[span.start], offsets[span.end - 1] + 1, span.cls) for span in spans_found)


def detect_json(value: object, classes: tuple[str, ...] = EVERYTHING) -> Counter[str]:
    """How many spans of each class stand in a JSON value: in every string, member name and long number."""
    counts: Counter[str] = Counter()
    for text, field in texts(value):
        counts.update(span.cls for span in detect(text, classes, field=field))
    return counts


def number_text(value: object) -> str:
    """A number written as text if it is long enough to be personal data, else an empty string."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 1_000_000:
        return str(value)
    return ""


def texts(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON value with the name it stands under: strings, member names, long numbers."""
    if isinstance(value, str):
        yield value, field
    elif isinstance(value, Mapping):
        for name, item in value.items():
            key = str(name)
            yield key, ""
            yield from texts(item, key)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item, field)
    elif text := number_text(value):
        yield text, field


def _merge(found: list[tuple[int, int, int, str]]) -> tuple[Span, ...]:
    spans: list[Span] = []
    best = (0, 0)
    for start, end, strength, cls in sorted(found):
        rank = (strength, end - start)
        if spans and start < spans[-1].end:
            last = spans[-1]
            spans[-1] = Span(last.start, max(last.end, end), cls if rank > best else last.cls)
            best = max(best, rank)
        else:
            spans.append(Span(start, end, cls))
            best = rank
    return tuple(spans)


@functools.lru_cache(maxsize=256)
def _pattern(rule: Rule) -> re2._Regexp:
    return latin(rule.pattern)


@functools.lru_cache(maxsize=256)
def _compiled(classes: tuple[str, ...]) -> tuple[PatternSet, tuple[tuple[Rule, re2._Regexp], ...]]:
    """The rules to run for these classes, and a set that says in one pass which of them can match."""
    rules = tuple(rule for rule in RULES if covers(classes, rule.cls))
    return PatternSet([rule.pattern for rule in rules], latin=True), tuple((rule, _pattern(rule)) for rule in rules)
