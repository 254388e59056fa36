"""Names as people see them: two that look alike are taken for one person wherever that keeps somebody from acting.

Never the other way round: a name that looks like another has none of its rights.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable

#: letters by category, yet nothing to see: fillers of Hangul and Braille
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
#: Default_Ignorable_Code_Point (Unicode 16) beyond the categories below: reserved, and shown as nothing all the same
_RESERVED = ((0x2065, 0x2065), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF))
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
#: letter of another script -> the one of ASCII that it looks like
LETTERS = {other: letter for letter, others in _LIKE.items() for other in others}
_TRANSLATED = {ord(other): letter for other, letter in LETTERS.items()}


def is_invisible(char: str) -> bool:
    """Whether nothing of this character is seen by itself."""
    if unicodedata.category(char) in ("Mn", "Me", "Cf", "Cc") or char in _BLANK:
        return True
    return any(first <= ord(char) <= last for first, last in _RESERVED)


@functools.lru_cache(maxsize=4096)
def likeness(name: str) -> str:
    """What a name looks like: without case, width, invisible characters and runs of space, and with letters of other
    scripts as the ones of ASCII they are shown like. Accents stay."""
    if not name.isascii():
        folded = unicodedata.normalize("NFKC", name.translate(_TRANSLATED)).translate(_TRANSLATED)
        name = "".join(char for char in unicodedata.normalize("NFKC", folded.casefold()) if not is_invisible(char))
    return " ".join(name.casefold().split())


def alike(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that look like one of the others, in their order; empty names look like nobody."""
    known = {likeness(other) for other in others} - {""}
    return tuple(name for name in names if likeness(name) in known)
