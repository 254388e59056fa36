"""Redacts JSON values: prompts, arguments, results. `stream` redacts a text.

What `redact_json` would replace is what `detect_json` counts, by the same steps. Beyond what stands plainly in a text
they read JSON within a text (arguments of tool calls), other forms of it (`disguise`), and text that is cut into the
parts of one message. What is too deep to be read counts as `opaque`; then nobody may say that it was redacted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from checkrein.decide.detect import BUILT_IN, EVERYTHING, Detectors, detect, number_text, texts
from checkrein.decide.disguise import OPAQUE, disguised
from checkrein.decide.media import is_media
from checkrein.decide.quiet import quiet
from checkrein.decide.stream import Placeholders, Stream, redact_text
from checkrein.model import BadRequest
from checkrein.model.json import json_type, loads

__all__ = ["Placeholders", "Stream", "detect_json", "redact_json", "redact_text"]


#: JSON within a text, within a text ... is read so many levels deep
LEVELS = 8
_SHORT = 64


def redact_json(
    value: object, classes: tuple[str, ...], placeholders: Placeholders, *, detectors: Detectors = BUILT_IN
) -> object:
    """A JSON value with every span replaced, in strings at any depth, in member names and in long numbers.

    A number that is personal data (a card written as an integer) becomes text. What holds no span is returned
    as it is, not copied, so `redact_json(value, ...) is value` says that nothing was found.
    """
    return value if quiet(value, classes, detectors, LEVELS) else _redacted(value, classes, placeholders, detectors)


def _redacted(value: object, classes: tuple[str, ...], placeholders: Placeholders, detectors: Detectors) -> object:
    for text in texts(value):
        placeholders.reserve(text)
    return _Redaction(classes, placeholders).value(value, "", detectors, LEVELS)


def redact_member(
    text: str, field: str, classes: tuple[str, ...], placeholders: Placeholders, *, detectors: Detectors = BUILT_IN
) -> str:
    """A text as `redact_json` makes it, where it stands in a member of this name."""
    placeholders.reserve(text)
    clean = _Redaction(classes, placeholders).value(text, field, detectors, LEVELS)
    return str(clean)


def detect_json(
    value: object, classes: tuple[str, ...] = EVERYTHING, *, detectors: Detectors = BUILT_IN
) -> Counter[str]:
    """How many spans of each class stand in a JSON value: in every string, member name and long number."""
    if quiet(value, classes, detectors, LEVELS):
        return Counter()
    placeholders = Placeholders()
    _redacted(value, classes, placeholders, detectors)
    return placeholders.counts


class _Redaction:
    """One redaction under way. `levels` says how much deeper JSON within a text is read."""

    def __init__(self, classes: tuple[str, ...], placeholders: Placeholders) -> None:
        self._classes = classes
        self._placeholders = placeholders
        #: short names of members in which nothing was found
        self._clean: set[str] = set()

    def value(self, value: Any, field: str, detectors: Detectors, levels: int) -> object:
        kind = json_type(value)
        if kind is str:
            clean = self._text(value, field, detectors, levels)
            return value if clean == value else clean
        if kind is dict:
            return self._members(value, detectors, levels)
        if kind is list:
            whole = self._joined(value, detectors)
            items = [self.value(item, field, detectors, levels) for item in whole]
            return value if all(new is old for new, old in zip(items, value, strict=True)) else items
        text = number_text(value, field, detectors)
        if text and (clean := self._text(text, field, detectors, levels)) != text:
            return clean
        return value

    def _members(self, value: Mapping[str, object], detectors: Detectors, levels: int) -> object:
        members: dict[str, object] = {}
        for name, item in value.items():
            key = self._name(str(name), detectors, levels)
            while key in members:  # two names became one: keep both
                key += "_"
            members[key] = self.value(item, str(name), detectors, levels)
        same = all(
            key == name and members[key] is item for (name, item), key in zip(value.items(), members, strict=True)
        )
        return value if same else members

    def _name(self, name: str, detectors: Detectors, levels: int) -> str:
        """The name of a member; many members have the same one."""
        if name in self._clean:
            return name
        key = self._text(name, "", detectors, levels)
        if key == name and len(name) <= _SHORT:
            self._clean.add(name)
        return key

    def _text(self, text: str, field: str, detectors: Detectors, levels: int) -> str:
        if not detectors.whole(text, field, self._classes):
            if levels == LEVELS and is_media(text, field):  # within a text it would be letters that a model reads
                return text
            text = self._json(text, detectors.inner, levels)
            spans, opaque = disguised(text, self._classes, detectors, field)
            if opaque:
                self._placeholders.counts[OPAQUE] += 1
            if spans:
                return Stream(detectors, self._classes, self._placeholders, field=field).whole(text, spans)
        return redact_text(text, self._classes, self._placeholders, field=field, detectors=detectors)

    def _json(self, text: str, detectors: Detectors, levels: int) -> str:
        """Read a text that is JSON as what it stands for; it is written anew only if something was replaced."""
        if not text.lstrip().startswith(("{", "[")):
            return text
        try:
            value = loads(text)
        except BadRequest:
            return text
        try:
            clean = self.value(value, "", detectors, levels - 1) if levels else None
        except RecursionError:  # each level may be nested deeply itself
            clean = None
        if clean is None:
            self._placeholders.counts[OPAQUE] += 1
            return text
        return text if clean is value else json.dumps(clean, ensure_ascii=False)

    def _joined(self, items: Sequence[Any], detectors: Detectors) -> Sequence[object]:
        """The parts of one message without what can be read only across them: its token stands where it begins."""
        if len(items) < 2:
            return items
        parts = {
            place: str(item["text"])
            for place, item in enumerate(items)
            if json_type(item) is dict and isinstance(item.get("text"), str)
        }
        if len(parts) < 2:
            return items
        whole = "".join(parts.values())
        hidden, opaque = disguised(whole, self._classes, detectors)
        if opaque:
            self._placeholders.counts[OPAQUE] += 1
        spans = [*detect(whole, self._classes, detectors=detectors), *hidden]
        pieces = dict(parts)
        begin = len(whole)
        for place in reversed(parts):
            text = parts[place]
            begin -= len(text)
            own = detect(text, self._classes, detectors=detectors) if spans else ()
            for span in sorted(spans, reverse=True):
                first, last = max(span.start, begin) - begin, min(span.end, begin + len(text)) - begin
                if first >= last or any(known.start <= first and last <= known.end for known in own):
                    continue
                starts_here = span.start >= begin
                token = self._placeholders.token(span.cls, whole[span.start : span.end]) if starts_here else ""
                text = text[:first] + token + text[last:]
            pieces[place] = text
        if pieces == parts:
            return items
        return [{**item, "text": pieces[place]} if place in pieces else item for place, item in enumerate(items)]
