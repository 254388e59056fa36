"""Replaces personal data and secrets by placeholders that stay the same for the same value.

`<EMAIL_1>` stands for one value within one `Placeholders`, so a model can still tell two people apart. Text
that already holds such a token is left alone, and its token is never given to another value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import re2

from checkrein.decide.detect import detect, number_text, texts

_TOKEN = re2.compile(r"<[A-Z][A-Z0-9_]*_[0-9]+>")
#: taking a span out can make its neighbours readable as another span; a text that never settles is withheld
_PASSES = 8


class Placeholders:
    """Values and the tokens for them, within one request or session. Holds the values: never log it.

    `counts` says how many spans of each class were replaced.
    """

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()
        self._last: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def token(self, cls: str, value: str) -> str:
        """The token of a value; the same for the same class and exact value."""
        self.counts[cls] += 1
        known = self._tokens.get((cls, value))
        if known is not None:
            return known
        name = cls.rpartition(".")[2].upper()
        while True:
            self._last[name] += 1
            token = f"<{name}_{self._last[name]}>"
            if token not in self._taken:
                break
        self._taken.add(token)
        self._tokens[cls, value] = token
        return token

    def reserve(self, text: str) -> None:
        """Never give out a token that the text holds. Reserve every text before the first `token`."""
        if "<" in text:
            self._taken.update(match.group() for match in _TOKEN.finditer(_utf8(text)))


def redact_text(text: str, classes: tuple[str, ...], placeholders: Placeholders, *, field: str = "") -> str:
    """The text with every span of these classes replaced; `field` as in `detect`."""
    placeholders.reserve(text)
    for _ in range(_PASSES):
        spans = detect(text, classes, field=field)
        if not spans:
            return text
        parts = []
        place = 0
        for span in spans:
            parts += [text[place : span.start], placeholders.token(span.cls, text[span.start : span.end])]
            place = span.end
        text = "".join(parts) + text[place:]
    return placeholders.token("withheld", text)


def redact_json(value: object, classes: tuple[str, ...], placeholders: Placeholders) -> object:
    """A JSON value with every span replaced, in strings at any depth, in member names and in long numbers.

    A number that is personal data (a card written as an integer) becomes text. What holds no span is returned
    as it is, not copied, so `redact_json(value, ...) is value` says that nothing was found.
    """
    for text, _ in texts(value):
        placeholders.reserve(text)
    return _redact(value, "", classes, placeholders)


def _redact(value: object, field: str, classes: tuple[str, ...], placeholders: Placeholders) -> object:
    if isinstance(value, str):
        clean = redact_text(value, classes, placeholders, field=field)
        return value if clean == value else clean
    if isinstance(value, Mapping):
        members: dict[str, object] = {}
        for name, item in value.items():
            key = redact_text(str(name), classes, placeholders)
            while key in members:  # two names became one: keep both
                key += "_"
            members[key] = _redact(item, str(name), classes, placeholders)
        same = all(
            key == name and members[key] is item for (name, item), key in zip(value.items(), members, strict=True)
        )
        return value if same else members
    if isinstance(value, list | tuple):
        items = [_redact(item, field, classes, placeholders) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    text = number_text(value)
    if text and (clean := redact_text(text, classes, placeholders, field=field)) != text:
        return clean
    return value


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
