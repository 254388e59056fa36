"""Personal data and secrets in another form: escapes, entities, base64, hexadecimal, addresses in words.

What an escape stands for is put in its place and read again, so that a span can be cut out exactly; of base64 and
hexadecimal the whole run is cut out. Forms may stand within forms. What goes deeper than `DEPTH`, or would cost more
than `WORK` times its length to read, is not read: it is `opaque`, and no one may say that it was redacted.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence

from checkrein.decide.detect import Detectors, Span, context_of, covers
from checkrein.decide.escapes import ESCAPE, SIGNS, unescape
from checkrein.decide.fold import image
from checkrein.decide.passes import without_tokens
from checkrein.decide.patterns import PatternSet, latin
from checkrein.decide.scan import Found

#: the class of what cannot be read
OPAQUE = "opaque"
DEPTH = 4
WORK = 16
_KNOWN = 64

_HEX = re.compile(rb"[0-9A-Fa-f]+")
_URL_SAFE, _FILLING = bytes.maketrans(b"-_", b"+/"), b"\r\n="
_SIGN = rb"[A-Za-z0-9+/_\-]"
#: how a run begins
LONG = _SIGN + b"{16}"
RUN = _SIGN + rb"{16,}(?:\r?\n" + _SIGN + rb"{16,})*(?:\r?\n" + _SIGN + rb"+)?={0,2}"
_AT, _DOT = rb" ?[\[({] ?at ?[\])}] ?", rb" ?[\[({] ?(?:dot|punkt) ?[\])}] ?"
#: an address with `[at]` and `[dot]`, or in words alone
IN_WORDS = (
    rb"(?i)[a-z0-9._%+\-]+" + _AT + rb"[a-z0-9\-]+(?:(?:\.|" + _DOT + rb")[a-z0-9\-]+)+|"
    rb"\b[a-z0-9._%+\-]+ at [a-z0-9\-]+(?: dot [a-z0-9\-]+)* dot [a-z]{2,}\b"
)
_RUN, _IN_WORDS = latin(RUN), latin(IN_WORDS)
_ESCAPING = b"".join(SIGNS)


class Reading:
    """Reads what one text says in other forms."""

    def __init__(self, classes: tuple[str, ...], detectors: Detectors, field: str, size: int = 0) -> None:
        self.rules = detectors.ruleset(classes)
        self.context = context_of(field)
        self._addresses = covers(classes, "pii.email")
        self._left = WORK * size + 4096
        self.opaque = False
        #: runs that were read: in a stream the same one comes by several times
        self._known: dict[tuple[bytes, int], str] = {}

    def find(self, data: bytes, depth: int = DEPTH) -> list[Found]:
        """What is found in an image when its escapes and runs are read. What stands there plainly is left out."""
        found: list[Found] = []
        starts: Sequence[int] = range(len(data))
        stops: Sequence[int] = range(1, len(data) + 1)
        for level in range(DEPTH + 1):
            if not self.spend(len(data)):
                break
            if level:
                found += [Found(starts[s], stops[e - 1], cls) for s, e, cls in self._plain(data)]
            found += [Found(starts[s], stops[e - 1], cls) for s, e, cls in self.hidden(data, depth) if cls]
            if not _signed(data):
                break
            unescaped = unescape(data, starts, stops)
            if unescaped is None:
                break
            if level == DEPTH:
                self.opaque = True
                break
            data, starts, stops = unescaped
        return found

    def hidden(
        self, data: bytes, depth: int = DEPTH, start: int = 0, stop: int | None = None, *, goes_on: bool = False
    ) -> Iterator[Found]:
        """What begins between `start` and `stop` of addresses in words and of runs, those that hold nothing (no class)
        too; `goes_on` if more data follows.
        """
        stop = len(data) if stop is None else stop
        for match in _IN_WORDS.finditer(data, start) if self._addresses and _says_at(data) else ():
            first, last = match.span()
            if first >= stop:
                break
            yield Found(first, last, "pii.email")
        for match in _RUN.finditer(data, start):
            first, last = match.span()
            if first >= stop or (self.opaque and goes_on):
                break
            if goes_on and last == len(data):
                self.opaque = begins_a_text(data[first:last])
            else:
                yield Found(first, last, self._run(data[first:last], depth))

    def _plain(self, data: bytes) -> list[Found]:
        return self.rules.scan(data, 0, len(data), self.context, final=True)[0]

    def _run(self, run: bytes, depth: int) -> str:
        """The class of what stands in a run of base64 or hexadecimal, or an empty string."""
        known = self._known.get((run, depth))
        if known is not None:
            return known
        said, cls = _said(run), ""
        if said is not None and self.spend(len(said)):
            if depth:
                inner = image(said)[0]
                found = self._plain(inner) or self.find(inner, depth - 1)
                cls = found[0].cls if found else ""
            else:
                self.opaque = True
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[run, depth] = cls
        return cls

    def more(self, size: int) -> None:
        """The text has so many more bytes."""
        self._left += WORK * size

    def spend(self, size: int) -> bool:
        self._left -= size
        if self._left < 0:
            self.opaque = True
        return self._left >= 0


def hides(data: bytes) -> bool:
    """Whether something in an image stands there in another form."""
    return any(_CONFIRMED[index](data) for index in _SEEN.match(data))


def says(data: bytes) -> bool:
    """Whether a run in an image stands for a text."""
    return any(_said(match.group()) is not None for match in _RUN.finditer(data))


#: one pass over an image sees which other forms there may be, and these say whether there are
_SEEN = PatternSet([IN_WORDS, ESCAPE, LONG], latin=True)
_CONFIRMED: tuple[Callable[[bytes], object], ...] = (_IN_WORDS.search, lambda _: True, says)


def disguised(text: str, classes: tuple[str, ...], detectors: Detectors, field: str = "") -> tuple[list[Span], bool]:
    """The spans that stand in a text in another form, in order, none overlapping; and whether some of it is opaque."""
    if len(text) < 8:
        return [], False
    data, places = image(text)
    if len(data) < 16 and not _says_at(data) and not _signed(data):
        return [], False
    data, where, tokens = without_tokens(data, range(len(data)) if places is None else places)
    reading = Reading(classes, detectors, field, len(data))
    spans: list[Span] = []
    for start, end, cls in sorted(reading.find(data)):
        first, last = where[start], where[end - 1]
        last = tokens.get(last, last + 1)
        if spans and first < spans[-1].end:
            spans[-1] = Span(spans[-1].start, max(spans[-1].end, last), spans[-1].cls)
        else:
            spans.append(Span(first, last, cls))
    return spans, reading.opaque


def _says_at(data: bytes) -> bool:
    """Whether there is an `at`, without which no address is in words."""
    return data.lower().find(b"at") >= 0


def _signed(data: bytes) -> bool:
    """Whether there is a sign without which nothing is escaped."""
    return len(data.translate(None, _ESCAPING)) < len(data)


def _said(run: bytes) -> str | None:
    """The text that a run of base64 or hexadecimal stands for, or None for what is no text."""
    value = run.translate(_URL_SAFE, _FILLING)
    hexadecimal = len(value) % 2 == 0 and _HEX.fullmatch(value) is not None
    return (_text(bytes.fromhex(value.decode())) if hexadecimal else None) or _text(_base64(value))


def begins_a_text(run: bytes) -> bool:
    """Whether a run that goes on may stand for a text, as far as it is known."""
    value = run.translate(_URL_SAFE, _FILLING)
    hexadecimal = _HEX.fullmatch(value) is not None
    octets = [_base64(value[: len(value) // 4 * 4])]
    if hexadecimal:
        octets.append(bytes.fromhex(value[: len(value) // 2 * 2].decode()))
    # a character may be cut
    return any(_text(some[: len(some) - cut]) is not None for some in octets for cut in range(4) if len(some) > cut)


def _base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _text(octets: bytes) -> str | None:
    wide = len(octets) > 3 and not any(octets[1:16:2])
    try:
        text = octets.decode("utf-16-le" if wide else "utf-8")
    except UnicodeDecodeError:
        return None
    return text if text and all(char.isprintable() or char in "\t\r\n" for char in text[:4096]) else None
