"""Whether nothing at all is found in a JSON value: one look at all of its texts together.

Most values hold nothing, and looking through each of their texts costs several times as much. It says yes only where
that would find nothing; where it cannot tell, it says no, and then each is looked through.
"""

from __future__ import annotations

from collections.abc import Mapping

from checkrein.decide.detect import SHORTEST, Detectors, number_text
from checkrein.decide.disguise import hides
from checkrein.decide.fold import image
from checkrein.decide.passes import TOKENS
from checkrein.decide.scan import BARRIER, LIMIT
from checkrein.model import BadRequest
from checkrein.model.json import loads

#: between two texts: no pattern asks for the beginning or the end of a text, and nothing that hides goes on beyond
_BETWEEN = "\n\n"
_JSON = ("{", "[")


def quiet(value: object, classes: tuple[str, ...], detectors: Detectors, levels: int) -> bool:
    """`levels` says how deeply JSON within texts may be nested."""
    found = _Texts(classes)
    try:
        if not found.take(value, "", detectors, levels):
            return False
    except RecursionError:
        return False
    data = image(_BETWEEN.join(found.texts))[0]
    tokens = BARRIER in data and not TOKENS.quiet(data)
    return not tokens and detectors.ruleset(classes).quiet(data) and not hides(data)


class _Texts:
    """Every text that would be looked through. `take` says whether one look can tell."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self.texts: list[str] = []

    def take(self, value: object, field: str, detectors: Detectors, levels: int) -> bool:
        if isinstance(value, str):
            return not detectors.whole(value, field, self._classes) and self._text(value, detectors, levels)
        if isinstance(value, dict | Mapping):
            for name, item in value.items():
                key = str(name)
                if not (self._text(key, detectors, levels) and self.take(item, key, detectors, levels)):
                    return False
            return True
        if isinstance(value, list | tuple):
            return self._parts(value) and all(self.take(item, field, detectors, levels) for item in value)
        number = number_text(value, field, detectors)
        return not number or self.take(number, field, detectors, levels)

    def _text(self, text: str, detectors: Detectors, levels: int) -> bool:
        if len(text) > LIMIT:  # it would be looked through in pieces, where each end counts
            return False
        if len(text) >= SHORTEST:
            self.texts.append(text)
        if (text[:1] in _JSON or text[:1].isspace()) and text.lstrip()[:1] in _JSON:
            try:
                inner = loads(text)
            except BadRequest:
                return True
            return levels > 0 and self.take(inner, "", detectors.inner, levels - 1)
        return True

    def _parts(self, items: list[object] | tuple[object, ...]) -> bool:
        """The parts of one message are also looked through as one text."""
        parts = [item.get("text") for item in items if isinstance(item, dict | Mapping)]
        texts = [text for text in parts if isinstance(text, str)]
        whole = "".join(texts) if len(texts) > 1 else ""
        self.texts.append(whole)
        return len(whole) <= LIMIT
