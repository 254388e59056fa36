"""Whether nothing at all is found in a JSON value: one look at all of its texts together.

Most values hold nothing, and looking through each of their texts costs several times as much. It says yes only where
that would find nothing; where it cannot tell, it says no, and then each is looked through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from checkrein.decide.detect import SHORTEST, Detectors, number_text
from checkrein.decide.disguise import hides
from checkrein.decide.fold import image
from checkrein.decide.passes import TOKENS
from checkrein.decide.scan import BARRIER, LIMIT
from checkrein.model import BadRequest
from checkrein.model.json import json_type, loads

#: between two texts: no pattern asks for the beginning or the end of a text, and nothing that hides goes on beyond
_BETWEEN = "\n\n"
#: a text that is a JSON object or a list begins so
_JSON = frozenset("{[ \t\n\r")


def quiet(value: object, classes: tuple[str, ...], detectors: Detectors, levels: int) -> bool:
    """`levels` says how deeply JSON within texts may be nested."""
    texts: list[str] = []
    try:
        if not _take(value, classes, detectors, levels, texts):
            return False
    except RecursionError:
        return False
    texts = [text for text in texts if len(text) >= SHORTEST]
    whole = _BETWEEN.join(texts)
    if len(whole) > LIMIT < max(map(len, texts)):  # it would be looked through in pieces, where each end counts
        return False
    data = image(whole)[0]
    tokens = BARRIER[0] in data and not TOKENS.quiet(data)
    return not tokens and detectors.ruleset(classes).quiet(data) and not hides(data)


def _take(value: object, classes: tuple[str, ...], detectors: Detectors, levels: int, texts: list[str]) -> bool:
    """Take every text that would be looked through, of JSON within them too. Returns whether one look can tell."""
    begin = len(texts)
    if not _gather(value, "", classes, detectors, texts):
        return False
    inner = [value for text in texts[begin:] if text[:1] in _JSON and (value := _json(text)) is not None]
    return not inner or (levels > 0 and _take(inner, classes, detectors.inner, levels - 1, texts))


def _json(text: str) -> object:
    try:
        return loads(text)
    except BadRequest:
        return None


def _gather(value: Any, field: str, classes: tuple[str, ...], detectors: Detectors, texts: list[str]) -> bool:
    """Gather the texts of a value. Returns False where one is of a class as a whole, by its field."""
    kind = json_type(value)
    if kind is dict:
        texts += map(str, value)
        unclassed = detectors.unclassed
        for name, item in value.items():
            if type(item) is not str:
                if not _gather(item, str(name), classes, detectors, texts):
                    return False
            elif name not in unclassed and detectors.whole(item, str(name), classes):
                return False
            else:
                texts.append(item)
        return True
    if kind is list:
        texts.append(_joined(value))
        return all(_gather(item, field, classes, detectors, texts) for item in value)
    text = value if kind is str else number_text(value, field, detectors)
    texts.append(text)
    return not (text and field and detectors.whole(text, field, classes))


def _joined(items: Sequence[Any]) -> str:
    """The parts of one message are also looked through as one text."""
    if len(items) < 2:
        return ""
    parts = [item.get("text") for item in items if json_type(item) is dict]
    return "".join([text for text in parts if isinstance(text, str)])
