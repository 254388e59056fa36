"""Redacts JSON values: prompts, arguments, results. `stream` redacts a text.

What `redact_json` would replace is what `detect_json` counts, by the same steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from checkrein.decide.detect import BUILT_IN, EVERYTHING, Detectors, number_text, texts
from checkrein.decide.stream import Placeholders, Stream, redact_text

__all__ = ["Placeholders", "Stream", "detect_json", "redact_json", "redact_text"]


def redact_json(
    value: object, classes: tuple[str, ...], placeholders: Placeholders, *, detectors: Detectors = BUILT_IN
) -> object:
    """A JSON value with every span replaced, in strings at any depth, in member names and in long numbers.

    A number that is personal data (a card written as an integer) becomes text. What holds no span is returned
    as it is, not copied, so `redact_json(value, ...) is value` says that nothing was found.
    """
    for text, _ in texts(value):
        placeholders.reserve(text)
    return _Redaction(classes, placeholders).value(value, "", detectors)


def detect_json(
    value: object, classes: tuple[str, ...] = EVERYTHING, *, detectors: Detectors = BUILT_IN
) -> Counter[str]:
    """How many spans of each class stand in a JSON value: in every string, member name and long number."""
    placeholders = Placeholders()
    redact_json(value, classes, placeholders, detectors=detectors)
    return placeholders.counts


class _Redaction:
    """One redaction under way."""

    def __init__(self, classes: tuple[str, ...], placeholders: Placeholders) -> None:
        self._classes = classes
        self._placeholders = placeholders

    def value(self, value: object, field: str, detectors: Detectors) -> object:
        if isinstance(value, str):
            clean = self._text(value, field, detectors)
            return value if clean == value else clean
        if isinstance(value, Mapping):
            return self._members(value, detectors)
        if isinstance(value, list | tuple):
            items = [self.value(item, field, detectors) for item in value]
            return value if all(new is old for new, old in zip(items, value, strict=True)) else items
        text = number_text(value, field, detectors)
        if text and (clean := self._text(text, field, detectors)) != text:
            return clean
        return value

    def _members(self, value: Mapping[str, object], detectors: Detectors) -> object:
        members: dict[str, object] = {}
        for name, item in value.items():
            key = self._text(str(name), "", detectors)
            while key in members:  # two names became one: keep both
                key += "_"
            members[key] = self.value(item, str(name), detectors)
        same = all(
            key == name and members[key] is item for (name, item), key in zip(value.items(), members, strict=True)
        )
        return value if same else members

    def _text(self, text: str, field: str, detectors: Detectors) -> str:
        return redact_text(text, self._classes, self._placeholders, field=field, detectors=detectors)
