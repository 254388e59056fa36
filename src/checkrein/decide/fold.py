"""Text as a matcher should see it, so that invisible and look-alike characters hide nothing.

`image` keeps places: one byte a character, with a way back to the original offsets (detection, redaction).
`fold` keeps meaning: case, width, accents, spacing, invisible characters folded away (intents, provenance).
"""

from __future__ import annotations

import unicodedata

#: any letter or number that is not ASCII, in an image (Latin-1 `e` with acute accent)
LETTER = "\xe9"
#: any other visible character that is not ASCII, in an image (Latin-1 middle dot)
MARK = "\xb7"

#: letters by category, yet nothing to see: fillers of Hangul and Braille
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
#: Default_Ignorable_Code_Point (Unicode 16) beyond the categories below: reserved, and shown as nothing all the same
_RESERVED = ((0x2065, 0x2065), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF))
#: sentence ends of other scripts; full-width and ellipsis forms are already decomposed to ASCII
_SENTENCE_ENDS = frozenset("\u3002\uff61\u203d\u06d4\u061f\u0964")
_HIDDEN = bytes(code for code in range(0x20) if code not in b"\t\n\r") + b"\x7f"
_NUL = "\x00"
#: what an image shows as a backslash
BACKSLASHES = "\\\uff3c\ufe68"
_ESCAPES = ((b"\\n", b" \n"), (b"\\r", b" \r"), (b"\\t", b" \t"))
#: an attacker may send every code point there is; the tables stop growing here
_TABLE_SIZE = 20_000


#: letters of other scripts that are shown like one of ASCII (a part of Unicode's confusables)
_LIKE = {
    "a": "\u0430\u03b1\u0251\u1d00", "b": "\u0184\u042c", "c": "\u0441\u03f2\u1d04", "d": "\u0501\u217e",
    "e": "\u0435\u0454\u04bd\u1d07", "g": "\u0261\u0581", "h": "\u04bb\u0570", "i": "\u0456\u03b9\u0131",
    "j": "\u0458\u03f3", "k": "\u03ba\u043a\u1d0b", "l": "\u04cf", "m": "\u043c\u1d0d", "n": "\u0578\u057c",
    "o": "\u043e\u03bf\u0585\u1d0f", "p": "\u0440\u03c1", "q": "\u051b\u0566", "r": "\u1d26", "s": "\u0455\ua731",
    "t": "\u0442\u03c4\u1d1b", "u": "\u057d\u03c5\u1d1c", "v": "\u03bd\u0475\u1d20", "w": "\u0461\u051d\u1d21",
    "x": "\u0445\u03c7", "y": "\u0443\u03b3\u04af", "z": "\u1d22",
    "A": "\u0410\u0391", "B": "\u0412\u0392", "C": "\u0421\u03f9", "E": "\u0415\u0395", "F": "\u03dc", "G": "\u050c",
    "H": "\u041d\u0397", "I": "\u0406\u0399\u04c0", "J": "\u0408\u037f", "K": "\u041a\u039a", "M": "\u041c\u039c",
    "N": "\u039d", "O": "\u041e\u039f\u0555", "P": "\u0420\u03a1", "S": "\u0405\u054f", "T": "\u0422\u03a4",
    "V": "\u0474", "W": "\u051c", "X": "\u0425\u03a7", "Y": "\u04ae\u03a5", "Z": "\u0396",
}  # fmt: skip
_LETTERS = {other: letter for letter, others in _LIKE.items() for other in others}


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


def _invisible(char: str) -> bool:
    if unicodedata.category(char) in ("Mn", "Me", "Cf", "Cc") or char in _BLANK:
        return True
    return any(first <= ord(char) <= last for first, last in _RESERVED)


def _image_of(char: str) -> str:
    if char in "\t\n\r":
        return char
    if _invisible(char):
        return _NUL
    if char in _LETTERS:
        return _LETTERS[char]
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
    if _invisible(char):
        return ""
    if char.isascii() or char.isalnum():
        return char
    return "-" if unicodedata.category(char) == "Pd" else ","


_IMAGE = _Image()
_FOLD = _Fold()


def image(text: str) -> tuple[bytes, list[int] | None]:
    """One byte a visible character, and the original offset of each byte (None: they are the same).

    A line end written as an escape, as in JSON within a text, is a line end.
    """
    data = text.encode("ascii") if text.isascii() else text.translate(_IMAGE).encode("latin-1")
    if b"\\" in data:
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
        plain = text.lower()
    else:  # decomposing can uncover capitals, and folding case can uncover what decomposes
        plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return " ".join(plain.translate(_FOLD).split())


def skeleton(text: str) -> str:
    """Folded text with letters of other scripts as the ASCII letters they look like.

    For words that raise a suspicion, never for values that are trusted: two that look alike are not the same.
    """
    return fold(text if text.isascii() else text.translate(_SKELETON))


_SKELETON = {ord(other): letter for other, letter in _LETTERS.items()}
