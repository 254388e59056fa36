"""RE2, as this room uses it: linear in the text, whatever the pattern and the text are."""

from __future__ import annotations

from collections.abc import Iterable

import re2

#: bytes that the automaton of a set, and of one pattern, may grow to
_SET_MEMORY = 32 << 20
_PATTERN_MEMORY = 8 << 20


class PatternSet:
    """Many patterns searched in one pass; says which of them stand in a text, not where.

    RE2 gives up when a set needs more memory than it may have, and then reports no match. The end of the text
    stands in every set and always matches, so that giving up is an error here and not "nothing found".
    """

    def __init__(self, patterns: Iterable[str | bytes], *, latin: bool = False) -> None:
        self._set = re2.Set.SearchSet(_options(_SET_MEMORY, latin=latin))
        self._count = 0
        for pattern in patterns:
            self._set.Add(pattern)
            self._count += 1
        self._set.Add(r"\z")
        self._set.Compile()

    def match(self, text: bytes) -> list[int]:
        """The indexes of the patterns that match anywhere, in order."""
        found = sorted(self._set.Match(text) or ())
        if not found or found.pop() != self._count:
            raise MemoryError("the pattern set ran out of memory")
        return found


def latin(pattern: bytes) -> re2._Regexp:
    """A pattern over an image (`fold.image`), where one byte is one character."""
    return re2.compile(pattern, _options(_PATTERN_MEMORY, latin=True))


def _options(memory: int, *, latin: bool) -> re2.Options:
    options = re2.Options()
    options.max_mem = memory
    options.log_errors = False
    if latin:
        options.encoding = re2.Options.Encoding.LATIN1
    return options
