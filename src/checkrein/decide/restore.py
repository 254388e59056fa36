"""Puts values back in the place of their placeholders, for a target that may see them.

Only tokens that were given are replaced, each once: a value that looks like a token is not replaced again. What a
target may see is said by classes, as in `redact`. JSON is restored as a value, also where it stands within a text: what
is put back may hold quotes. A number that became text stays text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from checkrein.decide.detect import TOKEN_TEXT, covers, texts
from checkrein.decide.detectors import ESCAPED, TOKEN, WITHHELD
from checkrein.decide.partial import viable
from checkrein.decide.stream import Placeholders
from checkrein.model import BadRequest
from checkrein.model.json import loads

_BEGUN = viable((TOKEN.pattern,))


class Restore:
    """Restores a text that comes in pieces; a token that was cut in two is held until it is whole."""

    def __init__(self, placeholders: Placeholders, classes: tuple[str, ...]) -> None:
        self._placeholders = placeholders
        self._classes = classes
        self._held = ""
        #: how many values of each class were put back
        self.counts: Counter[str] = Counter()

    def feed(self, text: str) -> str:
        """Take the next piece; returns what is certain."""
        text = self._held + text
        cut = text.rfind("<")
        if cut < 0 or _BEGUN.fullmatch(text[cut:].encode("latin-1", "replace")) is None or text.endswith(">"):
            cut = len(text)
        self._held = text[cut:]
        if "<" in text[:cut]:
            self.counts += restorable(text[:cut], self._placeholders, self._classes)
        return restore_text(text[:cut], self._placeholders, self._classes)

    def finish(self) -> str:
        """The text is over; returns the rest."""
        held, self._held = self._held, ""
        return held


def restorable(value: object, placeholders: Placeholders, classes: tuple[str, ...]) -> Counter[str]:
    """How many values of each class `restore_json` puts back."""
    counts: Counter[str] = Counter()
    for text in texts(value):
        for match in TOKEN_TEXT.finditer(text) if "<" in text else ():
            cls, _ = placeholders.given(match.group()) or ("", "")
            counts[cls] += covers(classes, cls)
    return +counts


def restore_text(text: str, placeholders: Placeholders, classes: tuple[str, ...]) -> str:
    """The text with every token of these classes replaced by the value it was given to."""
    if "<" not in text:
        return text
    parts = []
    done = 0
    for match in TOKEN_TEXT.finditer(text):
        value = _value(match.group(), placeholders, classes)
        if value is not None:
            parts += [text[done : match.start()], value]
            done = match.end()
    return "".join((*parts, text[done:]))


def restore_json(value: object, placeholders: Placeholders, classes: tuple[str, ...]) -> object:
    """A JSON value with the tokens restored, in strings at any depth, in JSON within them, and in member names.

    Names that become equal keep both members. What holds no token is returned as it is.
    """
    if isinstance(value, str):
        restored = _restored(value, placeholders, classes) if "<" in value else value
        return value if restored == value else restored
    if isinstance(value, Mapping):
        members: dict[str, object] = {}
        for name, item in value.items():
            key = restore_text(str(name), placeholders, classes)
            while key in members:
                key += "_"
            members[key] = restore_json(item, placeholders, classes)
        return value if members == value else members
    if isinstance(value, list | tuple):
        items = [restore_json(item, placeholders, classes) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


def _restored(text: str, placeholders: Placeholders, classes: tuple[str, ...]) -> str:
    if text.lstrip()[:1] in ("{", "["):
        try:
            value = loads(text)
        except BadRequest:
            return restore_text(text, placeholders, classes)
        restored = restore_json(value, placeholders, classes)
        return text if restored is value else json.dumps(restored, ensure_ascii=False)
    return restore_text(text, placeholders, classes)


def _value(token: str, placeholders: Placeholders, classes: tuple[str, ...]) -> str | None:
    given = placeholders.given(token)
    if given is None or given[0] == WITHHELD:
        return None
    cls, value = given
    return value if cls == ESCAPED or covers(classes, cls) else None
