"""Escapes in an image, and what they stand for: percent, `\\u0040`, `\\x40`, entities. Whole, or in pieces."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from checkrein.decide.fold import image
from checkrein.decide.partial import viable
from checkrein.decide.patterns import latin

ESCAPE = (
    rb"(?:%[0-9A-Fa-f]{2})+|(?:\\+u[0-9A-Fa-f]{4})+|\\+u\{[0-9A-Fa-f]{1,6}\}|\\+U[0-9A-Fa-f]{8}|\\+x[0-9A-Fa-f]{2}|"
    rb"&#[0-9]{1,7};?|&#[xX][0-9A-Fa-f]{1,6};?|&(?:commat|period|colon|sol|lowbar|hyphen|dash|plus|num|nbsp|equals);"
)
#: signs without which nothing is escaped
SIGNS = (b"%", b"\\", b"&")
_ESCAPE = latin(ESCAPE)
_BEGUN = viable((ESCAPE,))
_UNIT = latin(rb"%[0-9A-Fa-f]{2}|\\+u[0-9A-Fa-f]{4}|.")
_LAST_UNIT = latin(rb"\\+u([0-9A-Fa-f]{4})\z")
_HEX = latin(rb"[0-9A-Fa-f]+")
_ENTITIES = {"commat": "@", "period": ".", "colon": ":", "sol": "/", "lowbar": "_", "hyphen": "-", "dash": "-"} | {
    "plus": "+",
    "num": "#",
    "nbsp": " ",
    "equals": "=",
}
#: no character takes more octets; so many in a row of which none begins one belong to none
_OCTETS = 4
#: an escape that is not whole is held up to so many bytes
_HELD = 1024

#: a character, and where what stands for it begins and ends
Unit = tuple[str, int, int]


def escapes(data: bytes) -> bool:
    """Whether there is an escape in an image, or what may become one at its end."""
    signs = any(sign in data for sign in SIGNS)
    return signs and (_ESCAPE.search(data) is not None or bool(_BEGUN.search(data).start() < len(data)))


class Unescaper:
    """Takes an image in pieces apart: into what stands for itself and what is an escape, as soon as that is certain."""

    def __init__(self) -> None:
        #: what may become an escape, or more of one
        self.held = b""
        #: an escape that did not end was given up
        self.overlong = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, list[Unit] | None]]:
        """Parts in order: the bytes, and if they are an escape its characters, placed within them."""
        if not self.held and not any(sign in data for sign in SIGNS):
            yield data, None
            return
        data = self.held + data
        done, cut = yield from self._escapes(data, final=False)
        if cut is None:
            cut = _BEGUN.search(data, done).start()  # the empty end always fits
        if len(data) - cut > _HELD:
            self.overlong, cut = True, len(data)
        self.held = data[cut:]
        if done < cut:
            yield data[done:cut], None

    def finish(self) -> Iterator[tuple[bytes, list[Unit] | None]]:
        data, self.held = self.held, b""
        done, _ = yield from self._escapes(data, final=True)
        if done < len(data):
            yield data[done:], None

    def _escapes(
        self, data: bytes, *, final: bool
    ) -> Generator[tuple[bytes, list[Unit] | None], None, tuple[int, int | None]]:
        """Returns up to where, and where an escape begins of which more may follow, if one does."""
        done = 0
        for match in _ESCAPE.finditer(data):
            start, end = match.span()
            certain = end
            row = data[start : start + 1] == data[end : end + 1] != b"&"
            if not final and (end == len(data) or (row and _BEGUN.search(data, end).start() == end)):
                certain = start + _certain(data[start:end])
            units = _units(data, start, certain) if start < certain else None
            if units is not None:
                if done < start:
                    yield data[done:start], None
                yield data[start:certain], [(char, begin - start, stop - start) for char, begin, stop in units]
                done = certain
            if certain < end:
                return done, certain
        return done, None


def _certain(escape: bytes) -> int:
    """Up to where an escape at the end of a piece stands for the same whatever follows."""
    if escape.startswith(b"%"):
        octets = bytes.fromhex(escape.replace(b"%", b"").decode())
        for place in range(len(octets) - 1, max(len(octets) - 2 * _OCTETS, 0) - 1, -1):
            if octets[place] < 0x80:
                return 3 * (place + 1)
            if octets[place] >= 0xC0:
                return 3 * place
        return 3 * max(len(octets) - _OCTETS, 0)
    if escape.startswith(b"&"):
        return len(escape) if escape.endswith(b";") else 0
    last = _LAST_UNIT.search(escape)
    if last is not None and 0xD800 <= int(last.group(1), 16) < 0xDC00:  # the first half of a pair
        return int(last.start())
    return len(escape)


def unescape(
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


def _units(data: bytes, start: int, end: int) -> list[Unit] | None:
    """The characters that an escape, or a row of them, stands for, with the place of each."""
    escape = data[start:end]
    if escape.startswith(b"%"):
        octets = bytes.fromhex(escape.replace(b"%", b"").decode())
        places: list[Unit] = []
        for char in octets.decode("utf-8", "surrogateescape"):  # what is no UTF-8 is one character an octet
            width = 3 * len(char.encode("utf-8", "surrogateescape"))
            places.append((char, start, start + width))
            start += width
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


def _paired(codes: list[tuple[int, int, int]]) -> list[Unit] | None:
    """The characters of UTF-16 units, halves of a pair put together."""
    chars: list[Unit] = []
    for code, begin, stop in codes:
        if code >= 0x110000:
            return None
        if chars and 0xDC00 <= code < 0xE000 and 0xD800 <= ord(chars[-1][0]) < 0xDC00:
            high, start, _ = chars.pop()
            chars.append((chr(0x10000 + ((ord(high) - 0xD800) << 10) + code - 0xDC00), start, stop))
        else:
            chars.append((chr(code), begin, stop))
    return chars
