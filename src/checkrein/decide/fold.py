"""Text as a matcher should see it, so that invisible and look-alike characters hide nothing.

`image` keeps places: one byte a character, with a way back to the original offsets (detection, redaction).
`fold` keeps meaning: case, width, accents, spacing, invisible characters folded away (intents, provenance).
"""

from __future__ import annotations

import unicodedata

from checkrein.model.likeness import LETTERS, is_invisible

#: any letter or number that is not ASCII, in an image (Latin-1 `e` with acute accent)
LETTER = "\xe9"
#: any other visible character that is not ASCII, in an image (Latin-1 middle dot)
MARK = "\xb7"

#: sentence ends of other scripts; full-width and ellipsis forms are already decomposed to ASCII
_SENTENCE_ENDS = frozenset("\u3002\uff61\u203d\u06d4\u061f\u0964")
_HIDDEN = bytes(code for code in range(0x20) if code not in b"\t\n\r") + b"\x7f"
_NUL = "\x00"
#: what an image shows as a backslash
BACKSLASHES = "\\\uff3c\ufe68"
_BACKSLASH = ord("\\")
_ESCAPES = ((b"\\n", b" \n"), (b"\\r", b" \r"), (b"\\t", b" \t"))
#: an attacker may send every code point there is; the tables stop growing here
_TABLE_SIZE = 20_000


class _Image(dict[int, str]):
    """Code point -> the one character that stands for it in an image; filled as text comes by."""

    def __missing__(self, code: int) -> str:
        value = _image_of(chr(code))
        if len(self) < _TABLE_SIZE:
            self[code] = value
        return value


class _Fold(dict[int, str]):
    """Code point -> its folded form, for text that is already case-folded and decomposed."""

    def __missing__(self, code: int) -> str:
        value = _fold_of(chr(code))
        if len(self) < _TABLE_SIZE:
            self[code] = value
        return value


def _image_of(char: str) -> str:
    if char in "\t\n\r":
        return char
    if is_invisible(char):
        return _NUL
    if char in LETTERS:
        return LETTERS[char]
    digit = unicodedata.digit(char, None)
    if digit is not None:
        return str(digit)
    compatible = unicodedata.normalize("NFKC", char)
    if len(compatible) == 1 and compatible.isascii():
        return compatible
    category = unicodedata.category(char)
    if category == "Pd" or char == "\u2212":
        return "-"
    if category[0] == "Z":
        return " "
    return LETTER if compatible[:1].isalnum() else MARK


def _fold_of(char: str) -> str:
    if char.isspace():
        return " "
    if char in _SENTENCE_ENDS:
        return "."
    if is_invisible(char):
        return ""
    if char.isascii() or char.isalnum():
        return char
    return "-" if unicodedata.category(char) == "Pd" else ","


_IMAGE = _Image()
_FOLD = _Fold()
#: the same for the bytes of a text that is all ASCII: what each becomes, and which become nothing
_UNSEEN = bytes(code for code in range(0x80) if not _FOLD[code])
_ASCII = bytes(ord(_FOLD[code] or " ") for code in range(0x80)).lower() + bytes(0x80)


def image(text: str) -> tuple[bytes, list[int] | None]:
    """One byte a visible character, and the original offset of each byte (None: they are the same).

    A line end written as an escape, as in JSON within a text, is a line end.
    """
    data = text.encode("ascii") if text.isascii() else text.translate(_IMAGE).encode("latin-1")
    if _BACKSLASH in data:
        for escape, seen in _ESCAPES:
            data = data.replace(escape, seen)
    seen = data.translate(None, _HIDDEN)
    if len(seen) == len(data):
        return data, None
    hidden = frozenset(_HIDDEN)
    return seen, [offset for offset, byte in enumerate(data) if byte not in hidden]


def fold(text: str) -> str:
    """Case, width, accents, invisible characters and runs of space folded away; punctuation kept as ASCII."""
    if text.isascii():
        plain = text.encode("ascii").translate(_ASCII, _UNSEEN).decode("ascii")
    else:  # decomposing can uncover capitals, and folding case can uncover what decomposes
        plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold()).translate(_FOLD)
    return " ".join(plain.split()) if "  " in plain else plain.strip(" ")


def skeleton(text: str) -> str:
    """Folded text with letters of other scripts as the ASCII letters they look like.

    For words that raise a suspicion, never for values that are trusted: two that look alike are not the same.
    """
    return fold(text if text.isascii() else text.translate(_SKELETON))


_SKELETON = {ord(other): letter for other, letter in LETTERS.items()}
