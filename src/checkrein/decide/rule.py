"""What a detector is: a pattern, and a check that turns a candidate of it into spans.

A pattern runs over the image of a text (`fold.image`: one byte a character). What it cannot know, a check decides:
it gets the image, a candidate's place in it and the field's name, and yields what it confirms. A check is linear in
the candidate, with a small factor: the text may be made to cost as much as it can.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec
import re2

Found = Iterable[tuple[int, int]]
Check = Callable[[bytes, int, int, bytes], Found]


class Rule(msgspec.Struct, frozen=True):
    """A pattern, and a check that turns a candidate of it into spans.

    `strength` decides between overlaps. A candidate is the whole match, or group 1, of `least` bytes at least. `short`
    candidates have a bounded length: what a check leaves of one is looked at again; none that begins within a word or
    number is confirmed. The check looks at no more than `after` bytes behind a candidate, and only at those of its
    line. Where neither the text nor the field's name has the `word`, it confirms nothing.
    """

    cls: str
    pattern: bytes
    check: Check | None = None
    strength: int = 2
    short: bool = False
    least: int = 5
    after: int = 0
    word: bytes = b""


#: how far before a candidate a word may stand that gives it its meaning, and how far after it
CONTEXT = 40
CONTEXT_AFTER = 20


def near(word: re2._Regexp, data: bytes, start: int, end: int, field: bytes = b"") -> bool:
    """Whether the word stands shortly before or after the candidate, or in the field's name."""
    before = data[max(0, start - CONTEXT) : start]
    after = data[end : end + CONTEXT_AFTER].partition(b"\n")[0]
    return word.search(b"%b\n%b\n%b" % (before, after, field)) is not None  # no word goes on beyond a line


def alone(data: bytes, start: int, end: int) -> bool:
    """Whether the candidate is not a piece of a longer word or number."""
    before = data[start - 1 : start] if start else b""
    return not (before.isalnum() or data[end : end + 1].isalnum())


_DIGITS = re.compile(rb"[0-9]+")


def groups(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """Where each group of digits stands in the candidate."""
    return [match.span() for match in _DIGITS.finditer(data, start, end)]


def mixed(data: bytes, start: int, end: int, _field: bytes = b"") -> Found:
    """A secret is not a word: it has a digit and a letter, and does not repeat itself."""
    value = data[start:end]
    if any(48 <= byte <= 57 for byte in value) and any(byte > 57 for byte in value) and len(set(value)) > 4:
        yield start, end
