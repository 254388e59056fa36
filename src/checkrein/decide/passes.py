"""All passes over one text: placeholders, other forms, then what stands there, again over what each finding leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from checkrein.decide import scan
from checkrein.decide.detectors import TOKEN
from checkrein.decide.scan import BARRIER, Decided, Found, Pass, Ruleset, Scanner

TOKENS = Ruleset((TOKEN,))
#: what waits for words behind it has one of these
_NUMBER = re.compile(rb"[0-9:]")


class Tokens(Scanner):
    """The pass over placeholders: most texts have none."""

    def __init__(self) -> None:
        super().__init__(TOKENS)

    def feed(self, data: bytes, places: Sequence[int]) -> Iterator[Decided]:
        if not self._places and BARRIER not in data:
            return iter((Decided(data, places, ()),))
        return super().feed(data, places)


class Waiting:
    """In the place of further passes over a text in which nothing is found yet: holds back what they might still find.

    A finding is taken out, and so brings words nearer to what stands before it. As many times as there are further
    passes, that may reveal a candidate that stands near the end, and with it one that stands before.
    """

    def __init__(self, rules: Ruleset, passes: int) -> None:
        self._rules = rules
        self._passes = passes
        self._data = b""
        self._places: list[int] = []

    @property
    def pending(self) -> int | None:
        return self._places[0] if self._places else None

    def feed(self, data: bytes, places: Sequence[int]) -> Iterator[Decided]:
        if not self._places and _NUMBER.search(data) is None:
            yield Decided(data, places, ())
            return
        self._data += data
        self._places.extend(places)
        cut = self._certain()
        if cut:
            decided = Decided(self._data[:cut], self._places[:cut], ())
            self._data = self._data[cut:]
            del self._places[:cut]
            yield decided

    def finish(self) -> Iterator[Decided]:
        yield Decided(self._data, self._places, ())
        self._data, self._places = b"", []

    def _certain(self) -> int:
        cut = len(self._data)
        candidates = [match.span() for match in self._rules.waiting.finditer(self._data)] if self._rules.waiting else []
        for _ in range(self._passes):
            near = [start for start, end in candidates if start < cut < end + self._rules.after]
            if not near:
                break
            cut = near[0]
        return cut


def without_tokens(data: bytes, places: Sequence[int]) -> tuple[bytes, Sequence[int], dict[int, int]]:
    """An image without its placeholders, and where the ones that begin in a place of the original end."""
    tokens = TOKENS.scan(data, 0, len(data), b"", final=True)[0] if BARRIER[0] in data else []
    parts: list[bytes] = []
    where: list[int] = []
    done = 0
    for start, end, _ in tokens:
        parts += (data[done:start], BARRIER)
        where += places[done : start + 1]
        done = end
    if not done:
        return data, places, {}
    ends = {places[start]: places[end - 1] + 1 for start, end, _ in tokens}
    return b"".join((*parts, data[done:])), [*where, *places[done:]], ends


class Passes:
    """Several passes over one text, each over what the one before left: what was found stands there as `BARRIER`.

    Placeholders are taken out first: what stands beside one stands beside what it replaced. `front` reads what is left
    in other ways, before all passes. Taking something out can
    make its neighbours readable as something else. What the last of several passes still finds is the end of the
    text: `closed` says where, and nothing is decided beyond.
    """

    def __init__(self, rules: Ruleset, count: int, context: bytes = b"", *front: Pass) -> None:
        tokens = Tokens()
        passes = [Scanner(rules, context, again=number > 0) for number in range(count)]
        self._own = [tokens, *passes]
        self._scanners: list[Pass] = [tokens, *front, *passes]
        self._last = self._scanners[-1] if count > 1 else None
        self._fed = 0
        #: what was found, by where it begins in the original
        self.found: dict[int, Found] = {}
        self.closed: int | None = None

    def feed(self, data: bytes, places: Sequence[int], fed: int) -> int:
        """More of the image, up to `fed` in the original; returns up to where all is certain."""
        self._fed = fed
        self._push(0, data, places)
        return self._certain()

    def finish(self) -> int:
        for level, scanner in enumerate(self._scanners):
            for decided in scanner.finish():
                self._hand_on(level, decided)
        return self._certain()

    def whole(self, data: bytes, places: Sequence[int], fed: int, hidden: tuple[Found, ...] = ()) -> int:
        """The whole text at once: the same as `feed` and `finish`, with less work. `hidden` is what `front` finds."""
        self._fed = fed
        if hidden:
            data, places = self._taken_out(None, Decided(data, places, hidden))
        if len(data) > scan.LIMIT:
            self._push(0, data, places)
            return self.finish()
        for scanner in self._own:
            decided = scanner.all(data, places)
            if decided.found:
                data, places = self._taken_out(scanner, decided)
            elif scanner is not self._own[0]:  # a pass over the same image finds the same
                break
        return self._certain()

    def _certain(self) -> int:
        if self.closed is not None:
            return self.closed
        return min((place for scanner in self._scanners if (place := scanner.pending) is not None), default=self._fed)

    def _push(self, level: int, data: bytes, places: Sequence[int]) -> None:
        if level < len(self._scanners):
            for decided in self._scanners[level].feed(data, places):
                self._hand_on(level, decided)

    def _hand_on(self, level: int, decided: Decided) -> None:
        data, places = self._taken_out(self._scanners[level], decided) if decided.found else decided[:2]
        self._push(level + 1, data, places)

    def _taken_out(self, by: Pass | None, decided: Decided) -> tuple[bytes, Sequence[int]]:
        if by is not None and by is self._last and self.closed is None:
            self.closed = decided.places[decided.found[0].start]
        data: list[bytes] = []
        places: list[int] = []
        done = 0
        for start, end, cls in decided.found:
            first, stop = decided.places[start], decided.places[end - 1] + 1
            for place in range(start, end):
                if decided.data[place] == BARRIER[0] and (inner := self.found.pop(decided.places[place], None)):
                    stop = max(stop, inner.end)
            self.found[first] = Found(first, stop, cls)
            data += (decided.data[done:start], BARRIER)
            places += decided.places[done : start + 1]
            done = end
        return b"".join((*data, decided.data[done:])), [*places, *decided.places[done:]]
