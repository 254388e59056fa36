"""Replaces personal data and secrets in a text by placeholders that stay the same for the same value.

`<EMAIL_1>` stands for one value within one `Placeholders`, so a model can still tell two people apart, and
`restore` can put the value back for whom it may be shown to. Text that already holds such a token is left alone,
and its token is never given to another value.

A `Stream` redacts text that comes in pieces. What comes out is the same however the text is cut: a whole text
(`redact_text`) is a stream of one piece.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

from checkrein.decide.calm import HELD, held
from checkrein.decide.detect import BUILT_IN, TOKEN_TEXT, Detectors, Span, context_of, detect
from checkrein.decide.detectors import ESCAPED, TOKEN, WITHHELD
from checkrein.decide.disguise import OPAQUE, Reading
from checkrein.decide.fold import BACKSLASHES, image
from checkrein.decide.forms import Forms
from checkrein.decide.passes import Passes, Waiting
from checkrein.decide.scan import Found, Pass

#: taking a span out can make its neighbours readable as another span; a text that never settles is withheld
PASSES = 4
#: what is looked at again of a text that was released, in bytes of its image
_PAST = 1024
_BACKSLASHES = tuple(BACKSLASHES)
#: so much of it is enough where one look told that nothing is found
_SEEN = 64


class Placeholders:
    """Values and the tokens for them, within one request or session. Holds the values: never log it.

    `counts` says how many spans of each class were replaced.
    """

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], str] = {}
        self._given: dict[str, tuple[str, str]] = {}
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many tokens were given."""
        return len(self._given)

    def token(self, cls: str, value: str) -> str:
        """The token of a value; the same for the same class and exact value."""
        if cls != ESCAPED:
            self.counts[cls] += 1
        known = self._tokens.get((cls, value))
        if known is not None:
            return known
        name = cls.rpartition(".")[2].upper()
        while True:
            number = self._last[name] = self._last.get(name, 0) + 1
            token = f"<{name}_{number}>"
            if token not in self._taken:
                break
        self._taken.add(token)
        self._tokens[cls, value] = token
        self._given[token] = cls, value
        return token

    def copy(self, fits: Callable[[str, str], bool] = lambda _cls, _value: True) -> Placeholders:
        """The tokens that are given until now, to restore them: those whose class and value fit."""
        other = Placeholders()
        other._given = {token: given for token, given in self._given.items() if fits(*given)}
        return other

    def classes(self) -> tuple[str, ...]:
        """The classes of the values that tokens were given to."""
        return tuple(sorted({cls for cls, _ in self._given.values()} - {WITHHELD, ESCAPED}))

    def given(self, token: str) -> tuple[str, str] | None:
        """The class and the value that a token stands for, if it was given to one."""
        return self._given.get(token)

    def reserve(self, text: str) -> None:
        """Never give out a token that the text holds. Reserve every text before the first `token`."""
        if "<" in text:
            self._taken.update(match.group() for match in TOKEN_TEXT.finditer(_utf8(text)))


class Stream:
    """Redacts a text that comes in pieces: `feed` and `finish` return what may leave.

    Held back is the end of the text as long as it may be inside a span: a word, a number with a little of what
    follows, at most `scan.LIMIT` characters. Whoever gives up in the middle drops what is held. `past` is what was
    released of the text before: it is not released again, but its last words say what follows them is.

    With `forms` what stands there in other forms is read too; where that cannot be, it counts as `opaque`. One of the
    `passes` is enough then to look at a text until something is found: what further ones might find is held back. And
    as long as one look (`calm`) tells that nothing is found, no pass reads the text; they begin with the end of it.
    """

    def __init__(
        self,
        detectors: Detectors,
        classes: tuple[str, ...],
        placeholders: Placeholders,
        *,
        field: str = "",
        passes: int = PASSES,
        past: str = "",
        forms: bool = False,
    ) -> None:
        self._rules = detectors.ruleset(classes)
        self._context = context_of(field)
        self._count = passes
        self._reading = Reading(classes, detectors, field) if forms else None
        self._opaque = False
        #: None while no pass has to read the text
        self._passes: Passes | None = None
        #: the end of what was released
        self._past = past
        self._placeholders = placeholders
        #: tokens given before mean what they meant; a text that holds one of the later ones only looks like it
        self._mine: set[str] = set()
        self._text = ""
        self._begin = 0
        self._escape = ""
        self._ended = False

    def feed(self, text: str) -> str:
        """Take the next piece; returns what is safe to release now."""
        if self._ended or not text:
            return ""
        released = self.calmly(text) if self._passes is None else None
        if released is not None:
            return released
        passes, text = self._begun(text)
        text = self._escape + text
        self._escape = text[-1:] if text.endswith(_BACKSLASHES) else ""  # the next character belongs to it
        released = self._release(passes, passes.feed(*self._image(text.removesuffix(self._escape))))
        if not (passes.found or self._escape or self._opaque or self._look("") is None):
            self._passes = None
        return released

    def calmly(self, text: str) -> str | None:
        """`feed`, where one look tells that nothing is found; else None, and the text was not taken."""
        place = self._look(text) if self._passes is None else None
        if place is None or self._reading is None or self._ended:
            return None
        self._reading.more(len(text))
        text = self._text + text
        released, self._text = text[:place], text[place:]
        self._went_on(released)
        return released

    def finish(self) -> str:
        """The text is over; returns the rest."""
        if self._ended:
            return ""
        self._ended = True
        if self._passes is None:
            return self._text
        self._passes.feed(*self._image(self._escape))
        return self._release(self._passes, self._passes.finish())

    def whole(self, text: str, spans: Sequence[Span] = ()) -> str:
        """A text of one piece: the same as `feed` and `finish`. `spans` stand there in another form."""
        passes, text = self._begun(text)
        self._ended = True
        data, where, fed = self._image(text)
        found = (Found(bisect_left(where, span.start), bisect_left(where, span.end), span.cls) for span in spans)
        return self._release(passes, passes.whole(data, where, fed, tuple(found)))

    def _look(self, text: str) -> int | None:
        """How much may be released of what is held and this, if one look tells that nothing is found in it."""
        if self._reading is None or len(self._text) > HELD:
            return None
        past = len(self._past)
        data, places = image(self._past + self._text + text)
        place = held(self._rules, data, past) if places is None else None
        return None if place is None else self._whole_escapes(self._text + text, place - past)

    @staticmethod
    def _whole_escapes(text: str, size: int) -> int:
        """So much of a text, or one character less: what follows a backslash is read together with it."""
        return size - 1 if text[:size].endswith(_BACKSLASHES) else size

    def _went_on(self, released: str) -> None:
        self._begin += len(released)
        self._past = (self._past + released)[-_SEEN:]

    def _begun(self, text: str) -> tuple[Passes, str]:
        """The passes, and what they take next."""
        if self._passes is not None:
            return self._passes, text
        count, front = self._count, list[Pass]()
        if self._reading is not None:
            looks = count == 1  # then one pass reads all: the same as several, as long as nothing is found
            forms = Forms(self._reading, plainly=looks)
            front = [forms, Waiting(self._rules, PASSES - 1)] if looks else [forms]
            count = 0 if looks else count
        self._passes = Passes(self._rules, count, self._context, *front)
        if self._past:
            before = image(self._past)[0][-_PAST:]
            self._passes.feed(before, range(self._begin - len(before), self._begin), self._begin)
        text, self._text = self._text + text, ""
        return self._passes, text

    def _image(self, text: str) -> tuple[bytes, Sequence[int], int]:
        begin = self._begin + len(self._text)
        data, places = image(text)
        self._text += text
        where = range(begin, begin + len(data)) if places is None else [begin + place for place in places]
        return data, where, begin + len(text)

    def _release(self, passes: Passes, certain: int) -> str:
        if self._reading and self._reading.opaque and not self._opaque:
            self._opaque = True
            self._placeholders.counts[OPAQUE] += 1
        found, closed = passes.found, passes.closed is not None
        parts = []
        done = 0
        for start in sorted(place for place in found if place < certain):
            span = found.pop(start)
            first, last = max(start - self._begin, 0), span.end - self._begin
            if last <= 0:  # in what was released before
                continue
            parts += [self._text[done:first], self._token(span.cls, self._text[first:last])]
            done = last
        released = max(certain - self._begin, 0)
        if not self._ended:
            released = max(self._whole_escapes(self._text, released), done)
        parts.append(self._text[done:released])
        self._went_on(self._text[:released])
        self._text = self._text[released:]
        if closed:
            parts.append(self._placeholders.token(WITHHELD, ""))
            self._ended, self._text = True, ""
        return "".join(parts)

    def _token(self, cls: str, value: str) -> str:
        if cls == TOKEN.cls:
            if value not in self._mine:
                self._placeholders.reserve(value)
                return value
            cls = ESCAPED
        given = len(self._placeholders)
        token = self._placeholders.token(cls, value)
        if len(self._placeholders) > given:
            self._mine.add(token)
        return token


def redact_text(
    text: str,
    classes: tuple[str, ...],
    placeholders: Placeholders,
    *,
    field: str = "",
    detectors: Detectors = BUILT_IN,
) -> str:
    """The text with every span of these classes replaced; `field` as in `detect`."""
    if field and (cls := detectors.whole(text, field, classes)):
        placeholders.reserve(text)
        return placeholders.token(cls, text)
    if not detect(text, classes, field=field, detectors=detectors):
        placeholders.reserve(text)
        return text
    return Stream(detectors, classes, placeholders, field=field).whole(text)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
