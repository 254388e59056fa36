"""Texts for patterns: one that fits these and not those, or the certainty that there is none.

A pattern is what stands between its wildcards: `docs/*.md` is `("docs/", ".md")`; one piece has no wildcard.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence

Pieces = tuple[str, ...]

#: beyond so many states the search gives up
MAX_STATES = 20_000
#: stands for all characters that no pattern names
_FILLERS = "xyzuvwqkjXYZ0123456789"


class TooManyStates(Exception):
    """The patterns are too many or too long to tell."""


@functools.lru_cache(maxsize=10_000)
def _regex(pieces: Pieces) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)


def fits(pieces: Pieces, text: str) -> bool:
    """What `like` says."""
    return _regex(pieces).fullmatch(text) is not None


def find_text(those: Collection[Pieces], none_of: Collection[Pieces], avoid: Collection[str] = ()) -> str | None:
    """The shortest text, or a plain one, that fits `those`, fits `none_of` and is not among `avoid`.

    None is a proof that there is no such text. Raises `TooManyStates`.
    """
    for guess in _guesses(those, avoid, _filler([*those, *none_of], avoid)):
        if all(fits(p, guess) for p in those) and not any(fits(p, guess) for p in none_of) and guess not in avoid:
            return guess
    taken = [(text,) for text in avoid if all(fits(p, text) for p in those)]
    return _search(list(those), [*none_of, *taken])


def _filler(patterns: Sequence[Pieces], avoid: Collection[str]) -> str:
    used = {char for pieces in patterns for piece in pieces for char in piece}
    named = used.union(*avoid) if avoid else used
    for free in (named, used):
        for char in _FILLERS:
            if char not in free:
                return char
    return next(char for char in map(chr, range(0x100, 0x10000)) if char not in used)


def _guesses(those: Collection[Pieces], avoid: Collection[str], filler: str) -> Iterator[str]:
    """All heads at the front, all tails at the end, all that must stand somewhere in between."""
    if any(len(pieces) == 1 for pieces in those):
        yield from (pieces[0] for pieces in those if len(pieces) == 1)
        return
    head = max((pieces[0] for pieces in those), key=len, default="")
    tail = max((pieces[-1] for pieces in those), key=len, default="")
    middle = ["".join(pieces[1:-1]) for pieces in those]
    parts = [part for part in (head, *dict.fromkeys(middle), tail) if part]
    yield "".join(parts)
    for count in range(1, len(avoid) + 3):
        yield filler.join([head, *(part for part in dict.fromkeys(middle) if part), filler * count, tail])


class _Automaton:
    """A pattern read character by character. A state is a set of places, as the bits of an integer."""

    def __init__(self, pieces: Pieces) -> None:
        self.text = "".join(pieces)
        self.last = 1 << len(self.text)
        self.loops = 0
        place = 0
        for piece in pieces[:-1]:
            place += len(piece)
            self.loops |= 1 << place
        self.moves: dict[str, int] = {}
        for place, char in enumerate(self.text):
            self.moves[char] = self.moves.get(char, 0) | 1 << place

    def step(self, state: int, char: str) -> int:
        return (state & self.loops) | (state & self.moves.get(char, 0)) << 1

    def accepts(self, state: int) -> bool:
        return bool(state & self.last)


def _search(those: list[Pieces], none_of: list[Pieces]) -> str | None:
    """Breadth first through all automata at once."""
    must, must_not = [_Automaton(p) for p in those], [_Automaton(p) for p in none_of]
    machines = [*must, *must_not]
    letters = sorted({char for machine in machines for char in machine.text})
    letters.insert(0, _filler([*those, *none_of], ()))
    start = (1,) * len(machines)
    seen = {start}
    waiting = deque([(start, "")])
    while waiting:
        states, text = waiting.popleft()
        wanted = all(machine.accepts(state) for machine, state in zip(must, states, strict=False))
        refused = any(machine.accepts(state) for machine, state in zip(must_not, states[len(must) :], strict=True))
        if wanted and not refused:
            return text
        for char in letters:
            after = tuple(machine.step(state, char) for machine, state in zip(machines, states, strict=True))
            if after in seen or 0 in after[: len(must)]:
                continue
            if len(seen) >= MAX_STATES:
                raise TooManyStates
            seen.add(after)
            waiting.append((after, text + char))
    return None
