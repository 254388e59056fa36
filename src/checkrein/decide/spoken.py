"""A text that comes in pieces, read as `redact_json` reads a text that is whole: as JSON too, and in other forms.

What is JSON can only be read when it is whole: a text is held for as long as it may still become JSON, and so is one in
a field whose whole value is of a class. What would have to be held longer than `HELD` is `opaque`, and then released as
any other text: whoever gets it decides what that means.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from checkrein.decide.detect import BUILT_IN, Detectors
from checkrein.decide.disguise import OPAQUE
from checkrein.decide.redact import redact_member
from checkrein.decide.stream import PASSES, Placeholders, Stream
from checkrein.model.json import MAX_DEPTH

#: characters of a text that are held at most until it is over
HELD = 128 * 1024


class Spoken:
    """`feed` and `finish` return what may be heard.

    `past` is what was released of the text before, as in `Stream`. `as_json` is asked, once a text begins like JSON,
    whether it is to be read as JSON or like any other.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        placeholders: Placeholders,
        *,
        field: str = "",
        detectors: Detectors = BUILT_IN,
        passes: int = PASSES,
        past: str = "",
        as_json: Callable[[], bool] = lambda: True,
    ) -> None:
        self._classes = classes
        self._placeholders = placeholders
        self._field = field
        self._detectors = detectors
        self._stream = Stream(detectors, classes, placeholders, field=field, passes=passes, past=past, forms=True)
        self._named = not past and detectors.names(field, classes)
        self._as_json = as_json
        self._begun = _Begun() if not past else None
        self._held = ""

    def feed(self, text: str) -> str:
        """Take the next piece; returns what is safe to release now."""
        if not self._named and self._begun is None:
            return self._stream.feed(text)
        self._held += text
        if self._begun is not None:
            blank = self._begun.blank
            if not self._begun.feed(text) or (blank and not self._begun.blank and not self._as_json()):
                self._begun = None
        if len(self._held) > HELD and (self._named or self._begun):
            self._placeholders.counts[OPAQUE] += 1
            self._named, self._begun = False, None
        if self._named or self._begun is not None:
            return ""
        held, self._held = self._held, ""
        return self._stream.feed(held)

    def calmly(self, text: str) -> str | None:
        """`feed`, where one look tells that nothing is found; else None, and the text was not taken."""
        return None if self._named or self._begun is not None else self._stream.calmly(text)

    def finish(self) -> str:
        """The text is over; returns the rest."""
        if not self._held:
            return self._stream.finish()
        held, self._held = self._held, ""
        return redact_member(held, self._field, self._classes, self._placeholders, detectors=self._detectors)


_QUOTE = re.compile(r'["\\]')
_FIRST = "[{"
_SPACE = " \t\n\r"
_WORDS = ("true", "false", "null")
_NUMBER = frozenset("0123456789+-.eE")


class _Begun:
    """Whether what was fed may be the beginning of JSON. It says so of all strict JSON, and of a little else."""

    def __init__(self) -> None:
        self._open: list[str] = []
        #: signs and kinds of tokens that may come next: `v`alue, `n`ame
        self._next = _FIRST
        self._in_text = self._in_name = self._escaped = False
        self._word = ""

    @property
    def blank(self) -> bool:
        """Whether there was nothing but space."""
        return self._next == _FIRST

    def feed(self, text: str) -> bool:
        place = 0
        while place < len(text):
            if self._in_text:
                place = self._text(text, place)
                continue
            char = text[place]
            place += 1
            if self._word and (char.isalnum() or char in _NUMBER):
                self._word += char
                if not _is_word(self._word):
                    return False
            elif char in _SPACE:
                self._ended()
            elif not self._sign(char):
                return False
        return True

    def _text(self, text: str, place: int) -> int:
        """Go on in a text; returns where to go on after it."""
        if self._escaped:
            self._escaped = False
            return place + 1
        found = _QUOTE.search(text, place)
        if found is None:
            return len(text)
        if found.group() == "\\":
            self._escaped = True
        else:
            self._in_text = False
            self._next = ":" if self._in_name else self._after()
        return found.end()

    def _sign(self, char: str) -> bool:
        self._ended()
        if char == '"' and ("v" in self._next or "n" in self._next):
            self._in_text, self._in_name = True, "n" in self._next
        elif char in "[{" and ("v" in self._next or char in self._next):
            self._open.append("]" if char == "[" else "}")
            self._next = "v]" if char == "[" else "n}"
        elif char in "]}" and char in self._next:
            self._open.pop()
            self._next = self._after()
        elif char in ",:" and char in self._next:
            self._next = "n" if char == "," and self._open[-1] == "}" else "v"
        elif "v" in self._next and _is_word(char):
            self._word = char
        else:
            return False
        return len(self._open) <= MAX_DEPTH

    def _ended(self) -> None:
        if self._word:
            self._word, self._next = "", self._after()

    def _after(self) -> str:
        """What may follow a value."""
        return f",{self._open[-1]}" if self._open else ""


def _is_word(text: str) -> bool:
    return any(word.startswith(text) for word in _WORDS) or _NUMBER.issuperset(text)
