"""Finds personal data and secrets in text: spans with a class.

A class is a dotted name, `pii.email` or `secret.jwt`; a prefix names all below it (`pii`). Patterns run on
RE2, so their time is linear in the text whatever the text is; what a pattern cannot know (Luhn, IBAN and
country rules, a word nearby) a check decides. Bare digits need such a word: order numbers look like phone
numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import re2

from checkrein.decide.detectors import BARE_DIGITS, BARE_WORD, FIELDS, RULES, TOKEN
from checkrein.decide.fold import fold, image
from checkrein.decide.passes import Passes
from checkrein.decide.rule import Rule
from checkrein.decide.scan import BARRIER, LIMIT, Ruleset
from checkrein.model.json import json_type

#: every class there is
EVERYTHING = ("pii", "secret")


#: no class is found in less than so many characters, nor in a short text without one of these signs
SHORTEST = 6
_SHORT, _SIGNS = 14, b"0123456789@.:=<"
_NUMBERS = (int, float)
#: names of fields that are remembered, and how long one may be
_NAMES, _LONGEST = 4096, 128


class Span(msgspec.Struct, frozen=True, order=True):
    """Characters `start` to `end` (exclusive) of the text are of class `cls`."""

    start: int
    end: int
    cls: str


def covers(classes: Iterable[str], cls: str) -> bool:
    """Whether one of the classes is `cls` or a prefix of it."""
    return any(cls == name or cls.startswith(name + ".") for name in classes)


class Detectors:
    """Rules by which personal data and secrets are found, compiled once for each choice of classes.

    `fields` gives members of JSON objects, by name, a class for their whole value: names of people look like any word.
    `inner` are the detectors for JSON that stands within a text.
    """

    def __init__(
        self, rules: tuple[Rule, ...], fields: Mapping[str, str] | None = None, inner: Mapping[str, str] | None = None
    ) -> None:
        self.rules = rules
        self.fields = {_plain(name): cls for name, cls in (fields or {}).items()}
        self.inner = Detectors(rules, {**(fields or {}), **inner}) if inner else self
        #: every class that is found
        self.classes = frozenset((*(rule.cls for rule in rules), *self.fields.values()))
        #: names of fields that came by and give no class
        self.unclassed: set[str] = set()
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
        return any(covers((cls,), name) for name in self.classes)

    def with_fields(self, fields: Mapping[str, str], inner: Mapping[str, str] | None = None) -> Detectors:
        """The same rules and fields, and these; `inner` holds only for JSON within a text."""
        return Detectors(self.rules, {**self.fields, **fields}, inner)

    def names(self, field: str, classes: tuple[str, ...]) -> bool:
        """Whether the whole value of the field may be of one of the classes."""
        cls = self.fields.get(_plain(field), "") if field else ""
        return bool(cls) and covers(classes, cls)

    def whole(self, text: str, field: str, classes: tuple[str, ...]) -> str:
        """The class of a whole value, by the field it stands in, or an empty string."""
        if not field or field in self.unclassed:
            return ""
        cls = self.fields.get(_plain(field))
        if cls is None:
            if len(self.unclassed) < _NAMES and len(field) <= _LONGEST:
                self.unclassed.add(field)
            return ""
        if not covers(classes, cls):
            return ""
        rest = TOKEN_TEXT.sub("", text.encode("utf-8", "replace").decode()) if "<" in text else text
        if cls.startswith("secret.") and (len(rest) < SHORTEST or any(map(str.isspace, rest))):
            return ""
        return cls if any(map(str.isalnum, rest)) else ""


@functools.lru_cache(maxsize=4096)
def _plain(field: str) -> str:
    """A field's name in lower case, without what separates its words."""
    return "".join(char for char in fold(field[:128]) if char.isalnum())


TOKEN_TEXT = re2.compile(TOKEN.pattern.decode())
BUILT_IN = Detectors(RULES, FIELDS)


def known(cls: str) -> bool:
    """Whether a built-in detector finds this class or one below it."""
    return BUILT_IN.known(cls)


def context_of(field: str) -> bytes:
    """The name a text stands under in JSON, as words near it."""
    return image(field.replace("_", " "))[0] if "<" not in field else b""


@functools.lru_cache(maxsize=4096)
def _worded(field: str) -> bool:
    """Whether the name of a field says what a bare number in it may be."""
    return BARE_WORD.search(context_of(field)) is not None


def detect(
    text: str, classes: tuple[str, ...] = EVERYTHING, *, field: str = "", detectors: Detectors = BUILT_IN
) -> tuple[Span, ...]:
    """The spans of these classes, in order, none overlapping.

    Where findings overlap, one span covers them all and has the class of the strongest (then longest).
    `field` is the name the text stands under in JSON; it counts as a word nearby, and may give the whole text a class.
    """
    if field and (cls := detectors.whole(text, field, classes)):
        return (Span(0, len(text), cls),)
    if len(text) <= BARE_DIGITS and text.isdigit() and detectors.rules is RULES and not _worded(field):
        return ()
    data, places = image(text)
    if len(data) < SHORTEST or (len(data) < _SHORT and len(data.translate(None, _SIGNS)) == len(data)):
        return ()
    rules, context = detectors.ruleset(classes), context_of(field)
    if len(data) <= LIMIT and BARRIER[0] not in data:
        found, _ = rules.scan(data, 0, len(data), context, final=True)
        if places is None:
            return tuple(Span(*span) for span in found)
        return tuple(Span(places[start], places[end - 1] + 1, cls) for start, end, cls in found)
    passes = Passes(rules, 1, context)
    passes.whole(data, range(len(data)) if places is None else places, len(text))
    return tuple(Span(*span) for span in sorted(passes.found.values()) if span.cls != TOKEN.cls)


def texts(value: object) -> list[str]:
    """Every text in a JSON value: strings, member names, long numbers."""
    found: list[str] = []
    _collect(value, "", found)
    return found


def _collect(value: Any, field: str, found: list[str]) -> None:
    kind = json_type(value)
    if kind is str:
        found.append(value)
    elif kind is dict:
        for name, item in value.items():
            key = str(name)
            found.append(key)
            if type(item) is str:  # most are
                found.append(item)
            else:
                _collect(item, key, found)
    elif kind is list:
        for item in value:
            _collect(item, field, found)
    elif text := number_text(value, field, BUILT_IN):
        found.append(text)


def number_text(value: object, field: str, detectors: Detectors) -> str:
    """A number written as text if it may be personal data: long, or in a field of a class; else an empty string."""
    if not isinstance(value, _NUMBERS) or isinstance(value, bool):
        return ""
    return str(value) if abs(value) >= 1_000_000 or _plain(field) in detectors.fields else ""
