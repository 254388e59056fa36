"""Personal data and secrets in another form: escapes, entities, base64, hexadecimal, addresses in words.

What an escape stands for is put in its place and read again, so that a span can be cut out exactly; of base64 and
hexadecimal the whole run is cut out. Forms may stand within forms. What goes deeper than `DEPTH`, or would cost more
than `WORK` times its length to read, is not read: it is `opaque`, and no one may say that it was redacted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence

from checkrein.decide.detect import Detectors, Span, context_of, covers
from checkrein.decide.fold import image
from checkrein.decide.patterns import latin
from checkrein.decide.scan import Found

#: the class of what cannot be read
OPAQUE = "opaque"
DEPTH = 4
WORK = 16

_ESCAPE = latin(
    rb"(?:%[0-9A-Fa-f]{2})+|(?:\\+u[0-9A-Fa-f]{4})+|\\+u\{[0-9A-Fa-f]{1,6}\}|\\+U[0-9A-Fa-f]{8}|\\+x[0-9A-Fa-f]{2}|"
    rb"&#[0-9]{1,7};?|&#[xX][0-9A-Fa-f]{1,6};?|&(?:commat|period|colon|sol|lowbar|hyphen|dash|plus|num|nbsp|equals);"
)
_UNIT = latin(rb"%[0-9A-Fa-f]{2}|\\+u[0-9A-Fa-f]{4}|.")
_HEX = latin(rb"[0-9A-Fa-f]+")
_ENTITIES = {"commat": "@", "period": ".", "colon": ":", "sol": "/", "lowbar": "_", "hyphen": "-", "dash": "-"} | {
    "plus": "+",
    "num": "#",
    "nbsp": " ",
    "equals": "=",
}
_RUN = latin(rb"[A-Za-z0-9+/_\-]{16,}(?:\r?\n[A-Za-z0-9+/_\-]{16,})*(?:\r?\n[A-Za-z0-9+/_\-]+)?={0,2}")
_AT, _DOT = rb" ?[\[({] ?at ?[\])}] ?", rb" ?[\[({] ?(?:dot|punkt) ?[\])}] ?"
#: an address with `[at]` and `[dot]`, or in words alone
_IN_WORDS = latin(
    rb"(?i)[a-z0-9._%+\-]+" + _AT + rb"[a-z0-9\-]+(?:(?:\.|" + _DOT + rb")[a-z0-9\-]+)+|"
    rb"\b[a-z0-9._%+\-]+ at [a-z0-9\-]+(?: dot [a-z0-9\-]+)* dot [a-z]{2,}\b"
)
#: signs without which nothing here is in another form; a run of base64 is looked for in any text that is long enough
_SIGNS = (b"%", b"\\", b"&")

Find = Callable[[bytes], Sequence[Found]]


class Reading:
    """Reads what one text says in other forms."""

    def __init__(self, classes: tuple[str, ...], detectors: Detectors, field: str, size: int) -> None:
        self._rules = detectors.ruleset(classes)
        self._context = context_of(field)
        self._addresses = covers(classes, "pii.email")
        self._left = WORK * size + 4096
        self.opaque = False

    def find(self, data: bytes, depth: int = DEPTH) -> list[Found]:
        """What is found in an image when its escapes and runs are read. What stands there plainly is left out."""
        found: list[Found] = []
        starts: Sequence[int] = range(len(data))
        stops: Sequence[int] = range(1, len(data) + 1)
        for level in range(DEPTH + 1):
            if not self._spend(len(data)):
                break
            if level:
                found += [Found(starts[s], stops[e - 1], cls) for s, e, cls in self._plain(data)]
            hidden = (*self._in_words(data), *self._runs(data, depth))
            found += [Found(starts[s], stops[e - 1], cls) for s, e, cls in hidden]
            if not any(sign in data for sign in _SIGNS):
                break
            unescaped = _unescape(data, starts, stops)
            if unescaped is None:
                break
            if level == DEPTH:
                self.opaque = True
                break
            data, starts, stops = unescaped
        return found

    def _in_words(self, data: bytes) -> Iterator[Found]:
        if self._addresses:
            for match in _IN_WORDS.finditer(data):
                yield Found(match.start(), match.end(), "pii.email")

    def _plain(self, data: bytes) -> list[Found]:
        return self._rules.scan(data, 0, len(data), self._context, final=True)[0]

    def _runs(self, data: bytes, depth: int) -> Iterator[Found]:
        for match in _RUN.finditer(data):
            start, end = match.span()
            said = _said(data[start:end])
            if said is None or not self._spend(len(said)):
                continue
            if not depth:
                self.opaque = True
                return
            inner = image(said)[0]
            found = self._plain(inner) or self.find(inner, depth - 1)
            if found:
                yield Found(start, end, found[0].cls)

    def _spend(self, size: int) -> bool:
        self._left -= size
        if self._left < 0:
            self.opaque = True
        return self._left >= 0


def disguised(text: str, classes: tuple[str, ...], detectors: Detectors, field: str = "") -> tuple[list[Span], bool]:
    """The spans that stand in a text in another form, in order, none overlapping; and whether some of it is opaque."""
    if len(text) < 8:
        return [], False
    data, places = image(text)
    if len(data) < 16 and not any(sign in data for sign in _SIGNS):
        return [], False
    reading = Reading(classes, detectors, field, len(data))
    spans: list[Span] = []
    for start, end, cls in sorted(reading.find(data)):
        first, last = (start, end) if places is None else (places[start], places[end - 1] + 1)
        if spans and first < spans[-1].end:
            spans[-1] = Span(spans[-1].start, max(spans[-1].end, last), spans[-1].cls)
        else:
            spans.append(Span(first, last, cls))
    return spans, reading.opaque


def _unescape(
    data: bytes, starts: Sequence[int], stops: Sequence[int]
) -> tuple[bytes, Sequence[int], Sequence[int]] | None:
    """The image with what its escapes stand for, and where each byte begins and ends in the first one."""
    parts: list[bytes] = []
    first: list[int] = []
    last: list[int] = []
    done = 0
    for match in _ESCAPE.finditer(data):
        start, end = match.span()
        units = _units(data, start, end)
        if units is None:
            continue
        parts.append(data[done:start])
        first += starts[done:start]
        last += stops[done:start]
        for char, begin, stop in units:
            shown = image(char)[0]
            parts.append(shown)
            first += [starts[begin]] * len(shown)
            last += [stops[stop - 1]] * len(shown)
        done = end
    if not done:
        return None
    parts.append(data[done:])
    first += starts[done:]
    last += stops[done:]
    return b"".join(parts), first, last


def _units(data: bytes, start: int, end: int) -> list[tuple[str, int, int]] | None:
    """The characters that an escape, or a row of them, stands for, with the place of each."""
    escape = data[start:end]
    if escape.startswith(b"%"):
        octets = bytes.fromhex(escape.replace(b"%", b"").decode())
        text, size = octets.decode("utf-8", "replace"), 3
        places: list[tuple[str, int, int]] = []
        place = start
        for char in text:
            width = size * (len(char.encode("utf-8")) if char != "\ufffd" else 1)
            places.append((char, place, min(end, place + width)))
            place = min(end - 1, place + width)
        return places
    if escape.startswith(b"&"):
        name = escape.strip(b"&#;").decode()
        if name in _ENTITIES:
            return [(_ENTITIES[name], start, end)]
        code = int(name[1:], 16) if name[:1] in "xX" else int(name)
        return [(chr(code), start, end)] if 0 < code < 0x110000 else None
    row = [start + match.start() for match in _UNIT.finditer(escape) if match.group()[:1] == b"\\"]
    codes = []
    for begin, stop in zip(row, [*row[1:], end], strict=True):
        digits = _HEX.search(data[begin:stop].lstrip(b"\\")[1:])
        if digits is None:
            return None
        codes.append((int(digits.group(), 16), begin, stop))
    return _paired(codes)


def _paired(codes: list[tuple[int, int, int]]) -> list[tuple[str, int, int]] | None:
    """The characters of UTF-16 units, halves of a pair put together."""
    chars: list[tuple[str, int, int]] = []
    for code, begin, stop in codes:
        if code >= 0x110000:
            return None
        if chars and 0xDC00 <= code < 0xE000 and 0xD800 <= ord(chars[-1][0]) < 0xDC00:
            high, start, _ = chars.pop()
            chars.append((chr(0x10000 + ((ord(high) - 0xD800) << 10) + code - 0xDC00), start, stop))
        else:
            chars.append((chr(code), begin, stop))
    return chars


def _said(run: bytes) -> str | None:
    """The text that a run of base64 or hexadecimal stands for, or None for what is no text."""
    value = run.translate(bytes.maketrans(b"-_", b"+/"), b"\r\n=")
    hexadecimal = len(value) % 2 == 0 and _HEX.fullmatch(value) is not None
    return (_text(bytes.fromhex(value.decode())) if hexadecimal else None) or _text(_base64(value))


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
