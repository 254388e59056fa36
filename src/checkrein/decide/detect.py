"""Finds personal data and secrets in text: spans with a class.

A class is a dotted name, `pii.email` or `secret.jwt`; a prefix names all below it (`pii`). Patterns run on
RE2, so their time is linear in the text whatever the text is; what a pattern cannot know (Luhn, IBAN and
country rules, a word nearby) a check decides. Bare digits need such a word: order numbers look like phone
numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from checkrein.decide.detectors import RULES, TOKEN, Rule
from checkrein.decide.fold import image
from checkrein.decide.scan import BARRIER, LIMIT, Passes, Ruleset

#: every class there is
EVERYTHING = ("pii", "secret")


#: no class is found in less
SHORTEST = 6


class Span(msgspec.Struct, frozen=True, order=True):
    """Characters `start` to `end` (exclusive) of the text are of class `cls`."""

    start: int
    end: int
    cls: str


def covers(classes: Iterable[str], cls: str) -> bool:
    """Whether one of the classes is `cls` or a prefix of it."""
    return any(cls == name or cls.startswith(name + ".") for name in classes)


class Detectors:
    """Rules by which personal data and secrets are found, compiled once for each choice of classes."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self._compiled: dict[tuple[str, ...], Ruleset] = {}

    def ruleset(self, classes: tuple[str, ...]) -> Ruleset:
        """What runs for these classes."""
        ruleset = self._compiled.get(classes)
        if ruleset is None:
            ruleset = Ruleset(tuple(rule for rule in self.rules if covers(classes, rule.cls)))
            self._compiled[classes] = ruleset
        return ruleset

    def known(self, cls: str) -> bool:
        """Whether a detector finds this class or one below it."""
        return any(covers((cls,), rule.cls) for rule in self.rules)


BUILT_IN = Detectors(RULES)


def known(cls: str) -> bool:
    """Whether a built-in detector finds this class or one below it."""
    return BUILT_IN.known(cls)


def context_of(field: str) -> bytes:
    """The name a text stands under in JSON, as words near it."""
    return image(field.replace("_", " "))[0] if "<" not in field else b""


def detect(
    text: str, classes: tuple[str, ...] = EVERYTHING, *, field: str = "", detectors: Detectors = BUILT_IN
) -> tuple[Span, ...]:
    """The spans of these classes, in order, none overlapping.

    Where findings overlap, one span covers them all and has the class of the strongest (then longest).
    `field` is the name the text stands under in JSON; it counts as a word nearby.
    """
    data, places = image(text)
    if len(data) < SHORTEST:
        return ()
    rules, context = detectors.ruleset(classes), context_of(field)
    if len(data) <= LIMIT and BARRIER not in data:
        found, _ = rules.scan(data, 0, len(data), context, final=True)
        if places is None:
            return tuple(Span(*span) for span in found)
        return tuple(Span(places[start], places[end - 1] + 1, cls) for start, end, cls in found)
    passes = Passes(rules, 1, context)
    passes.whole(data, range(len(data)) if places is None else places, len(text))
    return tuple(Span(*span) for span in sorted(passes.found.values()) if span.cls != TOKEN.cls)


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
