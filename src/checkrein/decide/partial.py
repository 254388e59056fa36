"""Wider patterns made from a pattern: of everything its matches can begin with, and one with fewer states.

A stream holds back its end for as long as `viable` fits it. The result may be too wide (text is held a little
longer) and is never too narrow: assertions are dropped, and a repetition of more than `_COUNTED` has no bound.
Only what the detectors' patterns use is understood: literals, classes, groups, alternatives, greedy repetitions,
`\\b`, and `(?i)` at the start.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import re2

from checkrein.decide.patterns import latin

_COUNTED = 4
#: how far a loose pattern counts: each further number doubles what an automaton of many patterns has to remember
_LOOSE = 2


class _Part(NamedTuple):
    """A pattern that matches what the part matches, and one that matches every beginning of that."""

    whole: str
    begun: str


@functools.lru_cache(maxsize=16)
def viable(patterns: tuple[bytes, ...]) -> re2._Regexp:
    """Fits the longest end of a text that a match of one of the patterns can begin with; the empty end always."""
    begun = "|".join(dict.fromkeys(_begun(pattern.decode("latin-1")) for pattern in patterns))
    return latin(f"(?:{begun})\\z".encode("latin-1"))


def loose(pattern: bytes) -> bytes:
    """Fits in every text that the pattern fits in, and in some others: it counts no further than `_LOOSE`."""
    return _read(pattern.decode("latin-1"), loose=True).whole.encode("latin-1")


def _begun(pattern: str) -> str:
    return _read(pattern).begun


def _read(pattern: str, *, loose: bool = False) -> _Part:
    reader = _Reader(pattern.removeprefix("(?i)"), loose=loose)
    part = reader.alternatives()
    if reader.rest():
        raise ValueError(f"the pattern `{pattern}` cannot be read from `{reader.rest()}` on")
    return _Part(f"(?i:{part.whole})", f"(?i:{part.begun})") if pattern.startswith("(?i)") else part


class _Reader:
    def __init__(self, pattern: str, *, loose: bool) -> None:
        self._pattern = pattern
        self._loose = loose
        self._place = 0

    def rest(self) -> str:
        return self._pattern[self._place :]

    def _takes(self, text: str) -> bool:
        if not self._pattern.startswith(text, self._place):
            return False
        self._place += len(text)
        return True

    def alternatives(self) -> _Part:
        choices = [self._sequence()]
        while self._takes("|"):
            choices.append(self._sequence())
        if len(choices) == 1:
            return choices[0]
        return _Part(_group(choice.whole for choice in choices), _group(choice.begun for choice in choices))

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self.rest() and self.rest()[0] not in "|)":
            parts.append(self._repeated(self._single()))
        begun = ""
        for part in reversed(parts):
            begun = _group((part.begun, part.whole + begun)) if begun else part.begun
        return _Part("".join(part.whole for part in parts), begun)

    def _single(self) -> _Part:
        start = self._place
        if self._takes("\\b"):
            return _Part("", "")
        if self._takes("(?:") or (not self._pattern.startswith("(?", start) and self._takes("(")):
            inner = self.alternatives()
            if not self._takes(")"):
                raise ValueError(f"the group at {start} of `{self._pattern}` has no end")
            return _Part(f"(?:{inner.whole})", inner.begun)
        if self._takes("["):
            self._takes("^")
            self._takes("]")
            while not self._takes("]"):
                self._place += 2 if self._pattern[self._place] == "\\" else 1
        elif self._pattern[start] in "(^$*+?{":
            raise ValueError(f"`{self.rest()}` in `{self._pattern}` is not understood")
        else:
            self._place += 4 if self.rest().startswith("\\x") else 2 if self._pattern[start] == "\\" else 1
        source = self._pattern[start : self._place]
        return _Part(source, f"{source}?")

    def _repeated(self, part: _Part) -> _Part:
        if self._takes("*"):
            least, most = 0, None
        elif self._takes("+"):
            least, most = 1, None
        elif self._takes("?"):
            least, most = 0, 1
        elif self._takes("{"):
            bounds, _, _ = self.rest().partition("}")
            self._place += len(bounds) + 1
            low, comma, high = bounds.partition(",")
            least = int(low)
            most = (int(high) if high else None) if comma else least
        else:
            return part
        if not part.whole:
            return part
        if self._loose and (most is None or most > _LOOSE):
            few = "*" if least == 0 else f"{{{min(least, _LOOSE)},}}"
            return _Part(part.whole + few, "")
        if most is None or most > _COUNTED:
            few = "*" if least == 0 or least > _COUNTED else f"{{{least},}}"
            return _Part(part.whole + few, f"{part.whole}*{_alone(part.begun)}")
        before = f"{part.whole}{{0,{most - 1}}}" if most > 1 else ""
        return _Part(f"{part.whole}{{{least},{most}}}", before + _alone(part.begun))


def _group(choices: Iterable[str]) -> str:
    return f"(?:{'|'.join(choices)})"


def _alone(begun: str) -> str:
    return f"(?:{begun})"
